"""
Tests for C{nanomdmctl simulate}, mostly with processes of its own.
"""

from __future__ import annotations

import json
import shutil
import stat
from importlib import import_module
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.task import deferLater

from nanomdm.crypto.chain import load_certificates
from nanomdm.crypto.pushcert import parse_push_certificate
from nanomdm.push.address import parse_apns_url
from nanomdm.sim.ca import ThrowawayCA
from nanomdm.sim.device import DEFAULT_TOPIC
from nanomdm.sim.feed import feed_file
from nanomdm.sim.fleet_members import KINDS
from tests.ctl.case import CommandProcess, CtlCase


class Case(CtlCase):
    """
    What is simulated lies in a directory.
    """

    def setUp(self) -> None:
        super().setUp()
        self.port = 9
        self.directory = self.home / "sim"

    def settings(self) -> dict[str, str]:
        # Twisted's own TLS servers use what pyOpenSSL has deprecated.
        return {**super().settings(), "PYTHONWARNINGS": "ignore"}

    async def make_ca(self) -> None:
        result = await self.ctl("simulate", "ca", "--directory", str(self.directory))
        self.assertEqual((result.stderr, result.exit_code), ("", 0))

    def devices(self, *arguments: str) -> CommandProcess:
        common = ("--directory", str(self.directory), "--json")
        return self.spawn("simulate", "devices", *common, *arguments)

    async def interrupted(self, process: CommandProcess) -> int:
        process.transport.signalProcess("INT")
        return await process.ended


class CATests(Case):
    """
    The CA.
    """

    async def test_made(self) -> None:
        await self.make_ca()
        self.assertEqual(stat.S_IMODE(self.directory.stat().st_mode), 0o700)
        self.assertEqual(len(load_certificates(self.directory / "ca.pem", "")), 1)
        push = (self.directory / f"push-{DEFAULT_TOPIC}.pem").read_bytes()
        self.assertEqual(parse_push_certificate(push).topic, DEFAULT_TOPIC)

    async def test_again(self) -> None:
        """
        What is there stays.
        """
        await self.make_ca()
        before = {path: path.read_bytes() for path in self.directory.iterdir()}
        arguments = ("--topic", "com.apple.mgmt.b", "--json")
        printed = await self.printed(
            "simulate", "ca", "--directory", str(self.directory), *arguments
        )
        made = json.loads(printed)
        self.assertEqual(made["ca"], str(self.directory / "ca.pem"))
        [(topic, file)] = made["push_certificates"].items()
        self.assertEqual(topic, "com.apple.mgmt.b")
        self.assertTrue(Path(file).exists())
        for path, content in before.items():
            self.assertEqual(path.read_bytes(), content)

    async def test_damaged(self) -> None:
        await self.make_ca()
        (self.directory / "ca.key").write_text("nonsense")
        line = await self.refused("simulate", "ca", "--directory", str(self.directory))
        self.assertTrue(line.startswith("Error: "))


