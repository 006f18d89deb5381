"""
C{/v1/escrowkeyunlock}.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl

from nanomdm.errors import MessageError, NanoMDMError, OutboundError
from nanomdm.forwarding import end_to_end
from nanomdm.http.api.guard import GuardedEndpoint
from nanomdm.http.api.keys import APIKeys, Role
from nanomdm.http.request import Request
from nanomdm.http.response import Response, json_response
from nanomdm.outbound import Fetched
from nanomdm.service.escrow import EscrowKeyUnlocker, UnknownTopic, Unlock
from nanomdm.tls import CertificateUnusable

_FORM: Final = b"application/x-www-form-urlencoded"

#: Bytes of the largest form, and how many fields it may have.
_MAX_FORM: Final = 1 << 14
_MAX_FIELDS: Final = 50

#: What Apple's server says for itself only.
_APPLES_OWN: Final = frozenset(
    {b"alt-svc", b"content-type", b"date", b"server", b"set-cookie", b"strict-transport-security"}
)


class EscrowKeyUnlockEndpoint(GuardedEndpoint):
    """
    C{POST /v1/escrowkeyunlock}: has Apple take the Activation Lock off a device, and
    passes on what it answers.

    The form holds C{topic}, C{serial}, C{productType}, C{escrowKey}, C{orgName} and
    C{guid}, and C{imei}, C{imei2} and C{meid} where the device has them.  A field that is
    missing is 400; an unknown topic is 404, where NanoMDM says 500.

    @param unlocker: asks Apple.
    """

    route = "/v1/escrowkeyunlock"
    methods = {b"POST": Role.ADMIN}

    def __init__(self, keys: APIKeys, unlocker: EscrowKeyUnlocker) -> None:
        super().__init__(keys)
        self._unlocker = unlocker

    async def respond_to_operator(self, request: Request) -> Response:
        """
        Ask Apple.
        """
        unlock = Unlock.from_fields(_fields(request))
        request.notes["topic"] = unlock.topic
        return _passed_on(await self._unlocker.unlock(unlock))

    def refusal(self, error: NanoMDMError) -> Response:
        """
        Say whose fault it is.
        """
        if isinstance(error, UnknownTopic):
            return json_response(404, {self.error_member: str(error)})
        if isinstance(error, OutboundError):
            return json_response(502, {self.error_member: str(error)})
        if isinstance(error, CertificateUnusable):
            reason = f"the push certificate for this topic is unusable: {error}"
            return json_response(500, {self.error_member: reason})
        return super().refusal(error)


def _fields(request: Request) -> dict[str, str]:
    """
    @raise MessageError: the body is no form.  The text tells nothing of it.
    """
    content_type = request.requestHeaders.getRawHeaders(b"Content-Type", [b""])[0]
    if content_type.partition(b";")[0].strip().lower() != _FORM:
        raise MessageError(f"the body is to be a form: {_FORM.decode()}")
    if len(request.body) > _MAX_FORM:
        raise MessageError(f"the form has more than {_MAX_FORM} bytes")
    try:
        text = request.body.decode()
        pairs = parse_qsl(text, errors="strict", max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise MessageError("malformed form") from None
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise MessageError("a field is there twice")
    if any("\0" in value for value in fields.values()):
        raise MessageError("there is a NUL in a field")
    return fields


def _passed_on(answer: Fetched) -> Response:
    connection = answer.headers.getRawHeaders(b"Connection", [])
    headers = {
        name: b", ".join(values)
        for name, values in end_to_end(answer.headers, connection).getAllRawHeaders()
        if name.lower() not in _APPLES_OWN
    }
    return Response(answer.status, answer.body, answer.header(b"Content-Type"), headers)
