"""
Something that is done again and again, each time a while after it was done.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from nanomdm.errors import NanoMDMError


class Rounds:
    """
    Runs a coroutine, and once it has ended the next one.

    @param clock: the clock.
    @param run: does one round and returns the seconds until the next.  It deals with
        errors itself: one that gets here makes it the last round.
    @ivar stopping: whether there will be no other round, so that a long one should
        come to its end.
    """

    _log = Logger()

    def __init__(
        self, clock: IReactorTime, run: Callable[[], Coroutine[Deferred[Any], Any, float]]
    ) -> None:
        self.stopping = False
        self._clock = clock
        self._run = run
        self._next: IDelayedCall | None = None
        self._round: Deferred[None] = succeed(None)

    def start(self, delay: float) -> None:
        """
        @param delay: seconds until the first round.
        """
        self._next = self._clock.callLater(delay, self._begin)

    def hasten(self) -> None:
        """
        Begin the next round at once, unless one is under way.
        """
        if self._next is not None:
            self._next.reset(0)

    def stop(self) -> Deferred[None]:
        """
        Begin no other round.

        @return: fires once the one under way has ended.
        """
        self.stopping = True
        if self._next is not None:
            self._next.cancel()
            self._next = None
        done: Deferred[None] = Deferred()
        self._round.addCallback(done.callback)
        return done

    def tell(self, log: Logger, text: str, failure: Failure) -> None:
        """
        Log why a round came to nothing that will be tried again.  At the end it is no
        wonder; what the domain has no words for is a defect.

        @param log: of whose round it is.
        """
        if not failure.check(NanoMDMError):
            log.failure(text, failure)
        elif not self.stopping:
            log.warn(text, error=failure.getErrorMessage())

    def _begin(self) -> None:
        self._next = None
        self._round = Deferred.fromCoroutine(self._run()).addCallbacks(self._ended, self._broken)

    def _ended(self, pause: float) -> None:
        if not self.stopping:
            self.start(pause)

    def _broken(self, failure: Failure) -> None:
        self._log.failure("there will be no other round", failure)
