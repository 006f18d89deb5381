"""
Tests for C{nanomdmctl queue}.
"""

from __future__ import annotations

import json

from tests.ctl.case import CtlCase


class QueueCase(CtlCase):
    """
    A server with a device that has three commands to carry out.
    """

    async def fill(self) -> None:
        self.serve()
        await self.enroll()
        for uuid in ("C1", "C2", "C3"):
            await self.enqueue("D1", uuid)

    async def waiting(self) -> list[str]:
        """
        @return: the UUIDs.
        """
        printed = await self.ctl("queue", "list", "D1")
        return [line.partition("\t")[0] for line in printed.stdout.splitlines()]


class ListTests(QueueCase):
    """
    C{queue list}.
    """

    async def test_lines(self) -> None:
        await self.fill()
        await self.report("NotNow", "C1")
        lines = (await self.printed("queue", "list", "D1")).splitlines()
        rows = {line.split("\t")[0]: line.split("\t") for line in lines}
        self.assertEqual(set(rows), {"C1", "C2", "C3"})
        self.assertEqual(
            rows["C1"][1:3] + rows["C1"][5:], ["DeviceInformation", "0", "not_now", "1"]
        )
        self.assertEqual(rows["C2"][5:], ["waiting", ""])

    async def test_json(self) -> None:
        await self.fill()
        printed = await self.printed("queue", "list", "D1", "--json", "--limit", "2")
        self.assertEqual([item["command_uuid"] for item in json.loads(printed)], ["C1", "C2"])

    async def test_empty(self) -> None:
        self.serve()
        await self.enroll()
        result = await self.ctl("queue", "list", "D1")
        self.assertEqual((result.stdout, result.stderr), ("", "The queue is empty.\n"))
        self.assertEqual(result.exit_code, 0)

    async def test_unknown(self) -> None:
        self.serve()
        self.assertIn("HTTP 404", await self.refused("queue", "list", "D1"))


class ChangeTests(QueueCase):
    """
    What changes queues.
    """

    async def test_cancel(self) -> None:
        await self.fill()
        printed = await self.printed("queue", "cancel", "D1", "C1", "C3", "C1")
        self.assertEqual(printed, "Cancelled: 2, failed: 0\n")
        self.assertEqual(await self.waiting(), ["C2"])

    async def test_cancelWhatIsNotThere(self) -> None:
        await self.fill()
        await self.report("Acknowledged", "C1")
        result = await self.ctl("queue", "cancel", "D1", "C1", "C9", "C2")
        self.assertRegex(result.stderr, r"\AC1: HTTP 409: .*\nC9: HTTP 404: .*\n\Z")
        self.assertEqual((result.stdout, result.exit_code), ("Cancelled: 1, failed: 2\n", 1))
        self.assertEqual(await self.waiting(), ["C3"])

    async def test_clear(self) -> None:
        await self.fill()
        result = await self.ctl("queue", "clear", "--id", "D1,D9", "--json")
        printed = json.loads(result.stdout)
        self.assertEqual(printed["status"]["D1"], {"cleared": 3})
        self.assertEqual((printed["succeeded"], printed["failed"]), (1, 1))
        self.assertRegex(result.stderr, r"\AD9: HTTP 404: .*\n\Z")
        self.assertEqual((await self.waiting(), result.exit_code), ([], 1))

    async def test_priority(self) -> None:
        await self.fill()
        await self.printed("queue", "priority", "D1", "C3", "5")
        printed = await self.printed("queue", "priority", "D1", "C1", "-5", "--json")
        self.assertEqual(json.loads(printed)["priority"], -5)
        self.assertEqual(await self.waiting(), ["C3", "C2", "C1"])

    async def test_noPriority(self) -> None:
        await self.fill()
        for number in ("128", "-129", "high"):
            line = await self.refused("queue", "priority", "D1", "C1", number, code=2)
            self.assertIn("NUMBER", line)
        self.assertIn("HTTP 404", await self.refused("queue", "priority", "D1", "C9", "1"))
