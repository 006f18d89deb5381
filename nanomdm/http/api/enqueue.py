"""
C{/v1/enqueue}.
"""

from __future__ import annotations

from nanomdm.http.api.guard import flag
from nanomdm.http.api.keys import APIKeys, Role
from nanomdm.http.api.many import EnrollmentsEndpoint
from nanomdm.http.offload import Offloader
from nanomdm.http.request import Request
from nanomdm.mdm.command import parse_command
from nanomdm.service.enqueue import CommandEnqueuer
from nanomdm.service.result import APIResult


class EnqueueEndpoint(EnrollmentsEndpoint):
    """
    C{PUT} or C{POST /v1/enqueue/<ids>[?nopush=1]}: queues the command in the
    body and pushes.

    @param enqueuer: does it.
    """

    route = "/v1/enqueue"
    methods = {b"PUT": Role.ENQUEUE, b"POST": Role.ENQUEUE}
    error_member = "command_error"

    def __init__(self, keys: APIKeys, enqueuer: CommandEnqueuer, offloader: Offloader) -> None:
        super().__init__(keys, offloader)
        self._enqueuer = enqueuer

    async def work(self, request: Request, ids: list[str]) -> APIResult:
        """
        Queue, and push to those that took the command.
        """
        body = request.body
        command = await self._offloader.run(len(body), parse_command, body)
        request.notes.update(command_uuid=command.uuid, request_type=command.request_type)
        return await self._enqueuer.enqueue(command, ids, push=not flag(request, b"nopush"))
