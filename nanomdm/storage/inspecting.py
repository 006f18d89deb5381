"""
The part of the storage on SQL that operators look at and change things with.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred

from nanomdm.errors import StorageUnavailable
from nanomdm.interfaces import (
    CommandAnswer,
    CommandTarget,
    EnrollmentFacts,
    EnrollmentFilter,
    Listing,
    OutstandingCommand,
    Page,
    QueueSummary,
    ResultFilter,
    SecretsCursor,
    SecretsPage,
    StoredCommand,
)
from nanomdm.storage import inspection, listing, queues, removal, results, secretrows, tokens
from nanomdm.storage.database import Database


class InspectingStorage:
    """
    L{nanomdm.interfaces.IInspectionStore} on a database.

    @param database: the storage's.
    @param replica: a copy that may lag.  It answers what nobody decides by: how much
        there is.
    """

    def __init__(self, database: Database, replica: Database | None) -> None:
        self._database = database
        self._replica = replica
        self._look = database.look

    def ping(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._ping())

    async def _ping(self) -> None:
        await self._database.read(inspection.ping, None)
        if self._database.refuses_writes:
            raise StorageUnavailable("the database does not take writes")

    def queue_summary(self) -> Deferred[QueueSummary]:
        """
        @return: what a replica, if there is one, knows of the queue.
        """
        return inspection.queue_summary(self._replica or self._database)

    # enrollments

    def list_enrollments(
        self, which: EnrollmentFilter, page: Page
    ) -> Deferred[Listing[EnrollmentFacts]]:
        return self._look(listing.enrollments, (which, page))

    def enrollment(self, enrollment_id: str) -> Deferred[EnrollmentFacts]:
        return self._look(listing.enrollment, enrollment_id)

    def unlock_token(self, device_id: str) -> Deferred[bytes | None]:
        return self._look(tokens.fetch_unlock, device_id)

    def encrypted(self, cursor: SecretsCursor | None) -> Deferred[SecretsPage]:
        return self._look(secretrows.count_pages, cursor)

    def disable_enrollment(self, enrollment_id: str) -> Deferred[None]:
        return self._database.write(removal.disable, enrollment_id)

    def purge_enrollment(self, enrollment_id: str) -> Deferred[list[str]]:
        return self._database.write_alone(removal.purge, enrollment_id)

    # queues

    def list_queue(self, enrollment_id: str, page: Page) -> Deferred[Listing[OutstandingCommand]]:
        return self._look(queues.outstanding, (enrollment_id, page))

    def cancel_command(self, enrollment_id: str, command_uuid: str) -> Deferred[None]:
        return self._database.write(queues.cancel, (enrollment_id, command_uuid))

    def clear_queue(self, enrollment_id: str) -> Deferred[int]:
        return self._database.write_alone(queues.clear, enrollment_id)

    def set_priority(self, enrollment_id: str, command_uuid: str, priority: int) -> Deferred[None]:
        call = (enrollment_id, command_uuid, priority)
        return self._database.write(queues.set_priority, call)

    # commands and answers

    def command(self, command_uuid: str) -> Deferred[StoredCommand]:
        return self._look(results.command, command_uuid)

    def list_targets(self, command_uuid: str, page: Page) -> Deferred[Listing[CommandTarget]]:
        return self._look(results.targets, (command_uuid, page))

    def list_results(
        self, enrollment_id: str, which: ResultFilter, page: Page
    ) -> Deferred[Listing[CommandAnswer]]:
        return self._look(results.answers, (enrollment_id, which, page))

    def result(self, enrollment_id: str, command_uuid: str) -> Deferred[CommandAnswer]:
        return self._look(results.answer, (enrollment_id, command_uuid))
