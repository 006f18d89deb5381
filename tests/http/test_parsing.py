"""
Tests for how requests are parsed, and for those that no resource gets to see.
"""

from __future__ import annotations

from twisted.internet.interfaces import ISSLTransport
from twisted.logger import capturedLogs
from twisted.protocols.basic import LineReceiver
from twisted.web import http
from zope.interface import directlyProvides

from nanomdm.http.endpoint import Folder
from tests.http.memory import SiteCase

HEAD = b"PUT /slow?key=secret HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
SMALL = b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"
BAD = (400, b"Bad Request")


class ParsingTests(SiteCase):
    """
    Parsing takes time in proportion to what arrives.
    """

    def setUp(self) -> None:
        super().setUp()
        self.parsed = 0
        original = LineReceiver.dataReceived

        def counting(receiver: LineReceiver, data: bytes) -> None:
            self.parsed += len(receiver._buffer) + len(data)
            original(receiver, data)

        self.patch(LineReceiver, "dataReceived", counting)

    def feed(self, data: bytes, size: int = 100) -> bytes:
        """
        Send in small segments.
        """
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        answer = self.send(self.connect(), *pieces)
        self.assertLess(self.parsed, 2 * len(data) + 1000)
        return answer

    def test_longLine(self) -> None:
        answer = self.feed(b"GET /" + b"x" * 1_000_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertTrue(answer.startswith(b"HTTP/1.1 404 "), answer[:50])

    def test_lineFeedsAlone(self) -> None:
        """
        They end no line, and must not look like it either.
        """
        self.assertRefused(self.feed(b"GET /" + b"x\n" * 500_000 + b"\r\n"), *BAD)

    def test_endlessLine(self) -> None:
        self.assertRefused(self.feed(b"x" * 1_100_000, 1000), *BAD)

    def test_everySplit(self) -> None:
        """
        Wherever a head is cut in two, and in single bytes.
        """
        request = b"PUT /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
        for cut in range(1, len(request)):
            transport = self.connect()
            self.send(transport, request[:cut], request[cut:] + request)
            self.answer()
            self.answer()
            self.assertEqual(transport.value().count(b"200 OK"), 2, cut)
        transport = self.connect()
        self.send(transport, *(bytes([byte]) for byte in request))
        self.assertEqual(set(self.endpoint.bodies), {b"abc"})

    def test_foldedHeader(self) -> None:
        """
        Each continuation copies what is before it, so there may not be many.
        """
        fold = b" x\r\n"
        few = SMALL[:-2] + b"X: x\r\n" + fold * 900 + b"\r\n"
        self.send(self.connect(), few)
        self.assertEqual(len(self.endpoint.bodies), 1)
        many = SMALL[:-2] + b"X: x\r\n" + fold * 1000 + b"\r\n"
        self.assertRefused(self.send(self.connect(), many), *BAD)

    def test_linesOfEachRequest(self) -> None:
        transport = self.connect()
        for _ in range(3):
            self.send(transport, SMALL[:-2] + b"X: y\r\n" * 450 + b"\r\n")
            self.answer()
        self.assertEqual(transport.value().count(b"200 OK"), 3)

    def test_pathOfSlashes(self) -> None:
        asked = []
        original = Folder.getChild
        self.patch(Folder, "getChild", lambda *args: asked.append(args[1]) or original(*args))
        answer = self.send(self.connect(), b"GET " + b"/" * 1_000_000 + b" HTTP/1.1\r\n\r\n")
        self.assertTrue(answer.startswith(b"HTTP/1.1 404 "))
        self.assertEqual(asked, [b""])


class RefusalTests(SiteCase):
    """
    Requests that are refused before a resource sees them.
    """

    def refused(self, request: bytes, code: int, title: bytes, **expected: object) -> None:
        transport = self.connect()
        with capturedLogs() as events:
            answer = self.send(transport, request)
        self.assertRefused(answer, code, title)
        self.assertLogged(events, code=code, **expected)
        self.assertEqual(self.endpoint.bodies, [])
        transport.closed()
        self.assertClean()

    def test_malformed(self) -> None:
        reason = "not a well-formed HTTP request"
        for request in (b"nonsense\r\n\r\n", b"GET / x HTTP/1.1\r\n\r\n", b"\x16\x03\x01\r\n"):
            self.refused(request, *BAD, error=reason, method=None, path=None)
        known = {"error": reason, "method": "PUT", "path": "/slow"}
        start = b"PUT /slow?key=secret HTTP/1.1\r\n"
        for rest in (
            b"Content-Length: x\r\n\r\n",
            b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n",
            b"nonsense\r\nHost: a\r\n\r\n",
            b"Transfer-Encoding: chunked\r\n\r\nx\r\n",
        ):
            self.refused(start + rest, *BAD, **known)

    def test_tooLong(self) -> None:
        reason = "request line and headers are too long"
        self.refused(b"x" * (1 << 21), *BAD, error=reason, method=None)
        long = b"GET /slow HTTP/1.1\r\nX: " + b"x" * (1 << 20) + b"\r\n\r\n"
        self.refused(long, *BAD, error=reason, path="/slow")

    def test_tooLarge(self) -> None:
        expected = {"error": "the body is too large", "method": "PUT", "path": "/slow"}
        self.refused(HEAD % 11, 413, b"Request Entity Too Large", **expected)
        chunks = (
            b"PUT /slow HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"8\r\n12345678\r\n" * 2
        )
        self.refused(chunks + b"0\r\n\r\n", 413, b"Request Entity Too Large", **expected)

    def test_noPath(self) -> None:
        for method, target in (
            ("OPTIONS", "*"),
            ("GET", "*"),
            ("GET", "xslow"),
            ("CONNECT", "a:443"),
            ("GET", "ftp://a/slow"),
        ):
            self.refused(
                f"{method} {target} HTTP/1.1\r\n\r\n".encode(),
                *BAD,
                error="the request is for no path",
                method=method,
                path=target,
            )

    def test_nothingAfterwards(self) -> None:
        """
        What follows a refused request is no request.
        """
        self.refused(b"OPTIONS * HTTP/1.1\r\n\r\n" + SMALL, *BAD)
        self.refused(HEAD % 11 + SMALL, 413, b"Request Entity Too Large")


class AbsoluteFormTests(SiteCase):
    """
    Targets with a scheme and a host (RFC 9112 section 3.2.2).
    """

    def ask(self, target: bytes) -> bytes:
        answer = self.send(self.connect(), b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % target)
        return answer[9:12]

    def test_routed(self) -> None:
        for target in (b"http://host/slow", b"HTTPS://u:p@host:8/slow?a=b"):
            self.ask(target)
        self.assertEqual(len(self.endpoint.bodies), 2)
        for target in (b"http://host/other", b"http://host", b"http://slow", b"http://host?/slow"):
            self.assertEqual(self.ask(target), b"404")
        self.assertEqual(self.ask(b"http:///slow"), b"400")


class ProtocolsTests(SiteCase):
    """
    What is offered to TLS clients.
    """

    def test_protocols(self) -> None:
        """
        HTTP/2 is not, though Twisted may be able to speak it.
        """
        self.patch(http, "H2_ENABLED", True)
        self.assertEqual(self.site.acceptableProtocols(), [b"http/1.1"])


class TLSTests(SiteCase):
    """
    Over TLS, where one direction can not be closed alone.
    """

    def test_refused(self) -> None:
        transport = self.connect()
        directlyProvides(transport, ISSLTransport)
        self.assertRefused(self.send(transport, b"nonsense\r\n\r\n"), *BAD)
        self.assertFalse(transport.half_closed)
        self.assertFalse(transport.connected)
        self.assertIsNone(transport.producer)
        self.assertClean()
