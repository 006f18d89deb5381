"""
Base64 that has exactly one spelling.
"""

from __future__ import annotations

import base64

MAX_HEADER = 1 << 20
"""
Bytes of a header's value that are looked at; a longer one is refused.
"""

_WHITESPACE = b" \t\r\n"


def decode_base64(value: bytes, most: int) -> bytes:
    """
    Decode base64 (RFC 4648 section 4) strictly: padding must be there and its
    unused bits must be zero (section 3.5), so that no two texts mean the same
    bytes.  Only blanks and line breaks are ignored, since clients and proxies
    fold long headers.

    @param value: at most L{MAX_HEADER} bytes.
    @param most: how many bytes it may decode to.
    @raise ValueError: C{value} is something else; the text says what.
    """
    if len(value) > MAX_HEADER:
        raise ValueError(f"more than {MAX_HEADER} bytes")
    text = value.translate(None, _WHITESPACE)
    if len(text) > (most + 2) // 3 * 4:
        raise ValueError(f"more than {most} bytes of data")
    decoded = base64.b64decode(text, validate=True)
    if base64.b64encode(decoded) != text:
        raise ValueError("the base64 is not canonical")
    return decoded
