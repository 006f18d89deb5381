"""
Typed access to the keys of a message.
"""

from __future__ import annotations

from nanomdm.errors import MessageError
from nanomdm.mdm.plist import Dictionary


def optional_string(message: Dictionary, key: str, limit: int | None = None) -> str | None:
    """
    @param limit: the longest value that the database's column holds, in
        characters.
    @return: the value, or L{None} when it is absent or empty.
    @raise MessageError: it is not a string, or longer than C{limit}.
    """
    value = message.get(key)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise MessageError(f"{key} is not a string")
    if limit is not None and len(value) > limit:
        raise MessageError(f"{key} is longer than {limit} characters")
    return value


def string(message: Dictionary, key: str, limit: int | None = None) -> str:
    """
    As L{optional_string}, but the value must be there.

    @raise MessageError: it is also absent or empty.
    """
    value = optional_string(message, key, limit)
    if value is None:
        raise MessageError(f"{key} is missing or empty")
    return value


def optional_data(message: Dictionary, key: str) -> bytes | None:
    """
    @return: the bytes, or L{None} when they are absent or none.
    @raise MessageError: the value is not C{<data>}.
    """
    value = message.get(key)
    if value is None:
        return None
    if not isinstance(value, bytes):
        raise MessageError(f"{key} is not data")
    return value or None
