"""
C{/v1/enrollments/<id>/queue}.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Any, Final

from twisted.logger import Logger
from twisted.web.resource import Resource

from nanomdm.errors import MessageError
from nanomdm.http.api.body import json_body
from nanomdm.http.api.keys import Role
from nanomdm.http.api.named import NamedEndpoint, list_response
from nanomdm.http.api.query import only, page
from nanomdm.http.api.times import time_text
from nanomdm.http.endpoint import Missing
from nanomdm.http.request import Request
from nanomdm.http.response import Response, json_response
from nanomdm.interfaces import OutstandingCommand

#: Bytes that a command takes in a list, about.
_SIZE: Final = 300

#: Bytes of the body that says what priority a command is to have, at most.
_LARGEST_BODY: Final = 1 << 10

_log: Final = Logger()


class QueueEndpoint(NamedEndpoint):
    """
    C{GET /v1/enrollments/<id>/queue} lists the commands that are to be answered, in the
    order in which they are delivered; C{DELETE} cancels all of them.
    """

    route = "/v1/enrollments/{id}/queue"
    methods = {b"GET": Role.READ, b"DELETE": Role.ENQUEUE}

    def getChild(self, path: bytes, request: Request) -> Resource:
        """
        What is below is a command.
        """
        if not path:
            return Missing()
        return QueuedCommandEndpoint(self._parts, *self._segments, path)

    async def respond_about(self, request: Request, *names: str) -> Response:
        """
        List or clear the queue.
        """
        [id] = names
        if request.method == b"GET":
            return await self._list(request, id)
        only(request)
        count = await self._parts.storage.clear_queue(id)
        _note(request, "queue cleared", id=id, count=count)
        return json_response(200, {"cleared": count})

    async def _list(self, request: Request, id: str) -> Response:
        only(request, "limit", "cursor")
        listing = await self._parts.storage.list_queue(id, page(request))
        describe = partial(_described, self._parts.now())
        size = _SIZE * len(listing.items)
        return await self._parts.offloader.run(size, list_response, "commands", listing, describe)


class QueuedCommandEndpoint(NamedEndpoint):
    """
    C{DELETE /v1/enrollments/<id>/queue/<uuid>} cancels a command, C{PATCH} with
    C{{"priority": ...}} brings it forward or puts it back.
    """

    route = "/v1/enrollments/{id}/queue/{uuid}"
    methods = {b"DELETE": Role.ENQUEUE, b"PATCH": Role.ENQUEUE}
    names = ("id", "command_uuid")

    async def respond_about(self, request: Request, *names: str) -> Response:
        """
        Change the queue.
        """
        only(request)
        id, uuid = names
        named = {"id": id, "command_uuid": uuid}
        if request.method == b"DELETE":
            await self._parts.storage.cancel_command(id, uuid)
            _note(request, "command cancelled", **named)
            return json_response(200, {**named, "cancelled": True})
        priority = _priority(request.body)
        await self._parts.storage.set_priority(id, uuid, priority)
        _note(request, "priority changed", **named, priority=priority)
        return json_response(200, {**named, "priority": priority})


def _note(request: Request, what: str, **more: Any) -> None:
    _log.info(what, trace_id=request.trace_id, operator=request.notes["operator"], **more)


def _priority(body: bytes) -> int:
    """
    @raise MessageError: the body says none.
    """
    asked = json_body(body, _LARGEST_BODY)
    if isinstance(asked, dict) and list(asked) == ["priority"]:
        priority = asked["priority"]
        if type(priority) is int and -128 <= priority <= 127:
            return priority
    raise MessageError('the body is not {"priority": ...} with a number from -128 to 127')


def _described(now: datetime, command: OutstandingCommand) -> dict[str, Any]:
    described: dict[str, Any] = {
        "command_uuid": command.command_uuid,
        "request_type": command.request_type,
        "priority": command.priority,
        "queued_at": time_text(command.queued_at),
        # The database has a clock of its own.
        "age_seconds": max(0, int(now.timestamp() - command.queued_at)),
        "state": "waiting",
    }
    if command.not_now_at is not None:
        described["state"] = "not_now"
        described["not_now_count"] = command.not_now_count
        described["not_now_at"] = time_text(command.not_now_at)
    return described
