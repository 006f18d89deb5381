"""
The webhook: what devices did is told to a receiver, which no device waits for.

Requests leave events in the storage.  Every server that has a receiver takes enrollments
in hand which have some, and delivers the events of each in their order.  What it does not
come to tell the storage about, such as when it dies, is delivered once more.
"""

from __future__ import annotations

import re
from contextlib import suppress
from random import Random
from typing import Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from nanomdm.errors import LeaseLost, NanoMDMError, OutboundError
from nanomdm.interfaces import IEventStore, QueuedEvent
from nanomdm.metrics.webhook import WebhookMetrics
from nanomdm.network import bounded
from nanomdm.servername import server_name
from nanomdm.service.outage import Outage
from nanomdm.service.receiver import Receiver

#: Seconds for which enrollments are in hand: longer than a request takes.
_LEASE: Final = 60.0

#: Seconds after which to look for what other servers left, and what part of them they
#: vary by; seconds at most when looking fails.
_POLL: Final = 5.0
_JITTER: Final = 0.2
_LONGEST_POLL: Final = 60.0

#: Seconds in which news gather, and in which enrollments come to their end while others
#: wait; and how many are begun with at once.  What devices wait for goes first.
_GATHER: Final = 0.05
_NEXT: Final = 0.005
_AT_ONCE: Final = 16

#: Events of an enrollment that are delivered in a row while others wait.
_TURN: Final = 100

#: Seconds before an event is tried again: at first, doubled each time, at most.
_FIRST_DELAY: Final = 1.0
_LONGEST_DELAY: Final = 900.0

#: Seconds that requests under way get to end at a stop, and that the storage gets then.
_GRACE: Final = 3.0
_LAST_WORDS: Final = 3.0

#: How bodies begin, see L{nanomdm.mdm.event.Event.body}.
_HEAD: Final = re.compile(rb'\{"topic": "([\w.]+)", "event_id": "(\w+)"')


