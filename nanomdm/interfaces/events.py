"""
What the webhook has yet to be told.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import field, frozen
from twisted.internet.defer import Deferred
from zope.interface import Interface

from nanomdm.mdm.event import Event


@frozen
class QueuedEvent:
    """
    An event that waits for its delivery.

    @ivar number: higher than those of the enrollment's earlier events.
    @ivar body: what is delivered.
    @ivar age: whole seconds since it was written.
    @ivar attempts: how often its delivery failed.
    @ivar unreadable: why C{body} can not be told, if so; it then is nothing to be
        delivered.
    """

    number: int
    enrollment_id: str
    body: bytes = field(repr=False)
    age: float
    attempts: int
    unreadable: str | None = None


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
