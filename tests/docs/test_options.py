"""
Tests of C{docs/options.md}.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from nanomdm.options import OPTIONS
from tests.docs.options_table import ROOT, SECTIONS, example, page


class OptionsTests(SynchronousTestCase):
    """
    The page tells of every option, what the server itself knows of it.
    """

    def test_current(self) -> None:
        written = (ROOT / "docs" / "options.md").read_text()
        how = "run: python -m tests.docs.options_table > docs/options.md"
        self.assertTrue(written == page(), how)

    def test_everyOption(self) -> None:
        rows = re.findall(r"^\| `--([a-z-]+)` \| `([A-Z_]+)` \|", page(), re.MULTILINE)
        names = [option.name for option in OPTIONS]
        variables = [f"NANOMDM_{name.upper().replace('-', '_')}" for name in names]
        self.assertEqual(rows, list(zip(names, variables, strict=True)))
        self.assertEqual(page().count("\n## "), len(SECTIONS))

    def test_everyRowHasFiveCells(self) -> None:
        rows = [line for line in page().splitlines() if line.startswith("| `--")]
        self.assertEqual({len(re.split(r"(?<!\\)\|", row)) for row in rows}, {7})

    def test_examplesAreAccepted(self) -> None:
        """
        Of options that take a file, the example names one that need not be there.
        """
        directory = Path(self.mktemp())
        directory.mkdir()
        there = directory / "file"
        there.write_text("content")
        for option in OPTIONS:
            if not option.is_switch:
                value = re.sub(r"/etc/nanomdm/[\w/.-]+", str(there.absolute()), example(option))
                self.assertAccepted(option.name, option.parse, value)

    def assertAccepted(self, name: str, parse: Any, value: str) -> None:
        """
        A value can be one of the option.
        """
        try:
            parse(value)
        except Exception as error:
            self.fail(f"{name}: {value}: {error}")
