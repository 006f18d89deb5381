"""
XML property lists, read within bounds.

Messages are stored as the bytes that arrived, so of a device's report only the
outermost keys are needed.  C{plistlib} would build every one of the hundreds of
nested dictionaries of an C{InstalledApplicationList}; this reader builds values
down to a given depth and only checks what lies below.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Union
from xml.parsers import expat

from nanomdm.errors import MessageError

#: Nesting that no message of a real device comes near.
MAX_DEPTH: Final = 64

_CONTAINERS: Final = frozenset({"dict", "array"})
_LEAVES: Final = frozenset({"key", "string", "data", "integer", "real", "date", "true", "false"})
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,20}")
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)


#: Values that are built of one document unless it is said otherwise, which bounds memory.
MAX_VALUES: Final = 100_000

#: Bytes that are read at once.  A tag or comment may not be longer: what is unfinished is
#: kept, and gone through again each time.
_CHUNK: Final = 1 << 16

_BLANKS: Final = b" \t\r\n"


class Nested:
    """
    Stands for a dictionary or array that lies deeper than what was asked for.
    """

    def __repr__(self) -> str:
        return "NESTED"


NESTED: Final = Nested()

Value = Union[str, int, float, bool, bytes, "dict[str, Value]", "list[Value]", Nested]
Dictionary = dict[str, Value]


def parse(body: bytes, keep: int = MAX_DEPTH, most: int = MAX_VALUES) -> Dictionary:
    """
    Read an XML property list whose outermost value is a dictionary.

    A reference to a document type is accepted (Apple's devices send one);
    declarations in it and binary property lists are not.

    @param body: UTF-8 XML that begins with C{<?xml}, as the database's columns
        demand it.
    @param keep: how many levels of dictionaries and arrays to build; what lies
        deeper becomes L{NESTED}.
    @param most: how many values to build.
    @return: the outermost dictionary.  Dates stay strings.
    @raise MessageError: C{body} is anything else.
    """
    if body.startswith(b"bplist"):
        raise MessageError("binary property lists are not supported, send XML")
    if not body.startswith(b"<?xml"):
        raise MessageError("body is not an XML property list: it does not begin with <?xml")
    reader = _Reader(keep, most)
    try:
        _feed(reader.parser, body)
    except expat.ExpatError as error:
        raise MessageError(f"body is not well-formed XML: {error}") from None
    finally:
        # The parser holds the reader's methods: without this, both would wait for
        # the garbage collector.
        del reader.parser
    if not isinstance(reader.root, dict):
        raise MessageError("the property list is not a dictionary")
    return reader.root


def _feed(parser: expat.XMLParserType, body: bytes) -> None:
    for start in range(0, len(body), _CHUNK):
        end = start + _CHUNK
        parser.Parse(body[start:end], end >= len(body))
        if start - parser.CurrentByteIndex > _CHUNK:
            raise MessageError(f"a tag or comment has more than {_CHUNK} bytes")


class _Reader:
    """
    Builds values from expat's events; one instance reads one document.
    """

    def __init__(self, keep: int, most: int) -> None:
        self.root: Value | None = None
        self._keep = keep
        self._most = most
        self._stack: list[Dictionary | list[Value]] = []
        self._keys: list[str | None] = []
        self._leaf: str | None = None
        self._text: list[str] = []
        self._depth = 0
        self._values = 0
        # The declared encoding is ignored: what is stored as text must be UTF-8.
        # Names of attributes, which nobody needs, are not collected either.
        self.parser = expat.ParserCreate("UTF-8", None, None)
        self.parser.buffer_text = True
        self.parser.buffer_size = 1 << 16
        self.parser.StartDoctypeDeclHandler = _refuse_declarations
        self.parser.SkippedEntityHandler = _refuse_entity
        self.parser.StartElementHandler = self._start_root
        self.parser.EndElementHandler = self._end

    def _start_root(self, name: str, attributes: Mapping[str, str]) -> None:
        self.parser.StartElementHandler = self._start
        if name != "plist":
            self._start(name, attributes)

    def _start(self, name: str, attributes: Mapping[str, str]) -> None:
        if self._leaf is not None:
            raise MessageError(f"<{name[:32]}> inside <{self._leaf}>")
        if name in _CONTAINERS:
            self._open({} if name == "dict" else [])
        elif name in _LEAVES:
            self._leaf = name
            self._text = []
            self.parser.CharacterDataHandler = self._text.append
        else:
            raise MessageError(f"<{name[:32]}> has no place in a property list")

    def _open(self, container: Dictionary | list[Value]) -> None:
        self._deepen()
        if self._depth > self._keep:
            self._place(NESTED)
            self.parser.StartElementHandler = self._skip_start
            self.parser.EndElementHandler = self._skip_end
            return
        self._place(container)
        self._stack.append(container)
        self._keys.append(None)

    def _deepen(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise MessageError(f"nested deeper than {MAX_DEPTH} levels")

    def _skip_start(self, name: str, attributes: Mapping[str, str]) -> None:
        if self._leaf is not None:
            raise MessageError(f"<{name[:32]}> inside <{self._leaf}>")
        if name in _LEAVES:
            self._leaf = name
        elif name in _CONTAINERS:
            self._deepen()
        else:
            raise MessageError(f"<{name[:32]}> has no place in a property list")

    def _skip_end(self, name: str) -> None:
        if self._leaf is not None:
            self._leaf = None
            return
        self._depth -= 1
        if self._depth == self._keep:
            self.parser.StartElementHandler = self._start
            self.parser.EndElementHandler = self._end

    def _end(self, name: str) -> None:
        if name == self._leaf:
            self.parser.CharacterDataHandler = None
            self._leaf = None
            text = "".join(self._text)
            if name == "key":
                self._set_key(text)
            else:
                self._place(_SCALARS[name](text))
        elif name in _CONTAINERS:
            if self._keys[-1] is not None:
                raise MessageError(f"key {_show(self._keys[-1])} has no value")
            self._stack.pop()
            self._keys.pop()
            self._depth -= 1

    def _set_key(self, key: str) -> None:
        if not self._stack or not isinstance(self._stack[-1], dict):
            raise MessageError("<key> outside a dictionary")
        if self._keys[-1] is not None:
            raise MessageError(f"key {_show(self._keys[-1])} has no value")
        if key in self._stack[-1]:
            raise MessageError(f"key {_show(key)} occurs twice")
        self._keys[-1] = key

    def _place(self, value: Value) -> None:
        self._values += 1
        if self._values > self._most:
            raise MessageError(f"more than {self._most} values")
        if not self._stack:
            if self.root is not None:
                raise MessageError("more than one outermost value")
            self.root = value
            return
        container = self._stack[-1]
        if isinstance(container, list):
            container.append(value)
            return
        key = self._keys[-1]
        if key is None:
            raise MessageError("a dictionary's value has no key")
        container[key] = value
        self._keys[-1] = None


def _refuse_declarations(name: str, system: Any, public: Any, has_declarations: int) -> None:
    # Entities and default attributes are the ways to make a small document huge.
    if has_declarations:
        raise MessageError("entity and other declarations are not accepted")


def _refuse_entity(name: str, is_parameter: int) -> None:
    raise MessageError(f"entity {_show(name)} is not known")


def _show(key: str | None) -> str:
    return repr((key or "")[:64])


def _integer(text: str) -> int:
    digits = text.strip()
    if not _INTEGER.fullmatch(digits):
        raise MessageError(f"not an integer: {digits[:32]!r}")
    return int(digits)


def _real(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise MessageError(f"not a real number: {text[:32]!r}") from None


def _data(text: str) -> bytes:
    try:
        return base64.b64decode(text.encode("ascii").translate(None, _BLANKS), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MessageError(f"<data> is not base64: {error}") from None


def _date(text: str) -> str:
    if not _DATE.fullmatch(text.strip()):
        raise MessageError(f"not a date: {text[:32]!r}")
    return text.strip()


_SCALARS: Final[Mapping[str, Callable[[str], Value]]] = {
    "string": lambda text: text,
    "data": _data,
    "integer": _integer,
    "real": _real,
    "date": _date,
    "true": lambda text: True,
    "false": lambda text: False,
}
