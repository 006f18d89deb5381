"""
Tests for L{nanomdm.systemd}, over real datagram sockets.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.systemd import ServiceManager
from tests.http.case import KEY
from tests.process import DaemonProcess
from tests.test_daemon import DaemonCase

READY = "READY=1\nSTATUS=Serves at :9000"
STOPPING = "STOPPING=1\nSTATUS=Ends once requests under way are answered"


class FakeReactor(Clock):
    """
    A clock that runs when it is told to.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Any] = []

    def callWhenRunning(self, function: Any) -> None:
        """
        Call it at L{run}.
        """
        self.waiting.append(function)

    def run(self) -> None:
        """
        Begin to run.
        """
        while self.waiting:
            self.waiting.pop(0)()


class ManagerCase(SynchronousTestCase):
    """
    A test case with the socket of a service manager.
    """

    def setUp(self) -> None:
        # Paths of sockets have to be short.
        directory = tempfile.TemporaryDirectory(prefix="nanomdm-")
        self.addCleanup(directory.cleanup)
        self.path = Path(directory.name, "notify")
        self.listen(str(self.path))

    def listen(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.socket.close)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def told(self) -> list[str]:
        """
        @return: what was said since the last call.
        """
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return found

    def server(self, **environ: str) -> ServiceManager:
        self.reactor = FakeReactor()
        environ = {"NOTIFY_SOCKET": str(self.path), **environ}
        return ServiceManager(self.reactor, environ, "Serves at :9000", lambda: 1234567)


class LifeTests(ManagerCase):
    """
    From the start to the end.
    """

    def test_start(self) -> None:
        """
        The server is ready once the reactor runs: signals are handled only then.
        """
        server = self.server()
        server.start()
        self.assertEqual(self.told(), [])
        self.reactor.run()
        self.assertEqual(self.told(), [READY])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_stop(self) -> None:
        server = self.server()
        server.start()
        self.reactor.run()
        self.told()
        self.successResultOf(server.stop())
        self.assertEqual(self.told(), [STOPPING])

    def test_stopBeforeItRuns(self) -> None:
        """
        Then it never was ready.
        """
        server = self.server(WATCHDOG_USEC="2000000")
        server.start()
        server.stop()
        self.reactor.run()
        self.assertEqual(self.told(), [STOPPING])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_reload(self) -> None:
        """
        As C{Type=notify-reload} demands.
        """
        server = self.server()
        server.reloading()
        server.ready()
        self.assertEqual(
            self.told(),
            ["RELOADING=1\nMONOTONIC_USEC=1234567\nSTATUS=Reads files again", READY],
        )

    def test_reloadWhileStopping(self) -> None:
        """
        A server that ends is not ready again.
        """
        server = self.server()
        server.stop()
        self.told()
        server.reloading()
        server.ready()
        self.assertEqual(self.told(), [])


class WatchdogTests(ManagerCase):
    """
    Signs of life.
    """

    def start(self, **environ: str) -> ServiceManager:
        server = self.server(**environ)
        server.start()
        self.reactor.run()
        return server

    def test_half(self) -> None:
        """
        They come twice as often as they have to.
        """
        server = self.start(WATCHDOG_USEC="3000000", WATCHDOG_PID=str(os.getpid()))
        self.assertEqual(self.told(), [READY, "WATCHDOG=1"])
        self.reactor.advance(1.4)
        self.assertEqual(self.told(), [])
        self.reactor.advance(0.1)
        self.assertEqual(self.told(), ["WATCHDOG=1"])
        self.reactor.advance(1.5)
        self.assertEqual(self.told(), ["WATCHDOG=1"])
        server.stop()
        self.assertEqual(self.told(), [STOPPING])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_stuckReactor(self) -> None:
        """
        Nothing is made up for afterwards.
        """
        self.start(WATCHDOG_USEC="2000000")
        self.told()
        self.reactor.advance(10)
        self.assertEqual(self.told(), ["WATCHDOG=1"])

    def test_notExpected(self) -> None:
        for environ in (
            {},
            {"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"},
            {"WATCHDOG_USEC": "0"},
            {"WATCHDOG_USEC": "soon"},
            {"WATCHDOG_USEC": "-1"},
        ):
            self.start(**environ)
            self.assertEqual(self.told(), [READY], environ)
            self.assertEqual(self.reactor.getDelayedCalls(), [])


