"""
Tests for L{nanomdm.outbound}, against servers on this machine.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IResolutionReceiver
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SkipTest, SynchronousTestCase, TestCase

from nanomdm import __version__
from nanomdm.crypto.pushcert import PushCertificate
from nanomdm.errors import Overloaded
from nanomdm.outbound import Fetched, Lane, OutboundClient, OutboundError, open_client
from nanomdm.sim.ca import DeviceIdentity, PrivateKey, ThrowawayCA
from nanomdm.tls import CertificateUnusable
from tests.web import RawServer, WebServer, listen

MIB = 1 << 20


def new_key() -> PrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def server_ca() -> ThrowawayCA:
    return ThrowawayCA.create("Servers", key=new_key())


@cache
def identity(*hosts: str) -> DeviceIdentity:
    return server_ca().issue_server(*hosts or ("localhost",), key=new_key())


class Case(TestCase):
    """
    A client, which is closed at the end.
    """

    def setUp(self) -> None:
        self.client = self.opened()

    def opened(self, **options: Any) -> OutboundClient:
        client = open_client(reactor, [server_ca().certificate], **options)
        self.addCleanup(client.close)
        return client

    def fetch(
        self,
        port: int,
        path: str = "/",
        method: str = "GET",
        body: bytes | None = None,
        *,
        scheme: str = "http",
        host: str = "127.0.0.1",
        headers: dict[bytes, bytes] | None = None,
        timeout: float = 30,
        limit: int = MIB,
        client: OutboundClient | Lane | None = None,
    ) -> Deferred[Fetched]:
        return Deferred.fromCoroutine(
            (client or self.client).fetch(
                method,
                f"{scheme}://{host}:{port}{path}",
                headers or {},
                body,
                timeout=timeout,
                limit=limit,
            )
        )

    async def assertFails(self, fetching: Deferred[Fetched], place: str, words: str) -> None:
        try:
            await fetching
        except OutboundError as error:
            self.assertEqual(str(error), f"{place}: {words}")
        else:
            raise AssertionError("there was an answer")


class FetchTests(Case):
    """
    What is sent, and what comes back.
    """

    def setUp(self) -> None:
        super().setUp()
        self.server = WebServer()
        self.port = listen(self, self.server)
        self.place = f"127.0.0.1:{self.port}"

    async def test_quiet(self) -> None:
        """
        Twisted tells nobody of each connection.
        """
        with capturedLogs() as logs:
            await self.fetch(self.port)
            await self.client.close()
        said = [event for event in logs if "Client" in str(event.get("factory", ""))]
        self.assertEqual(said, [])

    async def test_get(self) -> None:
        self.server.headers = {"X-One": "1"}
        answer = await self.fetch(self.port, "/a/b%2Fc?d=e&f", headers={b"X-Two": b"2"})
        self.assertEqual((answer.status, answer.body), (200, b"answer"))
        self.assertEqual((answer.header(b"x-one"), answer.header(b"X-Two")), (b"1", None))
        [asked] = self.server.asked
        self.assertEqual((asked.method, asked.uri), ("GET", "/a/b%2Fc?d=e&f"))
        sent = {name: values for name, values in asked.headers.getAllRawHeaders()}
        self.assertEqual(
            sent,
            {
                b"Host": [self.place.encode()],
                b"X-Two": [b"2"],
                b"User-Agent": [f"nanomdm/{__version__}".encode()],
            },
        )

    async def test_put(self) -> None:
        self.server.body = lambda body: body[::-1]
        for body in (b"", b"body", bytes(range(256)) * 4096):
            answer = await self.fetch(self.port, "/", "PUT", body)
            self.assertEqual(answer.body, body[::-1])
            asked = self.server.asked[-1]
            self.assertEqual((asked.method, asked.body), ("PUT", body))
            self.assertEqual(asked.header("Content-Length"), str(len(body)))

    async def test_anyStatus(self) -> None:
        for status in (201, 404, 500):
            self.server.status = status
            answer = await self.fetch(self.port)
            self.assertEqual((answer.status, answer.body), (status, b"answer"))
        self.server.status, self.server.body = 204, b""
        answer = await self.fetch(self.port)
        self.assertEqual((answer.status, answer.body), (204, b""))

    async def test_redirectsAreNotFollowed(self) -> None:
        for status in (301, 302, 303, 307, 308):
            self.server.status = status
            self.server.headers = {"Location": "/elsewhere"}
            answer = await self.fetch(self.port)
            self.assertEqual((answer.status, answer.header(b"Location")), (status, b"/elsewhere"))
        self.assertEqual({asked.uri for asked in self.server.asked}, {"/"})

    async def test_noCookies(self) -> None:
        self.server.headers = {"Set-Cookie": "a=b; Path=/"}
        await self.fetch(self.port)
        await self.fetch(self.port)
        self.assertEqual([asked.header("Cookie") for asked in self.server.asked], [None, None])

    async def test_nothingIsDecoded(self) -> None:
        self.server.headers = {"Content-Encoding": "gzip"}
        answer = await self.fetch(self.port)
        self.assertEqual(answer.body, b"answer")
        self.assertIsNone(self.server.asked[0].header("Accept-Encoding"))

    async def test_severalHeadersAreNone(self) -> None:
        raw = RawServer(b"HTTP/1.1 200 OK\r\nA: 1\r\nA: 2\r\nContent-Length: 0\r\n\r\n")
        answer = await self.fetch(listen(self, raw))
        self.assertIsNone(answer.header(b"A"))

    async def test_connectionsAreKept(self) -> None:
        for method in ("GET", "PUT", "POST"):
            await self.fetch(self.port, "/", method)
        self.assertEqual(len({asked.peer_port for asked in self.server.asked}), 1)

    async def test_manyConnectionsAreKept(self) -> None:
        for count in (20, 40):
            self.server.mute = True
            arrived = self.server.arrived(count)
            fetching = [self.fetch(self.port) for _ in range(20)]
            await arrived
            self.server.unmute()
            await gatherResults(fetching)
        self.assertEqual(len({asked.peer_port for asked in self.server.asked}), 20)

    async def test_idleConnectionsAreClosed(self) -> None:
        clock = Clock()
        raw = RawServer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        client = self.opened(clock=clock)
        await self.fetch(listen(self, raw), client=client)
        clock.advance(4)
        await raw.left
        self.assertEqual(clock.getDelayedCalls(), [])

    async def test_whoClosesKeptConnectionsIsAskedAgain(self) -> None:
        raw = RawServer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", hang_up=True)
        port = listen(self, raw)
        for count in (1, 2):
            await self.fetch(port, "/", "POST", b"body")
            self.assertEqual(raw.clients, count)

    async def test_ipv6(self) -> None:
        try:
            port = listen(self, self.server, interface="::1")
        except CannotListenError:
            raise SkipTest("no IPv6 here") from None
        await self.fetch(port, host="[::1]")
        self.assertEqual(self.server.asked[0].header("Host"), f"[::1]:{port}")


class LimitTests(Case):
    """
    Answers that are too large.
    """

    async def test_limit(self) -> None:
        server = WebServer()
        port = listen(self, server)
        server.body = b"x" * 1000
        answer = await self.fetch(port, limit=1000)
        self.assertEqual(len(answer.body), 1000)
        words = "the answer has more than 999 bytes"
        await self.assertFails(self.fetch(port, limit=999), f"127.0.0.1:{port}", words)
        await self.fetch(port, limit=1000)
        # The connection of the one that was too large is not used again.
        first, second, third = (asked.peer_port for asked in server.asked)
        self.assertEqual(first, second)
        self.assertNotEqual(second, third)

    async def test_endless(self) -> None:
        chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        for head, piece in (
            (b"Transfer-Encoding: chunked", chunk * 32),
            (b"Content-Length: 999999999999", b"x" * 2 * MIB),
            (b"Connection: close", b"x" * 2 * MIB),
        ):
            raw = RawServer(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + piece)
            port = listen(self, raw)
            words = f"the answer has more than {MIB} bytes"
            await self.assertFails(self.fetch(port), f"127.0.0.1:{port}", words)
            await raw.left

    async def test_endOfTheConnection(self) -> None:
        """
        As of HTTP/1.0.
        """
        raw = RawServer(b"HTTP/1.0 200 OK\r\n\r\nanswer", hang_up=True)
        self.assertEqual((await self.fetch(listen(self, raw))).body, b"answer")


class FailureTests(Case):
    """
    Servers that do not answer, or badly.
    """

    async def test_nobodyListens(self) -> None:
        port = reactor.listenTCP(0, RawServer(b""), interface="127.0.0.1")
        number = port.getHost().port
        await port.stopListening()
        await self.assertFails(self.fetch(number), f"127.0.0.1:{number}", "connection refused")

    async def test_secrets(self) -> None:
        """
        Nothing of a URL but the host is told.
        """
        port = reactor.listenTCP(0, RawServer(b""), interface="127.0.0.1")
        number = port.getHost().port
        await port.stopListening()
        fetching = self.fetch(number, "/s3cr3t?key=s3cr3t")
        with self.assertRaises(OutboundError) as caught:
            await fetching
        self.assertNotIn("s3cr3t", str(caught.exception))

    async def test_badAnswers(self) -> None:
        closed = "the connection was closed before the whole answer was there"
        garbage = "the answer is not HTTP"
        for answer, words in (
            (b"", closed),
            (b"HTTP/1.1 200 OK\r\nContent-Le", closed),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", closed),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nsho", closed),
            (b"rubbish\r\n\r\n", garbage),
            (b"HTTP/1.1 OK 200\r\n\r\n", garbage),
            (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", garbage),
            (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", garbage),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: zip\r\n\r\n", garbage),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", garbage),
            (b"HTTP/1.1 200 OK\r\nA: " + b"x" * 99999 + b"\r\n\r\n", closed),
        ):
            raw = RawServer(answer, hang_up=True)
            port = listen(self, raw)
            for method, body in (("GET", None), ("PUT", b"body")):
                fetching = self.fetch(port, "/", method, body)
                await self.assertFails(fetching, f"127.0.0.1:{port}", words)
            await raw.left

    async def assertEnds(self, answer: bytes, body: bytes = b"", reads: bool = True) -> None:
        """
        After a request that is not answered nothing is left, whether it takes too long
        or is cancelled.
        """
        for cancel in (False, True):
            clock, raw = Clock(), RawServer(answer, reads=reads)
            client = self.opened(clock=clock)
            port = listen(self, raw)
            fetching = self.fetch(port, "/", "PUT", body, client=client, timeout=30)
            await raw.reached
            if cancel:
                fetching.cancel()
                self.failureResultOf(fetching, CancelledError)
            else:
                clock.advance(29.9)
                self.assertNoResult(fetching)
                clock.advance(0.1)
                words = "no whole answer within 30 s"
                await self.assertFails(fetching, f"127.0.0.1:{port}", words)
            raw.read_on()
            await raw.left
            self.assertEqual(clock.getDelayedCalls(), [])

    async def test_silence(self) -> None:
        await self.assertEnds(b"")

    async def test_silenceOnAKeptConnection(self) -> None:
        """
        Who does not answer is not asked again, unlike who has hung up.
        """
        for method, body in (("GET", None), ("POST", b"body")):
            for cancel in (False, True):
                clock, server = Clock(), WebServer()
                client = self.opened(clock=clock)
                port = listen(self, server)
                await self.fetch(port, client=client)
                server.mute = True
                arrived = server.arrived(2)
                fetching = self.fetch(port, "/", method, body, client=client, timeout=30)
                await arrived
                if cancel:
                    fetching.cancel()
                    self.failureResultOf(fetching, CancelledError)
                else:
                    clock.advance(30)
                    self.failureResultOf(fetching, OutboundError)
                # No name is looked up and no connection opened.
                self.assertEqual(clock.getDelayedCalls(), [])
                await server.left

    async def test_silenceInTheHead(self) -> None:
        await self.assertEnds(b"HTTP/1.1 200 OK\r\n")

    async def test_silenceInTheBody(self) -> None:
        await self.assertEnds(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")

    async def test_whoDoesNotRead(self) -> None:
        await self.assertEnds(b"", b"x" * 32 * MIB, reads=False)

    async def test_answerBeforeTheRequest(self) -> None:
        """
        Who has refused a body need not read it.
        """
        raw = RawServer(b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n", reads=False)
        answer = await self.fetch(listen(self, raw), "/", "PUT", b"x" * 32 * MIB)
        self.assertEqual(answer.status, 413)

    async def test_close(self) -> None:
        """
        Whatever is under way ends with the client.
        """
        server, raw = WebServer(), RawServer(b"")
        await self.fetch(listen(self, server))
        port = listen(self, raw)
        fetching = self.fetch(port)
        await raw.reached
        closing = self.client.close()
        await self.assertFails(fetching, f"127.0.0.1:{port}", "given up, this server stops")
        await closing
        await raw.left
        await self.assertFails(
            self.fetch(port), f"127.0.0.1:{port}", "not asked, this server stops"
        )
        self.assertEqual(raw.clients, 1)


class SilentResolver:
    """
    Looks names up, and finds nothing for now.
    """

    def resolveHostName(self, receiver: IResolutionReceiver, *arguments: Any, **more: Any) -> None:
        receiver.resolutionBegan(None)


class ConnectTests(SynchronousTestCase):
    """
    What can happen before there is a connection.
    """

    def fetch(self, host: str) -> tuple[MemoryReactorClock, Deferred[Fetched]]:
        memory = MemoryReactorClock()
        memory.installNameResolver(SilentResolver())
        client = open_client(memory)
        return memory, Deferred.fromCoroutine(
            client.fetch("GET", f"http://{host}/", {}, None, timeout=30, limit=MIB)
        )

    def test_timeout(self) -> None:
        for host in ("nowhere.example", "192.0.2.1"):
            memory, fetching = self.fetch(host)
            memory.advance(4.9)
            self.assertNoResult(fetching)
            memory.advance(0.1)
            error = self.failureResultOf(fetching, OutboundError).value
            self.assertEqual(str(error), f"{host}: not connected within 5 s")
            # The addresses' own deadlines come later.
            self.assertTrue(all(client[3] > 5 for client in memory.tcpClients))
            self.assertEqual(memory.getDelayedCalls(), [])

    def test_cancel(self) -> None:
        for host in ("nowhere.example", "192.0.2.1"):
            memory, fetching = self.fetch(host)
            fetching.cancel()
            self.failureResultOf(fetching, CancelledError)
            self.assertEqual(memory.getDelayedCalls(), [])
            for connector in memory.connectors:
                self.assertTrue(connector.stoppedConnecting)


class TLSTests(Case):
    """
    C{https}.
    """

    def https(self, port: int, host: str = "localhost", **options: Any) -> Deferred[Fetched]:
        return self.fetch(port, scheme="https", host=host, **options)

    async def assertRefused(self, identity: DeviceIdentity, words: str, **options: Any) -> None:
        server = WebServer()
        port = listen(self, server, identity)
        place = f"{options.get('host', 'localhost')}:{port}"
        for method, body in (("GET", None), ("POST", b"secret")):
            await self.assertFails(
                self.https(port, method=method, body=body, **options),
                place,
                f"the server's certificate is not accepted: it {words}",
            )
        self.assertEqual(server.asked, [])

    async def test_trusted(self) -> None:
        server = WebServer()
        port = listen(self, server, identity())
        for _ in range(2):
            self.assertEqual((await self.https(port)).body, b"answer")
        self.assertEqual(len({asked.peer_port for asked in server.asked}), 1)
        self.assertEqual(server.asked[0].header("Host"), f"localhost:{port}")

    async def test_address(self) -> None:
        port = listen(self, WebServer(), identity("127.0.0.1"))
        self.assertEqual((await self.https(port, "127.0.0.1")).body, b"answer")

    async def test_wrongName(self) -> None:
        await self.assertRefused(identity("local.example"), "is not for localhost")
        await self.assertRefused(identity(), "is not for 127.0.0.1", host="127.0.0.1")

    async def test_noName(self) -> None:
        nameless = server_ca().issue("localhost", key=new_key(), client_auth=False)
        await self.assertRefused(nameless, "is not for localhost")

    async def test_stranger(self) -> None:
        stranger = ThrowawayCA.create("Servers", key=new_key())
        await self.assertRefused(
            stranger.issue_server("localhost", key=new_key()), "has no trusted issuer"
        )

    async def test_rootsAreAddedToTheSystems(self) -> None:
        other = ThrowawayCA.create("System", key=new_key())
        path = Path(self.mktemp())
        path.write_bytes(other.pem)
        with patch.dict(os.environ, {"SSL_CERT_FILE": str(path)}):
            client = self.opened()
        for ca in (other, server_ca()):
            server = WebServer()
            port = listen(self, server, ca.issue_server("localhost", key=new_key()))
            self.assertEqual((await self.https(port, client=client)).status, 200)

    async def test_noTLS(self) -> None:
        port = listen(self, RawServer(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
        with self.assertRaisesRegex(OutboundError, f"^localhost:{port}: TLS failed: [a-z ]+$"):
            await self.https(port)

    async def test_noTLSHere(self) -> None:
        port = listen(self, WebServer(), identity())
        with self.assertRaisesRegex(OutboundError, f"^127.0.0.1:{port}: .*closed before"):
            await self.fetch(port)

    async def test_silence(self) -> None:
        """
        Nothing is left of a connection whose handshake did not end, or whose peer does
        not take part in its end.
        """
        for cancel in (False, True):
            clock, raw = Clock(), RawServer(b"")
            client = self.opened(clock=clock)
            port = listen(self, raw)
            fetching = self.https(port, client=client)
            await raw.reached
            if cancel:
                fetching.cancel()
                self.failureResultOf(fetching, CancelledError)
            else:
                clock.advance(30)
                words = "no whole answer within 30 s"
                await self.assertFails(fetching, f"localhost:{port}", words)
            await raw.left
            self.assertEqual(clock.getDelayedCalls(), [])

    async def test_clientCertificate(self) -> None:
        """
        It is sent to who asks.
        """
        client_ca = ThrowawayCA.create("Clients", key=new_key())
        own = client_ca.issue_push("com.apple.mgmt.x", key=new_key())
        server = WebServer()
        port = listen(self, server, identity(), client_ca=client_ca)
        certificate = PushCertificate(
            "com.apple.mgmt.x",
            own.certificate.not_valid_after_utc,
            own.pem.decode(),
            own.key_pem.decode(),
        )
        client = self.opened(certificate=certificate)
        self.assertEqual((await self.https(port, client=client)).status, 200)
        self.assertEqual(server.asked[0].certificate, own.certificate)
        with self.assertRaisesRegex(OutboundError, f"^localhost:{port}: TLS failed: "):
            await self.https(port)

    def test_uselessClientCertificate(self) -> None:
        own = server_ca().issue_push("com.apple.mgmt.x", key=new_key())
        certificate = PushCertificate(
            "com.apple.mgmt.x", own.certificate.not_valid_after_utc, own.pem.decode(), "rubbish"
        )
        with self.assertRaisesRegex(CertificateUnusable, "can not be read"):
            open_client(reactor, certificate=certificate)


class LaneTests(Case):
    """
    L{Lane}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.client = self.opened(clock=self.clock)
        self.raw = RawServer(b"")
        self.port = listen(self, self.raw)

    def fetch_in(self, lane: Lane) -> Deferred[Fetched]:
        return self.fetch(self.port, client=lane)

    async def test_turns(self) -> None:
        lane = Lane(self.client, running=2, waiting=2)
        fetching = [self.fetch_in(lane) for _ in range(4)]
        error = self.failureResultOf(self.fetch_in(lane), Overloaded).value
        self.assertEqual(str(error), f"too many requests wait for 127.0.0.1:{self.port}")
        await self.raw.reached
        self.assertLessEqual(self.raw.clients, 2)
        # One that waits, and then one that does not.
        for which in (2, 0):
            fetching[which].cancel()
            self.failureResultOf(fetching[which], CancelledError)
        self.clock.advance(30)
        for which in (1, 3):
            with self.assertRaisesRegex(OutboundError, f"^127.0.0.1:{self.port}: "):
                await fetching[which]

    async def test_turnsComeBack(self) -> None:
        server = WebServer()
        port = listen(self, server)
        lane = Lane(self.client, running=1, waiting=0)
        for _ in range(3):
            self.assertEqual((await self.fetch(port, client=lane)).body, b"answer")
        first = self.fetch_in(lane)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual((await self.fetch(port, client=lane)).body, b"answer")

    async def test_othersDoNotWait(self) -> None:
        lane = Lane(self.client, running=1, waiting=1)
        hanging = [self.fetch_in(lane) for _ in range(2)]
        server = WebServer()
        port = listen(self, server)
        other = Lane(self.client)
        self.assertEqual((await self.fetch(port, client=other)).body, b"answer")
        for one in hanging:
            one.cancel()
            self.failureResultOf(one, CancelledError)
