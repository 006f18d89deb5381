"""
What the log says of events that are not delivered.
"""

from __future__ import annotations

from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from nanomdm.interfaces import IEventStore
from nanomdm.rounds import Rounds

#: Seconds between two looks.
_MINUTE: Final = 60.0

#: Age in seconds at which what waits has waited for long.
_LONG: Final = 60.0


class BacklogWatch:
    """
    Looks every minute how many events wait, and logs it when one has waited for long or
    some were given up.

    @param store: has them.
    @param clock: the clock.
    """

    _log = Logger()

    def __init__(self, store: IEventStore, clock: IReactorTime) -> None:
        self._store = store
        self._rounds = Rounds(clock, self._look)
        self._given_up = 0

    def start(self) -> None:
        """
        Begin, a minute from now.
        """
        self._rounds.start(_MINUTE)

    def stop(self) -> Deferred[None]:
        """
        @return: fires once the look under way has ended.
        """
        return self._rounds.stop()

    async def _look(self) -> float:
        try:
            backlog = await self._store.event_backlog()
        except Exception:
            text = "webhook events were not counted, it will be tried again"
            self._rounds.tell(self._log, text, Failure())
            return _MINUTE
        before, self._given_up = self._given_up, backlog.failed
        late = backlog.oldest is not None and backlog.oldest >= _LONG
        if late or backlog.failed > before:
            self._log.warn(
                "webhook backlog",
                waiting=backlog.waiting,
                oldest=round(backlog.oldest or 0),
                failed=backlog.failed,
            )
        return _MINUTE
