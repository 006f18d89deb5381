"""
Where one request ends and the next begins, when a proxy in front could see that in
another way (RFC 9112 section 11.2).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from twisted.web.http_headers import Headers

#: Digits of a length, at most: more are beyond any body, and what does not fit into 64
#: bits is something else to some proxies.
_LONGEST_LENGTH: Final = 18

_FIELD: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\0\r\n]*")


def ambiguous(line: bytes, folded: bool, before: Headers) -> bool:
    """
    @param line: a header's name and value.
    @param folded: it came in several lines, of which a proxy may only see the first.
    @param before: the headers before it.
    @return: whether it says something about the request's end or its addressee that
        others may understand in another way.
    """
    name, _, value = line.partition(b":")
    value = value.strip(b" \t")
    match name.lower():
        case b"content-length":
            return folded or len(value) > _LONGEST_LENGTH
        case b"transfer-encoding":
            # Any other one was given up, or hides the length from some (section 7).
            return folded or value.lower() != b"chunked"
        case b"host":
            return folded or before.hasHeader(b"Host")
    return False


def is_field(line: bytes | bytearray) -> bool:
    """
    @return: whether a line behind the last chunk is a name and a value, and cannot be
        taken for several lines.
    """
    return _FIELD.fullmatch(line) is not None


def closes(connection: Sequence[bytes]) -> bool:
    """
    @param connection: headers C{Connection}.
    @return: whether the client sends no more requests (RFC 9112 section 9.6).
    """
    options = b",".join(connection).lower().split(b",")
    return b"close" in [option.strip(b" \t") for option in options]
