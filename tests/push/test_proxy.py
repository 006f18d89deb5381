"""
Tests for the way through a proxy: byte by byte in memory, and over loopback.
"""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.protocol import Factory, Protocol, ServerFactory, connectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from nanomdm.push.address import ProxyURL
from nanomdm.push.notification import ConnectionFailed
from nanomdm.push.proxy import MAX_HEAD, TunnelEndpoint
from tests.push.proxy_server import OPENED, WANTS_PASSWORD, FakeProxy

PROXY = ProxyURL("proxy.example", 3128)
SECRETIVE = ProxyURL("proxy.example", 3128, b"user:s3cr3t")
TARGET = "api.push.apple.com:443"


class Recorder(Protocol):
    """
    Notes what happens to it.
    """

    def __init__(self) -> None:
        self.data = b""
        self.made = 0
        self.lost: Failure | None = None
        self.gone: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.made += 1

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason
        self.gone.callback(None)


class MemoryEndpoint:
    """
    Connects at once, to nobody.
    """

    def __init__(self) -> None:
        self.transport = StringTransport()
        self.factory: Any = None
        self.protocol: Any = None

    def connect(self, factory: Any) -> Deferred[Any]:
        connected: Deferred[Any] = Deferred()
        factory.doStart()
        self.factory = factory
        self.protocol = factory.buildProtocol(self.transport.getPeer())
        self.protocol.makeConnection(self.transport)
        connected.callback(self.protocol)
        return connected


class TunnelTests(SynchronousTestCase):
    """
    L{TunnelEndpoint} in memory: what it sends and what it makes of answers.
    """

    def setUp(self) -> None:
        self.endpoint = MemoryEndpoint()
        self.inner = Recorder()

    def connect(self, proxy: ProxyURL = PROXY, target: str = TARGET) -> Deferred[Any]:
        tunnel = TunnelEndpoint(self.endpoint, proxy, target)  # type: ignore[arg-type]
        return tunnel.connect(Factory.forProtocol(lambda: self.inner))

    def receive(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.endpoint.protocol.dataReceived(piece)

    def assertRefused(self, words: str, *pieces: bytes) -> None:
        self.endpoint = MemoryEndpoint()
        connecting = self.connect(SECRETIVE)
        self.receive(*pieces)
        error = self.failureResultOf(connecting, ConnectionFailed).value
        self.assertEqual(str(error), f"the proxy proxy.example:3128 {words}")
        self.assertTrue(self.endpoint.transport.disconnected)
        self.assertEqual(self.inner.made, 0)
        # What still comes does no harm.
        self.receive(OPENED)
        self.endpoint.protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.inner.made, 0)

    def test_request(self) -> None:
        self.connect()
        self.assertEqual(
            self.endpoint.transport.value(),
            b"CONNECT api.push.apple.com:443 HTTP/1.1\r\nHost: api.push.apple.com:443\r\n\r\n",
        )

    def test_requestWithCredentials(self) -> None:
        self.connect(ProxyURL("proxy", 80, b"Aladdin:open sesame"), "[::1]:2197")
        self.assertEqual(
            self.endpoint.transport.value(),
            b"CONNECT [::1]:2197 HTTP/1.1\r\nHost: [::1]:2197\r\n"
            b"Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n",
        )

    def test_opened(self) -> None:
        for answer in (
            OPENED,
            b"HTTP/1.0 200\r\n\r\n",
            b"HTTP/1.1 204 \r\n\r\n",
            b"HTTP/1.1 200 OK\nVia: a\n\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nVia: a\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nA: b\r\n\r\n" + OPENED,
            b"HTTP/1.1 100 Continue\r\n\r\n" * 700 + OPENED,
            b"HTTP/1.1 200 OK\r\nA: " + b"a" * (MAX_HEAD - 20) + b"\r\n\r\n",
        ):
            for pieces in ([answer + b"hello"], [answer, b"hello"]):
                self.setUp()
                connecting = self.connect()
                self.receive(*pieces)
                self.assertIs(self.successResultOf(connecting), self.inner)
                self.assertEqual((self.inner.made, self.inner.data), (1, b"hello"))
                self.assertIs(self.inner.transport, self.endpoint.transport)

    def test_openedByteByByte(self) -> None:
        connecting = self.connect()
        answer = b"HTTP/1.1 200 OK\r\nVia: a\r\n\r\n"
        for byte in answer:
            self.assertNoResult(connecting)
            self.assertEqual(self.inner.made, 0)
            self.receive(bytes([byte]))
        self.assertIs(self.successResultOf(connecting), self.inner)
        self.assertEqual(self.inner.data, b"")
        self.receive(b"\r\n", b"\r\nHTTP/1.1 500 No\r\n\r\n")
        self.assertEqual(self.inner.data, b"\r\n\r\nHTTP/1.1 500 No\r\n\r\n")

    def test_innerHearsOfTheEnd(self) -> None:
        self.connect()
        self.receive(OPENED)
        reason = Failure(ConnectionDone())
        self.endpoint.protocol.connectionLost(reason)
        self.assertIs(self.inner.lost, reason)

    def test_refused(self) -> None:
        self.assertRefused("answered 407 Proxy Authentication Required", WANTS_PASSWORD)
        self.assertRefused("answered 502 Bad Gateway", b"HTTP/1.1 502\r\n\r\n")
        self.assertRefused("answered 302 Found", b"HTTP/1.0 302 s3cr3t\r\nLocation: x\r\n\r\n")
        self.assertRefused("answered 599", b"HTTP/1.1 599 \xff\r\n\r\n")
        self.assertRefused(
            "answered 403 Forbidden", b"HTTP/1.1 100\r\n\r\nHTTP/1.1 403 No\r\n\r\nsorry"
        )

    def test_garbage(self) -> None:
        words = "answered something that is not HTTP"
        self.assertRefused(words, b"SSH-2.0-OpenSSH_9.6\r\n")
        self.assertRefused(words, b"\r\n")
        self.assertRefused(words, b"H", b"T", b"T", b"X")
        self.assertRefused(words, b"HTTP/2 200\r\n\r\n")
        self.assertRefused(words, b"HTTP/1.1 2000 OK\r\n\r\n")
        self.assertRefused(words, b"HTTP/1.1 OK\r\n\r\n")
        self.assertRefused(words, b"HTTP/1.1 099 OK\r\n\r\n")
        self.assertRefused(words, b"HTTP/1.1 100\r\n\r\n", b"\x16\x03\x01")

    def test_tooLong(self) -> None:
        words = "answered with too long a head"
        start = b"HTTP/1.1 200 OK\r\nA: "
        self.assertRefused(words, start, b"a" * MAX_HEAD)
        self.assertRefused(words, start + b"a" * MAX_HEAD + b"\r\n\r\n")
        self.assertRefused(words, *[b"HTTP/1.1 100 Continue\r\n\r\n"] * 800)
        self.assertRefused(words, start, *[b"a" * 1000] * (MAX_HEAD // 1000 + 1))

    def test_earlyEnd(self) -> None:
        for pieces in ([], [b"HTTP/1.1 200 OK\r\n"], [b"HTTP/1.1 100\r\n\r\n"]):
            self.setUp()
            connecting = self.connect()
            self.receive(*pieces)
            self.endpoint.protocol.connectionLost(Failure(ConnectionDone()))
            error = self.failureResultOf(connecting, ConnectionFailed).value
            self.assertIn("closed the connection without an answer", str(error))
            self.assertIsNone(self.inner.lost)

    def test_factory(self) -> None:
        factory = Factory.forProtocol(Recorder)
        factory.noisy = False
        tunnel = TunnelEndpoint(self.endpoint, PROXY, TARGET)  # type: ignore[arg-type]
        tunnel.connect(factory)
        self.assertEqual(factory.numPorts, 1)
        self.endpoint.factory.doStop()
        self.assertEqual(factory.numPorts, 0)

    def test_cancel(self) -> None:
        connecting = self.connect()
        self.receive(b"HTTP/1.1 ")
        connecting.cancel()
        self.failureResultOf(connecting, CancelledError)
        self.assertTrue(self.endpoint.transport.disconnected)
        self.receive(b"200 OK\r\n\r\n")
        self.endpoint.protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.inner.made, 0)


class Greeter(Protocol):
    """
    Speaks first, and says everything back.
    """

    def connectionMade(self) -> None:
        self.transport.write(b"hello ")

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)
        self.transport.loseConnection()


