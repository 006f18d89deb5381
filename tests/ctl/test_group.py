"""
Tests for subcommands that are loaded when they are needed.
"""

from __future__ import annotations

import sys

import click
from click.testing import CliRunner
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SynchronousTestCase, TestCase

from nanomdm.ctl import main
from nanomdm.ctl.group import ListedGroup

_LOADED = """
import sys
from nanomdm.ctl import main
try:
    main(["--version"], prog_name="nanomdmctl")
finally:
    print(*(name for name in sys.modules if name.startswith(("nanomdm.", "twisted", "rich"))))
"""


class ListedTests(SynchronousTestCase):
    """
    What is listed without being loaded.
    """

    def test_help(self) -> None:
        """
        It is what the subcommands themselves say.
        """
        context = click.Context(main)
        groups = [main, main.get_command(context, "command")]
        for group in groups:
            assert isinstance(group, ListedGroup)
            for name, text in group.listed.items():
                found = group.get_command(context, name)
                assert found is not None
                self.assertEqual(found.name, name)
                whole = " ".join((found.help or "").split())
                self.assertTrue(whole.startswith(text.rstrip(".")), (name, text))

    def test_listing(self) -> None:
        result = CliRunner().invoke(main, ["--help"], terminal_width=200)
        for name, text in main.listed.items():
            self.assertRegex(result.stdout, rf"(?m)^  {name} +{text}$")

    def test_unknown(self) -> None:
        """
        Modules that are there are no subcommands for that.
        """
        for name in ("client", "comand", "nanomdm.ctl.queue", ""):
            result = CliRunner().invoke(main, [name])
            self.assertEqual((result.stdout, result.exit_code), ("", 2))
            self.assertIn(f"No such command '{name}'", result.stderr)


class LoadedTests(TestCase):
    """
    What the program loads.
    """

    timeout = 60

    async def test_version(self) -> None:
        """
        Next to nothing, for that it says which version it is.
        """
        out, err, code = await getProcessOutputAndValue(
            sys.executable, ["-c", _LOADED], env={"PYTHONPATH": ":".join(filter(None, sys.path))}
        )
        self.assertEqual((err, code), (b"", 0))
        version, loaded = out.decode().splitlines()
        self.assertTrue(version.startswith("nanomdmctl "))
        self.assertEqual(sorted(loaded.split()), ["nanomdm.ctl", "nanomdm.ctl.group"])
