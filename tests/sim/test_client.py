"""
Tests for L{nanomdm.sim.client}, against a small server that is no MDM server
but checks every signature.
"""

from __future__ import annotations

import base64
import plistlib
from random import Random
from typing import Any

from asn1crypto import cms
from attrs import define
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA1
from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from nanomdm.errors import MessageError
from nanomdm.sim.ca import ThrowawayCA
from nanomdm.sim.client import (
    CHECK_IN_TYPE,
    REPORT_TYPE,
    Answered,
    DeviceClient,
    Exchange,
    SimulationError,
)
from nanomdm.sim.device import SimulatedDevice

CA = ThrowawayCA.create()
IDENTITY = CA.issue()
NEXT_IDENTITY = CA.issue()


def command(uuid: str, request_type: str, **content: Any) -> bytes:
    return plistlib.dumps(
        {"CommandUUID": uuid, "Command": {"RequestType": request_type, **content}}
    )


def signer(header: str, body: bytes) -> bytes:
    """
    Check a signature in the form that real devices use.

    @return: DER of the certificate that signed C{body}.
    """
    signed_data = cms.ContentInfo.load(base64.b64decode(header))["content"]
    der: bytes = signed_data["certificates"][0].chosen.dump()
    (signer_info,) = signed_data["signer_infos"]
    key = x509.load_der_x509_certificate(der).public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    key.verify(signer_info["signature"].native, body, padding.PKCS1v15(), SHA1())
    return der


@define
class Received:
    """
    A request that reached the server.
    """

    path: str
    content_type: str
    header: str | None
    message: dict[str, Any]
    body: bytes
    peer_port: int


