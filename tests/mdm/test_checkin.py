"""
Tests for L{nanomdm.mdm.checkin}.
"""

from __future__ import annotations

import plistlib
import random
from base64 import b64decode
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from nanomdm.errors import MessageError
from nanomdm.mdm import checkin
from nanomdm.mdm.checkin import parse_checkin
from nanomdm.mdm.command import installs_mdm_profile, parse_command, parse_report
from nanomdm.mdm.enrollment import SHARED_IPAD_USER_ID, Enrollment, EnrollmentType
from nanomdm.mdm.plist import parse
from tests import samples

D1 = Enrollment("D1", EnrollmentType.DEVICE)
USER = Enrollment("D1:U1", EnrollmentType.USER, "D1")

#: A complete message of each type, without keys that say who sends it.
COMPLETE: dict[str, dict[str, Any]] = {
    "Authenticate": {"Topic": samples.TOPIC},
    "TokenUpdate": {"Topic": samples.TOPIC, "PushMagic": "magic", "Token": b"\xab\xcd"},
    "CheckOut": {"Topic": samples.TOPIC},
    "UserAuthenticate": {},
    "SetBootstrapToken": {"BootstrapToken": b"boot"},
    "GetBootstrapToken": {},
    "DeclarativeManagement": {"Endpoint": "tokens"},
    "GetToken": {"TokenServiceType": "com.apple.maid"},
}

#: Messages that user channels do not send, and one that only they send.
DEVICE_ONLY = ("Authenticate", "SetBootstrapToken", "GetBootstrapToken")
USER_ONLY = ("UserAuthenticate",)

SENDERS: list[tuple[dict[str, str], Enrollment]] = [
    ({"UDID": "D1"}, D1),
    ({"UDID": "D1", "UserID": "U1"}, USER),
    (
        {"UDID": "D1", "UserID": SHARED_IPAD_USER_ID, "UserShortName": "jo"},
        Enrollment("D1:jo", EnrollmentType.SHARED_IPAD, "D1"),
    ),
    ({"EnrollmentID": "E1"}, Enrollment("E1", EnrollmentType.USER_ENROLLMENT_DEVICE)),
    (
        {"EnrollmentID": "E1", "EnrollmentUserID": "V1"},
        Enrollment("E1:V1", EnrollmentType.USER_ENROLLMENT, "E1"),
    ),
]


def message(message_type: str, **keys: Any) -> bytes:
    """
    A complete message with keys changed, or left out where L{None}.
    """
    if "EnrollmentID" not in keys:
        keys.setdefault("UDID", "D1")
    return samples.plist(**{"MessageType": message_type, **COMPLETE[message_type], **keys})


class CapturedTests(SynchronousTestCase):
    """
    Messages of real devices.
    """

    def test_authenticateOfAnIPad(self) -> None:
        body = samples.captured("Authenticate.1.plist")
        self.assertEqual(
            parse_checkin(body),
            checkin.Authenticate(
                Enrollment("663b07bb783e9ade1dae4fbb92ea12afc0ce5b69", EnrollmentType.DEVICE),
                body,
                "F5JM992LF193",
            ),
        )

    def test_authenticateOfAMac(self) -> None:
        body = samples.captured("Authenticate.2.plist")
        self.assertEqual(
            parse_checkin(body),
            checkin.Authenticate(
                Enrollment("66ADE930-5FDF-5EC4-8429-15640684C489", EnrollmentType.DEVICE),
                body,
                "C02MT66KFLHH",
            ),
        )

    def test_tokenUpdateOfAnIPad(self) -> None:
        body = samples.captured("TokenUpdate.1.plist")
        update = parse_checkin(body)
        assert isinstance(update, checkin.TokenUpdate)
        unlock = plistlib.loads(body)["UnlockToken"]
        self.assertEqual(len(unlock), 1288)
        self.assertEqual(
            update,
            checkin.TokenUpdate(
                Enrollment("663b07bb783e9ade1dae4fbb92ea12afc0ce5b69", EnrollmentType.DEVICE),
                body,
                topic="com.apple.mgmt.External.e0bd1eac-1f17-4c8e-8a63-dd17d3dd35d9",
                push_magic="CEFDF0BD-E342-4A27-8742-E930EA116B0A",
                token_hex="47e8eec062c2f729ec1703c1b3e18f1971d85f00be76445d34080baa701b5f51",
                unlock_token=unlock,
                user_short_name=None,
                user_long_name=None,
            ),
        )

    def test_tokenUpdateOfAMac(self) -> None:
        body = samples.captured("TokenUpdate.2.plist")
        token = b64decode("G6fJAGbFD3domiTzpCXK9oowD3KeiORgqUFgItXWQsw=")
        self.assertEqual(
            parse_checkin(body),
            checkin.TokenUpdate(
                Enrollment("66ADE930-5FDF-5EC4-8429-15640684C489", EnrollmentType.DEVICE),
                body,
                topic="com.apple.mgmt.External.e0bd1eac-1f17-4c8e-8a63-dd17d3dd35d9",
                push_magic="888CEB39-BFFA-40F6-89FA-B60752EB63C2",
                token_hex=token.hex(),
                unlock_token=None,
                user_short_name=None,
                user_long_name=None,
            ),
        )


