"""
The daemon as a user who may do nothing but write in one directory, and what is in there
afterwards.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from twisted.internet.threads import deferToThread

from tests import samples, unprivileged
from tests.http.case import RESULT
from tests.process import DaemonProcess
from tests.programs import lacking, program
from tests.test_daemon import DaemonCase
from tests.unprivileged import USER


def no_confinement() -> str | None:
    """
    @return: why this machine can not run L{unprivileged}.
    """
    if os.geteuid() != 0 or sys.platform != "linux":
        return "takes root on Linux"
    return lacking("unshare", "setpriv")


def written_by(pid: int) -> Iterator[Path]:
    """
    @return: the files that a process has open for writing.
    """
    for link in Path(f"/proc/{pid}/fd").iterdir():
        facts = Path(f"/proc/{pid}/fdinfo/{link.name}").read_text()
        match = re.search(r"^flags:\s+(\d+)", facts, re.MULTILINE)
        assert match is not None
        target = link.readlink()
        if int(match[1], 8) & os.O_ACCMODE and target.is_file():
            yield target


class UnprivilegedTests(DaemonCase):
    """
    Everything else is read-only, also what everybody may write to.
    """

    skip = no_confinement()

    def setUp(self) -> None:
        super().setUp()
        self.confined = [
            *(program("unshare"), "--mount", "--propagation=private", sys.executable),
            *(unprivileged.__file__, str(self.directory)),
        ]

    async def test_confinement(self) -> None:
        """
        It counts: files can be made here, and nowhere else.
        """
        here, above, elsewhere = self.directory, self.directory.parent, tempfile.gettempdir()
        for place, status in ((here, 0), (above, 1), (elsewhere, 1)):
            command = [*self.confined, "touch", str(Path(place) / f"made-by-{USER}")]
            ended = await deferToThread(subprocess.run, command, capture_output=True)
            self.assertEqual(ended.returncode, status, (place, ended.stderr))

    async def test_life(self) -> None:
        """
        It enrolls a device, has a command answered, reads a file again, and ends.
        """
        self.patch(DaemonProcess, "prefix", self.confined)
        keys = self.directory / "api-keys"
        keys.write_text(f"reader read {hashlib.sha256(b'a key').hexdigest()}\n")
        daemon = self.start("--api-key-file", str(keys))
        port = await daemon.listening
        await self.enroll(port, "D1")
        await self.enqueue(port, "D1", "C1")
        command = await self.send(port, samples.report("Idle", udid="D1"), RESULT)
        self.assertIn(b"<string>C1</string>", command)
        report = samples.report("Acknowledged", "C1", udid="D1")
        self.assertEqual(await self.send(port, report, RESULT), b"")
        self.assertPowerless(daemon.transport.pid)
        self.assertNotIn(b"runs as root", daemon.output)
        written = daemon.written(b'msg="API keys read again"')
        daemon.transport.signalProcess(signal.SIGHUP.value)
        await written
        self.assertEqual(await daemon.signal(signal.SIGTERM), -signal.SIGTERM)
        self.assertEqual(daemon.errors, b"")
        self.assertEqual(self.rows("SELECT status FROM command_results"), [("Acknowledged",)])
        self.assertEqual(
            {one.name for one in self.directory.iterdir()}, {"api-keys", "ca.pem", "test.db"}
        )
        found = self.database.stat()
        self.assertEqual((found.st_uid, stat.S_IMODE(found.st_mode)), (USER, 0o600))

    def assertPowerless(self, pid: int) -> None:
        """
        What the kernel says of it.
        """
        status = Path(f"/proc/{pid}/status").read_text()
        for line in (
            f"Uid:\t{USER}\t{USER}\t{USER}\t{USER}",
            *("CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "NoNewPrivs:\t1"),
        ):
            self.assertIn(f"{line}\n", status)
        # Not dumpable: its memory and its environment are for root alone.
        self.assertEqual(os.stat(f"/proc/{pid}/environ").st_uid, 0)
        files = set(written_by(pid))
        self.assertIn(self.database, files)
        self.assertEqual({path.parent for path in files}, {self.directory})


class RootTests(DaemonCase):
    """
    Who runs it as root is told.
    """

    skip = None if os.geteuid() == 0 else "takes root"

    async def test_warning(self) -> None:
        daemon = self.start()
        await daemon.listening
        self.assertIn(b'level=warn msg="the server runs as root, which it need not', daemon.output)
        await daemon.signal(signal.SIGTERM)
