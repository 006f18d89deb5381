"""
Where a page of a list ended, as text that only this module reads.

It holds the key of the page's last row.  The next page begins after that key, so what
comes and goes between two pages makes nothing else come twice or not at all.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

from nanomdm.errors import MessageError
from nanomdm.interfaces import Listing

T = TypeVar("T")

#: The longest text in a key, as in the tables.
_LONGEST: Final = 255

#: The largest number in a key, as in the tables.
_LARGEST: Final = 2**63 - 1

#: A time as the drivers give it, or as the text of what they give.
_TIME: Final = re.compile(r"[0-9]{4}(-[0-9]{2}){2} [0-9]{2}(:[0-9]{2}){2}(\.[0-9]{1,6})?")


def listing_of(
    rows: Sequence[Any],
    limit: int,
    item: Callable[[Any], T],
    key: Callable[[Any], Sequence[str | int]],
) -> Listing[T]:
    """
    @param rows: what was found, and one more than C{limit} if there is more.
    @param item: what to tell of a row.
    @param key: what the rows are sorted by.
    """
    cursor = cursor_of(*key(rows[limit - 1])) if len(rows) > limit else None
    return Listing([item(row) for row in rows[:limit]], cursor)


def cursor_of(*key: str | int) -> str:
    """
    @param key: of the last row of a page.
    @return: letters, digits, C{-} and C{_}.
    """
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def key_of(cursor: str, *kinds: type[str] | type[int] | type[datetime]) -> tuple[Any, ...]:
    """
    @param kinds: what the key is made of; times are text.
    @return: what L{cursor_of} got.
    @raise MessageError: it has not made this cursor, nor one like it.
    """
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        key = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        key = None
    if not isinstance(key, list) or len(key) != len(kinds) or not all(map(_fits, key, kinds)):
        raise MessageError("the cursor is not one that this list gave out")
    return tuple(key)


def _fits(part: Any, kind: type) -> bool:
    """
    Whether a database can compare a part of a key with what it has.
    """
    if kind is int:
        return type(part) is int and abs(part) <= _LARGEST
    if not isinstance(part, str):
        return False
    if kind is datetime:
        return _is_time(part)
    return len(part) <= _LONGEST and "\0" not in part and _is_unicode(part)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return _TIME.fullmatch(text) is not None
