"""
Tests for L{nanomdm.sim.answers}.
"""

from __future__ import annotations

import plistlib
from typing import Any

from asn1crypto import cms
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.errors import MessageError
from nanomdm.sim.answers import Command, Inventory, answer, parse_command


def inventory(**changes: Any) -> Inventory:
    values: dict[str, Any] = {
        "information": {"DeviceName": "Fruit", "OSVersion": "15.6.1"},
        "security": {"FDE_Enabled": True},
        "certificates": [b"identity", b"other"],
    }
    return Inventory(**{**values, **changes})


def command(request_type: str, **content: Any) -> Command:
    return Command("a-uuid", request_type, {"RequestType": request_type, **content})


def profile(identifier: str, payload_type: str = "com.apple.wifi.managed") -> bytes:
    payload = {
        "PayloadIdentifier": f"{identifier}.1",
        "PayloadType": payload_type,
        "PayloadVersion": 1,
        "Password": "not for ProfileList",
    }
    return plistlib.dumps(
        {
            "PayloadContent": [payload],
            "PayloadDisplayName": "A profile",
            "PayloadIdentifier": identifier,
            "PayloadType": "Configuration",
        }
    )


class ParseCommandTests(SynchronousTestCase):
    def test_command(self) -> None:
        content = {"RequestType": "DeviceInformation", "Queries": ["UDID"]}
        body = plistlib.dumps({"CommandUUID": "a-uuid", "Command": content})
        self.assertEqual(parse_command(body), Command("a-uuid", "DeviceInformation", content))

    def test_not_a_command(self) -> None:
        """
        What a device could not answer at all is an error of the server.
        """
        for body in (
            b"",
            b"Bad Request\n",
            b'<?xml version="1.0"?><plist><dict><key>CommandUUID',
            plistlib.dumps(["a list"]),
            plistlib.dumps({"Command": {"RequestType": "ProfileList"}}),
            plistlib.dumps({"CommandUUID": "a-uuid", "Command": "ProfileList"}),
            plistlib.dumps({"CommandUUID": "a-uuid", "Command": {"RequestType": 1}}),
        ):
            self.assertRaises(MessageError, parse_command, body)


class QueryTests(SynchronousTestCase):
    def test_device_information(self) -> None:
        """
        Only what was asked for and is known is told.
        """
        result = answer(
            inventory(), command("DeviceInformation", Queries=["OSVersion", "PhoneNumber"])
        )
        self.assertEqual(
            result, {"Status": "Acknowledged", "QueryResponses": {"OSVersion": "15.6.1"}}
        )

    def test_device_information_without_queries(self) -> None:
        result = answer(inventory(), command("DeviceInformation"))
        self.assertEqual(result["Status"], "CommandFormatError")
        self.assertEqual(result["ErrorChain"][0]["ErrorCode"], 12008)

    def test_security_info(self) -> None:
        result = answer(inventory(), command("SecurityInfo"))
        self.assertEqual(result, {"Status": "Acknowledged", "SecurityInfo": {"FDE_Enabled": True}})

    def test_certificate_list(self) -> None:
        certificates = answer(inventory(), command("CertificateList"))["CertificateList"]
        self.assertEqual([each["Data"] for each in certificates], [b"identity", b"other"])
        self.assertEqual([each["IsIdentity"] for each in certificates], [True, False])

    def test_installed_application_list(self) -> None:
        """
        By default the answer is about as large as that of a real Mac: 80 KB.
        """
        result = answer(inventory(), command("InstalledApplicationList"))
        self.assertTrue(72_000 <= len(plistlib.dumps(result)) <= 90_000)
        identifiers = {app["Identifier"] for app in result["InstalledApplicationList"]}
        self.assertEqual(len(identifiers), 240)

    def test_app_count(self) -> None:
        result = answer(inventory(app_count=3), command("InstalledApplicationList"))
        self.assertEqual(len(result["InstalledApplicationList"]), 3)

    def test_unknown_request_type(self) -> None:
        result = answer(inventory(), command("MakeCoffee"))
        self.assertEqual(result["Status"], "Error")
        (link,) = result["ErrorChain"]
        self.assertEqual((link["ErrorCode"], link["ErrorDomain"]), (12021, "MCMDMErrorDomain"))
        self.assertIn("MakeCoffee", link["LocalizedDescription"])


