"""
C{/migration}: takes the devices of another server over.
"""

from __future__ import annotations

from nanomdm.errors import AlreadyEnrolled, MessageError, NanoMDMError
from nanomdm.http.api.guard import GuardedEndpoint
from nanomdm.http.api.keys import APIKeys, Role
from nanomdm.http.offload import Offloader
from nanomdm.http.request import Request
from nanomdm.http.response import Response, json_response
from nanomdm.interfaces import IMigrationStore
from nanomdm.mdm.checkin import parse_checkin
from nanomdm.mdm.migration import Migratable


class MigrationEndpoint(GuardedEndpoint):
    """
    Takes check-in messages from operators instead of devices: nobody proves to be
    the device, no certificate is associated and no webhook hears of it.

    @param offloader: reads large bodies.
    """

    route = "/migration"
    methods = {b"PUT": Role.ADMIN, b"POST": Role.ADMIN}

    def __init__(self, keys: APIKeys, storage: IMigrationStore, offloader: Offloader) -> None:
        super().__init__(keys)
        self._storage = storage
        self._offloader = offloader

    async def respond_to_operator(self, request: Request) -> Response:
        """
        Store a message, unless the device has told this server more.
        """
        body = request.body
        message = await self._offloader.run(len(body), parse_checkin, body)
        request.notes.update(
            id=message.enrollment.id,
            type=message.enrollment.type.value,
            message_type=message.message_type,
        )
        if not isinstance(message, Migratable):
            raise MessageError(f"{message.message_type} holds nothing to migrate")
        request.notes["stored"] = await self._storage.store_migrated(message)
        return Response(200)

    def refusal(self, error: NanoMDMError) -> Response:
        """
        A device that is enrolled here is a conflict.
        """
        if isinstance(error, AlreadyEnrolled):
            return json_response(409, {self.error_member: str(error)})
        return super().refusal(error)
