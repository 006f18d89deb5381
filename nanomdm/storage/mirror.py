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
from twisted.internet.defer import CancelledError, Deferred, DeferredList, fail, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from nanomdm.errors import Overloaded, StorageUnavailable
from nanomdm.interfaces import AssociationFacts, IStorage, ReportOutcome
from nanomdm.mdm.checkin import Authenticate, TokenUpdate, UserAuthenticate
from nanomdm.mdm.command import Command, CommandReport
from nanomdm.mdm.enrollment import Enrollment
from nanomdm.mdm.event import Event
from nanomdm.mdm.migration import Migratable

R = TypeVar("R")

#: Writes that may wait for one storage, and their bytes; what comes then is lost to it.
_LIMIT: Final = 100_000
_LIMIT_BYTES: Final = 2**28

#: Writes that are given to a storage at once, so that they can share transactions.
_GROUP: Final = 256

#: Seconds between two attempts to reach a storage, and how many of them a group
#: gets: it may be the group that the storage can not take.
_PAUSE: Final = 10.0
_ATTEMPTS: Final = 60

#: Seconds that the others get to catch up and close at the end.
_STOP_DEADLINE: Final = 20.0


@frozen
class _Write:
    method: str
    arguments: tuple[Any, ...]

    @property
    def size(self) -> int:
        """
        About how many bytes of memory it has: those of the message.
        """
        return sum(len(getattr(argument, "raw", b"")) for argument in self.arguments)

    @property
    def alone(self) -> bool:
        """
        Enqueueing may run beside the gathered writes, so it must not overtake
        or be overtaken.
        """
        return self.method in ("enqueue", "clear_queue", "purge_enrollment")


