"""
Ten thousand events from two daemons on one database, of which each is killed once, to a
receiver that is killed too: none is lost, and none overtakes another of its enrollment.
"""

from __future__ import annotations

import json
import signal
import sqlite3
import sys
from contextlib import closing
from itertools import count, cycle
from pathlib import Path
from typing import Any
from urllib.parse import quote

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ConnectError
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from nanomdm.sim.ca import DeviceIdentity
from tests import samples
from tests.http.case import CHECKIN, RESULT, ca, device
from tests.http.line import Line, Lost, put
from tests.process import DaemonProcess
from tests.servers import shared, unavailable

_ROOT = Path(__file__).parent.parent
_numbers = count()

DEVICES = 20
MESSAGES = 500


class ReceiverProcess(ProcessProtocol):
    """
    L{tests.webhook_receiver}.

    @ivar listening: fires with its port.
    """

    def __init__(self, file: Path, port: int = 0) -> None:
        self.listening: Deferred[int] = Deferred()
        self._ended: Deferred[None] = Deferred()
        arguments = [sys.executable, "-m", "tests.webhook_receiver", str(file), str(port)]
        reactor.spawnProcess(self, sys.executable, arguments, env={"PYTHONPATH": str(_ROOT)})

    def outReceived(self, data: bytes) -> None:
        self.listening.callback(int(data))

    def processEnded(self, reason: Failure) -> None:
        self._ended.callback(None)

    def kill(self) -> Deferred[None]:
        """
        @return: fires when it is dead.
        """
        if not self._ended.called:
            self.transport.signalProcess("KILL")
        return self._ended


class Device:
    """
    A device that sends numbered messages, each until it is answered.

    @param ports: where to, one after the other.
    """

    def __init__(self, udid: str, identity: DeviceIdentity, ports: dict[str, int]) -> None:
        self._udid = udid
        self._certificate = quote(identity.pem)
        self._ports = ports
        self._turns = cycle(ports)
        self._line: Line | None = None
        self._awaited: tuple[int, Deferred[None]] | None = None

    async def enroll(self) -> None:
        """
        Enroll.
        """
        for body in (samples.authenticate(self._udid), samples.token_update(self._udid)):
            await self._send(body, CHECKIN)

    async def live(self, numbers: range) -> None:
        """
        Send messages, and go elsewhere now and then.
        """
        for number in numbers:
            if number % 10 == 0:
                self.hang_up()
            body = samples.report("Idle", udid=self._udid, Number=number)
            await self._send(body, RESULT)
            if self._awaited is not None and self._awaited[0] == number:
                (_, answered), self._awaited = self._awaited, None
                answered.callback(None)

    def answered(self, number: int) -> Deferred[None]:
        """
        @return: fires when the message of that number is answered.
        """
        self._awaited = number, Deferred()
        return self._awaited[1]

    def hang_up(self) -> None:
        """
        Close the connection.
        """
        if self._line is not None:
            self._line.hang_up()

    async def _send(self, body: bytes, content_type: str) -> None:
        headers = [("Content-Type", content_type), ("X-Cert", self._certificate)]
        request = put("/mdm", body, headers)
        while True:
            if self._line is None or self._line.lost:
                self._line = await self._connect()
            try:
                reply = await self._line.ask(request)
            except Lost:
                continue
            assert reply.code == 200, reply
            return

    async def _connect(self) -> Line:
        while True:
            try:
                return await Line.connect(self._ports[next(self._turns)])
            except ConnectError:
                # The other one lives.
                await deferLater(reactor, 0.01)


