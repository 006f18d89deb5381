"""
Bringing what is stored to another key, on every storage.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

from attrs import define

from nanomdm.crypto.vault import MARKER
from nanomdm.mdm.plist import parse
from nanomdm.storage import rewriting, secretrows
from nanomdm.storage.engine import Trouble
from nanomdm.storage.factory import engine_of
from nanomdm.storage.rewriting import Rewriter
from nanomdm.storage.tokens import BootstrapToken, store_bootstrap
from nanomdm.storage.transaction import Transaction
from tests import samples
from tests.storage.secrets_case import (
    BOOTSTRAP,
    CLAIM,
    ID_ONE,
    ID_TWO,
    ONE,
    THREE,
    TWO,
    UNLOCK,
    SecretsCase,
    vault,
)
from tests.storage.tables import query


class Deadlock(Exception):
    """
    Stands for what a driver raises.
    """


class Undone:
    """
    An engine that takes L{Deadlock} for a deadlock.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def trouble(self, error: BaseException) -> Trouble:
        return Trouble.RETRY if isinstance(error, Deadlock) else self._engine.trouble(error)


@define
class Interrupted(Rewriter):
    """
    Something happens between a look and the change.

    @ivar between: that, each time.
    @ivar failures: how many changes are undone in the middle.
    """

    between: Callable[[], None] = lambda: None
    failures: int = 0

    def _attempt(self, table: Any, keys: Any, problems: list[str]) -> int:
        self.between()
        return Rewriter._attempt(self, table, keys, problems)

    def _changes(self, seen: Any, problems: list[str]) -> dict[str, Any]:
        if self.failures:
            self.failures -= 1
            raise Deadlock
        return Rewriter._changes(self, seen, problems)


