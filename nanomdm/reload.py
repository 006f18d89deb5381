"""
SIGHUP: what was read from files is read again, while the server goes on.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from attrs import frozen
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from nanomdm.errors import ConfigError

_log: Final = Logger(namespace="nanomdm")

T = TypeVar("T")


@frozen
class Source(Generic[T]):
    """
    Something that can be read again.

    @ivar name: what it is, in the plural, for the log.
    @ivar read: reads it; blocks, and raises L{ConfigError} if it can not be used.
    @ivar take: uses from now on what was read.
    """

    name: str
    read: Callable[[], T]
    take: Callable[[T], None]


class Reloader:
    """
    The owner of SIGHUP, from its start to its end.

    @param reactor: gets results back from threads.
    @param pool: where files are read.
    @param begun: told each time reading begins.
    @param ended: told each time it has ended, well or not.
    """

    def __init__(
        self,
        reactor: IReactorFromThreads,
        pool: ThreadPool,
        begun: Callable[[], None],
        ended: Callable[[], None],
    ) -> None:
        self._reactor = reactor
        self._pool = pool
        self._begun = begun
        self._ended = ended
        self._sources: list[Source[Any]] = []
        self._lock = DeferredLock()
        self._waits = False
        self._previous: Any = None

    def add(self, source: Source[Any]) -> None:
        """
        Read this too from now on, behind those that were added before.
        """
        self._sources.append(source)

    def start(self) -> None:
        """
        Read everything again at each SIGHUP from now on.
        """
        self._previous = signal.signal(signal.SIGHUP, self._hung_up)

    def stop(self) -> Deferred[None]:
        """
        Leave SIGHUP to who had it before.

        @return: fires when nothing is read any more.
        """
        # None stands for a handler that Python did not install and can not.
        signal.signal(signal.SIGHUP, self._previous or signal.SIG_DFL)
        return self._lock.run(lambda: None)

    def _hung_up(self, *of_the_signal: object) -> None:
        self._reactor.callFromThread(self.reload)

    def reload(self) -> None:
        """
        Read everything again.  What can not be used is logged, and what was there
        before stays; the others are not concerned.
        """
        if not self._sources:
            _log.info("SIGHUP: there is nothing to read again")
        if not self._waits:
            self._waits = True
            Deferred.fromCoroutine(self._reload()).addErrback(_unexpected)

    async def _reload(self) -> None:
        async with self._lock:
            self._waits = False
            self._begun()
            try:
                for source in self._sources:
                    await self._read(source)
            finally:
                self._ended()

    async def _read(self, source: Source[Any]) -> None:
        try:
            source.take(await deferToThreadPool(self._reactor, self._pool, source.read))
        except ConfigError as error:
            _log.error(f"{source.name} not read again, the old ones stay", error=str(error))
        except Exception:
            _log.failure(f"{source.name} not read again, the old ones stay")
        else:
            _log.info(f"{source.name} read again")


def _unexpected(failure: Failure) -> None:
    _log.failure("not everything was read again", failure)
