"""
Connections in an C{adbapi} pool that are replaced before, or at the latest when,
they turn out to be stale.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from attrs import define
from twisted.enterprise import adbapi
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorCore

from nanomdm.storage.engine import Engine, PoolLimits, Trouble
from nanomdm.storage.transaction import Cursor, Transaction

R = TypeVar("R")

#: Seconds unused after which a connection is tried before it is used.
_PING_AFTER: Final = 5.0

#: Seconds for which a database that could not be reached is not tried again, so
#: that a queue of requests fails at once and not one timeout after the other.
_RETRY_CONNECT: Final = 0.5


class CommitLost(Exception):
    """
    The connection failed while committing: nobody knows whether it did.
    """


@define
class _Use:
    opened: float
    used: float


class PooledConnection(adbapi.Connection):
    """
    A connection whose failed rollback is no news: it is thrown away.
    """

    def rollback(self) -> None:
        """
        Undo the transaction, or give up the connection.
        """
        connection: Any = self._connection
        try:
            connection.rollback()
        except Exception:
            self._pool.disconnect(connection)

    def commit(self) -> None:
        """
        L{Pool} has committed already.
        """


class Pool(adbapi.ConnectionPool):
    """
    @param engine: opens the connections.
    @param autocommit: for reading only: statements are transactions of their own,
        which saves two round trips each time.
    """

    connectionFactory = PooledConnection

    def __init__(
        self, reactor: IReactorCore, engine: Engine, limits: PoolLimits, autocommit: bool = False
    ) -> None:
        # adbapi wants to know a driver, but connections come from the engine.
        super().__init__(
            "sqlite3", cp_min=limits.size, cp_max=limits.size, cp_noisy=False, cp_reactor=reactor
        )
        self._engine = engine
        self._limits = limits
        self._autocommit = autocommit
        self._uses: dict[int, _Use] = {}
        self._failure: tuple[float, Exception] | None = None

    def run(self, work: Callable[[Transaction], R]) -> Deferred[R]:
        """
        Run C{work} in a transaction in a pool thread, and commit.

        @raise CommitLost: the commit failed in an unknown state.
        """
        running: Deferred[R] = self.runInteraction(self._interact, work)
        return running

    def _interact(self, transaction: adbapi.Transaction, work: Callable[[Transaction], R]) -> R:
        begin = self._engine.begin_write
        if begin is not None and not self._autocommit:
            transaction.execute(begin)
        cursor: Cursor = transaction._cursor  # type: ignore[assignment]
        result = work(Transaction(cursor, self._engine.dialect))
        if not self._autocommit:
            self._commit(transaction._connection)
        return result

    def _commit(self, pooled: adbapi.Connection) -> None:
        connection: Any = pooled._connection
        try:
            connection.commit()
        except Exception as error:
            if self._engine.trouble(error) is Trouble.LOST:
                raise CommitLost(str(error)) from error
            raise

    def connect(self) -> Any:
        """
        The calling thread's connection, which works as far as one can tell.
        """
        thread = self.threadID()
        connection = self.connections.get(thread)
        now = time.monotonic()
        if connection is not None and not self._usable(connection, self._uses[thread], now):
            self.disconnect(connection)
            connection = None
        if connection is None:
            connection = self.connections[thread] = self._open(now)
            self._uses[thread] = _Use(now, now)
        self._uses[thread].used = now
        return connection

    def _usable(self, connection: Any, use: _Use, now: float) -> bool:
        limits = self._limits
        if limits.max_lifetime is not None and now - use.opened > limits.max_lifetime:
            return False
        idle = now - use.used
        if limits.max_idle_time is not None and idle > limits.max_idle_time:
            return False
        if idle > _PING_AFTER:
            try:
                self._engine.ping(connection)
            except Exception:
                return False
        return True

    def _open(self, now: float) -> Any:
        if self._failure is not None and now - self._failure[0] < _RETRY_CONNECT:
            raise self._failure[1].with_traceback(None)
        try:
            connection = self._engine.connect(self._autocommit)
        except Exception as error:
            self._failure = (time.monotonic(), error)
            raise
        self._failure = None
        return connection

    def _close(self, connection: Any) -> None:
        try:
            connection.close()
        except Exception:
            # It was dead already.
            return
