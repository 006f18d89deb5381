"""
A whole server that speaks TLS itself, and devices with client certificates.
"""

from __future__ import annotations

import base64
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import Certificate, PrivateCertificate, optionsForClientTLS
from twisted.logger import capturedLogs
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from nanomdm.crypto.identity import Identity
from nanomdm.sim.ca import DeviceIdentity
from nanomdm.sim.client import Answered, DeviceClient, SimulationError
from nanomdm.sim.device import SimulatedDevice
from nanomdm.sim.signing import sign_like_device
from tests import samples
from tests.http.case import CHECKIN, KEY, RESULT, ServerCase, ca, device
from tests.http.test_tls import other_ca, server, web_ca
from tests.http.tls_client import TLSClient, client_context
from tests.process import DaemonProcess
from tests.test_daemon import DaemonCase

OK = (200, b"")
REFUSED = (400, b"Bad Request\n")


def write_files(directory: Path) -> dict[str, Path]:
    """
    Write the files of a server.

    @return: settings that name them.
    """
    contents = {
        "tls_cert": server(1).pem + web_ca().pem,
        "tls_key": server(1).key_pem,
        "tls_client_ca": ca().pem,
    }
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    return {name: directory / name for name in contents}


@implementer(IPolicyForHTTPS)
class DevicePolicy:
    """
    A device's TLS: it trusts L{web_ca} and shows its certificate when asked.
    """

    def __init__(self, identity: DeviceIdentity) -> None:
        self._root = Certificate.loadPEM(web_ca().pem)
        self._own = PrivateCertificate.loadPEM(identity.pem + identity.key_pem)

    def creatorForNetloc(self, host: bytes, port: int) -> IOpenSSLClientConnectionCreator:
        return optionsForClientTLS(host.decode(), trustRoot=self._root, clientCertificate=self._own)


class NativeTLSCase(ServerCase):
    """
    A test case with a server that speaks TLS.
    """

    timeout = 60

    def serve_tls(self, **settings: Any) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.serve(**{**write_files(self.directory), **settings})

    def client(self, identity: DeviceIdentity) -> DeviceClient:
        """
        A simulated Mac whose requests are not signed.
        """
        pool = HTTPConnectionPool(reactor)
        self.addCleanup(pool.closeCachedConnections)
        http = HTTPClient(Agent(reactor, DevicePolicy(identity), pool=pool))
        mac = SimulatedDevice.mac(identity)
        url = f"https://localhost:{self.port}"
        return DeviceClient(mac, url, http, cert_header="X-Nobody-Looks-At-It")

    async def ask(
        self,
        body: bytes,
        identity: DeviceIdentity | None = None,
        content_type: str = CHECKIN,
        path: str = "/mdm",
        **headers: str,
    ) -> tuple[int, bytes]:
        """
        Send a message over a connection of its own.
        """
        context = client_context(web_ca(), identity, self.directory)
        client = await TLSClient.connect(self.port, context)
        self.addCleanup(client.close)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await client.ask(path, body, {"Content-Type": content_type, **named})

    async def idle(self, udid: str, identity: DeviceIdentity) -> tuple[int, bytes]:
        return await self.ask(samples.report("Idle", udid=udid), identity, RESULT)


