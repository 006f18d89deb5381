"""
Tests for L{nanomdm.service.tokens}.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from nanomdm.errors import ConfigError, MessageError, OutboundError
from nanomdm.interfaces import ITokenHandler
from nanomdm.mdm.checkin import GetToken, parse_checkin
from nanomdm.outbound import open_client
from nanomdm.service import tokens
from nanomdm.service.tokens import HTTPTokenHandler, StaticTokenHandler, TokenFile, read_token
from tests import samples
from tests.web import RawServer, WebServer, listen

MAID = "com.apple.maid"


def message(service_type: str = MAID, **more: Any) -> GetToken:
    parsed = parse_checkin(samples.checkin("GetToken", TokenServiceType=service_type, **more))
    assert isinstance(parsed, GetToken)
    return parsed


class FileTests(SynchronousTestCase):
    """
    L{read_token} and L{StaticTokenHandler}.
    """

    def read(self, content: bytes) -> StaticTokenHandler:
        self.path = Path(self.mktemp())
        self.path.write_bytes(content)
        return read_token(TokenFile(MAID, self.path))

    def test_token(self) -> None:
        handler = self.read(b"eyJ.abc.def")
        verifyObject(ITokenHandler, handler)
        self.assertEqual(handler.service_type, MAID)
        self.path.unlink()
        for _ in range(2):
            self.assertEqual(self.successResultOf(handler.token(message())), b"eyJ.abc.def")
        self.assertNotIn("eyJ", repr(handler))

    def test_endOfLine(self) -> None:
        for content, token in (
            (b"eyJ.abc\n", b"eyJ.abc"),
            (b"eyJ.abc\r\n", b"eyJ.abc"),
            (b" eyJ abc \n\n", b" eyJ abc "),
            (b"two\nlines\n", b"two\nlines\n"),
            (b"\x00binary\n", b"\x00binary\n"),
            (b"\xc3\xa9\n", b"\xc3\xa9\n"),
        ):
            self.assertEqual(self.read(content).content, token)

    def test_useless(self) -> None:
        for content, words in (
            (b"", "is empty"),
            (b"\n", "is empty"),
            (b"\0" * (tokens.LIMIT + 1), f"has more than {tokens.LIMIT} bytes"),
        ):
            error = self.assertRaises(ConfigError, self.read, content)
            self.assertEqual(str(error), f"--token: {self.path}: {words}")
        self.assertEqual(len(self.read(b"\0" * tokens.LIMIT).content), tokens.LIMIT)

    def test_unreadable(self) -> None:
        path = Path(self.mktemp())
        error = self.assertRaises(ConfigError, read_token, TokenFile(MAID, path))
        self.assertEqual(str(error), f"--token: {path}: No such file or directory")


class HTTPTests(TestCase):
    """
    L{HTTPTokenHandler}.
    """

    def setUp(self) -> None:
        self.server = WebServer()
        self.handler = self.configured(listen(self, self.server))

    def configured(self, port: int, clock: Clock | None = None) -> HTTPTokenHandler:
        http = open_client(reactor, clock=clock)
        self.addCleanup(http.close)
        return HTTPTokenHandler(http, f"http://127.0.0.1:{port}/token?site=1")

    def test_interface(self) -> None:
        verifyObject(ITokenHandler, self.handler)
        self.assertIsNone(self.handler.service_type)

    async def test_token(self) -> None:
        self.server.body = b"\0token\n"
        asking = message("com.apple.watch.pairing", TokenParameters={"a": "b"}, UserID="U1")
        self.assertEqual(await self.handler.token(asking), b"\0token\n")
        [asked] = self.server.asked
        self.assertEqual((asked.method, asked.uri), ("POST", "/token?site=1"))
        self.assertEqual(asked.body, asking.raw)
        for name, value in (
            ("Content-Type", "application/xml"),
            ("X-Token-Service-Type", "com.apple.watch.pairing"),
            ("X-Enrollment-ID", "D1:U1"),
            ("X-Enrollment-Type", "User"),
            ("X-Enrollment-ParentID", "D1"),
        ):
            self.assertEqual(asked.header(name), value)

    async def test_unknownType(self) -> None:
        self.server.status = 404
        error = await self.assertFailure(self.handler.token(message()), MessageError)
        self.assertEqual(str(error), "no tokens for TokenServiceType 'com.apple.maid'")

    async def test_typesThatAreNone(self) -> None:
        for service_type in ("a\nX-Enrollment-ID: D2", "a b", "ä", "a\r\n", "x" * 256, "a/b"):
            await self.assertFailure(self.handler.token(message(service_type)), MessageError)
        self.assertEqual(self.server.asked, [])

    async def test_otherStatuses(self) -> None:
        for status in (201, 302, 400, 401, 403, 500):
            self.server.status = status
            error = await self.assertFailure(self.handler.token(message()), OutboundError)
            self.assertIn(f"answered {status}", str(error))

    async def test_empty(self) -> None:
        self.server.body = b""
        await self.assertFailure(self.handler.token(message()), OutboundError)

    async def test_tooLarge(self) -> None:
        self.server.body = b"x" * tokens.LIMIT
        self.assertEqual(await self.handler.token(message()), self.server.body)
        self.server.body += b"x"
        await self.assertFailure(self.handler.token(message()), OutboundError)

    async def test_hanging(self) -> None:
        clock, raw = Clock(), RawServer(b"")
        asking = self.configured(listen(self, raw), clock).token(message())
        await raw.reached
        clock.advance(29.9)
        self.assertNoResult(asking)
        clock.advance(0.1)
        await self.assertFailure(asking, OutboundError)
        await raw.left
        self.assertEqual(clock.getDelayedCalls(), [])

    async def test_cancel(self) -> None:
        raw = RawServer(b"")
        asking = self.configured(listen(self, raw)).token(message())
        await raw.reached
        asking.addErrback(lambda failure: None)
        asking.cancel()
        await raw.left
        self.assertEqual(self.successResultOf(asking), None)
