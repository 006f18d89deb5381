"""
What one stream brings back, and what it means.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

from twisted.internet.defer import Deferred

from nanomdm.push.notification import Answer

#: Bytes that a response's body may have; APNs' are below 100.
MAX_BODY: Final = 1 << 16

#: Characters kept of each text that comes from the peer.
_MAX_TEXT: Final = 200


class Stream:
    """
    One notification under way.

    @ivar id: the stream's number.
    @ivar done: fires with the L{Answer}.
    @ivar unsent: what flow control holds back of the request's body; its end is
        not sent as long as there is something.
    """

    __slots__ = ("_apns_id", "_body", "_retry_after", "_status", "done", "id", "unsent")

    def __init__(self, number: int, done: Deferred[Answer]) -> None:
        self.id = number
        self.done = done
        self.unsent = b""
        self._status: int | None = None
        self._apns_id: str | None = None
        self._retry_after: str | None = None
        self._body = bytearray()

    def headers(self, fields: Iterable[tuple[bytes, bytes]]) -> None:
        """
        Take the response's header fields.
        """
        for name, value in fields:
            if name == b":status":
                # RFC 9110 section 15: three digits.
                if len(value) == 3 and value.isdigit():
                    self._status = int(value)
            elif name == b"apns-id":
                self._apns_id = _text(value)
            elif name == b"retry-after":
                self._retry_after = _text(value)

    def data(self, data: bytes) -> bool:
        """
        Take a part of the response's body.

        @return: whether it is still within L{MAX_BODY}.
        """
        self._body += data
        return len(self._body) <= MAX_BODY

    def answer(self) -> Answer | None:
        """
        @return: the complete response's meaning; L{None} when it had no status.
        """
        if self._status is None:
            return None
        if self._status == 200:
            return Answer(200, self._apns_id)
        reason, timestamp = parse_problem(self._body)
        return Answer(self._status, self._apns_id, reason, timestamp, self._retry_after)

    def succeed(self, answer: Answer) -> None:
        """
        Fire L{done}.
        """
        if not self.done.called:
            self.done.callback(answer)

    def fail(self, error: Exception) -> None:
        """
        Fail L{done}, unless somebody cancelled it while others of its connection
        failed.
        """
        if not self.done.called:
            self.done.errback(error)


def parse_problem(body: bytes | bytearray) -> tuple[str | None, float | None]:
    """
    Read the JSON with which APNs explains errors (Apple, "Handling notification
    responses from APNs").  What is not as it should be counts as missing.

    @param body: at most L{MAX_BODY} bytes.
    @return: C{reason}, and C{timestamp} in seconds since 1970.
    """
    try:
        problem = json.loads(body)
    except (ValueError, RecursionError):
        return None, None
    if not isinstance(problem, dict):
        return None, None
    reason = problem.get("reason")
    return (
        reason[:_MAX_TEXT] if isinstance(reason, str) else None,
        _seconds(problem.get("timestamp")),
    )


def _seconds(milliseconds: object) -> float | None:
    if not isinstance(milliseconds, int) or isinstance(milliseconds, bool):
        return None
    # Beyond this it is no time, and may be too large for a float.
    return milliseconds / 1000 if 0 <= milliseconds < 1 << 53 else None


def _text(value: bytes) -> str:
    return value[:_MAX_TEXT].decode("ascii", "replace")
