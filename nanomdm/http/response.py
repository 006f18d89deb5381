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
    printed = json.dumps(value, indent="\t", ensure_ascii=False)
    for character in _GO_ESCAPES:
        # One pass with str.translate would hold the interpreter's lock for long.
        printed = printed.replace(character, f"\\u{ord(character):04x}")
    return Response(code, f"{printed}\n".encode(), JSON, headers or {})
