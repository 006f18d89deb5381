"""
Work that grows with a body's size leaves the reactor's thread when it is large.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, ParamSpec, TypeVar

from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

P = ParamSpec("P")
R = TypeVar("R")

#: Bytes up to which checking a signature and reading a property list take two
#: milliseconds at worst.
INLINE_SIZE: Final = 1 << 14

#: Threads for what is larger.  Most of it is Python, of which one runs at a time; but
#: something very large must not keep the others waiting.
THREADS: Final = 4


class Offloader:
    """
    Has threads of its own: those of the reactor may all be waiting for name servers.
    There is none before there is work.

    @param reactor: gets results back from threads.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(0, THREADS, "offload")
        self._trigger: Any = None

    def start(self) -> None:
        """
        Work from now on; what was asked for before has waited.
        """
        self._pool.start()
        # For an end without L{stop}: the process waits for its threads.
        self._trigger = self._reactor.addSystemEventTrigger("during", "shutdown", self._end)

    def stop(self) -> None:
        """
        End the threads.  This blocks as long as they work, so it is for when nobody waits
        for that any more.
        """
        if self._trigger is not None:
            self._reactor.removeSystemEventTrigger(self._trigger)
            self._trigger = None
        self._end()

    def _end(self) -> None:
        if self._pool.started:
            self._pool.stop()

    async def run(self, size: int, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """
        @param size: bytes that C{work} will go through.
        @param work: a pure function.
        """
        if size <= INLINE_SIZE:
            return work(*args, **kwargs)
        result: R = await deferToThreadPool(self._reactor, self._pool, work, *args, **kwargs)
        return result
