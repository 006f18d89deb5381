"""
Tests for L{nanomdm.service.declarative}, against a server on this machine.
"""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from nanomdm.crypto.mac import signature
from nanomdm.errors import MessageError, NotFound, OutboundError, Overloaded
from nanomdm.mdm.checkin import DeclarativeManagement, parse_checkin
from nanomdm.mdm.enrollment import Enrollment, EnrollmentType
from nanomdm.outbound import open_client
from nanomdm.service import declarative
from nanomdm.service.declarative import DeclarativeManagementClient, enrollment_headers
from tests import samples
from tests.web import Asked, RawServer, WebServer, listen

SEND, RECEIVE = b"key to send", b"key to receive"


def message(endpoint: str = "tokens", **more: Any) -> DeclarativeManagement:
    body = samples.checkin("DeclarativeManagement", Endpoint=endpoint, **more)
    parsed = parse_checkin(body)
    assert isinstance(parsed, DeclarativeManagement)
    return parsed


class Case(TestCase):
    """
    A declarative management server and its client.
    """

    def setUp(self) -> None:
        self.server = WebServer()
        self.port = listen(self, self.server)

    def client(
        self,
        send: bytes | None = None,
        receive: bytes | None = None,
        clock: Clock | None = None,
        path: str = "/",
        port: int | None = None,
    ) -> DeclarativeManagementClient:
        http = open_client(reactor, clock=clock)
        self.addCleanup(http.close)
        url = f"http://127.0.0.1:{port or self.port}{path}"
        return DeclarativeManagementClient(http, url, send, receive)

    async def forward(self, *arguments: Any, **more: Any) -> Asked:
        """
        @return: what the server was asked, by its only request.
        """
        self.assertEqual(await self.client().forward(message(*arguments, **more)), b"answer")
        [asked] = self.server.asked
        return asked

    async def assertFails(
        self, client: DeclarativeManagementClient, words: str, asked: DeclarativeManagement
    ) -> None:
        with self.assertRaises(OutboundError) as caught:
            await client.forward(asked)
        self.assertIn(words, str(caught.exception))


class ForwardTests(Case):
    """
    What the server is asked.
    """

    async def test_get(self) -> None:
        asked = await self.forward("declaration-items")
        self.assertEqual((asked.method, asked.uri), ("GET", "/declaration-items"))
        self.assertEqual(asked.body, b"")
        for name in ("Content-Type", "Content-Length", "X-Hmac-Signature"):
            self.assertIsNone(asked.header(name))

    async def test_put(self) -> None:
        asked = await self.forward("status", Data=b'{"StatusItems": {}}')
        self.assertEqual((asked.method, asked.uri), ("PUT", "/status"))
        self.assertEqual(asked.body, b'{"StatusItems": {}}')
        self.assertEqual(asked.header("Content-Type"), "application/json")

    async def test_enrollmentTypes(self) -> None:
        shared = "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"
        for members, id, type, parent in (
            ({}, "D1", "Device", None),
            ({"UserID": "U1"}, "D1:U1", "User", "D1"),
            ({"UserID": shared, "UserShortName": "ann"}, "D1:ann", "Shared iPad", "D1"),
            ({"udid": None, "EnrollmentID": "E1"}, "E1", "User Enrollment (Device)", None),
            (
                {"udid": None, "EnrollmentID": "E1", "EnrollmentUserID": "a@b.example"},
                "E1:a@b.example",
                "User Enrollment",
                "E1",
            ),
        ):
            self.server.asked.clear()
            asked = await self.forward("tokens", **members)
            self.assertEqual(asked.header("X-Enrollment-ID"), id)
            self.assertEqual(asked.header("X-Enrollment-Type"), type)
            self.assertEqual(asked.header("X-Enrollment-ParentID"), parent)

    async def test_paths(self) -> None:
        for path, expected in (("/", "/tokens"), ("/dm/v1/", "/dm/v1/tokens")):
            self.server.asked.clear()
            await self.client(path=path).forward(message())
            self.assertEqual(self.server.asked[0].uri, expected)

    async def test_declarations(self) -> None:
        for endpoint in (
            "declaration/configuration/com.example.test",
            "declaration/activation/8DE64C2A-0C5C-6A1B-9A35-5BB7DE7F3D56",
            "declaration/some.future-type/a_b~c:d@e!f$g&h'i(j)k*l+m,n=o",
            "declaration/asset/..a",
            "declaration/management/...",
        ):
            self.server.asked.clear()
            asked = await self.forward(endpoint)
            self.assertEqual(asked.uri, f"/{endpoint}")


