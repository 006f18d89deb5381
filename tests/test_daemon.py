"""
The daemon as a real process: it starts, tells what is wrong, drains, and loses
nothing that it answered for.
"""

from __future__ import annotations

import base64
import signal
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import treq
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol, serverFromString
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.client import Agent, HTTPConnectionPool

from nanomdm.daemon import DRAIN_DEADLINE, Daemon, Parts
from nanomdm.http.health import Readiness
from nanomdm.listener import Listener
from nanomdm.sim.signing import sign_like_device
from nanomdm.storage.schema.sqlite import MIGRATIONS
from tests import samples
from tests.http.case import CHECKIN, KEY, RESULT, ca, device
from tests.http.test_site import Collecting
from tests.leaks import ALWAYS, leaked
from tests.process import DaemonProcess


class WholeProcess(ProcessProtocol):
    """
    C{twistd} with some options, and whatever it starts.

    @ivar errors: what it printed on standard error.
    @ivar ended: fires with the exit status of what was started, once its children
        have ended as well.
    """

    def __init__(self, *options: str, **environment: str) -> None:
        self.errors = b""
        self.ended: Deferred[int] = Deferred()
        arguments = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
        reactor.spawnProcess(
            self,
            sys.executable,
            [*arguments, *options],
            env={"PYTHONPATH": str(Path(__file__).parent.parent), **environment},
            # A daemon replaces the first three; the end of the last one is its own.
            childFDs={0: "w", 1: "r", 2: "r", 3: "r"},
        )

    def childDataReceived(self, descriptor: int, data: bytes) -> None:
        if descriptor == 2:
            self.errors += data

    def processEnded(self, reason: Failure) -> None:
        self.ended.callback(reason.value.exitCode)


class DaemonCase(TestCase):
    """
    Starts daemons on one database file.

    @cvar program: what is started.
    """

    timeout = 120
    program: type[DaemonProcess] = DaemonProcess

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.database = self.directory / "test.db"
        (self.directory / "ca.pem").write_bytes(ca().pem)
        self.pool = HTTPConnectionPool(reactor)
        self.addCleanup(self.pool.closeCachedConnections)
        self.http = treq.client.HTTPClient(Agent(reactor, pool=self.pool))

    def start(self, *options: str) -> DaemonProcess:
        daemon = self.program(
            *("--listen", "127.0.0.1:0"),
            *("--ca", str(self.directory / "ca.pem")),
            *("--storage-dsn", str(self.database)),
            *options,
            NANOMDM_API=KEY,
        )

        def stop() -> Deferred[int] | None:
            return None if daemon.ended.called else daemon.signal(signal.SIGKILL)

        self.addCleanup(stop)
        return daemon

    async def send(self, port: int, body: bytes, content_type: str, number: int = 1) -> bytes:
        """
        Send a message as a device.

        @return: the body of the answer, which must be 200.
        """
        signature = sign_like_device(device(number), body).decode()
        headers = {"Mdm-Signature": signature, "Content-Type": content_type}
        return await self.expect(
            self.http.put(f"http://127.0.0.1:{port}/mdm", body, headers=headers)
        )

    async def enroll(self, port: int, udid: str, number: int = 1) -> None:
        for body in (samples.authenticate(udid), samples.token_update(udid)):
            await self.send(port, body, CHECKIN, number)

    async def enqueue(self, port: int, ids: str, uuid: str) -> bytes:
        credentials = base64.b64encode(f"nanomdm:{KEY}".encode()).decode()
        return await self.expect(
            self.http.put(
                f"http://127.0.0.1:{port}/v1/enqueue/{ids}?nopush=1",
                samples.command(uuid),
                headers={"Authorization": f"Basic {credentials}"},
            )
        )

    async def expect(self, response: Deferred[Any]) -> bytes:
        answer = await response
        body = await answer.content()
        self.assertEqual(answer.code, 200, body)
        return body

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(self.database)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()


