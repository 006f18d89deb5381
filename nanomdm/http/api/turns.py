"""
Answers that may be large, made one after the other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from twisted.internet.defer import DeferredSemaphore

from nanomdm.errors import Overloaded
from nanomdm.http.request import Request

R = TypeVar("R")

#: Large answers that are made at once.  Each more thread that works makes the reactor's,
#: and with it all devices, wait longer for the interpreter's lock.
_RUNNING: Final = 2

#: Requests that may wait for that.
_WAITING: Final = 100


class Turns:
    """
    Lets few operators at a time have what takes much memory and time: from the look into
    the storage until the answer is made, not until the client has read it.
    """

    def __init__(self, running: int = _RUNNING, waiting: int = _WAITING) -> None:
        self._turns = DeferredSemaphore(running)
        self._waiting = waiting

    async def take(self, request: Request, work: Callable[[], Awaitable[R]]) -> R:
        """
        Do some work when its turn comes.

        @param request: whom it is for.
        @return: what C{work} returns.
        @raise Overloaded: too many wait already, or nobody does for this any more.
        """
        if not self._turns.tokens and len(self._turns.waiting) >= self._waiting:
            raise Overloaded("too many requests wait for large answers")
        async with self._turns:
            if request.gone:
                raise Overloaded("the client did not wait")
            return await work()
