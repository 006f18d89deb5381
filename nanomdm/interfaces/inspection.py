"""
What operators see of enrollments, queues and answers, and what they change there.

All times are Unix seconds by the database's clock; all lists come in pages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from attrs import field, frozen
from twisted.internet.defer import Deferred
from zope.interface import Interface

from nanomdm.interfaces.devices import QueueSummary
from nanomdm.interfaces.pushes import DeadToken

T = TypeVar("T")


@frozen
class Page:
    """
    Which part of a list is asked for.

    @ivar limit: how many at most.
    @ivar cursor: where the part before it ended, as its L{Listing} says; L{None} to
        begin.
    """

    limit: int
    cursor: str | None = None


@frozen
class Listing(Generic[T]):
    """
    A part of a list.

    @ivar items: what it has.
    @ivar cursor: where to go on; L{None} at the end.
    """

    items: Sequence[T]
    cursor: str | None = None


#: Where a part of the secrets ended: only the storage knows what it means.
SecretsCursor = tuple[int, str | int]


@frozen
class SecretsPage:
    """
    What is encrypted in a part of the storage.

    @ivar keys: how many secrets there are, by the id of the key that they need.
    @ivar cursor: where to go on; L{None} at the end.
    """

    keys: Mapping[str, int]
    cursor: SecretsCursor | None = None


@frozen(kw_only=True)
class EnrollmentFilter:
    """
    Which enrollments are meant: those that have all of these; L{None} for any.

    @ivar serial: the serial number of the device.
    @ivar type: one of the texts of L{nanomdm.mdm.enrollment.EnrollmentType}.
    @ivar user: the user's short name, or the part of a user channel's id that names
        the user.
    @ivar seen_before: seconds ago.
    @ivar seen_after: seconds ago.
    @ivar pending: only those that have an outstanding command.
    """

    id: str | None = None
    serial: str | None = None
    type: str | None = None
    enabled: bool | None = None
    topic: str | None = None
    user: str | None = None
    seen_before: float | None = None
    seen_after: float | None = None
    pending: bool = False


@frozen(kw_only=True)
class EnrollmentFacts:
    """
    An enrollment, which exists from its first C{TokenUpdate} on.

    @ivar device_id: the device channel's id, which is C{id} itself for a device.
    @ivar children: of a device channel, the ids of its user channels, sorted.
    @ivar enrolled_at: the last C{Authenticate} of a device; when a user channel came.
    @ivar identity_pem: the certificate of the last C{Authenticate}.
    @ivar authenticate: the last C{Authenticate}, raw; L{None} if that is very long.
    @ivar bootstrap_token: whether the device has one; so C{unlock_token}.
    @ivar dead: why the push token is not used any more.
    @ivar queue_length: how many commands are outstanding.
    """

    id: str
    type: str
    device_id: str
    children: Sequence[str]
    serial_number: str | None
    user_short_name: str | None
    user_long_name: str | None
    topic: str
    enabled: bool
    token_update_tally: int
    last_seen_at: float
    enrolled_at: float
    identity_pem: str | None = field(repr=False)
    authenticate: str | None = field(repr=False)
    bootstrap_token: bool
    unlock_token: bool
    dead: DeadToken | None
    queue_length: int


@frozen(kw_only=True)
class OutstandingCommand:
    """
    A command that is to be answered.

    @ivar queued_at: when it was enqueued.
    @ivar not_now_at: when it was answered C{NotNow} for the first time; L{None} if
        it never was.
    @ivar not_now_count: how often.
    """

    command_uuid: str
    request_type: str
    priority: int
    queued_at: float
    not_now_at: float | None
    not_now_count: int


@frozen(kw_only=True)
class StoredCommand:
    """
    A command, whoever is to answer it.

    @ivar raw: its property list.
    @ivar created_at: when it was enqueued for the first time.
    """

    command_uuid: str
    request_type: str
    raw: bytes = field(repr=False)
    created_at: float


@frozen(kw_only=True)
class CommandTarget:
    """
    An enrollment that a command was queued for.

    @ivar active: whether it is in the queue still, unless it has a final answer.
    @ivar status: what was answered last; L{None} for nothing.
    @ivar answered_at: when.
    @ivar not_now_count: how often it was answered C{NotNow}.
    """

    id: str
    active: bool
    priority: int
    queued_at: float
    status: str | None
    answered_at: float | None
    not_now_count: int


@frozen(kw_only=True)
class ResultFilter:
    """
    Which answers are meant: those that have all of these; L{None} for any.

    @ivar since: answered less than so many seconds ago.
    """

    request_type: str | None = None
    status: str | None = None
    since: float | None = None


@frozen(kw_only=True)
class CommandAnswer:
    """
    What an enrollment answered to a command.

    @ivar answered_at: when, the last time.
    @ivar not_now_at: when it was answered C{NotNow} for the first time.
    @ivar raw: the answer.  In lists it is there only where the status tells of an
        error, and L{None} if that is long.
    """

    command_uuid: str
    request_type: str
    status: str
    answered_at: float
    not_now_at: float | None
    not_now_count: int
    raw: bytes | None = field(repr=False)


class IInspectionStore(Interface):
    """
    A look at what is there.  Methods about one enrollment raise
    L{nanomdm.errors.Unknown} when there is no such enrollment, those about one command
    also when that is not there.
    """

    def ping() -> Deferred[None]:
        """
        Ask the database something, to see whether it answers.

        @raise nanomdm.errors.StorageUnavailable: it does not, or took no write of late.
        """

    def queue_summary() -> Deferred[QueueSummary]:
        """
        Count enrollments and outstanding commands.  A replica may have been asked.
        """

    def list_enrollments(which: EnrollmentFilter, page: Page) -> Deferred[Listing[EnrollmentFacts]]:
        """
        @return: by id, in the order in which the database sorts ids.
        @raise MessageError: the cursor is none.
        """

    def enrollment(enrollment_id: str) -> Deferred[EnrollmentFacts]:
        """
        @return: one enrollment.
        """

    def list_queue(enrollment_id: str, page: Page) -> Deferred[Listing[OutstandingCommand]]:
        """
        @return: in the order in which they are delivered.
        @raise MessageError: the cursor is none.
        """

    def cancel_command(enrollment_id: str, command_uuid: str) -> Deferred[None]:
        """
        Take a command out of an enrollment's queue.  A device that has it already may
        answer still.

        @raise AlreadyAnswered: it has a final answer.
        """

    def clear_queue(enrollment_id: str) -> Deferred[int]:
        """
        Take all outstanding commands out of an enrollment's queue.

        @return: how many there were.
        """

    def set_priority(enrollment_id: str, command_uuid: str, priority: int) -> Deferred[None]:
        """
        @param priority: -128 to 127; higher comes first, 0 is what commands begin with.
        @raise AlreadyAnswered: the command has a final answer.
        """

    def command(command_uuid: str) -> Deferred[StoredCommand]:
        """
        @return: a command.
        """

    def list_targets(command_uuid: str, page: Page) -> Deferred[Listing[CommandTarget]]:
        """
        @return: by id, in the order in which the database sorts ids; nothing for an
            unknown command.
        @raise MessageError: the cursor is none.
        """

    def list_results(
        enrollment_id: str, which: ResultFilter, page: Page
    ) -> Deferred[Listing[CommandAnswer]]:
        """
        @return: the newest first.
        @raise MessageError: the cursor is none.
        """

    def result(enrollment_id: str, command_uuid: str) -> Deferred[CommandAnswer]:
        """
        @return: one answer, with C{raw}.
        """

    def unlock_token(device_id: str) -> Deferred[bytes | None]:
        """
        @return: a device's unlock token, or L{None} when it has none.
        @raise SecretUnreadable: there is one that can not be decrypted.
        """

    def encrypted(cursor: SecretsCursor | None) -> Deferred[SecretsPage]:
        """
        Look with which keys secrets are encrypted, some hundred of them.

        @param cursor: where the part before it ended; L{None} to begin.
        """

    def disable_enrollment(enrollment_id: str) -> Deferred[None]:
        """
        Disable a channel as its C{CheckOut} would; a device channel takes its user
        channels along.
        """

    def purge_enrollment(enrollment_id: str) -> Deferred[list[str]]:
        """
        Delete all that is known of a channel; with a device channel, all its user
        channels, its tokens and its certificate associations.  It has to enroll anew.

        @return: the ids of the enrollments that are gone, sorted.
        """
