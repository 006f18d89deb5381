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
    @raise MessageError: it is too large, or not JSON.
    """
    if len(body) > largest:
        raise MessageError(f"the body has more than {largest} bytes")
    try:
        return json.loads(body, parse_float=_number)
    except (ValueError, RecursionError):
        raise MessageError("the body is not JSON") from None


def _number(text: str) -> int | float:
    number = float(text)
    return int(number) if number.is_integer() else number
