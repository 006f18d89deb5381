"""
HTTP/2 as APNs wants it, without a network: requests to bytes, bytes to events.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import Event
from h2.exceptions import FlowControlError, FrameTooLargeError
from h2.settings import SettingCodes, Settings
from hpack import Encoder, HeaderTuple, NeverIndexedHeaderTuple

from nanomdm.push.notification import Notification

#: Bytes of a frame's header (RFC 9113 section 4.1).
_FRAME_HEADER: Final = 9

#: How many streams are opened between two sweeps of closed ones.
_SWEEP_INTERVAL: Final = 256


class _PlainEncoder(Encoder):
    """
    Leaves out the Huffman code: it saves 50 bytes of a push and costs as much time
    as everything else in its headers.
    """

    def encode(self, headers: Iterable[HeaderTuple], huffman: bool = False) -> bytes:  # type: ignore[override]
        return super().encode(headers, huffman)


class Http2(H2Connection):
    """
    The client's side of one HTTP/2 connection.

    @param authority: the server's name, as C{:authority}.
    @param open_streams: has as many elements as there are open streams.
    """

    def __init__(self, authority: str, open_streams: Sized) -> None:
        # What is sent is known to be right.  Of what is received three fields
        # count, and whoever reads them checks them.
        config = H2Configuration(
            client_side=True,
            header_encoding=None,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            validate_inbound_headers=False,
            normalize_inbound_headers=False,
        )
        super().__init__(config)
        self.local_settings = Settings(
            client=True,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                # Nobody opens streams to a client, but late answers on streams
                # that were reset are held against this.
                SettingCodes.MAX_CONCURRENT_STREAMS: 100,
                SettingCodes.MAX_HEADER_LIST_SIZE: self.DEFAULT_MAX_HEADER_LIST_SIZE,
            },
        )
        self.encoder = _PlainEncoder()
        self._mine = open_streams
        self._until_sweep = _SWEEP_INTERVAL
        self._received = bytearray()
        self._common = [
            HeaderTuple(b":method", b"POST"),
            HeaderTuple(b":scheme", b"https"),
            HeaderTuple(b":authority", authority.encode("ascii")),
        ]

    @property
    def open_outbound_streams(self) -> int:
        """
        How many streams are open.  The base class counts them anew for each that
        it opens, and forgets closed ones on the way; it still does, but rarely.
        """
        self._until_sweep -= 1
        if self._until_sweep <= 0:
            self._until_sweep = _SWEEP_INTERVAL
            return super().open_outbound_streams
        return len(self._mine)

    def request(self, stream_id: int, notification: Notification) -> None:
        """
        Open a stream (Apple, "Sending notification requests to APNs").

        The token would only push other fields out of the table that both sides
        remember, and is nobody's business.
        """
        self.send_headers(
            stream_id,
            [
                *self._common,
                NeverIndexedHeaderTuple(b":path", b"/3/device/" + notification.token.encode()),
                HeaderTuple(b"apns-push-type", b"mdm"),
                HeaderTuple(b"apns-topic", notification.topic.encode()),
                HeaderTuple(b"apns-priority", b"10"),
                NeverIndexedHeaderTuple(b"apns-expiration", b"%d" % notification.expiration),
                NeverIndexedHeaderTuple(b"content-length", b"%d" % len(notification.payload)),
            ],
        )

    def send_body(self, stream_id: int, body: bytes) -> bytes:
        """
        Send what the windows allow of a body, and the stream's end with its last
        byte.

        @return: what must wait for WINDOW_UPDATE (RFC 9113 section 5.2).
        """
        try:
            self.send_data(stream_id, body, end_stream=True)
        except (FlowControlError, FrameTooLargeError):
            return self._send_parts(stream_id, body)
        return b""

    def _send_parts(self, stream_id: int, body: bytes) -> bytes:
        while body:
            size = min(
                self.local_flow_control_window(stream_id),
                self.max_outbound_frame_size,
                len(body),
            )
            # SETTINGS can make a window negative (RFC 9113 section 6.9.2).
            if size <= 0:
                break
            self.send_data(stream_id, body[:size], end_stream=size == len(body))
            body = body[size:]
        return body

    def feed(self, data: bytes) -> Iterator[Event]:
        """
        Take what was received.  The base class gets one frame at a time, because
        with a frame that is wrong, or that follows a GOAWAY, it would lose the
        events of all frames that came before it.

        @return: the events; to be exhausted before the next call, except after
            the connection's end.
        @raise h2.exceptions.ProtocolError: the peer broke the protocol; a GOAWAY
            that says so is ready to be sent.
        """
        self._received += data
        while len(self._received) >= _FRAME_HEADER:
            length = int.from_bytes(self._received[:3], "big")
            if length > self.max_inbound_frame_size:
                self.close_connection(ErrorCodes.FRAME_SIZE_ERROR)
                raise FrameTooLargeError(f"a frame of {length} bytes")
            end = _FRAME_HEADER + length
            if len(self._received) < end:
                return
            frame = bytes(self._received[:end])
            del self._received[:end]
            yield from self.receive_data(frame)
