"""
A server with some devices, before, during and after more than it can take.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Sequence
from ssl import SSLContext
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from nanomdm.openfiles import raise_limit
from tests import samples
from tests.faults.crowd import (
    Reply,
    Usage,
    ask,
    ask_anew,
    close,
    codes,
    connect,
    replies,
    secured,
    usage,
)
from tests.faults.figures import show
from tests.faults.process_case import Header, ProcessCase, basic, signed
from tests.http.case import CHECKIN, KEY, RESULT, device
from tests.http.tls_case import server, web_ca
from tests.http.tls_client import client_context
from tests.process import DaemonProcess

MIB = 1 << 20

#: Seconds after an attack in which the server serves everybody as before.
RECOVERY = 5.0

#: What a log must not have, whatever clients do.
_BUGS = (b"Unhandled", b"unexpected error", b"Traceback", b"answer not written")

#: Connections of a flood at a time.
_GROUP = 5000


def request(method: str, target: str, headers: Iterable[Header], body: bytes = b"") -> bytes:
    """
    @return: a whole request, after which the connection stays.
    """
    own = [("Host", "mdm.example.com"), ("Content-Length", str(len(body)))]
    lines = "".join(f"{name}: {value}\r\n" for name, value in [*own, *headers])
    return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode() + body


def device_request(number: int, body: bytes, content_type: str = RESULT) -> bytes:
    """
    @param number: of the device whose certificate signs.
    """
    headers = [*signed(device(number), body), ("Content-Type", content_type)]
    return request("PUT", "/mdm", headers, body)


def operator_request(method: str, target: str, body: bytes = b"") -> bytes:
    """
    @return: a request with the API key.
    """
    return request(method, target, basic("nanomdm", KEY), body)


def bound(connections: int) -> int:
    """
    @return: bytes that a server may take for so many connections, for a thousand more that
        it refuses, and for what else it does meanwhile.
    """
    return 20 * MIB + connections * (12 << 10) + 1000 * (4 << 10)


class OverloadCase(ProcessCase):
    """
    A test case with a daemon and devices that are enrolled at it.

    @cvar context: how clients speak TLS, if they do.
    @ivar daemon: the one that runs.
    @ivar pid: its process id.
    @ivar round: what each of the devices asks when it has nothing to report.
    @ivar before: what the daemon took before anything happened.
    """

    timeout = 100
    devices = 20
    context: SSLContext | None = None

    daemon: DaemonProcess
    pid: int
    round: list[bytes]
    before: Usage

    async def serve(self, *options: str) -> None:
        """
        Start the daemon, and enroll the devices.
        """
        self.assertGreater(raise_limit(18_000), 7000, "more open files must be allowed: ulimit -n")
        self.daemon = self.start(*options)
        self.port = await self.daemon.listening
        pid: Any = self.daemon.transport.pid
        self.pid = pid
        names = [f"DEVICE-{number}" for number in range(self.devices)]
        for message in (samples.authenticate, samples.token_update):
            bodies = enumerate(map(message, names))
            enrolling = [device_request(number, body, CHECKIN) for number, body in bodies]
            self.assertEqual(codes(await self.at_once(enrolling)), {200: self.devices})
        self.round = [
            device_request(number, samples.report("Idle", udid=name))
            for number, name in enumerate(names)
        ]
        # The first round opens what later ones use.
        for _ in range(2):
            self.assertEqual(codes(await self.at_once(self.round)), {200: self.devices})
        await self.files_back_to(10_000)
        self.before = self.usage()

    def tls(self) -> list[str]:
        """
        @return: options for it.
        """
        self.context = client_context(web_ca())
        file = self.directory / "server.pem"
        file.write_bytes(server(1).pem + server(1).key_pem)
        return ["--tls-cert", str(file)]

    def secure(self, count: int) -> list[socket.socket]:
        """
        Open connections with TLS.  Blocks.
        """
        context: Any = self.context
        return [secured(one, context) for one in connect(self.port, count)]

    def at_once(self, requests: Sequence[bytes]) -> Deferred[list[Reply]]:
        """
        Send requests, each on a connection of its own.
        """
        return self.thread(ask_anew, self.port, requests, 30.0, self.context)

    def thread(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """
        Run what blocks.
        """
        return deferToThread(function, *arguments)

    def opened(self, sockets: Sequence[socket.socket]) -> Sequence[socket.socket]:
        """
        See that connections are closed at the end of the test.
        """
        self.addCleanup(close, sockets)
        return sockets

    async def occupied(self, count: int) -> Sequence[socket.socket]:
        """
        Take all connections that the server serves.
        """
        sockets = self.opened(await self.thread(connect, self.port, count))
        # An answer on the last one says that all were noticed.
        answers = await self.thread(ask, sockets[-1:], self.round[:1], 10.0)
        self.assertEqual(codes(answers), {200: 1})
        return sockets

    def flood(self, count: int) -> list[Reply]:
        """
        Come as devices and operators in turn, most of them at the same time.  Blocks.

        @return: what each was told.
        """
        told: list[Reply] = []
        asked = [*self.round, *[operator_request("GET", "/v1/enrollments")] * self.devices]
        while len(told) < count:
            sockets: list[socket.socket] = []
            for number in range(min(count - len(told), _GROUP)):
                sockets += connect(self.port, 1, count + len(told) + number)
                sockets[-1].sendall(asked[number % len(asked)])
            told += replies(sockets, 60.0)
            close(sockets)
        return told

    def usage(self) -> Usage:
        """
        @return: what the daemon takes.
        """
        return usage(self.pid)

    async def assertServed(self) -> None:
        """
        All devices are served at this moment, in no more than the time that they get after
        an attack.
        """
        began = time.monotonic()
        self.assertEqual(codes(await self.at_once(self.round)), {200: self.devices})
        self.assertLess(time.monotonic() - began, RECOVERY)

    async def assertRecovers(self, **figures: object) -> None:
        """
        The attack ends here: within five seconds all devices are served again, and nothing
        is left of it, neither in the process nor in the log.

        @param figures: to be shown.
        """
        began = time.monotonic()
        while codes(await self.at_once(self.round)) != {200: self.devices}:
            self.assertLess(time.monotonic() - began, RECOVERY)
        recovery = time.monotonic() - began
        self.assertLess(recovery, RECOVERY)
        # A pool may have opened another connection to the database.
        await self.files_back_to(self.before.files + 4)
        self.assertLog()
        after = self.usage()
        shown = {
            **figures,
            "recovery": f"{recovery:.2f} s",
            "before": f"{self.before.memory // MIB} MiB",
            "after": f"{after.memory // MIB} MiB",
        }
        text = ", ".join(f"{name} {value}" for name, value in shown.items())
        show(self.id().removeprefix("tests.faults."), text)

    def assertLog(self) -> None:
        """
        Nothing happened that nobody had thought of.
        """
        for line in self.daemon.output.splitlines():
            self.assertFalse(any(bug in line for bug in _BUGS), line[:1000])
        self.assertEqual(self.daemon.errors, b"")

    async def files_back_to(self, most: int) -> None:
        """
        Wait until the daemon has closed what it had opened.
        """
        await self.true(lambda: self.usage().files <= most, "files stay open")

    async def logged(self, text: bytes) -> None:
        """
        Wait until there is a text in the log.
        """
        await self.true(lambda: text in self.daemon.output, f"not logged: {text!r}")

    async def true(self, condition: Callable[[], bool], problem: str, seconds: float = 10) -> None:
        """
        Wait until something is so.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            self.assertLess(time.monotonic(), deadline, problem)
            await self.thread(time.sleep, 0.05)

    def assertRefused(self, replies: Sequence[Reply]) -> None:
        """
        Each was told to come back, and could read it.
        """
        self.assertEqual(codes(replies), {503: len(replies)})
        for reply in replies:
            [retry] = [
                int(line.partition(b":")[2])
                for line in reply.data.partition(b"\r\n\r\n")[0].split(b"\r\n")
                if line.startswith(b"Retry-After:")
            ]
            self.assertIn(retry, range(1, 61))
