"""
Changes to inputs.
"""

from __future__ import annotations

from random import Random

from nanomdm.crypto import ber
from nanomdm.crypto.ber import BERError, Element

#: Tags, contents and numbers at the edges of what there can be.
_TAGS = (0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x0C, 0x17, 0x30, 0x31, 0x80, 0xA0, 0xA3)
_CONTENTS = (b"", b"\0", b"\xff", b"\x7f", b"\x80", b"\x01\0\x01", b"\0" * 64, b"\xff" * 256)


def change_bytes(data: bytes, rng: Random) -> bytes:
    """
    @return: C{data} with some bytes replaced, removed, repeated or added.
    """
    start = rng.randrange(len(data) + 1)
    stop = min(len(data), start + rng.choice((0, 1, 1, 2, 8, 100)))
    middle = rng.choice((b"", rng.randbytes(1), rng.randbytes(4), data[start:stop] * 2))
    return data[:start] + middle + data[stop:]


def change_der(data: bytes, rng: Random) -> bytes | None:
    """
    Change one element, and the lengths of all around it.

    @return: L{None} if C{data} is not DER, or not enough of it.
    """
    try:
        root = ber.parse(data)
        return _changed(root, rng.choice(_all(root)), rng)
    except BERError:
        return None


def _all(element: Element) -> list[Element]:
    if not element.tag & ber.CONSTRUCTED:
        return [element]
    return [element, *(one for child in element.children for one in _all(child))]


def _changed(element: Element, chosen: Element, rng: Random) -> bytes:
    if element is chosen:
        return _replaced(element, rng)
    if not element.tag & ber.CONSTRUCTED:
        return element.encoded
    inside = [_changed(child, chosen, rng) for child in element.children]
    return ber.encode(element.tag, b"".join(inside))


def _replaced(element: Element, rng: Random) -> bytes:
    tag, content = element.tag, element.content
    kind = rng.randrange(6)
    if kind == 0:
        return b""
    if kind == 1:
        return element.encoded * 2
    if kind == 2:
        tag = rng.choice(_TAGS)
    elif kind == 3:
        content = rng.choice(_CONTENTS)
    else:
        content = change_bytes(content, rng)
    return ber.encode(tag, content)
