"""
The notifications that are under way on one connection.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import H2Error
from twisted.internet.defer import Deferred

from nanomdm.push import notification
from nanomdm.push.http2 import Http2
from nanomdm.push.loss import describe_goaway, describe_violation, error_name
from nanomdm.push.notification import Answer, ConnectionLost, Notification
from nanomdm.push.response import Stream

#: Streams that are open at once at most, whatever the peer allows.
MAX_STREAMS: Final = 1000


class Streams:
    """
    Opens streams and takes what comes back on them.

    @param authority: the server's name, as C{:authority}.
    @param changed: called when a stream ended, or the peer's settings changed;
        something may be to be sent then.
    @ivar http2: makes the bytes to be sent.
    @ivar limit: how many may be open at once; L{None} until the peer told.
    """

    def __init__(self, authority: str, changed: Callable[[], None]) -> None:
        self.limit: int | None = None
        self._changed = changed
        self._open: dict[int, Stream] = {}
        self.http2 = Http2(authority, self._open)
        # Those whose bodies wait for a window, and whether one has opened since.
        self._blocked: dict[int, Stream] = {}
        self._window_opened = False

    def __len__(self) -> int:
        return len(self._open)

    @property
    def exhausted(self) -> bool:
        """
        Whether all stream numbers were used (RFC 9113 section 5.1.1).
        """
        used = self.http2.highest_outbound_stream_id
        return used + 2 > self.http2.HIGHEST_ALLOWED_STREAM_ID

    def open(self, notification: Notification) -> Deferred[Answer]:
        """
        Send a notification, as far as flow control allows at once.

        @return: fires when it is answered; cancelling resets the stream.
        """
        number = self.http2.get_next_available_stream_id()
        stream = Stream(number, Deferred(partial(self._cancelled, number)))
        self.http2.request(number, notification)
        self._open[number] = stream
        self._send_body(stream, notification.payload)
        return stream.done

    def unblock(self) -> None:
        """
        Send more of the bodies that wait, if a window has opened.
        """
        if self._window_opened:
            self._window_opened = False
            for stream in list(self._blocked.values()):
                self._send_body(stream, stream.unsent)

    def receive(self, data: bytes) -> ConnectionLost | None:
        """
        Deal with what the peer sent, in its order.

        @return: why nothing more can come, if so.
        """
        try:
            for event in self.http2.feed(data):
                if type(event) is ConnectionTerminated:
                    return describe_goaway(event)
                handle = _HANDLERS.get(type(event))
                if handle is not None:
                    handle(self, event)
        except H2Error as error:
            return describe_violation(error)
        return None

    def fail(self, loss: ConnectionLost) -> None:
        """
        Fail everything that is open.
        """
        streams = list(self._open.values())
        self._open.clear()
        self._blocked.clear()
        for stream in streams:
            # An exception of its own for each, since raising one changes it.
            stream.fail(ConnectionLost(str(loss), loss.resend, loss.refused))

    def _settings(self, event: RemoteSettingsChanged) -> None:
        self.limit = min(self.http2.remote_settings.max_concurrent_streams, MAX_STREAMS)
        self._window_opened = True
        self._changed()

    def _window(self, event: WindowUpdated) -> None:
        # Not acted upon for each: a peer can send thousands at once.
        self._window_opened = True

    def _response(self, event: ResponseReceived) -> None:
        stream = self._open.get(event.stream_id)
        if stream is not None:
            stream.headers(event.headers)

    def _data(self, event: DataReceived) -> None:
        self.http2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        stream = self._open.get(event.stream_id)
        if stream is not None and not stream.data(event.data):
            self._forget(stream.id)
            # If this very frame ended the stream there is nothing to reset.
            if event.stream_ended is None:
                self.http2.reset_stream(stream.id, ErrorCodes.CANCEL)
            stream.fail(notification.StreamReset("APNs' answer is too long"))

    def _ended(self, event: StreamEnded) -> None:
        stream = self._forget(event.stream_id)
        if stream is None:
            return
        if stream.unsent:
            # It was answered before it was asked completely (RFC 9113 section 8.1).
            self.http2.reset_stream(stream.id, ErrorCodes.CANCEL)
        answer = stream.answer()
        if answer is None:
            stream.fail(notification.StreamReset("APNs answered without a status"))
        else:
            stream.succeed(answer)

    def _reset(self, event: StreamReset) -> None:
        stream = self._forget(event.stream_id)
        if stream is None:
            return
        if event.error_code == ErrorCodes.REFUSED_STREAM:
            # It was not processed at all (RFC 9113 section 8.7).
            stream.fail(ConnectionLost("APNs refused the stream", resend=True))
        else:
            name = error_name(event.error_code)
            stream.fail(notification.StreamReset(f"APNs reset the stream: {name}"))

    def _cancelled(self, number: int, done: Deferred[Answer]) -> None:
        if self._forget(number) is not None:
            self.http2.reset_stream(number, ErrorCodes.CANCEL)

    def _forget(self, number: int) -> Stream | None:
        """
        Take a stream that ends out of the count, before anybody hears of it and
        sends another.
        """
        stream = self._open.pop(number, None)
        if stream is not None:
            self._blocked.pop(number, None)
            self._changed()
        return stream

    def _send_body(self, stream: Stream, body: bytes) -> None:
        stream.unsent = self.http2.send_body(stream.id, body)
        if stream.unsent:
            self._blocked[stream.id] = stream
        else:
            self._blocked.pop(stream.id, None)


_HANDLERS: Final[dict[type[Event], Callable[[Streams, Any], None]]] = {
    RemoteSettingsChanged: Streams._settings,
    WindowUpdated: Streams._window,
    ResponseReceived: Streams._response,
    DataReceived: Streams._data,
    StreamEnded: Streams._ended,
    StreamReset: Streams._reset,
}
