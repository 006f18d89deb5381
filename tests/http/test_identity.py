"""
Who may speak: signatures, certificate headers and associations, over HTTP.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from urllib.parse import quote

from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import capturedLogs

from nanomdm.crypto.identity import Identity
from nanomdm.http.proxies import parse_networks
from nanomdm.sim.ca import DeviceIdentity, ThrowawayCA
from nanomdm.sim.signing import sign_like_device
from tests import samples
from tests.http.case import CHECKIN, RESULT, Answer, ServerCase, ca, device
from tests.http.raw_client import RawClient


@cache
def expired() -> DeviceIdentity:
    """
    A certificate that expired two days ago.
    """
    now = datetime.now(UTC)
    return ca().issue(not_before=now - timedelta(days=30), not_after=now - timedelta(days=2))


@cache
def other_ca() -> ThrowawayCA:
    """
    A CA that nobody trusts.
    """
    return ThrowawayCA.create("Other CA")


class SignatureTests(ServerCase):
    """
    C{Mdm-Signature}.
    """

    def setUp(self) -> None:
        self.serve()

    async def refused(self, header: str | None, body: bytes = samples.authenticate()) -> None:
        headers = {"Content-Type": CHECKIN}
        if header is not None:
            headers["Mdm-Signature"] = header
        self.assertRefused(await self.request("PUT", "/mdm", body, headers))
        self.assertEqual(await self.query("SELECT * FROM devices"), [])

    async def test_formOfRealDevices(self) -> None:
        self.assertOK(await self.send(samples.authenticate()))

    async def test_modernForm(self) -> None:
        self.assertOK(await self.send(samples.authenticate(), modern=True))

    async def test_none(self) -> None:
        await self.refused(None)

    async def test_notBase64(self) -> None:
        await self.refused("?" * 100)

    async def test_notCMS(self) -> None:
        await self.refused(base64.b64encode(b"x" * 100).decode())

    async def test_otherBody(self) -> None:
        header = sign_like_device(device(), samples.authenticate("D2")).decode()
        await self.refused(header)

    async def test_twoHeaders(self) -> None:
        body = samples.authenticate()
        header = sign_like_device(device(), body).decode()
        headers = {"Content-Type": CHECKIN, "Mdm-Signature": [header, header]}
        self.assertRefused(await self.request("PUT", "/mdm", body, headers))

    async def test_otherCA(self) -> None:
        self.assertRefused(await self.send(samples.authenticate(), identity=other_ca().issue()))

    async def test_expired(self) -> None:
        self.assertRefused(await self.send(samples.authenticate(), identity=expired()))

    async def test_notForClients(self) -> None:
        identity = ca().issue(client_auth=False)
        self.assertRefused(await self.send(samples.authenticate(), identity=identity))

    async def test_noExtendedKeyUsage(self) -> None:
        identity = ca().issue(client_auth=None)
        self.assertOK(await self.send(samples.authenticate(), identity=identity))

    async def test_getWithoutSignature(self) -> None:
        self.assertRefused(await self.request("GET", "/mdm"))

    async def test_anyMethod(self) -> None:
        body = samples.authenticate()
        header = sign_like_device(device(), body).decode()
        for method in ("POST", "PUT", "BREW"):
            headers = {"Content-Type": CHECKIN, "Mdm-Signature": header}
            self.assertOK(await self.request(method, "/mdm", body, headers))

    async def test_capturedRequest(self) -> None:
        """
        A real device's request is verified, but its CA is not trusted here.
        """
        header = samples.captured("mdm-signature-2.b64").decode().strip()
        body = samples.captured("mdm-signature-2.body.plist")
        await self.refused(header, body)

    async def test_headerOfTensOfKilobytes(self) -> None:
        body = samples.authenticate()
        headers = {
            "Content-Type": CHECKIN,
            "Mdm-Signature": sign_like_device(device(), body).decode(),
            "X-Padding": "x" * 500_000,
        }
        self.assertOK(await self.request("PUT", "/mdm", body, headers))

    async def test_largeBodyIsReadElsewhere(self) -> None:
        body = samples.authenticate(Padding="x" * (1 << 20))
        self.assertOK(await self.send(body))
        large = samples.authenticate(Padding="y" * (1 << 20))
        header = sign_like_device(device(), body).decode()
        headers = {"Content-Type": CHECKIN, "Mdm-Signature": header}
        self.assertRefused(await self.request("PUT", "/mdm", large, headers))


class IntermediateTests(ServerCase):
    """
    C{--intermediate}.
    """

    def intermediate(self) -> tuple[DeviceIdentity, Path]:
        middle = ca().intermediate("Middle CA")
        path = Path(self.mktemp())
        path.write_bytes(middle.pem)
        return middle.issue(), path

    async def test_given(self) -> None:
        identity, path = self.intermediate()
        self.serve(intermediate=path)
        self.assertOK(await self.send(samples.authenticate(), identity=identity))

    async def test_missing(self) -> None:
        identity, _ = self.intermediate()
        self.serve()
        self.assertRefused(await self.send(samples.authenticate(), identity=identity))


class CertificateHeaderTests(ServerCase):
    """
    C{--cert-header}.
    """

    def setUp(self) -> None:
        self.serve(cert_header="X-Client-Cert")

    async def present(self, value: str | list[str] | None, **more: str) -> object:
        headers = {"Content-Type": CHECKIN, **more}
        if value is not None:
            headers["X-Client-Cert"] = value
        return await self.request("PUT", "/mdm", samples.authenticate(), headers)

    def rfc9440(self, identity: DeviceIdentity) -> str:
        return f":{base64.b64encode(identity.der).decode()}:"

    async def test_rfc9440(self) -> None:
        self.assertOK(await self.present(self.rfc9440(device())))

    async def test_escapedPEM(self) -> None:
        self.assertOK(await self.present(quote(device().pem.decode(), safe="")))

    async def test_none(self) -> None:
        self.assertRefused(await self.present(None))

    async def test_unreadable(self) -> None:
        for value in (":", "::", ":AAAA:", "%ZZ", "garbage", self.rfc9440(device())[:-10]):
            self.assertRefused(await self.present(value))

    async def test_twice(self) -> None:
        self.assertRefused(await self.present([self.rfc9440(device())] * 2))

    async def test_otherCA(self) -> None:
        self.assertRefused(await self.present(self.rfc9440(other_ca().issue())))

    async def test_signatureIsIgnored(self) -> None:
        signature = sign_like_device(device(), samples.authenticate()).decode()
        self.assertRefused(await self.present(None, **{"Mdm-Signature": signature}))
        answer = await self.present(self.rfc9440(device()), **{"Mdm-Signature": "garbage"})
        self.assertOK(answer)


class TrustedProxiesTests(ServerCase):
    """
    C{--trusted-proxies}.
    """

    async def present(self) -> Answer:
        """
        Send a certificate in the header, from 127.0.0.1.
        """
        value = f":{base64.b64encode(device().der).decode()}:"
        headers = {"Content-Type": CHECKIN, "X-Client-Cert": value}
        return await self.request("PUT", "/mdm", samples.authenticate(), headers)

    def serve_to(self, networks: str) -> None:
        self.serve(cert_header="X-Client-Cert", trusted_proxies=parse_networks(networks))

    async def test_trusted(self) -> None:
        for networks in ("127.0.0.1", "192.0.2.0/24,127.0.0.0/8"):
            self.serve_to(networks)
            self.assertOK(await self.present())

    async def test_untrusted(self) -> None:
        self.serve_to("127.0.0.2,192.0.2.0/24,::/0")
        with capturedLogs() as events:
            self.assertRefused(await self.present())
        [error] = [event["error"] for event in events if "error" in event]
        self.assertEqual(error, "header X-Client-Cert from untrusted peer 127.0.0.1")

    async def test_mapped(self) -> None:
        """
        A socket for both families shows IPv4 addresses in another way.
        """
        for networks, code in (("127.0.0.0/8", 200), ("127.0.0.2,::/0", 400)):
            self.serve(
                listen="tcp6:0:interface=\\:\\:",
                cert_header="X-Client-Cert",
                trusted_proxies=parse_networks(networks),
            )
            self.assertEqual((await self.present()).code, code)

    async def test_haproxy(self) -> None:
        """
        It counts who has connected, not whom the PROXY line names.
        """
        for networks, named, code in (
            ("192.0.2.0/24", b"192.0.2.7", 400),
            ("127.0.0.0/8", b"192.0.2.7", 200),
        ):
            self.serve(
                listen="haproxy:tcp:0:interface=127.0.0.1",
                cert_header="X-Client-Cert",
                trusted_proxies=parse_networks(networks),
            )
            body = samples.authenticate()
            head = (
                b"PROXY TCP4 %s 192.0.2.1 1 443\r\n"
                b"PUT /mdm HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n"
                b"Content-Type: %s\r\nX-Client-Cert: :%s:\r\n\r\n"
            ) % (named, len(body), CHECKIN.encode(), base64.b64encode(device().der))
            client = await RawClient.connect(self.port)
            client.transport.write(head + body)
            self.assertEqual((await client.ended).code, code)


class AssociationTests(ServerCase):
    """
    Whose certificate it is.
    """

    async def idle(self, udid: str, identity: DeviceIdentity) -> object:
        return await self.report("Idle", udid=udid, identity=identity)

    async def test_onlyItsOwnId(self) -> None:
        self.serve()
        await self.enroll("D1", device(1))
        await self.enroll("D2", device(2))
        self.assertOK(await self.idle("D1", device(1)))
        self.assertRefused(await self.idle("D1", device(2)))
        self.assertRefused(await self.send(samples.token_update("D2"), identity=device(1)))

    async def test_certificateOfAnother(self) -> None:
        self.serve()
        await self.enroll("D1", device(1))
        self.assertRefused(await self.send(samples.authenticate("D2"), identity=device(1)))
        self.assertEqual(await self.query("SELECT id FROM devices"), [("D1",)])

    async def test_notEnrolled(self) -> None:
        self.serve()
        self.assertRefused(await self.idle("D1", device(1)))

    async def test_userChannelsShareIt(self) -> None:
        self.serve()
        await self.enroll("D1", device(1))
        user = samples.token_update("D1", UserID="U1")
        self.assertOK(await self.send(user, identity=device(1)))
        self.assertRefused(await self.send(user, identity=device(2)))

    async def test_authenticateAgain(self) -> None:
        self.serve()
        for _ in range(2):
            await self.enroll("D1", device(1))

    async def test_retro(self) -> None:
        self.serve(retro=True)
        await self.enroll("D1", device(1))
        self.assertRefused(await self.idle("D1", device(2)))
        self.assertOK(await self.idle("D2", device(2)))
        self.assertRefused(await self.idle("D3", device(2)))
        self.assertRefused(await self.idle("D2", device(3)))

    async def test_supersededWithinGrace(self) -> None:
        self.serve()
        await self.enroll("D1", device(1))
        await self.enroll("D1", device(2))
        self.assertOK(await self.idle("D1", device(1)))
        self.assertOK(await self.idle("D1", device(2)))
        await self.query("UPDATE cert_auth_associations SET updated_at = '2026-01-01 00:00:00'")
        self.assertRefused(await self.idle("D1", device(1)))
        self.assertOK(await self.idle("D1", device(2)))

    async def test_noGrace(self) -> None:
        self.serve(superseded_identity_grace=0)
        await self.enroll("D1", device(1))
        self.assertOK(await self.idle("D1", device(1)))
        await self.enroll("D1", device(2))
        self.assertRefused(await self.idle("D1", device(1)))
        self.assertRefused(await self.send(samples.authenticate("D1"), identity=device(1)))
        self.assertOK(await self.idle("D1", device(2)))

    async def test_expiredWithinGrace(self) -> None:
        self.serve(expired_identity_grace=10)
        self.assertRefused(await self.send(samples.authenticate(), identity=expired()))
        await self.storage.associate("D1", self.sha256(expired()), False, 0.0)
        self.assertOK(await self.idle("D1", expired()))
        self.assertOK(await self.send(samples.authenticate(), identity=expired()))
        self.assertRefused(await self.idle("D2", expired()))

    async def test_expiredBeyondGrace(self) -> None:
        self.serve(expired_identity_grace=1)
        await self.storage.associate("D1", self.sha256(expired()), False, 0.0)
        self.assertRefused(await self.idle("D1", expired()))

    async def test_expiredIsNoRetro(self) -> None:
        self.serve(expired_identity_grace=10, retro=True)
        self.assertRefused(await self.idle("D1", expired()))

    async def test_oneNewCertificateTwoDevicesAtOnce(self) -> None:
        self.serve()
        sent = [Deferred.fromCoroutine(self.send(samples.authenticate(f"D{n}"))) for n in range(8)]
        codes = [answer.code for answer in await gatherResults(sent)]
        self.assertEqual(sorted(codes), [200] + [400] * 7)

    def sha256(self, identity: DeviceIdentity) -> str:
        return Identity.from_der(identity.der).sha256


class ContentTypeTests(ServerCase):
    """
    Which endpoint takes what.
    """

    async def test_contentTypeDecides(self) -> None:
        self.serve()
        await self.enroll()
        self.assertRefused(await self.send(samples.authenticate(), RESULT))
        self.assertRefused(await self.send(samples.report("Idle"), CHECKIN))
        self.assertOK(await self.send(samples.token_update(), CHECKIN + "; charset=utf-8"))
        self.assertOK(await self.send(samples.report("Idle"), "text/plain"))

    async def test_noSeparateCheckin(self) -> None:
        self.serve()
        self.assertEqual((await self.send(samples.authenticate(), path="/checkin")).code, 404)

    async def test_separateCheckin(self) -> None:
        self.serve(checkin=True)
        self.assertRefused(await self.send(samples.authenticate()))
        for body in (samples.authenticate(), samples.token_update()):
            self.assertOK(await self.send(body, path="/checkin"))
        self.assertRefused(await self.send(samples.report("Idle"), RESULT, path="/checkin"))
        self.assertOK(await self.send(samples.report("Idle"), RESULT))
