"""
Who may do what where devices show their certificates in TLS, and at the address for
metrics.
"""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.ssl import Certificate, optionsForClientTLS

from nanomdm.sim.ca import DeviceIdentity
from tests.faults.process_case import Header, basic, signed
from tests.faults.test_access import (
    MESSAGES,
    OPERATORS,
    REPORT,
    DeviceCase,
    certificates,
)
from tests.http.case import RESULT, ServerCase, device
from tests.http.raw_client import RawClient
from tests.http.test_native_tls import DevicePolicy, write_files
from tests.http.test_tls import web_ca

#: Headers by which a device without a certificate might want to have one.
CLAIMS: tuple[Header, ...] = (
    *(("X-Client-Cert", "x"), ("X-SSL-Client-Cert", "x"), ("Client-Cert", "x")),
    *(("X-Forwarded-For", "127.0.0.1"), ("X-Enrollment-ID", "D1")),
)


def unproven(identity: DeviceIdentity, body: bytes) -> list[Header]:
    """
    No header: TLS says it.
    """
    return []


class TLSTests(DeviceCase):
    """
    With C{--tls-client-ca}, whoever has no certificate gets through TLS, and no further.
    """

    def connect(self, identity: DeviceIdentity | None) -> Deferred[RawClient]:
        """
        Show a certificate, if there is one.
        """
        if identity is None:
            root = Certificate.loadPEM(web_ca().pem)
            options = optionsForClientTLS("localhost", trustRoot=root)
        else:
            options = DevicePolicy(identity).creatorForNetloc(b"localhost", self.port)
        plain = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port)
        return connectProtocol(wrapClientTLS(options, plain), RawClient())

    async def serve_tls(self, *options: str) -> None:
        """
        Start a server that speaks TLS.
        """
        files = write_files(self.directory)
        flags = [f"--{name.replace('_', '-')}={path}" for name, path in files.items()]
        await self.serve(*flags, *options, prove=unproven)

    async def test_matrix(self) -> None:
        await self.serve_tls()
        await self.assertRows("one endpoint", unproven)

    async def test_otherProofs(self) -> None:
        """
        Signatures and headers are worth nothing, nor do they harm who has a certificate.
        """
        await self.serve_tls()
        present, second = certificates()[-1], certificates()[2]
        for method, target, content_type, body in MESSAGES.values():
            headers = [("Content-Type", content_type), *signed(present, body), *CLAIMS]
            answer = await self.ask(method, target, body, headers)
            self.assertEqual(answer.code, 404 if target == "/checkin" else 400)
        headers = [("Content-Type", RESULT), *signed(second, REPORT), *CLAIMS]
        self.assertEqual((await self.ask("PUT", "/mdm", REPORT, headers, present)).code, 200)
        self.assertEqual((await self.ask("PUT", "/mdm", REPORT, headers, second)).code, 400)
        self.assertNotIn(b"unexpected error", self.daemon.output)

    async def test_proxied(self) -> None:
        """
        Nobody is a proxy who speaks TLS with the server itself, wherever that is.
        """
        await self.serve_tls()
        answer = await self.ask("GET", "/authproxy/x", b"", CLAIMS, certificates()[-1])
        self.assertEqual(answer.code, 200)
        [asked] = self.web.asked
        names = {name.lower() for name, _ in asked.headers.getAllRawHeaders()}
        self.assertEqual(names, {b"host", b"connection", b"x-enrollment-id", b"x-trace-id"})
        self.assertEqual(asked.header("X-Enrollment-ID"), "D1")

    async def test_operators(self) -> None:
        """
        A certificate of a device opens nothing that is for operators.
        """
        await self.serve_tls()
        present = certificates()[-1]
        for identity in (None, present):
            answers = [
                await self.ask("GET", "/v1/enrollments", b"", credential, identity)
                for credential in OPERATORS
            ]
            statuses = [answer.code for answer in answers]
            self.assertEqual(statuses, [401, 401, 401, 200, 200, 200, 200])


#: Paths, and what they answer at the address for metrics, whoever asks.
AT_METRICS = {
    "/metrics": 200,
    "/healthz": 200,
    "/readyz": 200,
    "/metrics/x": 404,
    "/mdm": 404,
    "/checkin": 404,
    "/authproxy/x": 404,
    "/version": 404,
    "/v1/enrollments": 404,
    "/v1/openapi.yaml": 404,
    "/v1/enqueue/D1": 404,
    "/migration": 404,
    "/": 404,
}


class MetricsListenTests(ServerCase):
    """
    With C{--metrics-listen}, everybody who comes there sees the metrics, and nothing else;
    and nobody does so elsewhere.
    """

    async def test_matrix(self) -> None:
        self.serve(metrics_listen="tcp:0:interface=127.0.0.1", migration=True)
        main, there = self.port, self.daemon.parts.metrics.port.getHost().port
        for credential in ([], basic("nanomdm", "x"), OPERATORS[-1], signed(device(1), b"")):
            headers = dict(credential)
            for path, expected in AT_METRICS.items():
                self.port = there
                answer = await self.request("GET", path, headers=headers)
                self.assertEqual(answer.code, expected, path)
            self.port = main
            answer = await self.request("GET", "/metrics", headers=headers)
            self.assertEqual(answer.code, 404)
