"""
Tests for L{nanomdm.sim.device} and L{nanomdm.sim.channel}.
"""

from __future__ import annotations

import plistlib
from pathlib import Path
from random import Random
from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.errors import MessageError
from nanomdm.sim.ca import ThrowawayCA
from nanomdm.sim.channel import Channel
from nanomdm.sim.device import SHARED_IPAD_USER_ID, SimulatedDevice, SimulatedUser

MESSAGES = Path(__file__).parent.parent / "messages"
TOPIC = "com.apple.mgmt.External.e0bd1eac-1f17-4c8e-8a63-dd17d3dd35d9"

CA = ThrowawayCA.create()
IDENTITY = CA.issue()
NEXT_IDENTITY = CA.issue()


def captured(name: str) -> tuple[bytes, dict[str, Any]]:
    body = (MESSAGES / name).read_bytes()
    return body, plistlib.loads(body)


def command(request_type: str, **content: Any) -> bytes:
    return plistlib.dumps(
        {"CommandUUID": "a-uuid", "Command": {"RequestType": request_type, **content}}
    )


def mac() -> SimulatedDevice:
    return SimulatedDevice.mac(IDENTITY, Random(1))


class CapturedMessageTests(SynchronousTestCase):
    """
    With the identifiers of a captured device, the simulated one sends the
    captured bytes.
    """

    def configured(self, device: SimulatedDevice, message: dict[str, Any]) -> SimulatedDevice:
        device.keys = {"UDID": message["UDID"]}
        device.enrollment_id = message["UDID"]
        device.serial_number = message["SerialNumber"]
        device.topic = message["Topic"]
        device.hardware = evolve(
            device.hardware,
            model=message["ProductName"],
            model_name=message.get("ModelName", ""),
            os_version=message["OSVersion"],
            build_version=message["BuildVersion"],
        )
        return device

    def token_update(self, device: SimulatedDevice, name: str) -> None:
        body, message = captured(name)
        device.push_magic = message["PushMagic"]
        device.token = message["Token"]
        device.unlock_token = message.get("UnlockToken")
        self.assertEqual(device.token_update(), body)

    def test_ipad(self) -> None:
        body, message = captured("Authenticate.1.plist")
        device = self.configured(SimulatedDevice.ipad(IDENTITY), message)
        self.assertEqual(device.authenticate(), body)
        self.token_update(device, "TokenUpdate.1.plist")

    def test_mac(self) -> None:
        """
        The captured Mac also repeats the C{Challenge} of its profile.
        """
        body, message = captured("Authenticate.2.plist")
        device = self.configured(SimulatedDevice.mac(IDENTITY), message)
        device.device_name = message["DeviceName"]
        challenge = b"\t<key>Challenge</key>\n\t<data>\n\tYXBwbGU=\n\t</data>\n"
        self.assertEqual(device.authenticate(), body.replace(challenge, b""))
        self.token_update(device, "TokenUpdate.2.plist")

    def test_report(self) -> None:
        body, message = captured("DeviceInformation.1.plist")
        device = SimulatedDevice.mac(IDENTITY)
        device.keys = {"UDID": message["UDID"]}
        device.inventory.information.update(message["QueryResponses"])
        request = plistlib.dumps(
            {
                "CommandUUID": message["CommandUUID"],
                "Command": {
                    "RequestType": "DeviceInformation",
                    "Queries": ["HostName", "UDID"],
                },
            }
        )
        self.assertEqual(device.answer(request), body.rstrip(b"\n") + b"\n")

    def test_idle(self) -> None:
        body, message = captured("mdm-signature-2.body.plist")
        device = SimulatedDevice.mac(IDENTITY)
        device.keys = {"UDID": message["UDID"]}
        self.assertEqual(device.idle(), body)


