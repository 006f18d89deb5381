"""
Tests for the escrow key unlock, with a server that stands in for Apple's: it takes
clients with a push certificate only.
"""

from __future__ import annotations

import base64
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet import reactor
from twisted.internet.ssl import Certificate, CertificateOptions
from twisted.logger import capturedLogs
from twisted.web.server import Request, Site

from nanomdm.service import escrow
from nanomdm.sim.ca import DeviceIdentity, ThrowawayCA
from tests.http.case import KEY, Answer, ServerCase
from tests.web import RawServer, WebServer, listen

TOPIC = "com.apple.mgmt.External.one"
FIELDS = {
    "topic": TOPIC,
    "serial": "C02SERIAL",
    "productType": "iPad4,1",
    "escrowKey": "AAAAA-BBBBB-CCCCC",
    "orgName": "Müller & Söhne",
    "guid": "admin@example.com",
}
PATH = "/v1/escrowkeyunlock"


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def apple() -> ThrowawayCA:
    """
    Who issues push certificates, and its server's.
    """
    return ThrowawayCA.create("Apple", key=new_key())


@cache
def push(topic: str = TOPIC) -> DeviceIdentity:
    return apple().issue_push(topic, key=new_key())


@cache
def server() -> DeviceIdentity:
    return apple().issue_server("localhost", key=new_key())


