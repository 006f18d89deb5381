"""
The databases to measure on: private servers, made for the occasion and durable.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

from bench.devices import TOPIC
from nanomdm.storage.engine import Engine
from nanomdm.storage.factory import engine_of
from nanomdm.storage.settings import StorageSettings
from tests.servers import ENGINES

_NAME = "bench"


class Database:
    """
    A new database that ends with the C{with} statement that it is used in.

    @cvar kind: what C{--storage} calls it.
    @ivar dsn: where it is.
    """

    kind: ClassVar[str]
    dsn: str

    def __init__(self, directory: Path) -> None:
        self.dsn = str(directory / "bench.db")

    @classmethod
    def missing(cls) -> str | None:
        """
        Why it can not be had here.
        """
        return None

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self,
        type_: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """
        Nothing is left.
        """

    def connect(self) -> Any:
        """
        A connection behind the server's back.
        """
        return sqlite3.connect(self.dsn)

    def storage_engine(self) -> Engine:
        """
        As the server uses it.
        """
        dsn = Path(self.dsn) if self.kind == "sqlite" else self.dsn
        return engine_of(StorageSettings(kind=self.kind, dsn=dsn), dsn)

    mark = "?"

    def fill(self, ids: Sequence[str]) -> None:
        """
        Enroll devices without the protocol, which would take too long.
        """
        device = f"({self.mark}, '<?xml', CURRENT_TIMESTAMP)"
        enrollment = (
            f"({self.mark}, {self.mark}, 'Device', {self.mark}, 'magic', {self.mark},"
            " CURRENT_TIMESTAMP)"
        )
        with closing(self.connect()) as connection:
            cursor = connection.cursor()
            cursor.executemany(
                f"INSERT INTO devices (id, authenticate, authenticate_at) VALUES {device}",
                [(id,) for id in ids],
            )
            cursor.executemany(
                "INSERT INTO enrollments (id, device_id, type, topic, push_magic, token_hex,"
                f" last_seen_at) VALUES {enrollment}",
                [(id, id, TOPIC, f"{n:064x}") for n, id in enumerate(ids)],
            )
            connection.commit()


class SQLite(Database):
    """
    A file.
    """

    kind = "sqlite"


class _Served(Database):
    engine: ClassVar[str]
    mark = "%s"

    def __init__(self, directory: Path) -> None:
        self._server = ENGINES[self.engine](memory=256)

    @classmethod
    def missing(cls) -> str | None:
        return ENGINES[cls.engine].missing()

    def __enter__(self) -> Database:
        self._server.start()
        self.dsn = self._server.create_database(_NAME)
        return self

    def __exit__(self, *reason: object) -> None:
        self._server.close()

    def connect(self) -> Any:
        return self._server.python_connection(_NAME)


class PostgreSQL(_Served):
    """
    A PostgreSQL server.
    """

    engine, kind = "postgresql", "pgsql"


class MariaDB(_Served):
    """
    A MariaDB server.
    """

    engine, kind = "mariadb", "mysql"


class MySQL(_Served):
    """
    A MySQL server.
    """

    engine, kind = "mysql", "mysql"


DATABASES: dict[str, type[Database]] = {
    "sqlite": SQLite,
    "postgresql": PostgreSQL,
    "mariadb": MariaDB,
    "mysql": MySQL,
}
