"""
An HTTP proxy on this machine that opens tunnels, or misbehaves.
"""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.python.failure import Failure

OPENED = b"HTTP/1.1 200 Connection established\r\n\r\n"
WANTS_PASSWORD = (
    b"HTTP/1.1 407 Who are you?\r\nProxy-Authenticate: Basic realm=proxy\r\n"
    b"Content-Length: 0\r\n\r\n"
)


class FakeProxy(ServerFactory):
    """
    Answers one C{CONNECT} after the other.

    @ivar answer: what is sent, in these pieces, in place of a tunnel to the port
        asked for on this machine; then the connection stays open.
    @ivar hang_up: whether to close the connection after the request instead.
    @ivar authorization: the C{Proxy-Authorization} that it takes; others get 407.
    @ivar tunnels: how many were opened.
    @ivar asked: fires with the head of the first request.
    @ivar used: fires when something comes behind a request that got C{answer}.
    @ivar left: fires when the client of the first connection has gone.
    """

    noisy = False

    def __init__(
        self,
        *answer: bytes,
        hang_up: bool = False,
        authorization: bytes | None = None,
    ) -> None:
        self.answer = answer
        self.hang_up = hang_up
        self.authorization = authorization
        self.asked: Deferred[bytes] = Deferred()
        self.used: Deferred[None] = Deferred()
        self.left: Deferred[None] = Deferred()
        self.tunnels = 0
        self._port: Any = None

    def listen(self) -> int:
        """
        @return: the port, on 127.0.0.1.
        """
        self._port = reactor.listenTCP(0, self, interface="127.0.0.1")
        number: int = self._port.getHost().port
        return number

    def stop(self) -> Any:
        """
        Accept nobody any more.
        """
        return self._port.stopListening()

    def buildProtocol(self, address: object) -> Protocol:
        """
        A client came.
        """
        return _Client(self)


class _Client(Protocol):
    """
    A client of the proxy.
    """

    def __init__(self, proxy: FakeProxy) -> None:
        self._proxy = proxy
        self._head = b""
        self._answered = False
        self._target: _Target | None = None

    def dataReceived(self, data: bytes) -> None:
        if self._target is not None:
            self._target.transport.write(data)
        elif self._answered:
            if not self._proxy.used.called:
                self._proxy.used.callback(None)
        else:
            self._head += data
            if b"\r\n\r\n" in self._head:
                self._answered = True
                self._answer(self._head)

    def _answer(self, head: bytes) -> None:
        wanted = self._proxy.authorization
        if self._proxy.hang_up:
            self.transport.loseConnection()
        elif self._proxy.answer:
            self.transport.setTcpNoDelay(True)
            for piece in self._proxy.answer:
                self.transport.write(piece)
        elif wanted is not None and b"\r\nProxy-Authorization: %b\r\n" % wanted not in head:
            self.transport.write(WANTS_PASSWORD)
        else:
            self._open(int(head.split()[1].rpartition(b":")[2]))
        if not self._proxy.asked.called:
            self._proxy.asked.callback(head)

    def _open(self, port: int) -> None:
        self._proxy.tunnels += 1
        self._target = _Target(self)
        opening = connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), self._target)
        opening.addCallback(lambda target: self.transport.write(OPENED))
        opening.addErrback(lambda failure: self.transport.abortConnection())

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._target is not None and self._target.transport is not None:
            self._target.transport.loseConnection()
        if not self._proxy.left.called:
            self._proxy.left.callback(None)


class _Target(Protocol):
    """
    The far end of a tunnel.
    """

    def __init__(self, client: _Client) -> None:
        self._client = client

    def dataReceived(self, data: bytes) -> None:
        self._client.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._client.transport.loseConnection()
