"""
Tests for work on many enrollments.
"""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from urllib.parse import unquote

from twisted.web.server import Request

from tests import samples
from tests.ctl.case import CtlCase
from tests.web import WebServer, listen


class PushServer(WebServer):
    """
    Takes pushes, and says what is wrong with some.

    @ivar wrong: what to say of an id.
    @ivar longest: characters of a path that are too many; L{None} for no limit.
    @ivar batches: the ids of each call that was taken.
    """

    def __init__(self) -> None:
        super().__init__()
        self.wrong: dict[str, dict[str, str]] = {}
        self.longest: int | None = None
        self.batches: list[list[str]] = []

    def render(self, request: Request) -> bytes | int:
        """
        See L{PushServer}.
        """
        path = request.path.decode()
        self.headers = {"Content-Type": "application/json"}
        if self.longest is not None and len(path) > self.longest:
            self.status, self.body = 414, b"<html>"
            self.headers = {"Content-Type": "text/html"}
            return super().render(request)
        ids = unquote(path.rpartition("/")[2]).split(",")
        self.batches.append(ids)
        status = {one: self.wrong.get(one, {"push_result": "x"}) for one in ids}
        bad = sum(one in self.wrong for one in ids)
        self.status = 200 if not bad else 500 if bad == len(ids) else 207
        self.body = json.dumps({"status": status}).encode()
        return super().render(request)


class BatchCase(CtlCase):
    """
    A server for pushes, and a file with many ids.
    """

    def setUp(self) -> None:
        super().setUp()
        self.server = PushServer()
        self.port = listen(self, self.server)

    def file(self, count: int) -> str:
        path = self.home / "ids"
        path.write_text("".join(f"D{number}\n" for number in range(count)))
        return str(path)


class BatchTests(BatchCase):
    """
    How many at once.
    """

    async def test_sizes(self) -> None:
        printed = await self.printed("push", "--file", self.file(1001))
        self.assertEqual(printed, "Pushed: 1001, failed: 0\n")
        self.assertEqual([len(batch) for batch in self.server.batches], [500, 500, 1])
        self.assertEqual([*chain(*self.server.batches)], [f"D{number}" for number in range(1001)])

    async def test_tooLong(self) -> None:
        """
        Who has a limit for paths gets fewer at once.
        """
        self.server.longest = len("/v1/push/D1,D2")
        printed = await self.printed("push", "--id", "D1,D2,D3,D4,D5")
        self.assertEqual(printed, "Pushed: 5, failed: 0\n")
        self.assertEqual(self.server.batches, [["D1", "D2"], ["D3"], ["D4", "D5"]])

    async def test_oneTooLong(self) -> None:
        self.server.longest = 1
        result = await self.ctl("push", "--id", "D1")
        self.assertRegex(result.stderr, r"\AStopped after 0 of 1: HTTP 414: .*URI Too Long\n\Z")

    async def test_errors(self) -> None:
        """
        Each is told, with nothing that a terminal obeys.
        """
        self.server.wrong = {"D1": {"push_error": "no\x1b[1m"}, "D3": {"command_error": "off"}}
        result = await self.ctl("push", "--id", "D1,D2,D3")
        self.assertEqual(result.stderr, "D1: push: no\\u001b[1m\nD3: off\n")
        self.assertEqual(result.stdout, "Pushed: 1, failed: 2\n")
        self.assertEqual(result.exit_code, 1)

    async def test_json(self) -> None:
        self.server.wrong = {"D1": {"push_error": "no"}}
        result = await self.ctl("push", "--json", "--id", "D1")
        self.assertEqual(
            json.loads(result.stdout),
            {"status": {"D1": {"push_error": "no"}}, "succeeded": 0, "failed": 1},
        )
        self.assertEqual(result.exit_code, 1)

    async def test_noPushesAtAll(self) -> None:
        """
        It is the error of all that have no other.
        """
        answer = {"push_error": "busy", "status": {"D2": {"command_error": "off"}}}
        server = WebServer()
        server.status, server.body = 500, json.dumps(answer).encode()
        server.headers = {"Content-Type": "application/json"}
        self.port = listen(self, server)
        result = await self.ctl("push", "--id", "D1,D2")
        self.assertEqual(result.stderr, "D1: push: busy\nD2: off\n")
        self.assertEqual((result.stdout, result.exit_code), ("Pushed: 0, failed: 2\n", 1))


class StopTests(BatchCase):
    """
    Runs that do not come to their end.
    """

    async def test_serverGone(self) -> None:
        taken = self.server.render

        def render(request: Request) -> bytes | int:
            if len(self.server.batches) == 2:
                request.setResponseCode(404)
                return b""
            return taken(request)

        self.server.render = render
        result = await self.ctl("push", "--json", "--file", self.file(1001))
        self.assertRegex(result.stderr, r"\AStopped after 1000 of 1001: HTTP 404: .*\n\Z")
        printed = json.loads(result.stdout)
        self.assertEqual([*printed["status"]], [f"D{number}" for number in range(1000)])
        counts = (printed["succeeded"], printed["failed"], printed["not_done"])
        self.assertEqual((counts, result.exit_code), ((1000, 0, 1), 1))

    async def test_interrupted(self) -> None:
        """
        What is under way is waited for.
        """
        self.server.mute = True
        process = self.spawn("push", "--file", self.file(501))
        await self.server.arrived()
        process.transport.signalProcess("INT")
        await process.printed(b"Stopping after what is under way")
        self.server.unmute()
        self.assertEqual(await process.ended, 1)
        self.assertIn(b"Stopped after 500 of 501: interrupted\n", process.errors)
        self.assertEqual(process.output, b"Pushed: 500, failed: 0, not done: 1\n")
        self.assertEqual(len(self.server.asked), 1)

    async def test_controlC(self) -> None:
        """
        So it is with a terminal, on which the bar is drawn meanwhile.
        """
        self.server.mute = True
        process = self.spawn("push", "--file", self.file(501), terminal=True)
        await self.server.arrived()
        process.transport.write(b"\x03")
        await process.printed(b"Stopping after what is under way")
        self.server.unmute()
        self.assertEqual(await process.ended, 1)
        self.assertIn(b"Stopped after 500 of 501: interrupted\r\n", process.output)
        self.assertEqual(len(self.server.asked), 1)

    async def test_interruptedTwice(self) -> None:
        self.server.mute = True
        process = self.spawn("push", "--id", "D1")
        await self.server.arrived()
        process.transport.signalProcess("INT")
        await process.printed(b"Stopping after what is under way")
        process.transport.signalProcess("INT")
        self.assertEqual(await process.ended, 1)
        self.assertTrue(process.errors.endswith(b"Aborted!\n"), process.errors)


class EnqueueStopTests(CtlCase):
    """
    A server that has the command's UUID with something else.
    """

    async def test_conflict(self) -> None:
        self.serve()
        await self.enroll()
        path = Path(self.home / "command")
        for request_type, status in (("DeviceInformation", 0), ("DeviceLock", 1)):
            path.write_bytes(samples.command("C1", request_type))
            result = await self.ctl("enqueue", str(path), "--id", "D1", "--no-push")
            self.assertEqual(result.exit_code, status)
        self.assertRegex(
            result.stderr, r"\nStopped after 0 of 1|\AStopped after 0 of 1: HTTP 409: "
        )
