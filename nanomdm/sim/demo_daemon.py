"""
The real daemon as a child process of the demonstration.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from nanomdm.private import append

#: Seconds after SIGTERM until SIGKILL: more than the daemon's own deadline for
#: requests under way.
STOP_DEADLINE: Final = 40.0

# A process group of its own keeps the terminal's Ctrl-C away from the daemon:
# the demonstration stops it, in order and once.
_TWISTD: Final = "import os; os.setpgid(0, 0); from twisted.scripts.twistd import run; run()"


class DaemonProcess(ProcessProtocol):
    """
    A running C{twistd nanomdm}.

    @ivar log: the file that holds what the process writes.
    @ivar exit_status: how the process ended, in words; empty while it runs.
    """

    def __init__(self, reactor: Any, log: Path) -> None:
        self._reactor = reactor
        self.log = log
        self.exit_status = ""
        self._log_start = log.stat().st_size if log.exists() else 0
        self._waiting: list[Deferred[None]] = []

    def start(
        self, executable: str, arguments: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        """
        Start the process.

        @param executable: path of the program.
        @param arguments: its arguments, without its name.
        @param environment: its whole environment.
        @raise OSError: the log can not be written.
        """
        with append(self.log) as log, open(os.devnull, "rb") as nothing:
            self._process = self._reactor.spawnProcess(
                self,
                executable,
                [executable, *arguments],
                environment,
                childFDs={0: nothing.fileno(), 1: log.fileno(), 2: log.fileno()},
            )

    def processEnded(self, reason: Failure) -> None:
        """
        Tell everyone who waits for it.
        """
        error: Any = reason.value
        if error.signal is not None:
            self.exit_status = f"signal {error.signal}"
        else:
            self.exit_status = f"exit status {error.exitCode}"
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)

    def ended(self) -> Deferred[None]:
        """
        @return: fires when the process has ended.
        """
        deferred: Deferred[None] = Deferred()
        if self.exit_status:
            deferred.callback(None)
        else:
            self._waiting.append(deferred)
        return deferred

    async def stop(self) -> None:
        """
        End the process with SIGTERM, or with SIGKILL when it takes too long.
        """
        self._signal("TERM")
        kill = self._reactor.callLater(STOP_DEADLINE, self._signal, "KILL")
        await self.ended()
        if kill.active():
            kill.cancel()

    def last_lines(self, count: int = 10) -> list[str]:
        """
        The end of what this process wrote.

        @param count: how many lines at most.
        """
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode("utf-8", "replace").splitlines()[-count:]

    def _signal(self, name: str) -> None:
        with suppress(ProcessExitedAlready):
            self._process.signalProcess(name)


def start_daemon(
    reactor: Any, log: Path, options: Sequence[str], settings: Mapping[str, str]
) -> DaemonProcess:
    """
    Start C{twistd nanomdm} in the foreground.

    @param log: file to append its output to.
    @param options: its command line options.
    @param settings: options that go by environment, where other users of the
        machine can not read them.  Those of the present environment are left
        out.
    @raise OSError: the log can not be written.
    """
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("NANOMDM_")
    }
    daemon = DaemonProcess(reactor, log)
    arguments = ["-c", _TWISTD, "-n", "--pidfile=", "nanomdm", *options]
    daemon.start(sys.executable, arguments, {**environment, **settings})
    return daemon
