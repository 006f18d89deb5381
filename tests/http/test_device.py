"""
What each message from a device does, over HTTP.
"""

from __future__ import annotations

import plistlib

from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from nanomdm.interfaces import ITokenHandler
from nanomdm.mdm.checkin import GetToken
from nanomdm.service.association import CertificateAssociation
from nanomdm.service.core import MDMService
from tests import samples
from tests.http.case import RESULT, ServerCase

SHARED_IPAD = "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"


@implementer(ITokenHandler)
class OneToken:
    """
    Makes tokens for one service.
    """

    service_type = "com.example"

    def token(self, message: GetToken) -> Deferred[bytes]:
        return succeed(f"token of {message.enrollment.id}".encode())


class CheckinTests(ServerCase):
    """
    Check-in messages.
    """

    def setUp(self) -> None:
        self.serve()

    async def test_authenticate(self) -> None:
        self.assertOK(await self.send(samples.authenticate(SerialNumber="C02X")))
        [(serial, raw, pem)] = await self.query(
            "SELECT serial_number, authenticate, identity_cert FROM devices"
        )
        self.assertEqual(serial, "C02X")
        self.assertEqual(raw.encode(), samples.authenticate(SerialNumber="C02X"))
        self.assertTrue(pem.startswith("-----BEGIN CERTIFICATE-----\n"))

    async def test_capturedMessages(self) -> None:
        for name in ("Authenticate.2.plist", "TokenUpdate.2.plist"):
            self.assertOK(await self.send(samples.captured(name)))
        self.assertEqual(
            await self.query("SELECT id, type, enabled FROM enrollments"),
            [("66ADE930-5FDF-5EC4-8429-15640684C489", "Device", 1)],
        )

    async def test_unlockToken(self) -> None:
        for name in ("Authenticate.1.plist", "TokenUpdate.1.plist"):
            self.assertOK(await self.send(samples.captured(name)))
        [(token,)] = await self.query("SELECT unlock_token FROM devices")
        sent = plistlib.loads(samples.captured("TokenUpdate.1.plist"))["UnlockToken"]
        self.assertEqual(bytes(token), sent)

    async def test_tokenUpdateBeforeAuthenticate(self) -> None:
        await self.enroll()
        await self.query("DELETE FROM devices")
        self.assertRefused(await self.send(samples.token_update()))

    async def test_unlockTokenIsReplacedOrKept(self) -> None:
        await self.enroll()
        for sent, kept in ((b"one", b"one"), (None, b"one"), (b"", b"one"), (b"two", b"two")):
            self.assertOK(await self.send(samples.token_update(UnlockToken=sent)))
            [(token,)] = await self.query("SELECT unlock_token FROM devices")
            self.assertEqual(bytes(token), kept)

    async def test_reenrollmentForgetsTokens(self) -> None:
        await self.enroll()
        self.assertOK(await self.send(samples.token_update(UnlockToken=b"unlock")))
        get = samples.checkin("GetBootstrapToken")
        await self.send(samples.checkin("SetBootstrapToken", BootstrapToken=b"boot"))
        self.assertIn(b"BootstrapToken", (await self.send(get)).body)
        self.assertOK(await self.send(samples.authenticate()))
        self.assertEqual(await self.query("SELECT unlock_token FROM devices"), [(None,)])
        self.assertOK(await self.send(samples.token_update()))
        self.assertOK(await self.send(get))

    async def test_reenrollmentClearsUserQueue(self) -> None:
        await self.enroll()
        user = samples.token_update(UserID="U1")
        self.assertOK(await self.send(user))
        self.assertEqual((await self.enqueue("D1:U1")).code, 200)
        await self.enroll()
        self.assertOK(await self.send(user))
        self.assertOK(await self.report("Idle", UserID="U1"))

    async def test_tally(self) -> None:
        await self.enroll()
        for body, tally, enabled in (
            (samples.token_update(), 2, 1),
            (samples.authenticate(), 0, 0),
            (samples.token_update(), 1, 1),
        ):
            self.assertOK(await self.send(body))
            [row] = await self.query("SELECT token_update_tally, enabled FROM enrollments")
            self.assertEqual(row, (tally, enabled))

    async def test_reenrollmentClearsQueue(self) -> None:
        await self.enroll()
        await self.enqueue("D1")
        await self.enroll()
        self.assertOK(await self.report("Idle"))

    async def test_renewalKeepsQueue(self) -> None:
        await self.enroll()
        await self.api("PUT", "/v1/enqueue/D1?nopush=1", samples.install_mdm_profile("P1"))
        await self.enqueue("D1")
        await self.enroll()
        self.assertOK(await self.report("Idle"), samples.install_mdm_profile("P1"))
        self.assertOK(await self.report("Acknowledged", "P1"), samples.command("C1"))

    async def test_checkOut(self) -> None:
        await self.enroll()
        self.assertOK(await self.send(samples.token_update(UserID="U1")))
        self.assertOK(await self.send(samples.checkin("CheckOut")))
        self.assertEqual(
            await self.query("SELECT id, enabled FROM enrollments ORDER BY id"),
            [("D1", 0), ("D1:U1", 0)],
        )

    async def test_checkOutOfUser(self) -> None:
        await self.enroll()
        self.assertOK(await self.send(samples.token_update(UserID="U1")))
        self.assertOK(await self.send(samples.checkin("CheckOut", UserID="U1")))
        self.assertEqual(
            await self.query("SELECT id, enabled FROM enrollments ORDER BY id"),
            [("D1", 1), ("D1:U1", 0)],
        )

    async def test_userAuthenticateIsDeclined(self) -> None:
        await self.enroll()
        answer = await self.send(samples.checkin("UserAuthenticate", UserID="U1"))
        self.assertEqual((answer.code, answer.body), (410, b"Gone\n"))
        self.assertEqual(await self.query("SELECT * FROM users"), [])

    async def test_bootstrapToken(self) -> None:
        await self.enroll()
        get = samples.checkin("GetBootstrapToken")
        self.assertOK(await self.send(get))
        self.assertOK(
            await self.send(samples.checkin("SetBootstrapToken", BootstrapToken=b"b\x00t"))
        )
        answer = await self.send(get)
        self.assertEqual(plistlib.loads(answer.body), {"BootstrapToken": b"b\x00t"})
        self.assertOK(await self.send(samples.checkin("SetBootstrapToken", BootstrapToken=b"")))
        self.assertOK(await self.send(get))

    async def test_bootstrapTokenIsForDevices(self) -> None:
        await self.enroll()
        for kind in ("GetBootstrapToken", "SetBootstrapToken"):
            self.assertRefused(await self.send(samples.checkin(kind, UserID="U1")))

    async def test_declarativeManagement(self) -> None:
        await self.enroll()
        answer = await self.send(samples.checkin("DeclarativeManagement", Endpoint="tokens"))
        self.assertEqual((answer.code, answer.body), (500, b"Internal Server Error\n"))

    async def test_getToken(self) -> None:
        await self.enroll()
        for service in (None, "", "com.example.unknown", "com.apple.watch.pairing"):
            self.assertRefused(
                await self.send(samples.checkin("GetToken", TokenServiceType=service))
            )

    async def test_getTokenOfAHandler(self) -> None:
        await self.enroll()
        service = MDMService(
            self.storage,
            CertificateAssociation(self.storage, reactor.seconds),
            token_handlers=[OneToken()],
        )
        self.patch(self.resource("mdm"), "_service", service)
        answer = await self.send(samples.checkin("GetToken", TokenServiceType="com.example"))
        self.assertEqual(answer.code, 200)
        self.assertEqual(plistlib.loads(answer.body), {"TokenData": b"token of D1"})
        self.assertEqual(answer.header("Content-Type"), "text/xml; charset=utf-8")

    async def test_malformed(self) -> None:
        await self.enroll()
        bad = [
            b"",
            b"garbage",
            plistlib.dumps({"MessageType": "CheckOut", "UDID": "D1"}, fmt=plistlib.FMT_BINARY),
            plistlib.dumps([1]),
            samples.checkin("Nonsense"),
            samples.plist(UDID="D1"),
            samples.checkin("CheckOut", None),
            samples.token_update(Token=None),
            samples.token_update(PushMagic=""),
            samples.checkin("CheckOut").replace(
                b"<plist ", b'<!DOCTYPE plist [<!ENTITY x "y">]><plist ', 1
            ),
            samples.authenticate(UserID="U1"),
        ]
        for body in bad:
            self.assertRefused(await self.send(body))
        self.assertEqual(
            await self.query("SELECT enabled, token_update_tally FROM enrollments"), [(1, 1)]
        )


