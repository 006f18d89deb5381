"""
Tests for C{nanomdmctl command}.
"""

from __future__ import annotations

import base64
import json
import plistlib
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.ctl import main
from nanomdm.mdm.catalogue import CATALOGUE, QUERIES
from nanomdm.mdm.command import parse_command
from tests import samples
from tests.ctl.case import CtlCase
from tests.mdm.test_build import PROFILE


class PrintTests(SynchronousTestCase):
    """
    What commands are made of; no server is asked.
    """

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()

    def file(self, content: bytes) -> str:
        path = self.directory / "file"
        path.write_bytes(content)
        return str(path)

    def run_command(self, *arguments: str, input: str | None = None) -> Result:
        return CliRunner().invoke(main, ["command", *arguments, "--print"], input=input)

    def content(self, *arguments: str, input: str | None = None) -> dict[str, Any]:
        """
        @return: the C{Command} dictionary, without its C{RequestType}.
        """
        result = self.run_command(*arguments, input=input)
        self.assertEqual((result.stderr, result.exit_code), ("", 0))
        message = plistlib.loads(result.stdout_bytes)
        self.assertEqual(message["Command"].pop("RequestType"), arguments[0])
        content: dict[str, Any] = message["Command"]
        return content

    def assertRefused(self, text: str, *arguments: str) -> None:
        result = self.run_command(*arguments)
        self.assertEqual((result.stdout, result.exit_code), ("", 2))
        self.assertIn(text, result.stderr)

    def test_all(self) -> None:
        """
        Each one that needs nothing can be made, and has help.
        """
        for request_type, known in CATALOGUE.items():
            needed = [key for key in known.keys if key.required and key.default is None]
            if not needed and not known.any_of:
                result = self.run_command(request_type)
                self.assertEqual(result.exit_code, 0, request_type)
                made = parse_command(result.stdout_bytes)
                self.assertEqual(made.request_type, request_type)
            help = CliRunner().invoke(main, ["command", request_type, "--help"])
            self.assertIn(known.page, help.stdout)

    def test_listed(self) -> None:
        result = CliRunner().invoke(main, ["command", "--help"])
        for request_type in CATALOGUE:
            self.assertRegex(result.stdout, rf"\n  {request_type}\s")

    def test_queries(self) -> None:
        self.assertEqual(self.content("DeviceInformation"), {"Queries": list(QUERIES)})
        own = self.content("DeviceInformation", "--queries", "UDID", "--queries", "OSVersion")
        self.assertEqual(own, {"Queries": ["UDID", "OSVersion"]})

    def test_uuid(self) -> None:
        result = self.run_command("SecurityInfo", "--uuid", "mine")
        self.assertEqual(plistlib.loads(result.stdout_bytes)["CommandUUID"], "mine")
        self.assertRefused("--uuid", "SecurityInfo", "--uuid", "")
        self.assertRefused("--uuid", "SecurityInfo", "--uuid", "x" * 128)

    def test_booleans(self) -> None:
        self.assertEqual(self.content("RestartDevice"), {})
        self.assertEqual(self.content("RestartDevice", "--notify-user"), {"NotifyUser": True})
        self.assertEqual(self.content("RestartDevice", "--no-notify-user"), {"NotifyUser": False})

    def test_numbers(self) -> None:
        made = self.content(
            "InstallApplication",
            *("--itunes-store-id", "361309726"),
            *("--purchase-method", "1"),
            *("--management-flags", "5"),
        )
        self.assertEqual(
            made,
            {"iTunesStoreID": 361309726, "Options": {"PurchaseMethod": 1}, "ManagementFlags": 5},
        )
        for option, value in (("purchase-method", "2"), ("management-flags", "2")):
            self.assertRefused(
                f"--{option}", "InstallApplication", "--identifier", "a", f"--{option}", value
            )

    def test_nested(self) -> None:
        made = self.content(
            "ScheduleOSUpdate", "--product-version", "26.1", "--install-action", "InstallASAP"
        )
        self.assertEqual(
            made, {"Updates": [{"ProductVersion": "26.1", "InstallAction": "InstallASAP"}]}
        )

    def test_oneOf(self) -> None:
        self.assertRefused("--itunes-store-id or --identifier", "InstallApplication")
        self.assertRefused("--message or --phone-number", "EnableLostMode")
        self.assertRefused("--user-name", "DeleteUser", "--no-delete-all-users")
        self.assertEqual(self.content("DeleteUser", "--delete-all-users"), {"DeleteAllUsers": True})

    def test_needs(self) -> None:
        profile = self.file(plistlib.dumps(PROFILE))
        self.assertRefused(
            "--wifi-profile: needs --return-to-service", "EraseDevice", "--wifi-profile", profile
        )
        made = self.content("EraseDevice", "--return-to-service", "--wifi-profile", profile)
        self.assertEqual(
            made,
            {"ReturnToService": {"Enabled": True, "WiFiProfileData": plistlib.dumps(PROFILE)}},
        )

    def test_required(self) -> None:
        self.assertRefused("--identifier", "RemoveProfile")
        self.assertEqual(
            self.content("InviteToProgram", "--invitation-url", "https://a.example"),
            {"ProgramID": "com.apple.cloudvpp", "InvitationURL": "https://a.example"},
        )

    def test_pin(self) -> None:
        self.assertEqual(self.content("DeviceLock", "--pin", "012345"), {"PIN": "012345"})
        for pin in ("12345", "1234567", "12345x", ""):
            self.assertRefused("--pin", "DeviceLock", "--pin", pin)

    def test_secretIsAskedFor(self) -> None:
        """
        It need not stand on the command line, and is not shown.
        """
        result = self.run_command("SetRecoveryLock", "--new-password", input="se same\n")
        self.assertIn(b"<string>se same</string>", result.stdout_bytes)
        self.assertNotIn("se same", result.stderr)
        self.assertEqual(self.content("SetRecoveryLock", "--new-password", ""), {"NewPassword": ""})

    def test_url(self) -> None:
        url = "https://a.example/manifest.plist"
        made = self.content("InstallEnterpriseApplication", "--manifest-url", url)
        self.assertEqual(made, {"ManifestURL": url})
        for bad in ("http://a.example", "a", "https://"):
            self.assertRefused("https", "InstallEnterpriseApplication", "--manifest-url", bad)

    def test_profile(self) -> None:
        profile = plistlib.dumps(PROFILE)
        made = self.content("InstallProfile", "--payload", self.file(profile))
        self.assertEqual(made, {"Payload": profile})
        self.assertRefused(
            "not a property list", "InstallProfile", "--payload", self.file(b"nonsense")
        )
        self.assertRefused("No such file", "InstallProfile", "--payload", "nowhere")

    def test_unlockToken(self) -> None:
        for file in (b"\0token", base64.b64encode(b"\0token") + b"\n"):
            made = self.content("ClearPasscode", "--unlock-token", self.file(file))
            self.assertEqual(made, {"UnlockToken": b"\0token"})

    def test_settings(self) -> None:
        made = self.content(
            "Settings",
            *("--setting", "DeviceName.DeviceName=Desk 1"),
            *("--setting", "Bluetooth.Enabled:=true"),
            *("--setting", "OrganizationInfo.OrganizationInfo.OrganizationName=A=B"),
            *("--setting", f"Wallpaper.Image@{self.file(b'PNG')}"),
            *("--setting", "Wallpaper.Where:=3"),
        )
        self.assertEqual(
            made["Settings"],
            [
                {"Item": "DeviceName", "DeviceName": "Desk 1"},
                {"Item": "Bluetooth", "Enabled": True},
                {"Item": "OrganizationInfo", "OrganizationInfo": {"OrganizationName": "A=B"}},
                {"Item": "Wallpaper", "Image": b"PNG", "Where": 3},
            ],
        )

    def test_settingsFile(self) -> None:
        settings = [{"Item": "Bluetooth", "Enabled": False}]
        for file in (settings, settings[0]):
            made = self.content("Settings", "--settings-file", self.file(plistlib.dumps(file)))
            self.assertEqual(made, {"Settings": settings})

    def test_badSettings(self) -> None:
        for text in ("Bluetooth", "Bluetooth=1", "Bluetooth.=1", ".A=1", "A.B:=x", "A.B.=1"):
            self.assertRefused("--setting", "Settings", "--setting", text)
        self.assertRefused(
            "one key can not be in", "Settings", "--setting", "A.B=1", "--setting", "A.B.C=1"
        )
        self.assertRefused("--setting or --settings-file", "Settings")
        file = self.file(plistlib.dumps({"Item": "A"}))
        self.assertRefused("not both", "Settings", "--setting", "A.B=1", "--settings-file", file)

    def test_certificates(self) -> None:
        self.assertRefused(
            "no certificate",
            "RotateFileVaultKey",
            *("--password", "a", "--new-certificate", self.file(b"nonsense")),
        )

    def test_set(self) -> None:
        """
        What Apple has added since.
        """
        made = self.content(
            "RestartDevice",
            *("--notify-user", "--set", "New=a:=b", "--set", 'Other:={"A": [1.5, "b"]}'),
            *("--set", f"Data@{self.file(bytes(3))}"),
        )
        self.assertEqual(
            made,
            {"NotifyUser": True, "New": "a:=b", "Other": {"A": [1.5, "b"]}, "Data": bytes(3)},
        )

    def test_badSet(self) -> None:
        for words, *given in (
            ("is not NAME=TEXT", "A"),
            ("is not JSON", "A:=x"),
            ("NaN is no number", "A:=[NaN]"),
            ("1e999 is no number", "A:=1e999"),
            ("No such file", "A@nowhere"),
            ("no property list", "A:=null"),
            ("more than once", "A=1", "A=2"),
            ("more than once", "RequestType=A"),
            ("there is an option", "Force:=true"),
        ):
            options = [word for one in given for word in ("--set", one)]
            self.assertRefused(words, "ScheduleOSUpdateScan", "--force", *options)

    def test_setCounts(self) -> None:
        made = self.content("EnableLostMode", "--set", "Message=Found?")
        self.assertEqual(made, {"Message": "Found?"})

    def test_unknown(self) -> None:
        made = self.content("SomethingNew", "--set", "A=b")
        self.assertEqual(made, {"A": "b"})
        self.assertRefused("No such command", "Something-New")

    def test_misspelled(self) -> None:
        result = self.run_command("deviceinformation")
        self.assertEqual(result.exit_code, 0)
        self.assertIn("is it DeviceInformation?", result.stderr)

    def test_raw(self) -> None:
        command = samples.command("C1")
        result = self.run_command("raw", self.file(command))
        self.assertEqual(result.stdout_bytes, command)
        result = self.run_command("raw", "-", "--uuid", "C2", input=command.decode())
        self.assertEqual(plistlib.loads(result.stdout_bytes)["CommandUUID"], "C2")
        self.assertRefused("not a property list", "raw", self.file(b"nonsense"))


