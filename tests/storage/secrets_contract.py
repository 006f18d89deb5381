"""
What every storage does with secrets when it has keys.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

from attrs import define
from twisted.internet import reactor
from twisted.internet.defer import gatherResults

from nanomdm.crypto.secretkeys import new_key, parse_secret_keys
from nanomdm.crypto.vault import MARKER, Vault
from nanomdm.errors import SecretUnreadable
from nanomdm.interfaces import QueuedEvent
from nanomdm.mdm.checkin import parse_checkin
from nanomdm.mdm.enrollment import Enrollment, EnrollmentType
from nanomdm.mdm.event import Event
from nanomdm.mdm.plist import parse
from nanomdm.storage import rewriting
from nanomdm.storage.engine import Trouble
from nanomdm.storage.factory import engine_of, open_prepared, prepare_storage
from nanomdm.storage.rewriting import Rewriter, count_secrets
from nanomdm.storage.settings import StorageSettings
from nanomdm.storage.sql import SQLStorage
from nanomdm.storage.tokens import BootstrapToken, store_bootstrap
from nanomdm.storage.transaction import Transaction
from tests import samples
from tests.storage.event_contract import LEASE, NOW
from tests.storage.tables import query

KEY_PEM = "-----BEGIN PRIVATE KEY-----\nPushKeyPlanted\n-----END PRIVATE KEY-----\n"
UNLOCK = b"UnlockPlanted\x00\xff"
BOOTSTRAP = b"BootstrapPlanted\xfe\x00"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\n"
CLAIM = ("one", 16, LEASE)
ONE, TWO, THREE = new_key(), new_key(), new_key()
ID_ONE, ID_TWO, ID_THREE = (parse_secret_keys(key).current.id for key in (ONE, TWO, THREE))

TABLES = (
    *("devices", "users", "enrollments", "push_certs"),
    *("nanomdm_webhook_events", "nanomdm_webhook_failed"),
)


def vault(*keys: str) -> Vault:
    """
    @param keys: the first encrypts.
    """
    return Vault(parse_secret_keys(",".join(keys)))


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


class SecretsContract:
    """
    Mixed into a test case which has C{make_settings}.
    """

    where: StorageSettings

    def make_settings(self) -> StorageSettings:
        """
        @return: an empty database.
        """
        raise NotImplementedError

    def setUp(self) -> None:
        self.where = self.make_settings()
        prepare_storage(self.where)
        self.storage = self.open(ONE)

    def open(self, *keys: str) -> SQLStorage:
        """
        @return: another server with keys, or none.
        """
        held = vault(*keys) if keys else Vault()
        storage = open_prepared(self.where, reactor, vault=held)
        self.addCleanup(storage.stop)
        return storage

    async def fill(self, storage: SQLStorage, *udids: str) -> None:
        """
        Have devices, each with all secrets, and an event that waits.
        """
        for udid in udids or ("D1",):
            message = parse_checkin(samples.authenticate(udid))
            await storage.store_authenticate(message, "PEM", lambda command: False)
            update = samples.token_update(udid, UnlockToken=UNLOCK)
            event = self.event(f"update{udid}", "mdm.TokenUpdate", udid, update)
            await storage.store_token_update(parse_checkin(update), event=event)
            token = samples.checkin("SetBootstrapToken", udid, BootstrapToken=BOOTSTRAP)
            event = self.event(f"escrow{udid}", "mdm.SetBootstrapToken", udid, token)
            await storage.store_bootstrap_token(udid, BOOTSTRAP, event=event)
        await storage.store_push_certificate("com.a", CERTIFICATE, KEY_PEM)

    def event(self, name: str, topic: str, udid: str, raw: bytes) -> Event:
        return Event(name, topic, NOW, Enrollment(udid, EnrollmentType.DEVICE), raw)

    async def told(self, storage: SQLStorage, udid: str = "D1") -> tuple[Any, ...]:
        """
        @return: all secrets of a device, and the push key.
        """
        return (
            await storage.fetch_bootstrap_token(udid),
            await storage.unlock_token(udid),
            (await storage.push_certificate("com.a")).key_pem,
        )

    async def assertWhole(self, storage: SQLStorage, udid: str = "D1") -> None:
        self.assertEqual(await self.told(storage, udid), (BOOTSTRAP, UNLOCK, KEY_PEM))

    async def assertUnreadable(self, storage: SQLStorage, reason: str) -> None:
        """
        Each secret is refused, with what it is and the same reason.
        """
        for call, what in (
            (storage.fetch_bootstrap_token("D1"), "bootstrap token of D1"),
            (storage.unlock_token("D1"), "unlock token of D1"),
            (storage.push_certificate("com.a"), "push key of com.a"),
        ):
            error = await self.assertFailure(call, SecretUnreadable)
            self.assertIn(what, str(error))
            self.assertIn(reason, str(error))

    async def stored(self) -> bytes:
        """
        @return: all that the database holds of them.
        """
        rows = [await query(self.storage, f"SELECT * FROM {table}") for table in TABLES]
        return repr(rows).encode()

    def assertNothingPlain(self, text: bytes) -> None:
        for secret in (b"Planted", b"UGxhbnRlZ", b"BsYW50ZW", b"QbGFudGVk"):
            self.assertNotIn(secret, text)

    async def change(self, statement: str, *parameters: object) -> None:
        await query(self.storage, statement, *parameters)

    def rewrite(self, *keys: str) -> Rewriter:
        """
        Do what C{nanomdmctl secrets rewrite} does.
        """
        engine = engine_of(self.where, self.where.dsn)
        with closing(engine.connect()) as connection:
            rewriter = Rewriter(engine, connection, vault(*keys), lambda seconds: None)
            rewriter.run(lambda table, rows: None)
        return rewriter

    def counts(self) -> dict[tuple[str, str], int]:
        engine = engine_of(self.where, self.where.dsn)
        with closing(engine.connect(autocommit=True)) as connection:
            return dict(count_secrets(Transaction(connection.cursor(), engine.dialect)))

    def all_under(self, key: str, devices: int = 1) -> dict[tuple[str, str], int]:
        return {
            ("push key", key): 1,
            ("bootstrap token", key): devices,
            ("unlock token", key): devices,
            ("webhook event", key): 2 * devices,
        }

    # what is stored

    async def test_nothingPlain(self) -> None:
        """
        No copy is left beside what is encrypted, and all of it is told.
        """
        await self.fill(self.storage)
        self.assertNothingPlain(await self.stored())
        await self.assertWhole(self.storage)
        self.assertEqual(self.counts(), self.all_under(ID_ONE))

    async def test_shape(self) -> None:
        """
        Columns hold what NanoMDM's own tables demand of them.
        """
        await self.fill(self.storage)
        [(key,)] = await query(self.storage, "SELECT key_pem FROM push_certs")
        self.assertTrue(key.startswith("-----BEGIN NANOMDM SECRET-----\n"), key)
        [(bootstrap, unlock, update)] = await query(
            self.storage, "SELECT bootstrap_token_b64, unlock_token, token_update FROM devices"
        )
        self.assertTrue(bootstrap.startswith(MARKER), bootstrap)
        self.assertTrue(bytes(unlock).startswith(MARKER.encode()), unlock)
        self.assertTrue(update.startswith("<?xml"), update)
        without = parse(samples.token_update())
        self.assertEqual(parse(update.encode()), without)
        # A server that knows nothing of this does not take it for a token.
        self.assertRaises(ValueError, b64decode, bootstrap)

    async def test_withoutKeys(self) -> None:
        """
        Everything is as NanoMDM has it.
        """
        await self.fill(self.open())
        [(bootstrap, unlock, update)] = await query(
            self.storage, "SELECT bootstrap_token_b64, unlock_token, token_update FROM devices"
        )
        self.assertEqual((b64decode(bootstrap), bytes(unlock)), (BOOTSTRAP, UNLOCK))
        self.assertEqual(update.encode(), samples.token_update(UnlockToken=UNLOCK))
        plain = {**self.all_under("plain"), ("unlock token in a message", "plain"): 1}
        self.assertEqual(self.counts(), plain)
        await self.assertWhole(self.storage)

    async def test_sameSecretsLookUnlike(self) -> None:
        await self.fill(self.storage, "D1", "D2")
        rows = await query(self.storage, "SELECT bootstrap_token_b64, unlock_token FROM devices")
        self.assertEqual(len({part for row in rows for part in row}), 4)

    async def test_replacedAndDeleted(self) -> None:
        await self.fill(self.storage)
        await self.storage.store_bootstrap_token("D1", b"new")
        self.assertEqual(await self.storage.fetch_bootstrap_token("D1"), b"new")
        await self.storage.store_bootstrap_token("D1", None)
        self.assertIsNone(await self.storage.fetch_bootstrap_token("D1"))
        await self.storage.store_push_certificate("com.a", CERTIFICATE, "other")
        stored = await self.storage.push_certificate("com.a")
        self.assertEqual((stored.key_pem, stored.stale_token), ("other", 1))

    async def test_empty(self) -> None:
        """
        What is not there is not made up.
        """
        await self.storage.store_authenticate(
            parse_checkin(samples.authenticate()), "PEM", lambda command: False
        )
        self.assertEqual(await self.told_of_nobody(), (None, None, None))
        self.assertEqual(self.counts(), {})

    async def told_of_nobody(self) -> tuple[Any, ...]:
        return (
            await self.storage.fetch_bootstrap_token("D1"),
            await self.storage.unlock_token("D1"),
            await self.storage.push_certificate("com.a"),
        )

    # what can not be read

    async def test_noKey(self) -> None:
        """
        Servers with no keys, or others, say which is missing, and where it should be.
        """
        await self.fill(self.storage)
        for other in (self.open(), self.open(TWO)):
            await self.assertUnreadable(other, f"with key {ID_ONE}, which is not in --secret-key-f")
        [listed] = await self.open(TWO).push_certificates()
        self.assertIn(ID_ONE, listed.key_problem)
        [listed] = await self.storage.push_certificates()
        self.assertIsNone(listed.key_problem)
        await self.assertWhole(self.storage)

    async def test_tampered(self) -> None:
        """
        Nothing that was changed is told as if it were the secret.
        """
        await self.fill(self.storage)
        [(bootstrap, key)] = await query(
            self.storage,
            "SELECT d.bootstrap_token_b64, p.key_pem FROM devices AS d CROSS JOIN push_certs AS p",
        )
        for text in (bootstrap[:-1], bootstrap + "A", f"{bootstrap[:60]}!{bootstrap[61:]}"):
            await self.change("UPDATE devices SET bootstrap_token_b64 = ?", text)
            error = await self.assertFailure(
                self.storage.fetch_bootstrap_token("D1"), SecretUnreadable
            )
            self.assertIn("bootstrap token of D1", str(error))
        await self.change("UPDATE push_certs SET key_pem = ?", key.replace("v1", "v2"))
        error = await self.assertFailure(self.storage.push_certificate("com.a"), SecretUnreadable)
        self.assertIn("in a form that is not known", str(error))

    async def test_elsewhere(self) -> None:
        """
        What was encrypted in one place is nothing in another.
        """
        await self.fill(self.storage, "D1", "D2")
        for statement in (
            "UPDATE devices SET bootstrap_token_b64 = ? WHERE id = 'D1'",
            "UPDATE devices SET unlock_token = ? WHERE id = 'D1'",
        ):
            column = statement.split()[3]
            [(other,)] = await query(self.storage, f"SELECT {column} FROM devices WHERE id = 'D2'")
            await self.change(statement, other)
        for call in (
            self.storage.fetch_bootstrap_token("D1"),
            self.storage.unlock_token("D1"),
        ):
            error = await self.assertFailure(call, SecretUnreadable)
            self.assertIn("was changed or belongs elsewhere", str(error))
        await self.assertWhole(self.storage, "D2")

    async def test_othersOfTheBatch(self) -> None:
        """
        Who asks at the same time gets what there is.
        """
        await self.fill(self.storage, "D1", "D2", "D3")
        bad = f"{MARKER}v1:{ID_TWO}:AAAA"
        await self.change("UPDATE devices SET bootstrap_token_b64 = ? WHERE id = 'D2'", bad)
        calls = [self.storage.fetch_bootstrap_token(udid) for udid in ("D1", "D2", "D3", "D4")]
        failed = self.assertFailure(calls.pop(1), SecretUnreadable)
        self.assertEqual(await gatherResults(calls), [BOOTSTRAP, BOOTSTRAP, None])
        await failed

    # events

    async def test_events(self) -> None:
        """
        They are delivered as they came, and those given up are kept as they are.
        """
        await self.fill(self.storage)
        update = samples.token_update(UnlockToken=UNLOCK)
        [event] = await self.storage.claim_events(*CLAIM)
        self.assertEqual(self.raw(event), update)
        following = await self.storage.event_failed("one", event, "why")
        token = samples.checkin("SetBootstrapToken", BootstrapToken=BOOTSTRAP)
        self.assertEqual(self.raw(following), token)
        self.assertNothingPlain(await self.stored())
        await self.storage.event_delivered("one", following)
        await self.storage.retry_events(None)
        [event] = await self.storage.claim_events(*CLAIM)
        self.assertEqual(self.raw(event), update)

    def raw(self, event: QueuedEvent) -> bytes:
        self.assertIsNone(event.unreadable)
        [details] = [v for k, v in json.loads(event.body).items() if k.endswith("_event")]
        return b64decode(details["raw_payload"])

    async def test_unreadableEvents(self) -> None:
        """
        They are not lost, and the others are delivered.
        """
        await self.fill(self.storage, "D1")
        other = self.open(TWO)
        await self.fill(other, "D2")
        found = {event.enrollment_id: event for event in await other.claim_events(*CLAIM)}
        self.raw(found["D2"])
        unreadable = found["D1"]
        self.assertIn(f"encrypted with key {ID_ONE}", unreadable.unreadable)
        self.assertNotIn(b"raw_payload", unreadable.body)
        await other.event_failed("one", unreadable, "why")
        await other.release_events("one")
        await self.storage.retry_events(None)
        found = {event.enrollment_id: event for event in await self.storage.claim_events(*CLAIM)}
        self.raw(found["D1"])

    # rewriting

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
        for name, size in (("PAGE", 5), ("BATCH", 2)):
            self.patch(rewriting, name, size)
        self.assertEqual(self.rewrite(ONE).changed, 12 + 24 + 1)
        self.assertEqual(self.counts(), self.all_under(ID_ONE, 12))
