"""
What all endpoints for operators have in common.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from nanomdm import __version__
from nanomdm.errors import (
    AlreadyAnswered,
    MessageError,
    NanoMDMError,
    SecretUnreadable,
    StorageUnavailable,
    Unknown,
    internal,
)
from nanomdm.http.api.keys import APIKeys, Operator, Role, Stranger
from nanomdm.http.endpoint import Endpoint, refusal
from nanomdm.http.request import Request
from nanomdm.http.response import Response, json_response, text

_UNAUTHORIZED: Final = text(401, "Unauthorized", {b"WWW-Authenticate": b'Basic realm="nanomdm"'})

#: A database that is away may be there again soon.
_AWAY: Final = {b"Retry-After": b"1"}

#: Of errors that devices can not cause, or that operators are told more of.
_STATUSES: Final[Mapping[type[NanoMDMError], int]] = {
    Unknown: 404,
    AlreadyAnswered: 409,
    SecretUnreadable: 500,
}


class GuardedEndpoint(Endpoint):
    """
    An endpoint for operators only.

    @cvar methods: what it can be asked with, and the role that this takes.
    @cvar error_member: which member of a JSON object tells of an error.
    """

    methods: Mapping[bytes, Role]
    error_member = "error"

    def __init__(self, keys: APIKeys) -> None:
        super().__init__()
        self._keys = keys

    async def respond(self, request: Request) -> Response:
        """
        Check who asks, and how.
        """
        operator = self._keys.identify(request)
        if operator.name is not None:
            request.notes["operator"] = operator.name
        if isinstance(operator, Stranger):
            request.notes["error"] = operator.reason
            return _UNAUTHORIZED
        role = self.methods.get(request.method)
        if role is None:
            allow = b", ".join(sorted(self.methods))
            return text(405, "Method Not Allowed", {b"Allow": allow})
        if operator.role < role:
            return self.error(request, 403, _too_little(operator, role))
        try:
            return await self.respond_to_operator(request)
        except StorageUnavailable as error:
            if request.method != b"GET":
                # Perhaps it was committed, and only the answer is lost.
                raise
            request.notes["error"] = str(error)
            return json_response(503, {self.error_member: internal(error)}, _AWAY)

    def refusal(self, error: NanoMDMError) -> Response:
        """
        Say in a JSON object what is wrong; of the server's own troubles only
        that there are some.
        """
        for kind, code in _STATUSES.items():
            if isinstance(error, kind):
                return json_response(code, {self.error_member: str(error)})
        plain = refusal(error)
        reason = internal(error) if plain.code == 500 else str(error)
        return json_response(plain.code, {self.error_member: reason}, plain.headers)

    def error(self, request: Request, code: int, reason: str) -> Response:
        """
        Refuse a request, in the answer and in the log.
        """
        request.notes["error"] = reason
        return json_response(code, {self.error_member: reason})

    async def respond_to_operator(self, request: Request) -> Response:
        """
        Answer an authorized request.
        """
        raise NotImplementedError


def _too_little(operator: Operator, needed: Role) -> str:
    return f"the key {operator.name} has the role {operator.role.word}, this takes {needed.word}"


class VersionEndpoint(Endpoint):
    """
    C{/version}: tells which version runs, to anybody.
    """

    route = "/version"

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
