"""
Whoever is at the other end of a connection: devices, other servers, APNs, and proxies on
the way to it.  Each target gets what that end sends, piece by piece.
"""

from __future__ import annotations

import base64
import functools
import hmac
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from hyperframe.frame import GoAwayFrame, PingFrame, RstStreamFrame, WindowUpdateFrame
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers

from nanomdm.bodies import Fetched
from nanomdm.crypto import mac
from nanomdm.errors import NanoMDMError, OutboundError
from nanomdm.forwarding import Exchange
from nanomdm.http.endpoint import Endpoint, Folder
from nanomdm.http.request import Request
from nanomdm.http.response import Response
from nanomdm.http.site import Site
from nanomdm.outbound import OutboundClient
from nanomdm.push.address import parse_proxy_url
from nanomdm.push.delivery import retry_after
from nanomdm.push.notification import ConnectionFailed
from nanomdm.push.proxy import TunnelEndpoint
from nanomdm.push.response import parse_problem
from nanomdm.tls import client_options
from tests.faults.target import Target
from tests.http.memory import Transport
from tests.push import memory
from tests.push.fakes import NOW

_KEY: Final = b"key"

#: Bytes of a body that are read.
_LIMIT: Final = 1 << 16

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] [1-5][0-9]{2} ")


def pieces(data: bytes) -> Iterator[bytes]:
    """
    @return: C{data} in two pieces, of which its first byte tells the sizes.
    """
    cut = 1 + (data[0] * len(data) >> 8) if data else 0
    yield data[1:cut]
    yield data[cut:]


@contextmanager
def nothing_unexpected() -> Iterator[None]:
    """
    @raise AssertionError: in the meantime something was logged as a failure that nobody
        had thought of.
    """
    seen: list[dict[str, Any]] = []
    globalLogPublisher.addObserver(seen.append)
    try:
        yield
    finally:
        globalLogPublisher.removeObserver(seen.append)
    failures = [event["log_failure"] for event in seen if event.get("log_failure") is not None]
    assert not failures, failures[0].getTraceback()


class _Wire(StringTransport):
    """
    A connection that can be aborted.
    """

    def abortConnection(self) -> None:
        self.loseConnection()


def say(protocol: Protocol, wire: StringTransport, data: bytes) -> None:
    """
    Let the other end send something, and hang up.
    """
    for piece in pieces(data):
        if piece and not wire.disconnecting:
            protocol.dataReceived(piece)
    protocol.connectionLost(Failure(ConnectionDone()))


class _Echo(Endpoint):
    """
    Answers with the body.
    """

    async def respond(self, request: Request) -> Response:
        return Response(200, request.body)


@functools.cache
def _root() -> Folder:
    root = Folder()
    root.putChild(b"a", _Echo())
    return root


def http_requests(data: bytes) -> None:
    """
    A client of the server.
    """
    site = Site(_root(), Clock(), 1 << 12)
    transport = Transport()
    channel = transport.protocol = site.buildProtocol(transport.getPeer())
    with nothing_unexpected():
        channel.makeConnection(transport)
        for piece in pieces(data):
            if piece and transport.connected:
                channel.dataReceived(piece)
        said = transport.value()
        transport.closed()
    assert not said or _STATUS_LINE.match(said), said
    assert site.running == site.connections == 0


@functools.cache
def _options() -> CertificateOptions:
    return client_options([], system=False)


def http_answer(data: bytes) -> Fetched:
    """
    The receiver of the webhook, or a server for declarative management or for tokens.

    @raise OutboundError: there is no answer, or none that is signed with L{_KEY}.
    """
    reactor = MemoryReactorClock()
    client = OutboundClient(reactor, _options(), 5, reactor)
    fetching: Any = Deferred.fromCoroutine(
        client.fetch("PUT", "http://127.0.0.1:9/", {}, b"body", timeout=30, limit=_LIMIT)
    )
    with nothing_unexpected():
        connector = reactor.tcpClients[0][2]
        wire = _Wire()
        protocol = connector.buildProtocol(None)
        protocol.makeConnection(wire)
        say(protocol, wire, data)
    answers: list[Any] = []
    fetching.addBoth(answers.append)
    [answer] = answers
    client.close()
    if isinstance(answer, Failure):
        answer.raiseException()
    if not mac.is_signature(answer.header(mac.HEADER), _KEY, answer.body):
        raise OutboundError("not signed")
    return answer


