"""
What the programs leave on disk is for their user alone, also where the umask forbids
nothing: databases, keys, logs, exports, and what is kept for the next run.
"""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tests.http.case import KEY
from tests.test_daemon import DaemonCase, WholeProcess

#: Runs a command with the umask that forbids nothing.
_OPEN = ("/bin/sh", "-c", 'umask 0; exec "$@"', "sh")
_ROOT = Path(__file__).parent.parent.parent
_NANOMDMCTL = "from nanomdm.ctl import main; main(prog_name='nanomdmctl')"
_LISTENING = re.compile(r'msg="listening" address=127\.0\.0\.1:(\d+)\n')

#: What holds no secret: others may read it, and not write.
PUBLIC = {"ca.pem"}


def exposed(directory: Path) -> Iterator[str]:
    """
    @return: what is in a directory, on any level, that others may do too much with.
    """
    for path in directory.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & (0o022 if path.name in PUBLIC else 0o077):
            yield f"{path.relative_to(directory)} {mode:o}"


class FileModeTests(DaemonCase):
    """
    Everything is made in one directory, which is empty at first.
    """

    def setUp(self) -> None:
        super().setUp()
        self.made = self.directory / "made"
        self.made.mkdir()
        self.database = self.made / "test.db"
        self.addCleanup(os.umask, os.umask(0o022))

    def assertPrivate(self, *names: str) -> None:
        """
        These are there, and nothing that others may look at.
        """
        there = {str(path.relative_to(self.made)) for path in self.made.rglob("*")}
        self.assertEqual(set(names) - there, set())
        self.assertEqual(list(exposed(self.made)), [])

    async def run_program(self, *arguments: str, status: int = 0) -> None:
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(_ROOT), "HOME": str(self.made)}
        ended = await deferToThread(
            subprocess.run,
            [*_OPEN, sys.executable, *arguments],
            env=environ,
            cwd=self.made,
            capture_output=True,
        )
        self.assertEqual(ended.returncode, status, ended.stderr + ended.stdout)

    async def ctl(self, *arguments: str, status: int = 0) -> None:
        await self.run_program("-c", _NANOMDMCTL, *arguments, status=status)

    async def serve(self, *twistd: str) -> tuple[WholeProcess, int]:
        """
        Start a server that makes all the files that it can make.

        @return: it, and its port.
        """
        log = self.made / "twistd.log"
        # A child has the umask of the moment in which it begins.
        os.umask(0)
        process = WholeProcess(
            *("-n", *twistd, f"--pidfile={self.made / 'twistd.pid'}", f"--logfile={log}"),
            *("nanomdm", "--listen", "tcp:0:interface=127.0.0.1"),
            *("--ca", str(self.made / "sim" / "below" / "ca.pem")),
            *("--storage-dsn", str(self.database)),
            NANOMDM_API=KEY,
            NANOMDM_APNS_URL="https://127.0.0.1:9",
        )
        os.umask(0o022)
        self.addCleanup(self.stop, process)
        while not (match := _LISTENING.search(log.read_text() if log.exists() else "")):
            self.assertFalse(process.ended.called, process.errors)
            await deferLater(reactor, 0.05)
        return process, int(match[1])

    def stop(self, process: WholeProcess) -> Deferred[int]:
        if not process.ended.called:
            process.transport.signalProcess(signal.SIGTERM.value)
        return process.ended

    async def test_server(self) -> None:
        """
        A server with simulated devices, and what tools make of its database.
        """
        directory = str(self.made / "sim" / "below")
        await self.ctl("simulate", "ca", "--directory", directory, "--topic", "com.apple.mgmt.T")
        process, port = await self.serve()
        await self.ctl(
            *("simulate", "devices", "--url", f"http://127.0.0.1:{port}", "--count", "2"),
            *("--directory", directory, "--state", "kept/devices", "--seconds", "0.5"),
        )
        self.assertPrivate(
            *("test.db", "test.db-wal", "test.db-shm", "twistd.log", "twistd.pid"),
            *("sim/below/ca.key", "sim/below/push-com.apple.mgmt.T.pem", "kept/devices/fleet.json"),
        )
        # It has no --migration, so there is something to try again.
        await self.ctl(
            *("migrate", "--storage", "sqlite", "--storage-dsn", "test.db", "--key", KEY),
            *("--url", f"http://127.0.0.1:{port}/migration", "--state", "move.json"),
            status=1,
        )
        await self.stop(process)
        for name in ("plain", "packed.gz"):
            await self.ctl("export", name, "--storage", "sqlite", "--storage-dsn", "test.db")
        await self.ctl("import", "plain", "--storage", "sqlite", "--storage-dsn", "imported.db")
        source, target = ("--from-storage", "sqlite"), ("--to-storage", "sqlite")
        await self.ctl("copy", *source, "--from-dsn=test.db", *target, "--to-dsn=copied.db")
        self.assertPrivate("plain", "packed.gz", "imported.db", "copied.db", "move.json")

    async def test_umask(self) -> None:
        """
        C{--umask} lets others have the log, and nothing else.
        """
        await self.ctl("simulate", "ca", "--directory", str(self.made / "sim" / "below"))
        process, _ = await self.serve("--umask=027")
        self.assertEqual(sorted(exposed(self.made)), ["twistd.log 640", "twistd.pid 640"])
        await self.stop(process)

    async def test_demonstration(self) -> None:
        """
        C{make run}.
        """
        await self.run_program(
            *("-m", "nanomdm.sim.demo", "--directory", "a/var", "--port", "0", "--once")
        )
        self.assertPrivate("a/var/ca.key", "a/var/mac.pem", "a/var/nanomdm.db", "a/var/nanomdm.log")
