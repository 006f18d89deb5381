"""
A daemon that dies leaves no image of its memory, which holds keys and tokens.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest

from tests.process import DaemonProcess
from tests.test_daemon import DaemonCase

#: Runs a command with as large core dumps as this process may allow.
_DUMPING = ("/bin/sh", "-c", 'ulimit -Sc "$(ulimit -Hc)"; exec "$@"', "sh")


class CoreDumpTests(DaemonCase):
    """
    A daemon that was started where core dumps are wanted.
    """

    def setUp(self) -> None:
        super().setUp()
        self.patch(DaemonProcess, "prefix", _DUMPING)
        self.status = 0
        ended = DaemonProcess.processEnded

        def keep(daemon: DaemonProcess, reason: Failure) -> None:
            self.status = reason.value.status
            ended(daemon, reason)

        self.patch(DaemonProcess, "processEnded", keep)

    async def test_limit(self) -> None:
        daemon = self.start()
        await daemon.listening
        limits = Path(f"/proc/{daemon.transport.pid}/limits").read_text()
        self.assertRegex(limits, r"\nMax core file size +0 +0 ")

    async def test_abort(self) -> None:
        """
        The kernel says of any other process that it was dumped, and not of the daemon.
        """
        if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
            raise SkipTest("this process may not allow core dumps")
        command = [*_DUMPING, sys.executable, "-c", "import os; os.abort()"]
        _, status = os.waitpid(
            subprocess.Popen(command, cwd=self.directory, stderr=subprocess.DEVNULL).pid, 0
        )
        if not os.WCOREDUMP(status):
            raise SkipTest("this machine makes no core dumps")
        daemon = self.start()
        await daemon.listening
        self.assertEqual(await daemon.signal(signal.SIGABRT), -signal.SIGABRT)
        self.assertFalse(os.WCOREDUMP(self.status))