class DeliveryTests(TestCase):
    """
    Two daemons, a receiver, and somebody who kills them.
    """

    timeout = 120

    def storage(self) -> dict[str, str]:
        """
        @return: the environment variables that say where an empty database is.
        """
        raise NotImplementedError

    def connection(self) -> Any:
        """
        @return: a connection to it.
        """
        raise NotImplementedError

    async def start_daemon(self, name: str) -> None:
        """
        Start a daemon, in place of one that was killed.
        """
        daemon = self.daemons[name] = DaemonProcess(
            *("--listen", "tcp:0:interface=127.0.0.1", "--ca", str(self.directory / "ca.pem")),
            *("--cert-header", "X-Cert", "--webhook-url", f"http://127.0.0.1:{self.port}/"),
            **self.environment,
        )
        self.addCleanup(self.kill_daemon, daemon)
        self.ports[name] = await daemon.listening
        # It says much.
        daemon.outReceived = lambda data: None

    def kill_daemon(self, daemon: DaemonProcess) -> Deferred[int]:
        return daemon.ended if daemon.ended.called else daemon.signal(signal.SIGKILL)

    async def replace_daemon(self, name: str) -> None:
        """
        Kill a daemon and start another one.
        """
        daemon = self.daemons[name]
        pid = daemon.transport.pid
        self.assertEqual(await self.kill_daemon(daemon), -signal.SIGKILL)
        with closing(self.connection()) as connection:
            # The minute that its leases last.  One by one, since the other daemon locks
            # several as well.
            for number in range(DEVICES):
                connection.execute(
                    "UPDATE nanomdm_webhook_streams SET due = due - 60"
                    f" WHERE enrollment_id = 'D{number}' AND holder LIKE '% {pid} %'"
                )
        await self.start_daemon(name)

    async def start_receiver(self, port: int = 0) -> int:
        """
        Start the receiver.
        """
        self.receiver = ReceiverProcess(self.directory / "received", port)
        self.addCleanup(self.receiver.kill)
        return await self.receiver.listening

    async def live(self, *numbers: int) -> None:
        """
        All devices send these messages.
        """
        part = range(*numbers)
        lives = [Deferred.fromCoroutine(device.live(part)) for device in self.devices]
        await gatherResults(lives)

    def received(self) -> dict[str, list[int]]:
        """
        @return: for each enrollment the numbers in the order in which they first arrived.
        """
        first: dict[str, dict[int, None]] = {}
        for line in (self.directory / "received").read_text().splitlines(keepends=True):
            # The last one may have been killed half-way.
            if line.endswith("]\n"):
                id, number = json.loads(line)
                first.setdefault(id, {})[number] = None
        return {id: list(numbers) for id, numbers in first.items()}

    async def test_kill(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        (self.directory / "ca.pem").write_bytes(ca().pem)
        self.daemons: dict[str, DaemonProcess] = {}
        self.ports: dict[str, int] = {}
        self.environment = self.storage()
        self.port = await self.start_receiver()
        for name in "AB":
            await self.start_daemon(name)
        key = device(1).key
        self.devices = [
            Device(f"D{number}", ca().issue(key=key), self.ports) for number in range(DEVICES)
        ]
        self.addCleanup(lambda: [device.hang_up() for device in self.devices])
        await gatherResults([Deferred.fromCoroutine(one.enroll()) for one in self.devices])
        quarter = MESSAGES // 4
        for part, kill in enumerate(
            (
                lambda: self.replace_daemon("A"),
                self.receiver.kill,
                lambda: self.start_receiver(self.port),
                lambda: self.replace_daemon("B"),
            )
        ):
            first = part * quarter
            middle = self.devices[0].answered(first + quarter // 2)
            living = Deferred.fromCoroutine(self.live(first, first + quarter))
            await middle
            await kill()
            await living
        expected = {f"D{number}": list(range(MESSAGES)) for number in range(DEVICES)}
        received: dict[str, list[int]] = {}
        while sum(map(len, received.values())) < DEVICES * MESSAGES:
            await deferLater(reactor, 0.2)
            received = self.received()
        self.assertEqual(received, expected)


class SQLiteTests(DeliveryTests):
    """
    SQLite: both daemons have the file open.
    """

    def storage(self) -> dict[str, str]:
        """
        See L{DeliveryTests.storage}.
        """
        return {"NANOMDM_STORAGE_DSN": str(self.directory / "test.db")}

    def connection(self) -> Any:
        """
        See L{DeliveryTests.connection}.
        """
        return sqlite3.connect(self.directory / "test.db", isolation_level=None, timeout=30)


class PostgreSQLTests(DeliveryTests):
    """
    PostgreSQL.
    """

    skip = unavailable("postgresql")

    def storage(self) -> dict[str, str]:
        """
        See L{DeliveryTests.storage}.
        """
        self.server, self.name = shared("postgresql"), f"webhook_{next(_numbers)}"
        dsn = self.server.create_database(self.name)
        self.addCleanup(self.server.drop_database, self.name)
        return {"NANOMDM_STORAGE": "pgsql", "NANOMDM_STORAGE_DSN": dsn}

    def connection(self) -> Any:
        """
        See L{DeliveryTests.connection}.
        """
        return self.server.python_connection(self.name)


del DeliveryTests
