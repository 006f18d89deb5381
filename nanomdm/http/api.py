"""
The operators' API: who may use it, and what all its parts have in common.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import Final

from nanomdm import __version__
from nanomdm.errors import MessageError, NanoMDMError
from nanomdm.http.endpoint import Endpoint, refusal
from nanomdm.http.request import Request
from nanomdm.http.response import Response, json_response, text

_USER: Final = b"nanomdm"

_UNAUTHORIZED: Final = text(401, "Unauthorized", {b"WWW-Authenticate": b'Basic realm="nanomdm"'})


class BasicAuth:
    """
    HTTP Basic authentication (RFC 7617) with one user and one key, compared in
    constant time.

    @param key: the API key.
    """

    def __init__(self, key: str) -> None:
        self._expected = _USER + b":" + key.encode()

    def allows(self, request: Request) -> bool:
        """
        Whether the request carries the key.
        """
        headers = request.requestHeaders.getRawHeaders(b"Authorization", [])
        if len(headers) != 1:
            return False
        scheme, _, encoded = headers[0].partition(b" ")
        if scheme.lower() != b"basic":
            return False
        try:
            given = base64.b64decode(encoded.strip(), validate=True)
        except binascii.Error:
            return False
        return hmac.compare_digest(given, self._expected)


class GuardedEndpoint(Endpoint):
    """
    An endpoint for operators only.

    @cvar methods: what it can be asked with.
    @cvar error_member: which member of a JSON object tells of an error.
    """

    methods: frozenset[bytes]
    error_member: str

    def __init__(self, auth: BasicAuth) -> None:
        super().__init__()
        self._auth = auth

    async def respond(self, request: Request) -> Response:
        """
        Check who asks, and how.
        """
        if not self._auth.allows(request):
            return _UNAUTHORIZED
        if request.method not in self.methods:
            allow = b", ".join(sorted(self.methods))
            return text(405, "Method Not Allowed", {b"Allow": allow})
        return await self.respond_to_operator(request)

    def refusal(self, error: NanoMDMError) -> Response:
        """
        Say in a JSON object what is wrong; of the server's own troubles only
        that there are some.
        """
        plain = refusal(error)
        reason = "internal error" if plain.code == 500 else str(error)
        return json_response(plain.code, {self.error_member: reason}, plain.headers)

    async def respond_to_operator(self, request: Request) -> Response:
        """
        Answer an authorized request.
        """
        raise NotImplementedError


class VersionEndpoint(Endpoint):
    """
    C{/version}: tells which version runs, to anybody.
    """

    async def respond(self, request: Request) -> Response:
        return json_response(200, {"version": __version__})


def decode(value: bytes, what: str) -> str:
    """
    @param value: a part of a request's path or query.
    @param what: what it is, for the error.
    @raise MessageError: it is no text that a storage could have.
    """
    try:
        decoded = value.decode()
    except UnicodeDecodeError:
        raise MessageError(f"{what}: not UTF-8") from None
    if "\0" in decoded:
        raise MessageError(f"{what}: there is a NUL")
    return decoded


def flag(request: Request, name: bytes) -> bool:
    """
    @return: whether the query switches something on: the parameter is there, and
        neither empty nor C{0} nor C{false}.
    """
    value = request.args.get(name, [b""])[0].lower()
    return value not in (b"", b"0", b"false")
