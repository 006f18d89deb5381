"""
What C{--dump} shows: messages as people read them.

Each has a heading, its body as text, and an empty line.  Nothing in a body can pass
for a heading or for a line of the log, nor do anything to a terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import chain
from typing import Final, Literal, TypeAlias

from attrs import frozen

from nanomdm.log import Fields, logfmt, printable

#: Bytes that are shown of a body, and of one that is no text.
LIMIT: Final = 1 << 20
PREVIEW: Final = 512

#: How headings and lines of the log begin.
_MARKS: Final = ("#", "ts=", '{"ts"')

#: Lines that are made harmless at once.
_LINES: Final = 500

#: Takes the bytes that a block keeps in memory, and its pieces.
Show: TypeAlias = Callable[[int, Iterable[bytes]], object]


@frozen
class Message:
    """
    One message.

    @ivar direction: from the device, or to it.
    @ivar time: when it was there.
    @ivar about: what is known of it.
    @ivar body: its body, or the beginning of that.
    @ivar size: bytes of the whole body.
    """

    direction: Literal["request", "response"]
    time: datetime
    about: Fields
    body: bytes
    size: int

    @classmethod
    def of(
        cls,
        direction: Literal["request", "response"],
        time: datetime,
        about: Fields,
        body: bytes,
    ) -> Message:
        """
        @param time: in UTC.
        @param body: the whole body.
        """
        return cls(direction, time, about, body[:LIMIT], len(body))


def dump(show: Show, messages: Iterable[Message]) -> None:
    """
    Show messages in one block.

    @param show: takes it, and does the work of rendering when it has time.
    """
    messages = tuple(messages)
    show(
        sum(len(message.body) for message in messages),
        chain.from_iterable(map(render, messages)),
    )


def render(message: Message) -> Iterator[bytes]:
    """
    @return: a heading, the body, and an empty line; all of it UTF-8.
    """
    time = message.time.isoformat(timespec="microseconds")[:26]
    about: Fields = {**message.about, "bytes": message.size}
    yield f"# {time}Z {message.direction} {logfmt(about)}\n".encode()
    text, shown = _text(message.body, message.size)
    lines = text.removesuffix("\n").split("\n") if text else []
    for start in range(0, len(lines), _LINES):
        yield "".join(f"{_harmless(line)}\n" for line in lines[start : start + _LINES]).encode()
    if shown < message.size:
        yield b"# %d bytes more are left out\n" % (message.size - shown)
    yield b"\n"


def _text(body: bytes, size: int) -> tuple[str, int]:
    """
    @param size: bytes of the whole body, of which C{body} may be the beginning.
    @return: what to show, and how many bytes that is.
    """
    try:
        return body.decode(), len(body)
    except UnicodeDecodeError as error:
        # A character that the limit cuts in two is left out.
        if len(body) < size and error.reason == "unexpected end of data":
            return body[: error.start].decode(), error.start
    preview = body[:PREVIEW]
    return preview.decode("utf-8", "backslashreplace"), len(preview)


def _harmless(line: str) -> str:
    if line.startswith(_MARKS):
        line = f"\\x{ord(line[0]):02x}{line[1:]}"
    return "\t".join(map(printable, line.split("\t")))
