"""
Tests for C{nanomdmctl completion}.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from click.testing import CliRunner
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SynchronousTestCase, TestCase

from nanomdm.ctl import main

_ROOT = Path(__file__).parent.parent.parent
_PROGRAM = """#!{python}
import sys
sys.path.insert(0, {root!r})
from nanomdm.ctl import main
main(prog_name="nanomdmctl")
"""
#: What a user's Tab does: the words of the line, and what the shell then offers.
_TAB = """
source <(nanomdmctl completion bash)
COMP_WORDS=({words})
COMP_CWORD={last}
_nanomdmctl_completion nanomdmctl
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


class ScriptTests(SynchronousTestCase):
    """
    The scripts.
    """

    def test_shells(self) -> None:
        for shell in ("bash", "zsh", "fish"):
            result = CliRunner().invoke(main, ["completion", shell])
            self.assertEqual((result.stderr, result.exit_code), ("", 0))
            self.assertIn(f"_NANOMDMCTL_COMPLETE={shell}_complete", result.stdout)

    def test_otherShell(self) -> None:
        result = CliRunner().invoke(main, ["completion", "csh"])
        self.assertEqual((result.stdout, result.exit_code), ("", 2))


class BashTests(TestCase):
    """
    What bash makes of it.
    """

    timeout = 60
    if shutil.which("bash") is None:
        skip = "there is no bash"

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        program = self.directory / "nanomdmctl"
        program.write_text(_PROGRAM.format(python=sys.executable, root=str(_ROOT)))
        program.chmod(0o700)

    async def offered(self, line: str) -> list[str]:
        """
        @param line: what stands there when Tab is pressed.
        """
        words = line.split(" ")
        quoted = " ".join(f"'{word}'" for word in words)
        script = _TAB.format(words=quoted, last=len(words) - 1)
        path = f"{self.directory}:{os.environ['PATH']}"
        out, err, code = await getProcessOutputAndValue(
            "/bin/bash", ["--norc", "-c", script], env={"PATH": path, "HOME": str(self.directory)}
        )
        self.assertEqual((err, code), (b"", 0))
        return out.decode().split()

    async def test_commands(self) -> None:
        self.assertEqual(await self.offered("nanomdmctl doc"), ["doctor"])

    async def test_requestTypes(self) -> None:
        self.assertEqual(await self.offered("nanomdmctl command DeviceI"), ["DeviceInformation"])
        offered = await self.offered("nanomdmctl command Set")
        self.assertIn("SetRecoveryLock", offered)

    async def test_options(self) -> None:
        self.assertEqual(
            await self.offered("nanomdmctl command EraseDevice --obl"), ["--obliteration-behavior"]
        )
        self.assertEqual(
            await self.offered("nanomdmctl command EraseDevice --obliteration-behavior DoNot"),
            ["DoNotObliterate"],
        )
