"""
The HTTP server itself: its connections, their deadlines, and draining at the end.
"""

from __future__ import annotations

from typing import Any, Final

from attrs import Factory, define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.web import http, server
from twisted.web.resource import IResource

from nanomdm.http.channel import Channel
from nanomdm.http.limits import BUDGET, MAX_CONNECTIONS, MAX_REFUSED, Budget
from nanomdm.http.refusal import Refusal
from nanomdm.http.request import Request
from nanomdm.metrics.http import HTTPMetrics

_log: Final = Logger(namespace="nanomdm.http")

#: Seconds between two looks at all connections' deadlines.
_SWEEP_INTERVAL: Final = 5.0

#: Seconds from the beginning of the end in which new connections must begin to speak.
_FIRST_BYTE: Final = 1.0


@define(eq=False)
class _Drain:
    """
    A wait for the last connection and the last answer.
    """

    deadline: IDelayedCall
    patience: IDelayedCall
    done: Deferred[None] = Factory(Deferred)


class Site(server.Site):
    """
    The site: knows its connections and running requests, so that it can limit
    and drain them.

    @param root: the root of the resource tree.
    @param reactor: the clock.
    @param max_body_size: bytes that a request's body may have.
    @param max_connections: connections that are served at once.
    @param budget: bytes that all requests may have in memory, at least.
    @param max_refused: connections beyond C{max_connections} that are there at once, only to
        be told that nobody serves them.
    @ivar metrics: what it counts.
    @ivar budget: the memory that all requests share.
    @ivar now: the clock's time in seconds.
    """

    noisy = False
    requestFactory = Request
    protocol = Channel  # type: ignore[assignment]  # Twisted's would speak HTTP/2 too

    def __init__(
        self,
        root: IResource,
        reactor: IReactorTime,
        max_body_size: int,
        max_connections: int = MAX_CONNECTIONS,
        budget: int = BUDGET,
        metrics: HTTPMetrics | None = None,
        max_refused: int = MAX_REFUSED,
    ) -> None:
        # Channels have deadlines instead of a timeout each.
        super().__init__(root, timeout=None, reactor=reactor, parsePOSTFormSubmission=False)
        self.max_body_size = max_body_size
        self.budget = Budget(max(budget, 2 * max_body_size))
        self.metrics = metrics or HTTPMetrics()
        self.now = reactor.seconds
        self.max_connections = max_connections
        self._max_refused = max_refused
        self._clock = reactor
        self._channels: set[Channel] = set()
        # In the order in which they came.
        self._refusals: dict[Refusal, None] = {}
        self._turned_away = 0
        self._sweeper: IDelayedCall | None = None
        self._running = 0
        self._drain: _Drain | None = None

    @property
    def connections(self) -> int:
        """
        How many connections there are.
        """
        return len(self._channels) + len(self._refusals)

    @property
    def running(self) -> int:
        """
        How many requests are being worked on.
        """
        return self._running

    @property
    def draining(self) -> bool:
        """
        Whether the site is shutting down.
        """
        return self._drain is not None

    def acceptableProtocols(self) -> list[bytes]:
        """
        What L{Channel} speaks, for TLS to offer, whatever Twisted could speak.
        """
        return [b"http/1.1"]

    def startFactory(self) -> None:
        """
        No access log of Twisted's, so no clock for it either.
        """

    def stopFactory(self) -> None:
        """
        See L{startFactory}.
        """

    def log(self, request: http.Request) -> None:
        """
        L{nanomdm.http.endpoint} logs requests, with what it knows of them.
        """

    def buildProtocol(self, address: IAddress | None) -> Any:
        """
        Serve a new connection, unless there are too many.
        """
        if len(self._channels) < self.max_connections:
            return super().buildProtocol(address)
        return Refusal(self)

    def connected(self, channel: Channel) -> None:
        """
        Watch a connection that is served.
        """
        self._channels.add(channel)
        self._watch()

    def disconnected(self, channel: Channel) -> None:
        """
        Forget it.
        """
        self._channels.discard(channel)
        self._watch()
        self._check_drained()

    def turned_away(self, refusal: Refusal) -> None:
        """
        Watch a connection that is not served.  Of too many, the oldest ends: its client had
        the most time to read why.
        """
        self._refusals[refusal] = None
        self._turned_away += 1
        self.metrics.refused()
        self._watch()
        if len(self._refusals) > self._max_refused:
            oldest = next(iter(self._refusals))
            del self._refusals[oldest]
            oldest.end()

    def forget(self, refusal: Refusal) -> None:
        """
        See L{disconnected}.
        """
        self._refusals.pop(refusal, None)
        self._watch()
        self._check_drained()

    def _watch(self) -> None:
        if self.connections and self._sweeper is None:
            self._sweeper = self._clock.callLater(_SWEEP_INTERVAL, self._sweep)
        elif not self.connections and self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
            self._tell_of_refusals()

    def _sweep(self) -> None:
        """
        One timer for all connections: a timer for each would have to be moved
        with each request.
        """
        self._sweeper = self._clock.callLater(_SWEEP_INTERVAL, self._sweep)
        now = self.now()
        for channel in [channel for channel in self._channels if channel.deadline <= now]:
            channel.expire()
        for refusal in [refusal for refusal in self._refusals if refusal.deadline <= now]:
            refusal.end()
        self._tell_of_refusals()

    def _tell_of_refusals(self) -> None:
        """
        One line for all: a line for each would be work for the server when it has the most.
        """
        if self._turned_away:
            _log.warn(
                "too many connections",
                refused=self._turned_away,
                most=self.max_connections,
                do="raise --max-connections; each takes an open file",
            )
            self._turned_away = 0

    def request_started(self) -> None:
        """
        A request is being worked on, whether or not its client stays.
        """
        self._running += 1

    def request_ended(self) -> None:
        """
        See L{request_started}.
        """
        self._running -= 1
        self._check_drained()

    def drain(self, deadline: float) -> Deferred[None]:
        """
        Let requests that are under way end, and close every connection.

        @param deadline: seconds after which the remaining ones are cut off.
        @return: fires when nothing is left.
        """
        later = self._clock.callLater
        self._drain = _Drain(
            later(deadline, self._cut_off), later(_FIRST_BYTE, self._close_idle, patient=False)
        )
        done = self._drain.done
        self._close_idle(patient=True)
        self._check_drained()
        return done

    def _close_idle(self, patient: bool) -> None:
        for channel in list(self._channels):
            channel.close_when_idle(patient)
        for refusal in list(self._refusals):
            refusal.end()

    def _cut_off(self) -> None:
        for channel in list(self._channels):
            channel.transport.abortConnection()
        for refusal in list(self._refusals):
            refusal.transport.abortConnection()
        self._running = 0
        self._check_drained()

    def _check_drained(self) -> None:
        drain = self._drain
        if drain is None or self.connections or self._running > 0 or drain.done.called:
            return
        for call in (drain.deadline, drain.patience):
            if call.active():
                call.cancel()
        drain.done.callback(None)
