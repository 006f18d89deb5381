"""
Tests for where C{nanomdmctl export} writes; those of what it writes are in
L{tests.test_transfer}.
"""

from __future__ import annotations

import os

from nanomdm.storage.factory import prepare_storage
from nanomdm.storage.settings import StorageSettings
from tests.ctl.case import CtlCase


class TargetTests(CtlCase):
    """
    What must not become a file.
    """

    def settings(self) -> dict[str, str]:
        """
        No server is asked.
        """
        return {}

    async def export(self, name: str) -> None:
        database = self.home / "nanomdm.db"
        prepare_storage(StorageSettings(kind="sqlite", dsn=database))
        result = await self.ctl(
            "export", str(self.home / name), "--storage", "sqlite", "--storage-dsn", str(database)
        )
        self.assertEqual((result.stdout, result.exit_code), ("", 0), result.stderr)

    async def test_pipe(self) -> None:
        """
        Who reads gets all of it.
        """
        pipe = self.home / "pipe"
        os.mkfifo(pipe)
        # The export is smaller than what a pipe takes.
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        await self.export("pipe")
        self.assertTrue(pipe.is_fifo())
        content = os.read(reader, 1 << 16)
        self.assertTrue(content.startswith(b'{"format"'), content[:20])
        self.assertTrue(content.endswith(b"}\n"))

    async def test_link(self) -> None:
        """
        The file that it leads to is written.
        """
        link = self.home / "latest"
        file = self.home / "file"
        file.write_text("before")
        link.symlink_to(file)
        await self.export("latest")
        self.assertTrue(link.is_symlink())
        self.assertTrue(file.read_bytes().startswith(b'{"format"'))
        self.assertFalse((self.home / "file.part").exists())
        self.assertEqual(file.stat().st_mode & 0o777, 0o600)
