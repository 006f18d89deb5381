"""
Tests for L{nanomdm.reload}, and of what a whole server reads again.
"""

from __future__ import annotations

import base64
import hashlib
import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.logger import LogEvent, LogLevel, capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from nanomdm.errors import ConfigError
from nanomdm.reload import Reloader, Source
from tests.http.test_site import Collecting
from tests.process import DaemonProcess
from tests.test_daemon import DaemonCase


class Pool:
    """
    A pool of threads in which the test does the work.
    """

    def __init__(self) -> None:
        self.work: list[tuple[Callable[..., Any], Callable[[], Any]]] = []

    def callInThreadWithCallback(
        self, done: Callable[..., Any], work: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> None:
        self.work.append((done, partial(work, *args, **kwargs)))

    def callFromThread(self, function: Callable[..., Any], *args: Any) -> None:
        function(*args)

    def do(self) -> None:
        done, work = self.work.pop(0)
        try:
            result = work()
        except Exception as error:
            done(False, Failure(error))
        else:
            done(True, result)


class ReloaderCase(SynchronousTestCase):
    """
    A test case with a reloader, and parts of a server that note what they are told.
    """

    def setUp(self) -> None:
        self.pool = Pool()
        self.told: list[str] = []
        begun, ended = (partial(self.told.append, word) for word in ("begun", "ended"))
        self.reloader = Reloader(self.pool, self.pool, begun, ended)
        self.files = {"TLS files": "1", "API keys": "a"}

    def add(self, name: str) -> None:
        def read() -> str:
            content = self.files[name]
            if content == "bad":
                raise ConfigError(f"--{name}: it is bad")
            if content == "unexpected":
                raise ZeroDivisionError
            return content

        self.reloader.add(Source(name, read, lambda text: self.told.append(f"{name} {text}")))

    def reload(self) -> list[LogEvent]:
        """
        @return: what was logged of a reload from its begin to its end.
        """
        self.told.clear()
        with capturedLogs() as events:
            self.reloader.reload()
            while self.pool.work:
                self.pool.do()
        return list(events)


class ReadingTests(ReloaderCase):
    """
    What is read again.
    """

    def test_everything(self) -> None:
        self.add("TLS files")
        self.add("API keys")
        self.files["API keys"] = "b"
        lines = [(event["log_level"], event["log_format"]) for event in self.reload()]
        self.assertEqual(self.told, ["begun", "TLS files 1", "API keys b", "ended"])
        self.assertEqual(
            lines,
            [(LogLevel.info, "TLS files read again"), (LogLevel.info, "API keys read again")],
        )

    def test_nothingInTheReactorsThread(self) -> None:
        """
        Reading is for a thread of the pool; what was read is not taken there.
        """
        self.add("TLS files")
        self.reloader.reload()
        self.assertEqual(self.told, ["begun"])
        done, work = self.pool.work.pop()
        result = work()
        self.assertEqual(self.told, ["begun"])
        done(True, result)
        self.assertEqual(self.told, ["begun", "TLS files 1", "ended"])

    def test_unusable(self) -> None:
        """
        It is logged, and concerns nothing else.
        """
        self.add("TLS files")
        self.add("API keys")
        self.files["TLS files"] = "bad"
        error, _ = self.reload()
        self.assertEqual(self.told, ["begun", "API keys a", "ended"])
        self.assertEqual(error["log_level"], LogLevel.error)
        self.assertEqual(error["log_format"], "TLS files not read again, the old ones stay")
        self.assertEqual(error["error"], "--TLS files: it is bad")

    def test_unexpected(self) -> None:
        """
        The same, for what nobody thought of.
        """
        self.add("TLS files")
        self.add("API keys")
        self.files["TLS files"] = "unexpected"
        self.reload()
        self.assertEqual(self.told, ["begun", "API keys a", "ended"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_nothing(self) -> None:
        [line] = self.reload()
        self.assertEqual(line["log_format"], "SIGHUP: there is nothing to read again")
        self.assertEqual(self.told, ["begun", "ended"])

    def test_oneAfterTheOther(self) -> None:
        """
        What was there at the last signal counts, and all that come while something is
        read cost one reading more.
        """
        self.add("TLS files")
        for _ in range(10):
            self.reloader.reload()
        self.assertEqual(len(self.pool.work), 1)
        self.files["TLS files"] = "2"
        self.reloader.reload()
        self.pool.do()
        self.assertEqual(len(self.pool.work), 1)
        self.files["TLS files"] = "3"
        self.pool.do()
        self.assertEqual(self.pool.work, [])
        self.assertEqual(
            self.told, ["begun", "TLS files 2", "ended", "begun", "TLS files 3", "ended"]
        )


class StopTests(ReloaderCase):
    """
    The end.
    """

    def test_waitsForTheReading(self) -> None:
        self.add("TLS files")
        self.reloader.start()
        self.reloader.reload()
        stopped = self.reloader.stop()
        self.assertNoResult(stopped)
        self.pool.do()
        self.successResultOf(stopped)


class SignalTests(TestCase):
    """
    SIGHUP.
    """

    async def test_hangUp(self) -> None:
        """
        The signal is the reloader's between its start and its end.
        """
        signals: list[int] = []
        before = signal.signal(signal.SIGHUP, lambda number, frame: signals.append(number))
        self.addCleanup(signal.signal, signal.SIGHUP, before)
        ended: Deferred[None] = Deferred()
        reloader = Reloader(
            reactor, reactor.getThreadPool(), lambda: None, lambda: ended.callback(None)
        )
        reloader.start()
        os.kill(os.getpid(), signal.SIGHUP)
        await ended
        self.assertEqual(signals, [])
        await reloader.stop()
        os.kill(os.getpid(), signal.SIGHUP)
        self.assertEqual(signals, [signal.SIGHUP])


class ProcessTests(DaemonCase):
    """
    As C{twistd} runs it.
    """

    async def hang_up(self, daemon: DaemonProcess, line: bytes) -> None:
        """
        Send SIGHUP, and wait for a line in the log.
        """
        written = daemon.written(line)
        daemon.transport.signalProcess(signal.SIGHUP.value)
        await written

    async def test_nothingToRead(self) -> None:
        """
        SIGHUP does not end a server that has nothing to read again.
        """
        daemon = self.start()
        port = await daemon.listening
        await self.hang_up(daemon, b'msg="SIGHUP: there is nothing to read again"')
        await self.expect(self.http.get(f"http://127.0.0.1:{port}/version"))
        self.assertEqual(await daemon.signal(signal.SIGTERM), -signal.SIGTERM)

    async def test_keys(self) -> None:
        """
        New keys count, old ones do not any more; a file that can not be used changes
        nothing.
        """
        file = self.directory / "api-keys"
        file.write_text(f"old read {hashlib.sha256(b'old-key').hexdigest()}\n")
        daemon = self.start("--api-key-file", str(file))
        port = await daemon.listening
        self.assertEqual(await self.ask(port, "old"), 400)
        self.assertEqual(await self.ask(port, "new"), 401)
        file.write_text("new nobody 00\n")
        await self.hang_up(daemon, b'"API keys not read again, the old ones stay"')
        self.assertEqual(await self.ask(port, "old"), 400)
        file.write_text(f"new read {hashlib.sha256(b'new-key').hexdigest()}\n")
        await self.hang_up(daemon, b'"API keys read again"')
        self.assertEqual(await self.ask(port, "old"), 401)
        self.assertEqual(await self.ask(port, "new"), 400)
        self.assertEqual(await daemon.signal(signal.SIGTERM), -signal.SIGTERM)

    async def ask(self, port: int, name: str) -> int:
        """
        @return: the status of a question without its parameter: 400 for those who may ask.
        """
        credentials = base64.b64encode(f"{name}:{name}-key".encode()).decode()
        answer = await self.http.get(
            f"http://127.0.0.1:{port}/v1/pushcert",
            headers={"Authorization": f"Basic {credentials}"},
        )
        await answer.content()
        return answer.code

    async def test_whileDraining(self) -> None:
        """
        Nor does it end a server that is ending well.
        """
        daemon = self.start()
        port = await daemon.listening
        client = await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), Collecting())
        client.transport.write(b"PUT /mdm HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nx")
        await self.expect(self.http.get(f"http://127.0.0.1:{port}/version"))
        stopping = daemon.written(b'msg="stopping"')
        daemon.transport.signalProcess(signal.SIGTERM.value)
        await stopping
        await self.hang_up(daemon, b'msg="SIGHUP: there is nothing to read again"')
        client.transport.write(b"yz")
        self.assertTrue((await client.closed).startswith(b"HTTP/1.1 400 "))
        self.assertEqual(await daemon.ended, -signal.SIGTERM)
