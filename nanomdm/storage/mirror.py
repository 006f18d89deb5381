"""
Several storages at once: the first answers, the others follow in the background.

What is written to the first is written to each of the others too, in the same
order and after it.  Nobody waits for them and their failures are only logged:
they are copies to move to another database, never a source.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from attrs import frozen
from twisted.internet.defer import Deferred, DeferredList, fail, gatherResults, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from nanomdm.errors import Overloaded
from nanomdm.interfaces import AssociationFacts, IStorage, ReportOutcome
from nanomdm.mdm.checkin import Authenticate, TokenUpdate, UserAuthenticate
from nanomdm.mdm.command import Command, CommandReport
from nanomdm.mdm.enrollment import Enrollment

R = TypeVar("R")

#: Writes that may wait for one storage; what comes then is lost to it.
_LIMIT: Final = 100_000

#: Writes that are given to a storage at once, so that they can share transactions.
_GROUP: Final = 256

#: Seconds that the others get to catch up at the end.
_STOP_DEADLINE: Final = 20.0


@frozen
class _Write:
    method: str
    arguments: tuple[Any, ...]

    @property
    def alone(self) -> bool:
        """
        Enqueueing may run beside the gathered writes, so it must not overtake
        or be overtaken.
        """
        return self.method == "enqueue"


class Follower:
    """
    One of the other storages.

    @param storage: written to.
    @param name: for the log.
    """

    _log = Logger()

    def __init__(self, storage: IStorage, name: str, limit: int = _LIMIT) -> None:
        self.storage = storage
        self._name = name
        self._limit = limit
        self._waiting: deque[_Write] = deque()
        self._working: Deferred[None] | None = None
        self._lost = 0

    def follow(self, write: _Write) -> None:
        """
        Do a write that the first storage has done, when its turn comes.
        """
        if len(self._waiting) >= self._limit:
            if not self._lost:
                self._log.error("storage can not follow, writes are lost to it", storage=self._name)
            self._lost += 1
            return
        self._waiting.append(write)
        if self._working is None:
            self._working = Deferred.fromCoroutine(self._work())
            self._working.addErrback(self._bug)

    def caught_up(self) -> Deferred[None]:
        """
        @return: fires once nothing waits.
        """
        return self._working.addCallback(lambda ignored: None) if self._working else _done()

    async def _work(self) -> None:
        while self._waiting:
            await DeferredList([self._write(write) for write in self._next()])
        self._working = None
        if self._lost:
            self._log.error("storage follows again", storage=self._name, lost=self._lost)
            self._lost = 0

    def _next(self) -> list[_Write]:
        writes = [self._waiting.popleft()]
        if not writes[0].alone:
            while self._waiting and len(writes) < _GROUP and not self._waiting[0].alone:
                writes.append(self._waiting.popleft())
        return writes

    def _write(self, write: _Write) -> Deferred[Any]:
        method = getattr(self.storage, write.method)
        return maybeDeferred(method, *write.arguments).addErrback(self._failed, write)

    def _failed(self, failure: Failure, write: _Write) -> None:
        self._log.error(
            "storage does not follow",
            storage=self._name,
            write=write.method,
            error=failure.getErrorMessage(),
        )

    def _bug(self, failure: Failure) -> None:
        self._working = None
        self._log.failure("storage stopped following", failure, storage=self._name)


@implementer(IStorage)
class MirroredStorage:
    """
    @param first: answers everything.
    @param followers: get the same writes.
    @param clock: for the deadline at the end.
    """

    _log = Logger()

    def __init__(self, first: IStorage, followers: Sequence[Follower], clock: IReactorTime) -> None:
        self._first = first
        self._followers = followers
        self._clock = clock
        self.association = first.association
        self.fetch_bootstrap_token = first.fetch_bootstrap_token
        self.next_command = first.next_command

    def start(self) -> None:
        for storage in self._all():
            storage.start()

    def stop(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for follower in self._followers:
            try:
                await follower.caught_up().addTimeout(_STOP_DEADLINE, self._clock)
            except Exception:
                self._log.failure("storage did not catch up before the end")
        await gatherResults([storage.stop() for storage in self._all()])

    def _all(self) -> list[IStorage]:
        return [self._first, *(follower.storage for follower in self._followers)]

    def _write(self, method: str, *arguments: Any) -> Deferred[Any]:
        try:
            running: Deferred[Any] = getattr(self._first, method)(*arguments)
        except Overloaded:
            return fail()
        return running.addCallback(self._lead, _Write(method, arguments))

    def _lead(self, result: R, write: _Write) -> R:
        for follower in self._followers:
            follower.follow(write)
        return result

    def store_authenticate(
        self, message: Authenticate, identity_pem: str, renews: Callable[[bytes], bool]
    ) -> Deferred[bool]:
        return self._write("store_authenticate", message, identity_pem, renews)

    def store_token_update(self, message: TokenUpdate) -> Deferred[int]:
        return self._write("store_token_update", message)

    def store_user_authenticate(self, message: UserAuthenticate) -> Deferred[None]:
        return self._write("store_user_authenticate", message)

    def disable(self, enrollment: Enrollment) -> Deferred[None]:
        return self._write("disable", enrollment)

    def touch(self, enrollment_id: str) -> None:
        for storage in self._all():
            storage.touch(enrollment_id)

    def store_bootstrap_token(self, device_id: str, token: bytes | None) -> Deferred[None]:
        return self._write("store_bootstrap_token", device_id, token)

    def enqueue(self, command: Command, ids: Sequence[str]) -> Deferred[dict[str, str]]:
        return self._write("enqueue", command, ids)

    def store_report(self, report: CommandReport) -> Deferred[ReportOutcome]:
        return self._write("store_report", report)

    def associate(
        self, device_id: str, sha256: str, first_only: bool, grace: float, twin: str | None = None
    ) -> Deferred[AssociationFacts]:
        return self._write("associate", device_id, sha256, first_only, grace, twin)


def _done() -> Deferred[None]:
    done: Deferred[None] = Deferred()
    done.callback(None)
    return done
