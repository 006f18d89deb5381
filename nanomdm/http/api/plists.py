"""
Stored property lists, as JSON or as they are: what the client prefers (RFC 9110 section
12.5.1).
"""

from __future__ import annotations

import re
from typing import Any, Final

from nanomdm.errors import MessageError
from nanomdm.http.request import Request
from nanomdm.http.response import XML, Response
from nanomdm.mdm.plainjson import plain_dictionary

_JSON: Final = ("application/json",)
_PLIST: Final = (
    "application/xml",
    "text/xml",
    "application/x-plist",
    "application/x-apple-aspen-mdm",
)

_WEIGHT: Final = re.compile(r"[01](?:\.[0-9]{0,3})?")

#: Bytes of the header that are looked at.
_LONGEST: Final = 4096

#: How often a property list is gone through on its way to JSON.
PASSES: Final = 3

#: A property list that a device made may tell a browser to run something.
_HARMLESS: Final = {
    b"Content-Security-Policy": b"default-src 'none'; sandbox",
    b"X-Content-Type-Options": b"nosniff",
}


def prefers_plist(request: Request) -> bool:
    """
    @return: whether the client would rather have a property list than JSON.
    """
    header = b",".join(request.requestHeaders.getRawHeaders(b"Accept", []))
    weights = _weights(header[:_LONGEST].decode("ascii", "replace"))
    return _weight(_PLIST, weights) > _weight(_JSON, weights)


def raw_plist(raw: bytes) -> Response:
    """
    @return: a property list as it was stored.
    """
    return Response(200, raw, XML, _HARMLESS)


def plist_member(name: str, raw: bytes) -> dict[str, Any]:
    """
    @return: a property list as the member C{name} of a JSON object, or why it can not be
        read, as C{unreadable}: another server may have stored it.
    """
    try:
        return {name: plain_dictionary(raw)}
    except MessageError as error:
        return {"unreadable": str(error)}


def _weights(header: str) -> dict[str, float]:
    """
    @return: the media ranges of a header and their weights; without what is malformed.
    """
    weights = {}
    for part in header.lower().split(","):
        media_range, *parameters = (word.strip() for word in part.split(";"))
        weight = next((word[2:] for word in parameters if word.startswith("q=")), "1")
        if _WEIGHT.fullmatch(weight):
            weights[media_range] = min(float(weight), 1.0)
    return weights


def _weight(types: tuple[str, ...], weights: dict[str, float]) -> float:
    """
    @return: that of the type which is wanted most; the most specific range counts.
    """
    return max(
        next((weights[one] for one in _ranges(type) if one in weights), 0.0) for type in types
    )


def _ranges(type: str) -> tuple[str, str, str]:
    return type, type.partition("/")[0] + "/*", "*/*"
