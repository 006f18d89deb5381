"""
Tests for L{nanomdm.log}.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ProcessTerminated
from twisted.internet.protocol import ProcessProtocol, Protocol, connectionDone
from twisted.logger import Logger, LogLevel, LogPublisher, globalLogPublisher
from twisted.python import log as legacy
from twisted.python.failure import Failure
from twisted.python.reflect import namedAny
from twisted.trial.unittest import SynchronousTestCase, TestCase

from nanomdm.log import RENDERERS, LineObserver, install, jsonl, logfmt, printable

TIME = 1795168800.123456
STAMP = "2026-11-20T10:00:00.123456Z"


class LogTestCase(SynchronousTestCase):
    """
    Collects the lines of an observer.
    """

    def setUp(self) -> None:
        self.written: list[bytes] = []

    def observer(self, log_format: str = "logfmt", debug: bool = False) -> LineObserver:
        return LineObserver(self.written.append, RENDERERS[log_format], debug)

    def logger(self, log_format: str = "logfmt", debug: bool = False) -> Logger:
        return Logger("tests", observer=LogPublisher(self.observer(log_format, debug)))

    def line(self) -> str:
        """
        @return: the one line that was written, without its line feed.
        """
        [written] = self.written
        line = written.decode("utf-8")
        self.assertEqual(line[-1:], "\n")
        self.assertEqual(line[:-1].splitlines(), [line[:-1]])
        return line[:-1]

    def event(self, message: str = "m", /, **fields: Any) -> dict[str, Any]:
        return {"log_time": TIME, "log_level": LogLevel.info, "log_format": message, **fields}

    @contextmanager
    def observing(self, observer: LineObserver) -> Iterator[None]:
        globalLogPublisher.addObserver(observer)
        try:
            yield
        finally:
            globalLogPublisher.removeObserver(observer)


class LineTests(LogTestCase):
    """
    What a line looks like.
    """

    FIELDS: dict[str, Any] = {
        "trace_id": "a1/b2",
        "status": 200,
        "duration": 1.5,
        "new": True,
        "old": False,
        "user_id": None,
        "thing": object(),
        "raw": b"bytes",
        "name": "Zoë's Mac",
    }

    def test_logfmt(self) -> None:
        self.observer()(self.event("request", **self.FIELDS))
        self.assertEqual(
            self.line(),
            f'ts={STAMP} level=info msg="request" trace_id=a1/b2 status=200 duration=1.5 '
            'new=true old=false name="Zoë\'s Mac"',
        )

    def test_json(self) -> None:
        self.observer("json")(self.event("request", **self.FIELDS))
        expected = {
            "ts": STAMP,
            "level": "info",
            "msg": "request",
            "trace_id": "a1/b2",
            "status": 200,
            "duration": 1.5,
            "new": True,
            "old": False,
            "name": "Zoë's Mac",
        }
        self.assertEqual(list(json.loads(self.line()).items()), list(expected.items()))

    def test_through_a_logger(self) -> None:
        self.logger().warn("disk {state}", state="full", free=0)
        self.assertRegex(
            self.line(),
            r"^ts=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z "
            r'level=warn msg="disk full" state=full free=0$',
        )

    def test_braces_without_placeholders(self) -> None:
        self.observer()(self.event("}"))
        self.assertEqual(self.line(), f'ts={STAMP} level=info msg="}}"')

    def test_whole_seconds(self) -> None:
        self.observer()(self.event("m", log_time=1795168800.0))
        self.assertEqual(self.line(), 'ts=2026-11-20T10:00:00.000000Z level=info msg="m"')

    def test_own_fields_are_left_out(self) -> None:
        """
        A field can not pass for the head of the line.
        """
        self.observer("json")(self.event("m", ts="x", level="x", msg="x", id="y"))
        self.assertEqual(
            json.loads(self.line()), {"ts": STAMP, "level": "info", "msg": "m", "id": "y"}
        )

    def test_enumerations(self) -> None:
        class Type(str, Enum):  # noqa: UP042
            DEVICE = "Device"

        self.observer()(self.event("m", type=Type.DEVICE))
        self.assertEqual(self.line(), f'ts={STAMP} level=info msg="m" type=Device')

    def test_numbers_that_json_lacks(self) -> None:
        self.observer("json")(self.event("m", a=float("nan"), b=float("-inf"), c=1e300))
        fields = json.loads(self.line(), parse_constant=self.fail)
        self.assertEqual((fields["a"], fields["b"], fields["c"]), ("nan", "-inf", 1e300))

    def test_debug(self) -> None:
        self.logger(debug=False).debug("detail")
        self.assertEqual(self.written, [])
        self.logger(debug=True).debug("detail")
        self.assertIn(' level=debug msg="detail"', self.line())


class InjectionTests(LogTestCase):
    """
    No value can begin a second line or a second field.
    """

    EVIL = (
        'x" level=critical msg="owned',
        "a\nts=2026 level=critical",
        "a\r\nb",
        "tab\there",
        "back\\slash",
        "a=b",
        "",
        " ",
        "nul\x00 escape\x1b[31m delete\x7f next\x85 c1\x9b",
        "line\u2028paragraph\u2029",
        "right-to-left\u202e zero\u200bwidth mark\ufeff",
        "lone\udc80surrogate \ud800",
        "😀 Zoë",
    )

    def parse(self, line: str) -> dict[str, str]:
        """
        Read logfmt as an independent reader would: quoted values are JSON strings.
        """
        fields = {}
        rest = line
        while rest:
            found = re.match(r'([^\s="]+)=("(?:[^"\\]|\\.)*"|[^\s="]*)(?: |$)', rest)
            assert found is not None, rest
            key, value = found.groups()
            self.assertNotIn(key, fields)
            fields[key] = json.loads(value) if value.startswith('"') else value
            rest = rest[found.end() :]
        return fields

    def assertHarmless(self, event: dict[str, Any], expected: dict[str, str]) -> None:
        for log_format, read in (("logfmt", self.parse), ("json", json.loads)):
            self.written.clear()
            self.observer(log_format)(event)
            line = self.line()
            self.assertTrue(line.isprintable(), ascii(line))
            fields = read(line)
            self.assertEqual(fields, {"ts": STAMP, "level": "info", **expected})

    def test_values(self) -> None:
        for evil in self.EVIL:
            event = self.event("m", first=evil, last="z")
            self.assertHarmless(event, {"msg": "m", "first": evil, "last": "z"})

    def test_messages(self) -> None:
        for evil in self.EVIL:
            self.assertHarmless(self.event(evil, id="i"), {"msg": evil, "id": "i"})

    def test_interpolated(self) -> None:
        for evil in self.EVIL:
            event = self.event("got {what}", what=evil)
            self.assertHarmless(event, {"msg": f"got {evil}", "what": evil})

    def test_keys(self) -> None:
        event = self.event("m", **{"a b": "x", "c=d": "x", "e\nf": "x", "": "x", "ok": "y"})
        self.assertHarmless(event, {"msg": "m", "ok": "y"})

    def test_printable(self) -> None:
        self.assertEqual(
            printable("Zoë\n\x1b\udc80\U000e0001"), "Zoë\\n\\u001b\\udc80\\udb40\\udc01"
        )


class FailureTests(LogTestCase):
    """
    Failures are fields of one line.
    """

    def test_failure(self) -> None:
        try:
            raise ValueError('two\nlines and a "quote"')
        except ValueError:
            self.logger("json").failure("sending failed", id="x")
        fields = json.loads(self.line())
        self.assertEqual(
            (fields["level"], fields["msg"], fields["id"], fields["error"]),
            ("critical", "sending failed", "x", 'ValueError: two\nlines and a "quote"'),
        )
        self.assertIn("in test_failure", fields["traceback"].replace("\n", " "))

    def test_failure_as_logfmt(self) -> None:
        try:
            raise ValueError("two\nlines")
        except ValueError:
            self.logger().failure("sending failed")
        self.assertIn(
            'msg="sending failed" error="ValueError: two\\nlines" traceback="Traceback ',
            self.line(),
        )

    def test_callers_own_error(self) -> None:
        self.observer("json")(self.event("m", error="mine", log_failure=Failure(ValueError("x"))))
        self.assertEqual(json.loads(self.line())["error"], "mine")

    def test_error_without_failure(self) -> None:
        self.observer()(self.event("m", error="refused"))
        self.assertEqual(self.line(), f'ts={STAMP} level=info msg="m" error=refused')

    def test_exception_that_can_not_be_shown(self) -> None:
        class Mute(Exception):
            def __str__(self) -> str:
                raise RuntimeError("no words")

        self.logger("json").failure("odd", Failure(Mute()))
        fields = json.loads(self.line())
        self.assertEqual(fields["msg"], "odd")
        self.assertIn("Mute", fields["error"])


class LegacyTests(LogTestCase):
    """
    What Twisted logs in its old way.
    """

    def log(self, emit: Callable[[], object]) -> dict[str, Any]:
        with self.observing(self.observer("json")):
            emit()
        fields: dict[str, Any] = json.loads(self.line())
        return fields

    def test_message(self) -> None:
        fields = self.log(lambda: legacy.msg("hello", "world", attempt=2))
        del fields["ts"]
        self.assertEqual(fields, {"level": "info", "msg": "hello world", "attempt": 2})

    def test_format(self) -> None:
        fields = self.log(lambda: legacy.msg(format="%(n)d of them\n", n=3))
        self.assertEqual((fields["msg"], fields["n"]), ("3 of them\n", 3))

    def test_error(self) -> None:
        fields = self.log(lambda: legacy.err(Failure(KeyError("k")), "could not look"))
        self.assertEqual(
            (fields["level"], fields["msg"], fields["error"]),
            ("critical", "could not look", "KeyError: 'k'"),
        )
        self.flushLoggedErrors(KeyError)

    def test_error_without_reason(self) -> None:
        fields = self.log(lambda: legacy.err(Failure(KeyError("k"))))
        self.assertEqual(fields["msg"], "Unhandled Error")
        self.assertIn("KeyError", fields["traceback"])
        self.flushLoggedErrors(KeyError)


class RobustnessTests(LogTestCase):
    """
    The observer never raises.
    """

    def test_unrenderable(self) -> None:
        for event in (
            self.event("m", log_time="yesterday"),
            self.event("m", log_time=1e300),
            self.event("m", log_level="loud"),
            {**self.event("m"), 3: "not text"},
        ):
            self.written.clear()
            self.observer("json")(event)
            self.assertEqual(json.loads(self.line())["msg"], "log event can not be rendered")

    def test_bad_format(self) -> None:
        self.observer()(self.event("{missing}", id="x"))
        self.assertIn(" id=x", self.line())

    def test_empty_event(self) -> None:
        self.observer()({})
        self.assertRegex(self.line(), '^ts=[^ ]+ level=info msg=""$')

    def test_output_that_fails(self) -> None:
        for error in (BrokenPipeError(), OSError(28, "No space left"), ValueError("closed file")):

            def write(line: bytes, error: Exception = error) -> None:
                self.written.append(line)
                raise error

            LineObserver(write, logfmt, False)(self.event())
        self.assertEqual(len(self.written), 3)

    def test_renderers(self) -> None:
        self.assertEqual(RENDERERS, {"logfmt": logfmt, "json": jsonl})


class TwistdTests(LogTestCase):
    """
    The log that twistd is given.
    """

    def start(self, log_format: str = "logfmt", **twistd: Any) -> LineObserver:
        """
        Do as twistd does with its options once they are parsed.
        """
        options = {"logger": None, "syslog": 0, "logfile": None, "nodaemon": 1, **twistd}
        install(options, log_format, debug=False)
        observer: LineObserver = namedAny(options["logger"])()
        return observer

    def test_logfile(self) -> None:
        path = Path(self.mktemp())
        self.keep_signal()
        self.start(logfile=str(path))(self.event("hello"))
        self.assertEqual(path.read_text(), f'ts={STAMP} level=info msg="hello"\n')

    def test_default_file_of_a_daemon(self) -> None:
        self.keep_signal()
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(directory)
        self.start("json", nodaemon=0)(self.event("hello"))
        self.assertEqual(json.loads((directory / "twistd.log").read_text())["msg"], "hello")

    def test_rotates_on_request(self) -> None:
        path = Path(self.mktemp())
        self.keep_signal()
        observer = self.start(logfile=str(path))
        observer(self.event("one"))
        signal.raise_signal(signal.SIGUSR1)
        observer(self.event("two"))
        observer(self.event("three"))
        self.assertEqual(path.with_name(path.name + ".1").read_text().count("\n"), 1)
        self.assertEqual(path.read_text().count("\n"), 2)

    def test_keeps_another_signal_handler(self) -> None:
        self.keep_signal()
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        self.start(logfile=self.mktemp())
        self.assertEqual(signal.getsignal(signal.SIGUSR1), signal.SIG_IGN)

    def test_standard_output(self) -> None:
        for name in (None, "-"):
            path = Path(self.mktemp())
            with path.open("w") as output:
                self.patch(sys, "stdout", output)
                self.start(logfile=name)(self.event("hello"))
            self.assertEqual(path.read_text(), f'ts={STAMP} level=info msg="hello"\n')

    def test_daemons_have_no_standard_output(self) -> None:
        ended = self.assertRaises(SystemExit, self.start, logfile="-", nodaemon=0)
        self.assertEqual(ended.code, "Daemons cannot log to stdout, exiting!")

    def keep_signal(self) -> None:
        """
        Begin without a handler of SIGUSR1, and restore it after the test.
        """
        self.addCleanup(signal.signal, signal.SIGUSR1, signal.getsignal(signal.SIGUSR1))
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)


class Exchange(Protocol):
    """
    One HTTP request.

    @ivar done: fires when the server has answered and closed the connection.
    """

    def __init__(self) -> None:
        self.done: Deferred[None] = Deferred()
        self._answer = b""

    def connectionMade(self) -> None:
        self.transport.write(b"GET /version HTTP/1.0\r\n\r\n")

    def dataReceived(self, data: bytes) -> None:
        self._answer += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if b" 200 OK\r\n" in self._answer:
            self.done.callback(None)
        else:
            self.done.errback(AssertionError(self._answer))


class Daemon(ProcessProtocol):
    """
    A server in its own process.

    @ivar output: what it printed.
    @ivar errors: what it printed to standard error.
    @ivar listening: fires once its port is open.
    @ivar port: that port.
    @ivar ended: fires with how it ended.
    """

    def __init__(self) -> None:
        self.output = b""
        self.errors = b""
        self.listening: Deferred[None] = Deferred()
        self.port = 0
        self.ended: Deferred[Exception] = Deferred()

    def outReceived(self, data: bytes) -> None:
        self.output += data
        found = re.search(rb" address=127\.0\.0\.1:([0-9]+)\n", self.output)
        if found and not self.listening.called:
            self.port = int(found[1])
            self.listening.callback(None)

    def errReceived(self, data: bytes) -> None:
        self.errors += data

    def processEnded(self, reason: Failure) -> None:
        if not self.listening.called:
            self.listening.errback(AssertionError(self.output + self.errors))
        self.ended.callback(reason.value)

    async def request(self) -> None:
        """
        Let it answer one request.
        """
        exchange = Exchange()
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port)
        await connectProtocol(endpoint, exchange)
        await exchange.done


class DaemonTests(TestCase):
    """
    The log of a real server.
    """

    timeout = 60

    async def start(self) -> Daemon:
        code = "from twisted.scripts.twistd import run; run()"
        flags = ["--disable-mdm", "--api=key", "--storage=inmem", "--listen=127.0.0.1:0"]
        environ = {k: v for k, v in os.environ.items() if not k.startswith("NANOMDM_")}
        environ["PYTHONPATH"] = str(Path(__file__).parent.parent)
        daemon, directory = Daemon(), self.mktemp()
        os.mkdir(directory)
        reactor.spawnProcess(  # type: ignore[attr-defined]
            daemon,
            sys.executable,
            [sys.executable, "-c", code, "-n", "--pidfile=", "nanomdm", *flags],
            env=environ,
            path=directory,
        )
        self.addCleanup(self.kill, daemon)
        await daemon.listening
        await daemon.request()  # once it answers, it handles signals too
        return daemon

    async def kill(self, daemon: Daemon) -> None:
        if not daemon.ended.called:
            daemon.transport.signalProcess("KILL")
            await daemon.ended

    async def assertEndsWell(self, daemon: Daemon) -> None:
        """
        twistd shuts everything down, and then ends by the signal that it got.
        """
        daemon.transport.signalProcess("TERM")
        ended = await daemon.ended
        self.assertIsInstance(ended, ProcessTerminated)
        self.assertEqual(ended.signal, signal.SIGTERM)
        self.assertEqual(daemon.errors, b"")

    async def test_every_line_is_one_of_ours(self) -> None:
        daemon = await self.start()
        await self.assertEndsWell(daemon)
        lines = daemon.output.decode().splitlines()
        self.assertEqual([line for line in lines if not line.startswith("ts=")], [])
        self.assertIn('msg="starting" version=', lines[0])
        self.assertIn("Server Shut Down", lines[-1])

    async def test_goes_on_when_nobody_reads(self) -> None:
        """
        Requests are answered though their log lines meet a broken pipe.
        """
        daemon = await self.start()
        daemon.transport.closeStdout()
        await daemon.request()
        await self.assertEndsWell(daemon)
