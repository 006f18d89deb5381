"""
C{etc/nginx.conf.example}, in a real nginx in front of real servers.
"""

from __future__ import annotations

import base64
import re
import signal
import socket
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IListeningPort, IProcessTransport
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import Site
from twisted.web.static import Data

from nanomdm.crypto.identity import Identity
from nanomdm.sim.ca import DeviceIdentity
from nanomdm.sim.signing import sign_like_device
from tests import samples
from tests.http.case import CHECKIN, KEY, RESULT, ca, device
from tests.http.test_tls import other_ca, server, web_ca
from tests.http.tls_client import SECONDS, TLSClient, client_context
from tests.process import DaemonProcess
from tests.programs import lacking, program
from tests.servers.base import free_port
from tests.test_daemon import DaemonCase

_EXAMPLE = Path(__file__).parent.parent / "etc" / "nginx.conf.example"

OK = (200, b"")
REFUSED = (400, b"Bad Request\n")
INSIDE, OUTSIDE = "127.0.0.2", "127.0.0.1"

_MAIN = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr notice;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    include {directory}/nanomdm.conf;
}}
"""


class NginxProcess(ProcessProtocol):
    """
    A running nginx.

    @ivar errors: its log.
    @ivar listening: fires once it does.
    @ivar ended: fires with its exit status.
    """

    transport: IProcessTransport

    def __init__(self, command: list[str]) -> None:
        self.errors = b""
        self.listening: Deferred[None] = Deferred()
        self.ended: Deferred[int | None] = Deferred()
        reactor.spawnProcess(self, command[0], command, env={})

    def errReceived(self, data: bytes) -> None:
        self.errors += data
        # It says which way to wait for events once it has opened its ports.
        if b'using the "' in self.errors and not self.listening.called:
            self.listening.callback(None)

    def processEnded(self, reason: Failure) -> None:
        if not self.listening.called:
            self.listening.errback(RuntimeError(self.errors.decode()))
        self.ended.callback(reason.value.exitCode)


class Silent(Protocol):
    """
    Reads a request, and closes the connection instead of answering.
    """

    def dataReceived(self, data: bytes) -> None:
        self.factory.requests += 1
        self.transport.abortConnection()


class NginxCase(DaemonCase):
    """
    A test case with nginx.
    """

    skip = lacking("nginx")

    def write(self, first: int, second: int) -> list[str]:
        """
        Write the example's file with other ports and paths.

        @return: the command.
        """
        self.port = free_port()
        text = _EXAMPLE.read_text()
        for old, new in (
            ("    listen 443 ssl;\n", f"    listen 127.0.0.1:{self.port} ssl;\n"),
            ("    listen [::]:443 ssl;\n", ""),
            ("server 127.0.0.1:9001 ", f"server 127.0.0.1:{first} "),
            ("server 127.0.0.1:9002 ", f"server 127.0.0.1:{second} "),
            ("/etc/nginx/mdm.example.com.pem", f"{self.directory}/server.pem"),
            ("/etc/nginx/mdm.example.com.key", f"{self.directory}/server.key"),
            ("/etc/nanomdm/ca.pem", f"{self.directory}/ca.pem"),
            ("allow 127.0.0.0/8;", f"allow {INSIDE};"),
        ):
            self.assertEqual(text.count(old), 1, old)
            text = text.replace(old, new)
        (self.directory / "nanomdm.conf").write_text(text)
        (self.directory / "nginx.conf").write_text(_MAIN.format(directory=self.directory))
        (self.directory / "server.pem").write_bytes(server(1).pem)
        (self.directory / "server.key").write_bytes(server(1).key_pem)
        return [
            *(program("nginx"), "-p", str(self.directory), "-e", "stderr"),
            *("-c", str(self.directory / "nginx.conf")),
        ]

    async def start_nginx(self, first: int, second: int) -> None:
        nginx = NginxProcess(self.write(first, second))

        def stop() -> Deferred[int | None]:
            if nginx.ended.called:
                return nginx.ended
            nginx.transport.signalProcess(signal.SIGTERM.name.removeprefix("SIG"))
            return nginx.ended

        self.addCleanup(stop)
        await nginx.listening

    async def start_all(self, *options: str) -> list[DaemonProcess]:
        """
        Start two servers on one database, and nginx.
        """
        daemons = [self.start(*options), self.start(*options)]
        self.upstreams = await gatherResults([one.listening for one in daemons])
        await self.start_nginx(*self.upstreams)
        return daemons

    async def connect(
        self, identity: DeviceIdentity | None = None, source: str = OUTSIDE
    ) -> TLSClient:
        context = client_context(web_ca(), identity, self.directory)
        client = await deferToThread(self._connected, context, source)
        self.addCleanup(client.close)
        return client

    def _connected(self, context: ssl.SSLContext, source: str) -> TLSClient:
        address = ("127.0.0.1", self.port)
        return TLSClient(socket.create_connection(address, SECONDS, (source, 0)), context)

    async def ask(
        self,
        path: str,
        body: bytes | None = None,
        identity: DeviceIdentity | None = None,
        source: str = OUTSIDE,
        method: str = "PUT",
        **headers: str,
    ) -> tuple[int, bytes]:
        """
        Send a request over a connection of its own.
        """
        client = await self.connect(identity, source)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await client.ask(path, body, named, method)
        client.close()
        return answer

    async def enroll_with(self, identity: DeviceIdentity, udid: str = "D1") -> None:
        for body in (samples.authenticate(udid), samples.token_update(udid)):
            answer = await self.ask("/mdm", body, identity, Content_Type=CHECKIN)
            self.assertEqual(answer, OK)


def in_header(identity: DeviceIdentity) -> str:
    """
    @return: a certificate in a header, as RFC 9440 says.
    """
    return ":" + base64.b64encode(identity.der).decode() + ":"


class FileTests(NginxCase):
    """
    The file itself.
    """

    def test_valid(self) -> None:
        """
        C{nginx -t} says so, and warns of nothing.
        """
        command = [*self.write(9001, 9002), "-t", "-q"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
        self.assertEqual((ended.returncode, ended.stdout, ended.stderr), (0, "", ""))

    def test_guide(self) -> None:
        """
        What the operations guide shows of it is the same.
        """
        guide = (_EXAMPLE.parent.parent / "docs" / "operations-guide.md").read_text()
        match = re.search("```nginx\n(.*?)```", guide, re.DOTALL)
        assert match is not None
        lines = {line.strip() for line in _EXAMPLE.read_text().splitlines()}
        for line in match[1].splitlines():
            if not line.lstrip().startswith("#"):
                self.assertIn(line.strip(), lines)


class CertificateTests(NginxCase):
    """
    Servers with C{--cert-header}.
    """

    async def start_both(self) -> list[DaemonProcess]:
        return await self.start_all("--cert-header", "X-Client-Cert")

    async def test_device(self) -> None:
        """
        It enrolls and answers a command; the servers take turns.
        """
        daemons = await self.start_both()
        await self.enroll_with(device(1))
        [(sha256,)] = self.rows("SELECT sha256 FROM cert_auth_associations")
        self.assertEqual(sha256, Identity.from_der(device(1).der).sha256)
        await self.enqueue(self.upstreams[0], "D1", "C1")
        _, command = await self.ask("/mdm", samples.report("Idle"), device(1), Content_Type=RESULT)
        self.assertEqual(command, samples.command("C1"))
        body = samples.report("Acknowledged", "C1")
        self.assertEqual(await self.ask("/mdm", body, device(1), Content_Type=RESULT), OK)
        for daemon in daemons:
            self.assertIn(b"path=/mdm", daemon.output)

    async def test_noCertificate(self) -> None:
        await self.start_both()
        answer = await self.ask("/mdm", samples.authenticate(), Content_Type=CHECKIN)
        self.assertEqual(answer, REFUSED)

    async def test_otherCertificate(self) -> None:
        """
        nanomdm decides, and answers.
        """
        daemons = await self.start_both()
        answer = await self.ask(
            "/mdm", samples.authenticate(), other_ca().issue(), Content_Type=CHECKIN
        )
        self.assertEqual(answer, REFUSED)
        log = b"".join(daemon.output for daemon in daemons)
        self.assertIn(b"its issuer is neither in --ca nor in --intermediate", log)

    async def test_forgedHeader(self) -> None:
        """
        What a client says in the header is replaced, whether it has a certificate or not.
        """
        await self.start_both()
        forged = partial(
            self.ask,
            "/mdm",
            samples.authenticate(),
            Content_Type=CHECKIN,
            X_Client_Cert=in_header(device(2)),
        )
        self.assertEqual(await forged(), REFUSED)
        self.assertEqual(await forged(identity=device(1)), OK)
        [(sha256,)] = self.rows("SELECT sha256 FROM cert_auth_associations")
        self.assertEqual(sha256, Identity.from_der(device(1).der).sha256)

    async def test_sizes(self) -> None:
        """
        Headers of 64 KB and bodies of 20 MB get through, and nanomdm says what is too much.
        """
        await self.start_all("--cert-header", "X-Client-Cert", "--max-body-size", "30000000")
        await self.enroll_with(device(1))
        for size in (20_000_000, 0):
            body = samples.report("Idle", Padding="x" * size)
            answer = await self.ask(
                "/mdm", body, device(1), Content_Type=RESULT, X_Padding="x" * 65536
            )
            self.assertEqual(answer, OK)
        body = samples.report("Idle", Padding="x" * 30_000_000)
        status, _ = await self.ask("/mdm", body, device(1), Content_Type=RESULT)
        self.assertEqual(status, 413)

    async def test_expiredCertificate(self) -> None:
        """
        That is refused by nginx itself, with the status that devices may get.
        """
        daemons = await self.start_both()
        now = datetime.now(UTC)
        expired = ca().issue(not_before=now - timedelta(days=9), not_after=now - timedelta(days=1))
        status, body = await self.ask("/mdm", samples.authenticate(), expired, Content_Type=CHECKIN)
        self.assertEqual((status, b"nginx" in body), (400, True))
        self.assertNotIn(b"path=/mdm", b"".join(daemon.output for daemon in daemons))

    async def test_deadServer(self) -> None:
        """
        When one server dies, no device notices, whoever has open connections.
        """
        first, second = await self.start_both()
        await self.enroll_with(device(1))
        client = await self.connect(device(1))
        headers = {"Content-Type": RESULT}

        async def idle() -> None:
            self.assertEqual(await client.ask("/mdm", samples.report("Idle"), headers), OK)

        for _ in range(4):
            await idle()
        await first.signal(signal.SIGKILL)
        for _ in range(10):
            await idle()
        self.assertGreaterEqual(second.output.count(b"path=/mdm"), 11)

    async def test_inside(self) -> None:
        """
        The API is there for those inside only, however the path is written; devices
        are never answered 401 or 403.
        """
        await self.start_both()
        credentials = base64.b64encode(f"nanomdm:{KEY}".encode()).decode()
        basic = f"Basic {credentials}"
        for path in ("/v1/pushcert", "/v1/push/x%2Fy", "/migration", "/metrics", "/readyz"):
            status, _ = await self.ask(path, Authorization=basic, method="GET")
            self.assertEqual(status, 403, path)
        for path, expected in (("/v1/pushcert", 400), ("/v1/push/x%2Fy", 500), ("/healthz", 200)):
            status, body = await self.ask(path, source=INSIDE, Authorization=basic, method="GET")
            self.assertEqual(status, expected, body)
        self.assertEqual((await self.ask("/nothing", method="GET"))[0], 404)
        status, body = await self.ask("/version", method="GET")
        self.assertEqual((status, b"version" in body), (200, True))

    async def test_otherwiseWritten(self) -> None:
        """
        Nothing gets to the API that looks like C{/mdm} to nginx.
        """
        daemons = await self.start_both()
        for path in (
            "/v1/pushcert/../../mdm",
            "/v1/pushcert/%2e%2e/%2E./mdm",
            "/v1/push/x%2F..%2F..%2F..%2Fmdm",
            "/v1/./pushcert",
            "//v1/pushcert",
        ):
            for method in ("GET", "PUT"):
                status, body = await self.ask(path, method=method)
                self.assertEqual((status, b"nginx" in body), (400, True), path)
        self.assertNotIn(b'msg="request"', b"".join(daemon.output for daemon in daemons))

    async def test_rawPaths(self) -> None:
        """
        Paths get through as they are: an id with a slash stays one.
        """
        await self.start_both()
        credentials = base64.b64encode(f"nanomdm:{KEY}".encode()).decode()
        _, body = await self.ask(
            "/v1/push/a%2Fb%3A1,c@d",
            source=INSIDE,
            Authorization=f"Basic {credentials}",
            method="GET",
        )
        self.assertIn(b'"a/b:1"', body)
        self.assertIn(b'"c@d"', body)


class SignatureTests(NginxCase):
    """
    Servers that look at C{Mdm-Signature}.
    """

    async def test_device(self) -> None:
        """
        A device without a client certificate gets through.
        """
        await self.start_all()
        for body in (samples.authenticate("D1"), samples.token_update("D1")):
            signature = sign_like_device(device(1), body).decode()
            answer = await self.ask("/mdm", body, Content_Type=CHECKIN, Mdm_Signature=signature)
            self.assertEqual(answer, OK)
        answer = await self.ask("/mdm", samples.authenticate("D2"), Content_Type=CHECKIN)
        self.assertEqual(answer, REFUSED)


class Brief(Protocol):
    """
    Answers a request, and closes the connection.
    """

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        self.transport.loseConnection()


class Counting(Site):
    """
    A site that counts its connections.
    """

    connections = 0

    def buildProtocol(self, address: Any) -> Any:
        self.connections += 1
        return super().buildProtocol(address)


class UpstreamTests(NginxCase):
    """
    How nginx treats the servers.
    """

    def open(self, factory: Factory, number: int = 0) -> IListeningPort:
        factory.noisy = False
        port = reactor.listenTCP(number, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return port

    async def start_with(self, factory: Factory) -> list[IListeningPort]:
        ports = [self.open(factory), self.open(factory)]
        await self.start_nginx(*(port.getHost().port for port in ports))
        return ports

    async def test_connectionsAreKept(self) -> None:
        """
        One to each server does for a client, whatever connections that has itself.
        """
        root = Resource()
        root.putChild(b"version", Data(b"hello", "text/plain"))
        site = Counting(root)
        await self.start_with(site)
        for _ in range(10):
            self.assertEqual(await self.ask("/version", method="GET"), (200, b"hello"))
        self.assertEqual(site.connections, 2)

    async def test_oneAfterTheOther(self) -> None:
        """
        Nobody notices that first one server starts again, and right after it the other.
        """
        ports = await self.start_with(Factory.forProtocol(Brief))
        for port in ports:
            number = port.getHost().port
            await port.stopListening()
            for _ in range(4):
                answer = await self.ask("/version", method="GET")
                self.assertEqual(answer, (200, b"hello"))
            self.open(Factory.forProtocol(Brief), number)

    async def requests(self, method: str) -> int:
        """
        @return: how often a request arrives at servers that die of it.
        """
        factory = Factory.forProtocol(Silent)
        factory.requests = 0
        await self.start_with(factory)
        status, _ = await self.ask("/v1/x", b"body", source=INSIDE, method=method)
        self.assertEqual(status, 502)
        return factory.requests

    async def test_put(self) -> None:
        self.assertEqual(await self.requests("PUT"), 2)

    async def test_post(self) -> None:
        """
        What is not to happen twice is asked once.
        """
        self.assertEqual(await self.requests("POST"), 1)
