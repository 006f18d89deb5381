"""
C{/v1/enrollments/<id>/bootstraptoken} and C{/v1/enrollments/<id>/unlocktoken}.
"""

from __future__ import annotations

import base64
from typing import ClassVar, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from nanomdm.errors import MessageError
from nanomdm.http.api.keys import Role
from nanomdm.http.api.named import NamedEndpoint
from nanomdm.http.api.query import only
from nanomdm.http.request import Request
from nanomdm.http.response import Response, json_response

#: Bytes of an id that nobody has looked at which the log shows.
_LONGEST: Final = 256


class SecretEndpoint(NamedEndpoint):
    """
    A secret of a device, for admins and only where the server is told to show them
    (C{--api-secrets}).  Each one that is shown or refused is in the log.

    @cvar kind: what it is, in the answer and in the log.
    """

    methods = {b"GET": Role.ADMIN}
    kind: ClassVar[str]

    _log: Final = Logger()

    async def respond(self, request: Request) -> Response:
        """
        Note who is not to see it.
        """
        response = await super().respond(request)
        if response.code == 403:
            id = self._segments[0][:_LONGEST].decode("utf-8", "backslashreplace")
            self._note(request, "secret refused", id, error=request.notes["error"])
        return response

    async def respond_about(self, request: Request, *names: str) -> Response:
        """
        Show it.
        """
        only(request)
        [id] = names
        if not self._parts.secrets:
            return self.error(request, 403, "this server shows no secrets: see --api-secrets")
        facts = await self._parts.storage.enrollment(id)
        if facts.device_id != facts.id:
            raise MessageError(f"the {self.kind} belongs to the device channel, {facts.device_id}")
        secret = await self._fetch(facts.id)
        if secret is None:
            return self.error(request, 404, f"{facts.id} has no {self.kind}")
        self._note(request, "secret read", facts.id)
        answer = {"id": facts.id, self.kind: base64.b64encode(secret).decode()}
        return json_response(200, answer, {b"Cache-Control": b"no-store"})

    def _fetch(self, device_id: str) -> Deferred[bytes | None]:
        raise NotImplementedError

    def _note(self, request: Request, what: str, id: str, **more: str) -> None:
        self._log.warn(
            what,
            trace_id=request.trace_id,
            operator=request.notes["operator"],
            ip=request.peer,
            id=id,
            kind=self.kind,
            **more,
        )


class BootstrapTokenEndpoint(SecretEndpoint):
    """
    C{GET /v1/enrollments/<id>/bootstraptoken}: what a Mac escrowed.
    """

    route = "/v1/enrollments/{id}/bootstraptoken"
    kind = "bootstrap_token"

    def _fetch(self, device_id: str) -> Deferred[bytes | None]:
        return self._parts.storage.fetch_bootstrap_token(device_id)


class UnlockTokenEndpoint(SecretEndpoint):
    """
    C{GET /v1/enrollments/<id>/unlocktoken}: what clears the passcode of an iPad or iPhone.
    """

    route = "/v1/enrollments/{id}/unlocktoken"
    kind = "unlock_token"

    def _fetch(self, device_id: str) -> Deferred[bytes | None]:
        return self._parts.storage.unlock_token(device_id)
