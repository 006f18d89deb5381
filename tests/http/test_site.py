"""
Tests for the site: limits on requests, clients that go away, draining.
"""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import capturedLogs
from twisted.python.failure import Failure

from nanomdm.errors import Overloaded, StorageUnavailable, TooLarge
from tests import samples
from tests.http.case import ServerCase
from tests.http.memory import SiteCase


class SiteTests(SiteCase):
    """
    Over transports in memory.
    """

    def test_announcedBodyTooLarge(self) -> None:
        """
        It is refused before any of it arrives, without "100 Continue".
        """
        transport = self.connect()
        head = b"PUT /slow HTTP/1.1\r\nContent-Length: 11\r\nExpect: 100-continue\r\n\r\n"
        answer = self.send(transport, head)
        self.assertTrue(answer.startswith(b"HTTP/1.1 413 Request Entity Too Large\r\n"), answer)
        self.assertNotIn(b"100 Continue", answer)
        self.assertTrue(transport.half_closed)
        self.send(transport, b"x" * 1000)
        self.assertEqual(transport.value(), answer)
        self.assertEqual(self.endpoint.bodies, [])
        transport.closed()
        self.assertClean()

    def test_chunkedBodyTooLarge(self) -> None:
        """
        It is refused with the chunk that goes beyond the limit.
        """
        transport = self.connect()
        head = b"PUT /slow HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.assertEqual(self.send(transport, head, b"a\r\n0123456789\r\n"), b"")
        self.assertIn(b" 413 ", self.send(transport, b"1\r\nx\r\n", b"0\r\n\r\n"))
        self.assertEqual(self.endpoint.bodies, [])
        transport.closed()
        self.assertClean()

    def test_refusedClientThatStays(self) -> None:
        """
        A client that neither reads nor closes is cut off.
        """
        transport = self.connect()
        self.send(transport, b"PUT /slow HTTP/1.1\r\nContent-Length: 11\r\n\r\n")
        self.clock.advance(5)
        self.assertTrue(transport.aborted)
        self.assertClean()

    def test_largestBody(self) -> None:
        transport = self.connect()
        self.send(transport, b"PUT /slow HTTP/1.1\r\nContent-Length: 10\r\n\r\n", b"0123456789")
        self.assertEqual(self.endpoint.bodies, [b"0123456789"])
        self.answer()
        self.assertIn(b"HTTP/1.1 200 OK\r\n", transport.value())
        transport.closed()
        self.assertClean()

    def test_requestLineTooLong(self) -> None:
        transport = self.connect()
        answer = self.send(transport, b"GET /" + b"x" * (1 << 20), b"x" * 1000)
        self.assertTrue(answer.startswith(b"HTTP/1.1 400 "), answer)
        self.assertTrue(transport.half_closed)
        transport.closed()
        self.assertClean()

    def test_headersTooLong(self) -> None:
        transport = self.connect()
        line = b"X-Padding: " + b"x" * 100_000 + b"\r\n"
        answer = self.send(transport, b"GET /slow HTTP/1.1\r\n", *[line] * 11)
        self.assertTrue(answer.startswith(b"HTTP/1.1 400 "), answer)
        transport.closed()
        self.assertClean()

    def test_almostTooLong(self) -> None:
        transport = self.connect()
        path = b"/" + b"x" * 1_000_000
        answer = self.send(transport, b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertTrue(answer.startswith(b"HTTP/1.1 404 "), answer[:100])
        transport.closed()
        self.assertClean()

    def test_idleConnection(self) -> None:
        transport = self.connect()
        self.clock.pump([59, 1, 15])
        self.assertFalse(transport.connected)
        self.assertClean()

    def test_clientGoesAway(self) -> None:
        """
        What was begun goes on, and nobody writes to the lost connection.
        """
        transport = self.connect()
        self.send(transport, b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        transport.closed()
        with capturedLogs() as events:
            self.answer()
        self.assertEqual(transport.value(), b"")
        self.assertEqual([(event["code"], event["gone"]) for event in events], [(200, True)])
        self.assertClean()

    def test_drainIdle(self) -> None:
        transport = self.connect()
        self.send(transport, b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        self.answer()
        self.assertTrue(transport.connected)
        drained = self.site.drain(30)
        self.assertFalse(transport.connected)
        self.successResultOf(drained)
        self.assertClean()

    def test_drainNew(self) -> None:
        """
        Who has just connected may say something within a second.
        """
        slow, silent = self.connect(), self.connect()
        drained = self.site.drain(30)
        self.clock.advance(0.9)
        self.assertTrue(silent.connected)
        self.send(slow, b"GE")
        self.clock.advance(0.1)
        self.assertFalse(silent.connected)
        self.send(slow, b"T /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertNoResult(drained)
        self.answer()
        self.assertTrue(slow.value().endswith(b"\r\n\r\ndone"))
        self.assertFalse(slow.connected)
        self.successResultOf(drained)
        self.assertClean()

    def test_drainBeginning(self) -> None:
        """
        A request of which not even the first line is there is answered, too.
        """
        transport = self.connect()
        self.send(transport, b"GET /slow HT")
        drained = self.site.drain(30)
        self.clock.advance(2)
        self.send(transport, b"TP/1.1\r\nHost: a\r\n\r\n")
        self.answer()
        self.assertTrue(transport.value().endswith(b"\r\n\r\ndone"))
        self.successResultOf(drained)
        self.assertClean()

    def test_drainBusy(self) -> None:
        """
        A request under way is answered, then its connection closes.
        """
        busy, unfinished = self.connect(), self.connect()
        self.send(busy, b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        self.send(unfinished, b"PUT /slow HTTP/1.1\r\nContent-Length: 2\r\n\r\n", b"1")
        drained = self.site.drain(30)
        self.assertNoResult(drained)
        self.answer()
        self.assertIn(b"Connection: close\r\n", busy.value())
        self.assertTrue(busy.value().endswith(b"\r\n\r\ndone"))
        self.assertFalse(busy.connected)
        self.assertNoResult(drained)
        self.send(unfinished, b"2")
        self.answer()
        self.assertTrue(unfinished.value().endswith(b"\r\n\r\ndone"))
        self.successResultOf(drained)
        self.assertClean()

    def test_drainWithoutClient(self) -> None:
        """
        Work goes on for a client that left, so the storage must stay open.
        """
        transport = self.connect()
        self.send(transport, b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        transport.closed()
        drained = self.site.drain(30)
        self.assertNoResult(drained)
        self.answer()
        self.successResultOf(drained)
        self.assertClean()

    def test_drainDeadline(self) -> None:
        transport = self.connect()
        self.send(transport, b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        drained = self.site.drain(30)
        self.clock.advance(29)
        self.assertNoResult(drained)
        self.clock.advance(1)
        self.assertTrue(transport.aborted)
        self.successResultOf(drained)
        self.answer()
        self.assertClean()

    def test_requestWhileDraining(self) -> None:
        """
        A request whose head arrives while draining is still answered.
        """
        transport = self.connect()
        self.send(transport, b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
        self.site.drain(30)
        self.answer()
        self.assertEqual(len(self.endpoint.bodies), 1)
        self.assertFalse(transport.connected)
        self.assertClean()

    def failWith(self, error: Exception) -> bytes:
        transport = self.connect()
        self.send(transport, b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        self.endpoint.waiting.pop(0).errback(Failure(error))
        transport.closed()
        return transport.value()

    def test_statusOfErrors(self) -> None:
        for error, status in (
            (StorageUnavailable("locked"), b"500"),
            (TooLarge("15 MiB"), b"413"),
            (Overloaded("full", 7), b"503"),
        ):
            self.assertTrue(self.failWith(error).startswith(b"HTTP/1.1 " + status))
        self.assertIn(b"Retry-After: 7\r\n", self.failWith(Overloaded("full", 7)))
        self.assertClean()

    def test_unexpectedError(self) -> None:
        """
        The client learns nothing of it, the log everything.
        """
        answer = self.failWith(RuntimeError("secret detail"))
        self.assertTrue(answer.startswith(b"HTTP/1.1 500 "))
        self.assertNotIn(b"secret", answer)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_logLine(self) -> None:
        """
        One line for each request, without the query.
        """
        transport = self.connect()
        self.send(transport, b"GET /slow?key=secret HTTP/1.1\r\nHost: a\r\n\r\n")
        with capturedLogs() as events:
            self.answer()
        [event] = events
        self.assertEqual(
            (event["log_format"], event["method"], event["path"], event["code"]),
            ("request", "GET", "/slow", 200),
        )
        self.assertEqual(len(event["trace_id"]), 16)
        transport.closed()
        self.assertClean()


class Collecting(Protocol):
    """
    Collects what arrives until the connection closes.
    """

    def __init__(self) -> None:
        self.data = b""
        self.closed: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed.callback(self.data)


class RealSocketTests(ServerCase):
    """
    What only real sockets can show.
    """

    async def exchange(self, *data: bytes) -> bytes:
        """
        Send everything at once, and read until the server closes.
        """
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port)
        protocol = await connectProtocol(endpoint, Collecting())
        protocol.transport.writeSequence(data)
        answer = await protocol.closed
        return answer

    async def test_answerToTooLargeBodyArrives(self) -> None:
        """
        Closing with unread data would reset the connection and lose the answer.
        """
        self.serve(max_body_size=1000)
        head = b"PUT /mdm HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n"
        answer = await self.exchange(head, b"x" * 3_000_000)
        self.assertTrue(answer.startswith(b"HTTP/1.1 413 "), answer)

    async def test_tooLargeForDevicesToo(self) -> None:
        self.serve(max_body_size=1000)
        answer = await self.send(samples.authenticate(Padding="x" * 1000))
        self.assertEqual(answer.code, 413)

    async def test_bothLengths(self) -> None:
        """
        Requests that two servers could read differently are refused.
        """
        self.serve()
        for headers in (
            b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            b"Content-Length: 1\r\nContent-Length: 2\r\n",
            b"Content-Length: +1\r\n",
            b"Transfer-Encoding: chunked, identity\r\n",
        ):
            answer = await self.exchange(b"PUT /mdm HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n")
            self.assertTrue(answer.startswith(b"HTTP/1.1 400 "), answer)
