"""
Endpoints about what their path names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final, TypeVar

from nanomdm.errors import MessageError
from nanomdm.http.api.guard import GuardedEndpoint, decode
from nanomdm.http.api.parts import APIParts
from nanomdm.http.request import Request
from nanomdm.http.response import Response, json_response
from nanomdm.interfaces import Listing

T = TypeVar("T")

#: Characters of a name that a storage could have; longer ones would fill the log.
_LONGEST: Final = 255


class NamedEndpoint(GuardedEndpoint):
    """
    An endpoint about what its path names, each in a segment of its own.

    @cvar names: what the names are, in the log and in errors.
    @param parts: what it works with.
    @param segments: the names, unquoted.
    """

    names: ClassVar[tuple[str, ...]] = ("id",)

    def __init__(self, parts: APIParts, *segments: bytes) -> None:
        super().__init__(parts.keys)
        self._parts = parts
        self._segments = segments

    async def respond_to_operator(self, request: Request) -> Response:
        """
        Read the names.
        """
        named = {
            name: _name(segment, name)
            for name, segment in zip(self.names, self._segments, strict=True)
        }
        request.notes.update(named)
        return await self.respond_about(request, *named.values())

    async def respond_about(self, request: Request, *names: str) -> Response:
        """
        Answer an authorized request.
        """
        raise NotImplementedError


def _name(segment: bytes, what: str) -> str:
    name = decode(segment, what)
    if len(name) > _LONGEST:
        raise MessageError(f"{what} has more than {_LONGEST} characters")
    return name


def list_response(
    name: str,
    listing: Listing[T],
    describe: Callable[[T], dict[str, Any]],
    more: dict[str, Any] | None = None,
) -> Response:
    """
    @param name: of the member that has the list.
    @param describe: makes JSON of an item.
    @param more: other members.
    """
    answer = {**(more or {}), name: [describe(item) for item in listing.items]}
    if listing.cursor is not None:
        answer["next_cursor"] = listing.cursor
    return json_response(200, answer)