class _Way:
    """
    Leads to a server in memory.
    """

    def __init__(self) -> None:
        self.wire = _Wire()

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        self.protocol: Any = factory.buildProtocol(None)
        self.protocol.makeConnection(self.wire)
        connected: Deferred[Any] = Deferred()
        connected.callback(self.protocol)
        return connected

    def error(self, error: Exception) -> OutboundError:
        return OutboundError(str(error))


class _Consumer(StringTransport):
    """
    The client that gets an answer.
    """


def proxied_answer(data: bytes) -> None:
    """
    The server behind C{/authproxy}.

    @raise OutboundError: it does not answer.
    """
    clock, way, consumer = Clock(), _Way(), _Consumer()
    exchange = Exchange(way, clock)  # type: ignore[arg-type]
    headers = Headers({b"Host": [b"a"]})

    async def whole() -> None:
        head = await exchange.send(b"GET", b"/", headers, None)
        for name, values in head.headers.getAllRawHeaders():
            assert not re.search(rb"[\r\n\0]", name + b"".join(values)), (name, values)
        await exchange.receive(consumer)

    outcome: list[Any] = []
    working = Deferred.fromCoroutine(whole())
    working.addBoth(outcome.append)
    with nothing_unexpected():
        say(way.protocol, way.wire, data)
    assert clock.getDelayedCalls() == []
    if isinstance(outcome[0], Failure):
        outcome[0].raiseException()


def apns_frames(data: bytes) -> None:
    """
    APNs, while two pushes wait for their answers.
    """
    clock = Clock()
    apns = memory.MemoryAPNs(clock)
    apns.start()
    connection, transport = apns.connection, apns.transport
    sent = [connection.send(memory.notification(number)) for number in range(2)]
    apns.exchange()
    outcomes: list[Any] = []
    for answer in sent:
        answer.addBoth(outcomes.append)
    with nothing_unexpected():
        for piece in pieces(data):
            if piece and not transport.gone:
                connection.dataReceived(piece)
                clock.advance(0)
        transport.lose(ConnectionDone())
    assert len(outcomes) == len(sent)
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            assert isinstance(outcome.value, NanoMDMError), outcome.getTraceback()
    assert clock.getDelayedCalls() == []


class _Door:
    """
    Leads to a proxy in memory.
    """

    def __init__(self) -> None:
        self.wire = _Wire()

    def connect(self, factory: Any) -> Deferred[Any]:
        self.protocol = factory.buildProtocol(None)
        self.protocol.makeConnection(self.wire)
        connected: Deferred[Any] = Deferred()
        connected.callback(self.protocol)
        return connected


def tunnel(data: bytes) -> None:
    """
    A proxy on the way to APNs.

    @raise ConnectionFailed: it opens no tunnel.
    """
    door = _Door()
    endpoint = TunnelEndpoint(door, parse_proxy_url("http://u:p@proxy:8080"), "api:443")  # type: ignore[arg-type]
    opening = endpoint.connect(Factory.forProtocol(Protocol))
    outcome: list[Any] = []
    opening.addBoth(outcome.append)
    say(door.protocol, door.wire, data)
    [result] = outcome
    if isinstance(result, Failure):
        result.raiseException()


def _requests() -> list[bytes]:
    return [
        b"\x80" + text
        for text in (
            b"GET /a?b HTTP/1.1\r\nHost: a\r\n\r\nPUT /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
            b"PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nT: a\r\n\r\n",
            b"PUT /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab",
            b"GET http://a/a%2f..%00 HTTP/1.0\r\nConnection: keep-alive, x\r\nX: a\r\n b\r\n\r\n",
        )
    ]


