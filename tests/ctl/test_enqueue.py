"""
Tests for C{nanomdmctl enqueue}.
"""

from __future__ import annotations

import json

from tests import samples
from tests.ctl.case import CtlCase


class EnqueueTests(CtlCase):
    """
    A command in a file.
    """

    async def fill(self, uuid: str = "C1") -> str:
        """
        @return: the file.
        """
        self.serve()
        await self.enroll()
        path = self.home / "command.plist"
        path.write_bytes(samples.command(uuid))
        return str(path)

    async def test_queued(self) -> None:
        """
        The device gets it byte for byte.
        """
        path = await self.fill()
        result = await self.ctl("enqueue", path, "--id", "D1", "--no-push")
        self.assertEqual(result.stdout, "Queued: 1, failed: 0\n")
        self.assertEqual(result.stderr, "DeviceInformation C1\n")
        self.assertEqual(result.exit_code, 0)
        self.assertEqual((await self.report("Idle")).body, samples.command("C1"))

    async def test_again(self) -> None:
        """
        Nothing is queued twice.
        """
        path = await self.fill()
        for _ in range(2):
            result = await self.ctl("enqueue", path, "--id", "D1", "--no-push")
            self.assertEqual(result.exit_code, 0)
        [[count]] = await self.query("SELECT COUNT(*) FROM enrollment_queue")
        self.assertEqual(count, 1)

    async def test_standardInput(self) -> None:
        await self.fill()
        command = samples.command("C2").decode()
        result = await self.ctl("enqueue", "-", "--id", "D1", "--no-push", input=command)
        self.assertEqual(result.exit_code, 0)
        self.assertEqual(samples.uuid_of((await self.report("Idle")).body), "C2")

    async def test_pushed(self) -> None:
        """
        It is queued, and the push fails: no certificate is there.
        """
        path = await self.fill()
        result = await self.ctl("enqueue", path, "--id", "D1", "--json")
        printed = json.loads(result.stdout)
        self.assertIn("push_error", printed["status"]["D1"])
        self.assertEqual((printed["succeeded"], printed["failed"]), (0, 1))
        self.assertEqual(printed["command_uuid"], "C1")
        self.assertRegex(result.stderr, r"D1: push: ")
        self.assertEqual(result.exit_code, 1)
        self.assertEqual(samples.uuid_of((await self.report("Idle")).body), "C1")

    async def test_partly(self) -> None:
        path = await self.fill()
        result = await self.ctl("enqueue", path, "--id", "D1,D9", "--no-push")
        self.assertEqual(result.stdout, "Queued: 1, failed: 1\n")
        self.assertRegex(result.stderr, r"(?m)^D9: ")
        self.assertEqual(result.exit_code, 1)

    async def test_noCommand(self) -> None:
        """
        The server is not even asked.
        """
        path = await self.fill()
        self.port = 1
        for body, problem in (
            (b"", "the command is empty"),
            (b"<plist>", ""),
            (samples.plist(CommandUUID="C1"), "Command is missing or not a dictionary"),
        ):
            (self.home / "command.plist").write_bytes(body)
            line = await self.refused("enqueue", path, "--id", "D1")
            self.assertTrue(line.startswith(f"Error: {path}: {problem}"), line)

    async def test_usage(self) -> None:
        path = await self.fill()
        line = await self.refused("enqueue", "-", "--file", "-", code=2, input="D1\n")
        self.assertIn("standard input can not be both", line)
        await self.refused("enqueue", "nowhere", "--id", "D1", code=2)
        await self.refused("enqueue", path, code=2)
