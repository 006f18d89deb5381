"""
Tests for L{nanomdm.mdm.command}.
"""

from __future__ import annotations

import plistlib

from twisted.trial.unittest import SynchronousTestCase

from nanomdm.errors import MessageError
from nanomdm.mdm.command import (
    Command,
    CommandReport,
    installs_mdm_profile,
    parse_command,
    parse_report,
)
from nanomdm.mdm.enrollment import SHARED_IPAD_USER_ID, Enrollment, EnrollmentType
from tests import samples

D1 = Enrollment("D1", EnrollmentType.DEVICE)


class ReportTests(SynchronousTestCase):
    """
    Tests for L{parse_report}.
    """

    def refused(self, body: bytes, because: str) -> None:
        """
        Assert that a report is refused, and why.
        """
        self.assertIn(because, str(self.assertRaises(MessageError, parse_report, body)))

    def test_capturedIdle(self) -> None:
        body = samples.captured("mdm-signature-2.body.plist")
        enrollment = Enrollment("D4D56083-BFB0-5047-8BDF-2727BACDC59B", EnrollmentType.DEVICE)
        self.assertEqual(parse_report(body), CommandReport(enrollment, body, "Idle", ""))

    def test_capturedDeviceInformation(self) -> None:
        body = samples.captured("DeviceInformation.1.plist")
        self.assertEqual(
            parse_report(body),
            CommandReport(
                Enrollment("66ADE930-5FDF-5EC4-8429-15640684C489", EnrollmentType.DEVICE),
                body,
                "Acknowledged",
                "76eda240-5488-4989-8339-f2ae160113c4",
            ),
        )

    def test_statuses(self) -> None:
        for status in ("Acknowledged", "Error", "CommandFormatError", "NotNow"):
            body = samples.report(status, "C1")
            self.assertEqual(parse_report(body), CommandReport(D1, body, status, "C1"))

    def test_unknownStatusIsTaken(self) -> None:
        """
        A device that is refused would send it again for ever.
        """
        self.assertEqual(parse_report(samples.report("Pondering", "C1")).status, "Pondering")

    def test_idleHasNoCommand(self) -> None:
        self.assertEqual(parse_report(samples.report("Idle")).command_uuid, "")
        self.assertEqual(parse_report(samples.report("Idle", "C1")).command_uuid, "")
        # Nor is a UUID that is not needed looked at.
        self.assertEqual(parse_report(samples.report("Idle", "x" * 1000)).command_uuid, "")

    def test_channels(self) -> None:
        for keys, enrollment in (
            ({"UserID": "U1"}, Enrollment("D1:U1", EnrollmentType.USER, "D1")),
            (
                {"UserID": SHARED_IPAD_USER_ID, "UserShortName": "jo"},
                Enrollment("D1:jo", EnrollmentType.SHARED_IPAD, "D1"),
            ),
            (
                {"udid": None, "EnrollmentID": "E1"},
                Enrollment("E1", EnrollmentType.USER_ENROLLMENT_DEVICE),
            ),
            (
                {"udid": None, "EnrollmentID": "E1", "EnrollmentUserID": "V1"},
                Enrollment("E1:V1", EnrollmentType.USER_ENROLLMENT, "E1"),
            ),
        ):
            self.assertEqual(parse_report(samples.report("Idle", **keys)).enrollment, enrollment)

    def test_answersAreNotRead(self) -> None:
        """
        Only the outermost keys count, whatever lies below.
        """
        inner = {"Status": "Error", "CommandUUID": "C2", "UDID": "D2", "UserID": "U2"}
        body = samples.report("Acknowledged", "C1", QueryResponses=inner, ErrorChain=[inner])
        self.assertEqual(parse_report(body), CommandReport(D1, body, "Acknowledged", "C1"))

    def test_refusals(self) -> None:
        self.refused(samples.report("", "C1"), "Status is missing or empty")
        self.refused(samples.plist(UDID="D1", CommandUUID="C1"), "Status is missing or empty")
        self.refused(samples.authenticate(), "whose Content-Type does not say so")
        self.refused(samples.plist(UDID="D1", CommandUUID="C1", Status=1), "Status is not a string")
        self.refused(samples.report("Acknowledged"), "CommandUUID is missing or empty")
        self.refused(samples.report("NotNow", ""), "CommandUUID is missing or empty")
        self.refused(
            samples.plist(UDID="D1", CommandUUID=["C1"], Status="Error"),
            "CommandUUID is not a string",
        )
        self.refused(samples.report("Idle", udid=None), "neither UDID nor EnrollmentID")
        self.refused(samples.report("Idle", udid="D1:U1"), "colon")
        self.refused(b"", "not an XML property list")
        self.refused(plistlib.dumps(["Idle"]), "not a dictionary")

    def test_lengths(self) -> None:
        self.assertEqual(parse_report(samples.report("s" * 31, "C1")).status, "s" * 31)
        self.refused(samples.report("s" * 32, "C1"), "Status is longer than 31")
        self.assertEqual(parse_report(samples.report("Error", "c" * 127)).command_uuid, "c" * 127)
        self.refused(samples.report("Error", "c" * 128), "CommandUUID is longer than 127")

    def test_reprShowsNoBody(self) -> None:
        body = samples.report("Acknowledged", "C1", UnlockToken="secret")
        self.assertNotIn("secret", repr(parse_report(body)))


