"""
When to try again to connect.
"""

from __future__ import annotations

from random import Random
from typing import Final

from attrs import define

#: Seconds between attempts: the first, the most, and the least that jitter makes of
#: them.
_FIRST: Final = 0.5
_LONGEST: Final = 60.0
_SHORTEST: Final = 0.1

#: Seconds without a connection after which pushes do not wait for one.
_PATIENCE: Final = 30.0


@define(eq=False)
class Backoff:
    """
    How connecting went lately.

    @ivar failures: attempts that failed in a row, and connections that were lost
        before they answered anything.
    @ivar since: when there began to be no connection at all.
    @ivar until: no attempt before.
    @ivar reason: of the last failure.
    """

    failures: int = 0
    since: float | None = None
    until: float = float("-inf")
    reason: str = ""

    def failed(self, now: float, since: float | None, reason: str, random: Random) -> None:
        """
        Wait twice as long as before, with full jitter: servers that lost APNs
        together do not come back together.

        @param since: when what failed began; L{None} if there is a connection.
        """
        longest = min(_LONGEST, _FIRST * 2 ** min(self.failures, 10))
        self.failures += 1
        self.until = now + max(_SHORTEST, random.random() * longest)
        self.reason = reason
        if self.since is None:
            self.since = since

    def cut_short(self) -> None:
        """
        Something has changed, so the next attempt is due.
        """
        self.until = float("-inf")

    def due(self, now: float) -> bool:
        """
        @return: whether it is time for an attempt.
        """
        return now >= self.until

    def hopeless(self, now: float) -> bool:
        """
        @return: whether there was no connection for so long that pushes do not
            wait for the next attempt.
        """
        return self.since is not None and now >= self.since + _PATIENCE

    @property
    def next(self) -> float:
        """
        When to look again: an attempt is due, or there was none for too long.
        """
        return self.until if self.since is None else min(self.until, self.since + _PATIENCE)
