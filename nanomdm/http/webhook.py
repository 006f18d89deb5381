"""
C{/v1/webhook}: events that were given up.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from twisted.logger import Logger

from nanomdm.crypto.pushcert import utc_text
from nanomdm.errors import MessageError
from nanomdm.http.api import BasicAuth, GuardedEndpoint
from nanomdm.http.request import Request
from nanomdm.http.response import Response, json_response
from nanomdm.interfaces import Backlog, FailedEvent, IEventStore

#: Events in one answer: unless the caller says how many, and at most.
_PAGE: Final = 100
_LARGEST_PAGE: Final = 1000

#: Bytes of the body that says what to deliver again, at most.
_LARGEST_BODY: Final = 1 << 18

_HIGHEST_NUMBER: Final = 2**63 - 1


class _WebhookEndpoint(GuardedEndpoint):
    error_member = "error"

    def __init__(self, auth: BasicAuth, store: IEventStore) -> None:
        super().__init__(auth)
        self._store = store


class FailedEventsEndpoint(_WebhookEndpoint):
    """
    C{GET /v1/webhook/failed[?limit=...&cursor=...]}: lists the events that were given up,
    in the order of their numbers, and how many wait.  As long as there are more, the
    answer has a C{next_cursor} for the next call.
    """

    methods = frozenset({b"GET"})

    async def respond_to_operator(self, request: Request) -> Response:
        """
        List them.
        """
        limit = _number(request, b"limit", _PAGE, _LARGEST_PAGE)
        after = _number(request, b"cursor", 0, _HIGHEST_NUMBER)
        backlog = await self._store.event_backlog()
        # One more shows whether there are more.
        events = await self._store.failed_events(limit + 1, after)
        answer: dict[str, Any] = {
            "backlog": _counts(backlog),
            "events": [_described(event) for event in events[:limit]],
        }
        if len(events) > limit:
            answer["next_cursor"] = events[limit - 1].number
        return json_response(200, answer)


class RetryEndpoint(_WebhookEndpoint):
    """
    C{POST /v1/webhook/retry} with C{{"numbers": [...]}} or C{{"all": true}}: delivers events
    again that were given up, and tells how many there were.

    @param wake: tells who delivers them, if it is this server.
    """

    methods = frozenset({b"POST"})

    _log: Final = Logger()

    def __init__(
        self, auth: BasicAuth, store: IEventStore, wake: Callable[[], None] | None
    ) -> None:
        super().__init__(auth, store)
        self._wake = wake

    async def respond_to_operator(self, request: Request) -> Response:
        """
        Put them back.
        """
        count = await self._store.retry_events(_numbers(request.body))
        self._log.info("webhook events are delivered again", count=count)
        if self._wake is not None:
            self._wake()
        return json_response(200, {"retried": count})


def _number(request: Request, name: bytes, default: int, highest: int) -> int:
    """
    @return: a number in the query.
    @raise MessageError: it is none, or too high.
    """
    value = request.args.get(name, [b""])[0]
    if not value:
        return default
    lowest = min(default, 1)
    if not value.isdigit() or len(value) > 19 or not lowest <= int(value) <= highest:
        raise MessageError(f"{name.decode()} is not a number from {lowest} to {highest}")
    return int(value)


def _numbers(body: bytes) -> list[int] | None:
    """
    @return: the numbers of events; L{None} for all.
    @raise MessageError: the body says neither.
    """
    if len(body) > _LARGEST_BODY:
        raise MessageError(f"the body has more than {_LARGEST_BODY} bytes")
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise MessageError("the body is not JSON") from None
    if asked == {"all": True} and asked["all"] is True:
        return None
    if isinstance(asked, dict) and list(asked) == ["numbers"] and _are_numbers(asked["numbers"]):
        numbers: list[int] = asked["numbers"]
        return numbers
    raise MessageError('the body is neither {"numbers": [...]} nor {"all": true}')


def _are_numbers(values: object) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value <= _HIGHEST_NUMBER for value in values
    )


def _counts(backlog: Backlog) -> dict[str, int]:
    counts = {"waiting": backlog.waiting, "failed": backlog.failed}
    if backlog.oldest is not None:
        counts["oldest_seconds"] = round(backlog.oldest)
    return counts


def _described(event: FailedEvent) -> dict[str, Any]:
    return {
        "number": event.number,
        "event_id": event.event_id,
        "topic": event.topic,
        "id": event.enrollment_id,
        "created": _time(event.created),
        "failed": _time(event.failed_at),
        "attempts": event.attempts,
        "reason": event.reason,
    }


def _time(seconds: int) -> str:
    return utc_text(datetime.fromtimestamp(seconds, UTC))
