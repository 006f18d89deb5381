"""
Tests for the authentication proxy, with a server behind it.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionClosed
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from nanomdm.errors import StorageUnavailable
from nanomdm.forwarding import SILENCE
from nanomdm.interfaces import CertificateHolder
from nanomdm.outbound import OutboundClient, open_client
from nanomdm.sim.ca import DeviceIdentity
from nanomdm.sim.signing import sign_like_device
from tests import samples
from tests.http.case import CHECKIN, ServerCase, device
from tests.http.raw_client import RawClient, Received
from tests.http.test_native_tls import NativeTLSCase
from tests.http.test_tls import server, web_ca
from tests.process import DaemonProcess
from tests.test_daemon import DaemonCase
from tests.web import Asked, RawServer, WebServer, listen

MIB = 1 << 20
ASSET = 200 * MIB


class Answers(ServerFactory):
    """
    A server that says what the test lets it say.

    @ivar asked: what its clients sent.
    @ivar clients: the connections.
    """

    noisy = False

    def __init__(self) -> None:
        self.clients: list[_Answering] = []
        self._expected: list[Deferred[_Answering]] = []

    def buildProtocol(self, address: object) -> Protocol:
        return _Answering(self)

    def next(self) -> Deferred[_Answering]:
        """
        @return: fires with the next client, once its request's head is there.
        """
        self._expected.append(Deferred())
        return self._expected[-1]

    def arrived(self, client: _Answering) -> None:
        self.clients.append(client)
        if self._expected:
            self._expected.pop(0).callback(client)


class _Answering(Protocol):
    """
    @ivar data: what the client sent, unless L{keep} is switched off.
    @ivar size: how much that was, with the head.
    @ivar lost: fires when the connection has ended.
    """

    transport: Any

    def __init__(self, server: Answers) -> None:
        self.data = b""
        self.size = 0
        self.keep = True
        self.lost: Deferred[None] = Deferred()
        self._server = server

    def dataReceived(self, data: bytes) -> None:
        self.size += len(data)
        if not self.keep:
            return
        before, self.data = self.data, self.data + data
        if b"\r\n\r\n" not in before and b"\r\n\r\n" in self.data:
            self._server.arrived(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(None)

    def say(self, data: bytes) -> None:
        self.transport.write(data)


class Asset(Resource):
    """
    Makes a large response, as fast as it is taken.

    @ivar produced: bytes so far.
    """

    isLeaf = True
    _PIECE = b"0123456789abcdef" * 4096

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.produced = 0

    def render(self, request: Request) -> int:
        request.setHeader(b"Content-Length", b"%d" % self.size)
        self._request = request
        request.registerProducer(self, False)
        return NOT_DONE_YET

    def resumeProducing(self) -> None:
        """
        Write a piece.
        """
        piece = self._PIECE[: self.size - self.produced]
        self.produced += len(piece)
        self._request.write(piece)
        if self.produced == self.size:
            self._request.unregisterProducer()
            self._request.finish()

    def stopProducing(self) -> None:
        """
        The client is gone.
        """


class ProxyCase(ServerCase):
    """
    A test case with a proxy and a server behind it.
    """

    timeout = 60

    def behind(
        self,
        served: Resource | ServerFactory,
        path: str = "/base",
        identity: DeviceIdentity | None = None,
        **settings: Any,
    ) -> None:
        """
        Start both.
        """
        self.target = listen(self, served, identity)
        scheme, host = ("http", "127.0.0.1") if identity is None else ("https", "localhost")
        url = f"{scheme}://{host}:{self.target}{path}/"
        self.serve(auth_proxy_url=url, **settings)
        self.proxy = self.resource("authproxy")

    async def web(self, path: str = "/base", **settings: Any) -> WebServer:
        """
        A web server behind it, and a device that is enrolled.
        """
        web = WebServer()
        self.behind(web, path, **settings)
        await self.enroll()
        return web

    async def raw(self, **settings: Any) -> Answers:
        """
        The test itself behind it, and a device that is enrolled.
        """
        answers = Answers()
        self.behind(answers, **settings)
        await self.enroll()
        return answers

    def signed(self, body: bytes = b"", identity: DeviceIdentity | None = None) -> str:
        return sign_like_device(identity or device(1), body).decode()

    async def open(
        self,
        target: str = "/authproxy/x",
        method: str = "GET",
        body: bytes | None = None,
        headers: list[str] | None = None,
        version: str = "1.1",
        close: bool = True,
    ) -> RawClient:
        """
        Send a request; by default one that L{device}C{(1)} signed.
        """
        client = await RawClient.connect(self.port)
        self.addCleanup(lambda: None if client.ended.called else client.abort())
        self.ask(client, target, method, body, headers, version, close)
        return client

    def ask(
        self,
        client: RawClient,
        target: str = "/authproxy/x",
        method: str = "GET",
        body: bytes | None = None,
        headers: list[str] | None = None,
        version: str = "1.1",
        close: bool = True,
    ) -> None:
        if headers is None:
            headers = [f"Mdm-Signature: {self.signed(body or b'')}"]
        lines = [f"{method} {target} HTTP/{version}", "Host: mdm.example.com", *headers]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        if close:
            lines.append("Connection: close")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        client.transport.write(head + (body or b""))

    async def get(self, *args: Any, **more: Any) -> Received:
        client = await self.open(*args, **more)
        return await client.ended

    def logged(self, captured: list[Any]) -> dict[str, Any]:
        """
        The request's line in the log.
        """
        lines = [
            event
            for event in captured
            if event["log_format"] == "request" and event["path"].startswith("/authproxy")
        ]
        [line] = lines
        return line


class RequestTests(ProxyCase):
    """
    What the server behind it gets.
    """

    async def test_everything(self) -> None:
        """
        Any method, path, query and body.
        """
        web = await self.web()
        cases = [
            ("GET", "/authproxy/a/b?c=d&e", None, "/base/a/b?c=d&e"),
            ("GET", "/authproxy", None, "/base/"),
            ("GET", "/authproxy/", None, "/base/"),
            ("GET", "/authproxy?x=1", None, "/base/?x=1"),
            ("GET", "/authproxy/a?", None, "/base/a?"),
            ("GET", "/authproxy/a;?b;", None, "/base/a;?b;"),
            ("GET", "/authproxy//a//", None, "/base//a//"),
            (
                "GET",
                "/authproxy/%41%2fb%2Fc%25%20?%41=%20+",
                None,
                "/base/%41%2fb%2Fc%25%20?%41=%20+",
            ),
            ("GET", "/%61uthproxy/%61", None, "/base/%61"),
            ("GET", "http://else.example.com/authproxy/a", None, "/base/a"),
            ("GET", "/authproxy/.../.a./a..b?../..", None, "/base/.../.a./a..b?../.."),
            ("GET", "/authproxy/./%2e/a", None, "/base/./%2e/a"),
            ("DELETE", "/authproxy/a", None, "/base/a"),
            ("POST", "/authproxy/a", b"", "/base/a"),
            ("POST", "/authproxy/a", b"\0body", "/base/a"),
            ("PUT", "/authproxy/" + "a/" * 200, b"b" * 500_000, "/base/" + "a/" * 200),
            ("PROPFIND", "/authproxy/a", b"<x/>", "/base/a"),
        ]
        for method, target, body, uri in cases:
            answer = await self.get(target, method, body)
            self.assertEqual((answer.code, answer.body), (200, b"answer"), target)
            asked = web.asked.pop()
            self.assertEqual((asked.method, asked.uri, asked.body), (method, uri, body or b""))
            self.assertIsNone(asked.header("Transfer-Encoding"))
            self.assertEqual(web.asked, [])

    async def test_topOfTheServer(self) -> None:
        web = await self.web("")
        await self.get("/authproxy//other.example.com/x")
        self.assertEqual(web.asked[0].uri, "//other.example.com/x")

    async def test_headers(self) -> None:
        web = await self.web()
        with capturedLogs() as captured:
            await self.get(
                headers=[
                    f"Mdm-Signature: {self.signed()}",
                    "X-Enrollment-ID: D2",
                    "x-enrollment-id: D3",
                    "X_Enrollment_Id: D4",
                    "X-Enrollment-Type: User",
                    "X-Enrollment-ParentID: D5",
                    "X-Trace-ID: forged",
                    "X-TRACE-id: forged",
                    "x_trace_id: forged",
                    "Mdm_Signature: x",
                    "Connection: close",
                    "Connection: X-Mine,x-other ,Keep-Alive",
                    "X-Mine: 1",
                    "X-OTHER: 1",
                    "Keep-Alive: 1",
                    "TE: trailers",
                    "Trailer: X-End",
                    "Upgrade: websocket",
                    "Proxy-Authorization: Basic x",
                    "Proxy-Connection: keep-alive",
                    "Proxy: http://x",
                    "Expect: nothing",
                    "Accept-Encoding: br",
                    "Cookie: a=b",
                    "Authorization: Bearer x",
                    "User-Agent: mdmclient",
                    "X-Twice: 1",
                    "X-Twice: 2",
                ],
                close=False,
            )
        [asked] = web.asked
        line = self.logged(captured)
        sent = {name: values for name, values in asked.headers.getAllRawHeaders()}
        self.assertEqual(
            {name.lower(): values for name, values in sent.items()},
            {
                b"host": [b"127.0.0.1:%d" % self.target],
                b"x-enrollment-id": [b"D1"],
                b"x-trace-id": [line["trace_id"].encode()],
                b"accept-encoding": [b"br"],
                b"cookie": [b"a=b"],
                b"authorization": [b"Bearer x"],
                b"user-agent": [b"mdmclient"],
                b"x-twice": [b"1", b"2"],
                # Of the connection between the two.
                b"connection": [b"close"],
            },
        )

    async def test_methodsThatAreNotPassedOn(self) -> None:
        web = await self.web()
        for method in ("CONNECT", "TRACE"):
            client = await self.open(method=method, headers=[f"Mdm-Signature: {self.signed()}"])
            self.assertEqual((await client.ended).code, 400)
        self.assertEqual(web.asked, [])

    async def test_chunkedBody(self) -> None:
        web = await self.web()
        client = await self.open(
            method="PUT",
            headers=[f"Mdm-Signature: {self.signed(b'abcde')}", "Transfer-Encoding: chunked"],
        )
        client.transport.write(b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: x\r\n\r\n")
        self.assertEqual((await client.ended).code, 200)
        [asked] = web.asked
        self.assertEqual((asked.body, asked.header("Content-Length")), (b"abcde", "5"))

    async def test_upwards(self) -> None:
        """
        Nothing that is not below the URL can be asked for.
        """
        web = await self.web()
        for rest in (
            "..",
            "../",
            "../secret",
            "a/../../secret",
            "a/..",
            "%2e%2e/secret",
            ".%2E/secret",
            "a%2f..%2f../secret",
            "..%2fsecret",
            "a/%252e%252e/secret",
            "%25252e%25252e/",
            "..\\secret",
            "..%5csecret",
            "a\\..\\b",
            "..;/secret",
            "a/..;x=y/secret",
            "a/%2e%2e%3b/secret",
            "a#b",
            "caf\xe9",
            "x" * 70_000,
        ):
            answer = await self.get(f"/authproxy/{rest}")
            self.assertEqual((answer.code, answer.body), (400, b"Bad Request\n"), rest)
        self.assertEqual(web.asked, [])

    async def test_TLS(self) -> None:
        web = WebServer()
        with patch("nanomdm.tap.open_client", self.trusting(web_ca().certificate)):
            self.behind(web, identity=server(1))
        await self.enroll()
        self.assertEqual((await self.get()).code, 200)
        self.assertEqual(web.asked[0].header("Host"), f"localhost:{self.target}")

    def trusting(self, root: Any) -> Callable[..., OutboundClient]:
        return lambda reactor: open_client(reactor, [root])

    async def test_untrusted(self) -> None:
        web = WebServer()
        self.behind(web, identity=server(1))
        await self.enroll()
        with capturedLogs() as captured:
            answer = await self.get()
        self.assertEqual((answer.code, answer.body), (502, b""))
        self.assertIn("certificate is not accepted", self.logged(captured)["error"])
        self.assertEqual(web.asked, [])


class ResponseTests(ProxyCase):
    """
    What the device gets.
    """

    async def said(self, said: bytes, *, hang_up: bool = False, **asking: Any) -> Received:
        """
        What comes of a server's response.
        """
        if not hasattr(self, "proxy"):
            self.behind(RawServer(said, hang_up=hang_up))
            await self.enroll()
        return await self.get(**asking)

    async def test_asItIs(self) -> None:
        body = gzip.compress(b"body")
        answer = await self.said(
            b"HTTP/1.1 203 Whatever\r\nContent-Type: x/y\r\nContent-Encoding: gzip\r\n"
            b'Content-Length: %d\r\nServer: theirs\r\nDate: then\r\nETag: "x"\r\n'
            b"Set-Cookie: a=b\r\nSet-Cookie: c=d\r\n\r\n" % len(body) + body
        )
        self.assertEqual((answer.code, answer.body, answer.clean), (203, body, True))
        self.assertEqual(
            sorted(answer.headers),
            [
                (b"connection", b"close"),
                (b"content-encoding", b"gzip"),
                (b"content-length", b"%d" % len(body)),
                (b"content-type", b"x/y"),
                (b"date", b"then"),
                (b"etag", b'"x"'),
                (b"server", b"theirs"),
                (b"set-cookie", b"a=b"),
                (b"set-cookie", b"c=d"),
            ],
        )

    async def test_hopByHop(self) -> None:
        answer = await self.said(
            b"HTTP/1.1 200 OK\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: 1\r\n"
            b"Proxy-Authenticate: Basic\r\nTrailer: X\r\nUpgrade: h2c\r\nTE: x\r\nX-End: 1\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nX: 1\r\n\r\n"
        )
        names = {name for name, _ in answer.headers}
        self.assertEqual(names, {b"server", b"date", b"x-end", b"transfer-encoding", b"connection"})
        self.assertEqual(answer.values(b"Connection"), [b"close"])
        self.assertEqual(answer.values(b"Transfer-Encoding"), [b"chunked"])
        self.assertEqual(answer.dechunked, b"body")

    async def test_ambiguousHeaders(self) -> None:
        """
        What can not be said over again as it is.
        """
        answer = await self.said(
            b"HTTP/1.1 200 OK\r\nX-NUL: a\0b\r\nContent_Length: 9\r\nContent-Length: 4\r\n\r\nbody"
        )
        names = {name for name, _ in answer.headers}
        self.assertEqual(names, {b"server", b"date", b"x-nul", b"content-length", b"connection"})
        self.assertEqual((answer.values(b"X-NUL"), answer.body), ([b"a b"], b"body"))

    async def test_redirect(self) -> None:
        web = await self.web()
        web.status, web.headers = 302, {"Location": "/elsewhere"}
        answer = await self.get()
        self.assertEqual((answer.code, answer.values(b"Location")), (302, [b"/elsewhere"]))
        self.assertEqual(len(web.asked), 1)

    async def test_otherStatuses(self) -> None:
        """
        Those too that mean something to devices elsewhere: here it is the server's word.
        """
        web = await self.web()
        for code in (201, 206, 400, 401, 403, 404, 410, 418, 500, 502, 503):
            web.status = code
            answer = await self.get()
            self.assertEqual((answer.code, answer.body), (code, b"answer"))

    async def test_HEAD(self) -> None:
        said = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nX-A: b\r\n\r\n"
        answer = await self.said(said, method="HEAD")
        self.assertEqual((answer.code, answer.body), (200, b""))
        self.assertEqual(answer.values(b"Content-Length"), [b"1000"])
        self.assertEqual(answer.values(b"X-A"), [b"b"])

    async def test_HEADWithoutLength(self) -> None:
        answer = await self.said(b"HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n", method="HEAD")
        self.assertEqual((answer.code, answer.body), (200, b""))
        self.assertEqual(answer.values(b"Content-Length"), [])
        self.assertEqual(answer.values(b"Transfer-Encoding"), [])

    async def test_withoutABody(self) -> None:
        for code in (b"204 No Content", b"304 Not Modified"):
            self.behind(RawServer(b"HTTP/1.1 %s\r\nETag: x\r\n\r\n" % code))
            await self.enroll()
            answer = await self.get()
            self.assertEqual((answer.status, answer.body), (b"HTTP/1.1 " + code, b""))
            self.assertEqual(answer.values(b"Content-Length"), [])
            self.assertEqual(answer.values(b"Transfer-Encoding"), [])
            self.assertEqual(answer.values(b"ETag"), [b"x"])

    async def test_emptyBody(self) -> None:
        answer = await self.said(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        self.assertEqual((answer.code, answer.body), (200, b""))
        self.assertEqual(answer.values(b"Content-Length"), [b"0"])
        self.assertEqual(answer.values(b"Content-Type"), [])

    async def test_bodyToTheEndOfTheConnection(self) -> None:
        """
        C{HTTP/1.0}, to both sides.
        """
        said = b"HTTP/1.0 200 OK\r\nContent-Type: x/y\r\n\r\nbody"
        answer = await self.said(said, hang_up=True)
        self.assertEqual((answer.dechunked, answer.clean), (b"body", True))
        answer = await self.said(said, hang_up=True, version="1.0")
        self.assertEqual((answer.body, answer.clean), (b"body", True))
        self.assertEqual(answer.values(b"Transfer-Encoding"), [])

    async def test_interimResponse(self) -> None:
        """
        They are about the connection to the server.
        """
        answer = await self.said(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"
        )
        self.assertEqual((answer.code, answer.body), (200, b"body"))
        self.assertEqual(answer.values(b"Link"), [])

    async def test_severalOnOneConnection(self) -> None:
        """
        Pipelined ones too, and they do not mix.
        """
        web = await self.web()
        web.body = lambda body: body * 300_000
        client = await RawClient.connect(self.port)
        for body in (b"a", b"b", b"c"):
            headers = [f"Mdm-Signature: {self.signed(body)}"]
            self.ask(client, "/authproxy/x", "POST", body, headers, close=body == b"c")
        received = await client.ended
        for body in (b"b", b"c"):
            self.assertEqual(received.body.count(body * 300_000), 1)
        self.assertEqual(client.data.count(b"HTTP/1.1 200 OK"), 3)


class IdentityTests(ProxyCase):
    """
    Who may ask.
    """

    async def refused(self, answer: Received, body: bytes, web: WebServer) -> None:
        self.assertEqual((answer.code, answer.body), (400, body))
        self.assertEqual(web.asked, [])

    async def test_noCertificate(self) -> None:
        web = await self.web()
        await self.refused(await self.get(headers=[]), b"Bad Request\n", web)

    async def test_signatureOfSomethingElse(self) -> None:
        web = await self.web()
        headers = [f"Mdm-Signature: {self.signed(b'other')}"]
        answer = await self.get(method="PUT", body=b"body", headers=headers)
        await self.refused(answer, b"Bad Request\n", web)

    async def test_notAssociated(self) -> None:
        web = await self.web()
        with capturedLogs() as captured:
            answer = await self.get(headers=[f"Mdm-Signature: {self.signed(b'', device(2))}"])
        await self.refused(answer, b"Unauthorized\n", web)
        self.assertIn("is not associated", self.logged(captured)["error"])

    async def test_whose(self) -> None:
        web = await self.web()
        await self.enroll("D2", device(2))
        await self.get(headers=[f"Mdm-Signature: {self.signed(b'', device(2))}"])
        await self.get()
        ids = [asked.header("X-Enrollment-ID") for asked in web.asked]
        self.assertEqual(ids, ["D2", "D1"])

    async def test_supersededCertificate(self) -> None:
        """
        It works for as long as with other requests.
        """
        web = await self.web(superseded_identity_grace=3600)
        await self.enroll(identity=device(2))
        self.assertEqual((await self.get()).code, 200)
        web.asked.clear()
        await self.query("UPDATE cert_auth_associations SET updated_at = '2026-01-01 00:00:00'")
        answer = await self.get()
        await self.refused(answer, b"Unauthorized\n", web)
        newer = [f"Mdm-Signature: {self.signed(b'', device(2))}"]
        self.assertEqual((await self.get(headers=newer)).code, 200)

    async def test_certificateHeader(self) -> None:
        """
        It is for this server only, however it is written.
        """
        web = WebServer()
        self.behind(web, cert_header="X-Client-Cert")
        certificate = f":{_base64(device(1).der)}:"
        await self.send_with_header(certificate)
        answer = await self.get(
            headers=[f"X-Client-Cert: {certificate}", "X_Client_Cert: forged", "X-Other: 1"]
        )
        self.assertEqual(answer.code, 200)
        [asked] = web.asked
        self.assertEqual(asked.header("X-Enrollment-ID"), "D1")
        self.assertEqual(asked.header("X-Other"), "1")
        self.assertNotIn(b"cert", b" ".join(_names(asked)).lower())

    async def send_with_header(self, certificate: str) -> None:
        headers = {"X-Client-Cert": certificate, "Content-Type": CHECKIN}
        for body in (samples.authenticate(), samples.token_update()):
            self.assertOK(await self.request("PUT", "/mdm", body, headers))

    async def test_storageAway(self) -> None:
        web = await self.web()
        self.storage.enrollment_of_certificate = lambda sha256: fail(StorageUnavailable("away"))
        answer = await self.get()
        self.assertEqual(answer.code, 500)
        self.assertEqual(web.asked, [])

    async def test_notConfigured(self) -> None:
        self.serve()
        self.assertEqual((await self.get()).code, 404)


class FailureTests(ProxyCase):
    """
    Servers and clients that do not do their part.
    """

    async def test_unreachable(self) -> None:
        await self.web()
        self.proxy._url = "http://127.0.0.1:9/"
        with capturedLogs() as captured:
            answer = await self.get()
        self.assertEqual((answer.code, answer.body), (502, b""))
        self.assertEqual(answer.values(b"Content-Length"), [b"0"])
        self.assertEqual(answer.values(b"Content-Type"), [])
        line = self.logged(captured)
        self.assertEqual(line["error"], "127.0.0.1:9: connection refused")
        self.assertEqual((line["id"], line["code"]), ("D1", 502))

    async def test_noHTTP(self) -> None:
        for said in (
            b"SSH-2.0\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            b"HTTP/1.1 1000 Large\r\n\r\n",
            b"HTTP/1.1 -1 Small\r\n\r\n",
            b"",
        ):
            self.behind(RawServer(said, hang_up=True))
            await self.enroll()
            answer = await self.get()
            self.assertEqual((answer.code, answer.body), (502, b""), said)

    async def test_diesInTheMiddle(self) -> None:
        """
        What the device has got does not look complete.
        """
        for head in (b"Content-Length: 10", b"Transfer-Encoding: chunked"):
            body = b"5\r\nhello\r\n" if b"chunked" in head else b"hello"
            answers = await self.raw()
            with capturedLogs() as captured:
                asked = answers.next()
                client = await self.open()
                target = await asked
                target.say(b"HTTP/1.1 200 OK\r\n%s\r\n\r\n%s" % (head, body))
                await client.arrived(1)
                target.transport.loseConnection()
                received = await client.ended
            self.assertEqual((received.code, received.clean), (200, False))
            self.assertFalse(received.body.endswith(b"0\r\n\r\n"))
            line = self.logged(captured)
            self.assertIn("the connection was closed in the middle", line["error"])
            self.assertEqual(line["bytes"], 5)

    async def test_resetInTheMiddle(self) -> None:
        """
        The end of such a body is that of the connection, but not any end.
        """
        answers = await self.raw()
        asked = answers.next()
        client = await self.open(version="1.0")
        target = await asked
        target.say(b"HTTP/1.1 200 OK\r\n\r\nhello")
        await client.arrived(1)
        target.transport.abortConnection()
        self.assertFalse((await client.ended).clean)

    async def test_silent(self) -> None:
        """
        A server that does not answer.
        """
        answers = await self.raw()
        clock = self.proxy._http.clock = Clock()
        asked = answers.next()
        with capturedLogs() as captured:
            client = await self.open()
            target = await asked
            clock.advance(SILENCE - 1)
            self.assertEqual(len(clock.getDelayedCalls()), 1)
            clock.advance(1)
            await target.lost
            received = await client.ended
        self.assertEqual((received.code, received.body), (502, b""))
        self.assertIn("nothing came for 60 s", self.logged(captured)["error"])
        self.assertEqual(clock.getDelayedCalls(), [])

    async def test_silentInTheMiddle(self) -> None:
        answers = await self.raw()
        clock = self.proxy._http.clock = Clock()
        asked = answers.next()
        client = await self.open()
        target = await asked
        target.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        await self.sees(client, b"hello")
        clock.advance(SILENCE - 1)
        target.say(b"wor")
        await self.sees(client, b"hellowor")
        clock.advance(SILENCE - 1)
        self.assertEqual(len(clock.getDelayedCalls()), 1)
        clock.advance(1)
        await target.lost
        self.assertFalse((await client.ended).clean)
        self.assertEqual(clock.getDelayedCalls(), [])

    async def sees(self, client: RawClient, body: bytes) -> None:
        size = 0
        while not client.data.endswith(body):
            size = client.size
            await client.arrived(size + 1)

    async def test_clientGoesAwayWaiting(self) -> None:
        """
        Before the answer.
        """
        answers = await self.raw()
        with capturedLogs() as captured:
            asked = answers.next()
            client = await self.open()
            target = await asked
            client.abort()
            await target.lost
            await self.idle()
        line = self.logged(captured)
        self.assertEqual((line["code"], line["gone"]), (499, True))

    async def test_clientGoesAwayInTheMiddle(self) -> None:
        answers = await self.raw()
        with capturedLogs() as captured:
            asked = answers.next()
            client = await self.open()
            target = await asked
            target.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
            await self.sees(client, b"hello")
            client.abort()
            await target.lost
            await self.idle()
        line = self.logged(captured)
        self.assertEqual((line["code"], line["gone"], line["bytes"]), (200, True, 5))

    async def test_clientGoesAwayBeforeItIsKnown(self) -> None:
        """
        While the storage looks it up.
        """
        answers = await self.raw()
        looked: Deferred[Any] = Deferred()
        asked: Deferred[None] = Deferred()

        def look(sha256: str) -> Deferred[Any]:
            asked.callback(None)
            return looked

        self.storage.enrollment_of_certificate = look
        client = await self.open()
        await asked
        client.abort()
        await client.ended
        while self.site._channels:
            await deferLater(reactor, 0, lambda: None)
        looked.callback(CertificateHolder("D1"))
        await self.idle()
        self.assertEqual(answers.clients, [])

    async def idle(self) -> None:
        """
        Wait until no request is passed on any more.
        """
        while self.proxy._running:
            await deferLater(reactor, 0, lambda: None)

    async def test_tooMany(self) -> None:
        answers = await self.raw()
        self.proxy._limit = 2
        for _ in range(2):
            asked = answers.next()
            await self.open()
            await asked
        answer = await self.get()
        self.assertEqual(answer.code, 503)
        self.assertEqual(answer.values(b"Retry-After"), [b"1"])
        for target in answers.clients:
            target.say(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await self.idle()
        asked = answers.next()
        client = await self.open()
        (await asked).say(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        self.assertEqual((await client.ended).code, 200)

    async def test_draining(self) -> None:
        """
        A stop waits for what is on its way.
        """
        answers = await self.raw()
        asked = answers.next()
        client = await self.open(close=False)
        target = await asked
        target.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        await self.sees(client, b"hello")
        stopped = self.daemon.stopService()
        self.daemon.stopService = lambda: None
        await deferLater(reactor, 0, lambda: None)
        self.assertFalse(stopped.called)
        target.say(b"world")
        received = await client.ended
        self.assertEqual((received.body, received.clean), (b"helloworld", True))
        await stopped

    async def test_memoryOfTheBody(self) -> None:
        """
        It is given back when the server has it, whenever its answer ends.
        """
        answers = await self.raw()
        body = b"x" * 500_000
        asked = answers.next()
        client = await self.open(method="PUT", body=body)
        target = await asked
        target.say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        await self.sees(client, b"hello")
        self.assertEqual(self.site.budget.used, 0)
        target.say(b"world")
        self.assertTrue((await client.ended).clean)


class LargeTests(ProxyCase):
    """
    Bodies that are larger than what anybody should hold.
    """

    async def test_slowClient(self) -> None:
        """
        The server is slowed down to what the device takes.
        """
        asset = Asset(ASSET)
        self.behind(asset)
        await self.enroll()
        client = await self.open()
        client.keep = False
        most = 0
        while client.size < ASSET:
            client.pause()
            for _ in range(5):
                await deferLater(reactor, 0, lambda: None)
            client.resume()
            await client.arrived(min(client.size + MIB, ASSET))
            most = max(most, asset.produced - client.size)
        await client.ended
        self.assertEqual(asset.produced, ASSET)
        # Most of it is in the kernel's buffers.
        self.assertLess(most, 32 * MIB)

    async def test_clientThatDoesNotRead(self) -> None:
        asset = Asset(ASSET)
        self.behind(asset)
        await self.enroll()
        clock = self.proxy._http.clock = Clock()
        with capturedLogs() as captured:
            client = await self.open()
            client.keep = False
            await client.arrived(1)
            client.pause()
            produced = -1
            while asset.produced != produced:
                produced = asset.produced
                for _ in range(100):
                    await deferLater(reactor, 0, lambda: None)
            self.assertLess(produced, 32 * MIB)
            clock.advance(SILENCE)
            client.resume()
            received = await client.ended
        self.assertFalse(received.clean)
        self.assertEqual(self.logged(captured)["error"], "the client read nothing for 60 s")
        self.assertEqual(clock.getDelayedCalls(), [])

    async def test_clientGoesAway(self) -> None:
        asset = Asset(ASSET)
        self.behind(asset)
        await self.enroll()
        client = await self.open()
        client.keep = False
        await client.arrived(MIB)
        gone = asset._request.notifyFinish()
        client.abort()
        await self.assertFailure(gone, ConnectionClosed)
        self.assertLess(asset.produced, ASSET)

    async def test_slowServer(self) -> None:
        """
        A large body waits until the server takes it.
        """
        answers = await self.raw(max_body_size=32 * MIB)
        clock = self.proxy._http.clock = Clock()
        body = bytes(range(256)) * (20 * MIB // 256)
        asked = answers.next()
        client = await self.open(method="PUT", body=body)
        target = await asked
        for _ in range(5):
            target.transport.pauseProducing()
            for _ in range(20):
                await deferLater(reactor, 0, lambda: None)
            # Each time something was taken, there is time again.
            clock.advance(SILENCE - 1)
            before = len(target.data)
            target.transport.resumeProducing()
            while len(target.data) < min(before + 3 * MIB, len(body)):
                await deferLater(reactor, 0, lambda: None)
        while not target.data.endswith(body[-1000:]) or len(target.data) < len(body):
            await deferLater(reactor, 0, lambda: None)
        self.assertEqual(target.data.partition(b"\r\n\r\n")[2], body)
        target.say(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        self.assertEqual((await client.ended).code, 200)


class UploadTests(ProxyCase):
    """
    Bodies that are passed on as they come, where the identity does not need them.
    """

    async def raw(self, **settings: Any) -> Answers:
        answers = Answers()
        self.behind(answers, cert_header="X-Client-Cert", **settings)
        self.certificate = f":{_base64(device(1).der)}:"
        headers = {"X-Client-Cert": self.certificate, "Content-Type": CHECKIN}
        for body in (samples.authenticate(), samples.token_update()):
            self.assertOK(await self.request("PUT", "/mdm", body, headers))
        return answers

    async def upload(self, *headers: str, certificate: bool = True) -> RawClient:
        """
        Send the head of a request.
        """
        own = [f"X-Client-Cert: {self.certificate}"] if certificate else []
        return await self.open(method="PUT", headers=[*own, *headers], close=False)

    async def has(self, target: _Answering, end: bytes) -> None:
        while not target.data.endswith(end):
            await deferLater(reactor, 0, lambda: None)

    OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"

    async def test_inParts(self) -> None:
        answers = await self.raw()
        asked = answers.next()
        client = await self.upload("Content-Length: 10")
        client.transport.write(b"12345")
        target = await asked
        await self.has(target, b"\r\n\r\n12345")
        self.assertIn(b"\r\nContent-Length: 10\r\n", target.data)
        client.transport.write(b"67890")
        await self.has(target, b"\r\n\r\n1234567890")
        target.say(self.OK)
        await client.arrived(1)
        # The connection goes on.
        asked = answers.next()
        headers = [f"X-Client-Cert: {self.certificate}"]
        self.ask(client, method="POST", body=b"again", headers=headers)
        await self.has(await asked, b"\r\n\r\nagain")
        answers.clients[-1].say(self.OK)
        await client.ended
        self.assertEqual(client.data.count(b"HTTP/1.1 200 OK"), 2)

    async def test_chunks(self) -> None:
        answers = await self.raw()
        asked = answers.next()
        client = await self.upload("Transfer-Encoding: chunked", "Connection: close")
        client.transport.write(b"3\r\nabc\r\n")
        target = await asked
        await self.has(target, b"\r\n\r\n3\r\nabc\r\n")
        self.assertEqual(target.data.count(b"Transfer-Encoding: chunked"), 1)
        client.transport.write(b"2\r\nde\r\n0\r\n\r\n")
        await self.has(target, b"abc\r\n2\r\nde\r\n0\r\n\r\n")
        target.say(self.OK)
        self.assertEqual((await client.ended).body, b"OK")

    async def test_continue(self) -> None:
        """
        The client is told to go on when there is somebody to take it.
        """
        answers = await self.raw()
        looked: Deferred[Any] = Deferred()
        self.storage.enrollment_of_certificate = lambda sha256: looked
        asked = answers.next()
        client = await self.upload("Content-Length: 4", "Expect: 100-Continue", "Connection: close")
        while not self.proxy._running:
            await deferLater(reactor, 0, lambda: None)
        self.assertEqual(client.data, b"")
        looked.callback(CertificateHolder("D1"))
        target = await asked
        await client.arrived(1)
        self.assertEqual(client.data, b"HTTP/1.1 100 Continue\r\n\r\n")
        self.assertNotIn(b"Expect", target.data)
        client.transport.write(b"body")
        await self.has(target, b"\r\n\r\nbody")
        target.say(self.OK)
        await client.ended
        self.assertTrue(client.data.endswith(b"OK"))

    async def test_refused(self) -> None:
        """
        Before it is sent, or while.
        """
        answers = await self.raw()
        for headers, sent in (
            (["Content-Length: 100000", "Expect: 100-continue"], b""),
            (["Content-Length: 100000"], b"x" * 50_000),
            (["Content-Length: 100000"], b"x" * 100_000),
            (["Transfer-Encoding: chunked"], b"5\r\nhello\r\n"),
        ):
            client = await self.upload(*headers, certificate=False)
            client.transport.write(sent)
            answer = await client.ended
            self.assertEqual((answer.code, answer.body), (400, b"Bad Request\n"))
            self.assertEqual(answer.values(b"Connection"), [b"close"])
        self.assertEqual(answers.clients, [])

    async def test_unreachable(self) -> None:
        await self.raw()
        self.proxy._url = "http://127.0.0.1:9/"
        client = await self.upload("Content-Length: 100000")
        client.transport.write(b"x" * 50_000)
        answer = await client.ended
        self.assertEqual((answer.code, answer.body), (502, b""))

    async def test_answeredBeforeItsEnd(self) -> None:
        answers = await self.raw()
        asked = answers.next()
        client = await self.upload("Content-Length: 100000")
        client.transport.write(b"x" * 50_000)
        target = await asked
        target.say(b"HTTP/1.1 413 Large\r\nContent-Length: 5\r\n\r\nlarge")
        answer = await client.ended
        self.assertEqual((answer.code, answer.body), (413, b"large"))
        self.assertEqual(answer.values(b"Connection"), [b"close"])
        await target.lost

    async def test_serverGoesAway(self) -> None:
        answers = await self.raw()
        asked = answers.next()
        client = await self.upload("Content-Length: 100000")
        client.transport.write(b"x" * 50_000)
        (await asked).transport.abortConnection()
        self.assertEqual((await client.ended).code, 502)

    async def test_clientGoesAway(self) -> None:
        answers = await self.raw()
        asked = answers.next()
        client = await self.upload("Content-Length: 100000")
        client.transport.write(b"x" * 50_000)
        target = await asked
        client.abort()
        await target.lost

    async def test_tooLarge(self) -> None:
        answers = await self.raw(max_body_size=100_000)
        client = await self.upload("Content-Length: 100001", "Expect: 100-continue")
        self.assertEqual((await client.ended).code, 413)
        self.assertEqual(answers.clients, [])
        asked = answers.next()
        client = await self.upload("Transfer-Encoding: chunked")
        target = await asked
        for _ in range(11):
            client.transport.write(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
        answer = await client.ended
        self.assertEqual(answer.code, 413)
        await target.lost
        self.assertNotIn(b"\r\n0\r\n", target.data)

    async def test_badChunk(self) -> None:
        answers = await self.raw()
        asked = answers.next()
        client = await self.upload("Transfer-Encoding: chunked")
        target = await asked
        client.transport.write(b"no chunk\r\n")
        self.assertEqual((await client.ended).code, 400)
        await target.lost

    async def test_slowServer(self) -> None:
        """
        The client is slowed down to what it takes, and nothing is held.
        """
        answers = await self.raw(max_body_size=ASSET)
        asked = answers.next()
        client = await self.upload(f"Content-Length: {ASSET}", "Connection: close")
        target = await asked
        target.transport.pauseProducing()
        target.keep = False
        sender = Sender(client.transport, ASSET)
        client.transport.registerProducer(sender, False)
        produced = -1
        while sender.produced != produced:
            produced = sender.produced
            for _ in range(100):
                await deferLater(reactor, 0, lambda: None)
        self.assertLess(produced, 32 * MIB)
        self.assertEqual(self.site.budget.used, 0)
        target.transport.resumeProducing()
        while target.size < ASSET:
            await deferLater(reactor, 0, lambda: None)
        target.say(self.OK)
        self.assertEqual((await client.ended).code, 200)


class NativeTLSTests(NativeTLSCase):
    """
    The identity of the TLS session.
    """

    async def test_upload(self) -> None:
        """
        Both ways, and as it comes.
        """
        web = WebServer()
        web.body = lambda body: body[::-1]
        target = listen(self, web)
        self.serve_tls(auth_proxy_url=f"http://127.0.0.1:{target}")
        for message in (samples.authenticate(), samples.token_update()):
            self.assertEqual((await self.ask(message, device(1)))[0], 200)
        body = bytes(range(256)) * 20_000
        answer = await self.ask(body, device(1), path="/authproxy/x", Mdm_Signature="forged")
        self.assertEqual(answer, (200, body[::-1]))
        [asked] = web.asked
        self.assertEqual(asked.header("X-Enrollment-ID"), "D1")
        self.assertEqual(asked.body, body)
        self.assertIsNone(asked.header("Mdm-Signature"))
        self.assertTrue(self.resource("authproxy").streams_bodies)

    async def test_noCertificate(self) -> None:
        web = WebServer()
        self.serve_tls(auth_proxy_url=f"http://127.0.0.1:{listen(self, web)}")
        answer = await self.ask(b"body", path="/authproxy/x")
        self.assertEqual(answer, (400, b"Bad Request\n"))
        self.assertEqual(web.asked, [])


class Sender:
    """
    Sends a body.

    @ivar produced: bytes so far.
    """

    def __init__(self, transport: Any, size: int) -> None:
        self.produced = 0
        self._transport = transport
        self._size = size

    def resumeProducing(self) -> None:
        """
        Write a piece.
        """
        piece = b"x" * min(65536, self._size - self.produced)
        self.produced += len(piece)
        self._transport.write(piece)
        if self.produced == self._size:
            self._transport.unregisterProducer()

    def stopProducing(self) -> None:
        """
        The server is gone.
        """


class MemoryTests(DaemonCase):
    """
    The daemon as a process.
    """

    async def test_largeAsset(self) -> None:
        """
        It takes no more memory, not even when the client stops reading.
        """
        asset = Asset(ASSET)
        target = listen(self, asset)
        daemon = self.start("--auth-proxy-url", f"http://127.0.0.1:{target}")
        port = await daemon.listening
        await self.enroll(port, "D1")
        before = _peak(daemon)
        client = await RawClient.connect(port)
        client.keep = False
        head = b"GET /authproxy/x HTTP/1.1\r\nConnection: close\r\nMdm-Signature: %s\r\n\r\n"
        client.transport.write(head % sign_like_device(device(1), b""))
        for part in range(1, 5):
            await client.arrived(part * ASSET // 5)
            client.pause()
            for _ in range(1000):
                await deferLater(reactor, 0, lambda: None)
            client.resume()
        await client.ended
        self.assertGreaterEqual(client.size, ASSET)
        self.assertLess(_peak(daemon) - before, 20 * MIB)


def _peak(daemon: DaemonProcess) -> int:
    """
    @return: bytes of memory that a process has had at most.
    """
    status = Path(f"/proc/{daemon.transport.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) << 10


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _names(asked: Asked) -> list[bytes]:
    return [name for name, _ in asked.headers.getAllRawHeaders()]
