"""
Tests for read replicas: nothing that decides may come from a database that lags.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

from twisted.internet import reactor

from nanomdm.errors import StorageUnavailable
from nanomdm.interfaces import QueueSummary
from nanomdm.mdm.checkin import parse_checkin
from nanomdm.mdm.command import parse_command, parse_report
from nanomdm.storage.copying import TABLES, Side, copy_table
from nanomdm.storage.factory import engine_of, open_storage, prepare_storage
from nanomdm.storage.sql import SQLStorage
from tests import samples
from tests.servers import base, unavailable
from tests.storage.contract import HASH_A, HASH_B
from tests.storage.test_engines import EngineCase


class ReplicaTests(EngineCase):
    """
    A storage whose replica is a copy that was made some time ago.
    """

    def open(self, **options: Any) -> SQLStorage:
        storage = open_storage([self.settings(**options)], reactor)
        storage.start()
        self.addCleanup(storage.stop)
        return storage

    async def fill(self) -> None:
        """
        A device with two commands, a certificate and a bootstrap token.
        """
        storage = self.open()
        self.empty()
        message = parse_checkin(samples.authenticate())
        await storage.store_authenticate(message, "PEM", lambda command: False)
        await storage.store_token_update(parse_checkin(samples.token_update()))
        for uuid in ("C1", "C2"):
            await storage.enqueue(parse_command(samples.command(uuid)), ["D1"])
        await storage.associate("D1", HASH_A, False, 60.0, None)
        await storage.store_bootstrap_token("D1", b"old")

    def copy(self) -> str:
        """
        @return: the DSN of a copy of the database as it is now.
        """
        source, target = self.settings(), self.settings(self.database())
        prepare_storage(target)
        sides = []
        for settings in (source, target):
            engine = engine_of(settings, settings.dsn)
            connection = self.enterContext(closing(engine.connect()))
            sides.append(Side(engine, connection))
        for table in TABLES:
            list(copy_table(*sides, table))
        return str(target.dsn)

    def report(self, uuid: str) -> Any:
        return self.storage.store_report(parse_report(samples.report("Acknowledged", uuid)))

    async def test_behind(self) -> None:
        """
        A device never gets a command again that it has answered, and its
        certificates and tokens are those of now; the replica is looked at for
        information only.
        """
        await self.fill()
        storage = self.storage = self.open(replica_dsn=self.copy())
        outcome = await self.report("C1")
        self.assertEqual(samples.uuid_of(outcome.next_command), "C2")
        await storage.associate("D1", HASH_B, False, 60.0, None)
        await storage.store_bootstrap_token("D1", b"new")
        for _ in range(3):
            self.assertEqual(samples.uuid_of(await storage.next_command("D1")), "C2")
            self.assertTrue((await storage.association("D1", HASH_B)).associated)
            facts = await storage.association("D1", HASH_A)
            self.assertIsNotNone(facts.superseded_for)
            self.assertEqual(await storage.fetch_bootstrap_token("D1"), b"new")
        facts = await storage.associate("D2", HASH_B, True, 60.0, None)
        self.assertEqual(facts.taken_by, "D1")
        self.assertIsNone((await self.report("C2")).next_command)
        self.assertIsNone(await storage.next_command("D1"))
        self.assertEqual(await storage.queue_summary(), QueueSummary(2, 1, 1))

    async def test_away(self) -> None:
        """
        A replica that can not be reached keeps nobody from anything else.
        """
        await self.fill()
        dsn = f"{self.scheme}://nobody@127.0.0.1:{base.free_port()}/nothing"
        storage = self.storage = self.open(replica_dsn=dsn)
        await self.assertFailure(storage.queue_summary(), StorageUnavailable)
        self.assertIsNotNone((await self.report("C1")).next_command)
        self.assertEqual(samples.uuid_of(await storage.next_command("D1")), "C2")
        await storage._upkeep.tidy()


class MariaDBTests(ReplicaTests):
    """
    MariaDB.
    """

    engine, kind, scheme = "mariadb", "mysql", "mysql"
    skip = unavailable("mariadb")


class PostgreSQLTests(ReplicaTests):
    """
    PostgreSQL.
    """

    engine, kind, scheme = "postgresql", "pgsql", "postgres"
    skip = unavailable("postgresql")


del ReplicaTests
