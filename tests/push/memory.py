"""
APNs in memory: the other end of a connection, on a clock that the test moves.
"""

from __future__ import annotations

import json
from typing import Any

from attrs import Factory, define
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, RequestReceived, StreamEnded, StreamReset
from h2.settings import SettingCodes, Settings
from hyperframe.frame import Frame, GoAwayFrame
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from nanomdm.push.connection import APNsConnection, IConnectionObserver
from nanomdm.push.notification import Answer, Notification

AUTHORITY = "api.push.apple.com"
TOPIC = "com.apple.mgmt.External.00000000-0000-4000-8000-000000000000"


def notification(number: int = 0, payload: bytes = b'{"mdm":"magic"}') -> Notification:
    """
    Something to send; the number makes tokens differ.
    """
    return Notification(f"{number:064x}", TOPIC, payload, 1_700_000_000)


class Transport(StringTransport):
    """
    Remembers how it was written to and closed, and goes in the reactor's next turn
    like those of Twisted.

    @ivar writes: how often something was written.
    @ivar aborted: whether it was aborted.
    @ivar stays: it ignores that it is to be closed, as for a peer that does not
        read; only aborting helps.
    """

    stays = False
    aborted = False

    def __init__(self, clock: Clock, protocol: APNsConnection, spoken: bytes | None) -> None:
        super().__init__()
        self.clock = clock
        self.protocol = protocol
        self.negotiatedProtocol = spoken
        self.writes = 0
        self.gone = False

    def write(self, data: bytes) -> None:
        assert not self.gone, "written to a transport that is gone"
        self.writes += 1
        super().write(data)

    def take(self) -> bytes:
        """
        What was written since the last time.
        """
        data: bytes = self.value()
        self.clear()
        return data

    def loseConnection(self) -> None:
        assert self.producer is None, "a transport with a producer stays open"
        super().loseConnection()
        if not self.stays:
            self.clock.callLater(0, self.lose, ConnectionDone())

    def abortConnection(self) -> None:
        assert not self.gone, "aborted a transport that is gone"
        self.aborted = True
        self.clock.callLater(0, self.lose, ConnectionAborted())

    def lose(self, reason: Exception) -> None:
        """
        Be gone.
        """
        if not self.gone:
            self.gone = True
            self.protocol.connectionLost(Failure(reason))


@define
class Request:
    """
    What arrived on one stream.

    @ivar ended: whether it is complete.
    @ivar reset: the error code that it was reset with.
    """

    headers: dict[bytes, bytes]
    body: bytes = b""
    ended: bool = False
    reset: ErrorCodes | int | None = None


