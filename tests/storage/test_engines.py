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

from nanomdm.storage.factory import open_storage
from nanomdm.storage.settings import StorageOptions, StorageSettings
from nanomdm.storage.sql import SQLStorage
from tests.servers import shared, unavailable
from tests.storage.contract import StorageContract

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
    skip = unavailable("mysql")


class PostgreSQLTests(EngineContract):
    """
    PostgreSQL.
    """

    engine, kind = "postgresql", "pgsql"
    skip = unavailable("postgresql")

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
