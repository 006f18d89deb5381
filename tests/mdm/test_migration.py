"""
Tests for what carries a device from one server to another.
"""

from __future__ import annotations

import base64
import plistlib

from twisted.trial.unittest import SynchronousTestCase

from nanomdm.errors import MessageError
from nanomdm.mdm.checkin import SetBootstrapToken, TokenUpdate, parse_checkin
from nanomdm.mdm.enrollment import Enrollment, EnrollmentType
from nanomdm.mdm.migration import EnrolledDevice, UserChannel, parcels, with_unlock_token
from tests import samples


def enrolled(**more: object) -> EnrolledDevice:
    """
    A device as it is kept.
    """
    members = {
        "id": "D1",
        "authenticate": samples.authenticate(),
        "token_update": samples.token_update(),
        "unlock_token": None,
        "bootstrap_token": None,
        **more,
    }
    return EnrolledDevice(**members)


class UnlockTokenTests(SynchronousTestCase):
    """
    Putting an unlock token back.
    """

    def test_inserted(self) -> None:
        """
        Nothing else changes, and a server understands it.
        """
        plain = samples.token_update(
            NotOnConsole=False, AwaitingConfiguration=True, Number=7, Extra=["a", {"b": "✓ & <"}]
        )
        token = bytes(range(256))
        changed = with_unlock_token(plain, token)
        expected = {**plistlib.loads(plain), "UnlockToken": token}
        self.assertEqual(plistlib.loads(changed), expected)
        message = parse_checkin(changed)
        assert isinstance(message, TokenUpdate)
        self.assertEqual(message.unlock_token, token)

    def test_captured(self) -> None:
        """
        A message of a real device.
        """
        plain = samples.captured("TokenUpdate.2.plist")
        changed = with_unlock_token(plain, b"token")
        self.assertEqual(
            plistlib.loads(changed), {**plistlib.loads(plain), "UnlockToken": b"token"}
        )

    def test_sequence(self) -> None:
        """
        Keys stay in their order.
        """
        plain = plistlib.dumps({"Topic": "t", "Token": b"t", "A": "a"}, sort_keys=False)
        changed = plistlib.loads(with_unlock_token(plain, b"token"))
        self.assertEqual(list(changed), ["Topic", "Token", "A", "UnlockToken"])

    def test_its_own(self) -> None:
        """
        The last message that has one is the newest.
        """
        plain = samples.token_update(UnlockToken=b"newer")
        self.assertEqual(with_unlock_token(plain, b"older"), plain)

    def test_empty(self) -> None:
        changed = with_unlock_token(samples.token_update(UnlockToken=b""), b"token")
        self.assertEqual(plistlib.loads(changed)["UnlockToken"], b"token")

    def test_noPropertyList(self) -> None:
        for body in (
            b"",
            b"<?xml",
            b"<?xml version='1.0'?><plist/>",
            plistlib.dumps(["a"]),
            b"<?xml version='1.0'?><plist><dict><date>x</date></dict></plist>",
            b"<?xml version='1.0'?><plist><dict><key>a</key></dict></plist>",
            b"<?xml version='1.0'?><!DOCTYPE p [<!ENTITY a 'b'>]><plist><dict/></plist>",
        ):
            self.assertRaises(MessageError, with_unlock_token, body, b"token")


class ParcelTests(SynchronousTestCase):
    """
    The messages of a device.
    """

    def sent(self, device: EnrolledDevice) -> list[tuple[str, str]]:
        return [(parcel.id, parcel.message_type) for parcel in parcels(device)]

    def test_order(self) -> None:
        user = UserChannel("D1:U1", samples.token_update(UserID="U1"))
        device = enrolled(
            unlock_token=b"unlock",
            bootstrap_token=base64.b64encode(b"boot").decode(),
            users=(user,),
        )
        self.assertEqual(
            self.sent(device),
            [
                ("D1", "Authenticate"),
                ("D1", "TokenUpdate"),
                ("D1", "SetBootstrapToken"),
                ("D1:U1", "TokenUpdate"),
            ],
        )
        for parcel in parcels(device):
            message = parse_checkin(parcel.body)
            self.assertEqual(
                (message.enrollment.id, message.message_type), (parcel.id, parcel.message_type)
            )

    def test_verbatim(self) -> None:
        """
        What lacks nothing is sent as it came.
        """
        device = enrolled()
        self.assertEqual(
            [parcel.body for parcel in parcels(device)], [device.authenticate, device.token_update]
        )

    def test_bootstrapTokenOfUserEnrollment(self) -> None:
        device = enrolled(
            id="E1",
            authenticate=samples.plist(MessageType="Authenticate", EnrollmentID="E1"),
            bootstrap_token="Ym9vdA==",
        )
        *_, last = parcels(device)
        message = parse_checkin(last.body)
        assert isinstance(message, SetBootstrapToken)
        self.assertEqual(message.token, b"boot")
        self.assertEqual(
            message.enrollment, Enrollment("E1", EnrollmentType.USER_ENROLLMENT_DEVICE)
        )

    def test_badBootstrapToken(self) -> None:
        self.assertRaises(MessageError, self.sent, enrolled(bootstrap_token="a"))

    def test_secretsAreNotShown(self) -> None:
        device = enrolled(unlock_token=b"sesame", bootstrap_token="c2VzYW1l")
        self.assertNotIn("sesame", repr(device) + repr(list(parcels(device))))
        self.assertNotIn("c2VzYW1l", repr(device))