class CheckInTests(SynchronousTestCase):
    """
    The remaining check-in messages.
    """

    def setUp(self) -> None:
        self.device = mac()

    def content(self, body: bytes) -> dict[str, Any]:
        """
        @return: what the message holds beside the device's UDID.
        """
        message: dict[str, Any] = plistlib.loads(body)
        self.assertEqual(message.pop("UDID"), self.device.enrollment_id)
        return message

    def test_check_out(self) -> None:
        self.assertEqual(
            self.content(self.device.check_out()),
            {"MessageType": "CheckOut", "Topic": self.device.topic},
        )

    def test_bootstrap_token(self) -> None:
        message = self.content(self.device.set_bootstrap_token(b"token"))
        self.assertEqual(message["MessageType"], "SetBootstrapToken")
        self.assertEqual(message["BootstrapToken"], b"token")
        message = self.content(self.device.get_bootstrap_token())
        self.assertEqual(message["MessageType"], "GetBootstrapToken")

    def test_declarative_management(self) -> None:
        self.assertEqual(
            self.content(self.device.declarative_management("tokens")),
            {"MessageType": "DeclarativeManagement", "Endpoint": "tokens"},
        )
        self.assertEqual(
            self.content(self.device.declarative_management("status", b"{}")),
            {"MessageType": "DeclarativeManagement", "Endpoint": "status", "Data": b"{}"},
        )

    def test_get_token(self) -> None:
        self.assertEqual(
            self.content(self.device.get_token("com.apple.maid")),
            {"MessageType": "GetToken", "TokenServiceType": "com.apple.maid"},
        )
        message = self.content(
            self.device.get_token("com.apple.watch.pairing", {"SecurityToken": "t"})
        )
        self.assertEqual(message["TokenParameters"], {"SecurityToken": "t"})


class IdentifierTests(SynchronousTestCase):
    """
    The five types of enrollments and the keys that make them.
    """

    def assert_keys(self, channel: Channel, enrollment_id: str, **keys: str) -> None:
        self.assertEqual(channel.enrollment_id, enrollment_id)
        names = {"UDID", "UserID", "EnrollmentID", "EnrollmentUserID"}
        for body in (channel.token_update(), channel.idle(), channel.check_out()):
            message = plistlib.loads(body)
            self.assertEqual({key: message[key] for key in names & set(message)}, keys)

    def test_device(self) -> None:
        for device in (mac(), SimulatedDevice.ipad(IDENTITY, Random(1))):
            self.assert_keys(device, device.keys["UDID"], UDID=device.keys["UDID"])

    def test_user(self) -> None:
        device = mac()
        udid = device.enrollment_id
        user = device.user("A-USER", "apple", "Anna Apple")
        self.assert_keys(user, f"{udid}:A-USER", UDID=udid, UserID="A-USER")
        message = plistlib.loads(user.token_update())
        self.assertEqual(message["UserShortName"], "apple")
        self.assertEqual(message["UserLongName"], "Anna Apple")

    def test_shared_ipad(self) -> None:
        device = SimulatedDevice.ipad(IDENTITY, Random(1))
        udid = device.enrollment_id
        user = device.shared_ipad_user("anna@example.com", "Anna Apple")
        self.assert_keys(user, f"{udid}:anna@example.com", UDID=udid, UserID=SHARED_IPAD_USER_ID)

    def test_user_enrollment(self) -> None:
        """
        A user enrollment hides what would identify the device.
        """
        device = SimulatedDevice.user_enrolled(IDENTITY, Random(1))
        self.assert_keys(device, device.enrollment_id, EnrollmentID=device.enrollment_id)
        self.assertNotIn("SerialNumber", plistlib.loads(device.authenticate()))
        self.assertFalse({"SerialNumber", "UDID"} & set(device.inventory.information))
        user = device.user("A-USER", "apple", "Anna Apple")
        self.assert_keys(
            user,
            f"{device.enrollment_id}:A-USER",
            EnrollmentID=device.enrollment_id,
            EnrollmentUserID="A-USER",
        )

    def test_deterministic(self) -> None:
        """
        The same seed makes the same device, another seed another one.
        """
        for make in (SimulatedDevice.mac, SimulatedDevice.ipad, SimulatedDevice.user_enrolled):
            first = make(IDENTITY, Random(7)).enrollment_messages()
            self.assertEqual(first, make(IDENTITY, Random(7)).enrollment_messages())
            self.assertNotEqual(first, make(IDENTITY, Random(8)).enrollment_messages())


