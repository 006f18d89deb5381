"""
One timer for several deadlines.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Alarm:
    """
    Calls functions when their time has come.  Moving a deadline away costs next to
    nothing: the timer finds out when it runs.

    @param clock: the clock.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._deadlines: dict[Callable[[], None], float] = {}
        self._timer: IDelayedCall | None = None

    def set(self, action: Callable[[], None], delay: float) -> None:
        """
        Call C{action} once, in C{delay} seconds, in place of when it was to be
        called so far.
        """
        at = self._clock.seconds() + delay
        self._deadlines[action] = at
        if self._timer is None:
            self._timer = self._clock.callLater(delay, self._run)
        elif at < self._timer.getTime():
            self._timer.reset(delay)

    def clear(self, action: Callable[[], None]) -> None:
        """
        Do not call C{action}.
        """
        self._deadlines.pop(action, None)

    def stop(self) -> None:
        """
        Call nothing, and leave no timer.
        """
        self._deadlines.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _run(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        for action, at in sorted(self._deadlines.items(), key=lambda item: item[1]):
            # An earlier one may have changed it.
            if at <= now and self._deadlines.get(action) == at:
                del self._deadlines[action]
                action()
        if self._deadlines and self._timer is None:
            delay = max(0.0, min(self._deadlines.values()) - now)
            self._timer = self._clock.callLater(delay, self._run)
