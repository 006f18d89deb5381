"""
The command against servers: in this process, or as a process of its own.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from nanomdm.ctl import client, main
from tests.http.case import KEY, ServerCase

_ROOT = Path(__file__).parent.parent.parent
_NANOMDMCTL = "from nanomdm.ctl import main; main(prog_name='nanomdmctl')"


class CommandProcess(ProcessProtocol):
    """
    C{nanomdmctl} as a process.

    @ivar output: what it printed on standard output; all of it on a terminal.
    @ivar errors: what it printed on standard error.
    @ivar ended: fires with its exit status, or minus the signal that ended it.
    """

    transport: IProcessTransport

    def __init__(self) -> None:
        self.output = b""
        self.errors = b""
        self.ended: Deferred[int] = Deferred()
        self._awaited: tuple[bytes, Deferred[None]] | None = None

    def outReceived(self, data: bytes) -> None:
        self.output += data
        self._look(self.output)

    def errReceived(self, data: bytes) -> None:
        self.errors += data
        self._look(self.errors)

    def printed(self, text: bytes) -> Deferred[None]:
        """
        @return: fires when it prints this.
        """
        self._awaited = (text, Deferred())
        awaited = self._awaited[1]
        self._look(self.output)
        self._look(self.errors)
        return awaited

    def _look(self, printed: bytes) -> None:
        if self._awaited is not None and self._awaited[0] in printed:
            (_, awaited), self._awaited = self._awaited, None
            awaited.callback(None)

    def processEnded(self, reason: Failure) -> None:
        value = reason.value
        if self._awaited is not None:
            self._awaited[1].errback(RuntimeError(f"{self.output!r} {self.errors!r}"))
        self.ended.callback(value.exitCode if value.signal is None else -value.signal)


class CtlCase(ServerCase):
    """
    Runs commands, for which a directory of the test is the home.
    """

    timeout = 60

    def setUp(self) -> None:
        self.home = Path(self.mktemp()).absolute()
        self.home.mkdir()
        # The pauses are real ones.
        self.patch(client, "_PAUSES", (0.0, 0.0))

    def settings(self) -> dict[str, str]:
        """
        How a command reaches who listens on C{port}.
        """
        return {"NANOMDM_SERVER": f"http://127.0.0.1:{self.port}", "NANOMDM_KEY": KEY}

    async def ctl(self, *arguments: str, input: str | None = None, **variables: str) -> Result:
        """
        Run a command in a thread.
        """
        hidden = {name: None for name in os.environ if name.startswith(("NANOMDM_", "XDG_"))}
        environ = {**hidden, "HOME": str(self.home), **self.settings(), **variables}
        result: Result = await deferToThread(
            CliRunner().invoke, main, arguments, input=input, env=environ
        )
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    async def printed(self, *arguments: str, **variables: Any) -> str:
        """
        @return: what a command printed that did what it should, and complained of
            nothing.
        """
        result = await self.ctl(*arguments, **variables)
        self.assertEqual((result.stderr, result.exit_code), ("", 0))
        return result.stdout

    async def refused(self, *arguments: str, code: int = 1, **variables: Any) -> str:
        """
        @return: what a command complained of that printed nothing else.
        """
        result = await self.ctl(*arguments, **variables)
        self.assertEqual((result.stdout, result.exit_code), ("", code), result.stderr)
        *_, line = result.stderr.splitlines()
        return line

    def spawn(self, *arguments: str, terminal: bool = False, **options: Any) -> CommandProcess:
        """
        Start a command as a process.

        @param terminal: it has a terminal instead of pipes.
        """
        process = CommandProcess()
        environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(_ROOT),
            "PYTHONWARNINGS": "error",
            "HOME": str(self.home),
            "TERM": "xterm",
            "COLUMNS": "120",
            "LC_ALL": "C.UTF-8",
            **self.settings(),
        }
        reactor.spawnProcess(
            process,
            sys.executable,
            [sys.executable, "-c", _NANOMDMCTL, *arguments],
            env=environ,
            usePTY=terminal,
            **options,
        )

        def stop() -> Deferred[int] | None:
            if process.ended.called:
                return None
            process.transport.signalProcess("KILL")
            return process.ended

        self.addCleanup(stop)
        return process
