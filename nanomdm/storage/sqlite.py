"""
SQLite connections: how they are opened, pooled and driven through C{adbapi}.

A database file has one connection that writes and one that reads, so that idle
devices never wait for a commit; WAL lets both work at once.  A database in
memory exists in one connection only, which then does both.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.enterprise import adbapi
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorCore
from twisted.python.failure import Failure

from nanomdm.errors import ConfigError, StorageError, StorageUnavailable, TooLarge
from nanomdm.storage.batcher import Batcher, Transaction
from nanomdm.storage.schema import migrate

#: Seconds to wait for another process that has locked the file.
_BUSY_TIMEOUT = 5


def prepare(path: Path) -> None:
    """
    Create or upgrade a database file.  Blocks, so it belongs before the reactor
    runs.

    The file holds secrets: it is created readable by its owner alone, and SQLite
    gives its journal files the same mode.

    @raise ConfigError: the file can not be opened, or is no database of ours.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = sqlite3.connect(path, isolation_level=None, timeout=_BUSY_TIMEOUT)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            migrate(connection)
        finally:
            connection.close()
    except (OSError, sqlite3.Error, ConfigError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"--storage-dsn: {path}: {reason}") from None


class SQLiteDatabase:
    """
    Runs storage operations in transactions, many at once.

    @param reactor: for C{adbapi}.
    @param path: a prepared file, or L{None} for a database in memory.
    """

    def __init__(self, reactor: IReactorCore, path: Path | None) -> None:
        self._pools: list[adbapi.ConnectionPool] = []
        if path is None:
            pool = self._pool(reactor, ":memory:", _configure_memory)
            self._writes = self._reads = Batcher(_runner(pool, "BEGIN IMMEDIATE"))
        else:
            writer = self._pool(reactor, str(path), _configure_writer)
            reader = self._pool(reactor, str(path), _configure_reader)
            self._writes = Batcher(_runner(writer, "BEGIN IMMEDIATE"))
            self._reads = Batcher(_runner(reader, "BEGIN"))
        #: Run an operation that changes something; durable once it fires.
        self.write = self._writes.call
        #: Run an operation that only looks; it sees every earlier write.
        self.read = self._reads.call

    def _pool(
        self, reactor: IReactorCore, path: str, configure: Callable[[Any], None]
    ) -> adbapi.ConnectionPool:
        pool = adbapi.ConnectionPool(
            "sqlite3",
            path,
            # The pool's one thread opens the connection, another may close it.
            check_same_thread=False,
            isolation_level=None,
            timeout=_BUSY_TIMEOUT,
            cp_min=1,
            cp_max=1,
            cp_noisy=False,
            cp_openfun=configure,
            cp_reactor=reactor,
        )
        self._pools.append(pool)
        return pool

    async def close(self) -> None:
        """
        Finish what was asked for, then close the connections; once is enough.
        """
        await self._writes.drained()
        await self._reads.drained()
        while self._pools:
            self._pools.pop().close()


def _configure_writer(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA foreign_keys = ON")
    # FULL: a commit survives a power cut, not only a killed process.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA temp_store = MEMORY")


def _configure_reader(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA query_only = ON")


def _configure_memory(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA foreign_keys = ON")
    migrate(connection)


def _runner(
    pool: adbapi.ConnectionPool, begin: str
) -> Callable[[Callable[[Transaction], Any]], Deferred[Any]]:
    def interaction(transaction: Any, work: Callable[[Transaction], Any]) -> Any:
        transaction.execute(begin)
        return work(transaction)

    def run(work: Callable[[Transaction], Any]) -> Deferred[Any]:
        running: Deferred[Any] = pool.runInteraction(interaction, work)
        return running.addErrback(_translate)

    return run


def _translate(failure: Failure) -> Failure:
    """
    Put what SQLite says into the domain's words.
    """
    error = failure.value
    if isinstance(error, (sqlite3.DataError, OverflowError)):
        raise TooLarge(f"a value does not fit into the database: {error}")
    if isinstance(error, sqlite3.OperationalError):
        raise StorageUnavailable(f"database: {error}")
    if isinstance(error, sqlite3.Error):
        raise StorageError(f"database: {error}")
    return failure
