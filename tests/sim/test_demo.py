"""
Tests for the demonstration.
"""

from __future__ import annotations

import io
import json
import os
import plistlib
import socket
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from cryptography import x509
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import Clock
from twisted.internet.utils import getProcessOutputAndValue
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

import nanomdm
from nanomdm.sim.apns import SeenPush
from nanomdm.sim.client import Exchange
from nanomdm.sim.demo import HOST, PUSH_DEADLINE, Demo, DemoError, free_port, parse_arguments
from nanomdm.sim.demo_daemon import STOP_DEADLINE, DaemonProcess
from nanomdm.sim.demo_directory import DemoDirectory
from nanomdm.sim.demo_push import PushAlarm
from nanomdm.sim.demo_terminal import Terminal, describe
from nanomdm.sim.device import DEFAULT_TOPIC, SimulatedDevice
from tests.crypto import build


def exchange(sent: dict[str, Any], received: bytes = b"", status: int = 200) -> Exchange:
    return Exchange(plistlib.dumps(sent), status, received)


class DirectoryTests(SynchronousTestCase):
    """
    What a run of the demonstration leaves for the next one.
    """

    def setUp(self) -> None:
        self.path = Path(self.mktemp()) / "var"

    def test_permissions(self) -> None:
        """
        Nobody else may look at the keys.
        """
        directory = DemoDirectory(self.path)
        self.assertEqual(directory.mac.topic, DEFAULT_TOPIC)
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o700)
        for name in ("ca.key", "mac.pem", f"push-{DEFAULT_TOPIC}.pem"):
            self.assertEqual(stat.S_IMODE((self.path / name).stat().st_mode), 0o600)

    def test_same_mac(self) -> None:
        """
        A second run continues with the same CA, the same Mac and the same push
        certificate.
        """
        first = DemoDirectory(self.path)
        push_certificate = first.push_certificate_file.read_bytes()
        second = DemoDirectory(self.path)
        self.assertEqual(second.push_certificate_file.read_bytes(), push_certificate)
        self.assertEqual(first.ca_file.read_bytes(), second.ca.pem)
        self.assertEqual(first.mac.identity.der, second.mac.identity.der)
        self.assertEqual(first.mac.enrollment_messages(), second.mac.enrollment_messages())
        number = second.mac.identity.key.public_key().public_numbers()
        self.assertEqual(number, second.mac.identity.certificate.public_key().public_numbers())

    def test_new_ca(self) -> None:
        """
        An identity that the CA did not issue is replaced.
        """
        first = DemoDirectory(self.path)
        first.ca_file.unlink()
        second = DemoDirectory(self.path)
        self.assertNotEqual(first.mac.identity.der, second.mac.identity.der)
        second.mac.identity.certificate.verify_directly_issued_by(second.ca.certificate)
        pem = second.push_certificate_file.read_bytes()
        push_certificate = x509.load_pem_x509_certificate(pem)
        push_certificate.verify_directly_issued_by(second.ca.certificate)

    def test_command_files(self) -> None:
        """
        A command file changes its UUID once its command was answered.
        """
        directory = DemoDirectory(self.path)
        for request_type in directory.request_types:
            file = directory.command_file(request_type)
            before = plistlib.loads(file.read_bytes())
            self.assertEqual(before["Command"]["RequestType"], request_type)
            directory.command_answered("another uuid")
            self.assertEqual(plistlib.loads(file.read_bytes()), before)
            directory.command_answered(before["CommandUUID"])
            after = plistlib.loads(file.read_bytes())
            self.assertNotEqual(after.pop("CommandUUID"), before.pop("CommandUUID"))
            self.assertEqual(after, before)


