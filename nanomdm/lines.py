"""
Connections of Twisted's HTTP client that can be closed whatever the peer does.

That client only closes them in the orderly way, which a peer can put off for ever: one
that neither reads the rest of a request nor answers TLS's goodbye.
"""

from __future__ import annotations

from typing import Any, Final

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from nanomdm.errors import OutboundError
from nanomdm.network import bounded

#: Seconds that a connection has to end in the orderly way.
GRACE: Final = 2.0


class Lines:
    """
    The connections that are open.

    @ivar clock: measures all times.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self.clock = clock
        self._open: set[Line] = set()
        self._emptied: Deferred[None] | None = None

    def opened(self, line: Line) -> None:
        """
        Keep a connection in mind.
        """
        self._open.add(line)

    def lost(self, line: Line) -> None:
        """
        Forget one that is gone.
        """
        self._open.discard(line)
        self._check_emptied()

    def abort(self) -> Deferred[None]:
        """
        Close all connections at once.

        @return: fires when they are gone.
        """
        done = self._emptied = Deferred()
        for line in list(self._open):
            line.abortConnection()
        self._check_emptied()
        return done

    def _check_emptied(self) -> None:
        if self._emptied is not None and not self._open:
            done, self._emptied = self._emptied, None
            done.callback(None)


class Line(ProtocolWrapper):
    """
    One connection, below an C{HTTP11ClientProtocol}.
    """

    factory: _LineFactory
    wrappedProtocol: Any
    _deadline: IDelayedCall | None = None

    def loseConnection(self) -> None:
        """
        Close the connection: at once in the middle of an exchange, otherwise within
        L{GRACE}.
        """
        if self._deadline is not None:
            return
        if self.wrappedProtocol is None or self.wrappedProtocol.state != "QUIESCENT":
            self.abortConnection()
            return
        self._deadline = self.factory.lines.clock.callLater(GRACE, self.abortConnection)
        super().loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        See L{IProtocol.connectionLost}.
        """
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        super().connectionLost(reason)


class _LineFactory(WrappingFactory[Line]):
    protocol = Line
    noisy = False

    def __init__(self, factory: Any, lines: Lines) -> None:
        super().__init__(factory)
        # Twisted would tell of each connection in the log.
        factory.noisy = False
        self.lines = lines

    def registerProtocol(self, p: Line) -> None:
        self.lines.opened(p)

    def unregisterProtocol(self, p: Line) -> None:
        self.lines.lost(p)


@define(eq=False)
@implementer(IStreamClientEndpoint)
class LineEndpoint:
    """
    Opens connections to another endpoint.

    @ivar endpoint: where they lead to.
    @ivar lines: gets to know of them.
    @ivar timeout: seconds for opening one.
    @ivar used: whether one was to be opened.
    """

    endpoint: IStreamClientEndpoint
    lines: Lines
    timeout: float
    used: bool = False

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        @param factory: of C{HTTP11ClientProtocol}s.
        @raise OutboundError: it took too long.
        """

        def late() -> OutboundError:
            return OutboundError(f"not connected within {self.timeout:g} s")

        self.used = True
        connecting: Deferred[Any] = self.endpoint.connect(_LineFactory(factory, self.lines))
        return bounded(connecting, self.lines.clock, self.timeout, late).addCallback(_inner)


def _inner(line: Line) -> IProtocol:
    inner: IProtocol = line.wrappedProtocol
    return inner
