"""
What an endpoint answers.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from attrs import field, frozen

if TYPE_CHECKING:
    from nanomdm.http.request import Request

TEXT: Final = b"text/plain; charset=utf-8"
JSON: Final = b"application/json"
XML: Final = b"text/xml; charset=utf-8"

#: How many pieces of JSON, of some ten bytes, are put together at once.
_PIECES: Final = 10_000

_ENCODER: Final = json.JSONEncoder(indent="\t", ensure_ascii=False)

#: Go's encoder keeps these out of HTML's way.
_GO_ESCAPES: Final = ("<", ">", "&", "\u2028", "\u2029")


@frozen
class Response:
    """
    @ivar code: the HTTP status.
    @ivar body: the body.
    @ivar content_type: L{None} for an empty body.
    @ivar headers: further headers.
    """

    code: int
    body: bytes = b""
    content_type: bytes | None = None
    headers: Mapping[bytes, bytes] = field(factory=dict)


class Stream(ABC):
    """
    An answer that is not there yet as a whole.
    """

    @property
    @abstractmethod
    def code(self) -> int:
        """
        The HTTP status.
        """

    @abstractmethod
    async def deliver(self, request: Request) -> None:
        """
        Write all of it and finish the request, or L{abort<Request.abort>} that.  The
        client may be gone, now or later; this is to be known here before it returns.
        """


def text(code: int, body: str, headers: Mapping[bytes, bytes] | None = None) -> Response:
    """
    @param body: a line; its end is added.
    """
    return Response(code, f"{body}\n".encode(), TEXT, headers or {})


def json_response(code: int, value: Any, headers: Mapping[bytes, bytes] | None = None) -> Response:
    """
    JSON as Go's encoder prints it with a tab for each level, so that scripts
    which compare bytes go on working.
    """
    return Response(code, b"".join(_printed(value)), JSON, headers or {})


def _printed(value: Any) -> Iterator[bytes]:
    # In parts: of a large value, no step may hold the interpreter's lock for long.
    pieces = _ENCODER.iterencode(value)
    while part := "".join(islice(pieces, _PIECES)):
        for character in _GO_ESCAPES:
            part = part.replace(character, f"\\u{ord(character):04x}")
        yield part.encode()
    yield b"\n"
