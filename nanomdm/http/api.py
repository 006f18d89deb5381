"""
The operators' API.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import Final

from nanomdm import __version__
from nanomdm.errors import MessageError, NanoMDMError
from nanomdm.http.endpoint import Endpoint, refusal
from nanomdm.http.offload import Offloader
from nanomdm.http.request import Request
from nanomdm.http.response import Response, json_response, text
from nanomdm.mdm.command import parse_command
from nanomdm.service.enqueue import APIResult, CommandEnqueuer

_USER: Final = b"nanomdm"

#: Bytes that one id's part of a result takes, about.
_STATUS_SIZE: Final = 100

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
    """

    methods: frozenset[bytes]

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


class EnqueueEndpoint(GuardedEndpoint):
    """
    C{PUT} or C{POST /v1/enqueue/<ids>}: queues the command in the body.

    @param enqueuer: does it.
    @param offloader: reads large commands.
    """

    methods = frozenset({b"PUT", b"POST"})
    isLeaf = True

    def __init__(self, auth: BasicAuth, enqueuer: CommandEnqueuer, offloader: Offloader) -> None:
        super().__init__(auth)
        self._enqueuer = enqueuer
        self._offloader = offloader

    def refusal(self, error: NanoMDMError) -> Response:
        """
        Say in the result object what is wrong; of the server's own troubles only
        that there are some.
        """
        plain = refusal(error)
        reason = "internal error" if plain.code == 500 else str(error)
        result = APIResult(command_error=reason)
        return json_response(plain.code, result.to_json(), plain.headers)

    async def respond_to_operator(self, request: Request) -> Response:
        """
        Queue, push, and tell what became of each id.
        """
        run = self._offloader.run
        rest = b"/".join(request.postpath or ())
        ids = await run(len(rest), parse_ids, rest)
        command = await run(len(request.body), parse_command, request.body)
        request.notes.update(command_uuid=command.uuid, request_type=command.request_type)
        result = await self._enqueuer.enqueue(command, ids, push=_wants_push(request))
        return await run(result.status_count * _STATUS_SIZE, _answer, result)


def parse_ids(joined: bytes) -> list[str]:
    """
    Read enrollment ids.

    @param joined: ids with commas between them, from the path; a slash can be
        part of an id, a comma can not.
    @return: each id once.
    @raise MessageError: there are none, or they are no text.
    """
    try:
        text = joined.decode()
    except UnicodeDecodeError:
        raise MessageError("the enrollment ids are not UTF-8") from None
    if "\0" in text:
        raise MessageError("an enrollment id contains NUL")
    ids = list(dict.fromkeys(filter(None, text.split(","))))
    if not ids:
        raise MessageError("no enrollment ids in the path")
    return ids


def _wants_push(request: Request) -> bool:
    nopush = request.args.get(b"nopush", [b""])[0].lower()
    return nopush in (b"", b"0", b"false")


def _answer(result: APIResult) -> Response:
    return json_response(_status(result), result.to_json())


def _status(result: APIResult) -> int:
    if result.command_error is not None:
        return 409
    errors = result.errors
    if not errors:
        return 200
    return 500 if errors == result.id_count else 207
