"""
C{/v1/webhook}: events that were given up.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from twisted.logger import Logger

from nanomdm.crypto.pushcert import utc_text
from nanomdm.errors import MessageError
from nanomdm.http.api.body import json_body
from nanomdm.http.api.guard import GuardedEndpoint
from nanomdm.http.api.keys import APIKeys, Role
from nanomdm.http.api.query import LARGEST_PAGE, PAGE, number
from nanomdm.http.request import Request
from nanomdm.http.response import Response, json_response
from nanomdm.interfaces import Backlog, FailedEvent, IEventStore

#: Bytes of the body that says what to deliver again, at most.
_LARGEST_BODY: Final = 1 << 18

_HIGHEST_NUMBER: Final = 2**63 - 1


class _WebhookEndpoint(GuardedEndpoint):
    def __init__(self, keys: APIKeys, store: IEventStore) -> None:
        super().__init__(keys)
        self._store = store


class FailedEventsEndpoint(_WebhookEndpoint):
    """
    C{GET /v1/webhook/failed[?limit=...&cursor=...]}: lists the events that were given up,
    in the order of their numbers, and how many wait.  As long as there are more, the
    answer has a C{next_cursor} for the next call.
    """

    route = "/v1/webhook/failed"
    methods = {b"GET": Role.READ}

    async def respond_to_operator(self, request: Request) -> Response:
        """
        List them.
        """
        limit = number(request, "limit", PAGE, LARGEST_PAGE)
        after = number(request, "cursor", 0, _HIGHEST_NUMBER)
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

    route = "/v1/webhook/retry"
    methods = {b"POST": Role.ADMIN}

    _log: Final = Logger()

    def __init__(self, keys: APIKeys, store: IEventStore, wake: Callable[[], None] | None) -> None:
        super().__init__(keys, store)
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


def _numbers(body: bytes) -> list[int] | None:
    """
    @return: the numbers of events; L{None} for all.
    @raise MessageError: the body says neither.
    """
    asked = json_body(body, _LARGEST_BODY)
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
