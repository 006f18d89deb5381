"""
Who is pushed to, and with what; and who pushes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import field, frozen
from twisted.internet.defer import Deferred
from zope.interface import Interface


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
class ListedPushCertificate:
    """
    A push certificate without its key.

    @ivar key_problem: why the key can not be read, if so.
    """

    topic: str
    certificate_pem: str = field(repr=False)
    key_problem: str | None = None


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
        @raise PushKeyUnreadable: there is one, and its key can not be decrypted.
        """

    def push_certificates() -> Deferred[list[ListedPushCertificate]]:
        """
        @return: the certificates of all topics, by topic.
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