class LoopbackTests(TestCase):
    """
    L{TunnelEndpoint} through a proxy on this machine.
    """

    async def connect(
        self, proxy: FakeProxy, port: int, credentials: bytes | None = None
    ) -> Recorder:
        number = proxy.listen()
        self.addCleanup(proxy.stop)
        url = ProxyURL("127.0.0.1", number, credentials)
        nearest = HostnameEndpoint(reactor, url.host, url.port)
        tunnel = TunnelEndpoint(nearest, url, f"localhost:{port}")
        recorder = await tunnel.connect(Factory.forProtocol(Recorder))
        assert isinstance(recorder, Recorder)
        return recorder

    def greet(self) -> int:
        listening = reactor.listenTCP(0, ServerFactory.forProtocol(Greeter), interface="127.0.0.1")
        self.addCleanup(listening.stopListening)
        number: int = listening.getHost().port
        return number

    async def test_tunnel(self) -> None:
        proxy = FakeProxy()
        recorder = await self.connect(proxy, self.greet())
        recorder.transport.write(b"world")
        await recorder.gone
        self.assertEqual(recorder.data, b"hello world")
        await proxy.left

    async def test_credentials(self) -> None:
        proxy = FakeProxy(authorization=b"Basic dXNlcjpzM2NyM3Q=")
        recorder = await self.connect(proxy, self.greet(), b"user:s3cr3t")
        recorder.transport.loseConnection()
        await recorder.gone
        await proxy.left

    async def test_wrongCredentials(self) -> None:
        proxy = FakeProxy(authorization=b"Basic dXNlcjpzM2NyM3Q=")
        with self.assertRaisesRegex(ConnectionFailed, "answered 407 Proxy Authentication Required"):
            await self.connect(proxy, 1, b"user:wrong")
        await proxy.left

    async def test_hangUp(self) -> None:
        with self.assertRaisesRegex(ConnectionFailed, "closed the connection"):
            await self.connect(FakeProxy(hang_up=True), 1)

    async def test_proxyDown(self) -> None:
        proxy = FakeProxy()
        number = proxy.listen()
        await proxy.stop()
        url = ProxyURL("127.0.0.1", number)
        tunnel = TunnelEndpoint(HostnameEndpoint(reactor, url.host, url.port), url, TARGET)
        with self.assertRaises(ConnectionRefusedError):
            await tunnel.connect(Factory.forProtocol(Recorder))
