"""
Work that grows with a body's size leaves the reactor's thread when it is large.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

P = ParamSpec("P")
R = TypeVar("R")

#: Bytes up to which checking a signature and reading a property list take two
#: milliseconds at worst.
INLINE_SIZE: Final = 1 << 14


class Offloader:
    """
    @param reactor: gets results back from threads.
    @param pool: where large work is done.
    """

    def __init__(self, reactor: IReactorFromThreads, pool: ThreadPool) -> None:
        self._reactor = reactor
        self._pool = pool

    async def run(self, size: int, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """
        @param size: bytes that C{work} will go through.
        @param work: a pure function.
        """
        if size <= INLINE_SIZE:
            return work(*args, **kwargs)
        result: R = await deferToThreadPool(self._reactor, self._pool, work, *args, **kwargs)
        return result