class TerminalTests(SynchronousTestCase):
    """
    What the terminal shows.
    """

    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    def test_plain_text(self) -> None:
        """
        A file gets no colours, and a second line is aligned with the first.
        """
        stream = io.StringIO()
        Terminal(stream).step("Mac", "Idle", "first\nsecond", 200)
        first, second = stream.getvalue().splitlines()
        self.assertEqual(first.split(), ["Mac", "Idle", "200", "first"])
        self.assertEqual(first.index("first"), second.index("second"))

    def test_colours(self) -> None:
        self.patch(os, "environ", {})
        screen = self.Screen()
        Terminal(screen).step("Mac", "Idle", "", 200)
        self.assertIn("\x1b[", screen.getvalue())

    def test_no_color(self) -> None:
        self.patch(os, "environ", {"NO_COLOR": "1"})
        screen = self.Screen()
        Terminal(screen).failure("why")
        self.assertEqual(screen.getvalue(), "failed: why\n")

    def test_idle(self) -> None:
        idle = {"Status": "Idle", "UDID": "u"}
        self.assertEqual(describe(exchange(idle)), ("Idle", "nothing more queued"))
        command = {"CommandUUID": "1", "Command": {"RequestType": "ProfileList"}}
        fetched = exchange(idle, plistlib.dumps(command))
        self.assertEqual(describe(fetched), ("Idle", "fetches ProfileList 1"))

    def test_report(self) -> None:
        report = {"Status": "Acknowledged", "RequestType": "X", "CommandUUID": "1"}
        for key, value, text in (
            ("QueryResponses", {"A": 1, "B": 2}, "X: A 1, B 2"),
            ("ProfileList", [{}, {}], "X: 2 entries"),
            ("SecurityInfo", {"A": 1}, "X: 1 values"),
            ("ErrorChain", [{"USEnglishDescription": "no"}], "X: no"),
        ):
            what, detail = describe(exchange({**report, key: value}))
            self.assertEqual((what, detail), ("Acknowledged", f"{text}\nnothing more queued"))

    def test_refusal(self) -> None:
        refused = exchange({"Status": "Idle", "UDID": "u"}, b"Bad Request\n", 400)
        self.assertEqual(describe(refused), ("Idle", "Bad Request"))


class AlarmTests(SynchronousTestCase):
    """
    L{PushAlarm}.
    """

    def setUp(self) -> None:
        self.mac = SimulatedDevice.mac(build.identity(), Random(1))
        self.screen = io.StringIO()
        self.alarm = PushAlarm(self.mac, Terminal(self.screen))

    def ring(self, token: str | None = None, push_magic: str | None = None) -> None:
        payload = json.dumps({"mdm": push_magic or self.mac.push_magic}).encode()
        self.alarm.ring(SeenPush(1, token or self.mac.token.hex(), {}, payload))

    def test_wakes(self) -> None:
        """
        Each push wakes once.
        """
        waiting = self.alarm.wait()
        self.assertNoResult(waiting)
        self.ring()
        self.assertEqual(self.successResultOf(waiting), 1)
        self.assertNoResult(self.alarm.wait())

    def test_pushesWhileAwake(self) -> None:
        """
        Any number of pushes while the Mac is awake wake it once more.
        """
        self.ring()
        self.ring()
        self.assertEqual(self.successResultOf(self.alarm.wait()), 2)
        self.assertNoResult(self.alarm.wait())

    def test_notForTheMac(self) -> None:
        """
        A token or a push magic that is another's wakes nobody.
        """
        waiting = self.alarm.wait()
        self.ring(token="00")
        self.ring(push_magic="another")
        self.assertNoResult(waiting)
        lines = self.screen.getvalue().splitlines()
        self.assertEqual(len(lines), 2)
        self.assertIn("another token", lines[0])
        self.assertIn("push magic", lines[1])
        self.assertNotIn(self.mac.push_magic, self.screen.getvalue())

    def test_forget(self) -> None:
        self.ring()
        self.alarm.forget()
        self.assertNoResult(self.alarm.wait())

    def test_cancelled(self) -> None:
        """
        A push after the waiting was given up is kept for the next.
        """
        waiting = self.alarm.wait()
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.ring()
        self.assertEqual(self.successResultOf(self.alarm.wait()), 1)

    def test_noPush(self) -> None:
        """
        The demonstration fails when the Mac is not pushed to.
        """
        clock = Clock()
        anything: Any = None
        terminal = Terminal(self.screen)
        demo = Demo(clock, anything, terminal, "", "", anything, anything, self.alarm)
        waiting = Deferred.fromCoroutine(demo.wait_for_push())
        clock.advance(PUSH_DEADLINE - 1)
        self.assertNoResult(waiting)
        clock.advance(1)
        self.failureResultOf(waiting, DemoError)
        self.assertEqual(clock.getDelayedCalls(), [])
        waiting = Deferred.fromCoroutine(demo.wait_for_push())
        self.ring()
        self.successResultOf(waiting)
        self.assertEqual(clock.getDelayedCalls(), [])


class PortTests(SynchronousTestCase):
    def test_out_of_range(self) -> None:
        self.patch(sys, "stderr", io.StringIO())
        for port in ("-1", "65536", "http"):
            self.assertRaises(SystemExit, parse_arguments, ["--port", port])

    def test_taken(self) -> None:
        """
        Another port takes the place of one that is in use.
        """
        with socket.create_server((HOST, 0)) as server:
            taken = server.getsockname()[1]
            self.assertNotEqual(free_port(taken), taken)
        self.assertEqual(free_port(taken), taken)


