"""
What the simulated APNs answers to which token.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from attrs import Factory, frozen
from h2.errors import ErrorCodes


@frozen
class Respond:
    """
    An ordinary answer.

    @ivar status: the HTTP status.
    @ivar reason: C{reason} in the body (Apple, "Handling notification responses
        from APNs").
    @ivar headers: more headers, such as C{retry-after}, names in lower case.
    @ivar timestamp: since when the token is dead, in seconds since 1970; goes
        into the body in milliseconds.
    """

    status: int
    reason: str | None = None
    headers: Mapping[str, str] = Factory(dict)
    timestamp: float | None = None

    @property
    def body(self) -> bytes:
        """
        The JSON body; empty when there is nothing to tell.
        """
        content: dict[str, Any] = {}
        if self.reason is not None:
            content["reason"] = self.reason
        if self.timestamp is not None:
            content["timestamp"] = round(self.timestamp * 1000)
        return json.dumps(content).encode() if content else b""


@frozen
class GoAway:
    """
    Send GOAWAY and close.

    @ivar answer_first: answer everything that is open before the connection is
        closed, this push with success; otherwise nothing that is open gets an
        answer.
    @ivar reason: C{reason} in the frame's debug data.
    @ivar last_stream_id: what the frame says about which streams were looked at;
        L{None} tells the truth: all that are open, or the last that has an answer.
    """

    answer_first: bool = False
    reason: str | None = None
    last_stream_id: int | None = None


@frozen
class Reset:
    """
    Reset the stream.

    @ivar error_code: why (RFC 9113 section 7).
    """

    error_code: int = ErrorCodes.INTERNAL_ERROR


@frozen
class Stall:
    """
    Never answer.
    """


@frozen
class Vanish:
    """
    Abort the connection, without a word.
    """


@frozen
class Delay:
    """
    Wait longer than the latency.

    @ivar seconds: how much longer.
    @ivar then: what comes afterwards.
    """

    seconds: float
    then: Reply


Reply = Respond | GoAway | Reset | Stall | Vanish | Delay

SUCCESS: Final = Respond(200)


class Script:
    """
    Replies by the beginning of the token.  Where no rule fits, there is success.
    """

    def __init__(self) -> None:
        self._rules: dict[str, deque[Reply]] = {}
        self._prefixes: list[str] = []

    def set(self, prefix: str, *replies: Reply) -> None:
        """
        Set, replace or remove a rule.

        @param prefix: how tokens begin that it is for; the longest one wins.
        @param replies: used up one after the other; the last one stays.  None at
            all removes the rule.
        """
        if replies:
            self._rules[prefix] = deque(replies)
        else:
            self._rules.pop(prefix, None)
        self._prefixes = sorted(self._rules, key=len, reverse=True)

    def next(self, token: str) -> Reply:
        """
        Take a token's next reply.
        """
        for prefix in self._prefixes:
            if token.startswith(prefix):
                replies = self._rules[prefix]
                return replies.popleft() if len(replies) > 1 else replies[0]
        return SUCCESS
