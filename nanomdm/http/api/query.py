"""
What the query of a request for a list says.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final
from urllib.parse import unquote_to_bytes

from nanomdm.errors import MessageError
from nanomdm.http.api.guard import decode
from nanomdm.http.api.times import seconds_ago
from nanomdm.http.request import Request
from nanomdm.interfaces import Page

#: Items in one answer: unless the caller says how many, and at most.
PAGE: Final = 100
LARGEST_PAGE: Final = 1000

_TRUTH: Final = {"1": True, "true": True, "0": False, "false": False}


def only(request: Request, *names: str) -> None:
    """
    Make sure that a query says nothing but what it can say, since a filter with a slip
    of the pen would be none.

    @param names: the parameters that there are.
    @raise MessageError: it has another one, one of them twice, or one without a value.
    """
    query = request.uri.partition(b"?")[2]
    for part in filter(None, re.split(b"[&;]", query)):
        raw_name, _, value = part.partition(b"=")
        name = unquote_to_bytes(raw_name.replace(b"+", b" ")).decode("utf-8", "replace")
        if name not in names:
            known = ", ".join(names) or "none"
            raise MessageError(f"unknown parameter {name[:64]!r} in the query; known: {known}")
        if not value:
            raise MessageError(f"{name} has no value")
        if len(request.args[name.encode()]) > 1:
            raise MessageError(f"{name} is there twice")


def words(request: Request, name: str) -> str | None:
    """
    @return: a parameter of the query; L{None} if it is not there or empty.
    @raise MessageError: it is no text.
    """
    return decode(request.args.get(name.encode(), [b""])[0], name) or None


def number(request: Request, name: str, default: int, highest: int) -> int:
    """
    @return: a number in the query.
    @raise MessageError: it is none, or too high.
    """
    value = words(request, name)
    if value is None:
        return default
    lowest = min(default, 1)
    digits = value.isascii() and value.isdigit() and len(value) <= 19
    if not digits or not lowest <= int(value) <= highest:
        raise MessageError(f"{name} is not a number from {lowest} to {highest}")
    return int(value)


def page(request: Request) -> Page:
    """
    @return: what C{limit} and C{cursor} ask for.
    @raise MessageError: the limit is none; whether the cursor is one, the storage
        knows.
    """
    return Page(number(request, "limit", PAGE, LARGEST_PAGE), words(request, "cursor"))


def truth(request: Request, name: str) -> bool | None:
    """
    @return: what a parameter says; L{None} if it is not there.
    @raise MessageError: it is none of C{1}, C{true}, C{0} and C{false}.
    """
    value = words(request, name)
    if value is None:
        return None
    if value.lower() not in _TRUTH:
        raise MessageError(f"{name} is none of {', '.join(_TRUTH)}")
    return _TRUTH[value.lower()]


def age(request: Request, name: str, now: datetime) -> float | None:
    """
    @param now: the time, with its zone.
    @return: how many seconds ago the time in a parameter is; L{None} if it is not there.
    @raise MessageError: there is no time in it.
    """
    value = words(request, name)
    if value is None:
        return None
    try:
        return seconds_ago(value, now)
    except MessageError as error:
        raise MessageError(f"{name}: {error}") from None