class FakeServer(Resource):
    """
    Hands out queued commands one by one, whatever is reported.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.queue: list[bytes] = []
        self.received: list[Received] = []
        self.signers: list[bytes] = []
        self.refuse: str | None = None
        self.mute = False
        self.cert_header: str | None = None
        self.arrived: Deferred[None] = Deferred()
        self.disconnected: Deferred[None] = Deferred()

    def render(self, request: Request) -> bytes | int:
        body = request.content.read()
        header = request.getHeader(self.cert_header or "Mdm-Signature")
        received = Received(
            request.path.decode(),
            request.getHeader("Content-Type"),
            header,
            plistlib.loads(body),
            body,
            request.getClientAddress().port,
        )
        self.received.append(received)
        if self.cert_header is None:
            self.signers.append(signer(header, body))
        if self.mute:
            # The head of a response, and never its body.
            request.setHeader("Content-Length", "10")
            request.write(b"abc")
            request.notifyFinish().addErrback(lambda _: self.disconnected.callback(None))
            self.arrived.callback(None)
            return NOT_DONE_YET
        return self.reply(request, received)

    def reply(self, request: Request, received: Received) -> bytes:
        message_type = received.message.get("MessageType")
        if self.refuse == (message_type or received.message["Status"]):
            request.setResponseCode(400)
            return b"Bad Request\n"
        if message_type is not None:
            return b""
        return self.queue.pop(0) if self.queue else b""

    def summary(self) -> list[str]:
        """
        C{MessageType} or C{Status} of every request.
        """
        return [each.message.get("MessageType") or each.message["Status"] for each in self.received]


class ClientTestCase(TestCase):
    """
    A device, its client and a server on an ephemeral port.
    """

    def setUp(self) -> None:
        self.server = FakeServer()
        site = Site(self.server)
        self.port = reactor.listenTCP(0, site, interface="127.0.0.1")
        self.addCleanup(self.port.stopListening)
        self.pool = HTTPConnectionPool(reactor)
        self.addCleanup(self.pool.closeCachedConnections)
        self.device = SimulatedDevice.mac(IDENTITY, Random(1))
        self.client = self.make_client()

    def make_client(self, **options: Any) -> DeviceClient:
        http = HTTPClient(Agent(reactor, pool=self.pool))
        return DeviceClient(self.device, self.base_url, http, **options)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port.getHost().port}"


class EnrollmentTests(ClientTestCase):
    async def test_enroll(self) -> None:
        await self.client.enroll()
        self.assertEqual(self.server.summary(), ["Authenticate", "TokenUpdate"])
        for request in self.server.received:
            self.assertEqual((request.path, request.content_type), ("/mdm", CHECK_IN_TYPE))
        self.assertEqual(self.server.signers, [IDENTITY.der] * 2)

    async def test_user(self) -> None:
        user = self.device.user("A-USER", "apple", "Anna Apple", Random(2))
        self.client.device = user
        await self.client.enroll()
        self.assertEqual(self.server.summary(), ["TokenUpdate"])
        self.assertEqual(self.server.received[0].message["UserID"], "A-USER")

    async def test_check_in_url(self) -> None:
        """
        Check-ins may go to a URL of their own; reports stay at C{/mdm}.
        """
        client = self.make_client(checkin_url=f"{self.base_url}/checkin")
        await client.enroll()
        await client.connect()
        paths = [request.path for request in self.server.received]
        self.assertEqual(paths, ["/checkin", "/checkin", "/mdm"])

    async def test_check_out(self) -> None:
        await self.client.check_out()
        self.assertEqual(self.server.summary(), ["CheckOut"])


class ConnectTests(ClientTestCase):
    async def test_nothing_queued(self) -> None:
        self.assertEqual(await self.client.connect(), [])
        (request,) = self.server.received
        self.assertEqual(request.content_type, REPORT_TYPE)
        self.assertEqual(request.body, self.device.idle())

    async def test_commands(self) -> None:
        """
        Commands are fetched and answered one after the other.
        """
        self.server.queue = [
            command("1", "SecurityInfo"),
            command("2", "MakeCoffee"),
            command("3", "ProfileList"),
        ]
        self.device.not_now_for = {"ProfileList"}
        self.assertEqual(
            await self.client.connect(),
            [
                Answered("SecurityInfo", "1", "Acknowledged"),
                Answered("MakeCoffee", "2", "Error"),
                Answered("ProfileList", "3", "NotNow"),
            ],
        )
        self.assertEqual(self.server.summary(), ["Idle", "Acknowledged", "Error", "NotNow"])
        uuids = [request.message.get("CommandUUID") for request in self.server.received]
        self.assertEqual(uuids, [None, "1", "2", "3"])

    async def test_persistent_connection(self) -> None:
        """
        All of it travels over one TCP connection.
        """
        self.server.queue = [command("1", "SecurityInfo")]
        await self.client.enroll()
        await self.client.connect()
        self.assertEqual(len({request.peer_port for request in self.server.received}), 1)

    async def test_limit(self) -> None:
        """
        A server that never runs out of commands is an error.
        """
        self.server.queue = [command(str(number), "ProfileList") for number in range(5)]
        error = await self.assertFailure(
            Deferred.fromCoroutine(self.client.connect(limit=3)), SimulationError
        )
        self.assertIn("more than 3 commands", str(error))
        self.assertEqual(len(self.server.received), 4)

    async def test_not_a_command(self) -> None:
        self.server.queue = [b"Bad Request\n"]
        await self.assertFailure(Deferred.fromCoroutine(self.client.connect()), MessageError)

    async def test_renewal(self) -> None:
        """
        The device enrolls again with its new identity before it reports the
        new enrollment profile as installed.
        """
        payload = plistlib.dumps(
            {
                "PayloadIdentifier": "com.example.mdm",
                "PayloadContent": [{"PayloadType": "com.apple.mdm"}],
            }
        )
        self.device.next_identity = NEXT_IDENTITY
        self.server.queue = [command("1", "InstallProfile", Payload=payload)]
        await self.client.connect()
        self.assertEqual(
            self.server.summary(), ["Idle", "Authenticate", "TokenUpdate", "Acknowledged"]
        )
        self.assertEqual(self.server.signers, [IDENTITY.der] + [NEXT_IDENTITY.der] * 3)

    async def test_observer(self) -> None:
        seen: list[Exchange] = []
        self.server.queue = [command("1", "SecurityInfo")]
        await self.make_client(observe=seen.append).connect()
        self.assertEqual([exchange.status for exchange in seen], [200, 200])
        self.assertEqual(seen[0].sent, self.device.idle())
        self.assertEqual(seen[0].received, command("1", "SecurityInfo"))
        self.assertEqual(seen[1].received, b"")


class IdentificationTests(ClientTestCase):
    async def test_modern_form(self) -> None:
        """
        The modern signature has signed attributes over a SHA-256 digest.
        """
        self.server.cert_header = "Mdm-Signature"
        await self.make_client(form="modern").connect()
        header = self.server.received[0].header
        assert header is not None
        signed_data = cms.ContentInfo.load(base64.b64decode(header))["content"]
        (signer_info,) = signed_data["signer_infos"]
        self.assertEqual(signer_info["digest_algorithm"]["algorithm"].native, "sha256")
        self.assertTrue(signer_info["signed_attrs"])

    async def test_certificate_header(self) -> None:
        """
        The certificate stands in a header (RFC 9440) in place of a signature.
        """
        self.server.cert_header = "Client-Cert"
        await self.make_client(cert_header="Client-Cert").connect()
        encoded = base64.b64encode(IDENTITY.der).decode()
        self.assertEqual(self.server.received[0].header, f":{encoded}:")


class FailureTests(ClientTestCase):
    async def failed(self, client: DeviceClient) -> SimulationError:
        error = await self.assertFailure(Deferred.fromCoroutine(client.enroll()), SimulationError)
        assert isinstance(error, SimulationError)
        return error

    async def test_refused(self) -> None:
        """
        The error carries status and body, and nothing more is sent.
        """
        self.server.refuse = "Authenticate"
        error = await self.failed(self.client)
        self.assertEqual((error.status, error.body), (400, b"Bad Request\n"))
        self.assertIn("400: Bad Request", str(error))
        self.assertEqual(self.server.summary(), ["Authenticate"])

    async def test_refused_report(self) -> None:
        self.server.refuse = "Idle"
        error = await self.assertFailure(
            Deferred.fromCoroutine(self.client.connect()), SimulationError
        )
        self.assertEqual(error.status, 400)

    async def test_unreachable(self) -> None:
        await self.port.stopListening()
        error = await self.failed(self.client)
        self.assertIsNone(error.status)

    async def test_timeout(self) -> None:
        """
        A response whose end does not come is given up, and its connection
        closed.
        """
        clock = Clock()
        self.server.mute = True
        failed = Deferred.fromCoroutine(self.failed(self.make_client(clock=clock, timeout=30.0)))
        await self.server.arrived
        clock.advance(29.0)
        self.assertNoResult(failed)
        clock.advance(1.0)
        error = await failed
        self.assertIn("within 30 s", str(error))
        self.assertEqual(clock.getDelayedCalls(), [])
        await self.server.disconnected
