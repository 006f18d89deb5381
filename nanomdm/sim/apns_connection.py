"""
One connection to the simulated APNs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, Final, cast
from uuid import uuid4

from attrs import Factory, define
from cryptography import x509
from cryptography.x509.oid import NameOID
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    PingReceived,
    RemoteSettingsChanged,
    RequestReceived,
    SettingsAcknowledged,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from twisted.internet.interfaces import IDelayedCall, IHandshakeListener
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from nanomdm.sim.apns_http2 import Http2
from nanomdm.sim.apns_request import LARGEST_PAYLOAD, check
from nanomdm.sim.apns_script import (
    SUCCESS,
    Delay,
    GoAway,
    Reply,
    Reset,
    Respond,
    Stall,
    Vanish,
)

if TYPE_CHECKING:
    from nanomdm.sim.apns import SeenPush, SimulatedAPNs

#: Seconds that two answers may be apart to go out together.
_TOGETHER: Final = 0.0005


@define(eq=False)
class _Stream:
    """
    A request that has no answer yet.

    @ivar headers: its header, with pseudo-headers.
    @ivar payload: its body so far; of one that is too large, the beginning.
    @ivar push: what was seen of it, once it is complete.
    @ivar unsent: the rest of the answer's body, if a window was in its way.
    """

    headers: dict[str, str]
    payload: bytearray = Factory(bytearray)
    push: SeenPush | None = None
    unsent: bytes = b""


@implementer(IHandshakeListener)
class APNsServerConnection(Protocol):
    """
    Speaks HTTP/2 with one client.

    @param apns: whose connection it is.
    @param number: counts the connections, from 1.
    """

    def __init__(self, apns: SimulatedAPNs, number: int) -> None:
        self.number = number
        self._apns = apns
        self._http2: Http2 | None = None
        self._topic: str | None = None
        self._streams: dict[int, _Stream] = {}
        self._due: list[tuple[float, int, Reply]] = []
        self._timer: IDelayedCall | None = None
        self._delivered: list[SeenPush] = []
        self._last_answered = 0
        self._leaving = False
        self._windows_grew = False
        self._closed = False

    @property
    def _tls(self) -> Any:
        return self.transport

    def connectionMade(self) -> None:
        """
        The TLS handshake is still to come.
        """
        self._tls.setTcpNoDelay(True)
        self._apns.connected(self)

    def handshakeCompleted(self) -> None:
        """
        Begin with HTTP/2, unless it was not agreed on.
        """
        if self._apns.alpn and self._tls.negotiatedProtocol not in self._apns.alpn:
            self.abort()
            return
        self._topic = _topic(self._tls.getPeerCertificate().to_cryptography())
        self._http2 = Http2(self._apns.max_concurrent_streams, self._apns.initial_window_size)
        self._http2.begin()
        self._flush()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        Nothing is left behind.
        """
        self._drop()
        self._apns.disconnected(self)

    def abort(self) -> None:
        """
        Vanish without a word.
        """
        self._drop()
        self._tls.abortConnection()

    def pause(self) -> None:
        """
        Read nothing.
        """
        self._tls.pauseProducing()

    def resume(self) -> None:
        """
        Read again.
        """
        self._tls.resumeProducing()

    def announce_stream_limit(self, limit: int) -> None:
        """
        Tell the client another MAX_CONCURRENT_STREAMS.
        """
        if self._http2 is not None and not self._closed:
            self._http2.announce_stream_limit(limit)
            self._flush()

    def dataReceived(self, data: bytes) -> None:
        """
        Look at everything that arrived, then answer what is due.
        """
        if self._closed or self._http2 is None:
            return
        try:
            events = self._http2.receive_data(data)
        except ProtocolError:
            self._apns.counts.violations += 1
            self._flush()
            self._close()
            return
        for event in events:
            handler = _HANDLERS.get(type(event))
            if handler is not None and not self._closed:
                handler(self, self._http2, event)
        self._answer_due()

    def _request_received(self, http2: Http2, event: RequestReceived) -> None:
        counts = self._apns.counts
        if self._leaving:
            http2.refuse(event.stream_id)
        elif len(self._streams) >= http2.stream_limit:
            counts.violations += 1
            http2.refuse(event.stream_id)
        else:
            headers = cast("list[tuple[str, str]]", event.headers)
            self._streams[event.stream_id] = _Stream(dict(headers))
            counts.most_streams = max(counts.most_streams, len(self._streams))

    def _data_received(self, http2: Http2, event: DataReceived) -> None:
        http2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        stream = self._streams.get(event.stream_id)
        if stream is not None:
            stream.payload += event.data[: LARGEST_PAYLOAD + 1 - len(stream.payload)]

    def _stream_ended(self, http2: Http2, event: StreamEnded) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None:
            return
        payload = bytes(stream.payload)
        push = stream.push = self._apns.received(self.number, stream.headers, payload)
        reply: Reply | None = check(stream.headers, payload, self._topic)
        reply = reply or self._apns.rules.next(push.token)
        self._schedule(self._apns.latency, event.stream_id, reply)

    def _stream_reset(self, http2: Http2, event: StreamReset) -> None:
        if self._streams.pop(event.stream_id, None) is not None:
            self._apns.counts.cancelled += 1

    def _window_grew(self, http2: Http2, event: Event) -> None:
        self._windows_grew = True

    def _settings_acknowledged(self, http2: Http2, event: SettingsAcknowledged) -> None:
        http2.settings_acknowledged()

    def _ping_received(self, http2: Http2, event: PingReceived) -> None:
        self._apns.counts.pings += 1

    def _client_leaves(self, http2: Http2, event: ConnectionTerminated) -> None:
        self._close()

    def _schedule(self, delay: float, stream_id: int, reply: Reply) -> None:
        heappush(self._due, (self._apns.reactor.seconds() + delay, stream_id, reply))

    def _answer_due(self) -> None:
        """
        Send all answers whose time has come at once, and wait for the next.
        """
        if self._windows_grew and self._http2 is not None:
            self._windows_grew = False
            self._send_rests(self._http2)
        soon = self._apns.reactor.seconds() + _TOGETHER
        while self._due and self._due[0][0] <= soon:
            _, stream_id, reply = heappop(self._due)
            if stream_id in self._streams and self._http2 is not None:
                self._perform(self._http2, stream_id, reply)
        if self._leaving and not self._streams:
            self._flush()
            self._close()
        self._set_timer()
        self._flush()
        delivered, self._delivered = self._delivered, []
        for push in delivered:
            self._apns.delivered(push)

    def _set_timer(self) -> None:
        if not self._due:
            return
        due = self._due[0][0]
        if self._timer is not None:
            if self._timer.getTime() <= due:
                return
            self._timer.cancel()
        wait = max(0.0, due - self._apns.reactor.seconds())
        self._timer = self._apns.reactor.callLater(wait, self._time_came)

    def _time_came(self) -> None:
        self._timer = None
        self._answer_due()

    def _perform(self, http2: Http2, stream_id: int, reply: Reply) -> None:
        match reply:
            case Respond():
                self._respond(http2, stream_id, reply)
            case Delay(seconds, then):
                self._schedule(seconds, stream_id, then)
            case Reset(error_code):
                del self._streams[stream_id]
                http2.reset_stream(stream_id, error_code)
            case GoAway():
                self._go_away(http2, stream_id, reply)
            case Vanish():
                self.abort()
            case Stall():
                pass

    def _respond(self, http2: Http2, stream_id: int, reply: Respond) -> None:
        stream = self._streams[stream_id]
        apns_id = stream.headers.get("apns-id") or str(uuid4()).upper()
        fields = [(":status", str(reply.status)), ("apns-id", apns_id), *reply.headers.items()]
        body = reply.body
        http2.answer(stream_id, fields, ends=not body)
        self._last_answered = max(self._last_answered, stream_id)
        self._apns.counts.answered += 1
        self._apns.counts.statuses[reply.status] += 1
        if reply.status == SUCCESS.status and stream.push is not None:
            self._delivered.append(stream.push)
        self._send_body(http2, stream_id, stream, body)

    def _send_body(self, http2: Http2, stream_id: int, stream: _Stream, body: bytes) -> None:
        stream.unsent = http2.answer_body(stream_id, body)
        if not stream.unsent:
            del self._streams[stream_id]

    def _send_rests(self, http2: Http2) -> None:
        for stream_id, stream in list(self._streams.items()):
            if stream.unsent:
                self._send_body(http2, stream_id, stream, stream.unsent)

    def _go_away(self, http2: Http2, stream_id: int, reply: GoAway) -> None:
        last = reply.last_stream_id
        if last is None:
            last = http2.highest_inbound_stream_id if reply.answer_first else self._last_answered
        debug_data = Respond(0, reply.reason).body
        self._flush()
        self._tls.write(http2.go_away(last, debug_data))
        self._leaving = True
        if reply.answer_first:
            self._schedule(0.0, stream_id, SUCCESS)
        else:
            self._close()

    def _flush(self) -> None:
        if self._http2 is not None and not self._closed:
            data = self._http2.data_to_send()
            if data:
                self._tls.write(data)

    def _close(self) -> None:
        self._drop()
        self._tls.loseConnection()

    def _drop(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._streams.clear()
        self._due.clear()


_HANDLERS: Final[Mapping[type[Event], Callable[[APNsServerConnection, Http2, Any], None]]] = {
    RequestReceived: APNsServerConnection._request_received,
    DataReceived: APNsServerConnection._data_received,
    StreamEnded: APNsServerConnection._stream_ended,
    StreamReset: APNsServerConnection._stream_reset,
    WindowUpdated: APNsServerConnection._window_grew,
    RemoteSettingsChanged: APNsServerConnection._window_grew,
    SettingsAcknowledged: APNsServerConnection._settings_acknowledged,
    PingReceived: APNsServerConnection._ping_received,
    ConnectionTerminated: APNsServerConnection._client_leaves,
}


def _topic(certificate: x509.Certificate) -> str | None:
    """
    @return: the topic that a push certificate is for: its subject's UID.
    """
    for attribute in certificate.subject.get_attributes_for_oid(NameOID.USER_ID):
        return str(attribute.value)
    return None
