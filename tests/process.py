"""
The daemon as a process of its own, as C{twistd} runs it.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from tests.leaks import leaked, secrets_of

_ROOT = Path(__file__).parent.parent
#: Runs C{twistd} as its command does.
TWISTD = "from twisted.scripts.twistd import run; run()"
# Whatever a test does, it never talks to Apple.
_NOWHERE = {"NANOMDM_APNS_URL": "https://127.0.0.1:9"}
_LISTENING = re.compile(rb'msg="listening" address=127\.0\.0\.1:(\d+)\n')


_log = Logger()

#: What nobody has thought of; a test with one in its log has failed.
_UNHANDLED = re.compile(rb'msg="(?:Unhandled|unexpected error)[^\n]*')


class DaemonProcess(ProcessProtocol):
    """
    C{twistd -n nanomdm} with some options.

    @cvar prefix: a command that ends by running the one behind it in its place.
    @cvar code: what Python runs.
    @ivar output: what it printed on standard output, its log.
    @ivar errors: what it printed on standard error.
    @ivar listening: fires with the port once it serves.
    @ivar ended: fires with its exit status, or minus the signal that ended it.
    """

    transport: IProcessTransport
    prefix: Sequence[str] = ()
    code = TWISTD

    def __init__(self, *options: str, **environment: str) -> None:
        self.output = b""
        self.errors = b""
        self._secrets = secrets_of(options, environment)
        self._printed = bytearray()
        self.listening: Deferred[int] = Deferred()
        self.ended: Deferred[int] = Deferred()
        self._awaited: tuple[bytes, Deferred[None]] | None = None
        twistd = [sys.executable, "-c", self.code, "-n", "--pidfile=", "nanomdm", *options]
        arguments = [*self.prefix, *twistd]
        inherited = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
        reactor.spawnProcess(
            self,
            arguments[0],
            arguments,
            env={**inherited, "PYTHONPATH": str(_ROOT), **_NOWHERE, **environment},
        )

    def outReceived(self, data: bytes) -> None:
        self.output += data
        self._printed += data
        match = _LISTENING.search(self.output)
        if match and not self.listening.called:
            self.listening.callback(int(match[1]))
        if self._awaited is not None and self._awaited[0] in self.output:
            (_, written), self._awaited = self._awaited, None
            written.callback(None)

    def written(self, text: bytes) -> Deferred[None]:
        """
        Forget the output, and wait.

        @return: fires when C{text} was printed on standard output.
        """
        self.output = b""
        self._awaited = (text, Deferred())
        return self._awaited[1]

    def errReceived(self, data: bytes) -> None:
        self.errors += data
        self._printed += data

    def processEnded(self, reason: Failure) -> None:
        value = reason.value
        status = value.exitCode if value.signal is None else -value.signal
        if not self.listening.called:
            self.listening.errback(RuntimeError(f"exit status {status}: {self.errors!r}"))
        for unhandled in _UNHANDLED.findall(bytes(self._printed)):
            _log.failure("a daemon had an error", Failure(AssertionError(unhandled)))
        if secrets := leaked(bytes(self._printed), self._secrets):
            _log.failure("a daemon printed secrets", Failure(AssertionError(secrets)))
        self.ended.callback(status)

    def signal(self, number: signal.Signals) -> Deferred[int]:
        """
        Send a signal.

        @return: L{ended}.
        """
        self.transport.signalProcess(number.value)
        return self.ended