class DeviceTests(NativeTLSCase):
    """
    The identity of the TLS session.
    """

    async def test_life(self) -> None:
        """
        A device enrolls, gets a command, and checks out.
        """
        self.serve_tls()
        client = self.client(device(1))
        await client.enroll()
        udid = client.device.enrollment_id
        await self.enqueue_one(udid)
        self.assertEqual(await client.connect(), [Answered("ProfileList", "C1", "Acknowledged")])
        [associated] = await self.query("SELECT id, sha256 FROM cert_auth_associations")
        self.assertEqual(associated, (udid, Identity.from_der(device(1).der).sha256))
        await client.check_out()

    async def enqueue_one(self, udid: str) -> None:
        """
        Enqueue a command as an operator does, who has no certificate.
        """
        basic = f"Basic {base64.b64encode(f'nanomdm:{KEY}'.encode()).decode()}"
        status, body = await self.ask(
            samples.command("C1", "ProfileList"),
            path=f"/v1/enqueue/{udid}?nopush=1",
            Authorization=basic,
        )
        self.assertEqual(status, 200, body)

    async def test_withoutCertificate(self) -> None:
        self.serve_tls()
        body = samples.authenticate()
        self.assertEqual(await self.ask(body), REFUSED)
        self.assertEqual((await self.ask(b"", path="/version"))[0], 200)

    async def test_signatureIsIgnored(self) -> None:
        """
        It proves nothing, and does no harm.
        """
        self.serve_tls()
        body = samples.authenticate()
        signature = sign_like_device(device(1), body).decode()
        self.assertEqual(await self.ask(body, Mdm_Signature=signature), REFUSED)
        self.assertEqual(await self.ask(body, device(2), Mdm_Signature=signature), OK)
        [(sha256,)] = await self.query("SELECT sha256 FROM cert_auth_associations")
        self.assertEqual(sha256, Identity.from_der(device(2).der).sha256)

    async def test_otherCA(self) -> None:
        """
        The handshake succeeds, and C{--ca} decides, whatever C{--tls-client-ca} says.
        """
        both = Path(self.mktemp())
        both.write_bytes(ca().pem + other_ca().pem)
        self.serve_tls(tls_client_ca=both)
        with capturedLogs() as events:
            answer = await self.ask(samples.authenticate(), other_ca().issue())
        self.assertEqual(answer, REFUSED)
        [error] = [event["error"] for event in events if "error" in event]
        self.assertIn("its issuer is neither in --ca nor in --intermediate", error)

    async def test_intermediate(self) -> None:
        """
        The CA between is taken from C{--intermediate}.
        """
        middle = ca().intermediate("Middle CA")
        path = Path(self.mktemp())
        path.write_bytes(middle.pem)
        identity = middle.issue()
        self.serve_tls(tls_client_ca=path)
        self.assertEqual(await self.ask(samples.authenticate(), identity), REFUSED)
        self.serve_tls(intermediate=path, tls_client_ca=path)
        self.assertEqual(await self.ask(samples.authenticate(), identity), OK)

    async def test_expired(self) -> None:
        """
        C{--expired-identity-grace} works as with signatures.
        """
        now = datetime.now(UTC)
        expired = ca().issue(not_before=now - timedelta(days=9), not_after=now - timedelta(days=1))
        for days, expected in ((0, REFUSED), (2, OK)):
            self.serve_tls(expired_identity_grace=days)
            self.assertEqual(await self.ask(samples.authenticate(), expired), REFUSED)
            sha256 = Identity.from_der(expired.der).sha256
            await self.storage.associate("D1", sha256, False, 0.0)
            self.assertEqual(await self.ask(samples.authenticate(), expired), expected)

    async def test_certificateOfAnother(self) -> None:
        self.serve_tls()
        for number in (1, 2):
            for body in (samples.authenticate(f"D{number}"), samples.token_update(f"D{number}")):
                self.assertEqual(await self.ask(body, device(number)), OK)
        self.assertEqual(await self.idle("D1", device(1)), OK)
        self.assertEqual(await self.idle("D1", device(2)), REFUSED)
        self.assertEqual(await self.ask(samples.token_update("D2"), device(1)), REFUSED)

    async def test_signedMessages(self) -> None:
        """
        Without C{--tls-client-ca} devices sign, and certificates count for nothing.
        """
        self.serve_tls(tls_client_ca=None)
        body = samples.authenticate()
        self.assertEqual(await self.ask(body, device(1)), REFUSED)
        signature = sign_like_device(device(1), body).decode()
        self.assertEqual(await self.ask(body, Mdm_Signature=signature), OK)

    async def test_proxy(self) -> None:
        """
        A proxy that speaks TLS to the server, and passes certificates on in a header.
        """
        self.serve_tls(tls_client_ca=None, cert_header="X-Client-Cert")
        certificate = "".join(device(1).pem.decode().split("\n")[1:-2])
        answer = await self.ask(samples.authenticate(), X_Client_Cert=f":{certificate}:")
        self.assertEqual(answer, OK)

    async def test_simulatedDeviceRefused(self) -> None:
        """
        The simulated device speaks TLS and is told what others are.
        """
        self.serve_tls()
        client = self.client(other_ca().issue())
        enrolled = Deferred.fromCoroutine(client.enroll())
        error = await self.assertFailure(enrolled, SimulationError)
        self.assertEqual((error.status, error.body), REFUSED)

    async def test_startLine(self) -> None:
        """
        The log says at the start what counts.
        """
        for settings, identity in (
            ({}, "TLS session"),
            ({"tls_client_ca": None}, "Mdm-Signature"),
            ({"tls_client_ca": None, "cert_header": "X-Cert"}, "header X-Cert"),
        ):
            with capturedLogs() as events:
                self.serve_tls(**settings)
            [event] = [event for event in events if event["log_format"] == "starting"]
            self.assertEqual((event["tls"], event["identity"]), (True, identity))