class ProcessReactor(Clock):
    """
    A clock and one process that only records its signals.
    """

    def __init__(self) -> None:
        super().__init__()
        self.signals: list[str] = []
        self.gone = False

    def spawnProcess(
        self,
        protocol: ProcessProtocol,
        executable: str,
        args: Sequence[str],
        env: dict[str, str],
        childFDs: dict[int, int],
    ) -> ProcessReactor:
        return self

    def signalProcess(self, name: str) -> None:
        if self.gone:
            raise ProcessExitedAlready
        self.signals.append(name)


class StopTests(SynchronousTestCase):
    """
    L{DaemonProcess.stop}.
    """

    def setUp(self) -> None:
        self.reactor = ProcessReactor()
        self.daemon = DaemonProcess(self.reactor, Path(self.mktemp()))
        self.daemon.start("daemon", [], {})

    def end(self, error: Exception) -> None:
        self.reactor.gone = True
        self.daemon.processEnded(Failure(error))

    def test_stop(self) -> None:
        """
        SIGTERM is enough for a process that obeys it.
        """
        stopped = Deferred.fromCoroutine(self.daemon.stop())
        self.assertNoResult(stopped)
        self.end(ProcessDone(0))
        self.successResultOf(stopped)
        self.assertEqual(self.reactor.signals, ["TERM"])
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertEqual(self.daemon.exit_status, "exit status 0")

    def test_kill(self) -> None:
        """
        A process that does not end in time is killed.
        """
        stopped = Deferred.fromCoroutine(self.daemon.stop())
        self.reactor.advance(STOP_DEADLINE)
        self.assertEqual(self.reactor.signals, ["TERM", "KILL"])
        self.end(ProcessTerminated(signal=9))
        self.successResultOf(stopped)
        self.assertEqual(self.daemon.exit_status, "signal 9")

    def test_ended_already(self) -> None:
        self.end(ProcessTerminated(exitCode=1))
        self.successResultOf(Deferred.fromCoroutine(self.daemon.stop()))
        self.assertEqual(self.reactor.signals, [])


class ProcessTests(TestCase):
    """
    With real processes.
    """

    async def test_last_lines(self) -> None:
        """
        The last lines are those of this process, not of an earlier one.
        """
        log = Path(self.mktemp())
        log.write_text("earlier\n")
        daemon = DaemonProcess(reactor, log)
        script = "import sys; print('one'); print('two', file=sys.stderr); sys.exit(3)"
        daemon.start(sys.executable, ["-c", script], {"PYTHONUNBUFFERED": "1"})
        await daemon.ended()
        self.assertEqual(daemon.exit_status, "exit status 3")
        self.assertEqual(daemon.last_lines(), ["one", "two"])
        self.assertEqual(daemon.last_lines(1), ["two"])
        self.assertEqual(log.read_text(), "earlier\none\ntwo\n")

    async def run_demo(self, *options: str, **environment: str) -> tuple[str, str, int]:
        root = str(Path(nanomdm.__file__).parent.parent)
        output, errors, code = await getProcessOutputAndValue(
            sys.executable,
            ["-m", "nanomdm.sim.demo", "--once", "--port", "0", *options],
            {**os.environ, "PYTHONPATH": root, **environment},
        )
        return output.decode(), errors.decode(), code

    async def test_demonstration(self) -> None:
        """
        The simulated Mac enrolls with the real daemon, is pushed to and answers
        a command, and once more in the same directory.  Settings of the
        surroundings do not disturb it.
        """
        directory = self.mktemp()
        for _ in range(2):
            output, errors, code = await self.run_demo(
                "--directory",
                directory,
                NANOMDM_DISABLE_MDM="1",
                HTTPS_PROXY="http://127.0.0.1:9",
                https_proxy="http://127.0.0.1:9",
                NO_PROXY="",
                no_proxy="",
            )
            self.assertEqual((errors, code), ("", 0), output)
            steps = [line.split()[:3] for line in output.splitlines() if " 200 " in line]
            expected = [
                ("API", "pushcert"),
                ("Mac", "Authenticate"),
                ("Mac", "TokenUpdate"),
                ("API", "enqueue"),
                ("APNs", "push"),
                ("Mac", "Idle"),
                ("Mac", "Acknowledged"),
            ]
            self.assertEqual(steps, [[who, what, "200"] for who, what in expected])
            self.assertIn("DeviceName Mac", output)
            self.assertIn("Every step succeeded.", output)

    async def test_server_does_not_start(self) -> None:
        """
        When the server ends, the demonstration says so and how its log ends.
        """
        directory = Path(self.mktemp())
        directory.mkdir()
        (directory / "nanomdm.db").mkdir()
        output, errors, code = await self.run_demo("--directory", str(directory))
        self.assertEqual((errors, code), ("", 1))
        self.assertIn("failed: the server ended by itself (exit status 1)", output)
        self.assertIn("nanomdm.db", output)
