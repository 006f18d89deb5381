"""
Runs one database server in a directory that it made, for the process that holds
the other end of its standard input, and ends both when that process is gone,
however it ended: C{kill -9} of the tests leaves nothing behind.

It is a script of its own, needs only the standard library, and is told what to
do by lines of JSON; each is answered by one line.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PATIENCE = 60.0
_SET_CHILD_SUBREAPER = 36


class Guard:
    """
    @ivar directory: where the server has everything.
    """

    def __init__(self, user: str | None, home: str | None) -> None:
        """
        @param user: the account that the server runs as, C{None} for this one.
        @param home: where to make the directory, C{None} for where temporary files go.
        """
        self.directory = tempfile.mkdtemp(prefix="nanomdm-", dir=home)
        self._identity: dict[str, Any] = {}
        self._server: subprocess.Popen[bytes] | None = None
        # What the server leaves behind is this process's then, and can be ended.
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1)
        if user is not None:
            account = pwd.getpwnam(user)
            os.chown(self.directory, account.pw_uid, account.pw_gid)
            self._identity = {"user": user, "group": account.pw_gid, "extra_groups": []}

    def _spawn(self, arguments: list[str]) -> subprocess.Popen[bytes]:
        with open(Path(self.directory, "log"), "ab") as log:
            return subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={"PATH": os.environ["PATH"], "TMPDIR": self.directory, "LC_ALL": "C"},
                **self._identity,
            )

    def run(self, arguments: list[str]) -> int:
        """
        Run a program to its end.

        @return: its exit status.
        """
        return self._spawn(arguments).wait()

    def start(self, arguments: list[str]) -> int:
        """
        @return: the process id of the server.
        """
        self._server = self._spawn(arguments)
        return self._server.pid

    def status(self) -> int | None:
        """
        @return: the exit status of the server, C{None} while it runs.
        """
        return self._server.poll() if self._server is not None else 0

    def end(self, number: int) -> int:
        """
        Send the server a signal, if that is C{SIGKILL} also to all that it has started,
        and wait for its end.

        @return: its exit status.
        """
        server = self._server
        if server is None or server.poll() is not None:
            return 0
        server.send_signal(number)
        if number == signal.SIGKILL:
            self._end_others()
        try:
            return server.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            return self.end(signal.SIGKILL)

    def _end_others(self) -> None:
        """
        End what the server has started.
        """
        server = {self._server.pid} if self._server is not None else set()
        while others := _descendants(os.getpid()) - server:
            for pid in others:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                # It is this process's child now, or will be once its parent is gone.
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)

    def clean(self, number: int) -> None:
        """
        End the server and remove the directory.
        """
        self.end(number)
        self._end_others()
        shutil.rmtree(self.directory)


def _descendants(pid: int) -> set[int]:
    found = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        # The thread may be gone.
        with contextlib.suppress(OSError):
            found.update(map(int, path.read_text().split()))
    return found.union(*map(_descendants, found))


def main(user: str, last: str, home: str) -> None:
    """
    @param user: as of L{Guard}, empty for this account.
    @param last: the number of the signal that ends the server at the end.
    @param home: as of L{Guard}, empty for where temporary files go.
    """
    guard = Guard(user or None, home or None)
    actions: dict[str, Callable[..., int | None]]
    actions = {"run": guard.run, "start": guard.start, "status": guard.status, "end": guard.end}
    try:
        print(json.dumps(guard.directory), flush=True)
        for line in sys.stdin:
            action, *arguments = json.loads(line)
            print(json.dumps(actions[action](*arguments)), flush=True)
    finally:
        guard.clean(int(last))


if __name__ == "__main__":
    main(*sys.argv[1:])