class Webhook:
    """
    Delivers events.

    @param store: has them.
    @param receiver: gets them.
    @param clock: the clock.
    @param random: for pauses, and for a name that no other server has.
    @param concurrency: how many are delivered at once, each of another enrollment.
    @param max_age: seconds after which an event that can not be delivered is given up.
    @param metrics: counts deliveries.
    """

    _log = Logger()

    def __init__(
        self,
        store: IEventStore,
        receiver: Receiver,
        clock: IReactorTime,
        random: Random,
        concurrency: int = 16,
        max_age: float = 259_200,
        metrics: WebhookMetrics | None = None,
    ) -> None:
        self._store = store
        self._receiver = receiver
        self._clock = clock
        self._random = random
        self._concurrency = concurrency
        self._max_age = max_age
        self._metrics = metrics or WebhookMetrics()
        self._server = ""
        self._outage = Outage()
        self._in_hand: set[Deferred[None]] = set()
        self._claim: Deferred[None] | None = None
        self._timer: IDelayedCall | None = None
        # Whether there may be more than could be taken in hand; or has come since.
        self._full = False
        self._news = False
        # Whether an event was given up in the outage, so that others are due for that.
        self._giving_up = False
        self._refused = 0
        # When to look again at the latest, and when not yet.
        self._due_again = float("inf")
        self._not_before = float("-inf")
        self._stopping = True

    def start(self) -> None:
        """
        Begin.
        """
        # Not before: twistd has forked by now.
        self._server = server_name(self._random)
        self._stopping = False
        self._look_in(0)

    def stop(self) -> Deferred[None]:
        """
        Begin nothing new.

        @return: fires within seconds, once nothing is under way and other servers can go
            on with what was in hand.
        """
        self._stopping = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return Deferred.fromCoroutine(self._end())

    def wake(self) -> None:
        """
        Look soon: there is something new.
        """
        self._news = True
        self._look_in(_GATHER)

    # looking for what is due

    def _look_in(self, delay: float) -> None:
        """
        Look so many seconds from now at the latest.
        """
        if self._stopping or self._claim is not None:
            return
        now = self._clock.seconds()
        due = max(now + delay, self._earliest())
        if self._timer is not None:
            if self._timer.getTime() <= due:
                return
            self._timer.cancel()
        self._timer = self._clock.callLater(due - now, self._look)

    def _earliest(self) -> float:
        return max(self._not_before, self._outage.until if self._outage.on else 0)

    def _look(self) -> None:
        self._timer = None
        if self._clock.seconds() < self._earliest():
            self._look_in(0)
            return
        if self._clock.seconds() >= self._due_again:
            self._due_again = float("inf")
        room = self._room()
        # Without room, the next one that ends looks again.
        self._full, self._news = not room, False
        if room:
            claim = self._claim = Deferred.fromCoroutine(self._take(room))
            claim.addErrback(self._bug).addCallback(self._taken)

    def _room(self) -> int:
        """
        @return: how many enrollments can be taken in hand.
        """
        if not self._outage.on:
            return min(self._concurrency - len(self._in_hand), _AT_ONCE)
        if self._in_hand:
            return 0
        return min(self._concurrency, _AT_ONCE) if self._giving_up else 1

    async def _take(self, room: int) -> None:
        try:
            events = await self._store.claim_events(self._server, room, _LEASE)
        except Exception:
            self._refuse(Failure())
            return
        if self._refused:
            self._refused = 0
            self._log.info("webhook events can be read again")
        self._full = len(events) == room
        hopeless = self._outage.on and self._giving_up
        self._giving_up = False
        for event in events:
            self._begin(event, hopeless)

    def _refuse(self, failure: Failure) -> None:
        if not self._refused and not self._stopping:
            text = "webhook events can not be read"
            if failure.check(NanoMDMError):
                self._log.warn(text, error=failure.getErrorMessage())
            else:
                self._log.failure(text, failure)
        self._refused += 1
        pause = min(_POLL * 2.0 ** min(self._refused - 1, 10), _LONGEST_POLL)
        self._not_before = self._clock.seconds() + self._jittered(pause)

    def _taken(self, ignored: None) -> None:
        self._claim = None
        if self._full or self._news:
            self._look_in(_NEXT if self._full else _GATHER)
        # At the latest: of what others leave nobody tells.
        pause = self._jittered(_POLL)
        self._look_in(min(pause, max(0, self._due_again - self._clock.seconds())))

    def _jittered(self, pause: float) -> float:
        return pause * self._random.uniform(1 - _JITTER, 1 + _JITTER)

    # delivering

    def _begin(self, event: QueuedEvent, hopeless: bool) -> None:
        work = Deferred.fromCoroutine(self._deliver(event, hopeless))
        self._in_hand.add(work)
        work.addErrback(self._failure, event).addCallback(self._let_go, work)

    def _let_go(self, ignored: None, work: Deferred[None]) -> None:
        self._in_hand.discard(work)
        if self._full:
            self._look_in(_NEXT)

    async def _deliver(self, event: QueuedEvent, hopeless: bool) -> None:
        """
        Deliver the events of an enrollment, as long as that works.

        @param hopeless: not even try the first one: the receiver has just failed.
        """
        turn = 0
        current: QueuedEvent | None = event
        while current is not None and not self._stopping:
            turn += 1
            if turn > _TURN and self._full:
                # Behind all others.
                await self._store.event_postponed(self._server, current, 0)
                return
            # What stands behind one that failed is not even tried in an outage.
            untried = self._outage.on and (hopeless or turn > 1)
            reason = self._outage.reason if untried else await self._attempt(current)
            if reason is None:
                current = await self._store.event_delivered(self._server, current)
            elif self._stopping:
                # It may be the stop that ended it.
                return
            else:
                current = await self._not_delivered(current, reason)

    async def _attempt(self, event: QueuedEvent) -> str | None:
        """
        @return: why the receiver did not take the event, if it did not.
        """
        if event.unreadable is not None:
            # Nothing is wrong with the receiver.  The key may be there the next time.
            if not event.attempts:
                self._log.error(
                    "webhook event not delivered, it will be tried again",
                    error=event.unreadable,
                    **_described(event),
                )
            return event.unreadable
        began = self._clock.seconds()
        try:
            await self._receiver.post(event.body)
        except OutboundError as error:
            if not self._stopping:
                self._metrics.attempted(False, self._clock.seconds() - began)
                self._count_failure(event, str(error))
            return str(error)
        self._metrics.attempted(True, self._clock.seconds() - began)
        if self._outage.over():
            self._log.info(
                "webhook receiver takes events again",
                seconds=round(self._clock.seconds() - self._outage.since),
            )
        return None

    def _count_failure(self, event: QueuedEvent, reason: str) -> None:
        was_on = self._outage.on
        now = self._clock.seconds()
        self._outage.failed(event.enrollment_id, now, reason, self._random)
        if self._outage.on and not was_on:
            self._log.warn("webhook receiver fails, events wait for it", error=reason)
        elif not was_on and not event.attempts:
            self._log.warn(
                "webhook event not delivered, it will be tried again",
                error=reason,
                **_described(event),
            )

    async def _not_delivered(self, event: QueuedEvent, reason: str) -> QueuedEvent | None:
        left = self._max_age - event.age
        if left <= 0:
            following = await self._store.event_failed(self._server, event, reason)
            self._giving_up = self._outage.on
            self._metrics.given_up()
            self._log.error("webhook event given up", error=reason, **_described(event))
            return following
        delay = min(self._delay(event.attempts), max(left, _FIRST_DELAY))
        await self._store.event_postponed(self._server, event, delay)
        # The storage counts in whole seconds.
        self._due_again = min(self._due_again, self._clock.seconds() + delay + 1)
        self._look_in(delay + 1)
        return None

    def _delay(self, attempts: int) -> float:
        """
        @return: seconds until the next attempt, with full jitter.
        """
        if self._outage.on:
            # The outage's own pauses are what counts.
            return _FIRST_DELAY
        longest = min(_FIRST_DELAY * 2.0 ** min(attempts, 20), _LONGEST_DELAY)
        return self._random.uniform(0, longest)

    def _failure(self, failure: Failure, event: QueuedEvent) -> None:
        """
        The storage was not told of an event: it comes again when the lease has ended.
        """
        if failure.check(LeaseLost, CancelledError) or self._stopping:
            return
        if not failure.check(NanoMDMError):
            self._log.failure("unexpected error", failure)
            return
        self._log.warn(
            "webhook event will be delivered once more",
            error=failure.getErrorMessage(),
            **_described(event),
        )

    def _bug(self, failure: Failure) -> None:
        self._log.failure("unexpected error", failure)

    # the end

    async def _end(self) -> None:
        deadline = self._clock.callLater(_GRACE, self._abandon)
        while self._in_hand:
            await _end_of(next(iter(self._in_hand)))
        if deadline.active():
            deadline.cancel()
        last = Deferred.fromCoroutine(self._release())
        with suppress(TimeoutError):
            await bounded(last, self._clock, _LAST_WORDS, TimeoutError)
        await self._receiver.close()

    def _abandon(self) -> None:
        for work in list(self._in_hand):
            work.cancel()

    async def _release(self) -> None:
        try:
            if self._claim is not None:
                await _end_of(self._claim)
            await self._store.release_events(self._server)
        except NanoMDMError as error:
            self._log.warn("webhook events are only let go of with time", error=str(error))


def _end_of(work: Deferred[None]) -> Deferred[None]:
    """
    @param work: does not fail.
    @return: fires when C{work} ends; cancelling it does nothing to that.
    """
    end: Deferred[None] = Deferred()
    work.addCallback(end.callback)
    return end


def _described(event: QueuedEvent) -> dict[str, object]:
    """
    What the log says of an event: nothing of what it tells.
    """
    fields: dict[str, object] = {"id": event.enrollment_id, "number": event.number}
    head = _HEAD.match(event.body)
    if head is not None:
        fields["topic"] = head[1].decode()
        fields["event_id"] = head[2].decode()
    return fields
