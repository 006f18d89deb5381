"""
The command and the server as two processes.
"""

from __future__ import annotations

import json
import plistlib
import signal
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from tests import samples
from tests.ctl.case import CtlCase
from tests.http.case import KEY, RESULT, ca
from tests.process import DaemonProcess


class TwoProcessesTests(CtlCase):
    """
    From an enrollment to its end.
    """

    timeout = 120

    async def start(self) -> None:
        authority = self.home / "ca.pem"
        authority.write_bytes(ca().pem)
        self.daemon = DaemonProcess(
            *("--listen", "tcp:0:interface=127.0.0.1", "--ca", str(authority)),
            *("--storage-dsn", str(self.home / "test.db")),
            NANOMDM_API=KEY,
        )

        def stop() -> Deferred[int] | None:
            return None if self.daemon.ended.called else self.daemon.signal(signal.SIGKILL)

        self.addCleanup(stop)
        self.port = await self.daemon.listening

    async def run_process(self, *arguments: str, code: int = 0, errors: str = "") -> Any:
        """
        @return: the JSON that a command printed.
        """
        process = self.spawn(*arguments, "--json")
        self.assertEqual(await process.ended, code, process.errors)
        self.assertEqual(process.errors.decode(), errors)
        return json.loads(process.output)

    async def test_life(self) -> None:
        await self.start()
        await self.enroll()
        [listed] = await self.run_process("enrollments", "list", "--serial", "C02D1")
        self.assertEqual(listed["id"], "D1")
        path = Path(self.home / "command")
        path.write_bytes(samples.command("C1"))
        done = await self.run_process(
            *("enqueue", str(path), "--all", "--yes", "--no-push"),
            errors="DeviceInformation C1\n",
        )
        self.assertEqual((done["succeeded"], done["failed"]), (1, 0))
        [waiting] = await self.run_process("queue", "list", "D1")
        self.assertEqual(waiting["command_uuid"], "C1")
        self.assertEqual((await self.report("Idle")).body, path.read_bytes())
        answer = samples.report("Acknowledged", "C1", QueryResponses={"OSVersion": "15.1"})
        self.assertOK(await self.send(answer, RESULT))
        result = await self.run_process("results", "D1", "C1")
        self.assertEqual(result["result"]["QueryResponses"], {"OSVersion": "15.1"})
        raw = self.spawn("results", "D1", "C1", "--raw")
        self.assertEqual(await raw.ended, 0)
        self.assertEqual(plistlib.loads(raw.output), plistlib.loads(answer))
        self.assertEqual(raw.output, answer)
        removed = await self.run_process("enrollments", "rm", "D1", "--purge", "--yes")
        self.assertEqual(removed["status"], {"D1": {"id": "D1", "purged": ["D1"]}})
        self.assertEqual(await self.run_process("enrollments", "list"), [])

    async def test_gone(self) -> None:
        """
        The server ends.
        """
        await self.start()
        await self.daemon.signal(signal.SIGTERM)
        process = self.spawn("enrollments", "list")
        self.assertEqual(await process.ended, 1)
        [line] = process.errors.decode().splitlines()
        self.assertIn("nobody listens there", line)
        self.assertNotIn(KEY, line)