class StartTests(DaemonCase):
    """
    Starting, and failing to.
    """

    async def assertDoesNotStart(self, line: str, *options: str) -> None:
        daemon = self.start(*options)
        daemon.listening.addErrback(lambda failure: None)
        self.assertEqual(await daemon.ended, 1)
        self.assertEqual(daemon.errors.decode(), f"twistd nanomdm: {line}\n")
        self.assertNotIn(b"Traceback", daemon.output)

    async def test_addressInUse(self) -> None:
        port = await serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(Factory())
        self.addCleanup(port.stopListening)
        number = port.getHost().port
        daemon = DaemonProcess(
            *("--listen", f"127.0.0.1:{number}", "--storage", "inmem"),
            *("--ca", str(self.directory / "ca.pem")),
        )
        daemon.listening.addErrback(lambda failure: None)
        self.assertEqual(await daemon.ended, 1)
        self.assertRegex(
            daemon.errors.decode(),
            rf"^twistd nanomdm: --listen: .*{number}.*Address already in use\n$",
        )

    async def assertBusyPort(self, *flags: str) -> tuple[str, str]:
        """
        It ends with status 1 and leaves no process and no file of its id.

        @return: what it said on standard error, and its log.
        """
        port = await serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(Factory())
        self.addCleanup(port.stopListening)
        files = [self.directory / "twistd.pid", self.directory / "twistd.log"]
        process = WholeProcess(
            *flags,
            *(f"--pidfile={files[0]}", f"--logfile={files[1]}", "nanomdm"),
            *("--listen", f"127.0.0.1:{port.getHost().port}", "--disable-mdm"),
            *("--storage-dsn", str(self.database)),
            NANOMDM_API=KEY,
        )
        self.assertEqual(await process.ended, 1)
        self.assertFalse(files[0].exists())
        return process.errors.decode(), files[1].read_text()

    async def test_addressInUseInTheForeground(self) -> None:
        errors, log = await self.assertBusyPort("-n")
        self.assertRegex(errors, r"^twistd nanomdm: --listen: [^\n]+Address already in use\n$")
        self.assertRegex(log, r'msg="not started" error="--listen: .*Address already in use"\n$')

    async def test_addressInUseInTheBackground(self) -> None:
        """
        The process that waits for the daemon hears of it.
        """
        errors, log = await self.assertBusyPort()
        self.assertIn("--listen: 127.0.0.1:", errors)
        self.assertIn("Address already in use'\n", errors)
        self.assertNotIn("Traceback", errors)
        self.assertIn('msg="not started"', log)

    async def test_databaseOfANewerVersion(self) -> None:
        connection = sqlite3.connect(self.database)
        connection.execute("PRAGMA user_version = 99")
        connection.close()
        await self.assertDoesNotStart(
            f"--storage-dsn: {self.database}: the database has schema version 99,"
            f" made by a newer nanomdm; this one knows up to {len(MIGRATIONS)}"
        )

    async def test_intermediateWithoutCertificate(self) -> None:
        bad = self.directory / "bad.pem"
        bad.write_text("nothing\n")
        daemon = self.start("--intermediate", str(bad))
        daemon.listening.addErrback(lambda failure: None)
        self.assertEqual(await daemon.ended, 1)
        self.assertRegex(
            daemon.errors.decode(), rf"^twistd nanomdm: --intermediate: {bad}: [^\n]+\n$"
        )

    async def test_noSecretsInTheLog(self) -> None:
        daemon = self.start("--debug")
        port = await daemon.listening
        await self.enroll(port, "D1")
        await self.send(
            port, samples.checkin("SetBootstrapToken", BootstrapToken=b"boot-secret"), CHECKIN
        )
        await self.enqueue(port, "D1", "C1")
        self.assertEqual(await daemon.signal(signal.SIGTERM), -signal.SIGTERM)
        self.assertIn(b"message_type=TokenUpdate", daemon.output)
        self.assertIn(b"id=D1", daemon.output)
        self.assertEqual(leaked(daemon.output + daemon.errors, [*ALWAYS, b"boot-secret"]), [])


class StopTests(DaemonCase):
    """
    Stopping.
    """

    async def test_drain(self) -> None:
        """
        SIGTERM while a request is arriving: it is answered, then the process
        ends by itself, and last-seen times are written.
        """
        daemon = self.start()
        port = await daemon.listening
        await self.enroll(port, "D1")
        body = samples.report("Idle", Padding="x" * 1000)
        signature = sign_like_device(device(1), body)
        head = (
            b"PUT /mdm HTTP/1.1\r\nHost: a\r\nMdm-Signature: %s\r\nContent-Length: %d\r\n\r\n"
            % (
                signature,
                len(body),
            )
        )
        client = await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), Collecting())
        client.transport.write(head + body[:100])
        await self.until(lambda: b"stopping" in daemon.output, self.ping(daemon, port))
        client.transport.write(body[100:])
        answer = await client.closed
        self.assertTrue(answer.startswith(b"HTTP/1.1 200 OK\r\n"), answer)
        self.assertIn(b"Connection: close\r\n", answer)
        # twistd ends cleanly and then by the signal that it got.
        self.assertEqual(await daemon.ended, -signal.SIGTERM)
        self.assertIn(b'msg="stopped"', daemon.output)

    async def ping(self, daemon: DaemonProcess, port: int) -> None:
        """
        Make sure that the daemon has read what was sent before, then stop it.
        """
        await self.expect(self.http.get(f"http://127.0.0.1:{port}/version"))
        daemon.transport.signalProcess("TERM")

    async def until(self, condition: Callable[[], bool], first: Awaitable[None]) -> None:
        await first
        while not condition():
            await deferLater(reactor, 0.01)

    async def test_seenIsWritten(self) -> None:
        daemon = self.start()
        port = await daemon.listening
        await self.enroll(port, "D1")
        connection = sqlite3.connect(self.database)
        connection.execute("UPDATE enrollments SET last_seen_at = '2001-01-01 00:00:00'")
        connection.commit()
        connection.close()
        await self.send(port, samples.report("Idle"), RESULT)
        self.assertEqual(await daemon.signal(signal.SIGTERM), -signal.SIGTERM)
        self.assertGreater(self.rows("SELECT last_seen_at FROM enrollments"), [("2026",)])


