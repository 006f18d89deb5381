"""
One call for pushes, from its ids to its results.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from nanomdm.interfaces import PushResult


class Results(Mapping[str, PushResult]):
    """
    The results of very many pushes.  Of those that succeeded there is nothing but
    text in here, which the garbage collector need not go through: with an object for
    each it would stop the reactor for long.

    @ivar failed: how many failed.
    """

    def __init__(self) -> None:
        self._pushed: dict[str, str | None] = {}
        self._failed: dict[str, PushResult] = {}

    def __setitem__(self, id: str, result: PushResult) -> None:
        if result.error is None:
            self._pushed[id] = result.id
        else:
            self._failed[id] = result

    def __getitem__(self, id: str) -> PushResult:
        if id in self._failed:
            return self._failed[id]
        return PushResult(id=self._pushed[id])

    def __contains__(self, id: object) -> bool:
        return id in self._pushed or id in self._failed

    def __iter__(self) -> Iterator[str]:
        yield from self._pushed
        yield from self._failed

    def __len__(self) -> int:
        return len(self._pushed) + len(self._failed)

    @property
    def failed(self) -> int:
        return len(self._failed)


class Call:
    """
    Gathers a result for each id.

    @param clock: for how long it takes.
    @ivar ids: distinct enrollment ids, at least one.
    @ivar force: try also tokens that are known to be dead.
    @ivar schedule: whether the storage notes the pushes.
    @ivar results: fires when each id has its result.
    @ivar work: fires when nothing is done for it any more.
    """

    _log = Logger(namespace="nanomdm.push")

    def __init__(
        self, ids: Sequence[str], force: bool, schedule: bool, clock: IReactorTime
    ) -> None:
        self.ids = ids
        self.force = force
        self.schedule = schedule
        self.results: Deferred[Mapping[str, PushResult]] = Deferred()
        self.work: Deferred[None]
        self._clock = clock
        self._began = clock.seconds()
        self._gathered = Results()
        self._over = False

    def answer(self, id: str, result: PushResult) -> None:
        """
        An id has its result.  Its first one counts.
        """
        if self._over or id in self._gathered:
            return
        self._gathered[id] = result
        if result.error is not None:
            self._log.debug("push failed", id=id, error=result.error)
        if len(self._gathered) == len(self.ids):
            self._over = True
            self._report()
            self.results.callback(self._gathered)

    def end(self, result: PushResult) -> None:
        """
        Give this result to each id that has none.
        """
        for id in self.ids:
            self.answer(id, result)

    def fail(self, failure: Failure) -> None:
        """
        There are no results at all.
        """
        if self._over:
            self._log.failure("push went on wrongly", failure)
            return
        self._over = True
        self.results.errback(failure)

    def _report(self) -> None:
        failed = self._gathered.failed
        self._log.info(
            "pushed",
            ids=len(self.ids),
            pushed=len(self.ids) - failed,
            failed=failed,
            seconds=round(self._clock.seconds() - self._began, 3),
        )
