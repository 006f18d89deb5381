"""
Taking something out of a message and leaving the rest byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from xml.parsers import expat

from nanomdm.errors import MessageError

#: The depth of what is in the outermost dictionary.
_MEMBERS: Final = 2


def without_member(body: bytes, key: str) -> bytes:
    """
    @param body: what L{nanomdm.mdm.plist.parse} has accepted.
    @param key: of the outermost dictionary.
    @return: the same document without the key and its value.
    @raise MessageError: it is not well-formed.
    """
    try:
        begin, end = _Finder(body, key).find()
    except expat.ExpatError as error:
        raise MessageError(f"not well-formed XML: {error}") from None
    return body[:begin] + body[end:]


class _Finder:
    """
    Finds a member; one instance reads one document.
    """

    def __init__(self, body: bytes, key: str) -> None:
        self._body = body
        self._key = key
        self._depth = 0
        self._begin = self._end = len(body)
        # The key at hand: where it begins, and its text as long as it is read.
        self._key_begin = 0
        self._text: list[str] | None = None
        # Whether the value of the key that is looked for comes next, or is there.
        self._found = False
        self._is_empty = True
        # As messages are read, too.
        self._parser = expat.ParserCreate("UTF-8", None, None)
        self._parser.StartElementHandler = self._started
        self._parser.EndElementHandler = self._ended
        self._parser.CharacterDataHandler = self._said

    def find(self) -> tuple[int, int]:
        """
        @return: where it begins and where it ends: at the end, if there is none.
        """
        self._parser.Parse(self._body, True)
        # The parser holds this object's methods.
        del self._parser
        return self._begin, self._end

    def _started(self, name: str, attributes: Mapping[str, Any]) -> None:
        # The property list itself is not counted.
        self._depth += name != "plist"
        self._is_empty = self._depth == _MEMBERS
        if self._depth == _MEMBERS and name == "key":
            self._key_begin = self._parser.CurrentByteIndex
            self._text = []

    def _said(self, text: str) -> None:
        self._is_empty = False
        if self._text is not None:
            self._text.append(text)

    def _ended(self, name: str) -> None:
        if self._text is not None:
            self._found = "".join(self._text) == self._key
            self._text = None
        elif self._found and self._depth == _MEMBERS:
            self._found = False
            self._begin, self._end = self._key_begin, self._end_of_value()
        self._depth -= name != "plist"

    def _end_of_value(self) -> int:
        # Where its end tag begins, or where a tag ends that is both.
        here = self._parser.CurrentByteIndex
        if self._is_empty and self._body[:here].endswith(b"/>"):
            return here
        return self._body.index(b">", here) + 1
