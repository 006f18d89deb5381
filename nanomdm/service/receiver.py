"""
Who gets the webhook's events.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlsplit

from twisted.internet.defer import Deferred

from nanomdm.crypto import mac
from nanomdm.errors import OutboundError
from nanomdm.outbound import OutboundClient

TIMEOUT: Final = 30.0
"""
Seconds for one request.
"""

#: Bytes of the answer that are read.  Only its status counts, but what is read to its end
#: leaves the connection for the next request.
_LIMIT: Final = 1 << 16


class Receiver:
    """
    Posts events to a URL.

    @param http: sends the requests.
    @param hmac_key: what they are signed with, if they are to be.
    @param offload: called with a size, a function and its arguments; runs the function
        where that does not disturb others.
    """

    def __init__(
        self,
        http: OutboundClient,
        url: str,
        hmac_key: bytes | None,
        offload: Callable[..., Awaitable[Any]],
    ) -> None:
        self._http = http
        self._url = url
        self._key = hmac_key
        self._offload = offload

    async def post(self, body: bytes) -> None:
        """
        Deliver an event.

        @param body: JSON.
        @raise OutboundError: there was no answer, or none that means success.
        """
        headers = {b"Content-Type": b"application/json; charset=utf-8"}
        if self._key is not None:
            headers[mac.HEADER] = await self._offload(len(body), mac.signature, self._key, body)
        answer = await self._http.fetch(
            "POST", self._url, headers, body, timeout=TIMEOUT, limit=_LIMIT, cut=True
        )
        if not 200 <= answer.status < 300:
            raise OutboundError(f"{urlsplit(self._url).netloc}: answered {answer.status}")

    def close(self) -> Deferred[None]:
        """
        End everything that is under way.

        @return: fires when all connections are closed.
        """
        return self._http.close()
