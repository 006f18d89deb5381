"""
Tests for L{nanomdm.private}.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from nanomdm.private import PUBLIC, append, create, private_directory, replace


def mode(path: Path) -> int:
    """
    @return: who may do what with a file.
    """
    return stat.S_IMODE(path.stat().st_mode)


class PrivateTests(SynchronousTestCase):
    """
    With the umask that forbids nothing.
    """

    def setUp(self) -> None:
        self.home = Path(self.mktemp())
        self.home.mkdir()
        self.addCleanup(os.umask, os.umask(0))

    def test_directories(self) -> None:
        """
        Those above it, too; one that is there already stays what it is.
        """
        there = self.home / "there"
        there.mkdir(mode=0o755)
        made = there / "a" / "b"
        private_directory(made)
        private_directory(made)
        self.assertEqual([mode(one) for one in (made, made.parent, there)], [0o700, 0o700, 0o755])

    def test_notADirectory(self) -> None:
        (self.home / "file").touch()
        self.assertRaises(FileExistsError, private_directory, self.home / "file")

    def test_replace(self) -> None:
        file = self.home / "file"
        file.write_bytes(b"before")
        file.chmod(0o644)
        replace(file, b"after")
        self.assertEqual((file.read_bytes(), mode(file)), (b"after", 0o600))
        self.assertEqual(os.listdir(self.home), ["file"])

    def test_public(self) -> None:
        """
        Others may read it, and not write.
        """
        replace(self.home / "file", b"", PUBLIC)
        self.assertEqual(mode(self.home / "file"), 0o644)

    def test_leftover(self) -> None:
        """
        What an interrupted attempt left is not gone on with: others may have it open.
        """
        part = self.home / "file.part"
        part.touch(0o666)
        with part.open("rb") as opened:
            replace(self.home / "file", b"secret")
            self.assertEqual(opened.read(), b"")
        self.assertEqual(mode(self.home / "file"), 0o600)

    def test_link(self) -> None:
        """
        A link in its place leads nowhere.
        """
        (self.home / "link").symlink_to(self.home / "other")
        with create(self.home / "link") as file:
            file.write(b"secret")
        self.assertFalse((self.home / "link").is_symlink())
        self.assertFalse((self.home / "other").exists())

    def test_append(self) -> None:
        for word in (b"one", b"two"):
            with append(self.home / "log") as log:
                log.write(word)
        self.assertEqual((self.home / "log").read_bytes(), b"onetwo")
        self.assertEqual(mode(self.home / "log"), 0o600)
