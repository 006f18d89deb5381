"""
C{--dump}: what a server shows of its devices.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IProcessTransport
from twisted.python.failure import Failure

from nanomdm import routes
from tests import samples
from tests.http.case import CHECKIN, RESULT, ServerCase
from tests.process import DaemonProcess
from tests.test_daemon import DaemonCase


class FakeOutput:
    """
    Keeps what it is shown.
    """

    def __init__(self) -> None:
        self.blocks: list[str] = []

    def show(self, size: int, pieces: Iterable[bytes]) -> None:
        self.blocks.append(b"".join(pieces).decode())


class DumpTests(ServerCase):
    """
    What is shown of which requests.
    """

    def setUp(self) -> None:
        self.output = FakeOutput()
        self.patch(routes, "standard_output", lambda: self.output)

    def shown(self) -> tuple[str, str, str, str]:
        """
        @return: heading and body of the request and of the response, of the one
            exchange since the last time.
        """
        [block] = self.output.blocks
        self.output.blocks.clear()
        time = r"# \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z "
        match = re.fullmatch(
            rf"{time}request trace_id=([0-9a-f]{{16}}) ?(.*)\n((?s:.*))\n"
            rf"{time}response trace_id=\1 ?(.*)\n((?s:.*))\n",
            block,
        )
        assert match is not None, block
        return match[2], match[3], match[4], match[5]

    async def test_checkin(self) -> None:
        self.serve(dump=True)
        body = samples.token_update()
        await self.enroll()
        self.output.blocks.pop(0)
        about = "id=D1 type=Device message_type=TokenUpdate"
        self.assertEqual(
            self.shown(),
            (f"{about} bytes={len(body)}", body.decode(), f"{about} code=200 bytes=0", ""),
        )

    async def test_report(self) -> None:
        self.serve(dump=True)
        await self.enroll()
        self.output.blocks.clear()
        command = samples.command("C1")
        await self.enqueue("D1")
        await self.report("Idle")
        asked, body, answered, answer = self.shown()
        self.assertEqual(body.encode(), samples.report("Idle"))
        self.assertEqual(answer.encode(), command)
        about = "id=D1 type=Device status=Idle"
        self.assertEqual(asked, f"{about} bytes={len(body)}")
        self.assertEqual(answered, f"{about} code=200 bytes={len(command)}")
        await self.report("Acknowledged", "C1")
        self.assertIn("status=Acknowledged command_uuid=C1 bytes=", self.shown()[0])

    async def test_checkinPath(self) -> None:
        self.serve(dump=True, checkin=True)
        self.assertOK(await self.send(samples.authenticate(), path="/checkin"))
        self.assertIn("message_type=Authenticate", self.shown()[0])

    async def test_refused(self) -> None:
        """
        The device is told no more than without a dump.
        """
        self.serve(dump=True)
        self.assertRefused(await self.send(b"\x1b[2J<plist>"))
        asked, body, answered, answer = self.shown()
        self.assertEqual((asked, body), ("bytes=11", "\\u001b[2J<plist>\n"))
        self.assertRegex(answered, '^code=400 error="[^"]+" bytes=12$')
        self.assertEqual(answer, "Bad Request\n")

    async def test_withoutIdentity(self) -> None:
        self.serve(dump=True)
        self.assertRefused(await self.request("PUT", "/mdm", b"<plist/>"))
        _, body, answered, _ = self.shown()
        self.assertEqual(body, "<plist/>\n")
        self.assertIn("Mdm-Signature", answered)

    async def test_refusedWithIds(self) -> None:
        self.serve(dump=True)
        self.assertRefused(await self.send(samples.token_update("D9")))
        asked, _, answered, _ = self.shown()
        self.assertIn("id=D9 ", asked)
        self.assertRegex(answered, "id=D9 .* code=400 error=")

    async def test_unexpectedError(self) -> None:
        self.serve(dump=True)

        def fail(*arguments: object) -> None:
            raise RuntimeError("oops")

        self.patch(self.resource("mdm")._endpoint._service, "check_in", fail)
        answer = await self.send(samples.authenticate())
        self.assertEqual((answer.code, answer.body), (500, b"Internal Server Error\n"))
        _, _, answered, body = self.shown()
        self.assertIn('code=500 error="unexpected, see the log"', answered)
        self.assertEqual(body, "Internal Server Error\n")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    async def test_nothingElse(self) -> None:
        """
        The operators' requests are not shown, nor paths below the devices'.
        """
        self.serve(dump=True)
        await self.enqueue("D1")
        await self.request("GET", "/version")
        self.assertEqual((await self.request("PUT", "/mdm/more", b"x")).code, 404)
        self.assertEqual(self.output.blocks, [])

    async def test_off(self) -> None:
        self.serve()
        await self.enroll()
        self.assertEqual(self.output.blocks, [])


class WatchedProcess(DaemonProcess):
    """
    Tells of its end even if its output is not read.

    @ivar exited: fires with what L{ended} will.
    """

    transport: IProcessTransport

    def __init__(self, *options: str, **environment: str) -> None:
        self.exited: Deferred[int] = Deferred()
        super().__init__(*options, **environment)

    def processExited(self, reason: Failure) -> None:
        self.exited.callback(-(reason.value.signal or 0) or reason.value.exitCode)


class ProcessTests(DaemonCase):
    """
    Dump and log on one standard output.
    """

    def begin(self, *options: str) -> WatchedProcess:
        daemon = WatchedProcess(
            *("--listen", "tcp:0:interface=127.0.0.1", "--dump", "--storage", "inmem"),
            *("--ca", str(self.directory / "ca.pem"), *options),
        )

        def stop() -> Deferred[int] | None:
            return None if daemon.ended.called else daemon.signal(signal.SIGKILL)

        self.addCleanup(stop)
        return daemon

    def assertWhole(self, output: bytes) -> tuple[list[bytes], list[bytes]]:
        """
        The output consists of nothing but messages and lines of the log.

        @return: the bodies, and the lines.
        """
        bodies, lines = [], []
        rest = output
        while rest:
            line, _, rest = rest.partition(b"\n")
            if line.startswith(b"# "):
                size = int(line.rpartition(b" bytes=")[2])
                body, rest = rest[:size], rest[size:]
                if body and not body.endswith(b"\n"):
                    self.assertEqual(rest[:1], b"\n")
                    rest = rest[1:]
                self.assertEqual(rest[:1], b"\n", body[-100:])
                rest = rest[1:]
                bodies.append(body)
            else:
                self.assertRegex(line, rb'^ts=\S+Z level=[a-z]+ msg="[^"]+"')
                lines.append(line)
        return bodies, lines

    async def test_wholeBlocks(self) -> None:
        daemon = self.begin("--debug")
        port = await daemon.listening
        await self.enroll(port, "D1")
        secret = samples.token_update("D1", PushMagic="geheim")
        await self.send(port, secret, CHECKIN)
        reports = [samples.report("Idle", Padding=f"{number:03}" * 100_000) for number in range(12)]
        await gatherResults(
            [Deferred.fromCoroutine(self.send(port, report, RESULT)) for report in reports]
        )
        self.assertEqual(await daemon.signal(signal.SIGTERM), -signal.SIGTERM)
        bodies, lines = self.assertWhole(daemon.output)
        log = b"\n".join(lines)
        self.assertIn(b'level=warn msg="--dump shows secrets', log)
        self.assertIn(b'msg="stopped"', log)
        self.assertTrue(lines[-1].endswith(b'msg="Server Shut Down."'), lines[-1])
        self.assertNotIn(b"geheim", log)
        expected = [samples.authenticate("D1"), samples.token_update("D1"), secret, *reports]
        self.assertEqual(sorted(filter(None, bodies)), sorted(expected))
        self.assertEqual(len(bodies), 2 * len(expected))

    async def test_readerThatStops(self) -> None:
        """
        Devices are served all the same, and the server ends.
        """
        daemon = self.begin()
        port = await daemon.listening
        await self.enroll(port, "D1")
        daemon.transport.pipes[1].stopReading()
        report = samples.report("Idle", Padding="x" * 500_000)
        for _ in range(50):
            await self.send(port, report, RESULT)
        daemon.transport.signalProcess("TERM")
        self.assertEqual(await daemon.exited, -signal.SIGTERM)
        daemon.transport.pipes[1].startReading()
        await daemon.ended
        self.assertLess(len(daemon.output), 1_000_000)

    async def test_slowReader(self) -> None:
        """
        He learns what he missed.
        """
        daemon = self.begin()
        port = await daemon.listening
        await self.enroll(port, "D1")
        daemon.transport.pipes[1].stopReading()
        report = samples.report("Idle", Padding="x" * 500_000)
        for _ in range(50):
            await self.send(port, report, RESULT)
        noted = daemon.written(b"blocks are left out here: nobody read them in time\n\n")
        daemon.transport.pipes[1].startReading()
        await noted
        self.assertEqual(await daemon.signal(signal.SIGTERM), -signal.SIGTERM)
        self.assertIn(b'msg="stopped"\n', daemon.output)
