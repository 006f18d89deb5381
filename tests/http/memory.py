"""
A site spoken to over transports in memory.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.http.endpoint import Endpoint, Folder
from nanomdm.http.request import Request
from nanomdm.http.response import Response
from nanomdm.http.site import Site


class Answering(Endpoint):
    """
    Answers when the test says so.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Deferred[Response]] = []
        self.bodies: list[bytes] = []

    async def respond(self, request: Request) -> Response:
        self.bodies.append(request.body)
        answer: Deferred[Response] = Deferred()
        self.waiting.append(answer)
        return await answer


class Transport(StringTransport):
    """
    Remembers how it was closed, and tells the protocol.
    """

    half_closed = False
    aborted = False
    protocol: Protocol

    def loseWriteConnection(self) -> None:
        self.half_closed = True

    def loseConnection(self) -> None:
        super().loseConnection()
        self.closed()

    def abortConnection(self) -> None:
        self.aborted = True
        self.closed()

    def closed(self) -> None:
        if self.connected:
            self.connected = False
            self.protocol.connectionLost(Failure(connectionDone.value))


class SiteCase(SynchronousTestCase):
    """
    A test case with a site, whose clock the test moves.

    @cvar max_body_size: of the site.
    """

    max_body_size = 10

    def setUp(self) -> None:
        self.clock = Clock()
        self.endpoint = Answering()
        root = Folder()
        root.putChild(b"slow", self.endpoint)
        self.site = Site(root, self.clock, self.max_body_size)

    def connect(self) -> Transport:
        transport = Transport()
        transport.protocol = self.site.buildProtocol(transport.getPeer())
        transport.protocol.makeConnection(transport)
        return transport

    def send(self, transport: Transport, *data: bytes) -> bytes:
        for part in data:
            if transport.connected:
                transport.protocol.dataReceived(part)
        return transport.value()

    def answer(self) -> None:
        self.endpoint.waiting.pop(0).callback(Response(200, b"done"))

    def assertClean(self) -> None:
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.flushLoggedErrors(), [])

    def assertRefused(self, answer: bytes, code: int, title: bytes) -> None:
        """
        The answer is a whole refusal, and its connection ends.
        """
        head, _, body = answer.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        self.assertEqual(lines[0], b"HTTP/1.1 %d %s" % (code, title))
        self.assertIn(b"Server: nanomdm", lines)
        self.assertIn(b"Connection: close", lines)
        self.assertIn(b"Content-Type: text/plain; charset=utf-8", lines)
        self.assertIn(b"Content-Length: %d" % (len(title) + 1), lines)
        self.assertEqual(body, title + b"\n")
        self.assertEqual(b"Retry-After: 5" in lines, code == 503)

    def assertLogged(self, events: list[dict[str, Any]], **expected: Any) -> None:
        """
        There is one line, and it is of a request.
        """
        [event] = events
        self.assertEqual((event["log_format"], len(event["trace_id"])), ("request", 16))
        self.assertEqual(event["ip"], "192.168.1.1")
        for name, value in expected.items():
            self.assertEqual(event.get(name), value, name)
