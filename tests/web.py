"""
A web server on this machine for the server under test to ask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import frozen
from cryptography import x509
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.internet.ssl import Certificate, CertificateOptions, trustRootFromCertificates
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from nanomdm.sim.ca import DeviceIdentity, ThrowawayCA


@frozen
class Asked:
    """
    A request that arrived.
    """

    method: str
    uri: str
    headers: Any
    body: bytes
    peer_port: int
    certificate: x509.Certificate | None

    def header(self, name: str) -> str | None:
        """
        A header's value.
        """
        values = self.headers.getRawHeaders(name)
        return None if values is None else ",".join(values)


class WebServer(Resource):
    """
    Answers every request in the same way.

    @ivar status: with this status,
    @ivar headers: these headers
    @ivar body: and this body; a function makes it from the request's.
    @ivar mute: or not at all, for now.
    @ivar asked: the requests.
    @ivar waiting: those that are not answered.
    @ivar left: fires when the first that was not answered is gone.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body: bytes | Callable[[bytes], bytes] = b"answer"
        self.mute = False
        self.asked: list[Asked] = []
        self.waiting: list[Request] = []
        self._expected: list[tuple[int, Deferred[None]]] = []
        self.left: Deferred[None] = Deferred()

    def render(self, request: Request) -> bytes | int:
        """
        See L{WebServer}.
        """
        body = request.content.read()
        peer = getattr(request.transport, "getPeerCertificate", lambda: None)()
        self.asked.append(
            Asked(
                request.method.decode(),
                request.uri.decode(),
                request.requestHeaders,
                body,
                request.getClientAddress().port,
                peer and peer.to_cryptography(),
            )
        )
        for count, expected in self._expected:
            if count == len(self.asked):
                expected.callback(None)
        if self.mute:
            self.waiting.append(request)
            request.notifyFinish().addErrback(self._gone)
            return NOT_DONE_YET
        request.setResponseCode(self.status)
        for name, value in self.headers.items():
            request.setHeader(name, value)
        return self.body(body) if callable(self.body) else self.body

    def arrived(self, count: int = 1) -> Deferred[None]:
        """
        @return: fires when the request that will be the C{count}th is there.
        """
        expected: Deferred[None] = Deferred()
        self._expected.append((count, expected))
        return expected

    def _gone(self, failure: Failure) -> None:
        if not self.left.called:
            self.left.callback(None)

    def unmute(self) -> None:
        """
        Answer what waits, and everything from now on.
        """
        self.mute = False
        waiting, self.waiting = self.waiting, []
        for request in waiting:
            request.setResponseCode(self.status)
            request.write(self.body)
            request.finish()


class RawServer(ServerFactory):
    """
    Says the same to every client, once it was spoken to.

    @ivar reached: fires with the first bytes of the first client.
    @ivar left: fires when the first client is gone.
    @ivar clients: how many came.
    """

    noisy = False

    def __init__(self, answer: bytes, *, hang_up: bool = False, reads: bool = True) -> None:
        self.answer = answer
        self.hang_up = hang_up
        self.reads = reads
        self.clients = 0
        self.reached: Deferred[bytes] = Deferred()
        self.left: Deferred[None] = Deferred()

    def buildProtocol(self, address: object) -> Protocol:
        """
        A client came.
        """
        self.clients += 1
        self._last = _Raw(self)
        return self._last

    def read_on(self) -> None:
        """
        Read what the last client sent, and so find out that it is gone.
        """
        self.reads = True
        self._last.transport.resumeProducing()


class _Raw(Protocol):
    def __init__(self, server: RawServer) -> None:
        self.server = server

    def dataReceived(self, data: bytes) -> None:
        if not self.server.reads:
            self.transport.pauseProducing()
        if not self.server.reached.called:
            self.server.reached.callback(data)
        self.transport.write(self.server.answer)
        if self.server.hang_up:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.server.left.called:
            self.server.left.callback(None)


def listen(
    test: TestCase,
    served: Resource | ServerFactory,
    identity: DeviceIdentity | None = None,
    interface: str = "127.0.0.1",
    client_ca: ThrowawayCA | None = None,
) -> int:
    """
    Serve until the test ends, over TLS with an identity.

    @param client_ca: whose certificate clients must have.
    @return: the port.
    """
    factory = Site(served) if isinstance(served, Resource) else served
    if identity is None:
        port = reactor.listenTCP(0, factory, interface=interface)
    else:
        own: Any = {"privateKey": identity.key, "certificate": identity.certificate}
        if client_ca is not None:
            root = Certificate.loadPEM(client_ca.pem)
            own["trustRoot"] = trustRootFromCertificates([root])
        port = reactor.listenSSL(0, factory, CertificateOptions(**own), interface=interface)
    test.addCleanup(port.stopListening)
    number: int = port.getHost().port
    return number
