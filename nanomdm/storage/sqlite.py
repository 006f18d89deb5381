"""
SQLite: a file, or memory.

A database file has one connection that writes and one that reads, so that idle
devices never wait for a commit; WAL lets both work at once.
"""

from __future__ import annotations

import os
import sqlite3
from functools import partial
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from nanomdm.errors import ConfigError
from nanomdm.storage.dialect import Cursor, OnConflictDialect
from nanomdm.storage.engine import Trouble
from nanomdm.storage.schema import migrate
from nanomdm.storage.schema.changes import wait_for

#: Seconds to wait for another process that has locked the file.
_BUSY_TIMEOUT: Final = 5

# Primary result codes ("Result and Error Codes" of SQLite).
_RETRY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_UNAVAILABLE: Final = frozenset(
    {
        *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM),
        *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_INTERRUPT),
        *(sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_PROTOCOL),
    }
)


class SQLiteDialect(OnConflictDialect):
    """
    L{nanomdm.storage.dialect.Dialect} of SQLite.
    """

    for_update = ""
    for_update_skip_locked = ""

    def statement(self, sql: str) -> str:
        return sql

    def age(self, column: str) -> str:
        return f"(julianday('now') - julianday({column})) * 86400.0"

    def unix_time(self, column: str) -> str:
        return f"CAST(strftime('%s', {column}) AS INTEGER)"

    # As text, this is how CURRENT_TIMESTAMP looks.
    time_ago = "datetime(strftime('%s', 'now') - ?, 'unixepoch')"

    scan = "NOT INDEXED"

    def use_index(self, name: str) -> str:
        return f"INDEXED BY {name}"

    def json_array(self, column: str) -> str:
        return f"json_group_array({column})"

    unix_now = "CAST(strftime('%s', 'now') AS INTEGER)"

    def random_below(self, count: int) -> str:
        return f"abs(random() % {count})"

    def as_python_sorts(self, column: str) -> str:
        return column

    def next_number(self, cursor: Cursor) -> int:
        cursor.execute("INSERT INTO nanomdm_sequence DEFAULT VALUES")
        cursor.execute("SELECT last_insert_rowid()")
        number: int = cursor.fetchone()[0]
        cursor.execute("DELETE FROM nanomdm_sequence WHERE value < ?", (number,))
        return number


@frozen
class SQLiteEngine:
    """
    L{nanomdm.storage.engine.Engine} of SQLite.

    @param path: a prepared file, or L{None} for a database in memory.
    """

    path: Path | None
    kind = "sqlite"
    dialect = SQLiteDialect()
    begin_write = "BEGIN IMMEDIATE"

    def connect(self, autocommit: bool = False) -> sqlite3.Connection:
        connection = _connect(self.path or ":memory:")
        connection.execute("PRAGMA foreign_keys = ON")
        # FULL: a commit survives a power cut, not only a killed process.
        connection.execute("PRAGMA synchronous = FULL")
        if self.path is None:
            migrate(connection, self.kind)
        elif autocommit:
            connection.execute("PRAGMA query_only = ON")
        return connection

    def connect_for_schema(self) -> sqlite3.Connection:
        return _connect(self.path or ":memory:")

    def ping(self, connection: Any) -> None:
        """
        A file does not go away.
        """

    def interrupt(self, connection: Any) -> None:
        connection.interrupt()

    def trouble(self, error: BaseException) -> Trouble:
        if isinstance(error, (sqlite3.DataError, OverflowError)):
            return Trouble.TOO_LARGE
        code = _primary_code(error)
        if code in _RETRY:
            return Trouble.RETRY
        if code == sqlite3.SQLITE_READONLY:
            # A file that could only be opened for reading stays so for its connection.
            return Trouble.READ_ONLY
        return Trouble.UNAVAILABLE if code in _UNAVAILABLE else Trouble.OTHER


def _primary_code(error: BaseException) -> int:
    # The other bits tell more than is needed here.
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def prepare(path: Path) -> None:
    """
    Create or upgrade a database file.  Blocks, so it belongs before the reactor
    runs.

    The file holds secrets: it is created readable by its owner alone, and SQLite
    gives its journal files the same mode.

    @raise ConfigError: the file can not be opened, or is no database of ours.
    """
    if not path.parent.is_dir():
        raise ConfigError(f"--storage-dsn: {path}: the directory {path.parent} does not exist")
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = _connect(path)
        try:
            wait_for(partial(_use_wal, connection), _BUSY_TIMEOUT)
            migrate(connection, SQLiteEngine.kind)
        finally:
            connection.close()
    except (OSError, sqlite3.Error, ConfigError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"--storage-dsn: {path}: {reason}") from None


def _use_wal(connection: sqlite3.Connection) -> bool:
    """
    @return: whether the file is in WAL mode now.  While another server writes to a file
        that is not, SQLite says at once that it is locked, whatever its timeout is: two
        of them would wait for each other.
    """
    try:
        connection.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError as error:
        if _primary_code(error) == sqlite3.SQLITE_BUSY:
            return False
        raise
    return True


def _connect(path: Path | str) -> sqlite3.Connection:
    return sqlite3.connect(
        path,
        # adbapi opens a connection in one thread and closes it in another.
        check_same_thread=False,
        isolation_level=None,
        timeout=_BUSY_TIMEOUT,
    )
