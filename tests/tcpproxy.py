"""
A TCP proxy in front of a database server, which fails as networks do.
"""

from __future__ import annotations

from collections import deque
from random import Random
from typing import Any

from attrs import frozen
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.python.failure import Failure

#: Seconds between what is kept back and what came after it.
_APART = 1e-6


@frozen
class Cut:
    """
    When to cut a connection.

    @ivar marker: when a client sends this.
    @ivar forward: whether the server still gets it; then the connection is cut when it
        answers.
    """

    marker: bytes
    forward: bool


class Proxy(ServerFactory):
    """
    Forwards connections to a port on this machine.

    @ivar accepted: how many connections there were.
    @ivar silent: whether new connections are accepted, and nothing else happens.
    @ivar cut: when to cut a connection, the next time.
    @ivar delay: seconds for which everything is kept back, in each direction.
    """

    noisy = False

    def __init__(self, target: int) -> None:
        self._target = TCP4ClientEndpoint(reactor, "127.0.0.1", target)
        self._listening: Any = None
        self._ends: set[_End] = set()
        self._none_left: Deferred[None] | None = None
        self.port = 0
        self.accepted = 0
        self.silent = False
        self.cut: Cut | None = None
        self.delay = 0.0

    def listen(self) -> None:
        """
        Accept connections, always on the same port.
        """
        self._listening = reactor.listenTCP(self.port, self, interface="127.0.0.1")
        self.port = self._listening.getHost().port

    async def refuse(self) -> None:
        """
        Cut all connections and refuse new ones.
        """
        if self._listening is not None:
            await self._listening.stopListening()
            self._listening = None
        if self._ends:
            self._none_left = Deferred()
            for end in list(self._ends):
                end.transport.abortConnection()
            await self._none_left

    def freeze(self) -> None:
        """
        Keep the connections there are, and forward nothing on them any more.
        """
        for end in self._ends:
            end.frozen = True

    def cut_one(self, random: Random) -> None:
        """
        Cut any of the connections.
        """
        if self._ends:
            random.choice(list(self._ends)).transport.abortConnection()

    def buildProtocol(self, address: object) -> Protocol:
        """
        A client came.
        """
        self.accepted += 1
        return _Client(self)

    def opened(self, end: _End) -> None:
        """
        One half of a connection is there.
        """
        self._ends.add(end)

    def closed(self, end: _End) -> None:
        """
        One half of a connection is gone.
        """
        self._ends.discard(end)
        if not self._ends and self._none_left is not None:
            done, self._none_left = self._none_left, None
            done.callback(None)

    def reach(self, client: _Client) -> None:
        """
        Connect to the server for a client.
        """
        if not self.silent:
            server = _Server(self)
            server.peer, client.peer = client, server
            connectProtocol(self._target, server).addErrback(client.unreachable)


class _End(Protocol):
    """
    One half of a connection.
    """

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._kept: list[bytes] = []
        self._late: deque[IDelayedCall] = deque()
        self.peer: _End | None = None
        self.frozen = False
        self.cutting = False

    def connectionMade(self) -> None:
        # As the ends of a connection without a proxy do.
        self.transport.setTcpNoDelay(True)
        self._proxy.opened(self)
        for data in self._kept:
            self.transport.write(data)

    def connectionLost(self, reason: Failure = None) -> None:
        self._proxy.closed(self)
        for call in self._late:
            call.cancel()
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.abortConnection()

    def forward(self, data: bytes) -> None:
        if self._proxy.delay or self._late:
            now, last = reactor.seconds(), self._late[-1].getTime() if self._late else 0
            # Whatever comes is to stay in its order.
            wait = max(self._proxy.delay, last - now + _APART)
            self._late.append(reactor.callLater(wait, self._forward_late, data))
        else:
            self._forward(data)

    def _forward_late(self, data: bytes) -> None:
        self._late.popleft()
        self._forward(data)

    def _forward(self, data: bytes) -> None:
        if self.frozen or self.peer is None:
            return
        if self.peer.transport is None:
            self.peer._kept.append(data)
        else:
            self.peer.transport.write(data)


class _Client(_End):
    def connectionMade(self) -> None:
        super().connectionMade()
        self._proxy.reach(self)

    def dataReceived(self, data: bytes) -> None:
        cut = self._proxy.cut
        if cut is None or cut.marker not in data:
            self.forward(data)
            return
        self._proxy.cut = None
        if cut.forward:
            self.cutting = True
            self.forward(data)
        else:
            self.transport.abortConnection()

    def unreachable(self, failure: Failure) -> None:
        self.transport.abortConnection()


class _Server(_End):
    def dataReceived(self, data: bytes) -> None:
        assert self.peer is not None
        if self.peer.cutting:
            self.transport.abortConnection()
        else:
            self.forward(data)
