"""
A database as the storage sees it: operations go in, results come out after the
commit; deadlocks and lost connections stay in here.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from nanomdm.crypto.vault import Vault
from nanomdm.errors import NanoMDMError, StorageError, StorageUnavailable, TooLarge
from nanomdm.metrics.storage import DatabaseMetrics, unseen_database
from nanomdm.storage.batcher import Batcher
from nanomdm.storage.engine import Engine, PoolLimits, Trouble
from nanomdm.storage.pool import Pool
from nanomdm.storage.subjects import NOBODY, devices_of
from nanomdm.storage.transaction import Transaction

#: How often a transaction is tried when deadlocks undo it, and the seconds after
#: which it is not tried again: waiting for a lock may take long each time.
_ATTEMPTS: Final = 6
_PATIENCE: Final = 10.0

#: Seconds before the first repetition; doubled each time, and jittered.
_BACKOFF: Final = 0.04

#: Long calls that run at once, that may wait, and seconds that the oldest of these may
#: have waited: each takes its time.
_ALONE: Final = 4
_ALONE_WAITING: Final = 100
_ALONE_PATIENCE: Final = 50.0

#: Looks of operators that run at once, at most: devices' reads have a connection left.
_LOOKS: Final = 2

#: Seconds for which the database counts as one that does not take writes, after one that it
#: did not take and none that it did.
_REFUSING: Final = 5.0

#: Seconds that calls get to end when the database is closed.
_CLOSE_DEADLINE: Final = 20.0


class Database:
    """
    @param reactor: for the pools and the waiting between attempts.
    @param engine: the database.
    @param limits: of the pool that writes; the one that reads has the same.
    @param shared: one connection does everything, as a database in memory needs
        it.
    @param metrics: of this database.
    @param vault: for the secrets in it.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        engine: Engine,
        limits: PoolLimits,
        shared: bool = False,
        metrics: DatabaseMetrics | None = None,
        vault: Vault | None = None,
    ) -> None:
        seen = metrics or unseen_database()
        self._clock: IReactorTime = reactor
        self._engine = engine
        writer = Pool(reactor, engine, limits, metrics=seen.pool("write"), vault=vault)
        reader, reading = writer, evolve(limits, size=max(2, limits.size))
        if not shared:
            read = seen.pool("read")
            reader = Pool(reactor, engine, reading, autocommit=True, metrics=read, vault=vault)
        self._writer = writer
        self._pools = {writer, reader}
        self._closed = False
        self._refused = float("-inf")

        def batcher(kind: str, pool: Pool, **more: Any) -> Batcher:
            return Batcher(self._runner(pool), metrics=seen.batches(kind), **more)

        def singly(kind: str, pool: Pool, workers: int) -> Batcher:
            waiting = {"max_waiting": _ALONE_WAITING, "patience": _ALONE_PATIENCE}
            return batcher(kind, pool, max_batch=1, workers=workers, **waiting)

        writes = batcher("write", writer, subjects=devices_of)
        # What only looks can be looked at in any order.
        reads = writes if shared else batcher("read", reader, subjects=lambda argument: NOBODY)
        # One connection is left for the others.
        workers = max(1, min(_ALONE, limits.size - 1))
        alone = singly("alone", writer, workers)
        beside = batcher("beside", writer)
        looks = alone if shared else singly("look", reader, min(_LOOKS, reading.size - 1))
        self._batchers = (writes, reads, alone, beside, looks)
        #: Run an operation that changes something; durable once it fires.
        self.write = writes.call
        #: Run an operation that only looks; it sees every earlier write.
        self.read = reads.call
        #: As L{write}, in a transaction of its own beside the gathered ones: for
        #: calls that take long.
        self.write_alone = alone.call
        #: As L{write}, gathered too, but in other transactions: for calls that no
        #: device waits for.
        self.write_beside = beside.call
        #: As L{read}, each by itself: for what operators ask.
        self.look = looks.call

    @property
    def refuses_writes(self) -> bool:
        """
        Whether the newest write failed just now because of the database.
        """
        return self._clock.seconds() < self._refused + _REFUSING

    async def close(self, deadline: float = _CLOSE_DEADLINE) -> None:
        """
        Finish what was asked for, then close the connections; once is enough.

        @param deadline: seconds after which what has not ended fails.
        """
        give_up = self._clock.callLater(deadline, self._give_up)
        while busy := [batcher for batcher in self._batchers if batcher.busy]:
            await busy[0].drained()
        if give_up.active():
            give_up.cancel()
        self._closed = True
        while self._pools:
            self._pools.pop().close()

    def _give_up(self) -> None:
        self._log.warn("database calls did not end in time")
        self._closed = True
        for pool in self._pools:
            pool.interrupt()

    def _runner(self, pool: Pool) -> Callable[[Callable[[Transaction], Any]], Deferred[Any]]:
        run = self._watched if pool is self._writer else self._run
        return lambda work: Deferred.fromCoroutine(run(pool, work))

    async def _watched(self, pool: Pool, work: Callable[[Transaction], Any]) -> Any:
        """
        Notice whether writes are taken.
        """
        try:
            result = await self._run(pool, work)
        except StorageUnavailable:
            self._refused = self._clock.seconds()
            raise
        self._refused = float("-inf")
        return result

    async def _run(self, pool: Pool, work: Callable[[Transaction], Any]) -> Any:
        latest = self._clock.seconds() + _PATIENCE
        attempt, once = 1, {Trouble.LOST, Trouble.ORPHAN, Trouble.READ_ONLY}
        while True:
            if self._closed:
                raise StorageUnavailable("the database is closed")
            try:
                return await pool.run(work)
            except NanoMDMError:
                raise
            except Exception as error:
                trouble = self._engine.trouble(error)
                if trouble is Trouble.READ_ONLY:
                    # Who can not write here must not read here either: it may lag.
                    for renewed in self._pools:
                        renewed.renew()
                if trouble in once:
                    # Nothing was committed, so nothing can happen twice.
                    once.remove(trouble)
                elif (
                    trouble is Trouble.RETRY
                    and attempt < _ATTEMPTS
                    and self._clock.seconds() < latest
                ):
                    await self._back_off(attempt, error)
                    attempt += 1
                else:
                    raise _translated(trouble, error) from error

    async def _back_off(self, attempt: int, error: Exception) -> None:
        delay = _BACKOFF * 2 ** (attempt - 1) * (0.5 + random.random() / 2)
        self._log.debug("transaction repeated", attempt=attempt, error=str(error))
        await deferLater(self._clock, delay)


def _translated(trouble: Trouble, error: Exception) -> Exception:
    """
    Put what the driver says into the domain's words.
    """
    # Further lines may quote rows, which hold secrets.
    text = f"database: {str(error).partition(chr(10))[0]}"
    if trouble is Trouble.TOO_LARGE:
        return TooLarge(f"a value does not fit into the {text}")
    if trouble in (Trouble.OTHER, Trouble.ORPHAN):
        return StorageError(text)
    return StorageUnavailable(text)