@define(eq=False)
class MemoryAPNs:
    """
    The peer of one L{APNsConnection}.  What its methods send arrives with
    L{exchange}, in one piece unless C{piece} says how many bytes at a time.

    @ivar requests: what arrived, by stream.
    @ivar events: all that h2 told.
    @ivar reading: whether it gives windows back for the data that it gets.
    """

    clock: Clock
    spoken: bytes | None = b"h2"
    piece: int | None = None
    reading: bool = True
    requests: dict[int, Request] = Factory(dict)
    events: list[Event] = Factory(list)
    http2: H2Connection = Factory(
        lambda: H2Connection(H2Configuration(client_side=False, validate_outbound_headers=False))
    )
    connection: APNsConnection = Factory(
        lambda self: APNsConnection(self.clock, AUTHORITY), takes_self=True
    )
    transport: Transport = Factory(
        lambda self: Transport(self.clock, self.connection, self.spoken), takes_self=True
    )
    _raw: bytes = b""

    def start(self, streams: int | None = 100, **settings: int) -> None:
        """
        Finish the TLS handshake and exchange SETTINGS.
        """
        self.connection.makeConnection(self.transport)
        self.connection.handshakeCompleted()
        if streams is not None:
            settings["MAX_CONCURRENT_STREAMS"] = streams
        values = {SettingCodes[name]: settings[name] for name in settings}
        self.http2.local_settings = Settings(client=False, initial_values=values)
        self.http2.initiate_connection()
        self.exchange()

    def settings(self, **settings: int) -> None:
        """
        Change some settings.
        """
        self.http2.update_settings({SettingCodes[name]: settings[name] for name in settings})

    def answer(
        self, stream: int, status: int = 200, body: bytes = b"", **headers: str | bytes
    ) -> None:
        """
        Answer a request; underscores in names of headers mean hyphens.
        """
        fields = [(name.replace("_", "-"), headers[name]) for name in headers]
        self.http2.send_headers(stream, [(":status", str(status)), *fields], end_stream=not body)
        if body:
            self.http2.send_data(stream, body, end_stream=True)

    def raw(self, *frames: Frame) -> None:
        """
        Send frames that h2 would not.
        """
        self._raw += self.http2.data_to_send() + b"".join(frame.serialize() for frame in frames)

    def goaway(self, code: int = 0, reason: str | None = None) -> None:
        """
        Send a GOAWAY, with APNs' kind of debug data if there is a reason.
        """
        debug = b"" if reason is None else json.dumps({"reason": reason}).encode()
        self.raw(GoAwayFrame(0, last_stream_id=0, error_code=code, additional_data=debug))

    def exchange(self) -> None:
        """
        Let the reactor turn and bytes travel until nothing is left.
        """
        self.deliver()
        for _ in range(1000):
            self.clock.advance(0)
            received = self.transport.take()
            if received:
                self._receive(received)
            elif not self.deliver():
                return
        raise AssertionError("they never stop")

    def deliver(self) -> bool:
        """
        Deliver what is to be sent.
        """
        data, self._raw = self._raw + self.http2.data_to_send(), b""
        size = self.piece or max(1, len(data))
        for start in range(0, len(data), size):
            if not self.transport.gone:
                self.connection.dataReceived(data[start : start + size])
        return bool(data)

    def _receive(self, data: bytes) -> None:
        for event in self.http2.receive_data(data):
            self.events.append(event)
            if isinstance(event, RequestReceived):
                self.requests[event.stream_id] = Request(dict(event.headers))
            elif isinstance(event, DataReceived):
                self.requests[event.stream_id].body += event.data
                if self.reading:
                    self.http2.acknowledge_received_data(
                        event.flow_controlled_length, event.stream_id
                    )
            elif isinstance(event, StreamEnded):
                self.requests[event.stream_id].ended = True
            elif isinstance(event, StreamReset):
                self.requests[event.stream_id].reset = event.error_code


@implementer(IConnectionObserver)
class Observer:
    """
    Notes what it could see when it was told of changes.

    @ivar seen: C{limit}, C{free} and C{usable} at each call.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, bool]] = []

    def changed(self, connection: APNsConnection) -> None:
        self.seen.append((connection.limit, connection.free, connection.usable))


class ConnectionCase(SynchronousTestCase):
    """
    A test case with one connection, not started, and the APNs at its other end.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.apns = MemoryAPNs(self.clock)
        self.connection = self.apns.connection
        self.transport = self.apns.transport
        self.observer = Observer()
        assert IPushProducer.providedBy(self.connection)

    def start(self, streams: int | None = 100, **settings: int) -> None:
        """
        Open the connection.
        """
        self.apns.start(streams, **settings)
        self.assertIsNone(self.successResultOf(self.connection.opened))
        self.connection.observer = self.observer

    def send(self, count: int = 1, payload: bytes = b'{"mdm":"magic"}') -> list[Deferred[Answer]]:
        """
        Send notifications and let them arrive.
        """
        sent = [self.connection.send(notification(n, payload)) for n in range(count)]
        self.apns.exchange()
        return sent

    def assertFails(self, sent: Deferred[Any], error: type[Exception], text: str) -> Any:
        """
        It failed with just this error.
        """
        problem = self.failureResultOf(sent, error).value
        self.assertEqual(str(problem), text)
        return problem

    def assertGone(self) -> None:
        """
        The connection is over, and left nothing behind.
        """
        if not self.transport.gone:
            self.clock.advance(0)
        self.assertTrue(self.transport.gone)
        self.assertFalse(self.connection.usable)
        self.assertEqual((self.connection.limit, self.connection.free), (0, 0))
        self.assertEqual(self.connection.open_streams, 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertIsNone(self.successResultOf(self.connection.close()))
