"""
Runs one database server in a directory that it made, for the process that holds
the other end of its standard input, and ends both when that process is gone,
however it ended: C{kill -9} of the tests leaves nothing behind.

It is a script of its own, needs only the standard library, and is told what to
do by lines of JSON; each is answered by one line.
"""

from __future__ import annotations

import contextlib
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


class Guard:
    """
    @ivar directory: where the server has everything.
    """

    def __init__(self, user: str | None) -> None:
        """
        @param user: the account that the server runs as, C{None} for this one.
        """
        self.directory = tempfile.mkdtemp(prefix="nanomdm-")
        self._identity: dict[str, Any] = {}
        self._server: subprocess.Popen[bytes] | None = None
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
        Send the server a signal, and its children too if that is C{SIGKILL}, and
        wait for its end.

        @return: its exit status.
        """
        server = self._server
        if server is None or server.poll() is not None:
            return 0
        children = _children(server.pid) if number == signal.SIGKILL else []
        server.send_signal(number)
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)
        try:
            return server.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            return self.end(signal.SIGKILL)

    def clean(self, number: int) -> None:
        """
        End the server and remove the directory.
        """
        self.end(number)
        # Children of the server may still be writing their last files.
        for _ in range(5):
            with contextlib.suppress(OSError):
                return shutil.rmtree(self.directory)


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def main(user: str, last: str) -> None:
    """
    @param user: as of L{Guard}, empty for this account.
    @param last: the number of the signal that ends the server at the end.
    """
    guard = Guard(user or None)
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
