"""
Tests for C{nanomdmctl webhook}.
"""

from __future__ import annotations

import json

from tests import samples
from tests.ctl.case import CtlCase
from tests.http.api.test_webhook import WebhookCase


class WebhookTests(WebhookCase, CtlCase):
    """
    A server whose receiver did not take three events.
    """

    async def fill(self) -> list[int]:
        """
        @return: the numbers of the events.
        """
        await self.serve_with(webhook_max_age=0)
        self.receiver.status = 500
        await self.enroll()
        self.assertOK(await self.send(samples.checkin("CheckOut")))
        events = (await self.all_failed(3)).json["events"]
        self.receiver.status = 200
        return [event["number"] for event in events]

    async def test_failed(self) -> None:
        numbers = await self.fill()
        lines = (await self.printed("webhook", "failed")).splitlines()
        rows = [line.split("\t") for line in lines]
        self.assertEqual([int(row[0]) for row in rows], numbers)
        self.assertEqual(
            [row[1] for row in rows], ["mdm.Authenticate", "mdm.TokenUpdate", "mdm.CheckOut"]
        )
        self.assertEqual({row[2] for row in rows}, {"D1"})
        self.assertEqual({len(row) for row in rows}, {7})
        printed = await self.printed("webhook", "failed", "--limit", "2", "--json")
        self.assertEqual([event["number"] for event in json.loads(printed)], numbers[:2])

    async def test_retry(self) -> None:
        numbers = await self.fill()
        printed = await self.printed("webhook", "retry", str(numbers[1]))
        self.assertEqual(printed, "retried\t1\n")
        printed = await self.printed("webhook", "retry", "--all", "--json")
        self.assertEqual(json.loads(printed), {"retried": 2})
        self.assertEqual(len(await self.told(3)), 3)
        await self.all_failed(0)
        result = await self.ctl("webhook", "failed")
        self.assertEqual((result.stdout, result.stderr), ("", "No event was given up.\n"))

    async def test_usage(self) -> None:
        self.port = 1
        for arguments in ((), ("--all", "1"), ("-1",), ("x",)):
            await self.refused("webhook", "retry", *arguments, code=2)
