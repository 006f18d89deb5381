"""
Tests for declarative management and tokens from other servers, from the device's
request to its answer.
"""

from __future__ import annotations

import plistlib
from pathlib import Path
from typing import Any
from unittest.mock import patch

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from nanomdm import tap
from nanomdm.crypto.mac import signature
from nanomdm.outbound import open_client
from nanomdm.service.tokens import TokenFile
from tests import samples
from tests.http.case import Answer, ServerCase
from tests.web import RawServer, WebServer, listen

MAID = "com.apple.maid"


def ask(endpoint: str = "tokens", **more: Any) -> bytes:
    return samples.checkin("DeclarativeManagement", Endpoint=endpoint, **more)


class Case(ServerCase):
    """
    A server, another one that it asks, and one device.
    """

    async def setUp(self) -> None:
        self.other = WebServer()
        self.other.body = b'{"SyncTokens": {}}'
        self.clock: Clock | None = None
        self.url = f"http://127.0.0.1:{listen(self, self.other)}/"

    async def serve_with(self, **settings: Any) -> None:
        def opened(reactor: Any) -> Any:
            return open_client(reactor, clock=self.clock)

        with patch.object(tap, "open_client", opened):
            self.serve(**settings)
        await self.enroll()

    def assertFailed(self, answer: Answer) -> None:
        self.assertEqual((answer.code, answer.body), (500, b"Internal Server Error\n"))


class DeclarativeManagementTests(Case):
    """
    C{--dm}.
    """

    async def test_get(self) -> None:
        await self.serve_with(dm=self.url)
        answer = await self.send(ask("declaration/configuration/com.example.a"))
        self.assertOK(answer, b'{"SyncTokens": {}}')
        self.assertEqual(answer.header("Content-Type"), "application/json")
        [asked] = self.other.asked
        self.assertEqual(asked.uri, "/declaration/configuration/com.example.a")
        self.assertEqual(asked.header("X-Enrollment-ID"), "D1")
        self.assertIsNone(asked.header("Mdm-Signature"))

    async def test_put(self) -> None:
        self.other.body = b""
        await self.serve_with(dm=self.url)
        answer = await self.send(ask("status", Data=b"{}"))
        self.assertOK(answer)
        self.assertIsNone(answer.header("Content-Type"))
        [asked] = self.other.asked
        self.assertEqual((asked.method, asked.uri, asked.body), ("PUT", "/status", b"{}"))

    async def test_keys(self) -> None:
        await self.serve_with(dm=self.url, dm_send_hmac_key="s\u00e9nd", dm_recv_hmac_key="receive")
        self.assertFailed(await self.send(ask()))
        self.other.headers = {
            "X-Hmac-Signature": signature(b"receive", b'{"SyncTokens": {}}').decode()
        }
        self.assertEqual((await self.send(ask())).code, 200)
        expected = signature("s\u00e9nd".encode(), b"").decode()
        self.assertEqual(self.other.asked[0].header("X-Hmac-Signature"), expected)

    async def test_notFound(self) -> None:
        self.other.status = 404
        await self.serve_with(dm=self.url)
        for body in (b"no such declaration", b""):
            self.other.body = body
            answer = await self.send(ask("declaration/asset/gone"))
            self.assertEqual((answer.code, answer.body), (404, body))

    async def test_notAllowed(self) -> None:
        await self.serve_with(dm=self.url)
        for endpoint in ("../tokens", f"{self.url}tokens", "//h/tokens", "tokens?a=b", "%2e%2e"):
            self.assertRefused(await self.send(ask(endpoint)))
        self.assertEqual(self.other.asked, [])

    async def test_strangersAreNotPassedOn(self) -> None:
        await self.serve_with(dm=self.url)
        self.assertRefused(await self.send(ask(udid="D2")))
        self.assertEqual(self.other.asked, [])

    async def test_failures(self) -> None:
        await self.serve_with(dm=self.url)
        self.other.headers = {"Location": "/elsewhere"}
        for status in (302, 401, 403, 503):
            self.other.status = status
            with capturedLogs() as events:
                self.assertFailed(await self.send(ask()))
            [event] = [event for event in events if "error" in event]
            self.assertIn(f"answered {status}", event["error"])

    async def test_hanging(self) -> None:
        """
        Only the requests that need the server wait for it.
        """
        self.clock, self.other.mute = Clock(), True
        await self.serve_with(dm=self.url)
        arrived = self.other.arrived(5)
        hanging = [Deferred.fromCoroutine(self.send(ask())) for _ in range(5)]
        await arrived
        self.assertOK(await self.report("Idle"))
        self.assertOK(await self.send(samples.token_update()))
        for one in hanging:
            self.assertNoResult(one)
        self.clock.advance(30)
        for answer in await gatherResults(hanging):
            self.assertFailed(answer)

    async def test_stop(self) -> None:
        """
        A request that is under way when the server stops is answered.
        """
        self.other.mute = True
        await self.serve_with(dm=self.url)
        arrived = self.other.arrived()
        asking = Deferred.fromCoroutine(self.send(ask()))
        await arrived
        stopped = self.daemon.stopService()
        self.other.unmute()
        self.assertOK(await asking, b'{"SyncTokens": {}}')
        await stopped