class EndpointTests(SynchronousTestCase):
    """
    What never reaches the server.
    """

    def test_refused(self) -> None:
        names = ["", ".", "..", "a/b", "a//b", "a/", "/a", "a?b", "a#b", "a;b", "a\\b", "a b"]
        names += ["%2e%2e", "%2E", "a%2fb", "a%00", "%", "a%20b", "ä", "a\u2028", "\u202ea", "a\n"]
        names += ["a\r\nb", "a\tb", "\x7f", "\uff0e\uff0e", "a\u0000b", "{a}", '"a"', "a|b"]
        refused = [f"declaration/configuration/{name}" for name in names]
        refused += [f"declaration/{name}/a" for name in names if name != "a/"]
        refused += [
            *("/tokens", "//tokens", "//other.example/tokens", "tokens/", "./tokens", "../tokens"),
            *("http://other.example/tokens", "https:tokens", "tokens?a=b", "tokens#a", "tokens\n"),
            *("Tokens", "token", "statuses", " status", "status ", "declaration", "declaration/"),
            *(
                "declaration/configuration",
                "declaration/a/b/c",
                "declaration//a",
                "declaration-item",
            ),
            *("declaration/../tokens", "declaration/a/../..", "declaration\\a\\b", "to\x00kens"),
            *("tokens/../status", "declaration-items/", "status/..", "x" * 10_000, "*", "\u212a"),
        ]
        # Nobody is asked, so there need not be anybody.
        client = DeclarativeManagementClient(None, "http://127.0.0.1/")  # type: ignore[arg-type]
        enrollment = Enrollment("D1", EnrollmentType.DEVICE)
        for endpoint in refused:
            asked = DeclarativeManagement(enrollment, b"", endpoint, None)
            forwarding = Deferred.fromCoroutine(client.forward(asked))
            error = self.failureResultOf(forwarding, MessageError).value
            self.assertLess(len(str(error)), 700, endpoint)
            self.assertTrue(str(error).isprintable(), endpoint)

    def test_headers(self) -> None:
        """
        Ids that are not ASCII are sent as UTF-8.
        """
        headers = enrollment_headers(Enrollment("D1:é", EnrollmentType.USER, "D1"))
        self.assertEqual(headers[b"X-Enrollment-ID"], b"D1:\xc3\xa9")


class SignatureTests(Case):
    """
    Both keys.
    """

    async def test_sent(self) -> None:
        client = self.client(send=SEND)
        await client.forward(message())
        await client.forward(message("status", Data=b"{}"))
        signatures = [asked.header("X-Hmac-Signature") for asked in self.server.asked]
        expected = [signature(SEND, b"").decode(), signature(SEND, b"{}").decode()]
        self.assertEqual(signatures, expected)

    async def test_received(self) -> None:
        client = self.client(receive=RECEIVE)
        for body in (b"answer", b""):
            self.server.body = body
            self.server.headers = {"X-Hmac-Signature": signature(RECEIVE, body).decode()}
            self.assertEqual(await client.forward(message()), body)

    async def test_badlySigned(self) -> None:
        client = self.client(send=SEND, receive=RECEIVE)
        good = signature(RECEIVE, b"answer").decode()
        for status in (200, 404):
            self.server.status = status
            for header in (
                None,
                "",
                "rubbish",
                good[:-4],
                good.lower(),
                signature(SEND, b"answer").decode(),
                signature(RECEIVE, b"Answer").decode(),
            ):
                self.server.headers = {} if header is None else {"X-Hmac-Signature": header}
                await self.assertFails(client, "is not signed", message())

    async def test_notFound(self) -> None:
        self.server.status = 404
        self.server.headers = {"X-Hmac-Signature": signature(RECEIVE, b"answer").decode()}
        with self.assertRaises(NotFound) as caught:
            await self.client(receive=RECEIVE).forward(message())
        self.assertEqual(caught.exception.body, b"answer")


class AnswerTests(Case):
    """
    What the server may answer, or not.
    """

    async def test_notFound(self) -> None:
        self.server.status = 404
        for body in (b"no such declaration\n", b""):
            self.server.body = body
            with self.assertRaises(NotFound) as caught:
                await self.client().forward(message())
            self.assertEqual(caught.exception.body, body)

    async def test_otherStatuses(self) -> None:
        self.server.headers = {"Location": "/elsewhere"}
        for status in (201, 301, 302, 307, 400, 401, 403, 410, 500, 503):
            self.server.status = status
            await self.assertFails(self.client(), f"answered {status}", message())
        self.server.status, self.server.body = 204, b""
        await self.assertFails(self.client(), "answered 204", message())
        self.assertEqual({asked.uri for asked in self.server.asked}, {"/tokens"})

    async def test_tooLarge(self) -> None:
        self.patch(declarative, "LIMIT", 5)
        await self.assertFails(self.client(), "more than 5 bytes", message())

    async def test_large(self) -> None:
        self.server.body = b"x" * declarative.LIMIT
        self.assertEqual(await self.client().forward(message()), self.server.body)

    async def test_dead(self) -> None:
        port = reactor.listenTCP(0, RawServer(b""), interface="127.0.0.1")
        number = port.getHost().port
        await port.stopListening()
        await self.assertFails(self.client(port=number), "connection refused", message())

    async def test_hanging(self) -> None:
        clock, raw = Clock(), RawServer(b"")
        client = self.client(clock=clock, port=listen(self, raw))
        forwarding = Deferred.fromCoroutine(client.forward(message()))
        await raw.reached
        clock.advance(29.9)
        self.assertNoResult(forwarding)
        clock.advance(0.1)
        await self.assertFailure(forwarding, OutboundError)
        await raw.left
        self.assertEqual(clock.getDelayedCalls(), [])

    async def test_manyWait(self) -> None:
        clock, raw = Clock(), RawServer(b"")
        client = self.client(clock=clock, port=listen(self, raw))
        waiting = [Deferred.fromCoroutine(client.forward(message())) for _ in range(1100)]
        late = Deferred.fromCoroutine(client.forward(message()))
        self.failureResultOf(late, Overloaded)
        await raw.reached
        self.assertLessEqual(raw.clients, 100)
        clock.advance(30)
        for one in waiting:
            await self.assertFailure(one, OutboundError)
        self.assertEqual(clock.getDelayedCalls(), [])
