"""
Tests for what commands print.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
from functools import partial
from typing import Any

from rich.console import Console
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.ctl import show
from tests.ctl.case import CtlCase
from tests.web import WebServer, listen

#: What somebody might call a device.
NAME = "x\x1b]0;pwned\x07\x9b1m\u202ey\t\n\u00fc\U0001f4a9\x7f"

SEEN = "x\\u001b]0;pwned\\u0007\\u009b1m\\u202ey\\t\\n\u00fc\U0001f4a9\\u007f"


class Terminal(io.TextIOWrapper):
    """
    Takes text.
    """

    def __init__(self, tty: bool, encoding: str = "utf-8") -> None:
        self.bytes = io.BytesIO()
        self.tty = tty
        super().__init__(self.bytes, encoding, newline="\n", write_through=True)

    def isatty(self) -> bool:
        return self.tty

    @property
    def text(self) -> str:
        """
        What was printed.
        """
        return self.bytes.getvalue().decode(self.encoding)


class ShowCase(SynchronousTestCase):
    """
    Prints to somewhere.
    """

    columns = (show.Column("Name", "name"), show.Column("Twice", lambda item: 2 * item["count"]))

    def setUp(self) -> None:
        self.patch(os, "environ", {"TERM": "xterm", "COLUMNS": "100"})
        self.output(tty=False)

    def output(self, tty: bool, encoding: str = "utf-8") -> Terminal:
        self.terminal = Terminal(tty, encoding)
        self.errors = Terminal(tty, encoding)
        self.patch(sys, "stdout", self.terminal)
        self.patch(sys, "stderr", self.errors)
        return self.terminal

    def list(self, *items: Any, as_json: bool = False) -> str:
        show.print_list(self.columns, iter(items), "Nothing.", as_json)
        return self.terminal.text


class ListTests(ShowCase):
    """
    Lists.
    """

    def test_lines(self) -> None:
        printed = self.list({"name": NAME, "count": 1}, {"count": 2})
        self.assertEqual(printed, f"{SEEN}\t2\n\t4\n")

    def test_linesAtOnce(self) -> None:
        """
        A line is there before the next item is.
        """
        seen = []

        def items() -> Any:
            for count in (1, 2):
                yield {"name": "a", "count": count}
                seen.append(self.terminal.text)

        show.print_list(self.columns, items(), "Nothing.", False)
        self.assertEqual(seen, ["a\t2\n", "a\t2\na\t4\n"])

    def test_table(self) -> None:
        self.output(tty=True)
        printed = self.list({"name": NAME, "count": 1})
        self.assertIn("Name", printed)
        self.assertIn("Twice", printed)
        self.assertIn(SEEN, printed)
        for character in "\x07\x9b\u202e\x7f":
            self.assertNotIn(character, printed)
        self.assertNotIn("\x1b]", printed)

    def test_narrow(self) -> None:
        """
        Columns are left out, so that no other is broken into pieces.
        """
        self.columns = (
            show.Column("Id", "id"),
            show.Column("Model", "model", rank=1),
            show.Column("User", "user", rank=2),
        )
        item = {"id": "I" * 36, "model": "M" * 12, "user": "U" * 12}
        for width, shown, left_out in (
            (68, "IMU", ""),
            (67, "IM", "User"),
            (53, "IM", "User"),
            (52, "I", "Model, User"),
            (38, "I", "Model, User"),
        ):
            self.output(tty=True)
            self.patch(show, "Console", partial(Console, width=width))
            printed = self.list(item)
            for letter, value in zip("IMU", item.values(), strict=True):
                self.assertEqual(value in printed, letter in shown, (width, printed))
            note = f"Not shown, as the terminal is too narrow: {left_out}\n"
            self.assertEqual(self.errors.text, note if left_out else "")

    def test_markup(self) -> None:
        """
        Text is not taken for instructions.
        """
        self.output(tty=True)
        self.assertIn(
            "[red]a[/red] :smile:", self.list({"name": "[red]a[/red] :smile:", "count": 1})
        )

    def test_nothing(self) -> None:
        for tty in (False, True):
            self.output(tty)
            self.assertEqual(self.list(), "")
            self.assertEqual(self.errors.text, "Nothing.\n")

    def test_json(self) -> None:
        items = [{"name": NAME, "count": 1}, {"name": "b", "count": 2}]
        for tty in (False, True):
            self.output(tty)
            printed = self.list(*items, as_json=True)
            self.assertEqual(json.loads(printed), items)
            self.assertTrue(printed.isascii() and printed.replace("\n", "").isprintable())

    def test_emptyJSON(self) -> None:
        self.assertEqual(self.list(as_json=True), "[]\n")
        self.assertEqual(self.errors.text, "")

    def test_encoding(self) -> None:
        """
        Not every output has every character.
        """
        for tty in (False, True):
            self.output(tty, "ascii")
            self.assertIn("M\\xfcller", self.list({"name": "M\u00fcller", "count": 1}))


class ItemTests(ShowCase):
    """
    Single objects.
    """

    item = {
        "id": "D1",
        "enabled": True,
        "off": False,
        "nothing": None,
        "inner": {"a": {"b": 1}, "c\x1b": NAME},
        "list": ["a", {"b": "\x1b\u00fc"}, 2],
    }

    def test_lines(self) -> None:
        show.print_item(self.item, as_json=False)
        self.assertEqual(
            self.terminal.text,
            "id\tD1\nenabled\tyes\noff\tno\nnothing\t\ninner.a.b\t1\n"
            f'inner.c\\u001b\t{SEEN}\nlist\ta, {{"b": "\\u001b\u00fc"}}, 2\n',
        )

    def test_terminal(self) -> None:
        self.output(tty=True)
        show.print_item(self.item, as_json=False)
        plain = re.sub(r"\x1b\[[0-9;]*m", "", self.terminal.text)
        self.assertRegex(plain, r"\ninner\.a\.b +1 *\n")
        self.assertIn(f"inner.c\\u001b  {SEEN}\n", plain)
        self.assertNotIn("\x1b", plain)

    def test_long(self) -> None:
        """
        The terminal breaks a long value, and it can be copied in one piece.
        """
        self.output(tty=True)
        show.print_item({"key": "x" * 300}, as_json=False)
        self.assertIn("x" * 300 + "\n", self.terminal.text)

    def test_json(self) -> None:
        show.print_item(self.item, as_json=True)
        self.assertEqual(json.loads(self.terminal.text), self.item)

    def test_raw(self) -> None:
        show.print_raw(b"<a>\x9b\xff\n")
        self.assertEqual(self.terminal.bytes.getvalue(), b"<a>\x9b\xff\n")
        self.output(tty=True)
        show.print_raw("<a>\x9b\x1b\tb\n</a>\n".encode())
        self.assertEqual(self.terminal.text, "<a>\\u009b\\u001b   b\n</a>\n")

    def test_say(self) -> None:
        self.output(tty=False, encoding="ascii")
        show.say("D\x1b\u00fc")
        self.assertEqual(self.errors.text, "D\\u001b\\xfc\n")


class BrokenPipeTests(CtlCase):
    """
    Nobody reads what is printed.
    """

    async def test_quiet(self) -> None:
        server = WebServer()
        server.headers = {"Content-Type": "application/json"}
        server.body = b'{"enrollments": [{"id": "D1"}]}'
        self.port = listen(self, server)
        for arguments in ((), ("--json",)):
            reader, writer = os.pipe()
            os.close(reader)
            fds = {0: "w", 1: writer, 2: "r"}
            process = self.spawn("enrollments", "list", *arguments, childFDs=fds)
            os.close(writer)
            self.assertEqual(await process.ended, 1)
            self.assertEqual(process.errors, b"")