class MessageTests(SynchronousTestCase):
    """
    What each message says.
    """

    def test_typesAndSenders(self) -> None:
        """
        Every message from every kind of enrollment that sends it.
        """
        for message_type in COMPLETE:
            for keys, enrollment in SENDERS:
                user = enrollment.parent_id is not None
                body = message(message_type, **keys)
                if message_type in (DEVICE_ONLY if user else USER_ONLY):
                    self.assertRaises(MessageError, parse_checkin, body)
                    continue
                parsed = parse_checkin(body)
                self.assertIs(type(parsed), getattr(checkin, message_type))
                self.assertEqual(parsed.message_type, message_type)
                self.assertEqual(parsed.enrollment, enrollment)
                self.assertEqual(parsed.raw, body)

    def test_authenticateWithoutSerialNumber(self) -> None:
        for serial in (None, ""):
            parsed = parse_checkin(message("Authenticate", SerialNumber=serial))
            assert isinstance(parsed, checkin.Authenticate)
            self.assertIsNone(parsed.serial_number)

    def test_userTokenUpdate(self) -> None:
        parsed = parse_checkin(
            message("TokenUpdate", UserID="U1", UserShortName="jo", UserLongName="Jo Doe")
        )
        assert isinstance(parsed, checkin.TokenUpdate)
        self.assertEqual((parsed.user_short_name, parsed.user_long_name), ("jo", "Jo Doe"))
        self.assertEqual((parsed.token_hex, parsed.unlock_token), ("abcd", None))

    def test_emptyUnlockTokenIsNone(self) -> None:
        for token, expected in ((None, None), (b"", None), (b"\0", b"\0")):
            parsed = parse_checkin(message("TokenUpdate", UnlockToken=token))
            assert isinstance(parsed, checkin.TokenUpdate)
            self.assertEqual(parsed.unlock_token, expected)

    def test_digestResponse(self) -> None:
        for sent, expected in ((None, None), ("", None), ("Digest x", "Digest x")):
            parsed = parse_checkin(message("UserAuthenticate", UserID="U1", DigestResponse=sent))
            assert isinstance(parsed, checkin.UserAuthenticate)
            self.assertEqual(parsed.digest_response, expected)

    def test_setBootstrapToken(self) -> None:
        for sent, expected in ((None, None), (b"", None), (b"\0boot", b"\0boot")):
            parsed = parse_checkin(message("SetBootstrapToken", BootstrapToken=sent))
            assert isinstance(parsed, checkin.SetBootstrapToken)
            self.assertEqual(parsed.token, expected)

    def test_declarativeManagement(self) -> None:
        for sent, expected in ((None, None), (b"", None), (b"{}", b"{}")):
            parsed = parse_checkin(message("DeclarativeManagement", Data=sent))
            assert isinstance(parsed, checkin.DeclarativeManagement)
            self.assertEqual((parsed.endpoint, parsed.data), ("tokens", expected))

    def test_getToken(self) -> None:
        for sent, expected in ((None, False), ({"PhoneUDID": "x"}, True), ({}, True)):
            parsed = parse_checkin(message("GetToken", TokenParameters=sent))
            assert isinstance(parsed, checkin.GetToken)
            self.assertEqual(parsed.service_type, "com.apple.maid")
            self.assertEqual(parsed.has_parameters, expected)

    def test_otherKeysAreIgnored(self) -> None:
        for message_type in COMPLETE:
            keys = {"UserID": "U1"} if message_type in USER_ONLY else {}
            parse_checkin(
                message(message_type, Status=1, CommandUUID=[], New={"deep": [b""]}, **keys)
            )

    def test_reprShowsNoSecrets(self) -> None:
        for body in (
            message("TokenUpdate", PushMagic="secret", Token=b"secret", UnlockToken=b"secret"),
            message("UserAuthenticate", UserID="U1", DigestResponse="secret"),
            message("SetBootstrapToken", BootstrapToken=b"secret"),
        ):
            shown = repr(parse_checkin(body))
            self.assertNotIn("secret", shown)
            self.assertNotIn(b"secret".hex(), shown)