class Follower:
    """
    One of the other storages.  Writes wait while it can not be reached.

    @param storage: written to.
    @param name: for the log.
    @param clock: for attempts to reach it, and for the deadline at the end.
    @param limit: how many writes may wait.
    @param limit_bytes: how large they may be together.
    """

    _log = Logger()

    def __init__(
        self,
        storage: IStorage,
        name: str,
        clock: IReactorTime,
        limit: int = _LIMIT,
        limit_bytes: int = _LIMIT_BYTES,
    ) -> None:
        self.storage = storage
        self._name = name
        self._clock = clock
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._waiting: deque[_Write] = deque()
        self._busy = False
        self._idle: list[Deferred[None]] = []
        self._lost = 0
        self._attempts = 0
        self._pausing: Deferred[None] | None = None
        self._stopping = False

    def follow(self, write: _Write) -> None:
        """
        Do a write that the first storage has done, when its turn comes.
        """
        if len(self._waiting) >= self._limit or self._bytes + write.size > self._limit_bytes:
            if not self._lost:
                self._log.error("storage can not follow, writes are lost to it", storage=self._name)
            self._lost += 1
            return
        self._waiting.append(write)
        self._bytes += write.size
        if not self._busy:
            self._busy = True
            Deferred.fromCoroutine(self._work()).addErrback(self._bug)

    def stop(self) -> Deferred[None]:
        """
        Do the writes that wait, then close the storage.

        @return: fires, and never with a failure, when that is done or has taken
            too long.
        """
        self._stopping = True
        if self._pausing is not None:
            self._pausing.cancel()
        closing = Deferred.fromCoroutine(self._close())
        closing.addErrback(self._complain, "stop")
        done: Deferred[None] = Deferred()
        timer = self._clock.callLater(_STOP_DEADLINE, self._too_late, done)

        def closed(ignored: None) -> None:
            if timer.active():
                timer.cancel()
                done.callback(None)

        closing.addCallback(closed)
        return done

    async def _close(self) -> None:
        await self._caught_up()
        await self.storage.stop()

    def _too_late(self, done: Deferred[None]) -> None:
        self._give_up(len(self._waiting))
        done.callback(None)

    def _caught_up(self) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        if self._busy:
            self._idle.append(done)
        else:
            done.callback(None)
        return done

    async def _work(self) -> None:
        while self._waiting:
            group = self._next()
            results = await DeferredList([self._write(write) for write in group])
            taken = [taken for _, taken in results]
            if all(taken):
                self._reached()
            else:
                # What came after the first that was not taken is done again: each
                # may rely on the ones before it.
                await self._again(group[taken.index(False) :])
        if self._lost:
            self._log.error("storage follows again", storage=self._name, lost=self._lost)
            self._lost = 0
        self._rest()

    def _next(self) -> list[_Write]:
        writes = [self._waiting.popleft()]
        if not writes[0].alone:
            while self._waiting and len(writes) < _GROUP and not self._waiting[0].alone:
                writes.append(self._waiting.popleft())
        self._bytes -= sum(write.size for write in writes)
        return writes

    def _write(self, write: _Write) -> Deferred[bool]:
        """
        @return: whether the storage has decided on the write.
        """
        method = getattr(self.storage, write.method)
        done: Deferred[Any] = maybeDeferred(method, *write.arguments)
        return done.addCallbacks(lambda ignored: True, self._failed, errbackArgs=(write.method,))

    def _failed(self, failure: Failure, action: str) -> bool:
        away = failure.check(StorageUnavailable, Overloaded) is not None
        if not away or not self._attempts:
            self._complain(failure, action)
        if away:
            # Said once for all that will be tried again.
            self._attempts = max(self._attempts, 1)
        return not away

    def _complain(self, failure: Failure, action: str) -> None:
        self._log.error(
            "storage does not follow",
            storage=self._name,
            write=action,
            error=failure.getErrorMessage(),
        )

    def _reached(self) -> None:
        if self._attempts:
            self._log.info("storage can be reached again", storage=self._name)
            self._attempts = 0

    async def _again(self, group: Sequence[_Write]) -> None:
        if self._stopping:
            self._give_up(len(group) + len(self._waiting))
        elif self._attempts >= _ATTEMPTS:
            self._attempts = 0
            self._log.error("storage does not take writes", storage=self._name, lost=len(group))
        else:
            self._attempts += 1
            self._waiting.extendleft(reversed(group))
            self._bytes += sum(write.size for write in group)
            self._pausing = deferLater(self._clock, _PAUSE)
            try:
                await self._pausing
            except CancelledError:
                # The end is near: one last attempt.
                return

    def _give_up(self, lost: int) -> None:
        self._waiting.clear()
        self._bytes = 0
        self._log.error("storage did not catch up before the end", storage=self._name, lost=lost)

    def _rest(self) -> None:
        self._busy = False
        idle, self._idle = self._idle, []
        for done in idle:
            done.callback(None)

    def _bug(self, failure: Failure) -> None:
        self._log.failure("storage stopped following", failure, storage=self._name)
        self._rest()


