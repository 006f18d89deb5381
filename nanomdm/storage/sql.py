"""
The storage on SQL: each method names its operation and where it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from nanomdm.interfaces import (
    AssociationFacts,
    Backlog,
    CertificateHolder,
    DeadToken,
    FailedEvent,
    IStorage,
    ListedPushCertificate,
    PushAgain,
    PushTarget,
    QueuedEvent,
    ReportOutcome,
    StoredPushCertificate,
)
from nanomdm.mdm.checkin import Authenticate, TokenUpdate, UserAuthenticate
from nanomdm.mdm.command import Command, CommandReport
from nanomdm.mdm.enrollment import Enrollment
from nanomdm.mdm.event import Event
from nanomdm.mdm.migration import Migratable
from nanomdm.storage import (
    associations,
    commands,
    enrollments,
    migrated,
    pushcerts,
    pushes,
    repush,
    tokens,
    webhook,
    webhook_failed,
)
from nanomdm.storage.batcher import Operation
from nanomdm.storage.database import Database
from nanomdm.storage.inspecting import InspectingStorage
from nanomdm.storage.transaction import chunks
from nanomdm.storage.upkeep import Upkeep

#: Ids in one call from which on it takes long enough to disturb others: of those
#: that enqueue, and of those that begin schedules.
_LARGE = 1000
_LARGE_PUSH = 100

#: Seconds between two writes of C{last_seen_at}.
_SEEN_INTERVAL = 1.0

#: Seconds without one after one that failed.
_SEEN_PAUSE = 30.0


@implementer(IStorage)
class SQLStorage(InspectingStorage):
    """
    L{IStorage} on a database.

    @param database: runs operations in transactions.
    @param clock: when to write what was collected in memory.
    @param upkeep: keeps the queue short.
    @param delete: answered commands are deleted, not kept with their results.
    @param replica: a copy that may lag; only inspection may read it.
    """

    _log = Logger()

    def __init__(
        self,
        database: Database,
        clock: IReactorTime,
        upkeep: Upkeep | None = None,
        delete: bool = False,
        replica: Database | None = None,
    ) -> None:
        super().__init__(database, replica)
        self._upkeep = upkeep
        self._store_report = commands.store_and_delete if delete else commands.store_report
        self._read = database.read
        self._write = database.write
        self._clock = clock
        self._seen: set[str] = set()
        self._seen_after = 0.0
        self._seen_writer = LoopingCall(self._write_seen)
        self._seen_writer.clock = clock

    def start(self) -> None:
        self._seen_writer.start(_SEEN_INTERVAL, now=False).addErrback(self._seen_failed)
        if self._upkeep is not None:
            self._upkeep.start()

    def stop(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._seen_writer.running:
            self._seen_writer.stop()
        last = [Deferred.fromCoroutine(self._flush_seen())]
        if self._upkeep is not None:
            last.append(self._upkeep.stop())
        # Closing waits for what these have under way, up to its deadline.
        databases = [self._database, *([self._replica] if self._replica else [])]
        await gatherResults([Deferred.fromCoroutine(one.close()) for one in databases])
        await gatherResults(last)

    # enrollments

    def store_authenticate(
        self,
        message: Authenticate,
        identity_pem: str,
        renews: Callable[[bytes], bool],
        event: Event | None = None,
    ) -> Deferred[bool]:
        call = enrollments.AuthenticateCall(message, identity_pem, renews)
        return self._tell(event, self._write, enrollments.authenticate, call)

    def store_token_update(self, message: TokenUpdate, event: Event | None = None) -> Deferred[int]:
        if event is None:
            return self._write(enrollments.token_update, message)
        return self._write(
            webhook.recorded(enrollments.token_update, tallies=True), (message, event)
        )

    def store_user_authenticate(
        self, message: UserAuthenticate, event: Event | None = None
    ) -> Deferred[None]:
        return self._tell(event, self._write, enrollments.user_authenticate, message)

    def disable(self, enrollment: Enrollment, event: Event | None = None) -> Deferred[None]:
        return self._tell(event, self._write, enrollments.disable, enrollment)

    def touch(self, enrollment_id: str) -> None:
        self._seen.add(enrollment_id)

    # bootstrap tokens

    def store_bootstrap_token(
        self, device_id: str, token: bytes | None, event: Event | None = None
    ) -> Deferred[None]:
        call = tokens.BootstrapToken(device_id, token)
        return self._tell(event, self._write, tokens.store_bootstrap, call)

    def fetch_bootstrap_token(
        self, device_id: str, event: Event | None = None
    ) -> Deferred[bytes | None]:
        return self._tell(event, self._read, tokens.fetch_bootstrap, device_id)

    # commands

    def enqueue(self, command: Command, ids: Sequence[str]) -> Deferred[dict[str, str]]:
        call = commands.EnqueueCall(command, ids)
        if len(ids) > _LARGE:
            return self._database.write_alone(commands.enqueue, call)
        return self._write(commands.enqueue, call)

    def next_command(
        self, enrollment_id: str, event: Event | None = None
    ) -> Deferred[bytes | None]:
        return self._tell(event, self._read, commands.next_command, enrollment_id)

    def store_report(
        self, report: CommandReport, event: Event | None = None
    ) -> Deferred[ReportOutcome]:
        return self._tell(event, self._write, self._store_report, report)

    # certificate associations

    def association(self, device_id: str, sha256: str) -> Deferred[AssociationFacts]:
        return self._read(associations.facts, associations.Pair(device_id, sha256))

    def enrollment_of_certificate(self, sha256: str) -> Deferred[CertificateHolder | None]:
        return self._read(associations.holders, sha256)

    def associate(
        self, device_id: str, sha256: str, first_only: bool, grace: float, twin: str | None = None
    ) -> Deferred[AssociationFacts]:
        pair = associations.Pair(device_id, sha256)
        call = associations.AssociateCall(pair, first_only, grace, twin)
        return self._write(associations.associate, call)

    # migration

    def store_migrated(self, message: Migratable) -> Deferred[bool]:
        return self._write(migrated.store, message)

    # pushes

    def store_push_certificate(
        self, topic: str, certificate_pem: str, key_pem: str
    ) -> Deferred[None]:
        return self._write(pushcerts.store, (topic, certificate_pem, key_pem))

    def push_certificate(self, topic: str) -> Deferred[StoredPushCertificate | None]:
        return self._read(pushcerts.fetch, topic)

    def push_certificates(self) -> Deferred[list[ListedPushCertificate]]:
        return self._read(pushcerts.fetch_all, None)

    def push_targets(self, ids: Sequence[str], schedule: bool) -> Deferred[dict[str, PushTarget]]:
        if not schedule:
            return self._read(pushes.targets, ids)
        write = self._database.write_alone if len(ids) > _LARGE_PUSH else self._write
        return write(pushes.targets_pushed_now, ids)

    def bury_push_token(self, target: PushTarget, dead: DeadToken, ago: float) -> Deferred[bool]:
        return self._write(pushes.bury, pushes.BuryCall(target, dead, ago))

    def forget_pushes(self, ids: Sequence[str]) -> Deferred[None]:
        return self._write(pushes.forget, ids)

    def push_again(self, server: str, limit: int) -> Deferred[list[PushAgain]]:
        return self._database.write_alone(repush.push_again, repush.Round(server, limit))

    def repeat_step(self, due: Sequence[PushAgain]) -> Deferred[None]:
        return self._database.write_alone(repush.repeat_step, due)

    # events

    def _tell(
        self,
        event: Event | None,
        untold: Callable[[Operation, Any], Deferred[Any]],
        operation: Operation,
        argument: Any,
    ) -> Deferred[Any]:
        """
        Run an operation, and write its event in the same transaction.

        @param untold: runs it when there is no event.
        """
        if event is None:
            return untold(operation, argument)
        return self._write(webhook.recorded(operation), (argument, event))

    def _settle(
        self, server: str, event: QueuedEvent, outcome: webhook.Outcome, **more: Any
    ) -> Deferred[Any]:
        attempt = webhook.Attempt(server, event, outcome, **more)
        return self._database.write_beside(webhook.settle, attempt)

    def record_event(self, event: Event) -> Deferred[None]:
        return self._write(webhook.record, event)

    def claim_events(self, server: str, streams: int, lease: float) -> Deferred[list[QueuedEvent]]:
        return self._database.write_alone(webhook.claim, webhook.Claim(server, streams, lease))

    def event_delivered(self, server: str, event: QueuedEvent) -> Deferred[QueuedEvent | None]:
        return self._settle(server, event, webhook.Outcome.DELIVERED)

    def event_postponed(self, server: str, event: QueuedEvent, delay: float) -> Deferred[None]:
        return self._settle(server, event, webhook.Outcome.POSTPONED, delay=delay)

    def event_failed(
        self, server: str, event: QueuedEvent, reason: str
    ) -> Deferred[QueuedEvent | None]:
        return self._settle(server, event, webhook.Outcome.FAILED, reason=reason)

    def release_events(self, server: str) -> Deferred[None]:
        return self._database.write_alone(webhook.release, server)

    def event_backlog(self) -> Deferred[Backlog]:
        # Counting many takes long.
        return self._database.write_alone(webhook_failed.backlog, None)

    def failed_events(self, limit: int, after: int) -> Deferred[list[FailedEvent]]:
        return self._read(webhook_failed.fetch, webhook_failed.Page(limit, after))

    def retry_events(self, numbers: Sequence[int] | None) -> Deferred[int]:
        return Deferred.fromCoroutine(self._retry_events(numbers))

    async def _retry_events(self, numbers: Sequence[int] | None) -> int:
        if numbers is None:
            numbers = await self._database.write_alone(webhook_failed.numbers, None)
        count = 0
        for piece in chunks(sorted(set(numbers)), webhook_failed.PIECE):
            count += await self._database.write_alone(webhook_failed.retry, piece)
        return count

    # last seen

    def _write_seen(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._flush_seen())

    async def _flush_seen(self) -> None:
        if not self._seen or self._clock.seconds() < self._seen_after:
            return
        ids, self._seen = self._seen, set()
        try:
            await self._write(enrollments.seen, sorted(ids))
        except Exception as error:
            # Not worth failing for, nor worth getting in the way of what is; a
            # later write has them.
            self._seen |= ids
            self._seen_after = self._clock.seconds() + _SEEN_PAUSE
            self._log.warn("last seen times not written yet", error=str(error))

    def _seen_failed(self, failure: Failure) -> None:
        self._log.failure("last seen times are no longer written", failure)
