"""
What tests of native TLS share: CAs, certificates, and servers over real sockets.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.logger import LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase, TestCase

from nanomdm.crypto.chain import ChainVerifier
from nanomdm.http.endpoint import Endpoint, Folder
from nanomdm.http.identity import TLSIdentity
from nanomdm.http.request import Request
from nanomdm.http.response import Response, text
from nanomdm.http.site import Site
from nanomdm.http.tls import ServerTLS, TLSEndpoint, TLSFiles
from nanomdm.reload import Reloader
from nanomdm.sim.ca import DeviceIdentity, ThrowawayCA
from tests.http.tls_client import TLSClient, client_context

HOST = "localhost"


def now() -> datetime:
    """
    The time.
    """
    return datetime.now(UTC)


@cache
def web_ca() -> ThrowawayCA:
    """
    The CA of servers.
    """
    return ThrowawayCA.create("Web CA")


@cache
def device_ca() -> ThrowawayCA:
    """
    The CA of devices.
    """
    return ThrowawayCA.create("Device CA")


@cache
def other_ca() -> ThrowawayCA:
    """
    A CA that nobody here trusts.
    """
    return ThrowawayCA.create("Other CA")


@cache
def server(number: int) -> DeviceIdentity:
    """
    One of several certificates of the server.
    """
    return web_ca().issue_server(HOST)


@cache
def device() -> DeviceIdentity:
    """
    A device's certificate.
    """
    return device_ca().issue()


class WhoAreYou(Endpoint):
    """
    Answers with the hash of the client's certificate.
    """

    def __init__(self) -> None:
        super().__init__()
        self._identities = TLSIdentity(ChainVerifier([device_ca().certificate]))

    async def respond(self, request: Request) -> Response:
        return text(200, (await self._identities.identify(request)).sha256)


class Hello(Endpoint):
    """
    Answers everybody.
    """

    async def respond(self, request: Request) -> Response:
        return text(200, "hello")


def resources() -> Folder:
    """
    C{/hello} for everybody, C{/who} for those with a certificate.
    """
    root = Folder()
    root.putChild(b"hello", Hello())
    root.putChild(b"who", WhoAreYou())
    return root


HELLO = (200, b"hello\n")
REFUSED = (400, b"Bad Request\n")


def who(identity: DeviceIdentity) -> tuple[int, bytes]:
    """
    What C{/who} answers a client.
    """
    sha256 = ChainVerifier([device_ca().certificate]).verify(identity.der).sha256
    return 200, sha256.encode() + b"\n"


class FilesCase(SynchronousTestCase):
    """
    A test case with the files of a server.
    """

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()

    def file(self, name: str, *contents: bytes) -> Path:
        path = self.directory / name
        path.write_bytes(b"".join(contents))
        return path


class TLSCase(TestCase):
    """
    A test case with a site behind TLS.
    """

    timeout = 60

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.certificate = self.directory / "server.pem"
        self.write(server(1))
        self.client_ca = self.directory / "client-ca.pem"
        self.client_ca.write_bytes(device_ca().pem)

    def write(self, identity: DeviceIdentity) -> None:
        self.certificate.write_bytes(identity.pem + identity.key_pem)

    async def serve(self, client_ca: bool = True, **limits: int) -> None:
        files = TLSFiles(self.certificate, client_ca=self.client_ca if client_ca else None)
        self.tls = ServerTLS(files, now)
        plain = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        await self.listen(TLSEndpoint(plain, self.tls, reactor), **limits)

    async def listen(self, endpoint: Any, **limits: int) -> None:
        self.site = Site(resources(), reactor, 1 << 20, **limits)
        port = await endpoint.listen(self.site)
        self.addCleanup(self.site.drain, 10)
        self.addCleanup(port.stopListening)
        self.port = getattr(port.getHost(), "port", None)

    def context(self, identity: DeviceIdentity | None = None) -> ssl.SSLContext:
        return client_context(web_ca(), identity, self.directory)

    async def connect(
        self, context: ssl.SSLContext | None = None, session: Any = None
    ) -> TLSClient:
        client = await TLSClient.connect(self.port, context or self.context(), session)
        self.addCleanup(client.close)
        return client

    async def ask(self, path: str, identity: DeviceIdentity | None = None) -> tuple[int, bytes]:
        """
        Send one request on a connection of its own.
        """
        client = await self.connect(self.context(identity))
        return await client.ask(path)

    def reload(self) -> None:
        """
        Read the files again, as SIGHUP makes the server do.
        """
        reloader = Reloader(reactor, reactor.getThreadPool(), lambda: None, lambda: None)
        reloader.add(self.tls.source)
        reloader.reload()

    def logged(self, message: str) -> Deferred[LogEvent]:
        """
        @return: fires when the log gets a line that begins so.
        """
        found: Deferred[LogEvent] = Deferred()

        def look(event: LogEvent) -> None:
            if str(event.get("log_format", "")).startswith(message) and not found.called:
                reactor.callFromThread(found.callback, event)

        globalLogPublisher.addObserver(look)
        self.addCleanup(globalLogPublisher.removeObserver, look)
        return found
