"""
The contracts between the layers.

Every storage method returns a Deferred that fires after the transaction which
holds its effect is committed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from attrs import field, frozen
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from nanomdm.mdm.checkin import Authenticate, GetToken, TokenUpdate, UserAuthenticate
from nanomdm.mdm.command import Command, CommandReport
from nanomdm.mdm.enrollment import Enrollment
from nanomdm.mdm.event import Event
from nanomdm.mdm.migration import Migratable


@frozen
class AssociationFacts:
    """
    What the storage knows of one pair of device-channel id and certificate.

    @ivar associated: the pair was there before the call.
    @ivar superseded_for: seconds since a later certificate of the same id took
        over; L{None} when there is no later one.
    @ivar taken_by: another id that has the certificate.
    @ivar id_has_other: the id has another certificate.
    @ivar variant_of: an id that has this same certificate with another hash.
    @ivar spelled: another id that the database can not tell from this one.
    @ivar inserted: the pair was added by this call.
    """

    associated: bool
    superseded_for: float | None = None
    taken_by: str | None = None
    id_has_other: bool = False
    variant_of: str | None = None
    spelled: str | None = None
    inserted: bool = False


@frozen
class CertificateHolder:
    """
    Whom a certificate speaks for.

    @ivar device_id: the device-channel id.
    @ivar superseded_for: see L{AssociationFacts}.
    """

    device_id: str
    superseded_for: float | None = None


@frozen
class ReportOutcome:
    """
    What became of a command report.

    @ivar known: the command was in the enrollment's queue, its result is stored.
    @ivar next_command: the next command's property list, or L{None}.
    """

    known: bool
    next_command: bytes | None = field(repr=False)


@frozen
class QueueSummary:
    """
    How much there is in a storage.

    @ivar outstanding: queued commands without a final answer.
    @ivar enrollments: device and user channels that ever enrolled.
    @ivar enabled: those of them that are enabled.
    """

    outstanding: int
    enrollments: int
    enabled: int


class IEnrollmentStore(Interface):
    """
    What check-ins tell about enrollments.

    Methods that stand for a request take an C{event}, here and in the other stores.
    It is written in the same transaction, unless the call fails.
    """

    def store_authenticate(
        message: Authenticate,
        identity_pem: str,
        renews: Callable[[bytes], bool],
        event: Event | None = None,
    ) -> Deferred[bool]:
        """
        Begin an enrollment: store the message, the serial number and the
        certificate, forget the bootstrap and unlock tokens, disable the device
        and its user channels with their tally at 0 and deactivate their queues.

        A renewal only stores: the device is enabled and C{renews} says yes to
        one of its outstanding C{InstallProfile} commands.

        @param identity_pem: the certificate that signed the message.
        @param renews: a pure function over a command's property list.
        @return: whether it was a renewal.
        """

    def store_token_update(message: TokenUpdate, event: Event | None = None) -> Deferred[int]:
        """
        Store the push information and enable the channel.

        @param event: what is returned goes into its body.

        @return: how many token updates there were since the C{Authenticate}.
        @raise NotEnrolled: the device never sent an C{Authenticate}.
        """

    def store_user_authenticate(
        message: UserAuthenticate, event: Event | None = None
    ) -> Deferred[None]:
        """
        Store a user's log-in message.

        @raise NotEnrolled: the device never sent an C{Authenticate}.
        """

    def disable(enrollment: Enrollment, event: Event | None = None) -> Deferred[None]:
        """
        Disable one channel; a device channel takes its user channels along.
        """

    def touch(enrollment_id: str) -> None:
        """
        Note that an enrollment was seen.  Collected in memory and written at
        most once a second and at shutdown.
        """


class IBootstrapTokenStore(Interface):
    """
    Escrowed bootstrap tokens.
    """

    def store_bootstrap_token(
        device_id: str, token: bytes | None, event: Event | None = None
    ) -> Deferred[None]:
        """
        @param token: L{None} deletes it.
        @raise NotEnrolled: the device never sent an C{Authenticate}.
        """

    def fetch_bootstrap_token(device_id: str, event: Event | None = None) -> Deferred[bytes | None]:
        """
        @return: the token, or L{None} when there is none.
        """


class ICommandStore(Interface):
    """
    The command queue.
    """

    def enqueue(command: Command, ids: Sequence[str]) -> Deferred[dict[str, str]]:
        """
        Queue a command for every id that is enabled, in one transaction.  Ids
        that have it already are left alone; when no id can take it, nothing is
        stored.

        @param ids: distinct enrollment ids.
        @return: for each id that could not take it, the reason.
        @raise CommandConflict: the UUID exists with other bytes.
        """

    def next_command(enrollment_id: str, event: Event | None = None) -> Deferred[bytes | None]:
        """
        The outstanding command with the highest priority, then the oldest;
        commands answered C{NotNow} are offered again.

        @return: its property list, or L{None}.
        """

    def store_report(report: CommandReport, event: Event | None = None) -> Deferred[ReportOutcome]:
        """
        Store a result and look up the next command in the same transaction.
        After a C{NotNow} no command that was answered so is offered.  A final
        answer is never replaced by C{NotNow}.

        @param report: a report that is not idle.
        @raise TooLarge: the result does not fit into its column.
        """


class IAssociationStore(Interface):
    """
    Which certificate speaks for which device-channel id.
    """

    def association(device_id: str, sha256: str) -> Deferred[AssociationFacts]:
        """
        Look only.
        """

    def enrollment_of_certificate(sha256: str) -> Deferred[CertificateHolder | None]:
        """
        @return: the id that the certificate is associated with, the newest one of
            several; L{None} when there is none.
        """

    def associate(
        device_id: str, sha256: str, first_only: bool, grace: float, twin: str | None = None
    ) -> Deferred[AssociationFacts]:
        """
        Look, and add the pair when it is new and the certificate is free, in one
        atomic step.  A pair that is there already and not superseded for longer
        than C{grace} becomes the id's newest.

        @param first_only: add only when the id has no certificate at all, and
            leave an existing pair's age alone.
        @param grace: seconds for which a superseded pair can come back.
        @param twin: the other hash that this same certificate can have; if it
            is known, the pair is not added.
        @return: the facts before the call, and whether the pair was added.
        """


class IMigrationStore(Interface):
    """
    What another server knew.
    """

    def store_migrated(message: Migratable) -> Deferred[bool]:
        """
        Store a message that another server had of a device, unless it is stored
        already or the device has told this server more itself.  No certificate is
        associated.

        @return: whether it was stored.
        @raise AlreadyEnrolled: an C{Authenticate} of a device that has enrolled here
            itself, or anything of one whose id the database can not tell from
            another's.
        @raise NotEnrolled: anything else of a device without an C{Authenticate}.
        """


@frozen
class DeadToken:
    """
    Why a push token is not used any more until the next C{TokenUpdate}.

    @ivar status: the HTTP status that APNs answered.
    @ivar reason: its reason.
    """

    status: int
    reason: str


@frozen
class PushTarget:
    """
    What is needed to push to an enrollment.

    @ivar topic: the push topic.
    @ivar token_hex: the push token, hex, as stored.
    @ivar push_magic: what the device recognizes a push by.
    @ivar enabled: whether the enrollment is.
    @ivar tally: which token update this came with.
    @ivar stale_token: the version of the topic's push certificate; L{None} when
        there is none.
    @ivar dead: that the token is dead, if it is.
    """

    id: str
    topic: str
    token_hex: str = field(repr=False)
    push_magic: str = field(repr=False)
    enabled: bool
    tally: int
    stale_token: int | None
    dead: DeadToken | None = None


@frozen
class StoredPushCertificate:
    """
    A push certificate as the storage has it, which may come from elsewhere.

    @ivar certificate_pem: the certificate, and intermediates behind it if any.
    @ivar key_pem: its private key.
    @ivar stale_token: its version, see L{PushTarget}.
    """

    topic: str
    certificate_pem: str = field(repr=False)
    key_pem: str = field(repr=False)
    stale_token: int


@frozen
class PushAgain:
    """
    What is due to be pushed again, and how often it was already.

    @ivar step: 0 for the first time after the push.
    """

    id: str
    step: int


class IPushStore(Interface):
    """
    Push certificates, tokens, and who waits for another push.
    """

    def store_push_certificate(topic: str, certificate_pem: str, key_pem: str) -> Deferred[None]:
        """
        Store or replace a topic's certificate; its C{stale_token} is 0 at first
        and one more at each replacement.

        @raise TooLarge: it does not fit into its column.
        """

    def push_certificate(topic: str) -> Deferred[StoredPushCertificate | None]:
        """
        @return: a topic's certificate, or L{None}.
        """

    def push_certificates() -> Deferred[list[tuple[str, str]]]:
        """
        @return: all topics with their certificates' PEM, by topic.
        """

    def push_targets(ids: Sequence[str], schedule: bool) -> Deferred[dict[str, PushTarget]]:
        """
        Look up what is needed to push.

        @param schedule: note that the enabled ones are pushed to now, so that
            L{push_again} finds those that do not connect.  Their schedule
            starts from its beginning.
        @return: the targets of those ids that exist.
        """

    def bury_push_token(target: PushTarget, dead: DeadToken, ago: float) -> Deferred[bool]:
        """
        Mark a token dead until the enrollment's next C{TokenUpdate}, unless there
        was one since the token was looked up or since APNs found it dead.

        @param ago: seconds since APNs found it dead.
        @return: whether it is marked.
        """

    def forget_pushes(ids: Sequence[str]) -> Deferred[None]:
        """
        Do not push to these again of the server's own accord.
        """

    def push_again(server: str, limit: int) -> Deferred[list[PushAgain]]:
        """
        Find enrollments that have something outstanding and did not connect after
        their push, for as long as it takes no other server finds any; and note
        that they are pushed to now, with the next step's time.

        Left out are enrollments whose outstanding commands were all answered
        C{NotNow} within the last hour: they come later.  Those that connected,
        have nothing outstanding, are disabled or have a dead token are done.

        @param server: a name for this server, unique to the process.
        @param limit: how many at most, of each step.  The others stay due.
        @return: those first that have been due for longest.
        """

    def repeat_step(due: Sequence[PushAgain]) -> Deferred[None]:
        """
        The pushes did not reach APNs, so they do not count: their step comes again,
        within half an hour.

        @param due: some of what L{push_again} found.
        """


@frozen
class QueuedEvent:
    """
    An event that waits for its delivery.

    @ivar number: higher than those of the enrollment's earlier events.
    @ivar body: what is delivered.
    @ivar age: whole seconds since it was written.
    @ivar attempts: how often its delivery failed.
    """

    number: int
    enrollment_id: str
    body: bytes = field(repr=False)
    age: float
    attempts: int


@frozen
class FailedEvent:
    """
    An event that was given up.

    @ivar event_id: the trace id of its request.
    @ivar topic: C{mdm.} and what came.
    @ivar created: when it was written, in Unix seconds.
    @ivar failed_at: when it was given up, in Unix seconds.
    @ivar attempts: how often its delivery failed.
    @ivar reason: why, the last time.
    """

    number: int
    event_id: str
    topic: str
    enrollment_id: str
    created: int
    failed_at: int
    attempts: int
    reason: str


@frozen
class Backlog:
    """
    How many events there are.

    @ivar waiting: those to be delivered.
    @ivar oldest: whole seconds since the first of these was written; L{None} when
        there is none.
    @ivar failed: those that were given up.
    """

    waiting: int
    oldest: float | None
    failed: int


class IEventStore(Interface):
    """
    Events for the webhook, which any of the servers on a database delivers, in order
    for each enrollment.

    A server takes enrollments in hand with L{claim_events}.  It has one event of each
    at a time, and says what came of it before it gets the next.  When it says nothing
    until the lease ends, another server can take the enrollment: so everything that
    is done with an event must have ended by then.
    """

    def record_event(event: Event) -> Deferred[None]:
        """
        Write the event of a request that stores nothing else.
        """

    def claim_events(server: str, streams: int, lease: float) -> Deferred[list[QueuedEvent]]:
        """
        Take enrollments in hand that have an event which is due.

        @param server: a name for this server, unique to the process.
        @param streams: how many enrollments at most.  A body may be a third larger
            than the largest request, so this bounds the memory, too.
        @param lease: seconds until another server can have them; they begin again
            with each event.
        @return: the first event of each, those first that were due first.
        """

    def event_delivered(server: str, event: QueuedEvent) -> Deferred[QueuedEvent | None]:
        """
        Delete an event and go on.

        @return: the enrollment's next event; L{None} when there is none, and the
            server has the enrollment in hand no longer.
        @raise LeaseLost: another server has the enrollment, or the event is gone.
        """

    def event_postponed(server: str, event: QueuedEvent, delay: float) -> Deferred[None]:
        """
        Count a failed delivery and let go of the enrollment.

        @param delay: seconds until it is due again, rounded up.
        @raise LeaseLost: as for L{event_delivered}.
        """

    def event_failed(server: str, event: QueuedEvent, reason: str) -> Deferred[QueuedEvent | None]:
        """
        Count a failed delivery, keep the event apart and go on as after
        L{event_delivered}.

        @param reason: why; without secrets, since it is listed.
        @raise LeaseLost: as for L{event_delivered}.
        """

    def release_events(server: str) -> Deferred[None]:
        """
        Let go of all enrollments, so that any server can have them at once.
        """

    def event_backlog() -> Deferred[Backlog]:
        """
        Count the events.
        """

    def failed_events(limit: int, after: int) -> Deferred[list[FailedEvent]]:
        """
        @param limit: how many at most.
        @param after: the number of the last one before them; 0 to begin.
        @return: events that were given up, by number.
        """

    def retry_events(numbers: Sequence[int] | None) -> Deferred[int]:
        """
        Deliver events again that were given up.  They are as if they had just been
        written: behind all others of their enrollment, with new numbers, in the
        order that they had among themselves.

        @param numbers: which; L{None} for all.
        @return: how many of them there were.
        """


class IStorage(
    IEnrollmentStore,
    IBootstrapTokenStore,
    ICommandStore,
    IAssociationStore,
    IMigrationStore,
    IPushStore,
    IEventStore,
):
    """
    Everything that must outlive the process.
    """

    def start() -> None:
        """
        Begin to serve; called once the process is where it will stay.
        """

    def stop() -> Deferred[None]:
        """
        Write what is still in memory and close.
        """


@frozen
class PushResult:
    """
    What became of one push.

    @ivar id: APNs' id of the push.
    @ivar error: why it failed.
    @ivar status: the HTTP status that APNs answered, of a push that failed.
    @ivar reason: APNs' reason.
    """

    id: str | None = None
    error: str | None = None
    status: int | None = None
    reason: str | None = None


class IPusher(Interface):
    """
    Wakes enrollments.
    """

    def push(
        ids: Sequence[str], force: bool = False, again: bool = False
    ) -> Deferred[Mapping[str, PushResult]]:
        """
        @param ids: distinct enrollment ids.
        @param force: try also tokens that are known to be dead.
        @param again: these are pushed to again, as L{IPushStore.push_again} found
            them.
        @return: a result for each of them.
        @raise NanoMDMError: nothing was pushed, such as when the storage is away.
        """


class ITokenHandler(Interface):
    """
    Answers C{GetToken} for one C{TokenServiceType}, or for all that no other one does.
    """

    service_type = Attribute("The C{TokenServiceType} it answers; L{None} for the others.")

    def token(message: GetToken) -> Deferred[bytes]:
        """
        @return: what the device gets as C{TokenData}.
        @raise MessageError: there are no tokens of that type.
        """
