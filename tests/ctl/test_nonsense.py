"""
Tests for answers of a server that is none, and for words that are no text.
"""

from __future__ import annotations

import os

from tests import samples
from tests.ctl.case import CtlCase
from tests.web import RawServer, WebServer, listen

#: Bytes that are not UTF-8, as the operating system hands them on.
NO_TEXT = os.fsdecode(b"a\xff")

UNEXPECTED = "the answer is not JSON as expected; is --server right?"


class AnswerTests(CtlCase):
    """
    Answers with status 200.
    """

    def answer(self, body: bytes) -> None:
        server = WebServer()
        server.headers = {"Content-Type": "application/json"}
        server.body = body
        self.port = listen(self, server)

    async def test_lists(self) -> None:
        for body in (
            b"[]",
            b'{"enrollments": "abc"}',
            b'{"enrollments": null}',
            b'{"enrollments": [{"id": "D1"}, 5]}',
            b'{"enrollments": [' + b"9" * 5000 + b"]}",
        ):
            self.answer(body)
            for arguments in (("enrollments", "list"), ("push", "--serial", "C1")):
                self.assertEqual(await self.refused(*arguments), f"Error: {UNEXPECTED}")

    async def test_item(self) -> None:
        for body in (b"{}", b'{"queue_length": 0, "enabled": true, "push_token": 5}'):
            self.answer(body)
            line = await self.refused("enrollments", "show", "D1")
            self.assertEqual(line, f"Error: {UNEXPECTED}")

    async def test_pushed(self) -> None:
        """
        Nothing was pushed or queued if nobody says so.
        """
        path = self.home / "command"
        path.write_bytes(samples.command("C1"))
        for body in (b"{}", b'{"status": []}', b'{"status": {"D1": 5}}', b'{"enrollments": []}'):
            self.answer(body)
            for arguments in (("push",), ("enqueue", str(path))):
                result = await self.ctl(*arguments, "--id", "D1")
                self.assertIn(f"Stopped after 0 of 1: {UNEXPECTED}", result.stderr)
                self.assertIn(": 0, failed: 0, not done: 1", result.stdout)
                self.assertEqual(result.exit_code, 1)

    async def test_cutOff(self) -> None:
        """
        Half of something is not taken for all of it.
        """
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: 100\r\n\r\n"
        self.port = listen(self, RawServer(head + b"<plist>", hang_up=True))
        line = await self.refused("results", "D1", "C1", "--raw")
        self.assertIn("IncompleteRead(7 bytes read, 93 more expected)", line)


class NoTextTests(CtlCase):
    """
    Words that are not UTF-8.
    """

    async def test_words(self) -> None:
        self.port = 1
        for arguments, problem in (
            (("enrollments", "show", NO_TEXT), "'a\\udcff' is no id"),
            (("push", "--id", NO_TEXT), "'a\\udcff' is no id"),
            (("enrollments", "list", "--serial", NO_TEXT), "serial: is not UTF-8"),
            (("pushcert", "show", NO_TEXT), "topic: is not UTF-8"),
        ):
            self.assertEqual(await self.refused(*arguments, code=2), f"Error: {problem}")

    async def test_key(self) -> None:
        self.port = 1
        for variable in ("NANOMDM_KEY", "NANOMDM_USER"):
            line = await self.refused("enrollments", "list", code=2, **{variable: NO_TEXT})
            self.assertEqual(line, "Error: --user and --key: must be UTF-8")


class OutputTests(CtlCase):
    """
    Files that can not be read or written.
    """

    if not os.path.exists("/dev/full"):
        skip = "there is no /dev/full"

    async def test_full(self) -> None:
        """
        The disk is full, which is said in one line.
        """
        server = WebServer()
        server.body = b'{"enrollments": [{"id": "D1"}]}'
        self.port = listen(self, server)
        for arguments in ((), ("--json",)):
            full = os.open("/dev/full", os.O_WRONLY)
            process = self.spawn("enrollments", "list", *arguments, childFDs={1: full, 2: "r"})
            os.close(full)
            self.assertEqual(await process.ended, 1)
            self.assertEqual(process.errors, b"Error: No space left on device\n")
