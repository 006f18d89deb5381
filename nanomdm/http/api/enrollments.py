"""
C{/v1/enrollments}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted.logger import Logger
from twisted.web.resource import Resource

from nanomdm.errors import MessageError
from nanomdm.http.api.facts import described, facts_size
from nanomdm.http.api.guard import GuardedEndpoint
from nanomdm.http.api.keys import Role
from nanomdm.http.api.named import NamedEndpoint, list_response
from nanomdm.http.api.parts import APIParts
from nanomdm.http.api.query import age, only, page, truth, words
from nanomdm.http.api.queue import QueueEndpoint
from nanomdm.http.api.results import ResultsEndpoint
from nanomdm.http.api.secrets import BootstrapTokenEndpoint, UnlockTokenEndpoint
from nanomdm.http.endpoint import Missing
from nanomdm.http.request import Request
from nanomdm.http.response import Response, json_response
from nanomdm.interfaces import EnrollmentFilter, Page
from nanomdm.mdm.enrollment import EnrollmentType

_TYPES: Final = [one.value for one in EnrollmentType]

_FILTERS: Final = (
    *("serial", "id", "type", "enabled", "topic", "user"),
    *("seen_before", "seen_after", "pending"),
)


class EnrollmentListEndpoint(GuardedEndpoint):
    """
    C{GET /v1/enrollments}: lists those that a query asks for, by id.
    """

    route = "/v1/enrollments"
    methods = {b"GET": Role.READ}

    def __init__(self, parts: APIParts) -> None:
        super().__init__(parts.keys)
        self._parts = parts

    def getChild(self, path: bytes, request: Request) -> Resource:
        """
        What is below is an enrollment.
        """
        return EnrollmentEndpoint(self._parts, path) if path else Missing()

    async def respond_to_operator(self, request: Request) -> Response:
        """
        List them.
        """
        only(request, "limit", "cursor", *_FILTERS)
        which, wanted = self._filter(request), page(request)
        return await self._parts.turns.take(request, lambda: self._list(which, wanted))

    async def _list(self, which: EnrollmentFilter, wanted: Page) -> Response:
        listing = await self._parts.storage.list_enrollments(which, wanted)
        size = sum(map(facts_size, listing.items))
        run = self._parts.offloader.run
        return await run(size, list_response, "enrollments", listing, described)

    def _filter(self, request: Request) -> EnrollmentFilter:
        type = words(request, "type")
        if type is not None and type not in _TYPES:
            raise MessageError(f"type is none of {', '.join(_TYPES)}")
        now = self._parts.now()
        return EnrollmentFilter(
            id=words(request, "id"),
            serial=words(request, "serial"),
            type=type,
            enabled=truth(request, "enabled"),
            topic=words(request, "topic"),
            user=words(request, "user"),
            seen_before=age(request, "seen_before", now),
            seen_after=age(request, "seen_after", now),
            pending=bool(truth(request, "pending")),
        )


class EnrollmentEndpoint(NamedEndpoint):
    """
    C{GET /v1/enrollments/<id>} tells what is known of an enrollment,
    C{DELETE /v1/enrollments/<id>[?purge=1]} disables it or, with C{purge}, deletes all
    that is known of it.
    """

    route = "/v1/enrollments/{id}"
    methods = {b"GET": Role.READ, b"DELETE": Role.ADMIN}

    _log: Final = Logger()

    def getChild(self, path: bytes, request: Request) -> Resource:
        """
        What an enrollment has.
        """
        below = _BELOW.get(path)
        return Missing() if below is None else below(self._parts, *self._segments)

    async def respond_about(self, request: Request, *names: str) -> Response:
        """
        Show it or end it.
        """
        [id] = names
        if request.method == b"GET":
            only(request)
            return await self._show(id)
        only(request, "purge")
        if truth(request, "purge"):
            return await self._purge(request, id)
        await self._parts.storage.disable_enrollment(id)
        self._note(request, "enrollment disabled", id)
        return json_response(200, {"id": id, "disabled": True})

    async def _show(self, id: str) -> Response:
        facts = await self._parts.storage.enrollment(id)
        work = self._parts.offloader.run
        return await work(facts_size(facts), lambda: json_response(200, described(facts)))

    async def _purge(self, request: Request, id: str) -> Response:
        purged = await self._parts.storage.purge_enrollment(id)
        if self._parts.forget is not None:
            for gone in purged:
                self._parts.forget(gone)
        self._note(request, "enrollment purged", id, count=len(purged))
        return json_response(200, {"id": id, "purged": purged})

    def _note(self, request: Request, what: str, id: str, **more: Any) -> None:
        operator = request.notes["operator"]
        self._log.info(what, trace_id=request.trace_id, operator=operator, id=id, **more)


_BELOW: Final[Mapping[bytes, Callable[[APIParts, bytes], Resource]]] = {
    b"queue": QueueEndpoint,
    b"results": ResultsEndpoint,
    b"bootstraptoken": BootstrapTokenEndpoint,
    b"unlocktoken": UnlockTokenEndpoint,
}