class TokenTests(Case):
    """
    C{--token} and C{--token-url}.
    """

    async def get_token(self, service_type: str, **more: Any) -> Answer:
        return await self.send(samples.checkin("GetToken", TokenServiceType=service_type, **more))

    def file(self, content: bytes) -> TokenFile:
        path = Path(self.mktemp())
        path.write_bytes(content)
        return TokenFile(MAID, path)

    async def test_file(self) -> None:
        await self.serve_with(token=(self.file(b"eyJ.a.b\n"),))
        answer = await self.get_token(MAID)
        self.assertEqual(plistlib.loads(answer.body), {"TokenData": b"eyJ.a.b"})
        self.assertRefused(await self.get_token("com.example.other"))

    async def test_url(self) -> None:
        self.other.body = b"from afar"
        await self.serve_with(token=(self.file(b"from here"),), token_url=f"{self.url}t?a=b")
        for service_type, token in ((MAID, b"from here"), ("com.example.other", b"from afar")):
            answer = await self.get_token(service_type)
            self.assertEqual(plistlib.loads(answer.body), {"TokenData": token})
            self.assertEqual(answer.header("Content-Type"), "text/xml; charset=utf-8")
        [asked] = self.other.asked
        self.assertEqual(asked.uri, "/t?a=b")
        self.assertEqual(asked.header("X-Token-Service-Type"), "com.example.other")

    async def test_urlFails(self) -> None:
        await self.serve_with(token_url=self.url)
        self.other.status = 404
        self.assertRefused(await self.get_token(MAID))
        self.other.status = 500
        self.assertFailed(await self.get_token(MAID))

    async def test_watch(self) -> None:
        await self.serve_with(token_url=self.url)
        self.assertRefused(await self.get_token("com.apple.watch.pairing"))
        self.assertEqual(self.other.asked, [])
        answer = await self.get_token("com.apple.watch.pairing", TokenParameters={"a": "b"})
        self.assertEqual(answer.code, 200)

    async def test_dead(self) -> None:
        port = reactor.listenTCP(0, RawServer(b""), interface="127.0.0.1")
        number = port.getHost().port
        await port.stopListening()
        await self.serve_with(token_url=f"http://127.0.0.1:{number}/s3cr3t?key=s3cr3t")
        with capturedLogs() as events:
            self.assertFailed(await self.get_token(MAID))
        self.assertIn(f"127.0.0.1:{number}: connection refused", repr(events))
        self.assertNotIn("s3cr3t", repr([event.get("error") for event in events]))
