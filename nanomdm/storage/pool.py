"""
Connections in an C{adbapi} pool that are replaced before, or at the latest when,
they turn out to be stale.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

from attrs import define
from twisted.enterprise import adbapi
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorCore

from nanomdm.crypto.vault import Vault
from nanomdm.errors import StorageUnavailable
from nanomdm.metrics.storage import PoolMetrics, unseen_database
from nanomdm.storage.engine import Engine, PoolLimits, Trouble
from nanomdm.storage.transaction import Transaction

R = TypeVar("R")
T = TypeVar("T")

#: Seconds for which a database that could not be reached is not tried again, so
#: that a queue of requests fails at once and not one timeout after the other.
_RETRY_CONNECT: Final = 0.5


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
            self._pool.lost(connection)

    def commit(self) -> None:
        """
        L{Pool} has committed already.
        """


class Pool(adbapi.ConnectionPool):
    """
    @param reactor: for the threads.
    @param engine: opens the connections.
    @param autocommit: for reading only: statements are transactions of their own,
        which saves two round trips each time.
    @param seconds: tells the time, in any thread.
    @param metrics: told of its connections and of who waits for them.
    @param vault: for the secrets in its transactions.
    """

    connectionFactory = PooledConnection

    def __init__(
        self,
        reactor: IReactorCore,
        engine: Engine,
        limits: PoolLimits,
        autocommit: bool = False,
        seconds: Callable[[], float] = time.monotonic,
        metrics: PoolMetrics | None = None,
        vault: Vault | None = None,
    ) -> None:
        # adbapi wants to know a driver, but connections come from the engine.
        super().__init__(
            "sqlite3", cp_min=limits.size, cp_max=limits.size, cp_noisy=False, cp_reactor=reactor
        )
        self._engine = engine
        self._limits = limits
        self._autocommit = autocommit
        self._seconds = seconds
        self._vault = vault or Vault()
        self._uses: dict[int, _Use] = {}
        self._failure: tuple[float, str] | None = None
        self._doubted = self._renewed = float("-inf")
        self._interrupted = False
        self._running = 0
        self._metrics = metrics or unseen_database().pool("")
        self._metrics.watch(
            limits.size, lambda: len(self.connections), lambda: min(self._running, limits.size)
        )

    def run(self, work: Callable[[Transaction], R]) -> Deferred[R]:
        """
        Run C{work} in a transaction in a pool thread, and commit.

        @raise StorageUnavailable: no connection could be opened, or the commit
            failed and nobody knows how far it came.
        @raise Exception: of the driver; nothing was committed.
        """
        self._running += 1
        running: Deferred[R] = self.runWithConnection(self._transact, work, self._seconds())
        return running.addBoth(self._ended)

    def _ended(self, result: T) -> T:
        self._running -= 1
        return result

    def interrupt(self) -> None:
        """
        Make everything fail soon that threads do with the database.
        """
        self._interrupted = True
        for connection in list(self.connections.values()):
            # One of them may be closed at this moment.
            with suppress(Exception):
                self._engine.interrupt(connection)

    def connect(self) -> Any:
        """
        The calling thread's connection, which works as far as one can tell.
        """
        thread = self.threadID()
        connection = self.connections.get(thread)
        now = self._seconds()
        if connection is not None and not self._usable(connection, self._uses[thread], now):
            self.disconnect(connection)
            connection = None
        if connection is None:
            # It may have taken long to find out that there is no other.
            now = self._seconds()
            connection = self.connections[thread] = self._open(now)
            self._uses[thread] = _Use(now, now)
        self._uses[thread].used = now
        if self._interrupted:
            raise StorageUnavailable("database: interrupted")
        return connection

    def lost(self, connection: Any) -> None:
        """
        Throw away the calling thread's connection, which broke.
        """
        # What broke it may have broken the others, too.
        self._doubted = self._seconds()
        self.disconnect(connection)

    def renew(self) -> None:
        """
        Replace all connections before they are used again.
        """
        now = self._seconds()
        # While that does not help, not again and again.
        if now - self._renewed >= _RETRY_CONNECT:
            self._renewed = now

    def _transact(
        self, pooled: adbapi.Connection, work: Callable[[Transaction], R], asked: float
    ) -> R:
        self._metrics.got(self._seconds() - asked)
        connection: Any = pooled._connection
        cursor = connection.cursor()
        try:
            result = self._work(cursor, work)
        except Exception:
            # The error leads to the cursor, so the garbage collector frees it, in any
            # thread: the reactor's would wait until SQLite has the connection to spare.
            # Nor would a connection of SQLite's see what is written until then, or write.
            with suppress(Exception):
                cursor.close()
            raise
        cursor.close()
        if not self._autocommit:
            self._commit(connection)
        return result

    def _work(self, cursor: Any, work: Callable[[Transaction], R]) -> R:
        if not self._autocommit and self._engine.begin_write is not None:
            cursor.execute(self._engine.begin_write)
        transaction = Transaction(cursor, self._engine.dialect, self._vault)
        result = work(transaction)
        transaction.finish()
        return result

    def _commit(self, connection: Any) -> None:
        try:
            connection.commit()
        except Exception as error:
            # These tell that it was undone.  After others it may have happened.
            if self._engine.trouble(error) in (Trouble.RETRY, Trouble.READ_ONLY):
                raise
            raise StorageUnavailable(f"database: while committing: {error}") from error

    def _usable(self, connection: Any, use: _Use, now: float) -> bool:
        limits = self._limits
        if use.opened <= self._renewed:
            return False
        if limits.max_lifetime is not None and now - use.opened > limits.max_lifetime:
            return False
        idle = now - use.used
        if limits.max_idle_time is not None and idle > limits.max_idle_time:
            return False
        if idle > limits.ping_after or use.used <= self._doubted:
            try:
                self._engine.ping(connection)
            except Exception:
                # Where even this failed, the others need not be tried, which takes long
                # when nothing answers.
                self.renew()
                return False
        return True

    def _open(self, now: float) -> Any:
        failure = self._failure
        if failure is not None and now - failure[0] < _RETRY_CONNECT:
            raise StorageUnavailable(failure[1])
        try:
            connection = self._engine.connect(self._autocommit)
        except Exception as error:
            # Some drivers write several lines.
            reason = f"database: {' '.join(str(error).split())}"
            self._failure = (self._seconds(), reason)
            raise StorageUnavailable(reason) from error
        self._failure = None
        return connection

    def _close(self, connection: Any) -> None:
        # It may be dead already.
        with suppress(Exception):
            connection.close()