class AppleServer(WebServer):
    """
    @ivar certificates: what its clients showed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.certificates: list[x509.Certificate] = []

    def render(self, request: Request) -> bytes | int:
        tls: Any = request.channel.transport.getHandle()
        self.certificates.append(tls.get_peer_certificate(as_cryptography=True))
        return super().render(request)


class EscrowCase(ServerCase):
    """
    A server, and one that stands in for Apple's.
    """

    async def setUp_apple(self, **settings: Any) -> None:
        self.apple = AppleServer()
        options = CertificateOptions(
            privateKey=server().key,
            certificate=server().certificate,
            trustRoot=Certificate.loadPEM(apple().pem),
        )
        port = reactor.listenSSL(0, Site(self.apple), options, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        root = Path(self.mktemp())
        root.write_bytes(apple().pem)
        url = f"https://localhost:{port.getHost().port}/unlock"
        defaults = {"escrow_key_unlock_url": url, "escrow_key_unlock_ca": root}
        self.serve(**{**defaults, **settings})
        pem = push().pem + push().key_pem
        self.assertEqual((await self.api("PUT", "/v1/pushcert", pem)).code, 200)

    async def unlock(
        self,
        fields: dict[str, str] | bytes,
        content_type: str = "application/x-www-form-urlencoded",
        key: str = KEY,
        method: str = "POST",
    ) -> Answer:
        body = fields if isinstance(fields, bytes) else urlencode(fields).encode()
        credentials = base64.b64encode(f"nanomdm:{key}".encode()).decode()
        headers = {"Authorization": f"Basic {credentials}", "Content-Type": content_type}
        return await self.request(method, PATH, body, headers)

    def assertError(self, answer: Answer, code: int, error: str) -> None:
        self.assertEqual((answer.code, answer.json), (code, {"error": error}))


class UnlockTests(EscrowCase):
    """
    What Apple is asked, and what it answers.
    """

    async def test_unlock(self) -> None:
        await self.setUp_apple()
        self.apple.headers = {"Content-Type": "application/json", "X-Apple": "1"}
        self.apple.body = b'{"code": 0}'
        answer = await self.unlock(FIELDS)
        self.assertEqual((answer.code, answer.body), (200, b'{"code": 0}'))
        self.assertEqual(answer.header("Content-Type"), "application/json")
        self.assertEqual(answer.header("X-Apple"), "1")
        self.assertEqual(answer.headers.getRawHeaders("Server"), ["nanomdm"])
        [asked] = self.apple.asked
        self.assertEqual(self.apple.certificates, [push().certificate])
        self.assertEqual((asked.method, urlsplit(asked.uri).path), ("POST", "/unlock"))
        self.assertEqual(
            parse_qs(urlsplit(asked.uri).query, keep_blank_values=True),
            {"serial": ["C02SERIAL"], "productType": ["iPad4,1"]},
        )
        self.assertEqual(asked.header("Content-Type"), "application/x-www-form-urlencoded")
        self.assertEqual(
            parse_qs(asked.body.decode(), keep_blank_values=True),
            {name: [FIELDS[name]] for name in ("orgName", "guid", "escrowKey")},
        )

    async def test_cellular(self) -> None:
        await self.setUp_apple()
        more = {"imei": "1", "imei2": "", "meid": "3", "else": "4"}
        self.assertEqual((await self.unlock({**FIELDS, **more})).code, 200)
        query = parse_qs(urlsplit(self.apple.asked[0].uri).query, keep_blank_values=True)
        self.assertEqual(set(query), {"serial", "productType", "imei", "meid"})
        self.assertEqual((query["imei"], query["meid"]), (["1"], ["3"]))

    async def test_asCurlSendsIt(self) -> None:
        """
        C{curl -d} encodes nothing.
        """
        await self.setUp_apple()
        body = "&".join(f"{name}={value}" for name, value in FIELDS.items() if name != "orgName")
        answer = await self.unlock(f"{body}&orgName=Müller".encode())
        self.assertEqual(answer.code, 200)
        form = parse_qs(self.apple.asked[0].body.decode())
        self.assertEqual(form["orgName"], ["Müller"])

    async def test_queryInTheURL(self) -> None:
        await self.setUp_apple()
        endpoint = self.resource("v1").children[b"escrowkeyunlock"]
        endpoint._unlocker._url += "?x=1"
        await self.unlock(FIELDS)
        self.assertEqual(self.apple.asked[0].uri.partition("&")[0], "/unlock?x=1")

    async def test_otherAnswers(self) -> None:
        await self.setUp_apple()
        for code in (202, 400, 401, 403, 404, 500):
            self.apple.status, self.apple.body = code, b"x"
            answer = await self.unlock(FIELDS)
            self.assertEqual((answer.code, answer.body), (code, b"x"))
        self.assertEqual(len(self.apple.asked), 6)

    async def test_largestAnswer(self) -> None:
        await self.setUp_apple()
        self.apple.body = b"x" * escrow.LIMIT
        self.assertEqual((await self.unlock(FIELDS)).body, self.apple.body)
        self.apple.body += b"x"
        answer = await self.unlock(FIELDS)
        self.assertEqual(answer.code, 502)
        self.assertIn("more than 1048576 bytes", answer.json["error"])

    async def test_nothingLogged(self) -> None:
        await self.setUp_apple()
        with capturedLogs() as captured:
            await self.unlock(FIELDS)
            self.apple.body = b"x" * (escrow.LIMIT + 1)
            await self.unlock(FIELDS)
            await self.unlock({**FIELDS, "guid": ""})
        text = repr([event for event in captured if event["log_namespace"].startswith("nanomdm")])
        self.assertIn(TOPIC, text)
        for name in ("serial", "escrowKey", "guid"):
            self.assertNotIn(FIELDS[name], text)
        self.assertNotIn("iPad4", text)


class RefusalTests(EscrowCase):
    """
    What is not even asked.
    """

    async def test_missing(self) -> None:
        await self.setUp_apple()
        for name in FIELDS:
            without = {one: value for one, value in FIELDS.items() if one != name}
            for fields in (without, {**FIELDS, name: ""}):
                self.assertError(await self.unlock(fields), 400, f"{name} is missing or empty")
        self.assertEqual(self.apple.asked, [])

    async def test_noForm(self) -> None:
        await self.setUp_apple()
        form = "the body is to be a form: application/x-www-form-urlencoded"
        self.assertError(await self.unlock(FIELDS, "application/json"), 400, form)
        self.assertError(await self.unlock(b"\xff=1"), 400, "malformed form")
        self.assertError(await self.unlock(b"topic=%ff"), 400, "malformed form")
        self.assertError(await self.unlock(b"a=1&" * 51), 400, "malformed form")
        self.assertError(await self.unlock(b"a=1&a=2"), 400, "a field is there twice")
        self.assertError(await self.unlock(b"topic=a%00"), 400, "there is a NUL in a field")
        large = await self.unlock(b"a=" + b"1" * 16384)
        self.assertError(large, 400, "the form has more than 16384 bytes")
        self.assertError(await self.unlock(b""), 400, "topic is missing or empty")

    async def test_charset(self) -> None:
        await self.setUp_apple()
        form = "Application/X-WWW-Form-Urlencoded; charset=utf-8"
        self.assertEqual((await self.unlock(FIELDS, form)).code, 200)

    async def test_unknownTopic(self) -> None:
        await self.setUp_apple()
        answer = await self.unlock({**FIELDS, "topic": "com.apple.mgmt.other"})
        self.assertError(answer, 404, "there is no push certificate for this topic")

    async def test_unusableCertificate(self) -> None:
        await self.setUp_apple()
        await self.query("UPDATE push_certs SET key_pem = ?", "x")
        answer = await self.unlock(FIELDS)
        self.assertEqual(answer.code, 500)
        self.assertEqual(
            answer.json["error"],
            "the push certificate for this topic is unusable: there is no private key",
        )

    async def test_operatorsOnly(self) -> None:
        await self.setUp_apple()
        self.assertEqual((await self.unlock(FIELDS, key="wrong")).code, 401)
        for method in ("GET", "PUT"):
            answer = await self.unlock(FIELDS, method=method)
            self.assertEqual((answer.code, answer.header("Allow")), (405, "POST"))
        self.assertEqual(self.apple.asked, [])


class FailureTests(EscrowCase):
    """
    Apple does not answer.
    """

    async def test_unreachable(self) -> None:
        await self.setUp_apple(escrow_key_unlock_url="https://127.0.0.1:9/x?secret=1")
        self.assertError(await self.unlock(FIELDS), 502, "127.0.0.1:9: connection refused")

    async def test_untrusted(self) -> None:
        await self.setUp_apple(escrow_key_unlock_ca=None)
        answer = await self.unlock(FIELDS)
        self.assertEqual(answer.code, 502)
        self.assertIn("certificate is not accepted", answer.json["error"])
        self.assertEqual(self.apple.asked, [])

    async def test_refusedCertificate(self) -> None:
        """
        It is the topic's that is shown, and Apple may not like it.
        """
        await self.setUp_apple()
        other = ThrowawayCA.create("Other", key=new_key())
        foreign = other.issue_push("com.apple.mgmt.foreign", key=new_key())
        await self.api("PUT", "/v1/pushcert", foreign.pem + foreign.key_pem)
        answer = await self.unlock({**FIELDS, "topic": "com.apple.mgmt.foreign"})
        self.assertEqual(answer.code, 502)
        self.assertIn("localhost", answer.json["error"])
        self.assertEqual(self.apple.asked, [])

    async def test_noHTTP(self) -> None:
        port = listen(self, RawServer(b"SSH-2.0\r\n", hang_up=True))
        await self.setUp_apple(escrow_key_unlock_url=f"http://127.0.0.1:{port}/")
        answer = await self.unlock(FIELDS)
        self.assertError(answer, 502, f"127.0.0.1:{port}: the answer is not HTTP")
