"""
Tests for native TLS: deadlines, limits, draining, endpoints of other kinds.
"""

from __future__ import annotations

import shutil
import socket
import ssl
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.logger import LogLevel, capturedLogs

from nanomdm.http.site import Site
from nanomdm.http.tls import MAX_HANDSHAKE, ServerTLS, TLSEndpoint, TLSFactory, TLSFiles
from nanomdm.sim.ca import DeviceIdentity
from tests.http.memory import Transport
from tests.http.tls_case import (
    HELLO,
    HOST,
    FilesCase,
    TLSCase,
    device,
    device_ca,
    now,
    resources,
    server,
    who,
)
from tests.http.tls_client import TLSClient


class LaterTransport(Transport):
    """
    Tells the protocol that it was closed later, as sockets do: TLS counts on that.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def closed(self) -> None:
        self._clock.callLater(0, super().closed)


class DeadlineTests(FilesCase):
    """
    Clients that do not get through with the handshake, over transports in memory.
    """

    def setUp(self) -> None:
        super().setUp()
        both = self.file("both.pem", server(1).pem, server(1).key_pem)
        tls = ServerTLS(TLSFiles(both), now)
        self.clock = Clock()
        self.site = Site(resources(), self.clock, 1 << 20, max_connections=2, max_refused=1)
        self.factory = TLSFactory(tls, False, self.site, self.clock)

    def connect(self) -> Transport:
        transport = LaterTransport(self.clock)
        transport.protocol = self.factory.buildProtocol(transport.getPeer())
        transport.protocol.makeConnection(transport)
        return transport

    def wait(self, seconds: int) -> None:
        self.clock.pump([1] * seconds + [0])

    def assertClean(self) -> None:
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.flushLoggedErrors(), [])

    def hello(self) -> bytes:
        client = ssl.MemoryBIO()
        tls = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), client, server_hostname=HOST)
        self.assertRaises(ssl.SSLWantReadError, tls.do_handshake)
        return client.read()

    def test_silence(self) -> None:
        transport = self.connect()
        self.wait(59)
        self.assertTrue(transport.connected)
        self.wait(1)
        self.assertFalse(transport.connected)
        self.assertClean()

    def test_trickle(self) -> None:
        """
        Parts of a handshake do not move the deadline.
        """
        transport = self.connect()
        for byte in self.hello()[:59]:
            transport.protocol.dataReceived(bytes([byte]))
            self.wait(1)
        self.assertTrue(transport.connected)
        self.wait(1)
        self.assertFalse(transport.connected)
        self.assertClean()

    def test_halfAHandshake(self) -> None:
        """
        A client that does not answer what the server sent.
        """
        transport = self.connect()
        transport.protocol.dataReceived(self.hello())
        self.assertGreater(len(transport.value()), 1000)
        self.wait(60)
        self.assertFalse(transport.connected)
        self.assertClean()

    def test_tooLong(self) -> None:
        """
        A handshake that announces to be long is not collected.
        """
        transport = self.connect()
        hello = (
            b"\x01" + (100_000).to_bytes(3, "big") + b"\x03\x03" + bytes(MAX_HANDSHAKE // 2 - 11)
        )
        record = b"\x16\x03\x01" + (len(hello)).to_bytes(2, "big") + hello
        transport.protocol.dataReceived(record)
        transport.protocol.dataReceived(record)
        self.wait(0)
        self.assertTrue(transport.connected)
        transport.protocol.dataReceived(b"\x16")
        self.wait(0)
        self.assertFalse(transport.connected)
        self.assertClean()

    def test_nonsense(self) -> None:
        """
        What is not TLS, such as plain HTTP, ends the connection at once.
        """
        transport = self.connect()
        with capturedLogs() as events:
            transport.protocol.dataReceived(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
            self.wait(0)
        self.assertFalse(transport.connected)
        self.assertEqual([event["log_level"] for event in events], [LogLevel.debug])
        self.assertEqual(events[0]["error"], "http request")
        self.assertClean()

    def test_drain(self) -> None:
        """
        Who is in the middle of a handshake may end it and ask, within a second.
        """
        transport = self.connect()
        drained = self.site.drain(30)
        self.clock.pump([0, 0.9])
        self.assertTrue(transport.connected)
        self.clock.pump([0.1, 0])
        self.assertFalse(transport.connected)
        self.successResultOf(drained)
        self.assertClean()

    def test_tooMany(self) -> None:
        """
        Connections count from their beginning; who comes too late and does not
        shake hands to learn that is cut off.
        """
        served = [self.connect(), self.connect()]
        late = [self.connect(), self.connect()]
        self.wait(0)
        self.assertEqual([one.connected for one in late], [False, True])
        self.wait(10)
        self.assertFalse(late[1].connected)
        for transport in served:
            self.assertTrue(transport.connected)
            transport.closed()
        self.wait(0)
        self.assertClean()


class EndpointTests(TLSCase):
    """
    TLS at other endpoints than ports.
    """

    async def serve_at(self, description: str) -> None:
        files = TLSFiles(self.certificate, client_ca=self.client_ca)
        tls = ServerTLS(files, now)
        endpoint = serverFromString(reactor, description)
        await self.listen(TLSEndpoint(endpoint, tls, reactor))

    async def ask_over(self, plain: socket.socket, path: str) -> tuple[int, bytes]:
        """
        Send a request over a socket that is connected.
        """
        client = await deferToThread(TLSClient, plain, self.context(device()))
        self.addCleanup(client.close)
        return await client.ask(path)

    async def test_unixSocket(self) -> None:
        """
        A proxy on the same machine that only passes connections on.
        """
        path = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, path)
        await self.serve_at(f"unix:{path}/socket")
        plain = socket.socket(socket.AF_UNIX)
        plain.connect(f"{path}/socket")
        self.assertEqual(await self.ask_over(plain, "/who"), who(device()))

    async def test_haproxy(self) -> None:
        """
        A load balancer that says who the client is, before TLS begins.
        """
        await self.serve_at("haproxy:tcp:0:interface=127.0.0.1")
        plain = socket.create_connection(("127.0.0.1", self.port))
        plain.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 1 443\r\n")
        with capturedLogs() as events:
            self.assertEqual(await self.ask_over(plain, "/who"), who(device()))
        self.assertEqual([event["ip"] for event in events], ["192.0.2.7"])


class BusyTests(TLSCase):
    """
    Over real sockets.
    """

    async def test_tooMany(self) -> None:
        """
        Who gets through with the handshake learns why nobody serves him.
        """
        await self.serve(max_connections=1)
        client = await self.connect()
        self.assertEqual(await client.ask("/hello"), HELLO)
        self.assertEqual(await self.ask("/hello"), (503, b"Service Unavailable\n"))
        self.assertEqual(await client.ask("/hello"), HELLO)

    async def test_farTooMany(self) -> None:
        await self.serve(max_connections=0, max_refused=0)
        await self.assertFailure(Deferred.fromCoroutine(self.connect()), OSError)

    async def test_drain(self) -> None:
        """
        Idle clients are not waited for, though they say no farewell.
        """
        await self.serve()
        client = await self.connect()
        self.assertEqual(await client.ask("/hello"), HELLO)
        clock = self.site._clock = Clock()
        await self.site.drain(30)
        self.assertEqual(clock.getDelayedCalls(), [])
        self.assertEqual(await deferToThread(client.tls.recv, 10), b"")

    async def test_largeAnswerAndBody(self) -> None:
        await self.serve()
        client = await self.connect()
        self.assertEqual(await client.ask("/hello", b"x" * (1 << 20)), HELLO)
        self.assertEqual((await client.ask("/hello", b"x" * ((1 << 20) + 1)))[0], 413)

    async def test_longCertificate(self) -> None:
        """
        One of the length that is accepted at most, with its CA behind it.
        """
        await self.serve()
        names = [x509.DNSName("x" * 60 + f".{number}.example") for number in range(200)]
        identity = device_ca().issue()
        builder = x509.CertificateBuilder(
            issuer_name=device_ca().certificate.subject,
            subject_name=identity.certificate.subject,
            public_key=identity.key.public_key(),
            serial_number=5,
            not_valid_before=identity.certificate.not_valid_before_utc,
            not_valid_after=identity.certificate.not_valid_after_utc,
        ).add_extension(x509.SubjectAlternativeName(names), critical=True)
        identity = DeviceIdentity(identity.key, builder.sign(device_ca().key, SHA256()))
        self.assertGreater(len(identity.der), 15_000)
        context = self.context(identity)
        file = self.directory / "chain.pem"
        file.write_bytes(identity.pem + device_ca().pem + identity.key_pem)
        context.load_cert_chain(file)
        client = await self.connect(context)
        self.assertEqual(await client.ask("/who", b"x" * (1 << 20)), who(identity))