def _answers() -> list[bytes]:
    signed = base64.b64encode(hmac.digest(_KEY, b"abc", "sha256"))
    return [
        b"\x80" + text
        for text in (
            b"HTTP/1.1 200 OK\r\nX-Hmac-Signature: %s\r\nContent-Length: 3\r\n\r\nabc" % signed,
            b"HTTP/1.1 100 Go on\r\n\r\nHTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n0\r\n\r\n",
            b"HTTP/1.0 302 There\r\nLocation: /\r\nX: a\r\n b\r\n\r\nabc",
            b"HTTP/1.1 204 Nothing\r\nConnection: X, close\r\nX: 1\r\n\r\n",
            b"HTTP/1.1 101 Other\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nabc",
        )
    ]


def _played(*acts: Callable[[memory.MemoryAPNs], object]) -> bytes:
    """
    @return: what APNs sends when it does this.
    """
    apns = memory.MemoryAPNs(Clock())
    apns.start()
    for number in range(2):
        apns.connection.send(memory.notification(number)).addErrback(lambda failure: None)
    apns.exchange()
    for act in acts:
        act(apns)
    said = apns._raw + apns.http2.data_to_send()
    apns.transport.lose(ConnectionDone())
    return b"\x80" + said


def _problem(reason: str, **more: int) -> bytes:
    return json.dumps({"reason": reason, **more}).encode()


def _frames() -> list[bytes]:
    gone = _problem("Unregistered", timestamp=1672531200000)
    return [
        _played(lambda a: a.answer(1, apns_id="A"), lambda a: a.answer(3, 410, gone)),
        _played(lambda a: a.answer(1, 429, _problem("TooMany"), retry_after="5")),
        _played(lambda a: a.settings(MAX_CONCURRENT_STREAMS=1, INITIAL_WINDOW_SIZE=10)),
        _played(lambda a: a.goaway(reason="Shutdown")),
        _played(
            lambda a: a.raw(
                RstStreamFrame(1, 7),
                PingFrame(0, b"12345678"),
                WindowUpdateFrame(3, 100),
                GoAwayFrame(0, last_stream_id=3, additional_data=_problem("BadCertificate")),
            )
        ),
    ]


_FRAMES: Final = (
    *(b"\0\0\0\x04\x01\0\0\0\0", b"\0\0\x04\x08\0\0\0\0\x01", b"\0\0\x04\x03\0\0\0\0\x01"),
    *(b"\0\0\x08\x06\0\0\0\0\0", b"\0\0\x01\x01\x05\0\0\0\x01\x88", b"\0\0\0\x00\x01\0\0\0\x01"),
)
_LINES: Final = (
    *(b"\r\n", b"\n", b"\r\n\r\n", b"HTTP/1.1 ", b"Content-Length: ", b"Connection: close\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", b"\0", b": ", b"100 ", b"\r\n "),
)

TARGETS: Final[dict[str, Target]] = {
    "http-request": Target(http_requests, seeds=_requests, words=_LINES),
    "http-answer": Target(http_answer, OutboundError, _answers, _LINES),
    "proxied-answer": Target(proxied_answer, OutboundError, _answers, _LINES),
    "apns-frames": Target(apns_frames, seeds=_frames, words=_FRAMES),
    "tunnel": Target(
        tunnel,
        ConnectionFailed,
        lambda: [b"\x80HTTP/1.1 200 OK\r\n\r\nabc", b"\x80HTTP/1.1 100\r\n\r\nHTTP/1.0 407 A\n\n"],
        _LINES,
    ),
    "apns-answer": Target(
        parse_problem, seeds=lambda: [b'{"reason": "Unregistered", "timestamp": 1672531200000}']
    ),
    "retry-after": Target(
        lambda data: retry_after(data[:200].decode("ascii", "replace"), lambda: NOW),
        seeds=lambda: [b"120", b"Fri, 31 Dec 1999 23:59:59 GMT", b"Fri, 31 Dec 1999 23:59 -9999"],
    ),
}
