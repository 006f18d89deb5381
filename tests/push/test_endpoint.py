"""
Tests for opening connections: over TLS on this machine, and in memory where nothing
may answer.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from attrs import evolve
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import CannotListenError, ConnectError
from twisted.internet.interfaces import IHostnameResolver, IResolutionReceiver
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, SynchronousTestCase, TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from nanomdm.crypto.pushcert import PushCertificate
from nanomdm.push.address import APNsURL, ProxyURL
from nanomdm.push.connection import APNsConnection
from nanomdm.push.endpoint import TIMEOUT, APNsConnector, IConnector
from nanomdm.push.notification import ConnectionFailed, Notification
from nanomdm.sim.ca import DeviceIdentity, PrivateKey, ThrowawayCA
from tests.push.proxy_server import OPENED, FakeProxy
from tests.push.tls_server import TLSServer

TOPIC = "com.apple.mgmt.External.11111111-2222-3333-4444-555555555555"
YESTERDAY = datetime.now(UTC) - timedelta(days=1)
LONG_AGO = YESTERDAY - timedelta(days=1)


@cache
def server_ca() -> ThrowawayCA:
    return ThrowawayCA.create("Servers", key=new_key())


@cache
def client_ca() -> ThrowawayCA:
    return ThrowawayCA.create("Clients", key=new_key())


@cache
def client_intermediate() -> ThrowawayCA:
    return client_ca().intermediate("Pushers", key=new_key())


@cache
def push_certificate() -> PushCertificate:
    identity = client_intermediate().issue_push(TOPIC, key=new_key())
    return packed(identity, client_intermediate().certificate)


def new_key() -> PrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def packed(identity: DeviceIdentity, *intermediates: Any) -> PushCertificate:
    chain = [identity.certificate, *intermediates]
    return PushCertificate(
        TOPIC,
        identity.certificate.not_valid_after_utc,
        "".join(one.public_bytes(Encoding.PEM).decode() for one in chain),
        identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
    )


def server(*hosts: str, ca: ThrowawayCA | None = None, **options: Any) -> TLSServer:
    """
    A server that has a certificate for C{hosts}.
    """
    identity = (ca or server_ca()).issue_server(*hosts or ("localhost",), key=new_key())
    return TLSServer(identity, client_ca().certificate, **options)


class Case(TestCase):
    """
    Connects to a server, which hears of the end of the connection in any case.
    """

    def connector(
        self,
        server: TLSServer,
        host: str = "localhost",
        interface: str = "127.0.0.1",
        **options: Any,
    ) -> APNsConnector:
        url = APNsURL(host, server.listen(interface))
        self.addCleanup(server.stop)
        options.setdefault("trust", [server_ca().certificate])
        return APNsConnector(reactor, url, **options)

    async def assertOpens(
        self, server: TLSServer, *arguments: str, **options: Any
    ) -> APNsConnection:
        connection = await self.connector(server, *arguments, **options).connect(push_certificate())
        self.assertTrue(connection.usable)
        await connection.close()
        await server.left
        return connection

    async def assertFails(
        self,
        server: TLSServer,
        words: str,
        certificate: PushCertificate | None = None,
        **options: Any,
    ) -> ConnectionFailed:
        connector = self.connector(server, **options)
        try:
            await connector.connect(certificate or push_certificate())
        except ConnectionFailed as error:
            self.assertEqual(str(error), f"{connector.url.host_and_port}: {words}")
            await server.left
            return error
        raise AssertionError("it is open")


class TLSTests(Case):
    """
    L{APNsConnector} and a server, both with real certificates.
    """

    def test_interface(self) -> None:
        verifyObject(IConnector, APNsConnector(reactor, APNsURL("localhost")))

    async def test_opens(self) -> None:
        peer = server("localhost")
        connector = self.connector(peer)
        connection = await connector.connect(push_certificate())
        self.assertEqual(peer.server_name, b"localhost")
        push = connection.send(Notification("00", TOPIC, b"{}", 0))
        headers = await peer.requested
        self.assertEqual(headers[b":authority"].decode(), connector.url.host_and_port)
        push.cancel()
        self.failureResultOf(push, CancelledError)
        await connection.close()
        await peer.left

    async def test_log(self) -> None:
        """
        Who has the connection tells of it; Twisted's own words are left out.
        """
        peer = server()
        connector = self.connector(peer)
        with capturedLogs() as logs:
            connection = await connector.connect(push_certificate())
            await connection.close()
            await peer.left
        self.assertEqual(logs, [])

    async def test_clock(self) -> None:
        clock, peer = Clock(), server()
        connection = await self.connector(peer, clock=clock).connect(push_certificate())
        # Its deadline is gone; the connection has its own.
        self.assertEqual(len(clock.getDelayedCalls()), 2)
        closed = connection.close()
        clock.advance(0)
        await closed
        await peer.left
        self.assertEqual(clock.getDelayedCalls(), [])

    async def test_addresses(self) -> None:
        peer = server("127.0.0.1")
        await self.assertOpens(peer, "127.0.0.1")
        self.assertIsNone(peer.server_name)

    async def test_ipv6(self) -> None:
        try:
            await self.assertOpens(server("::1"), "::1", "::1")
        except CannotListenError:
            raise SkipTest("no IPv6 here") from None

    async def test_intermediatesAreSent(self) -> None:
        peer = server()
        await self.assertOpens(peer)
        self.assertIn(client_intermediate().certificate, peer.chain)

    def trust_in_the_system(self, ca: ThrowawayCA) -> None:
        """
        Make a CA one that OpenSSL trusts by default.
        """
        path = Path(self.mktemp())
        path.write_bytes(ca.pem)
        environment = patch.dict(os.environ, {"SSL_CERT_FILE": str(path)})
        environment.start()
        self.addCleanup(environment.stop)

    async def test_systemRoots(self) -> None:
        self.trust_in_the_system(server_ca())
        await self.assertOpens(server(), trust=())

    async def test_systemRootsAreNotAddedToOthers(self) -> None:
        self.trust_in_the_system(server_ca())
        await self.assertFails(
            server(),
            "the server's certificate is not accepted: it has no trusted issuer",
            trust=[client_ca().certificate],
        )

    async def test_wrongName(self) -> None:
        words = "the server's certificate is not accepted: it is not for localhost"
        await self.assertFails(server("local.example", "*.localhost"), words)
        await self.assertFails(server("127.0.0.1"), words)

    async def test_wrongAddress(self) -> None:
        await self.assertFails(
            server("localhost", "127.0.0.2"),
            "the server's certificate is not accepted: it is not for 127.0.0.1",
            host="127.0.0.1",
        )

    async def test_noName(self) -> None:
        identity = server_ca().issue("localhost", key=new_key(), client_auth=False)
        await self.assertFails(
            TLSServer(identity, client_ca().certificate),
            "the server's certificate is not accepted: it is not for localhost",
        )

    async def test_unknownIssuer(self) -> None:
        stranger = ThrowawayCA.create("Servers", key=new_key())
        await self.assertFails(
            server(ca=stranger),
            "the server's certificate is not accepted: it has no trusted issuer",
        )

    async def test_selfSigned(self) -> None:
        stranger = ThrowawayCA.create("localhost", key=new_key())
        await self.assertFails(
            TLSServer(DeviceIdentity(stranger.key, stranger.certificate), client_ca().certificate),
            "the server's certificate is not accepted: it is self-signed and not trusted",
        )

    async def test_expired(self) -> None:
        identity = server_ca().issue_server(
            "localhost", key=new_key(), not_before=LONG_AGO, not_after=YESTERDAY
        )
        await self.assertFails(
            TLSServer(identity, client_ca().certificate),
            "the server's certificate is not accepted: it has expired",
        )

    async def test_expiredIssuer(self) -> None:
        expired = ThrowawayCA.create(key=new_key(), not_before=LONG_AGO, not_after=YESTERDAY)
        await self.assertFails(
            server(ca=expired),
            "the server's certificate is not accepted: an issuer of it has expired",
            trust=[expired.certificate],
        )

    async def test_notYetValid(self) -> None:
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        identity = server_ca().issue_server("localhost", key=new_key(), not_before=tomorrow)
        await self.assertFails(
            TLSServer(identity, client_ca().certificate),
            "the server's certificate is not accepted: it is not valid yet",
        )

    async def test_otherFaults(self) -> None:
        device = server_ca().issue("Servers", key=new_key())
        number = SSL.X509VerificationCodes.ERR_INVALID_CA
        await self.assertFails(
            server(ca=ThrowawayCA(device.key, device.certificate)),
            "the server's certificate is not accepted: "
            f"an issuer of it has error {number} of OpenSSL",
            trust=[device.certificate, server_ca().certificate],
        )

    async def test_clientCertificateOfAServer(self) -> None:
        identity = server_ca().issue("localhost", key=new_key())
        await self.assertFails(
            TLSServer(identity, client_ca().certificate),
            "the server's certificate is not accepted: it is not meant for servers",
        )

    async def test_noALPN(self) -> None:
        error = await self.assertFails(
            server(alpn=None), "APNs does not speak HTTP/2 (ALPN gave nothing)"
        )
        self.assertFalse(error.refused)

    async def test_otherALPN(self) -> None:
        await self.assertFails(server(alpn=b"http/1.1"), "bad extension")

    async def test_oldTLS(self) -> None:
        await self.assertFails(server(newest=SSL.TLS1_1_VERSION), "tlsv1 alert protocol version")

    async def test_tls12(self) -> None:
        await self.assertOpens(server(newest=SSL.TLS1_2_VERSION))

    async def test_clientIsNotTrusted(self) -> None:
        stranger = packed(server_ca().issue_push(TOPIC, key=new_key()))
        for newest in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            error = await self.assertFails(
                server(speaks=False, newest=newest),
                "APNs ended TLS: tlsv1 alert unknown ca",
                stranger,
            )
            self.assertTrue(error.refused)

    async def test_proxy(self) -> None:
        proxy = FakeProxy(authorization=b"Basic dXNlcjpzM2NyM3Q=")
        url = ProxyURL("127.0.0.1", proxy.listen(), b"user:s3cr3t")
        self.addCleanup(proxy.stop)
        peer = server()
        await self.assertOpens(peer, proxy=url)
        self.assertEqual((peer.server_name, proxy.tunnels), (b"localhost", 1))
        await proxy.left

    async def test_proxyResolvesTheName(self) -> None:
        proxy = FakeProxy(b"HTTP/1.1 407 No\r\n\r\n")
        url = ProxyURL("127.0.0.1", proxy.listen(), b"user:s3cr3t")
        self.addCleanup(proxy.stop)
        connector = APNsConnector(reactor, APNsURL("nowhere.invalid"), proxy=url)
        with self.assertRaises(ConnectionFailed) as caught:
            await connector.connect(push_certificate())
        self.assertEqual(
            str(caught.exception),
            f"nowhere.invalid:443: the proxy 127.0.0.1:{url.port} "
            "answered 407 Proxy Authentication Required",
        )
        self.assertIn(b"CONNECT nowhere.invalid:443 HTTP/1.1\r\n", await proxy.asked)
        await proxy.left

    async def test_serverIsVerifiedBehindAProxy(self) -> None:
        proxy = FakeProxy()
        url = ProxyURL("127.0.0.1", proxy.listen())
        self.addCleanup(proxy.stop)
        await self.assertFails(
            server("127.0.0.1"),
            "the server's certificate is not accepted: it is not for localhost",
            proxy=url,
        )
        await proxy.left

    async def test_nobodyListens(self) -> None:
        peer = server()
        connector = self.connector(peer)
        await peer.stop()
        with self.assertRaisesRegex(ConnectionFailed, "^localhost:[0-9]+: connection refused$"):
            await connector.connect(push_certificate())


class CertificateTests(SynchronousTestCase):
    """
    Push certificates that are of no use.
    """

    def assertRefused(self, certificate: PushCertificate, words: str) -> None:
        memory = MemoryReactorClock()
        connecting = APNsConnector(memory, APNsURL("localhost")).connect(certificate)
        error = self.failureResultOf(connecting, ConnectionFailed).value
        self.assertEqual(str(error), f"localhost:443: {words}")
        self.assertEqual((memory.tcpClients, memory.getDelayedCalls()), ([], []))

    def test_unreadable(self) -> None:
        good = push_certificate()
        locked = server_ca().key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
        )
        for change in (
            {"certificate_pem": ""},
            {"certificate_pem": "rubbish"},
            {"certificate_pem": good.certificate_pem[:200]},
            {"key_pem": ""},
            {"key_pem": good.certificate_pem},
            {"key_pem": locked.decode()},
        ):
            self.assertRefused(
                evolve(good, **change), "the push certificate or its key can not be read"
            )

    def test_keyOfAnother(self) -> None:
        other = packed(client_ca().issue_push(TOPIC, key=new_key()))
        self.assertRefused(
            evolve(push_certificate(), key_pem=other.key_pem),
            "OpenSSL refuses the push certificate: key values mismatch",
        )

    def test_weakKey(self) -> None:
        weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
        self.assertRefused(
            packed(client_ca().issue_push(TOPIC, key=weak)),
            "OpenSSL refuses the push certificate: ee key too small",
        )


@implementer(IHostnameResolver)
class Resolver:
    """
    Knows addresses, or is still looking.
    """

    def __init__(self, *addresses: Any, silent: bool = False) -> None:
        self.addresses = addresses
        self.silent = silent
        self.asked: list[str] = []
        self.receiver: Any = None

    def resolveHostName(
        self, receiver: IResolutionReceiver, name: str, *arguments: Any, **keywords: Any
    ) -> None:
        self.asked.append(name)
        self.receiver = receiver
        receiver.resolutionBegan(None)
        if not self.silent:
            self.finish()

    def finish(self) -> None:
        for address in self.addresses:
            self.receiver.addressResolved(address)
        self.receiver.resolutionComplete()


class NetworkTests(SynchronousTestCase):
    """
    What can happen before there is a TCP connection.
    """

    def setUp(self) -> None:
        self.memory = MemoryReactorClock()
        self.memory.installNameResolver(Resolver(IPv4Address("TCP", "192.0.2.1", 443)))

    def connect(self, **options: Any) -> Deferred[APNsConnection]:
        push = APNsURL("push.example", 2197)
        return APNsConnector(self.memory, push, **options).connect(push_certificate())

    def refuse(self, number: int, error: Exception) -> None:
        factory = self.memory.tcpClients[number][2]
        factory.clientConnectionFailed(None, Failure(error))

    def assertFailed(self, connecting: Deferred[APNsConnection], words: str) -> None:
        error = self.failureResultOf(connecting, ConnectionFailed).value
        self.assertEqual(str(error), f"push.example:2197: {words}")
        self.assertEqual(self.memory.getDelayedCalls(), [])

    def test_noSuchHost(self) -> None:
        self.memory.installNameResolver(Resolver())
        self.assertFailed(self.connect(), "no such host")
        self.assertFailed(
            self.connect(proxy=ProxyURL("proxy", 3128)), "the proxy proxy:3128: no such host"
        )

    def test_names(self) -> None:
        resolver = Resolver(silent=True)
        self.memory.installNameResolver(resolver)
        attempts = [self.connect(), self.connect(proxy=ProxyURL("proxy", 3128))]
        self.assertEqual(resolver.asked, ["push.example", "proxy"])
        for attempt in attempts:
            attempt.cancel()
            self.failureResultOf(attempt, CancelledError)

    def test_refused(self) -> None:
        for error, words in (
            (ConnectError(111, "Connection refused"), "connection refused"),
            (ConnectError(113), "no route to host"),
            (ConnectError(24), "too many open files"),
            (ConnectError(string="It is odd"), "an error occurred while connecting: It is odd."),
        ):
            self.setUp()
            connecting = self.connect()
            self.refuse(0, error)
            # HostnameEndpoint looks for another address a moment later.
            self.memory.advance(1)
            self.assertFailed(connecting, words)

    def test_proxyRefuses(self) -> None:
        connecting = self.connect(proxy=ProxyURL("proxy", 3128, b"user:s3cr3t"))
        self.refuse(0, ConnectError(111))
        self.memory.advance(1)
        self.assertFailed(connecting, "the proxy proxy:3128: connection refused")

    def test_allAddressesRefuse(self) -> None:
        addresses = IPv6Address("TCP", "2001:db8::1", 443), IPv4Address("TCP", "192.0.2.1", 443)
        self.memory.installNameResolver(Resolver(*addresses))
        connecting = self.connect()
        self.refuse(0, ConnectError(101))
        self.memory.advance(1)
        self.assertNoResult(connecting)
        self.refuse(1, ConnectError(111))
        self.memory.advance(1)
        self.assertFailed(connecting, "connection refused")

    def test_deadline(self) -> None:
        for proxy, words in (
            (None, "not connected"),
            (ProxyURL("proxy", 3128), "no way through the proxy proxy:3128"),
        ):
            for resolver in (
                Resolver(silent=True),
                Resolver(IPv4Address("TCP", "192.0.2.1", 443)),
            ):
                self.setUp()
                self.memory.installNameResolver(resolver)
                connecting = self.connect(proxy=proxy)
                self.memory.advance(TIMEOUT - 0.01)
                self.assertNoResult(connecting)
                self.memory.advance(0.01)
                self.assertFailed(connecting, f"timed out: {words} after 10 s")
                self.assertStopped()

    def test_cancel(self) -> None:
        for resolver in (Resolver(silent=True), Resolver(IPv4Address("TCP", "192.0.2.1", 443))):
            self.setUp()
            self.memory.installNameResolver(resolver)
            connecting = self.connect()
            connecting.cancel()
            self.failureResultOf(connecting, CancelledError)
            self.assertEqual(self.memory.getDelayedCalls(), [])
            self.assertStopped()

    def test_lateAddress(self) -> None:
        resolver = Resolver(IPv4Address("TCP", "192.0.2.1", 443), silent=True)
        self.memory.installNameResolver(resolver)
        connecting = self.connect()
        connecting.cancel()
        self.failureResultOf(connecting, CancelledError)
        resolver.finish()
        self.assertEqual(self.memory.tcpClients, [])

    def assertStopped(self) -> None:
        """
        No connection is tried any more.
        """
        for connector in self.memory.connectors:
            self.assertTrue(connector.stoppedConnecting)


class DeadlineTests(Case):
    """
    What can happen while there is a TCP connection, with the deadline or whoever
    cancels as the end of it.
    """

    async def assertEnds(
        self, connecting: Deferred[APNsConnection], clock: Clock, words: str | None
    ) -> None:
        if words is None:
            connecting.cancel()
            self.failureResultOf(connecting, CancelledError)
        else:
            clock.advance(TIMEOUT - 0.01)
            self.assertNoResult(connecting)
            clock.advance(0.01)
            error = self.failureResultOf(connecting, ConnectionFailed).value
            self.assertTrue(str(error).endswith(f": timed out: {words} after 10 s"), str(error))

    async def test_silentServer(self) -> None:
        for words in (None, "TLS and HTTP/2 are not ready"):
            clock, peer = Clock(), server(tls=False)
            connecting = self.connector(peer, clock=clock).connect(push_certificate())
            await peer.reached
            await self.assertEnds(connecting, clock, words)
            await peer.left
            self.assertEqual(clock.getDelayedCalls(), [])

    async def test_noSettings(self) -> None:
        for words in (None, "TLS and HTTP/2 are not ready"):
            clock, peer = Clock(), server(speaks=False)
            connecting = self.connector(peer, clock=clock).connect(push_certificate())
            await peer.reached
            await self.assertEnds(connecting, clock, words)
            await peer.left
            self.assertEqual(clock.getDelayedCalls(), [])

    async def test_silentProxy(self) -> None:
        for answer in (b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"):
            for cancel in (True, False):
                clock, proxy = Clock(), FakeProxy(answer)
                url = ProxyURL("127.0.0.1", proxy.listen(), b"user:s3cr3t")
                self.addCleanup(proxy.stop)
                connector = APNsConnector(reactor, APNsURL("localhost"), (), url, clock)
                connecting = connector.connect(push_certificate())
                await proxy.asked
                words = None if cancel else f"no way through the proxy 127.0.0.1:{url.port}"
                await self.assertEnds(connecting, clock, words)
                await proxy.left
                self.assertEqual(clock.getDelayedCalls(), [])

    async def test_silentBehindTheProxy(self) -> None:
        clock, proxy = Clock(), FakeProxy(OPENED)
        url = ProxyURL("127.0.0.1", proxy.listen())
        self.addCleanup(proxy.stop)
        connector = APNsConnector(reactor, APNsURL("localhost"), (), url, clock)
        connecting = connector.connect(push_certificate())
        await proxy.asked
        await proxy.used
        await self.assertEnds(connecting, clock, "TLS and HTTP/2 are not ready")
        await proxy.left
        self.assertEqual(clock.getDelayedCalls(), [])
