"""
Declarative management: what devices ask of it is answered by a server of its own
(C{--dm}).
"""

from __future__ import annotations

import re
from typing import Final

from nanomdm.crypto import mac
from nanomdm.errors import MessageError, NotFound, OutboundError
from nanomdm.mdm.checkin import DeclarativeManagement
from nanomdm.mdm.enrollment import Enrollment
from nanomdm.outbound import Fetched, Lane, OutboundClient

TIMEOUT: Final = 30.0
"""
Seconds for one request, with the time that it waits for others.
"""

LIMIT: Final = 16 << 20
"""
Bytes of the largest answer.
"""

# Apple, "DeclarativeManagementRequest".  Nothing is encoded or decoded on the way, so
# these are characters that mean nothing in a path: no slash, %, semicolon or backslash.
_NAME: Final = r"(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~:@!$&'()*+,=-]+"
_ENDPOINT: Final = re.compile(
    rf"tokens|declaration-items|status|declaration/{_NAME}/{_NAME}", re.ASCII
)


class DeclarativeManagementClient:
    """
    Passes requests on to the declarative management server.

    @param http: sends them.
    @param base_url: the server's, with a slash at its end.
    @param send_key: what they are signed with, if they are to be.
    @param recv_key: what answers must be signed with, if they must be.
    """

    def __init__(
        self,
        http: OutboundClient,
        base_url: str,
        send_key: bytes | None = None,
        recv_key: bytes | None = None,
    ) -> None:
        self._http = Lane(http)
        self._base_url = base_url
        self._send_key = send_key
        self._recv_key = recv_key

    async def forward(self, message: DeclarativeManagement) -> bytes:
        """
        Ask the server.

        @return: its answer.
        @raise MessageError: the endpoint is none that devices may ask for.
        @raise NotFound: the server does not have it.
        @raise OutboundError: the server gives no answer, or none that can be used.
        @raise Overloaded: too many wait for it already.
        """
        if not _ENDPOINT.fullmatch(message.endpoint):
            raise MessageError(f"Endpoint {message.endpoint[:64]!r} is not allowed")
        answer = await self._fetch(message)
        if self._recv_key is not None and not mac.is_signature(
            answer.header(mac.HEADER), self._recv_key, answer.body
        ):
            raise OutboundError(
                "the answer of the declarative management server is not signed with the key"
            )
        if answer.status == 404:
            raise NotFound(f"no {message.endpoint[:64]}", answer.body)
        if answer.status != 200:
            raise OutboundError(f"the declarative management server answered {answer.status}")
        return answer.body

    async def _fetch(self, message: DeclarativeManagement) -> Fetched:
        headers = enrollment_headers(message.enrollment)
        if message.data is not None:
            headers[b"Content-Type"] = b"application/json"
        if self._send_key is not None:
            headers[mac.HEADER] = mac.signature(self._send_key, message.data or b"")
        return await self._http.fetch(
            "GET" if message.data is None else "PUT",
            self._base_url + message.endpoint,
            headers,
            message.data,
            timeout=TIMEOUT,
            limit=LIMIT,
        )


def enrollment_headers(enrollment: Enrollment) -> dict[bytes, bytes]:
    """
    @return: the headers that tell another server who asks.
    """
    headers = {
        b"X-Enrollment-ID": enrollment.id.encode(),
        b"X-Enrollment-Type": enrollment.type.value.encode(),
    }
    if enrollment.parent_id is not None:
        headers[b"X-Enrollment-ParentID"] = enrollment.parent_id.encode()
    return headers
