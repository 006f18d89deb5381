"""
One push: attempts, pauses between them, and the deadline.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from nanomdm.interfaces import PushResult
from nanomdm.push.notification import Answer, ConnectionLost, Notification, StreamReset
from nanomdm.push.provider import Provider

_log: Final = Logger()

#: Seconds from beginning to end.
DEADLINE: Final = 30

#: Answers that are about this moment and not about the push (Apple, "Handling
#: notification responses from APNs"; 502 and 504 are a gateway's in between).
_PASSING: Final = frozenset({429, 500, 502, 503, 504})

#: How often a push is sent again.
_RETRIES: Final = 5

#: Seconds before the first retry; each further pause is twice as long.
_PAUSE: Final = 0.5


class Delivery:
    """
    One push.

    @param provider: gives it a stream.
    @param finished: called once, when there is a result.
    @ivar result: what became of it; L{None} until it is known.
    @ivar answer: the answer that ended it, if one did.
    """

    __slots__ = (
        "_finished",
        "_last",
        "_pause",
        "_provider",
        "_resent",
        "_retries",
        "_stream",
        "_timer",
        "answer",
        "notification",
        "result",
    )

    def __init__(
        self,
        notification: Notification,
        provider: Provider,
        finished: Callable[[], None],
    ) -> None:
        self.notification = notification
        self.result: PushResult | None = None
        self.answer: Answer | None = None
        self._provider = provider
        self._finished = finished
        self._stream: Deferred[Answer] | None = None
        self._pause: IDelayedCall | None = None
        self._last: PushResult | None = None
        self._retries = 0
        self._resent = False
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        """
        Send it.  It may have ended when this returns.
        """
        self._timer = self._provider.clock.callLater(DEADLINE, self._too_late)
        self._provider.submit(self)

    def give_up(self, result: PushResult) -> None:
        """
        End it, wherever it is.
        """
        if self.result is not None:
            return
        self._finish(result)
        if self._pause is not None:
            self._pause.cancel()
            self._resume()
        elif self._stream is not None:
            self._stream.cancel()
        else:
            self._provider.withdraw(self)

    # What the provider tells.

    def sent(self, stream: Deferred[Answer]) -> None:
        """
        See L{Waiter<nanomdm.push.line.Waiter>}.
        """
        self._stream = stream

    def answered(self, answer: Answer) -> None:
        """
        See L{Waiter<nanomdm.push.line.Waiter>}.
        """
        self._stream = None
        if self.result is not None:
            return
        if answer.status == 200:
            self._finish(PushResult(id=answer.id))
            return
        text = " ".join(["APNs answered", str(answer.status), answer.reason or ""]).rstrip()
        result = PushResult(error=text, status=answer.status, reason=answer.reason)
        if answer.status in _PASSING:
            now = self._provider.now
            self._retry(result, retry_after(answer.retry_after, now) if answer.retry_after else 0)
        else:
            self.answer = answer
            self._finish(result)

    def lost(self, failure: Failure) -> None:
        """
        See L{Waiter<nanomdm.push.line.Waiter>}.
        """
        self._stream = None
        if self.result is not None:
            return
        error = failure.value
        result = PushResult(error=str(error))
        if isinstance(error, ConnectionLost) and error.refused:
            # Which ends it, unless there is another certificate by now.
            self._provider.submit(self, again=True)
        elif isinstance(error, ConnectionLost) and error.resend and not self._resent:
            self._resent = True
            self._provider.submit(self, again=True)
        elif isinstance(error, ConnectionLost | StreamReset):
            self._retry(result)
        else:
            _log.failure("a push failed unexpectedly", failure)
            self._finish(PushResult(error="internal error"))

    def _retry(self, result: PushResult, at_least: float = 0) -> None:
        """
        Pause, and send it again.

        @param result: what becomes of it if there is no other attempt.
        @param at_least: seconds.
        """
        self._last = result
        provider = self._provider
        jitter = (1 + provider.random.random()) / 2
        pause = max(_PAUSE * 2**self._retries * jitter, at_least)
        assert self._timer is not None
        remaining = self._timer.getTime() - provider.clock.seconds()
        if self._retries == _RETRIES or pause >= remaining:
            self._finish(result)
            return
        self._retries += 1
        self._pause = provider.clock.callLater(pause, self._again)
        provider.room.pause()

    def _again(self) -> None:
        self._resume()
        self._provider.submit(self, again=True)

    def _resume(self) -> None:
        self._pause = None
        self._provider.room.resume()

    def _too_late(self) -> None:
        text = f"no answer from APNs within {DEADLINE} seconds"
        last = self._last or PushResult()
        # Only one that waits for its first stream has nothing of its own to tell.
        reason = last.error or (self._provider.obstacle if self._stream is None else None)
        error = f"{text}: {reason}" if reason else text
        self.give_up(PushResult(error=error, status=last.status, reason=last.reason))

    def _finish(self, result: PushResult) -> None:
        self.result = result
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        finished, self._finished = self._finished, _told
        finished()


def _told() -> None:
    """
    Stands where C{finished} was.  What it belongs to has the push, and the garbage
    collector would find the two of them only after long searching.
    """


def retry_after(text: str, now: Callable[[], datetime]) -> float:
    """
    @param text: the header C{Retry-After}: seconds, or a date (RFC 9110 section
        10.2.3).
    @param now: the time of day, with a time zone.
    @return: seconds from now; 0 when it says nothing of use.
    """
    text = text.strip()
    if text.isascii() and text.isdigit():
        # More digits than any time has could not even be calculated with.
        return float(text) if len(text) < 10 else float("inf")
    try:
        date = parsedate_to_datetime(text)
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        return max(0.0, (date - now()).total_seconds())
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0
