"""
C{/v1/push} and C{/v1/pushcert}.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from twisted.logger import Logger

from nanomdm.crypto.pushcert import (
    WARNING_DAYS,
    end_without_key,
    parse_push_certificate,
    parse_stored_certificate,
    utc_text,
)
from nanomdm.errors import MessageError, PushKeyUnreadable
from nanomdm.http.api.guard import GuardedEndpoint, decode, flag
from nanomdm.http.api.keys import APIKeys, Role
from nanomdm.http.api.many import EnrollmentsEndpoint
from nanomdm.http.offload import Offloader
from nanomdm.http.request import Request
from nanomdm.http.response import Response, json_response
from nanomdm.interfaces import IPusher, IPushStore
from nanomdm.service.result import APIResult


class PushEndpoint(EnrollmentsEndpoint):
    """
    C{GET} or C{PUT /v1/push/<ids>[?force=1]}: pushes, with C{force} also where the
    token is known to be dead.

    @param pusher: does it.
    """

    route = "/v1/push"
    methods = {b"GET": Role.ENQUEUE, b"PUT": Role.ENQUEUE}
    error_member = "push_error"

    def __init__(self, keys: APIKeys, pusher: IPusher, offloader: Offloader) -> None:
        super().__init__(keys, offloader)
        self._pusher = pusher

    async def work(self, request: Request, ids: list[str]) -> APIResult:
        """
        Push.
        """
        pushes = await self._pusher.push(ids, force=flag(request, b"force"))
        return APIResult(id_count=len(ids), pushes=pushes)


class PushCertEndpoint(GuardedEndpoint):
    """
    C{PUT /v1/pushcert} stores the push certificate and key in the body,
    C{GET /v1/pushcert?topic=...} looks at a stored one.

    Both tell its C{topic} and C{not_after} and, unlike NanoMDM, within
    L{WARNING_DAYS} of the end also C{expires_in_days}, which is negative once the
    certificate has expired.  An unknown topic is 404, where NanoMDM says 500.  When only
    the key can not be decrypted, C{key_error} says why.

    @param store: where push certificates are.
    @param offloader: reads what is large.
    @param now: the time, with its zone.
    """

    route = "/v1/pushcert"
    methods = {b"GET": Role.READ, b"PUT": Role.ADMIN}

    _log: Final = Logger()

    def __init__(
        self,
        keys: APIKeys,
        store: IPushStore,
        offloader: Offloader,
        now: Callable[[], datetime],
    ) -> None:
        super().__init__(keys)
        self._store = store
        self._offloader = offloader
        self._now = now

    async def respond_to_operator(self, request: Request) -> Response:
        """
        Store or look.
        """
        return await (self._put(request) if request.method == b"PUT" else self._get(request))

    async def _put(self, request: Request) -> Response:
        body = request.body
        certificate = await self._offloader.run(len(body), parse_push_certificate, body)
        await self._store.store_push_certificate(
            certificate.topic, certificate.certificate_pem, certificate.key_pem
        )
        answer = self._describe(certificate.topic, certificate.not_after)
        self._log.info("push certificate stored", **answer)
        return json_response(200, answer)

    async def _get(self, request: Request) -> Response:
        topic = decode(request.args.get(b"topic", [b""])[0], "topic")
        if not topic:
            raise MessageError("no topic in the query")
        try:
            answer = await self._stored(topic)
        except MessageError as error:
            # Something else has put it there.
            return self.error(
                request, 500, f"the push certificate for {topic} is unusable: {error}"
            )
        if answer is None:
            return self.error(request, 404, "there is no push certificate for this topic")
        return json_response(200, answer)

    async def _stored(self, topic: str) -> dict[str, Any] | None:
        """
        @raise MessageError: what is stored can not be used.
        """
        try:
            stored = await self._store.push_certificate(topic)
        except PushKeyUnreadable as error:
            pem = error.certificate_pem
            end = await self._offloader.run(len(pem), end_without_key, topic, pem)
            return {**self._describe(topic, end), "key_error": str(error)}
        if stored is None:
            return None
        pems = (stored.certificate_pem, stored.key_pem)
        size = sum(map(len, pems))
        certificate = await self._offloader.run(size, parse_stored_certificate, topic, *pems)
        return self._describe(topic, certificate.not_after)

    def _describe(self, topic: str, not_after: datetime) -> dict[str, Any]:
        answer: dict[str, Any] = {"topic": topic, "not_after": utc_text(not_after)}
        days = (not_after - self._now()).days
        if days < WARNING_DAYS:
            answer["expires_in_days"] = days
        return answer
