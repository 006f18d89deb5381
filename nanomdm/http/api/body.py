"""
Bodies of requests that are JSON.
"""

from __future__ import annotations

import json
from typing import Any

from nanomdm.errors import MessageError


def json_body(body: bytes, largest: int) -> Any:
    """
    @param largest: bytes that it may have.
    @return: what it says.  A number without a fraction is an integer, also as C{10.0}:
        JSON does not tell them apart (RFC 8259 section 6).
    @raise MessageError: it is too large, or not JSON, or a name is there twice, of which
        others would take the first (section 4).
    """
    if len(body) > largest:
        raise MessageError(f"the body has more than {largest} bytes")
    try:
        return json.loads(body, parse_float=_number, object_pairs_hook=_members)
    except (ValueError, RecursionError):
        raise MessageError("the body is not JSON") from None


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a name is there twice")
    return members


def _number(text: str) -> int | float:
    number = float(text)
    return int(number) if number.is_integer() else number
