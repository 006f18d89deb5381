"""
Clients that take their time, on purpose or because they are gone: the others are served
as ever, and the server ends their connections.

The daemon has a tenth of its usual times, unless C{FAULTS_TIMES=real}: the times themselves
are tested in L{tests.http.test_limits}, with a clock that tests move.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Sequence

from nanomdm.http import limits, site
from nanomdm.http.limits import BUDGET
from tests import samples
from tests.faults.crowd import (
    Reply,
    codes,
    connect,
    replies,
    trickle,
    vanish,
)
from tests.faults.overload_case import (
    MIB,
    OverloadCase,
    bound,
    device_request,
    operator_request,
    request,
)
from tests.http.tls_case import HOST
from tests.process import TWISTD, DaemonProcess

_FACTOR = 1.0 if os.environ.get("FAULTS_TIMES") == "real" else 0.1
_NAMES = ("HEAD_TIME", "BODY_TIME", "IDLE_TIME", "CLOSE_TIME", "LINGER_TIME")


def seconds(*names: str) -> float:
    """
    @return: for how long a client is waited for, at most, if these times follow each
        other; and as much again as the server needs to notice.
    """
    times = [getattr(limits, name) + site._SWEEP_INTERVAL for name in names]
    return _FACTOR * sum(times) + 5


class HastyDaemon(DaemonProcess):
    """
    A daemon with little patience.
    """

    code = "; ".join(
        [
            "from nanomdm.http import limits",
            *(f"limits.{name} *= {_FACTOR}" for name in _NAMES),
            "from nanomdm.http import site",
            f"site._SWEEP_INTERVAL *= {_FACTOR}",
            TWISTD,
        ]
    )


class SlowCase(OverloadCase):
    """
    A test case with slow clients.
    """

    timeout = 300
    program = HastyDaemon

    async def assertEnded(self, sockets: Sequence[socket.socket], *names: str) -> list[Reply]:
        """
        Everybody else is served, and the server ends these connections in the given times.

        @return: what it said before.
        """
        reading = self.thread(replies, sockets, seconds(*names))
        await self.assertServed()
        told: list[Reply] = await reading
        self.assertTrue(all(reply.ending != "open" for reply in told), "connections stay open")
        return told


class RequestTests(SlowCase):
    """
    Requests that come one byte at a time.
    """

    async def test_slowRequests(self) -> None:
        """
        Heads and bodies, without an end.
        """
        await self.serve()
        sockets = self.opened(await self.thread(connect, self.port, 400))
        await self.thread(self.begin, sockets[200:])
        texts = [operator_request("GET", "/v1/enrollments?" + "x" * 2000)] * 200
        texts += [b"x" * 1000] * 200
        slow = self.thread(trickle, sockets, texts, _FACTOR, seconds("BODY_TIME", "LINGER_TIME"))
        while not slow.called:
            await self.assertServed()
            await self.thread(time.sleep, 0.5)
        told: list[Reply] = await slow
        self.assertEqual(codes(told), {408: 400})
        self.assertTrue(all(reply.ending != "open" for reply in told), "connections stay open")
        await self.assertRecovers(ended=len(told))

    def begin(self, sockets: Sequence[socket.socket]) -> None:
        for one in sockets:
            one.sendall(request("PUT", "/mdm", [], b"x" * 1000)[:-1000])


class ReaderTests(SlowCase):
    """
    Answers that nobody reads.
    """

    #: Bytes of a command, and connections that ask for it.
    size = 4 * MIB
    readers = 130

    async def test_slowReaders(self) -> None:
        """
        A device asks for a large command again and again, and reads no answer: it gets as
        many as the memory has room for.
        """
        await self.serve()
        command = samples.command("LARGE", Payload=b"x" * (self.size * 3 // 4))
        enqueue = operator_request("PUT", "/v1/enqueue/DEVICE-0?nopush=1", command)
        self.assertEqual(codes(await self.at_once([enqueue])), {200: 1})
        self.round = self.round[1:]
        self.devices -= 1
        greedy = device_request(0, samples.report("Idle", udid="DEVICE-0"))
        sockets = self.opened(await self.thread(self.ask_for, greedy))
        await self.assertServed()
        peak = self.usage().memory
        # The rest is on its way to become an answer, or there are holes between them.
        self.assertLess(peak - self.before.memory, 2 * BUDGET + bound(self.readers))
        await self.thread(time.sleep, seconds("IDLE_TIME", "CLOSE_TIME") - 4)
        told = await self.assertEnded(sockets, "LINGER_TIME")
        self.assertEqual(set(codes(told)), {200, 503})
        self.assertRefused([reply for reply in told if reply.code == 503])
        await self.assertRecovers(answers=codes(told), peak=f"{peak // MIB} MiB")

    def ask_for(self, greedy: bytes) -> list[socket.socket]:
        sockets = connect(self.port, self.readers)
        for one in sockets:
            one.sendall(greedy)
            # The answer is there, or its beginning.
            one.recv(9, socket.MSG_PEEK)
        return sockets


class SilentTests(SlowCase):
    """
    Clients that say nothing.
    """

    async def test_idle(self) -> None:
        """
        Five thousand, half of which were served once.
        """
        count = 5000
        await self.serve()
        sockets = self.opened(await self.thread(connect, self.port, count))
        await self.thread(self.ask_once, sockets[::2])
        await self.true(lambda: self.usage().files > count // 2, "not all were noticed")
        peak = self.usage()
        self.assertLess(peak.memory - self.before.memory, bound(count))
        told = await self.assertEnded(sockets, "IDLE_TIME", "CLOSE_TIME")
        self.assertEqual({reply.ending for reply in told}, {"closed"})
        await self.assertRecovers(peak=f"{peak.memory // MIB} MiB")

    def ask_once(self, sockets: Sequence[socket.socket]) -> None:
        for number, one in enumerate(sockets):
            one.sendall(self.round[number % self.devices])

    async def test_vanished(self) -> None:
        """
        Machines that lost their power: before, in and after a request, and while they wait
        for the answer.
        """
        await self.serve()
        texts = [b"", self.round[0][:50], self.round[0][:-10], self.round[0]]
        sockets = self.opened(await self.thread(connect, self.port, 400))
        await self.thread(self.send_and_vanish, sockets, texts)
        await self.assertServed()
        self.assertGreater(self.usage().files, self.before.files + 200)
        gone = seconds("BODY_TIME", "LINGER_TIME", "CLOSE_TIME")
        most = self.before.files + 4
        await self.true(lambda: self.usage().files <= most, "files stay open", gone)
        await self.assertRecovers()

    def send_and_vanish(self, sockets: Sequence[socket.socket], texts: Sequence[bytes]) -> None:
        for number, one in enumerate(sockets):
            one.sendall(texts[number % len(texts)])
        vanish(sockets)


class HandshakeTests(SlowCase):
    """
    The same with TLS.
    """

    def hello(self) -> bytes:
        client = ssl.MemoryBIO()
        assert self.context is not None
        tls = self.context.wrap_bio(ssl.MemoryBIO(), client, server_hostname=HOST)
        self.assertRaises(ssl.SSLWantReadError, tls.do_handshake)
        return client.read()

    async def test_handshakesThatNeverEnd(self) -> None:
        """
        Silence, a part of a greeting, and no answer to the server's.
        """
        await self.serve(*self.tls())
        hello = self.hello()
        sockets = self.opened(await self.thread(connect, self.port, 600))
        for number, one in enumerate(sockets):
            one.sendall((b"", hello[:100], hello)[number % 3])
        await self.assertServed()
        peak = self.usage().memory
        self.assertLess(peak - self.before.memory, bound(600) + 600 * (64 << 10))
        await self.assertEnded(sockets, "IDLE_TIME", "CLOSE_TIME")
        await self.assertRecovers(peak=f"{peak // MIB} MiB")

    async def test_slowRequests(self) -> None:
        """
        Behind a handshake that did end.
        """
        await self.serve(*self.tls())
        sockets = self.opened(await self.thread(self.secure, 100))
        await self.thread(self.begin, sockets)
        told = await self.assertEnded(sockets, "BODY_TIME", "LINGER_TIME")
        self.assertEqual(codes(told), {0: 34, 408: 66})
        await self.assertRecovers()

    def begin(self, sockets: Sequence[socket.socket]) -> None:
        texts = [b"", self.round[0][:50], self.round[0][:-10]]
        for number, one in enumerate(sockets):
            one.sendall(texts[number % 3])
