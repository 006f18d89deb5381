"""
API calls for many enrollments at once: what goes in and what comes out.
"""

from __future__ import annotations

from typing import Final

from nanomdm.errors import MessageError
from nanomdm.http.api.guard import GuardedEndpoint, decode
from nanomdm.http.api.keys import APIKeys
from nanomdm.http.offload import Offloader
from nanomdm.http.request import Request
from nanomdm.http.response import Response, json_response
from nanomdm.service.result import APIResult

#: Bytes that one id's part of a result takes, about.
_STATUS_SIZE: Final = 100


class EnrollmentsEndpoint(GuardedEndpoint):
    """
    Takes ids in its path and answers with a result object.

    @param offloader: reads and writes what is large.
    """

    isLeaf = True

    def __init__(self, keys: APIKeys, offloader: Offloader) -> None:
        super().__init__(keys)
        self._offloader = offloader

    async def respond_to_operator(self, request: Request) -> Response:
        """
        Do it, and tell what became of each id.
        """
        run = self._offloader.run
        rest = b"/".join(request.postpath or ())
        result = await self.work(request, await run(len(rest), parse_ids, rest))
        # Why the status is none of success is in the answer, for each id.
        request.notes["failed_ids"] = result.errors or None
        return await run(result.status_count * _STATUS_SIZE, _answer, result)

    async def work(self, request: Request, ids: list[str]) -> APIResult:
        """
        Do what the call is for.

        @param ids: enrollment ids, each once.
        """
        raise NotImplementedError


def parse_ids(joined: bytes) -> list[str]:
    """
    Read enrollment ids.

    @param joined: ids with commas between them, from the path; a slash can be
        part of an id, a comma can not.
    @return: each id once.
    @raise MessageError: there are none, or they are no text.
    """
    text = decode(joined, "enrollment ids")
    ids = list(dict.fromkeys(filter(None, text.split(","))))
    if not ids:
        raise MessageError("no enrollment ids in the path")
    return ids


def _answer(result: APIResult) -> Response:
    return json_response(_status(result), result.to_json())


def _status(result: APIResult) -> int:
    if result.command_error is not None:
        return 409
    if result.push_error is not None:
        return 500
    errors = result.errors
    if not errors:
        return 200
    return 500 if errors == result.id_count else 207
