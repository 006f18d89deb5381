"""
Tests for C{nanomdmctl status}.
"""

from __future__ import annotations

import json

from tests.ctl.case import CtlCase
from tests.http.case import device


class StatusTests(CtlCase):
    """
    A command for three devices.
    """

    async def fill(self) -> None:
        self.serve()
        for number in (1, 2, 3):
            await self.enroll(f"D{number}", device(number))
        await self.enqueue("D1,D2,D3", "C1")
        await self.report("Acknowledged", "C1", "D1", identity=device(1))
        await self.report("NotNow", "C1", "D2", identity=device(2))

    async def test_lines(self) -> None:
        await self.fill()
        result = await self.ctl("status", "C1")
        self.assertEqual(result.exit_code, 0)
        rows = [line.split("\t") for line in result.stdout.splitlines()]
        self.assertEqual(
            [(row[0], row[1], row[2], row[4]) for row in rows],
            [
                ("D1", "answered", "Acknowledged", ""),
                ("D2", "not_now", "NotNow", "1"),
                ("D3", "waiting", "", ""),
            ],
        )
        self.assertEqual(result.stderr, "answered: 1, not_now: 1, waiting: 1\n")

    async def test_json(self) -> None:
        await self.fill()
        printed = json.loads(await self.printed("status", "C1", "--json"))
        self.assertEqual([item["id"] for item in printed], ["D1", "D2", "D3"])
        printed = json.loads(await self.printed("status", "C1", "--json", "--limit", "2"))
        self.assertEqual([item["id"] for item in printed], ["D1", "D2"])

    async def test_unknown(self) -> None:
        self.serve()
        self.assertIn("HTTP 404: there is no command C9", await self.refused("status", "C9"))
