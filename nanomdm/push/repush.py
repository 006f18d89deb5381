"""
Pushing again to enrollments that have something outstanding and did not connect
after their push.  The storage knows the schedule, and lets one server at a time
find anything.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from math import ceil
from random import Random
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from nanomdm.interfaces import IPusher, IPushStore, PushAgain
from nanomdm.rounds import Rounds
from nanomdm.servername import server_name

#: Seconds between two rounds and before the first, and what part of them they vary by.
_PAUSE: Final = 5.0
_JITTER: Final = 0.2

#: Seconds between two rounds at most, however often they failed.
_LONGEST_PAUSE: Final = 60.0

_MINUTE: Final = 60.0


class Repusher:
    """
    Asks the storage every few seconds whom to push to again, and pushes.

    @param store: knows whom.
    @param pusher: pushes.
    @param clock: the clock.
    @param per_minute: enrollments of each step of the schedule in any minute, at
        most.
    @param random: for pauses, and for a name that no other server has.
    """

    _log = Logger()

    def __init__(
        self,
        store: IPushStore,
        pusher: IPusher,
        clock: IReactorTime,
        per_minute: int,
        random: Random,
    ) -> None:
        self._store = store
        self._pusher = pusher
        self._random = random
        self._budget = _Budget(clock, per_minute)
        self._rounds = Rounds(clock, self._round)
        self._server = ""
        self._failures = 0

    def start(self) -> None:
        """
        Begin, a few seconds from now.
        """
        # Not before: twistd has forked by now.
        self._server = server_name(self._random)
        self._budget.begin()
        self._rounds.start(self._pause())

    def stop(self) -> Deferred[None]:
        """
        @return: fires once the pushes under way have ended.
        """
        return self._rounds.stop()

    async def _round(self) -> float:
        try:
            await self._push_again()
        except Exception:
            self._warn(Failure())
            self._failures += 1
        else:
            if self._failures:
                self._log.info("pushing again works again")
            self._failures = 0
        return self._pause()

    async def _push_again(self) -> None:
        # Asked even with a limit of 0, since that keeps other servers from it.
        due = await self._store.push_again(self._server, self._budget.limit())
        if not due:
            return
        self._budget.spend(due)
        results = await self._pusher.push([one.id for one in due], again=True)
        failed = [one for one in due if results[one.id].error is not None]
        self._log.info("pushed again", count=len(due), failed=len(failed))
        # Without an answer the device had no chance to connect.
        unanswered = [one for one in failed if results[one.id].status is None]
        if unanswered:
            await self._store.repeat_step(unanswered)

    def _pause(self) -> float:
        pause = min(_PAUSE * 2.0 ** min(self._failures, 10), _LONGEST_PAUSE)
        return pause * self._random.uniform(1 - _JITTER, 1 + _JITTER)

    def _warn(self, failure: Failure) -> None:
        # Once: what is broken stays so for a while.
        if self._failures:
            return
        text = "pushing again failed, it will be tried again"
        self._rounds.tell(self._log, text, failure)


class _Budget:
    """
    How many of each step may be pushed to again: so many in any minute, spread
    over it.
    """

    def __init__(self, clock: IReactorTime, per_minute: int) -> None:
        self._clock = clock
        self._per_minute = per_minute
        self._asked = 0.0
        self._spent: deque[tuple[float, Counter[int]]] = deque()

    def begin(self) -> None:
        """
        Nothing was asked for before now.
        """
        self._asked = self._clock.seconds()

    def limit(self) -> int:
        """
        @return: how many of each step there may be now: what the time since the last
            call is worth, unless some step has used up its minute.
        """
        now = self._clock.seconds()
        while self._spent and self._spent[0][0] <= now - _MINUTE:
            self._spent.popleft()
        used = sum((steps for _, steps in self._spent), Counter[int]())
        share = ceil(self._per_minute * (now - self._asked) / _MINUTE)
        self._asked = now
        return min(share, self._per_minute - max(used.values(), default=0))

    def spend(self, due: Sequence[PushAgain]) -> None:
        """
        @param due: what came of the last limit.
        """
        self._spent.append((self._clock.seconds(), Counter(one.step for one in due)))