class ProcessTests(DaemonCase):
    """
    As C{twistd} runs it.
    """

    def setUp(self) -> None:
        super().setUp()
        self.files = write_files(self.directory)

    def start_tls(self) -> DaemonProcess:
        flags = [f"--{name.replace('_', '-')}={path}" for name, path in self.files.items()]
        return self.start(*flags)

    async def hello(self, client: TLSClient) -> None:
        status, body = await client.ask("/version", method="GET")
        self.assertEqual(status, 200, body)

    async def test_reload(self) -> None:
        """
        SIGHUP changes the certificate and drops nothing; afterwards the server
        still ends as it should.
        """
        daemon = self.start_tls()
        port = await daemon.listening
        context = client_context(web_ca(), device(1), self.directory)
        old = await TLSClient.connect(port, context)
        await self.hello(old)
        self.files["tls_cert"].write_bytes(server(2).pem)
        await self.hang_up(daemon, b'"TLS files not read again, the old ones stay"')
        await self.hello(await self.expect_certificate(port, server(1)))
        self.files["tls_key"].write_bytes(server(2).key_pem)
        await self.hang_up(daemon, b'"TLS certificate read"')
        await self.hello(await self.expect_certificate(port, server(2)))
        await self.hello(old)
        body = samples.authenticate("D1")
        self.assertEqual(await old.ask("/mdm", body, {"Content-Type": CHECKIN}), OK)
        old.close()
        self.assertEqual(await daemon.signal(signal.SIGTERM), -signal.SIGTERM)
        self.assertNotIn(b"Traceback", daemon.output + daemon.errors)

    async def hang_up(self, daemon: DaemonProcess, line: bytes) -> None:
        """
        Send SIGHUP, and wait for a line in the log.
        """
        written = daemon.written(line)
        daemon.transport.signalProcess(signal.SIGHUP.value)
        await written

    async def expect_certificate(self, port: int, identity: DeviceIdentity) -> TLSClient:
        client = await TLSClient.connect(port, client_context(web_ca()))
        self.addCleanup(client.close)
        self.assertEqual(client.server_certificate, identity.der)
        return client

    async def test_otherKey(self) -> None:
        self.files["tls_key"].write_bytes(server(2).key_pem)
        daemon = self.start_tls()
        daemon.listening.addErrback(lambda failure: None)
        self.assertEqual(await daemon.ended, 1)
        self.assertEqual(
            daemon.errors.decode(),
            f"twistd nanomdm: --tls-key: {self.files['tls_key']}: the private key is not that"
            " of the first certificate\n",
        )
