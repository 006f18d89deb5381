"""
A small reader for BER (ITU-T X.690), definite and indefinite lengths.

It takes hostile bytes: nesting, the number of elements, and so the time are
bounded, and each element is read once.  Elements of definite length are not
looked into before somebody asks for their children.
"""

from __future__ import annotations

CONSTRUCTED = 0x20

INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
OBJECT_IDENTIFIER = 0x06
SEQUENCE = 0x30
SET = 0x31
CONTEXT_0 = 0xA0
CONTEXT_3 = 0xA3
CONTEXT_0_PRIMITIVE = 0x80

MAX_DEPTH = 16
"""
How deep elements may lie in each other.
"""

MAX_ELEMENTS = 1024
"""
How many elements of one document are read.
"""

_MAX_LENGTH_OCTETS = 4
_LONG_TAG = 0x1F
_INDEFINITE = 0x80
_END_OF_CONTENTS = b"\0\0"


class BERError(ValueError):
    """
    The bytes are not BER, or exceed this reader's bounds.
    """


class Element:
    """
    One tag, length and value.

    @ivar tag: the identifier octet, with the class and the constructed bit.
    """

    __slots__ = ("_body", "_children", "_depth", "_document", "_end", "_start", "_stop", "tag")

    def __init__(
        self,
        document: _Document,
        tag: int,
        bounds: tuple[int, int, int, int],
        depth: int,
        children: list[Element] | None = None,
    ) -> None:
        self._document = document
        self.tag = tag
        self._start, self._body, self._stop, self._end = bounds
        self._depth = depth
        self._children = children

    @property
    def content(self) -> bytes:
        """
        The contents octets.
        """
        return self._document.data[self._body : self._stop]

    @property
    def encoded(self) -> bytes:
        """
        The element as it was received: tag, length, contents, and the end mark
        if its length is indefinite.
        """
        return self._document.data[self._start : self._end]

    @property
    def children(self) -> list[Element]:
        """
        The elements inside, in their order.

        @raise BERError: this element is primitive, or its contents are not BER.
        """
        if self._children is None:
            if not self.tag & CONSTRUCTED:
                raise BERError(f"nothing can be inside an element with tag {self.tag:#04x}")
            self._children = self._document.read_all(self._body, self._stop, self._depth + 1)
        return self._children


class _Document:
    """
    The bytes of a whole document, and how many elements may still be read.
    """

    __slots__ = ("_left", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._left = MAX_ELEMENTS

    def read(self, position: int, limit: int, depth: int) -> Element:
        """
        The element that starts at C{position} and must end by C{limit}.
        """
        self._spend(depth)
        data = self.data
        body = position + 2
        if body > limit:
            raise BERError(f"truncated at byte {limit}")
        tag, length = data[position], data[position + 1]
        if tag & _LONG_TAG == _LONG_TAG or tag == 0:
            raise BERError(f"unexpected tag {tag:#04x} at byte {position}")
        if length == _INDEFINITE:
            return self._read_indefinite(tag, position, limit, depth)
        if length > _INDEFINITE:
            octets = length - _INDEFINITE
            body += octets
            if octets > _MAX_LENGTH_OCTETS or body > limit:
                raise BERError(f"impossible length at byte {position}")
            length = int.from_bytes(data[body - octets : body], "big")
        stop = body + length
        if stop > limit:
            raise BERError(f"truncated at byte {limit}")
        return Element(self, tag, (position, body, stop, stop), depth)

    def read_all(self, position: int, stop: int, depth: int) -> list[Element]:
        """
        The elements that fill the bytes from C{position} to C{stop}.
        """
        elements = []
        while position < stop:
            element = self.read(position, stop, depth)
            elements.append(element)
            position = element._end
        return elements

    def _read_indefinite(self, tag: int, start: int, limit: int, depth: int) -> Element:
        if not tag & CONSTRUCTED:
            raise BERError(f"primitive element of indefinite length at byte {start}")
        children = []
        position = body = start + 2
        while self.data[position : position + 2] != _END_OF_CONTENTS:
            child = self.read(position, limit, depth + 1)
            children.append(child)
            position = child._end
        end = position + 2
        if end > limit:
            raise BERError(f"truncated at byte {limit}")
        return Element(self, tag, (start, body, position, end), depth, children)

    def _spend(self, depth: int) -> None:
        self._left -= 1
        if depth > MAX_DEPTH:
            raise BERError(f"nested deeper than {MAX_DEPTH}")
        if self._left < 0:
            raise BERError(f"more than {MAX_ELEMENTS} elements")


def parse(data: bytes) -> Element:
    """
    Read the one element that C{data} consists of.

    @raise BERError: C{data} is not one BER element, or anything follows it.
    """
    element = _Document(data).read(0, len(data), 0)
    if element._end != len(data):
        raise BERError(f"{len(data) - element._end} bytes too many at the end")
    return element


def encode(tag: int, content: bytes) -> bytes:
    """
    Encode an element with the shortest definite length, as DER wants it.

    @param tag: the identifier octet.
    @param content: the contents octets.
    """
    size = len(content)
    if size < _INDEFINITE:
        return bytes((tag, size)) + content
    octets = (size.bit_length() + 7) // 8
    return bytes((tag, _INDEFINITE | octets)) + size.to_bytes(octets, "big") + content


def to_der(element: Element, tag: int | None = None) -> bytes:
    """
    Encode an element again as DER: definite lengths, and the members of each
    SET in ascending order (X.690 section 11.6).  Primitive contents and
    constructed strings stay as they are.

    @param element: what to encode.
    @param tag: the identifier octet to write instead of the element's own.
    @raise BERError: something inside is not BER.
    """
    tag = element.tag if tag is None else tag
    if not tag & CONSTRUCTED:
        return encode(tag, element.content)
    members = [to_der(child) for child in element.children]
    if tag == SET:
        members.sort()
    return encode(tag, b"".join(members))
