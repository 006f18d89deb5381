"""
A file system that is soon full.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from twisted.trial.unittest import SkipTest, TestCase

_PIECE = b"x" * 65536


class SmallDisk:
    """
    @ivar path: where it is mounted.
    """

    def __init__(self, test: TestCase, size: int) -> None:
        """
        Mount one until a test ends.

        @param size: in MiB.
        """
        if os.geteuid() != 0:
            raise SkipTest("only root may mount a small file system")
        # Where servers that run as somebody else get at it.
        self.path = Path(tempfile.mkdtemp(prefix="nanomdm-"))
        test.addCleanup(self.path.rmdir)
        _run("mount", "-t", "tmpfs", "-o", f"size={size}m,mode=755", "nanomdm", str(self.path))
        test.addCleanup(_run, "umount", "--lazy", str(self.path))
        self._ballast = self.path / "ballast"

    def fill(self) -> None:
        """
        Leave no room.
        """
        with open(self._ballast, "wb", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(_PIECE)
            except OSError:
                pass

    def free(self) -> None:
        """
        Make room again.
        """
        self._ballast.unlink()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SkipTest(f"{command[0]}: {done.stderr.strip()}")