class RefusalTests(SynchronousTestCase):
    """
    Malformed messages.
    """

    def refused(self, body: bytes, because: str) -> None:
        """
        Assert that a message is refused, and why.
        """
        error = self.assertRaises(MessageError, parse_checkin, body)
        self.assertIn(because, str(error))
        self.assertLess(len(str(error)), 200)

    def test_messageType(self) -> None:
        self.refused(samples.plist(UDID="D1"), "MessageType is missing or empty")
        self.refused(samples.plist(UDID="D1", MessageType=""), "MessageType is missing or empty")
        self.refused(samples.plist(UDID="D1", MessageType=1), "MessageType is not a string")
        self.refused(
            samples.plist(UDID="D1", MessageType=["Authenticate"]), "MessageType is not a string"
        )
        for unknown in ("authenticate", "Authenticate ", "CheckinMessage", "__class__", "x" * 9999):
            self.refused(
                samples.plist(UDID="D1", MessageType=unknown),
                f"unknown MessageType {unknown[:64]!r}",
            )
        self.refused(samples.report("Idle"), "MessageType is missing or empty")

    def test_noEnrollment(self) -> None:
        for message_type in COMPLETE:
            body = message(message_type, UDID=None)
            self.refused(body, "neither UDID nor EnrollmentID")
            self.refused(message(message_type, UDID="D1:U1"), "colon")

    def test_requiredKeys(self) -> None:
        for message_type, key in (
            ("TokenUpdate", "Topic"),
            ("TokenUpdate", "PushMagic"),
            ("TokenUpdate", "Token"),
            ("DeclarativeManagement", "Endpoint"),
            ("GetToken", "TokenServiceType"),
        ):
            empty = type(COMPLETE[message_type][key])()
            self.refused(message(message_type, **{key: None}), f"{key} is missing or empty")
            self.refused(message(message_type, **{key: empty}), f"{key} is missing or empty")

    def test_strings(self) -> None:
        for message_type, key in (
            ("Authenticate", "SerialNumber"),
            ("TokenUpdate", "Topic"),
            ("TokenUpdate", "PushMagic"),
            ("TokenUpdate", "UserShortName"),
            ("TokenUpdate", "UserLongName"),
            ("UserAuthenticate", "DigestResponse"),
            ("DeclarativeManagement", "Endpoint"),
            ("GetToken", "TokenServiceType"),
        ):
            for wrong in (7, 0, False, b"", b"secret", [], ["secret"], {}):
                keys = {"UserID": "U1"} if message_type in USER_ONLY else {}
                body = message(message_type, **{key: wrong}, **keys)
                self.refused(body, f"{key} is not a string")

    def test_data(self) -> None:
        for message_type, key in (
            ("TokenUpdate", "Token"),
            ("TokenUpdate", "UnlockToken"),
            ("SetBootstrapToken", "BootstrapToken"),
            ("DeclarativeManagement", "Data"),
        ):
            for wrong in (7, 0, False, "", "secret", [], [b"secret"], {}):
                self.refused(message(message_type, **{key: wrong}), f"{key} is not data")

    def test_lengths(self) -> None:
        """
        What a column holds is accepted, one more is not.
        """
        for message_type, key, limit in (
            ("Authenticate", "SerialNumber", 127),
            ("TokenUpdate", "Topic", 255),
            ("TokenUpdate", "PushMagic", 127),
            ("TokenUpdate", "UserShortName", 255),
            ("TokenUpdate", "UserLongName", 255),
        ):
            parse_checkin(message(message_type, **{key: "é" * limit}))
            self.refused(
                message(message_type, **{key: "é" * (limit + 1)}), f"{key} is longer than {limit}"
            )
        parsed = parse_checkin(message("TokenUpdate", Token=b"\xff" * 127))
        assert isinstance(parsed, checkin.TokenUpdate)
        self.assertLessEqual(len(parsed.token_hex), 255)
        self.refused(message("TokenUpdate", Token=b"\xff" * 128), "Token is longer than 127")

    def test_channels(self) -> None:
        for message_type in DEVICE_ONLY:
            self.refused(message(message_type, UserID="U1"), f"{message_type} on a user channel")
        self.refused(message("UserAuthenticate"), "UserAuthenticate without a user id")

    def test_bodies(self) -> None:
        for body in (b"", b"\0", b"{}", plistlib.dumps([]), plistlib.dumps("Authenticate")):
            self.assertRaises(MessageError, parse_checkin, body)

    def test_truncated(self) -> None:
        for message_type in COMPLETE:
            keys = {"UserID": "U1"} if message_type in USER_ONLY else {}
            body = message(message_type, **keys).rstrip()
            parse_checkin(body)
            for length in range(0, len(body), 7):
                self.assertRaises(MessageError, parse_checkin, body[:length])


