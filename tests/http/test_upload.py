"""
Tests for bodies that are taken as they come: time, and what is not read.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs

from nanomdm.http.endpoint import Endpoint
from nanomdm.http.request import Request
from nanomdm.http.response import Response
from tests.http.memory import SiteCase, Transport

HEAD = b"PUT /slow HTTP/1.1\r\nContent-Length: 10\r\n\r\n"


class Taking(Endpoint):
    """
    Takes bodies when the test says so, and then answers.

    @ivar requests: those that have begun.
    @ivar taken: what was taken.
    """

    streams_bodies = True

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Request] = []
        self.taken = StringTransport()
        self.answer: Deferred[Response] = Deferred()

    async def respond(self, request: Request) -> Response:
        self.requests.append(request)
        return await self.answer

    @property
    def upload(self) -> Any:
        """
        The last request's body.
        """
        return self.requests[-1].upload

    def take(self) -> None:
        """
        Begin to take it.
        """
        self.upload.startProducing(self.taken)


class UploadTests(SiteCase):
    """
    Over transports in memory.
    """

    max_body_size = 1000

    def setUp(self) -> None:
        super().setUp()
        self.endpoint = Taking()
        self.site.resource.putChild(b"slow", self.endpoint)

    def begin(self, head: bytes = HEAD) -> Transport:
        transport = self.connect()
        self.send(transport, head)
        return transport

    def finish(self, transport: Transport) -> None:
        answer, self.endpoint.answer = self.endpoint.answer, Deferred()
        answer.callback(Response(200, b"done"))
        self.assertTrue(transport.value().endswith(b"\r\n\r\ndone"))

    def test_nothingIsReadBeforeItIsTaken(self) -> None:
        transport = self.begin(HEAD + b"123")
        self.assertEqual(transport.producerState, "paused")
        self.assertEqual(self.endpoint.taken.value(), b"")
        self.endpoint.take()
        self.assertEqual(transport.producerState, "producing")
        self.assertEqual(self.endpoint.taken.value(), b"123")
        self.endpoint.upload.pauseProducing()
        self.assertEqual(transport.producerState, "paused")
        self.endpoint.upload.resumeProducing()
        self.assertEqual(transport.producerState, "producing")
        self.send(transport, b"4567890")
        self.assertEqual(self.endpoint.taken.value(), b"1234567890")
        self.finish(transport)
        self.send(transport, HEAD)
        self.assertEqual(len(self.endpoint.requests), 2)
        transport.closed()
        self.assertClean()

    def test_moved(self) -> None:
        """
        Who takes it hears when something moves.
        """
        transport = self.begin(HEAD + b"1")
        moved: list[None] = []
        self.endpoint.upload.moved = lambda: moved.append(None)
        self.endpoint.take()
        self.assertEqual(moved, [])
        self.send(transport, b"2")
        self.assertEqual(len(moved), 1)
        self.endpoint.upload.pauseProducing()
        self.endpoint.upload.resumeProducing()
        self.assertEqual(len(moved), 2)
        transport.closed()
        self.endpoint.answer.callback(Response(200))
        self.assertClean()

    def test_clientThatDoesNotReadTheLastAnswer(self) -> None:
        """
        The next one waits.
        """
        transport = self.connect()
        transport.protocol.pauseProducing()
        self.send(transport, b"GET /slow HTTP/1.1\r\n\r\n")
        producer = StringTransport()
        self.endpoint.requests[0].registerProducer(producer, True)
        self.assertEqual(producer.producerState, "paused")
        transport.protocol.resumeProducing()
        self.assertEqual(producer.producerState, "producing")
        self.endpoint.requests[0].unregisterProducer()
        self.finish(transport)
        transport.closed()
        self.assertClean()

    def test_writingDoesNotMakeItRead(self) -> None:
        transport = self.begin()
        transport.protocol.pauseProducing()
        transport.protocol.resumeProducing()
        self.assertEqual(transport.producerState, "paused")
        transport.closed()
        self.endpoint.answer.callback(Response(200))
        self.assertClean()

    def test_clientHasTimeWhileNothingIsTaken(self) -> None:
        transport = self.begin(HEAD + b"1")
        self.clock.advance(1000)
        self.assertEqual(transport.value(), b"")
        self.endpoint.take()
        self.clock.advance(50)
        self.endpoint.upload.pauseProducing()
        self.clock.advance(1000)
        self.endpoint.upload.resumeProducing()
        self.clock.advance(50)
        self.send(transport, b"234567890")
        self.finish(transport)
        transport.closed()
        self.assertClean()

    def test_slowClient(self) -> None:
        """
        It has as much time as any other.
        """
        transport = self.begin()
        self.endpoint.take()
        self.clock.advance(55)
        self.send(transport, b"1")
        self.assertEqual(transport.value(), b"")
        with capturedLogs() as events:
            self.clock.advance(10)
        self.assertRefused(transport.value(), 408, b"Request Time-out")
        self.assertLogged(events, path="/slow", code=408)
        refusal = transport.value()
        # Neither what still comes nor the answer changes that.
        self.send(transport, b"234567890")
        self.endpoint.answer.callback(Response(200, b"done"))
        self.assertEqual(transport.value(), refusal)
        self.assertEqual(self.endpoint.taken.value(), b"1")
        self.clock.advance(5)
        self.assertTrue(transport.aborted)
        self.assertClean()

    def test_answeredBeforeItsEnd(self) -> None:
        transport = self.begin(HEAD + b"1")
        self.finish(transport)
        self.assertIn(b"Connection: close\r\n", transport.value())
        self.assertEqual(transport.producerState, "producing")
        self.assertTrue(transport.half_closed)
        answer = transport.value()
        self.send(transport, b"234567890" + HEAD)
        self.assertEqual(transport.value(), answer)
        self.assertEqual(len(self.endpoint.requests), 1)
        self.clock.advance(5)
        self.assertTrue(transport.aborted)
        self.assertClean()

    def test_answeredAtOnce(self) -> None:
        """
        While its head is read, and more behind it is there.
        """
        self.endpoint.answer.callback(Response(200, b"done"))
        for more in (b"", b"1", b"1234567890", b"1234567890" + HEAD):
            for head in (HEAD, HEAD.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")):
                self.endpoint.requests.clear()
                transport = self.begin(head + more)
                self.assertEqual(transport.value().count(b"HTTP/1.1"), 1)
                self.assertTrue(transport.value().endswith(b"\r\n\r\ndone"))
                self.assertEqual(len(self.endpoint.requests), 1)
                transport.closed()
        self.assertClean()

    def test_allThere(self) -> None:
        """
        Before it is taken.
        """
        transport = self.begin(HEAD + b"1234567890")
        self.assertEqual(transport.producerState, "producing")
        self.endpoint.take()
        self.assertEqual(self.endpoint.taken.value(), b"1234567890")
        self.finish(transport)
        self.assertNotIn(b"Connection: close", transport.value())
        transport.closed()
        self.assertClean()

    def test_stopped(self) -> None:
        transport = self.begin()
        self.endpoint.take()
        self.endpoint.upload.stopProducing()
        self.send(transport, b"1234567890")
        self.assertEqual(self.endpoint.taken.value(), b"")
        self.finish(transport)
        transport.closed()
        self.assertClean()

    def test_withoutABody(self) -> None:
        """
        There is nothing to wait for.
        """
        transport = self.begin(b"GET /slow HTTP/1.1\r\n\r\n")
        self.assertIsNone(self.endpoint.upload)
        self.finish(transport)
        transport.closed()
        self.assertClean()

    def test_otherEndpoints(self) -> None:
        self.endpoint.streams_bodies = False
        transport = self.begin(HEAD + b"12345")
        self.assertEqual(self.endpoint.requests, [])
        self.send(transport, b"67890")
        self.assertIsNone(self.endpoint.upload)
        self.finish(transport)
        transport.closed()
        self.assertClean()

    def test_noPath(self) -> None:
        for target in (b"*", b"mdm", b"ftp://x/slow"):
            transport = self.begin(HEAD.replace(b"/slow", target) + b"1234567890")
            self.assertRefused(transport.value(), 400, b"Bad Request")
            transport.closed()
        self.assertEqual(self.endpoint.requests, [])
        self.assertClean()