class ZeroLengthChallengeTests(ServerCase):
    """
    C{--ua-zl-dc}.
    """

    async def test_userAuthenticate(self) -> None:
        self.serve(ua_zl_dc=True)
        await self.enroll()
        answer = await self.send(
            samples.checkin("UserAuthenticate", UserID="U1", DigestResponse="")
        )
        self.assertEqual(plistlib.loads(answer.body), {"DigestChallenge": ""})
        self.assertOK(
            await self.send(samples.checkin("UserAuthenticate", UserID="U1", DigestResponse="x"))
        )
        [(first, second)] = await self.query(
            "SELECT user_authenticate IS NOT NULL, user_authenticate_digest IS NOT NULL FROM users"
        )
        self.assertTrue(first and second)

    async def test_withoutUser(self) -> None:
        self.serve(ua_zl_dc=True)
        await self.enroll()
        self.assertRefused(await self.send(samples.checkin("UserAuthenticate")))


class EnrollmentTypeTests(ServerCase):
    """
    Every kind of enrollment id.
    """

    async def test_types(self) -> None:
        self.serve()
        await self.enroll()
        for more in ({"UserID": "U1"}, {"UserID": SHARED_IPAD, "UserShortName": "jo"}):
            self.assertOK(await self.send(samples.token_update(**more)))
        self.assertEqual(
            await self.query("SELECT id, type FROM enrollments ORDER BY id"),
            [("D1", "Device"), ("D1:U1", "User"), ("D1:jo", "Shared iPad")],
        )

    async def test_userEnrollment(self) -> None:
        self.serve()
        byod = {"udid": None, "EnrollmentID": "E1"}
        self.assertOK(await self.send(samples.checkin("Authenticate", **byod)))
        self.assertOK(await self.send(samples.token_update(**byod)))
        self.assertOK(await self.send(samples.token_update(**byod, EnrollmentUserID="V1")))
        self.assertEqual(
            await self.query("SELECT id, type, device_id FROM enrollments ORDER BY id"),
            [("E1", "User Enrollment (Device)", "E1"), ("E1:V1", "User Enrollment", "E1")],
        )
        await self.enqueue("E1:V1")
        idle = samples.report("Idle", **byod, EnrollmentUserID="V1")
        self.assertOK(await self.send(idle, RESULT), samples.command("C1"))

    async def test_sharedIPadWithoutName(self) -> None:
        self.serve()
        await self.enroll()
        self.assertRefused(await self.send(samples.token_update(UserID=SHARED_IPAD)))

    async def assertCommandFlow(self, enrollment_id: str, **user: str) -> None:
        """
        A command for a user goes to that user's channel alone.
        """
        self.serve()
        await self.enroll()
        self.assertOK(await self.send(samples.token_update(**user)))
        self.assertEqual((await self.enqueue(enrollment_id)).code, 200)
        self.assertOK(await self.report("Idle"))
        self.assertOK(await self.report("Idle", **user), samples.command("C1"))
        self.assertOK(await self.report("Acknowledged", "C1", **user))
        self.assertOK(await self.report("Idle", **user))
        self.assertEqual(
            await self.query("SELECT id, command_uuid, status FROM command_results"),
            [(enrollment_id, "C1", "Acknowledged")],
        )

    async def test_userCommands(self) -> None:
        await self.assertCommandFlow("D1:U1", UserID="U1", UserShortName="jo")

    async def test_sharedIPadCommands(self) -> None:
        await self.assertCommandFlow("D1:jo", UserID=SHARED_IPAD, UserShortName="jo")
