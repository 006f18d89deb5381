"""
Tests for L{nanomdm.dump}.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from nanomdm.dump import LIMIT, PREVIEW, Message, dump, render
from tests import samples

TIME = datetime(2026, 11, 20, 10, 0, 0, 5, UTC)
HEADING = b"# 2026-11-20T10:00:00.000005Z request id=D1 bytes=%d\n"


class RenderTests(SynchronousTestCase):
    """
    One message.
    """

    def render(self, body: bytes, **about: Any) -> bytes:
        message = Message.of("request", TIME, about or {"id": "D1"}, body)
        return b"".join(render(message))

    def assertShown(self, body: bytes, shown: bytes) -> None:
        self.assertEqual(self.render(body), HEADING % len(body) + shown + b"\n")

    def test_propertyList(self) -> None:
        """
        As it came.
        """
        for body in (samples.captured("TokenUpdate.1.plist"), samples.authenticate()):
            self.assertShown(body, body.removesuffix(b"\n") + b"\n")

    def test_json(self) -> None:
        self.assertShown(b'{"a":\t1}', b'{"a":\t1}\n')

    def test_empty(self) -> None:
        self.assertShown(b"", b"")

    def test_lines(self) -> None:
        for body, shown in (
            (b"a", b"a\n"),
            (b"a\n", b"a\n"),
            (b"\n", b"\n"),
            (b"\n\na", b"\n\na\n"),
        ):
            self.assertShown(body, shown)
        many = b"line\n" * 1234
        self.assertShown(many, many)

    def test_headingThatAForgeryWouldNeed(self) -> None:
        """
        What somebody else chose can not end a heading or add to it.
        """
        heading, *rest = self.render(b"", id='a" code=200\n# x', type="Shared iPad").split(b"\n")
        self.assertEqual(rest, [b"", b""])
        self.assertIn(rb' id="a\" code=200\n# x" type="Shared iPad" bytes=0', heading)

    def test_forgedHeading(self) -> None:
        forged = HEADING % 1
        self.assertShown(forged, b"\\x23" + forged[1:])
        self.assertShown(b"a\n" + forged, b"a\n\\x23" + forged[1:])
        self.assertShown(b"a # b\n  # c\n", b"a # b\n  # c\n")
        for end in ("\r", "\v", "\f", "\x85", "\u2028", "\u2029"):
            self.assertEqual(len(self.render(f"a{end}# b".encode()).decode().splitlines()), 3)

    def test_forgedLogLine(self) -> None:
        self.assertShown(b'ts=1 level=info msg="x"', b'\\x74s=1 level=info msg="x"\n')
        self.assertShown(b'{"ts":"1"}', b'\\x7b"ts":"1"}\n')
        self.assertShown(b"ts\n{}\n", b"ts\n{}\n")

    def test_controlCharacters(self) -> None:
        self.assertShown(
            b"\x1b[2J\x07\r\x00\x7f\ta",
            b"\\u001b[2J\\u0007\\r\\u0000\x7f\ta\n".replace(b"\x7f", b"\\u007f"),
        )
        self.assertShown("\u202eé\x9b\u200b日".encode(), "\\u202eé\\u009b\\u200b日\n".encode())
        every = bytes(range(32)) + b"\x7f" + "".join(map(chr, range(0x80, 0xA0))).encode()
        shown = self.render(every).decode()
        self.assertEqual(re.findall(r"[^\n\t -~]", shown), [])

    def test_notText(self) -> None:
        self.assertShown(b"bplist00\xd1\xff", b"bplist00\\xd1\\xff\n")
        body = b"\xff" + b"a" * PREVIEW
        left = b"# 1 bytes more are left out\n"
        self.assertShown(body, b"\\xff" + b"a" * (PREVIEW - 1) + b"\n" + left)
        self.assertShown(
            "<a>é</a>".encode("utf-16-le"),
            b"<\\u0000a\\u0000>\\u0000\\xe9\\u0000<\\u0000/\\u0000a\\u0000>\\u0000\n",
        )

    def test_incompleteCharacter(self) -> None:
        """
        At the end of a whole body it is no text.
        """
        self.assertShown(b"a\xc3", b"a\\xc3\n")

    def test_limit(self) -> None:
        body = b"a" * LIMIT
        self.assertShown(body, body + b"\n")
        self.assertShown(body + b"bc", body + b"\n# 2 bytes more are left out\n")

    def test_limitInACharacter(self) -> None:
        body = b"a" * (LIMIT - 1) + "é".encode()
        shown = b"a" * (LIMIT - 1)
        self.assertShown(body, shown + b"\n# 2 bytes more are left out\n")

    def test_notTextBeyondTheLimit(self) -> None:
        body = b"\xff" * (LIMIT + 5)
        left = b"# %d bytes more are left out\n" % (LIMIT + 5 - PREVIEW)
        self.assertShown(body, b"\\xff" * PREVIEW + b"\n" + left)

    def test_noMoreIsKept(self) -> None:
        message = Message.of("request", TIME, {}, b"a" * (LIMIT + 5))
        self.assertEqual((len(message.body), message.size), (LIMIT, LIMIT + 5))


class DumpTests(SynchronousTestCase):
    """
    Several messages.
    """

    def test_oneBlock(self) -> None:
        shown: list[tuple[int, bytes]] = []

        def show(size: int, pieces: Iterable[bytes]) -> None:
            shown.append((size, b"".join(pieces)))

        one = Message.of("request", TIME, {"id": "D1"}, b"one")
        two = Message.of("response", TIME, {"code": 200}, b"seven\n")
        dump(show, (one, two))
        rendered = b"".join((*render(one), *render(two)))
        self.assertEqual(shown, [(9, rendered)])
        self.assertRegex(
            rendered, rb"^# [^\n]+\none\n\n# [^\n]+ response code=200 bytes=6\nseven\n\n$"
        )