@implementer(IStorage)
class MirroredStorage:
    """
    @param first: answers everything.
    @param followers: get the same writes.
    """

    def __init__(self, first: IStorage, followers: Sequence[Follower]) -> None:
        self._first = first
        self._followers = followers
        self.association = first.association
        self.enrollment_of_certificate = first.enrollment_of_certificate
        self.fetch_bootstrap_token = first.fetch_bootstrap_token
        self.next_command = first.next_command
        # Whom the server pushes to is its own business, not what it keeps for others.
        self.push_certificate = first.push_certificate
        self.push_certificates = first.push_certificates
        self.push_targets = first.push_targets
        self.bury_push_token = first.bury_push_token
        self.forget_pushes = first.forget_pushes
        self.push_again = first.push_again
        self.repeat_step = first.repeat_step
        # Nor would anybody deliver their events.
        self.record_event = first.record_event
        self.claim_events = first.claim_events
        self.event_delivered = first.event_delivered
        self.event_postponed = first.event_postponed
        self.event_failed = first.event_failed
        self.release_events = first.release_events
        self.event_backlog = first.event_backlog
        self.failed_events = first.failed_events
        self.retry_events = first.retry_events
        # What operators see; what they change is written to all.
        self.ping = first.ping
        self.queue_summary = first.queue_summary
        self.list_enrollments = first.list_enrollments
        self.enrollment = first.enrollment
        self.list_queue = first.list_queue
        self.command = first.command
        self.list_targets = first.list_targets
        self.list_results = first.list_results
        self.result = first.result
        self.unlock_token = first.unlock_token
        self.encrypted = first.encrypted

    def start(self) -> None:
        for storage in self._all():
            storage.start()

    def stop(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        try:
            # Its last writes are the followers' too.
            await self._first.stop()
        finally:
            await DeferredList([follower.stop() for follower in self._followers])

    def _all(self) -> list[IStorage]:
        return [self._first, *(follower.storage for follower in self._followers)]

    def _write(self, method: str, *arguments: Any, event: Event | None = None) -> Deferred[Any]:
        """
        @param event: the first storage's alone.
        """
        told = {} if event is None else {"event": event}
        try:
            running: Deferred[Any] = getattr(self._first, method)(*arguments, **told)
        except Overloaded:
            return fail()
        return running.addCallback(self._lead, _Write(method, arguments))

    def _lead(self, result: R, write: _Write) -> R:
        for follower in self._followers:
            follower.follow(write)
        return result

    def store_authenticate(
        self,
        message: Authenticate,
        identity_pem: str,
        renews: Callable[[bytes], bool],
        event: Event | None = None,
    ) -> Deferred[bool]:
        return self._write("store_authenticate", message, identity_pem, renews, event=event)

    def store_token_update(self, message: TokenUpdate, event: Event | None = None) -> Deferred[int]:
        return self._write("store_token_update", message, event=event)

    def store_user_authenticate(
        self, message: UserAuthenticate, event: Event | None = None
    ) -> Deferred[None]:
        return self._write("store_user_authenticate", message, event=event)

    def disable(self, enrollment: Enrollment, event: Event | None = None) -> Deferred[None]:
        return self._write("disable", enrollment, event=event)

    def touch(self, enrollment_id: str) -> None:
        for storage in self._all():
            storage.touch(enrollment_id)

    def store_bootstrap_token(
        self, device_id: str, token: bytes | None, event: Event | None = None
    ) -> Deferred[None]:
        return self._write("store_bootstrap_token", device_id, token, event=event)

    def enqueue(self, command: Command, ids: Sequence[str]) -> Deferred[dict[str, str]]:
        return self._write("enqueue", command, ids)

    def store_report(
        self, report: CommandReport, event: Event | None = None
    ) -> Deferred[ReportOutcome]:
        return self._write("store_report", report, event=event)

    def associate(
        self, device_id: str, sha256: str, first_only: bool, grace: float, twin: str | None = None
    ) -> Deferred[AssociationFacts]:
        return self._write("associate", device_id, sha256, first_only, grace, twin)

    def store_migrated(self, message: Migratable) -> Deferred[bool]:
        return self._write("store_migrated", message)

    def store_push_certificate(
        self, topic: str, certificate_pem: str, key_pem: str
    ) -> Deferred[None]:
        return self._write("store_push_certificate", topic, certificate_pem, key_pem)

    def cancel_command(self, enrollment_id: str, command_uuid: str) -> Deferred[None]:
        return self._write("cancel_command", enrollment_id, command_uuid)

    def clear_queue(self, enrollment_id: str) -> Deferred[int]:
        return self._write("clear_queue", enrollment_id)

    def set_priority(self, enrollment_id: str, command_uuid: str, priority: int) -> Deferred[None]:
        return self._write("set_priority", enrollment_id, command_uuid, priority)

    def disable_enrollment(self, enrollment_id: str) -> Deferred[None]:
        return self._write("disable_enrollment", enrollment_id)

    def purge_enrollment(self, enrollment_id: str) -> Deferred[list[str]]:
        return self._write("purge_enrollment", enrollment_id)
