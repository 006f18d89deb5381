"""
The server's side of HTTP/2, without the costs and the strictness that would get
in a simulation's way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hpack import Encoder, HeaderTuple, NeverIndexedHeaderTuple
from hyperframe.frame import GoAwayFrame

#: How many streams begin between two sweeps of closed ones.
_SWEEP_INTERVAL: Final = 256

#: Bytes that all requests together may have under way.
_CONNECTION_WINDOW: Final = 2**24


class _PlainEncoder(Encoder):
    """
    Leaves out the Huffman code, which takes longer than everything else.
    """

    def encode(self, headers: Iterable[HeaderTuple], huffman: bool = False) -> bytes:  # type: ignore[override]
        return super().encode(headers, huffman)


class Http2(H2Connection):
    """
    One connection's frames.

    @param max_concurrent_streams: announced in SETTINGS.
    @param initial_window_size: bytes of a request's body that can be sent at
        once; announced in SETTINGS.
    @ivar stream_limit: the MAX_CONCURRENT_STREAMS that the client is known to know.
    """

    def __init__(self, max_concurrent_streams: int, initial_window_size: int) -> None:
        config = H2Configuration(
            client_side=False,
            header_encoding="utf-8",
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        super().__init__(config)
        self.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: max_concurrent_streams,
                SettingCodes.INITIAL_WINDOW_SIZE: initial_window_size,
                SettingCodes.MAX_HEADER_LIST_SIZE: self.DEFAULT_MAX_HEADER_LIST_SIZE,
            },
        )
        self.encoder = _PlainEncoder()
        self.stream_limit = max_concurrent_streams
        self._announced = deque([max_concurrent_streams])
        self._until_sweep = _SWEEP_INTERVAL

    @property
    def open_inbound_streams(self) -> int:
        """
        Always so few that one more is allowed, because the base class would end
        the connection; who uses this counts streams.  It walks through all streams
        to count them, and forgets closed ones on the way; that is still done, but
        rarely.
        """
        self._until_sweep -= 1
        if self._until_sweep <= 0:
            self._until_sweep = _SWEEP_INTERVAL
            _swept = super().open_inbound_streams
        return -1

    def begin(self) -> None:
        """
        Send SETTINGS, and a connection window that is never in the way.
        """
        self.initiate_connection()
        self.increment_flow_control_window(_CONNECTION_WINDOW)

    def announce_stream_limit(self, limit: int) -> None:
        """
        Send another MAX_CONCURRENT_STREAMS.
        """
        self._announced.append(limit)
        self.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: limit})

    def settings_acknowledged(self) -> None:
        """
        The client confirmed SETTINGS.  The base class takes the first confirmation
        for that of a change.
        """
        if self._announced:
            self.stream_limit = self._announced.popleft()

    def answer(self, stream_id: int, fields: Iterable[tuple[str, str]], ends: bool) -> None:
        """
        Send the header of an answer.

        @param fields: header fields; C{:status} comes first.
        @param ends: no body follows.
        """
        headers: list[HeaderTuple] = []
        for name, value in fields:
            kind = HeaderTuple if name == ":status" else NeverIndexedHeaderTuple
            headers.append(kind(name.encode(), value.encode()))
        self.send_headers(stream_id, headers, end_stream=ends)

    def answer_body(self, stream_id: int, body: bytes) -> bytes:
        """
        Send what the client's windows allow of a body, with the stream's end.

        @return: what is left for later.
        """
        while body:
            size = min(self.local_flow_control_window(stream_id), self.max_outbound_frame_size)
            if size <= 0:
                break
            part, body = body[:size], body[size:]
            self.send_data(stream_id, part, end_stream=not body)
        return body

    def refuse(self, stream_id: int) -> None:
        """
        Reset a stream that nobody looked at.
        """
        # The client may have reset it, or left, in the same breath.
        with suppress(ProtocolError):
            self.reset_stream(stream_id, ErrorCodes.REFUSED_STREAM)

    def go_away(self, last_stream_id: int, debug_data: bytes) -> bytes:
        """
        Unlike C{close_connection}, this allows to send more answers.

        @return: a GOAWAY frame, to be sent behind all that is to be sent already.
        """
        frame = GoAwayFrame(0, last_stream_id, ErrorCodes.NO_ERROR, debug_data)
        return frame.serialize()