class AddressTests(ManagerCase):
    """
    Where the service manager is, and whether.
    """

    def test_abstract(self) -> None:
        name = f"nanomdm-test-{secrets.token_hex(8)}"
        self.listen(f"\0{name}")
        self.server(NOTIFY_SOCKET=f"@{name}").ready()
        self.assertEqual(self.told(), [READY])

    def test_none(self) -> None:
        """
        Nobody is told, and nothing is said of it.
        """
        with capturedLogs() as events:
            server = self.server(NOTIFY_SOCKET="", WATCHDOG_USEC="2000000")
            server.start()
            self.reactor.run()
            server.reloading()
            server.stop()
        self.assertEqual(list(events), [])
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_otherKind(self) -> None:
        with capturedLogs() as events:
            self.server(NOTIFY_SOCKET="vsock:2:1234").ready()
        [event] = events
        self.assertEqual(
            (event["log_level"], event["log_format"]),
            (
                LogLevel.warn,
                "the service manager can not be told: NOTIFY_SOCKET is no Unix socket",
            ),
        )

    def test_gone(self) -> None:
        """
        It is logged once; the server goes on, and so do signs of life.
        """
        self.socket.close()
        with capturedLogs() as events:
            server = self.server(WATCHDOG_USEC="2000000")
            server.start()
            self.reactor.run()
            self.reactor.pump([1] * 5)
        [event] = events
        self.assertEqual(event["log_level"], LogLevel.warn)
        self.assertEqual((event["state"], "refused" in event["error"]), ("READY=1", True))
        self.path.unlink()
        self.listen(str(self.path))
        self.reactor.advance(1)
        self.assertEqual(self.told(), ["WATCHDOG=1"])
        server.stop()

    def test_full(self) -> None:
        """
        Nobody waits for a service manager that does not read.
        """
        server = self.server()
        with capturedLogs() as events:
            for _ in range(10_000):
                server.ready()
                if list(events):
                    break
        [event] = events
        self.assertIn("temporarily unavailable", event["error"])


class Manager(DatagramProtocol):
    """
    A service manager.

    @ivar told: what it was told, in order.
    """

    def __init__(self) -> None:
        self.told: list[str] = []
        self._awaited: list[tuple[str, Deferred[None]]] = []

    def datagramReceived(self, datagram: bytes, address: Any) -> None:
        text = datagram.decode()
        self.told.append(text)
        for one in [one for one in self._awaited if text.startswith(one[0])]:
            self._awaited.remove(one)
            one[1].callback(None)

    def hears(self, text: str) -> Deferred[None]:
        """
        @return: fires when it is told something that begins with C{text}.
        """
        heard: Deferred[None] = Deferred()
        self._awaited.append((text, heard))
        return heard


class ProcessTests(DaemonCase):
    """
    As systemd runs it.
    """

    def setUp(self) -> None:
        super().setUp()
        directory = tempfile.TemporaryDirectory(prefix="nanomdm-")
        self.addCleanup(directory.cleanup)
        self.socket = Path(directory.name, "notify")
        self.manager = Manager()
        port = reactor.listenUNIXDatagram(str(self.socket), self.manager, maxPacketSize=65536)
        self.addCleanup(port.stopListening)

    async def test_life(self) -> None:
        """
        The manager hears of the start, of a reload and of the end, in this order.
        """
        ready = self.manager.hears("READY=1")
        daemon = DaemonProcess(
            *("--listen", "tcp:0:interface=127.0.0.1", "--storage-dsn", str(self.database)),
            *("--ca", str(self.directory / "ca.pem")),
            NANOMDM_API=KEY,
            NOTIFY_SOCKET=str(self.socket),
            WATCHDOG_USEC="60000000",
        )
        self.addCleanup(lambda: None if daemon.ended.called else daemon.signal(signal.SIGKILL))
        port = await daemon.listening
        await ready
        await self.expect(self.http.get(f"http://127.0.0.1:{port}/version"))
        again = self.manager.hears("READY=1")
        daemon.transport.signalProcess(signal.SIGHUP.value)
        await again
        stopping = self.manager.hears("STOPPING=1")
        self.assertEqual(await daemon.signal(signal.SIGTERM), -signal.SIGTERM)
        await stopping
        words = [text.partition("\n")[0] for text in self.manager.told]
        self.assertEqual(words, ["READY=1", "WATCHDOG=1", "RELOADING=1", "READY=1", "STOPPING=1"])
        self.assertIn("STATUS=Serves at tcp:0:interface=127.0.0.1", self.manager.told[0])
        self.assertRegex(self.manager.told[2], r"\nMONOTONIC_USEC=[0-9]{7,}\n")

    async def test_refused(self) -> None:
        """
        Who can not start is never ready.
        """
        other = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(other.close)
        daemon = DaemonProcess(
            *("--listen", f"127.0.0.1:{other.getsockname()[1]}", "--storage", "inmem"),
            *("--ca", str(self.directory / "ca.pem")),
            NOTIFY_SOCKET=str(self.socket),
        )
        daemon.listening.addErrback(lambda failure: None)
        self.assertEqual(await daemon.ended, 1)
        self.assertEqual(self.manager.told, [])
