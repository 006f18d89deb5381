"""
Whether the webhook's receiver takes events at all.
"""

from __future__ import annotations

from random import Random
from typing import Final

from attrs import define, field

#: Enrollments whose deliveries failed in a row, none of them twice, that make an outage.
_MANY: Final = 5

#: Seconds between two attempts in an outage: at first, and at most.
_FIRST: Final = 1.0
_LONGEST: Final = 60.0


@define(eq=False)
class Outage:
    """
    While it is on, one attempt at a time finds out whether it is over.  So the events of
    ten thousand enrollments need not be tried in vain.

    @ivar until: no attempt before.
    @ivar since: when it began.
    @ivar reason: why the last attempt failed.
    """

    until: float = float("-inf")
    since: float = 0.0
    reason: str = ""
    _failed: set[str] = field(factory=set)
    _pause: float = _FIRST

    @property
    def on(self) -> bool:
        """
        Whether there is an outage.
        """
        return len(self._failed) >= _MANY

    def failed(self, enrollment_id: str, now: float, reason: str, random: Random) -> None:
        """
        An attempt failed.
        """
        self.reason = reason
        if not self.on:
            self._failed.add(enrollment_id)
            self.since = now
            self._pause = _FIRST
        elif now >= self.until:
            self._pause = min(self._pause * 2, _LONGEST)
        else:
            # It was under way when the outage began, and tells nothing new.
            return
        self.until = now + self._pause * random.uniform(0.5, 1)

    def over(self) -> bool:
        """
        An attempt succeeded.

        @return: whether there was an outage.
        """
        was_on = self.on
        self._failed.clear()
        return was_on
