"""
Property lists as JSON.
"""

from __future__ import annotations

import base64
import math
from typing import Any, Final

from nanomdm.mdm.plist import Dictionary, Value, parse

#: Values of the largest list of installed applications that a storage can hold, and more.
_MOST_VALUES: Final = 1_000_000


def plain_dictionary(raw: bytes) -> dict[str, Any]:
    """
    Read a property list into what JSON has: data becomes base64, a date is the text that
    it was, and a real number that is none, or infinite, becomes a text too.

    @raise MessageError: it can not be read.
    """
    return _dictionary(parse(raw, most=_MOST_VALUES))


def _dictionary(values: Dictionary) -> dict[str, Any]:
    return {key: _plain(value) for key, value in values.items()}


def _plain(value: Value) -> Any:
    if isinstance(value, dict):
        return _dictionary(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