class FakePart:
    """
    Any part of the daemon: notes what it is told, and does it once it is allowed to.

    @ivar allowed: fires once it is.
    """

    def __init__(self, name: str, told: list[str]) -> None:
        self._name = name
        self._told = told
        self.allowed: Deferred[Any] = succeed(None)

    def _do(self, word: str) -> Deferred[Any]:
        self._told.append(f"{self._name} {word}")
        done: Deferred[Any] = Deferred()
        self.allowed.chainDeferred(done)
        return done

    def start(self) -> None:
        self._told.append(f"{self._name} start")

    def stop(self) -> Deferred[Any]:
        return self._do("stop")

    def close(self) -> Deferred[Any]:
        return self._do("close")

    def drain(self, deadline: float) -> Deferred[Any]:
        return self._do(f"drain {deadline:.0f}")

    def listen(self, factory: object) -> Deferred[Any]:
        self._told.append(f"{self._name} listen")
        return succeed(self)

    def stopListening(self) -> Deferred[Any]:
        return self._do("close")

    def getHost(self) -> str:
        return self._name


class FakeReactor(Clock):
    """
    Only has the time.
    """

    def callWhenRunning(self, *what: object) -> None:
        """
        It never does.
        """


class PartsCase(SynchronousTestCase):
    """
    A test case with a daemon made of parts that only say what they are told.

    @ivar parts: those, by name.
    """

    def setUp(self) -> None:
        self.told: list[str] = []
        self.parts: dict[str, FakePart] = {}
        self.reactor = FakeReactor()
        self.readiness = Readiness(lambda: succeed(None), self.reactor)
        self.build()

    def part(self, name: str) -> Any:
        """
        @return: a new one.
        """
        self.parts[name] = FakePart(name, self.told)
        return self.parts[name]

    def build(self, **more: Any) -> None:
        """
        Make the daemon.
        """
        names = ("storage", "pusher", "http", "reloader", "offloader")
        parts = Parts(
            main=Listener("--listen: here", self.part("port"), self.part("site")),
            readiness=self.readiness,
            jobs=[self.part("job"), self.part("other")],
            **{name: self.part(name) for name in names},
            **more,
        )
        self.daemon = Daemon(self.reactor, parts)

    def start(self) -> None:
        """
        Start it.
        """
        self.daemon.privilegedStartService()
        self.daemon.startService()


