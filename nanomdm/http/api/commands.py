"""
C{/v1/commands}.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.web.resource import Resource

from nanomdm.http.api.keys import Role
from nanomdm.http.api.named import NamedEndpoint, list_response
from nanomdm.http.api.parts import APIParts
from nanomdm.http.api.plists import PASSES, plist_member, prefers_plist, raw_plist
from nanomdm.http.api.query import only, page
from nanomdm.http.api.times import time_text
from nanomdm.http.endpoint import Folder, Missing
from nanomdm.http.request import Request
from nanomdm.http.response import Response
from nanomdm.interfaces import CommandTarget, Listing, Page, StoredCommand
from nanomdm.mdm.command import NOT_NOW

#: Bytes that a target takes in a list, about.
_SIZE: Final = 300


class CommandsFolder(Folder):
    """
    What is in C{/v1/commands}.
    """

    def __init__(self, parts: APIParts) -> None:
        super().__init__()
        self._parts = parts

    def getChild(self, path: bytes, request: Request) -> Resource:
        """
        What is below is a command.
        """
        return CommandEndpoint(self._parts, path) if path else Missing()


class CommandEndpoint(NamedEndpoint):
    """
    C{GET /v1/commands/<uuid>}: a command, whom it was queued for, and what became of it
    there.
    """

    route = "/v1/commands/{uuid}"
    methods = {b"GET": Role.READ}
    names = ("command_uuid",)

    async def respond_about(self, request: Request, *names: str) -> Response:
        """
        Show it.
        """
        only(request, "limit", "cursor")
        [uuid] = names
        wanted, plain = page(request), prefers_plist(request)
        return await self._parts.turns.take(request, lambda: self._show(uuid, wanted, plain))

    async def _show(self, uuid: str, wanted: Page, plain: bool) -> Response:
        command = await self._parts.storage.command(uuid)
        if plain:
            return raw_plist(command.raw)
        targets = await self._parts.storage.list_targets(uuid, wanted)
        size = PASSES * len(command.raw) + _SIZE * len(targets.items)
        return await self._parts.offloader.run(size, _whole, command, targets)


def _whole(command: StoredCommand, targets: Listing[CommandTarget]) -> Response:
    described = {
        "command_uuid": command.command_uuid,
        "request_type": command.request_type,
        "created_at": time_text(command.created_at),
        **_inner(command.raw),
    }
    return list_response("targets", targets, _described, described)


def _inner(raw: bytes) -> dict[str, Any]:
    """
    @return: the C{Command} of a property list, which has hardly more than that.
    """
    member = plist_member("command", raw)
    if "command" in member:
        member["command"] = member["command"].get("Command")
        if not isinstance(member["command"], dict):
            return {"unreadable": "Command is missing or not a dictionary"}
    return member


def _described(target: CommandTarget) -> dict[str, Any]:
    described: dict[str, Any] = {
        "id": target.id,
        "state": _state(target),
        "status": target.status,
        "priority": target.priority,
        "queued_at": time_text(target.queued_at),
    }
    if target.answered_at is not None:
        described["answered_at"] = time_text(target.answered_at)
    if target.not_now_count:
        described["not_now_count"] = target.not_now_count
    if target.status is None:
        del described["status"]
    return described


def _state(target: CommandTarget) -> str:
    if target.status not in (None, NOT_NOW):
        return "answered"
    if not target.active:
        return "cleared"
    return "waiting" if target.status is None else "not_now"
