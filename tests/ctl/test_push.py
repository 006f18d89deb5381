"""
Tests for C{nanomdmctl push}.
"""

from __future__ import annotations

import json

from tests.ctl.case import CtlCase
from tests.ctl.test_batches import BatchCase


class PushTests(BatchCase):
    """
    What the server is asked, and how that is told.
    """

    async def test_asked(self) -> None:
        self.assertEqual(await self.printed("push", "--id", "D1"), "Pushed: 1, failed: 0\n")
        await self.printed("push", "--id", "D1:U1", "--force")
        first, second = self.server.asked
        self.assertEqual((first.method, first.uri), ("PUT", "/v1/push/D1"))
        self.assertEqual((second.method, second.uri), ("PUT", "/v1/push/D1%3AU1?force=1"))

    async def test_emptyFile(self) -> None:
        """
        A list of what there is to do may be empty, and then nothing is done.
        """
        self.serve()
        result = await self.ctl("push", "--file", "-", input="# nobody\n")
        self.assertEqual((result.stderr, result.exit_code), ("", 0))

    async def test_json(self) -> None:
        printed = json.loads(await self.printed("push", "--id", "D1", "--json"))
        self.assertEqual(
            printed, {"status": {"D1": {"push_result": "x"}}, "succeeded": 1, "failed": 0}
        )


class ServerTests(CtlCase):
    """
    With a server that has no push certificate.
    """

    async def test_failed(self) -> None:
        self.serve()
        await self.enroll()
        result = await self.ctl("push", "--id", "D1,D9")
        self.assertEqual((result.stdout, result.exit_code), ("Pushed: 0, failed: 2\n", 1))
        self.assertRegex(result.stderr, r"\AD1: push: .*\nD9: push: .*\n\Z")
