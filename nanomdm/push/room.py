"""
How many pushes may be under way at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred, succeed

#: Pushes in backoff that do not count, so that a few that APNs puts off do not
#: keep the others from going.
_PAUSED: Final = 1000


class Room:
    """
    Places for pushes.  Whoever waits for one gets it in turn, one at a time, so
    that a call with one id is not behind all of a call with many.

    @param capacity: how many places there are at present; it may change, see
        L{changed}.
    @ivar taken: the places in use.
    """

    def __init__(self, capacity: Callable[[], int]) -> None:
        self._capacity = capacity
        self.taken = 0
        self._paused = 0
        self._waiting: deque[Deferred[None]] = deque()
        self._closed = False

    def take(self) -> bool:
        """
        Take a place, if there is one that nobody waits for.

        @return: whether there was.
        """
        if self._waiting or not self._free():
            return False
        self.taken += 1
        return True

    def wait(self) -> Deferred[None]:
        """
        Wait for a place.

        @return: fires with the place taken; never fails.
        """
        if self._closed:
            self.taken += 1
            return succeed(None)
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        self.changed()
        return waiting

    def leave(self) -> None:
        """
        Give a place back.
        """
        self.taken -= 1
        self.changed()

    def pause(self) -> None:
        """
        The push in one of the places waits in backoff.
        """
        self._paused += 1
        self.changed()

    def resume(self) -> None:
        """
        It goes on.  There may be more under way than places then, until some end.
        """
        self._paused -= 1

    def changed(self) -> None:
        """
        The capacity may have changed: let those in who fit.
        """
        while self._waiting and self._free():
            self.taken += 1
            self._waiting.popleft().callback(None)

    def close(self) -> None:
        """
        Let everybody in, now and later: they find out that this is the end.
        """
        self._closed = True
        self.changed()

    def _free(self) -> bool:
        return self._closed or self.taken - min(self._paused, _PAUSED) < self._capacity()
