"""
Tests of the reference in C{docs/nanomdmctl.md}.
"""

from __future__ import annotations

import re

import click
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.ctl import main
from nanomdm.mdm.catalogue import CATALOGUE
from tests.docs.ctl_reference import PAGE, page, reference


class ReferenceTests(SynchronousTestCase):
    """
    It tells of every command, what the command itself says.
    """

    def test_current(self) -> None:
        how = "run: python -m tests.docs.ctl_reference"
        self.assertTrue(PAGE.read_text() == page(), how)

    def test_guideIsKept(self) -> None:
        self.assertIn("\n## Recipes\n", page())
        self.assertEqual(page().count("\n## All commands\n"), 1)

    def test_everyCommand(self) -> None:
        """
        Those at the top, and all request types.
        """
        described = set(re.findall(r"^### nanomdmctl ([a-z]+)", reference(), re.MULTILINE))
        self.assertEqual(described, set(main.list_commands(click.Context(main))))
        rows = re.findall(r"^\| `([A-Za-z]+)` \|", reference(), re.MULTILINE)
        self.assertEqual(rows, list(CATALOGUE))

    def test_options(self) -> None:
        """
        Own ones and shared ones, with what else is to be known of them.
        """
        text = reference()
        self.assertIn("| `--payload FILE` | The profile", text)
        [count] = re.findall(r"^\| `--count .+$", text, re.MULTILINE)
        self.assertIn("Default: `10`.", count)
        [role] = re.findall(r"^\| `--role .+$", text, re.MULTILINE)
        self.assertTrue(role.endswith(" Required. |"), role)
        self.assertEqual(len(re.findall(r"^\| `--server URL` \| The server,", text, re.M)), 1)
        _, _, push = text.partition("\n### nanomdmctl push\n")
        own = "| `--force` |"
        links = "[options of the server](#options-of-the-server) and [options of the targets]"
        self.assertTrue(push.index(own) < push.index(links) < push.index("\n### "))

    def test_everyRowHasTwoCells(self) -> None:
        rows = [line for line in reference().splitlines() if line.startswith("| `--")]
        self.assertEqual({len(re.split(r"(?<!\\)\|", row)) for row in rows}, {4})
