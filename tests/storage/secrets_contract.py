"""
What every storage does with secrets when it has keys.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections import Counter
from typing import Any

from twisted.internet.defer import gatherResults

from nanomdm.crypto.vault import MARKER
from nanomdm.errors import SecretUnreadable
from nanomdm.interfaces import QueuedEvent
from nanomdm.mdm.checkin import parse_checkin
from nanomdm.mdm.plist import parse
from nanomdm.storage import secretrows
from tests import samples
from tests.storage.secrets_case import (
    BOOTSTRAP,
    CERTIFICATE,
    CLAIM,
    ID_ONE,
    ID_TWO,
    TWO,
    UNLOCK,
    SecretsCase,
)
from tests.storage.tables import query


class SecretsContract(SecretsCase):
    """
    Storing and telling.
    """

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

    # which keys are needed

    async def encrypted(self) -> dict[str, int]:
        """
        @return: how many secrets need which key, by all pages.
        """
        keys: Counter[str] = Counter()
        page = await self.storage.encrypted(None)
        keys.update(page.keys)
        while page.cursor is not None:
            page = await self.storage.encrypted(page.cursor)
            self.assertLessEqual(sum(page.keys.values()), 4)
            keys.update(page.keys)
        return dict(keys)

    async def test_encrypted(self) -> None:
        """
        Whoever asks, in pages that end anywhere, and nothing that is not encrypted.
        """
        self.patch(secretrows, "PAGE", 2)
        self.assertEqual(await self.encrypted(), {})
        await self.fill(self.open(), "D0")
        self.assertEqual(await self.encrypted(), {})
        await self.fill(self.storage, "D1", "D2")
        self.assertEqual(await self.encrypted(), {ID_ONE: 9})
        await self.fill(self.open(TWO), "D3")
        self.assertEqual(await self.encrypted(), {ID_ONE: 8, ID_TWO: 5})
        await self.change("UPDATE push_certs SET key_pem = REPLACE(key_pem, 'v1', 'v2')")
        self.assertEqual(await self.encrypted(), {ID_ONE: 8, ID_TWO: 4, "unknown": 1})

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