class SendTests(CtlCase):
    """
    Against a server.
    """

    async def test_queued(self) -> None:
        """
        The device gets exactly what --print prints.
        """
        self.serve()
        await self.enroll()
        options = ("DeviceLock", "--pin", "123456", "--uuid", "C1")
        printed = await self.printed("command", *options, "--print")
        result = await self.ctl("command", *options, "--id", "D1", "--no-push", "--json")
        self.assertEqual(result.exit_code, 0)
        answer = json.loads(result.stdout)
        self.assertEqual(
            (answer["command_uuid"], answer["request_type"], answer["succeeded"]),
            ("C1", "DeviceLock", 1),
        )
        self.assertEqual((await self.report("Idle")).body.decode(), printed)

    async def test_nobody(self) -> None:
        self.serve()
        line = await self.refused("command", "SecurityInfo", code=2)
        self.assertIn("for whom?", line)

    async def test_severalNeedYes(self) -> None:
        self.serve()
        await self.enroll()
        for request_type in ("ShutDownDevice", "ClearRestrictionsPassword", "DeviceLock"):
            line = await self.refused("command", request_type, "--id", "D1,D2", code=2)
            self.assertIn(f"{request_type} for 2 enrollments: needs --yes", line)
        [[count]] = await self.query("SELECT COUNT(*) FROM commands")
        self.assertEqual(count, 0)
        for whom in (("D1",), ("D1,D2", "--yes")):
            await self.ctl("command", "ShutDownDevice", "--no-push", "--id", *whom)
        [[count]] = await self.query("SELECT COUNT(*) FROM commands")
        self.assertEqual(count, 2)

    async def test_eraseNeedsYes(self) -> None:
        """
        However it is given.
        """
        self.serve()
        await self.enroll()
        path = self.home / "erase.plist"
        path.write_bytes(plistlib.dumps({"RequestType": "EraseDevice"}))
        whole = self.home / "whole.plist"
        whole.write_bytes(samples.plist(CommandUUID="C1", Command={"RequestType": "EraseDevice"}))
        for command in (
            ("command", "EraseDevice"),
            ("command", "raw", str(path)),
            ("enqueue", str(whole)),
        ):
            line = await self.refused(*command, "--id", "D1", code=2)
            self.assertIn("EraseDevice for D1: needs --yes", line)
        self.assertEqual((await self.report("Idle")).body, b"")
        result = await self.ctl("command", "EraseDevice", "--id", "D1", "--no-push", "--yes")
        self.assertEqual((result.stdout, result.exit_code), ("Queued: 1, failed: 0\n", 0))
        self.assertIn(b"EraseDevice", (await self.report("Idle")).body)

    async def test_asked(self) -> None:
        """
        On a terminal.
        """
        self.serve()
        await self.enroll()
        arguments = ("command", "EraseDevice", "--id", "D1", "--no-push")
        process = self.spawn(*arguments, terminal=True)
        await process.printed(b"Really EraseDevice for D1? [y/N]:")
        process.transport.write(b"n\n")
        self.assertEqual(await process.ended, 1)
        self.assertEqual((await self.report("Idle")).body, b"")
        process = self.spawn(*arguments, terminal=True)
        await process.printed(b"[y/N]:")
        process.transport.write(b"y\n")
        self.assertEqual(await process.ended, 0)
        self.assertIn(b"EraseDevice", (await self.report("Idle")).body)
