"""
The endpoints that devices talk to: C{/mdm} and C{/checkin}.
"""

from __future__ import annotations

from itertools import islice
from typing import Final

from nanomdm.crypto.identity import Identity
from nanomdm.errors import MessageError
from nanomdm.http.endpoint import Endpoint
from nanomdm.http.identity import IdentitySource
from nanomdm.http.offload import Offloader
from nanomdm.http.request import Request
from nanomdm.http.response import JSON, XML, Response
from nanomdm.mdm.checkin import DeclarativeManagement, parse_checkin
from nanomdm.mdm.command import parse_report
from nanomdm.service.core import MDMService
from nanomdm.service.events import RequestContext

_CHECKIN_TYPE: Final = b"application/x-apple-aspen-mdm-checkin"

#: Parameters of a URL, and characters of a name or value, that are passed on.
_MOST_PARAMS: Final = 100
_LONGEST_PARAM: Final = 1000


class DeviceEndpoint(Endpoint):
    """
    Takes check-ins, command reports, or both; the content type says which.

    @param service: handles the messages.
    @param identities: finds out who sent them.
    @param offloader: reads large bodies.
    @param checkins: take check-in messages.
    @param reports: take command reports.
    """

    def __init__(
        self,
        service: MDMService,
        identities: IdentitySource,
        offloader: Offloader,
        checkins: bool = True,
        reports: bool = True,
    ) -> None:
        super().__init__()
        self._service = service
        self._identities = identities
        self._offloader = offloader
        self._checkins = checkins
        self._reports = reports
        self.route = "/mdm" if reports else "/checkin"

    async def respond(self, request: Request) -> Response:
        """
        Identity first: nothing of an unproven request is parsed.
        """
        identity = await self._identities.identify(request)
        content_type = request.requestHeaders.getRawHeaders(b"Content-Type", [b""])[0]
        if content_type.lower().startswith(_CHECKIN_TYPE):
            return await self._check_in(request, identity)
        return await self._report(request, identity)

    async def _check_in(self, request: Request, identity: Identity) -> Response:
        if not self._checkins:
            raise MessageError("check-in messages belong to /checkin")
        body = request.body
        message = await self._offloader.run(len(body), parse_checkin, body)
        request.notes.update(
            id=message.enrollment.id,
            type=message.enrollment.type.value,
            message_type=message.message_type,
        )
        answer = await self._service.check_in(message, identity, _context(request))
        return _answer(answer, JSON if isinstance(message, DeclarativeManagement) else XML)

    async def _report(self, request: Request, identity: Identity) -> Response:
        if not self._reports:
            raise MessageError("command reports belong to /mdm")
        body = request.body
        report = await self._offloader.run(len(body), parse_report, body)
        request.notes.update(
            id=report.enrollment.id,
            type=report.enrollment.type.value,
            status=report.status,
            command_uuid=report.command_uuid or None,
        )
        command = await self._service.report(report, identity, _context(request))
        # Whether a device was given a command is what people look for in a log.
        request.notes["command_bytes"] = len(command) or None
        return _answer(command)


def _context(request: Request) -> RequestContext:
    """
    What there is too much of in the URL is left out: it is copied into every event.
    """
    some = islice(request.args.items(), _MOST_PARAMS)
    params = {_param(name): _param(values[0]) for name, values in some}
    return RequestContext(request.trace_id, params)


def _param(text: bytes) -> str:
    return text[: 4 * _LONGEST_PARAM].decode(errors="replace")[:_LONGEST_PARAM]


def _answer(body: bytes, content_type: bytes = XML) -> Response:
    return Response(200, body, content_type if body else None)