class RewritingContract(SecretsCase):
    """
    L{Rewriter}.
    """

    async def test_switchedOn(self) -> None:
        """
        What was there before is encrypted, and its copies are gone.
        """
        plain = self.open()
        await self.fill(plain, "D1", "D2")
        [event, _] = await plain.claim_events(*CLAIM)
        await plain.event_failed("one", event, "why")
        rewriter = self.rewrite(ONE)
        self.assertEqual((rewriter.changed, rewriter.problems), (7, []))
        self.assertNothingPlain(await self.stored())
        self.assertEqual(self.counts(), self.all_under(ID_ONE, 2))
        await self.assertWhole(self.storage, "D2")
        [(update,)] = await query(self.storage, "SELECT token_update FROM devices WHERE id = 'D1'")
        self.assertEqual(parse(update.encode()), parse(samples.token_update()))
        [stale] = await query(self.storage, "SELECT stale_token FROM push_certs")
        self.assertEqual(stale, (0,))

    async def test_rotated(self) -> None:
        """
        The old key is not needed any more, and nothing is done twice.
        """
        await self.fill(self.storage, "D1", "D2")
        before = await self.stored()
        self.assertEqual(self.rewrite(TWO, ONE).changed, 7)
        self.assertEqual(self.counts(), self.all_under(ID_TWO, 2))
        await self.assertWhole(self.open(TWO), "D2")
        await self.assertUnreadable(self.storage, f"key {ID_TWO}")
        self.assertNotEqual(await self.stored(), before)
        after = await self.stored()
        self.assertEqual(self.rewrite(TWO, ONE).changed, 0)
        self.assertEqual(await self.stored(), after)

    async def test_backToPlain(self) -> None:
        """
        A server without keys has everything, and the message has its token again.
        """
        await self.fill(self.storage)
        self.assertEqual(self.rewrite("plain", ONE).problems, [])
        self.assertNotIn(MARKER.encode(), await self.stored())
        await self.assertWhole(self.open())
        [(update,)] = await query(self.storage, "SELECT token_update FROM devices")
        self.assertEqual(parse(update.encode()), parse(samples.token_update(UnlockToken=UNLOCK)))
        self.assertEqual(self.rewrite("plain", ONE).changed, 0)

    async def test_unknownKeysStay(self) -> None:
        """
        What can not be decrypted is told, and left for who has the key.
        """
        await self.fill(self.storage, "D1")
        await self.fill(self.open(TWO), "D2")
        rewriter = self.rewrite(THREE, TWO)
        self.assertEqual(rewriter.changed, 4)
        self.assertEqual(
            {problem.partition(" is ")[0] for problem in rewriter.problems},
            {
                *("the bootstrap token of D1", "the unlock token of D1"),
                "the webhook event of D1",
            },
        )
        await self.assertWhole(self.open(ONE, THREE), "D1")

    async def test_rowOfTwoKeys(self) -> None:
        """
        What can not be decrypted is told once, and does not keep the rest of its row.
        """
        await self.fill(self.storage, "D1")
        await self.open(TWO).store_bootstrap_token("D1", BOOTSTRAP)
        rewriter = self.rewrite(THREE, ONE)
        told = [problem.partition(" is ")[0] for problem in rewriter.problems]
        self.assertEqual(told, ["the bootstrap token of D1"])
        self.assertEqual(await self.open(THREE).unlock_token("D1"), UNLOCK)

    async def test_lostColumn(self) -> None:
        """
        A token that is in the message alone goes to its column.
        """
        await self.fill(self.open())
        await self.change("UPDATE devices SET unlock_token = NULL")
        self.rewrite(ONE)
        self.assertNothingPlain(await self.stored())
        await self.assertWhole(self.storage)

    async def test_noPropertyList(self) -> None:
        """
        A message that can not be read stays, and is told of.
        """
        await self.fill(self.open())
        await self.change("UPDATE devices SET token_update = ?", "<?xml UnlockToken")
        [problem] = self.rewrite(ONE).problems
        self.assertIn("the TokenUpdate of D1 is left as it is", problem)
        await self.assertWhole(self.storage)

    async def test_newerValues(self) -> None:
        """
        What comes between the look and the change stays.
        """
        await self.fill(self.open(), "D1", "D2")
        engine = engine_of(self.where, self.where.dsn)
        with closing(engine.connect()) as connection:
            rewriter = Interrupted(engine, connection, vault(TWO, ONE))
            rewriter.between = partial(self.escrow_new, engine)
            rewriter.run(lambda table, rows: None)
        storage = self.open(TWO)
        self.assertEqual(await storage.fetch_bootstrap_token("D1"), b"newer")
        self.assertEqual(await storage.fetch_bootstrap_token("D2"), BOOTSTRAP)

    def escrow_new(self, engine: Any) -> None:
        with closing(engine.connect()) as connection:
            transaction = Transaction(connection.cursor(), engine.dialect, vault(TWO))
            [error] = store_bootstrap(transaction, [BootstrapToken("D1", b"newer")])
            self.assertIsNone(error)
            connection.commit()

    async def test_inTheWayOfOthers(self) -> None:
        """
        A transaction that the database undoes is done again, a few times.
        """
        await self.fill(self.open())
        engine = engine_of(self.where, self.where.dsn)
        slept: list[float] = []
        with closing(engine.connect()) as connection:
            rewriter = Interrupted(Undone(engine), connection, vault(ONE), slept.append)
            rewriter.failures = 3
            rewriter.run(lambda table, rows: None)
            self.assertEqual(len(slept), 3)
            rewriter.vault, rewriter.failures = vault(TWO, ONE), 100
            self.assertRaises(Deadlock, rewriter.run, lambda table, rows: None)
            self.assertEqual(len(slept), 3 + 7)
        await self.assertWhole(self.storage)

    async def test_manyPages(self) -> None:
        """
        Nothing is left out where pages and transactions end.
        """
        udids = [f"D{number:02}" for number in range(12)]
        await self.fill(self.open(), *udids)
        self.patch(secretrows, "PAGE", 5)
        self.patch(rewriting, "BATCH", 2)
        self.assertEqual(self.rewrite(ONE).changed, 12 + 24 + 1)
        self.assertEqual(self.counts(), self.all_under(ID_ONE, 12))