class CommandTests(SynchronousTestCase):
    """
    Tests for L{parse_command}.
    """

    def refused(self, body: bytes, because: str) -> None:
        """
        Assert that a command is refused, and why.
        """
        self.assertIn(because, str(self.assertRaises(MessageError, parse_command, body)))

    def test_command(self) -> None:
        body = samples.command("C1", "DeviceInformation", Queries=["Model", {"deep": [1]}])
        self.assertEqual(parse_command(body), Command("C1", "DeviceInformation", body))

    def test_bytesAreKept(self) -> None:
        body = samples.command("C1").replace(b"\n", b" \r\n") + b"<!-- \xc3\xa9 -->\n\n"
        self.assertEqual(parse_command(body).raw, body)

    def test_refusals(self) -> None:
        self.refused(b"", "the command is empty")
        self.refused(b"\n", "not an XML property list")
        self.refused(samples.plist(Command={"RequestType": "X"}), "CommandUUID is missing or empty")
        self.refused(samples.command(""), "CommandUUID is missing or empty")
        self.refused(
            samples.plist(CommandUUID=b"C1", Command={"RequestType": "X"}),
            "CommandUUID is not a string",
        )
        self.refused(samples.plist(CommandUUID="C1"), "Command is missing or not a dictionary")
        for wrong in ("X", ["RequestType"], 1, b""):
            self.refused(
                samples.plist(CommandUUID="C1", Command=wrong),
                "Command is missing or not a dictionary",
            )
        self.refused(
            samples.plist(CommandUUID="C1", Command={"Queries": []}), "RequestType is missing"
        )
        self.refused(samples.command("C1", ""), "RequestType is missing or empty")
        self.refused(
            samples.plist(CommandUUID="C1", Command={"RequestType": {}}),
            "RequestType is not a string",
        )
        self.refused(plistlib.dumps([]), "not a dictionary")
        body = plistlib.dumps(plistlib.loads(samples.command("C1")), fmt=plistlib.FMT_BINARY)
        self.refused(body, "binary property lists")

    def test_lengths(self) -> None:
        self.assertEqual(parse_command(samples.command("c" * 127, "r" * 63)).uuid, "c" * 127)
        self.refused(samples.command("c" * 128), "CommandUUID is longer than 127")
        self.refused(samples.command("C1", "r" * 64), "RequestType is longer than 63")

    def test_wholeCommandIsChecked(self) -> None:
        """
        A device gets what an operator sent, so nothing broken may pass at any
        depth.
        """
        good = samples.command("C1", Settings=[{"Value": b"abc"}])
        parse_command(good)
        for broken in (
            good.replace(b"YWJj", b"YWJ"),
            good.replace(b"<key>Value</key>", b""),
            good.replace(b"data>", b"datum>"),
            good.replace(b"YWJj", b"<b/>"),
        ):
            self.assertNotEqual(broken, good)
            self.assertRaises(MessageError, parse_command, broken)

    def test_reprShowsNoBody(self) -> None:
        self.assertNotIn("1234", repr(parse_command(samples.command("C1", PIN="1234"))))


class InstallsMDMProfileTests(SynchronousTestCase):
    """
    Tests for L{installs_mdm_profile}.
    """

    def test_profile(self) -> None:
        self.assertTrue(installs_mdm_profile(samples.install_mdm_profile("C1")))

    def test_signedProfile(self) -> None:
        payload = b"\x30\x82\x01\x00" + b"\xff" * 50 + b"<string>com.apple.mdm</string>\x00\xfe"
        body = samples.command("C1", "InstallProfile", Payload=payload)
        self.assertTrue(installs_mdm_profile(body))

    def test_others(self) -> None:
        payload = b"<string>com.apple.mdm</string>"
        for body in (
            samples.command("C1", "InstallProfile", Payload=b"<string>com.apple.wifi</string>"),
            samples.command("C1", "InstallProfile", Payload=b""),
            samples.command("C1", "InstallProfile", Payload=payload.decode()),
            samples.command("C1", "InstallProfile", Payload=[payload]),
            samples.command("C1", "InstallProfile", Other=payload),
            samples.command("C1", "InstallApplication", Payload=payload),
            samples.command("com.apple.mdm", "DeviceInformation"),
            samples.plist(CommandUUID="C1", Payload=payload, RequestType="InstallProfile"),
            samples.plist(CommandUUID="C1", Command="InstallProfile"),
            samples.plist(Command={"RequestType": 1, "Payload": payload}),
            b"",
            b"InstallProfile com.apple.mdm",
            samples.install_mdm_profile("C1")[:-20],
        ):
            self.assertFalse(installs_mdm_profile(body), body)
