"""
What the storage does for devices: enrollments, tokens, commands, certificates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
        @raise SecretUnreadable: there is one that can not be decrypted.
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
