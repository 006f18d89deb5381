"""
What a service manager is told of the server: the protocol of sd_notify(3), which
systemd and others speak.  Without C{NOTIFY_SOCKET} in the environment nobody is told.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

_log: Final = Logger(namespace="nanomdm")


class ServiceManager:
    """
    Tells the service manager when the server is ready, reads files again and ends,
    and in between that the reactor still turns.  Nothing that goes wrong with that
    disturbs the server.

    @param reactor: its clock; says when it runs.
    @param environ: environment variables.
    @param serving: what the server does, for the status that operators see.
    @param microseconds: the time of C{CLOCK_MONOTONIC}.
    """

    def __init__(
        self,
        reactor: Any,
        environ: Mapping[str, str],
        serving: str,
        microseconds: Callable[[], int],
    ) -> None:
        self._reactor = reactor
        self._address = _address(environ)
        self._environ = environ
        self._serving = serving
        self._microseconds = microseconds
        self._watchdog = LoopingCall(self._tell, "WATCHDOG=1")
        self._watchdog.clock = reactor
        self._stopping = False
        self._reached = True

    def start(self) -> None:
        """
        Say that the server is ready, as soon as the reactor runs and signals are
        handled, and from then on that it is alive.
        """
        if self._address is not None:
            self._reactor.callWhenRunning(self._begin)

    def stop(self) -> Deferred[None]:
        """
        Say that the server ends.  From then on it need not show that it is alive;
        the manager has another limit for the end.
        """
        self._stopping = True
        if self._watchdog.running:
            self._watchdog.stop()
        self._tell("STOPPING=1", "STATUS=Ends once requests under way are answered")
        return succeed(None)

    def reloading(self) -> None:
        """
        Say that files are being read again.
        """
        # By the time the manager knows which signal this is the answer to.
        time = f"MONOTONIC_USEC={self._microseconds()}"
        self._tell_unless_stopping("RELOADING=1", time, "STATUS=Reads files again")

    def ready(self) -> None:
        """
        Say that everything is as it should be, at the start or after L{reloading}.
        """
        self._tell_unless_stopping("READY=1", f"STATUS={self._serving}")

    def _begin(self) -> None:
        if self._stopping:
            return
        self.ready()
        interval = _watchdog_interval(self._environ, os.getpid())
        if interval is not None:
            self._watchdog.start(interval).addErrback(_unexpected)

    def _tell_unless_stopping(self, *assignments: str) -> None:
        if not self._stopping:
            self._tell(*assignments)

    def _tell(self, *assignments: str) -> None:
        """
        Send a datagram, now or never: the manager always reads, and nothing here
        waits for it.
        """
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(assignments).encode(), self._address)
        except OSError as error:
            if self._reached:
                _log.warn(
                    "the service manager can not be told", state=assignments[0], error=str(error)
                )
            self._reached = False
        else:
            self._reached = True


def _address(environ: Mapping[str, str]) -> str | None:
    """
    Where the service manager listens: a path, or a name in the abstract namespace.
    """
    given = environ.get("NOTIFY_SOCKET", "")
    if given.startswith("@"):
        return f"\0{given[1:]}"
    if given and not given.startswith("/"):
        _log.warn("the service manager can not be told: NOTIFY_SOCKET is no Unix socket")
        return None
    return given or None


def _watchdog_interval(environ: Mapping[str, str], pid: int) -> float | None:
    """
    @return: seconds between two signs of life, half of what the manager allows;
        L{None} if it expects none, or not from this process.
    """
    limit = environ.get("WATCHDOG_USEC", "")
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(limit) / 2e6 if limit.isdecimal() and int(limit) > 0 else None


def _unexpected(failure: Failure) -> None:
    _log.failure("the service manager is not told any more that the server is alive", failure)
