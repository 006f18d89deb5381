"""
The storage contract on real MariaDB, MySQL and PostgreSQL servers.
"""

from __future__ import annotations

from functools import cache
from itertools import count
from typing import Any, ClassVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from nanomdm.storage import commands
from nanomdm.storage.factory import open_storage
from nanomdm.storage.settings import StorageOptions, StorageSettings
from nanomdm.storage.sql import SQLStorage
from tests.servers import shared, unavailable
from tests.storage.contract import StorageContract
from tests.storage.filling import fill_queue

_TABLES = (
    *("command_results", "enrollment_queue", "commands", "enrollments", "users", "devices"),
    *("push_certs", "cert_auth_associations", "nanomdm_cert_owners"),
)
_numbers = count()


@cache
def contract_database(engine: str) -> str:
    """
    @return: the DSN of a database that the tests of an engine empty and share,
        since making one takes long.
    """
    return shared(engine).create_database("contract")


class EngineCase(TestCase):
    """
    A test case with a database on one engine.
    """

    engine: ClassVar[str]
    kind: ClassVar[str]

    def settings(self, dsn: str | None = None, **options: Any) -> StorageSettings:
        """
        A storage on this engine, by default on the shared database.
        """
        return StorageSettings(
            kind=self.kind,
            dsn=dsn or contract_database(self.engine),
            options=StorageOptions(**options),
        )

    def database(self) -> str:
        """
        @return: the DSN of a new database.
        """
        server, name = shared(self.engine), f"test_{next(_numbers)}"
        self.addCleanup(server.drop_database, name)
        return server.create_database(name)

    def empty(self) -> None:
        """
        Empty the shared database.
        """
        connection = shared(self.engine).python_connection("contract")
        with connection.cursor() as cursor:
            for table in _TABLES:
                cursor.execute(f"DELETE FROM {table}")
        connection.commit()
        connection.close()


class EngineContract(StorageContract, EngineCase):
    """
    The contract on the shared database.
    """

    def open(self) -> SQLStorage:
        storage = open_storage([self.settings()], reactor)
        self.empty()
        return storage

    explain = "EXPLAIN"

    async def test_nextCommandUsesTheIndex(self) -> None:
        """
        One index answers the look for the next command, without the table and
        without sorting, once there are enough rows to matter.
        """
        connection = shared(self.engine).python_connection("contract")
        self.addCleanup(connection.close)
        fill_queue(connection, self.kind, devices=20, answered=100, outstanding=20)
        hint = self.storage._database._engine.dialect.use_index("nanomdm_queue_next")
        statement = commands.NEXT_COMMANDS.format(index=hint, values="?, ?")
        plan = await self.query(f"{self.explain} {statement}", "Q1", "Q2")
        text = "\n".join(" ".join(map(str, row)) for row in plan)
        self.assertPlan(text)
        self.assertEqual(await self.storage.next_command("Q1"), b"<?xml outstanding")

    def assertPlan(self, plan: str) -> None:
        """
        MySQL's and MariaDB's words.
        """
        [line] = [line for line in plan.splitlines() if "nanomdm_queue_next" in line]
        self.assertRegex(line, r"\bq\b.*\bref\b.* nanomdm_queue_next .*Using index")
        self.assertNotIn("filesort", line)


class MariaDBTests(EngineContract):
    """
    MariaDB.
    """

    engine, kind = "mariadb", "mysql"
    skip = unavailable("mariadb")


class MySQLTests(EngineContract):
    """
    MySQL.
    """

    engine, kind = "mysql", "mysql"
    explain = "EXPLAIN FORMAT=TRADITIONAL"
    skip = unavailable("mysql")


class PostgreSQLTests(EngineContract):
    """
    PostgreSQL.
    """

    engine, kind = "postgresql", "pgsql"
    skip = unavailable("postgresql")

    def assertPlan(self, plan: str) -> None:
        self.assertIn("Index Only Scan using nanomdm_queue_next on enrollment_queue q", plan)
        self.assertNotIn("Sort", plan)

    def backdate(self, when: str, sha256: str) -> Deferred[int]:
        """
        The trigger would set the present time.
        """
        switch = "ALTER TABLE cert_auth_associations {} TRIGGER USER"
        self.query(switch.format("DISABLE"))
        changed = super().backdate(when, sha256)
        self.query(switch.format("ENABLE"))
        return changed


del EngineContract