class DevicesTests(Case):
    """
    The devices.
    """

    def test_constants(self) -> None:
        """
        They stand in the command too, which is there sooner without the simulation.
        """
        module = import_module("nanomdm.ctl.simulate")
        self.assertEqual(module._KINDS, KINDS)
        self.assertEqual(module._TOPIC, DEFAULT_TOPIC)

    async def test_public(self) -> None:
        await self.make_ca()
        for host in ("8.8.8.8", "[2001:4860:4860::8888]"):
            line = await self.refused(
                *("simulate", "devices", "--url", f"https://{host}"),
                *("--directory", str(self.directory)),
                code=2,
            )
            self.assertIn("public address", line)

    async def test_badArguments(self) -> None:
        await self.make_ca()
        common = ("simulate", "devices", "--url", "http://127.0.0.1:9")
        sim = ("--directory", str(self.directory))
        ca = str(self.directory / "ca.pem")
        for words, *arguments in (
            ("whose identities?",),
            ("belong together", "--ca-cert", ca),
            ("has no ca.pem", "--directory", str(self.home)),
            ("--url", *sim, "--url", "ftp://127.0.0.1"),
            ("no query", *sim, "--url", "http://127.0.0.1/?a=b"),
            ("--count", *sim, "--count", "0"),
            ("--type", *sim, "--type", "watch"),
            ("--not-now", *sim, "--not-now", "101"),
        ):
            self.assertIn(words, await self.refused(*common, *arguments, code=2))
        line = await self.refused(*common, "--ca-cert", ca, "--ca-key", ca)
        self.assertIn("Error: ", line)

    async def test_noServer(self) -> None:
        """
        That nobody could enroll is a failure.
        """
        await self.make_ca()
        process = self.devices("--count", "2", "--url", "http://127.0.0.1:9", "--seconds", "2")
        self.assertEqual(await process.ended, 1)
        told = json.loads(process.output)
        self.assertEqual((told["devices"], told["enrolled"]), (2, 0))
        self.assertGreaterEqual(told["failures"], 2)
        self.assertIn(b"refused", process.errors)

    async def test_kept(self) -> None:
        """
        The next run finds the same devices.
        """
        await self.make_ca()
        self.serve(ca=self.directory / "ca.pem")
        for count in (3, 2, 4):
            process = self.devices(
                *("--count", str(count), "--state", str(self.home / "state")), "--type", "mixed"
            )
            await process.printed(f"Enrolled: {count}\n".encode())
            self.assertEqual(await self.interrupted(process), 0, process.errors)
            self.assertEqual(json.loads(process.output)["failures"], 0)
        [[count]] = await self.query("SELECT COUNT(*) FROM enrollments")
        self.assertEqual(count, 4)
        [[count]] = await self.query(
            "SELECT COUNT(*) FROM enrollments WHERE token_update_tally > 1"
        )
        self.assertEqual(count, 0)

    async def test_canNotBeKept(self) -> None:
        """
        It ends all the same, and says so.
        """
        await self.make_ca()
        self.serve(ca=self.directory / "ca.pem")
        state = self.home / "state"
        process = self.devices("--count", "1", "--state", str(state))
        await process.printed(b"Enrolled: 1\n")
        shutil.rmtree(state, ignore_errors=True)
        state.write_text("")
        self.assertEqual(await self.interrupted(process), 1)
        self.assertIn(b"Error: ", process.errors)

    async def test_noPushService(self) -> None:
        """
        What a killed one has left is no reason to wait for pushes.
        """
        await self.make_ca()
        feed_file(self.directory).write_text('{"feed": 9}')
        process = self.devices("--count", "1", "--url", "http://127.0.0.1:9")
        self.assertEqual(await process.ended, 1)
        self.assertIn(b"no simulated APNs runs there", process.errors)

    async def test_tls(self) -> None:
        """
        A server of the throwaway CA is trusted with --server-ca only.
        """
        await self.make_ca()
        ca, cert = self.directory / "ca.pem", self.home / "server.pem"
        identity = ThrowawayCA.load_or_create(self.directory).issue_server("localhost")
        cert.write_bytes(identity.pem + identity.key_pem)
        self.serve(ca=ca, tls_cert=cert)
        arguments = ("--url", f"https://localhost:{self.port}", "--count", "1")
        process = self.devices(*arguments, "--seconds", "0.5")
        self.assertEqual(await process.ended, 1)
        process = self.devices(*arguments, "--server-ca", str(ca))
        await process.printed(b"Enrolled: 1\n")
        self.assertEqual(await self.interrupted(process), 0)

    async def test_terminal(self) -> None:
        """
        A line tells how it is getting on, and Ctrl-C ends it.
        """
        await self.make_ca()
        self.serve(ca=self.directory / "ca.pem")
        process = self.spawn(
            "simulate", "devices", "--directory", str(self.directory), "--count", "2",
            terminal=True,
        )  # fmt: skip
        await process.printed(b"enrolled 2/2")
        process.transport.write(b"\x03")
        self.assertEqual(await process.ended, 0)


class StoryTests(Case):
    """
    Everything that a trial needs, with C{nanomdmctl} alone.
    """

    async def test_pushed(self) -> None:
        """
        Devices that a push through the simulated service wakes answer a command; some
        have no time at first.
        """
        await self.make_ca()
        apns = self.spawn("simulate", "apns", "--directory", str(self.directory))
        await apns.printed(b"listening on https://localhost:")
        await apns.printed(b"\n")
        url = parse_apns_url(apns.output.split()[-1].decode())
        ca = self.directory / "ca.pem"
        self.serve(ca=ca, apns_url=url, apns_ca=ca)
        await self.printed("pushcert", "put", str(self.directory / f"push-{DEFAULT_TOPIC}.pem"))
        process = self.devices("--count", "5", "--concurrency", "2")
        await process.printed(b"Enrolled: 5\n")
        result = await self.ctl("command", "DeviceInformation", "--all", "--yes", "--json")
        self.assertEqual(result.exit_code, 0, result.stderr)
        while len(await self.query("SELECT 1 FROM command_results")) < 5:
            await deferLater(reactor, 0.05)
        self.assertEqual(await self.interrupted(process), 0)
        told = json.loads(process.output)
        self.assertEqual(told["answers"], {"Acknowledged": 5})
        self.assertEqual(told["commands"], {"DeviceInformation": 5})
        self.assertEqual((told["pushes"], told["failures"]), (5, 0))
        self.assertEqual(await self.interrupted(apns), 0)
        counts = json.loads(apns.output.splitlines()[-1])
        self.assertEqual(counts["statuses"], {"200": 5})