class UserTests(SynchronousTestCase):
    """
    What distinguishes a user channel.
    """

    def setUp(self) -> None:
        self.device = mac()
        self.user: SimulatedUser = self.device.user("A-USER", "apple", "Anna Apple")

    def test_enrollment(self) -> None:
        (body,) = self.user.enrollment_messages()
        message = plistlib.loads(body)
        self.assertEqual(message["MessageType"], "TokenUpdate")
        self.assertEqual(message["NotOnConsole"], False)
        self.assertNotEqual(message["PushMagic"], self.device.push_magic)

    def test_user_authenticate(self) -> None:
        first = plistlib.loads(self.user.user_authenticate())
        self.assertEqual(first["MessageType"], "UserAuthenticate")
        self.assertNotIn("DigestResponse", first)
        second = plistlib.loads(self.user.user_authenticate("response"))
        self.assertEqual(second["DigestResponse"], "response")

    def test_own_profiles(self) -> None:
        """
        A profile of the user is not one of the device.
        """
        payload = plistlib.dumps({"PayloadIdentifier": "x", "PayloadContent": []})
        self.user.answer(command("InstallProfile", Payload=payload))
        self.assertEqual(list(self.user.inventory.profiles), ["x"])
        self.assertEqual(self.device.inventory.profiles, {})

    def test_follows_renewal(self) -> None:
        """
        After the device's renewal its users sign with the new identity.
        """
        self.device.next_identity = NEXT_IDENTITY
        self.device.renew()
        self.assertIs(self.user.identity, NEXT_IDENTITY)


class AnswerTests(SynchronousTestCase):
    """
    Answering, and putting off.
    """

    def status(self, body: bytes) -> str:
        message = plistlib.loads(body)
        self.assertEqual(message["CommandUUID"], "a-uuid")
        status = message["Status"]
        assert isinstance(status, str)
        return status

    def test_answer(self) -> None:
        device = mac()
        queries = command("DeviceInformation", Queries=["SerialNumber"])
        message = plistlib.loads(device.answer(queries))
        self.assertEqual(message["QueryResponses"], {"SerialNumber": device.serial_number})
        self.assertEqual(message["RequestType"], "DeviceInformation")

    def test_ipad_does_not_repeat_the_request_type(self) -> None:
        device = SimulatedDevice.ipad(IDENTITY)
        message = plistlib.loads(device.answer(command("SecurityInfo")))
        self.assertNotIn("RequestType", message)

    def test_not_now(self) -> None:
        self.assertEqual(self.status(mac().not_now(command("SecurityInfo"))), "NotNow")

    def test_busy(self) -> None:
        """
        A busy device puts everything off and carries nothing out.
        """
        device = mac()
        device.busy = True
        payload = plistlib.dumps({"PayloadIdentifier": "x", "PayloadContent": []})
        install = command("InstallProfile", Payload=payload)
        self.assertEqual(self.status(device.answer(install)), "NotNow")
        self.assertEqual(device.inventory.profiles, {})
        device.busy = False
        self.assertEqual(self.status(device.answer(install)), "Acknowledged")

    def test_busy_for_some(self) -> None:
        device = mac()
        device.not_now_for = {"InstallProfile"}
        self.assertEqual(self.status(device.answer(command("InstallProfile"))), "NotNow")
        self.assertEqual(self.status(device.answer(command("SecurityInfo"))), "Acknowledged")

    def test_not_a_command(self) -> None:
        self.assertRaises(MessageError, mac().answer, b"Bad Request\n")
        self.assertRaises(MessageError, mac().not_now, b"Bad Request\n")


class RenewalTests(SynchronousTestCase):
    """
    A new enrollment profile.
    """

    def setUp(self) -> None:
        self.device = mac()
        payload = plistlib.dumps(
            {
                "PayloadIdentifier": "com.example.mdm",
                "PayloadContent": [{"PayloadType": "com.apple.mdm"}],
            }
        )
        self.assertFalse(self.device.renewal_due)
        self.device.answer(command("InstallProfile", Payload=payload))

    def test_new_identity(self) -> None:
        self.assertTrue(self.device.renewal_due)
        self.device.next_identity = NEXT_IDENTITY
        self.device.renew()
        self.assertFalse(self.device.renewal_due)
        self.assertIs(self.device.identity, NEXT_IDENTITY)
        self.assertEqual(self.device.inventory.certificates, [NEXT_IDENTITY.der])

    def test_same_identity(self) -> None:
        self.device.renew()
        self.assertFalse(self.device.renewal_due)
        self.assertIs(self.device.identity, IDENTITY)
