"""
Tests for the bar that shows how far a command is.
"""

from __future__ import annotations

import contextlib
import json
import os

from tests.ctl.test_batches import BatchCase


class ProgressBarTests(BatchCase):
    """
    It is there for people only.
    """

    async def test_terminal(self) -> None:
        process = self.spawn("push", "--file", self.file(501), terminal=True)
        self.assertEqual(await process.ended, 0)
        self.assertRegex(process.output.decode(), "Pushes .*━.*501/501")

    async def test_noTerminal(self) -> None:
        process = self.spawn("push", "--file", self.file(501))
        self.assertEqual(await process.ended, 0)
        self.assertEqual(process.errors, b"")
        self.assertEqual(process.output, b"Pushed: 501, failed: 0\n")

    async def test_standardErrorOnly(self) -> None:
        """
        The bar is on standard error, and nothing of it in the data.
        """
        terminal, slave = os.openpty()
        self.addCleanup(os.close, terminal)
        fds = {0: "w", 1: "r", 2: slave}
        process = self.spawn("push", "--json", "--file", self.file(2), childFDs=fds)
        os.close(slave)
        self.assertEqual(await process.ended, 0)
        self.assertEqual(json.loads(process.output)["succeeded"], 2)
        self.assertIn("2/2", self.drawn(terminal))

    def drawn(self, terminal: int) -> str:
        """
        @return: what is on a terminal that nobody writes to any more.
        """
        drawn = b""
        # Linux says so at the end.
        with contextlib.suppress(OSError):
            while data := os.read(terminal, 4096):
                drawn += data
        return drawn.decode()
