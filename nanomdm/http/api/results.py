"""
C{/v1/enrollments/<id>/results}.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.web.resource import Resource

from nanomdm.errors import MessageError
from nanomdm.http.api.keys import Role
from nanomdm.http.api.named import NamedEndpoint, list_response
from nanomdm.http.api.plists import PASSES, plist_member, prefers_plist, raw_plist
from nanomdm.http.api.query import age, only, page, words
from nanomdm.http.api.times import time_text
from nanomdm.http.endpoint import Missing
from nanomdm.http.request import Request
from nanomdm.http.response import Response, json_response
from nanomdm.interfaces import CommandAnswer, Page, ResultFilter
from nanomdm.mdm.plist import Dictionary, parse

#: Bytes that an answer takes in a list without what it is, about.
_SIZE: Final = 300

#: Statuses whose answers say what went wrong.
_FAILURES: Final = ("Error", "CommandFormatError")


class ResultsEndpoint(NamedEndpoint):
    """
    C{GET /v1/enrollments/<id>/results}: lists what an enrollment answered, the newest
    first.
    """

    route = "/v1/enrollments/{id}/results"
    methods = {b"GET": Role.READ}

    def getChild(self, path: bytes, request: Request) -> Resource:
        """
        What is below is the answer to a command.
        """
        return ResultEndpoint(self._parts, *self._segments, path) if path else Missing()

    async def respond_about(self, request: Request, *names: str) -> Response:
        """
        List them.
        """
        only(request, "limit", "cursor", "request_type", "status", "since")
        [id] = names
        which = ResultFilter(
            request_type=words(request, "request_type"),
            status=words(request, "status"),
            since=age(request, "since", self._parts.now()),
        )
        wanted = page(request)
        return await self._parts.turns.take(request, lambda: self._list(id, which, wanted))

    async def _list(self, id: str, which: ResultFilter, wanted: Page) -> Response:
        listing = await self._parts.storage.list_results(id, which, wanted)
        size = sum(_SIZE + len(answer.raw or b"") for answer in listing.items)
        return await self._parts.offloader.run(size, list_response, "results", listing, _described)


class ResultEndpoint(NamedEndpoint):
    """
    C{GET /v1/enrollments/<id>/results/<uuid>}: what an enrollment answered to a command.
    """

    route = "/v1/enrollments/{id}/results/{uuid}"
    methods = {b"GET": Role.READ}
    names = ("id", "command_uuid")

    async def respond_about(self, request: Request, *names: str) -> Response:
        """
        Show it.
        """
        only(request)
        id, uuid = names
        plain = prefers_plist(request)
        return await self._parts.turns.take(request, lambda: self._show(id, uuid, plain))

    async def _show(self, id: str, uuid: str, plain: bool) -> Response:
        answer = await self._parts.storage.result(id, uuid)
        raw = answer.raw or b""
        if plain:
            return raw_plist(raw)
        return await self._parts.offloader.run(PASSES * len(raw), _whole, answer, raw)


def _whole(answer: CommandAnswer, raw: bytes) -> Response:
    return json_response(200, {**_described(answer), **plist_member("result", raw)})


def _described(answer: CommandAnswer) -> dict[str, Any]:
    described: dict[str, Any] = {
        "command_uuid": answer.command_uuid,
        "request_type": answer.request_type,
        "status": answer.status,
        "answered_at": time_text(answer.answered_at),
    }
    if answer.not_now_count:
        described["not_now_count"] = answer.not_now_count
    if answer.status in _FAILURES and (errors := _errors(answer.raw or b"")):
        described["errors"] = errors
    return described


def _errors(raw: bytes) -> list[dict[str, Any]]:
    """
    @return: what an answer's C{ErrorChain} has, where it is what Apple says it is.
    """
    try:
        chain = parse(raw, keep=3).get("ErrorChain")
    except MessageError:
        return []
    links = chain if isinstance(chain, list) else []
    return list(filter(None, (_error(link) for link in links if isinstance(link, dict))))


def _error(link: Dictionary) -> dict[str, Any]:
    texts = (link.get("USEnglishDescription"), link.get("LocalizedDescription"))
    code, domain = link.get("ErrorCode"), link.get("ErrorDomain")
    error: dict[str, Any] = {}
    if type(code) is int:
        error["code"] = code
    if isinstance(domain, str) and domain:
        error["domain"] = domain
    if description := next((text for text in texts if isinstance(text, str) and text), None):
        error["description"] = description
    return error
