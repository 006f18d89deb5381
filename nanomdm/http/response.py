"""
What an endpoint answers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from attrs import field, frozen

TEXT: Final = b"text/plain; charset=utf-8"
JSON: Final = b"application/json"

#: Go's encoder keeps these out of HTML's way.
_GO_ESCAPES: Final = str.maketrans(
    {
        "<": r"\u003c",
        ">": r"\u003e",
        "&": r"\u0026",
        "\u2028": r"\u2028",
        "\u2029": r"\u2029",
    }
)


@frozen
class Response:
    """
    @ivar code: the HTTP status.
    @ivar body: the body.
    @ivar content_type: L{None} for bodies that say themselves what they are.
    @ivar headers: further headers.
    """

    code: int
    body: bytes = b""
    content_type: bytes | None = None
    headers: Mapping[bytes, bytes] = field(factory=dict)


def text(code: int, body: str, headers: Mapping[bytes, bytes] | None = None) -> Response:
    """
    @param body: a line; its end is added.
    """
    return Response(code, f"{body}\n".encode(), TEXT, headers or {})


def json_response(code: int, value: Any) -> Response:
    """
    JSON as Go's encoder prints it with a tab for each level, so that scripts
    which compare bytes go on working.
    """
    printed = json.dumps(value, indent="\t", ensure_ascii=False).translate(_GO_ESCAPES)
    return Response(code, f"{printed}\n".encode(), JSON)
