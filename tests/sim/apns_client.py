"""
A small HTTP/2 client for tests of the simulated APNs, which does not keep to any
limit by itself.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from attrs import Factory, define
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    PingAckReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.settings import SettingCodes
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import Certificate, PrivateCertificate, optionsForClientTLS
from twisted.python.failure import Failure

from nanomdm.sim.ca import DeviceIdentity

TOPIC = "com.apple.mgmt.External.1"
TOKEN = "00" * 32
GOAWAY = 7
PAYLOAD = b'{"mdm":"magic"}'


@define
class Answer:
    """
    What came back: an answer, or a reset.
    """

    status: int = 0
    headers: dict[str, str] = Factory(dict)
    body: bytes = b""
    reset: int | None = None


class _Http2(H2Connection):
    @property
    def open_outbound_streams(self) -> int:
        """
        So few that one more is fine even if none is allowed.
        """
        return -1


class PushClient(Protocol):
    """
    @ivar ready: fires when SETTINGS came.
    @ivar lost: fires when the connection is gone.
    @ivar reason: why it is gone.
    @ivar goaways: error code, last stream id and debug data of each GOAWAY.
    """

    def __init__(self, acknowledge: bool = True, window: int | None = None) -> None:
        self.http2 = _Http2(H2Configuration(header_encoding="utf-8"))
        if window is not None:
            self.http2.local_settings[SettingCodes.INITIAL_WINDOW_SIZE] = window
            self.http2.local_settings.acknowledge()
        self.acknowledge = acknowledge
        self.ready: Deferred[None] = Deferred()
        self.lost: Deferred[None] = Deferred()
        self.reason: Failure | None = None
        self.received = b""
        self.goaways: list[tuple[int, int, bytes]] = []
        self.answers: dict[int, Answer] = {}
        self.waiting: dict[int, Deferred[Answer]] = {}
        self.bodies: dict[int, bytes] = {}
        self.pings: list[Deferred[None]] = []
        self.ponged: list[Deferred[None]] = []
        self.changed: Deferred[None] = Deferred()

    @property
    def limit(self) -> int:
        return self.http2.remote_settings.max_concurrent_streams

    def connectionMade(self) -> None:
        self.http2.initiate_connection()
        self.flush()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.ready.called:
            self.ready.errback(reason)
        self.reason = reason
        self.lost.callback(None)

    def flush(self) -> None:
        assert self.transport is not None
        self.transport.write(self.http2.data_to_send())

    def push(
        self,
        token: str = TOKEN,
        payload: bytes = PAYLOAD,
        path: str | None = None,
        method: str = "POST",
        **headers: str | None,
    ) -> Deferred[Answer]:
        """
        Send a push, which is right unless the arguments make it wrong.
        """
        fields: dict[str, str | None] = {
            "apns-topic": TOPIC,
            "apns-push-type": "mdm",
            "apns-priority": "10",
            "apns-expiration": "1790000000",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        stream = self.http2.get_next_available_stream_id()
        pseudo = [
            (":method", method),
            (":scheme", "https"),
            (":authority", "localhost"),
            (":path", path or f"/3/device/{token}"),
        ]
        given = [(name, value) for name, value in fields.items() if value is not None]
        self.http2.send_headers(stream, pseudo + given)
        self.answers[stream] = Answer()
        self.waiting[stream] = Deferred()
        self.bodies[stream] = payload
        self.send_body(stream)
        self.flush()
        return self.waiting[stream]

    def cancel(self, stream: int) -> None:
        self.http2.reset_stream(stream, ErrorCodes.CANCEL)
        self.flush()

    def ping(self) -> Deferred[None]:
        """
        Fires when the server has looked at everything sent so far.
        """
        self.pings.append(Deferred())
        self.http2.ping(b"12345678")
        self.flush()
        return self.pings[-1]

    def send_body(self, stream: int) -> None:
        body = self.bodies.pop(stream)
        while size := min(len(body), self.http2.local_flow_control_window(stream)):
            self.http2.send_data(stream, body[:size], end_stream=size == len(body))
            body = body[size:]
        if body:
            self.bodies[stream] = body

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        while len(self.received) >= 9:
            size = 9 + int.from_bytes(self.received[:3], "big")
            if len(self.received) < size:
                break
            frame, self.received = self.received[:size], self.received[size:]
            if frame[3] == GOAWAY:
                # Kept from h2, which would take no answers afterwards.
                last, code = struct.unpack("!II", frame[9:17])
                self.goaways.append((code, last, frame[17:]))
            else:
                self.frame_received(frame)
        self.flush()
        ponged, self.ponged = self.ponged, []
        for ping in ponged:
            ping.callback(None)

    def frame_received(self, frame: bytes) -> None:
        for event in self.http2.receive_data(frame):
            match event:
                case RemoteSettingsChanged():
                    changed, self.changed = self.changed, Deferred()
                    changed.callback(None)
                    if not self.ready.called:
                        self.ready.callback(None)
                case ResponseReceived(stream_id=int(stream)):
                    answer = self.answers[stream]
                    answer.headers = dict(event.headers)  # type: ignore[arg-type]
                    answer.status = int(answer.headers[":status"])
                case DataReceived(stream_id=int(stream)):
                    self.answers[stream].body += event.data
                    if self.acknowledge:
                        self.http2.acknowledge_received_data(event.flow_controlled_length, stream)
                case StreamEnded(stream_id=int(stream)):
                    self.finish(stream)
                case StreamReset(stream_id=int(stream)):
                    self.answers[stream].reset = event.error_code
                    self.finish(stream)
                case PingAckReceived():
                    self.ponged.append(self.pings.pop(0))
                case WindowUpdated():
                    for stream in list(self.bodies):
                        self.send_body(stream)

    def finish(self, stream: int) -> None:
        self.waiting.pop(stream).callback(self.answers[stream])


async def connect(
    port: int,
    ca_pem: bytes,
    identity: DeviceIdentity | None,
    client: PushClient,
    protocols: Sequence[bytes] = (b"h2",),
) -> None:
    """
    Do the TLS handshake; does not wait for SETTINGS.

    @param identity: the client's certificate.
    @param protocols: offered by ALPN.
    """
    options = optionsForClientTLS(
        "localhost",
        trustRoot=Certificate.loadPEM(ca_pem),
        clientCertificate=identity and PrivateCertificate.loadPEM(identity.pem + identity.key_pem),
        acceptableProtocols=list(protocols) or None,
    )
    endpoint = wrapClientTLS(options, HostnameEndpoint(reactor, b"127.0.0.1", port))
    await connectProtocol(endpoint, client)
