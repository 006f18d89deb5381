"""
A storage with keys, and looking at what it keeps.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

from twisted.internet import reactor

from nanomdm.crypto.secretkeys import new_key, parse_secret_keys
from nanomdm.crypto.vault import Vault
from nanomdm.errors import SecretUnreadable
from nanomdm.mdm.checkin import parse_checkin
from nanomdm.mdm.enrollment import Enrollment, EnrollmentType
from nanomdm.mdm.event import Event
from nanomdm.storage.factory import engine_of, open_prepared, prepare_storage
from nanomdm.storage.rewriting import Rewriter
from nanomdm.storage.secretrows import count_secrets
from nanomdm.storage.settings import StorageSettings
from nanomdm.storage.sql import SQLStorage
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


class SecretsCase:
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