class ReplyTests(SynchronousTestCase):
    """
    What devices are told.
    """

    def test_replies(self) -> None:
        for reply, expected in (
            (checkin.digest_challenge_reply(), {"DigestChallenge": ""}),
            (checkin.bootstrap_token_reply(b"\0boot"), {"BootstrapToken": b"\0boot"}),
            (checkin.token_reply(b"\0token"), {"TokenData": b"\0token"}),
        ):
            self.assertTrue(reply.startswith(b"<?xml"))
            self.assertEqual(plistlib.loads(reply), expected)


class MutationTests(SynchronousTestCase):
    """
    Messages with arbitrary damage.
    """

    PIECES = (
        *(b"<dict>", b"</dict>", b"<array>", b"</array>", b"<key>", b"</key>", b"<string>"),
        *(
            b"<data>",
            b"</data>",
            b"<integer>",
            b"<true/>",
            b"<plist>",
            b"</plist>",
            b"<!--",
            b"-->",
        ),
        *(b"<![CDATA[", b"]]>", b"&amp;", b"&x;", b"&#xD800;", b"<!DOCTYPE plist [", b"]>"),
        *(b'<!ENTITY x "y">', b"\0", b"\xff", b"\xed\xa0\x80", b"\xe2\x82\xac", b"=", b"9" * 40),
        *(b"<key>UDID</key><string>D1</string>", b"<key>UserID</key><true/>", b"<date>", b"<real>"),
    )

    READERS: tuple[Callable[[bytes], object], ...] = (
        parse_checkin,
        parse_report,
        parse_command,
        parse,
    )

    def mutated(self, seeded: random.Random, body: bytes) -> bytes:
        """
        A body with one or two changes.
        """
        for _ in range(seeded.randrange(1, 3)):
            at, end = sorted(seeded.choices(range(len(body) + 1), k=2))
            end = min(end, at + seeded.randrange(1, 40))
            piece = seeded.choice(self.PIECES)
            body = seeded.choice(
                (
                    body[:at] + body[end:],
                    body[:end] + body[at:],
                    body[:at] + piece + body[at:],
                    body[:at] + piece + body[end:],
                    body[:at] + seeded.randbytes(1) + body[at + 1 :],
                    body[:at] + seeded.choice(b"aZ9 <&").to_bytes() + body[at + 1 :],
                    body[:at] + body[at:].replace(b">", b"/>", 1),
                    body[:at] + b"</".join(body[at:].split(b"<", 1)),
                )
            )
        return body

    def test_onlyMessageErrors(self) -> None:
        """
        Nothing but L{MessageError} ever leaves, and what is accepted can be
        stored as text.
        """
        seeded = random.Random(26)
        originals = [path.read_bytes() for path in sorted(samples.MESSAGES.glob("*.plist"))] + [
            samples.install_mdm_profile("C1"),
            samples.checkin("GetToken"),
        ]
        accepted = 0
        for _ in range(5000):
            body = self.mutated(seeded, seeded.choice(originals))
            installs_mdm_profile(body)
            for read in self.READERS:
                try:
                    read(body)
                except MessageError as error:
                    self.assertTrue(str(error).isprintable())
                else:
                    accepted += 1
                    self.assertTrue(body.decode("utf-8").startswith("<?xml"))
                    self.assertNotIn(b"\0", body)
        # Some damage does not matter; otherwise this would not test much.
        self.assertGreater(accepted, 500)
