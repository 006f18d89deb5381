"""
What the query of a request for a list says.
"""

from __future__ import annotations

from typing import Final

from nanomdm.errors import MessageError
from nanomdm.http.api.guard import decode
from nanomdm.http.request import Request
from nanomdm.interfaces import Page

#: Items in one answer: unless the caller says how many, and at most.
PAGE: Final = 100
LARGEST_PAGE: Final = 1000


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
