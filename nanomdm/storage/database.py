"""
A database as the storage sees it: operations go in, results come out after the
commit; deadlocks and lost connections stay in here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from nanomdm.errors import NanoMDMError, StorageError, StorageUnavailable, TooLarge
from nanomdm.storage.batcher import Batcher, perform_alone
from nanomdm.storage.engine import Engine, PoolLimits, Trouble
from nanomdm.storage.pool import CommitLost, Pool
from nanomdm.storage.transaction import Transaction

A = TypeVar("A")
R = TypeVar("R")

#: How often a transaction is tried when deadlocks undo it.
_ATTEMPTS: Final = 6

#: Seconds before the first repetition; doubled each time, and jittered.
_BACKOFF: Final = 0.02


class Database:
    """
    @param reactor: for the pools and the waiting between attempts.
    @param engine: the database.
    @param limits: of the pool that writes; the one that reads has the same.
    @param shared: one connection does everything, as a database in memory needs
        it.
    """

    _log = Logger()

    def __init__(
        self, reactor: Any, engine: Engine, limits: PoolLimits, shared: bool = False
    ) -> None:
        self._clock: IReactorTime = reactor
        self._engine = engine
        self._writer = Pool(reactor, engine, limits)
        self._reader = self._writer if shared else Pool(reactor, engine, limits, autocommit=True)
        self._writes = Batcher(self._run_write)
        self._reads = self._writes if shared else Batcher(self._run_read)
        #: Run an operation that changes something; durable once it fires.
        self.write = self._writes.call
        #: Run an operation that only looks; it sees every earlier write.
        self.read = self._reads.call
        self._alone: set[Deferred[Any]] = set()

    def write_alone(
        self, operation: Callable[[Transaction, Sequence[A]], Sequence[R | Exception]], argument: A
    ) -> Deferred[R]:
        """
        As L{write}, in a transaction of its own beside the gathered ones: for
        calls that take long.
        """
        running: Deferred[R] = Deferred.fromCoroutine(
            perform_alone(self._run_write, operation, argument)
        )
        self._alone.add(running)

        def done(result: R) -> R:
            self._alone.discard(running)
            return result

        return running.addBoth(done)

    async def close(self) -> None:
        """
        Finish what was asked for, then close the connections; once is enough.
        """
        await self._writes.drained()
        await self._reads.drained()
        for pool in {self._writer, self._reader}:
            if pool.running:
                pool.close()

    def _run_write(self, work: Callable[[Transaction], Any]) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._run(self._writer, work))

    def _run_read(self, work: Callable[[Transaction], Any]) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._run(self._reader, work))

    async def _run(self, pool: Pool, work: Callable[[Transaction], Any]) -> Any:
        attempt, reconnected = 1, False
        while True:
            try:
                return await pool.run(work)
            except NanoMDMError:
                raise
            except CommitLost as error:
                raise StorageUnavailable(f"database: lost while committing: {error}") from error
            except Exception as error:
                trouble = self._engine.trouble(error)
                if trouble is Trouble.LOST and not reconnected:
                    # Nothing was committed, so nothing can happen twice.
                    reconnected = True
                elif trouble is Trouble.RETRY and attempt < _ATTEMPTS:
                    await self._back_off(attempt, error)
                    attempt += 1
                else:
                    raise _translated(trouble, error) from error

    async def _back_off(self, attempt: int, error: Exception) -> None:
        delay = _BACKOFF * 2**attempt * (0.5 + random.random() / 2)
        self._log.debug("transaction repeated", attempt=attempt, error=str(error))
        await deferLater(self._clock, delay)


def _translated(trouble: Trouble, error: Exception) -> Exception:
    """
    Put what the driver says into the domain's words.
    """
    text = f"database: {error}"
    if trouble is Trouble.TOO_LARGE:
        return TooLarge(f"a value does not fit into the {text}")
    if trouble is Trouble.OTHER:
        return StorageError(text)
    return StorageUnavailable(text)