class OrderTests(PartsCase):
    """
    In which order the daemon starts and stops its parts.
    """

    LAST = (
        *("port close", "job stop", "other stop", "site drain 30"),
        *("pusher stop", "http close", "storage stop"),
        *("reloader stop", "offloader stop"),
    )

    def test_start(self) -> None:
        self.start()
        self.assertEqual(
            self.told,
            [
                *("port listen", "reloader start", "offloader start", "storage start"),
                *("job start", "other start"),
            ],
        )

    def test_stop(self) -> None:
        """
        As long as requests are being answered nothing new begins, and there are
        pushes and the storage.
        """
        self.start()
        self.assertEqual(DRAIN_DEADLINE, 30)
        self.parts["port"].allowed = Deferred()
        self.parts["site"].allowed = Deferred()
        self.told.clear()
        stopped = self.daemon.stopService()
        for name, count in (("port", 1), ("site", 4)):
            self.assertEqual(tuple(self.told), self.LAST[:count])
            self.assertNoResult(stopped)
            self.parts[name].allowed.callback(None)
        self.assertEqual(tuple(self.told), self.LAST)
        self.successResultOf(stopped)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_longPushes(self) -> None:
        """
        They end before the requests that wait for them are cut off.
        """
        self.start()
        self.parts["site"].allowed = Deferred()
        self.parts["pusher"].allowed = Deferred()
        self.told.clear()
        stopped = self.daemon.stopService()
        self.reactor.advance(24.9)
        self.assertEqual(tuple(self.told), self.LAST[:4])
        self.reactor.advance(0.1)
        self.assertEqual(tuple(self.told), self.LAST[:5])
        self.parts["site"].allowed.callback(None)
        self.assertEqual(tuple(self.told), self.LAST[:7])
        self.assertNoResult(stopped)
        self.parts["pusher"].allowed.callback(None)
        self.successResultOf(stopped)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_whatEndsLast(self) -> None:
        """
        Each of these is waited for, and none of them keeps another from being told.
        """
        for name in ("pusher", "http", "storage", "job", "other"):
            self.setUp()
            self.start()
            self.parts[name].allowed = Deferred()
            self.told.clear()
            stopped = self.daemon.stopService()
            self.assertEqual(tuple(self.told), self.LAST[:7])
            self.assertNoResult(stopped)
            self.parts[name].allowed.callback(None)
            self.successResultOf(stopped)
            self.assertEqual(tuple(self.told), self.LAST)

    def test_neverListened(self) -> None:
        self.successResultOf(self.daemon.stopService())
        self.assertEqual(tuple(self.told), self.LAST[1:])


class KillTests(DaemonCase):
    """
    C{kill -9} at any moment.
    """

    DEVICES = 8
    ROUNDS = 4

    async def test_nothingAcknowledgedIsLost(self) -> None:
        """
        Under load of enqueueing, answers and token updates: what a client or a
        device was told had succeeded is there after the restart.
        """
        random = Random(1)
        daemon = self.start()
        port = await daemon.listening
        for number in range(self.DEVICES):
            await self.enroll(port, f"D{number}", number)
        self.enqueued: set[tuple[str, str]] = set()
        self.answered: set[tuple[str, str]] = set()
        self.tallies = {f"D{number}": 1 for number in range(self.DEVICES)}
        for round in range(self.ROUNDS):
            work = [
                Deferred.fromCoroutine(self.device(port, round, number))
                for number in range(self.DEVICES)
            ]
            await deferLater(reactor, 0.1 + random.random() / 2)
            self.assertEqual(await daemon.signal(signal.SIGKILL), -signal.SIGKILL)
            await gatherResults(work)
            self.verify()
            daemon = self.start()
            port = await daemon.listening
        await self.deliver(port)

    async def device(self, port: int, round: int, number: int) -> None:
        """
        Work until the server is gone; note only what it acknowledged.
        """
        udid = f"D{number}"
        for step in range(100_000):
            uuid = f"{round}-{number}-{step}"
            try:
                await self.enqueue(port, udid, uuid)
                self.enqueued.add((udid, uuid))
                if step % 3:
                    report = samples.report("Acknowledged", uuid, udid)
                    await self.send(port, report, RESULT, number)
                    self.answered.add((udid, uuid))
                await self.send(port, samples.token_update(udid), CHECKIN, number)
                self.tallies[udid] += 1
            except self.failureException:
                raise
            except Exception:
                return

    def verify(self) -> None:
        queued = set(self.rows("SELECT id, command_uuid FROM enrollment_queue"))
        results = set(self.rows("SELECT id, command_uuid FROM command_results"))
        self.assertGreater(len(self.answered), 0)
        self.assertEqual(self.enqueued - queued, set())
        self.assertEqual(self.answered - results, set())
        for udid, tally in self.rows("SELECT id, token_update_tally FROM enrollments"):
            self.assertGreaterEqual(tally, self.tallies[udid])

    async def deliver(self, port: int) -> None:
        """
        Every unanswered command is delivered, and no answered one.
        """
        results = set(self.rows("SELECT id, command_uuid FROM command_results"))
        for number in range(self.DEVICES):
            udid = f"D{number}"
            expected = {
                uuid for id, uuid in self.enqueued if id == udid and (id, uuid) not in results
            }
            delivered = set()
            command = await self.send(port, samples.report("Idle", udid=udid), RESULT, number)
            while command:
                uuid = samples.uuid_of(command)
                self.assertNotIn((udid, uuid), results)
                self.assertNotIn(uuid, delivered)
                delivered.add(uuid)
                report = samples.report("Acknowledged", uuid, udid)
                command = await self.send(port, report, RESULT, number)
            self.assertEqual(expected - delivered, set())