class ProfileTests(SynchronousTestCase):
    """
    C{InstallProfile} and C{RemoveProfile} change what C{ProfileList} tells.
    """

    def setUp(self) -> None:
        self.inventory = inventory()

    def install(self, payload: bytes) -> dict[str, Any]:
        return answer(self.inventory, command("InstallProfile", Payload=payload))

    def listed(self) -> list[dict[str, Any]]:
        result = answer(self.inventory, command("ProfileList"))["ProfileList"]
        assert isinstance(result, list)
        return result

    def test_install(self) -> None:
        """
        The list names the payloads and keeps their settings to itself.
        """
        self.assertEqual(self.listed(), [])
        self.assertEqual(self.install(profile("com.example.wifi")), {"Status": "Acknowledged"})
        (entry,) = self.listed()
        self.assertEqual(entry["PayloadIdentifier"], "com.example.wifi")
        self.assertEqual(
            entry["PayloadContent"],
            [
                {
                    "PayloadIdentifier": "com.example.wifi.1",
                    "PayloadType": "com.apple.wifi.managed",
                    "PayloadVersion": 1,
                }
            ],
        )

    def test_install_again(self) -> None:
        """
        A profile replaces one with the same identifier.
        """
        self.install(profile("com.example.wifi"))
        self.install(profile("com.example.wifi", "com.apple.vpn.managed"))
        (entry,) = self.listed()
        self.assertEqual(entry["PayloadContent"][0]["PayloadType"], "com.apple.vpn.managed")

    def test_signed(self) -> None:
        """
        A profile may come inside a CMS SignedData.
        """
        signed_data = cms.SignedData(
            {
                "version": "v1",
                "digest_algorithms": [],
                "encap_content_info": {
                    "content_type": "data",
                    "content": profile("com.example.signed"),
                },
                "signer_infos": [],
            }
        )
        envelope = cms.ContentInfo({"content_type": "signed_data", "content": signed_data})
        self.assertEqual(self.install(envelope.dump()), {"Status": "Acknowledged"})
        self.assertEqual(self.listed()[0]["PayloadIdentifier"], "com.example.signed")

    def test_unreadable(self) -> None:
        """
        A damaged profile is refused and not listed.
        """
        for payload in (
            b"",
            b"garbage",
            b"<?xml",
            profile("x")[:-20],
            plistlib.dumps([]),
            plistlib.dumps({"PayloadIdentifier": "x"}),
            plistlib.dumps({"PayloadIdentifier": "x", "PayloadContent": ["not a payload"]}),
        ):
            result = self.install(payload)
            self.assertEqual(result["Status"], "Error")
            self.assertEqual(result["ErrorChain"][0]["ErrorDomain"], "MCProfileErrorDomain")
        self.assertEqual(self.listed(), [])

    def test_no_payload(self) -> None:
        result = answer(self.inventory, command("InstallProfile"))
        self.assertEqual(result["Status"], "CommandFormatError")

    def test_remove(self) -> None:
        self.install(profile("com.example.a"))
        self.install(profile("com.example.b"))
        removal = command("RemoveProfile", Identifier="com.example.a")
        self.assertEqual(answer(self.inventory, removal), {"Status": "Acknowledged"})
        self.assertEqual([entry["PayloadIdentifier"] for entry in self.listed()], ["com.example.b"])

    def test_remove_what_is_not_there(self) -> None:
        result = answer(self.inventory, command("RemoveProfile", Identifier="com.example.a"))
        self.assertEqual(result["Status"], "Error")
        self.assertEqual(result["ErrorChain"][0]["ErrorCode"], 12013)

    def test_renewal(self) -> None:
        """
        Only a profile with an MDM payload makes a renewal due.
        """
        self.install(profile("com.example.wifi"))
        self.assertFalse(self.inventory.renewal_due)
        self.install(profile("com.example.mdm", "com.apple.mdm"))
        self.assertTrue(self.inventory.renewal_due)
