"""
Databases that NanoMDM made on MySQL, where ids compare without regard to case; and
races between two servers for one id.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from nanomdm.mdm.checkin import parse_checkin
from nanomdm.mdm.command import installs_mdm_profile, parse_command, parse_report
from nanomdm.storage.factory import open_storage
from nanomdm.storage.sql import SQLStorage
from tests import samples
from tests.servers import shared, unavailable
from tests.storage import nanomdm_tables
from tests.storage.contract import HASH_A, HASH_B, PEM
from tests.storage.tables import query
from tests.storage.test_engines import EngineCase


class CollationTests(EngineCase):
    """
    On a database with NanoMDM's tables and a collation that ignores case.
    """

    def setUp(self) -> None:
        dsn = self.database()
        name = dsn.rpartition("/")[2]
        with closing(shared(self.engine).python_connection(name)) as connection:
            cursor = connection.cursor()
            cursor.execute(f"ALTER DATABASE {name} COLLATE utf8mb4_general_ci")
            for statement in nanomdm_tables.MYSQL:
                cursor.execute(statement)
            connection.commit()
        self.storage = open_storage([self.settings(dsn)], reactor)
        self.addCleanup(self.storage.stop)

    async def enroll(self, udid: str) -> None:
        message = parse_checkin(samples.authenticate(udid))
        await self.storage.store_authenticate(message, PEM, installs_mdm_profile)
        await self.storage.store_token_update(parse_checkin(samples.token_update(udid)))

    async def test_answerToARowInOtherLetters(self) -> None:
        """
        Its result is stored, and the command is not delivered again.
        """
        await self.enroll("ABC")
        await self.storage.enqueue(parse_command(samples.command("C1")), ["ABC"])
        await query(self.storage, "SET foreign_key_checks = 0")
        await query(self.storage, "UPDATE enrollment_queue SET id = 'abc'")
        self.assertEqual(await self.storage.next_command("ABC"), samples.command("C1"))
        report = parse_report(samples.report("Acknowledged", "C1", "ABC"))
        outcome = await self.storage.store_report(report)
        self.assertEqual((outcome.known, outcome.next_command), (True, None))
        self.assertIsNone(await self.storage.next_command("ABC"))

    async def test_idInOtherLetters(self) -> None:
        """
        No certificate may speak for an id that the database takes for another.
        """
        for first_only in (False, True):
            self.assertTrue((await self.storage.associate("D1", HASH_A, False, 0.0)) is not None)
            facts = await self.storage.associate("d1", HASH_B, first_only, 0.0)
            self.assertEqual((facts.inserted, facts.spelled), (False, "D1"))
        await self.enroll("ABC")
        facts = await self.storage.associate("abc", HASH_B, True, 0.0)
        self.assertEqual((facts.inserted, facts.spelled), (False, "ABC"))


class MariaDBCollationTests(CollationTests):
    """
    MariaDB.
    """

    engine, kind = "mariadb", "mysql"
    skip = unavailable("mariadb")


class MySQLCollationTests(CollationTests):
    """
    MySQL.
    """

    engine, kind = "mysql", "mysql"
    skip = unavailable("mysql")


class TwoServersTests(EngineCase):
    """
    Two storages on one database, as two servers have them.
    """

    async def associate(self, *calls: tuple[str, str, bool]) -> list[Any]:
        """
        Let two servers associate at the same moment, many times.
        """
        storages = [open_storage([self.settings()], reactor) for _ in range(2)]
        for storage in storages:
            self.addCleanup(storage.stop)
        self.empty()
        running: list[Deferred[Any]] = []
        for round in range(20):
            for storage, (device_id, sha256, first_only) in zip(storages, calls, strict=True):
                pair = f"{device_id}{round}", f"{sha256[:60]}{round:04}"
                running.append(storage.associate(*pair, first_only, 60.0))
        results = await gatherResults(running)
        self.storage: SQLStorage = storages[0]
        return results

    async def test_oneIdTwoCertificates(self) -> None:
        """
        Only the first counts where an id may take only one.
        """
        await self.associate(("D", HASH_A, True), ("D", HASH_B, True))
        rows = await query(
            self.storage, "SELECT id, count(*) FROM cert_auth_associations GROUP BY id"
        )
        self.assertEqual({count for _, count in rows}, {1})
        self.assertEqual(len(rows), 20)

    async def test_oneIdOneCertificate(self) -> None:
        """
        Being shown the same twice is no error.
        """
        results = await self.associate(("D", HASH_A, False), ("D", HASH_A, False))
        self.assertTrue(all(facts.inserted or facts.associated for facts in results))


class MariaDBTwoServersTests(TwoServersTests):
    """
    MariaDB.
    """

    engine, kind = "mariadb", "mysql"
    skip = unavailable("mariadb")


class MySQLTwoServersTests(TwoServersTests):
    """
    MySQL.
    """

    engine, kind = "mysql", "mysql"
    skip = unavailable("mysql")


class PostgreSQLTwoServersTests(TwoServersTests):
    """
    PostgreSQL.
    """

    engine, kind = "postgresql", "pgsql"
    skip = unavailable("postgresql")


del CollationTests, TwoServersTests
