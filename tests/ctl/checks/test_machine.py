"""
Tests for L{nanomdm.ctl.checks.machine}.
"""

from __future__ import annotations

import resource
import shutil

from nanomdm.ctl.checks import machine
from nanomdm.ctl.checks.machine import (
    check_contents,
    check_disk,
    check_environment,
    check_files,
    check_limits,
)
from nanomdm.service.tokens import TokenFile
from nanomdm.storage.settings import StorageSettings
from tests.ctl.checks.case import Case, told


class MachineTests(Case):
    """
    Files, disk, limits.
    """

    def test_environment(self) -> None:
        environ = dict.fromkeys(
            ("NANOMDM_CA", "NANOMDM_KEY", "NANOMDM_SERVER_CA", "NANOMDM_LISTN", "HOME"), "x"
        )
        self.assertTold(check_environment(environ), "warn environment: NANOMDM_LISTN belongs")

    def test_files(self) -> None:
        for mode, words in (
            (0o600, "ok files: nobody else can read or change key"),
            (0o640, "ok files: nobody else"),
            (0o644, "warn files: anybody can read"),
            (0o602, "fail files: anybody can change"),
        ):
            settings = self.settings(tls_key=self.file(name="key", mode=mode))
            self.assertTold(check_files(settings, None), words)

    def test_secretKeys(self) -> None:
        """
        They are for the server's user alone.
        """
        for mode, words in (
            (0o600, "ok files: nobody else can read or change keys"),
            (0o640, "warn files: its group can read"),
            (0o644, "warn files: anybody can read"),
        ):
            settings = self.settings(secret_key_file=self.file(name="keys", mode=mode))
            self.assertTold(check_files(settings, None), words)

    def test_allFiles(self) -> None:
        paths = {
            name: self.file(name=name, mode=0o644)
            for name in ("config", "cert", "keys", "secrets", "token", "db", "db-wal", "db-shm")
        }
        settings = self.settings(
            tls_cert=paths["cert"],
            api_key_file=paths["keys"],
            secret_key_file=paths["secrets"],
            token=(TokenFile("com.apple.maid", paths["token"]),),
            storages=(StorageSettings(kind="sqlite", dsn=paths["db"]),),
        )
        found = told(list(check_files(settings, paths["config"])))
        for path in paths.values():
            self.assertIn(f"warn files: anybody can read {path}", found)

    def test_noFiles(self) -> None:
        self.assertTold(check_files(self.settings(), None))

    def test_contents(self) -> None:
        """
        What keeps the server from starting is found before it is started.
        """
        good, bad = self.file(name="keys", mode=0o600), self.file(name="bad", mode=0o600)
        good.write_text(f"ops read {'0' * 64}\n")
        bad.write_text("bad line\n")
        for keys, words in (
            (good, "ok api-key-file: can be used"),
            (bad, f"fail api-key-file: --api-key-file: {bad}: line 1: is not a name"),
        ):
            self.assertTold(check_contents(self.settings(api_key_file=keys)), words)
        empty = self.file(name="empty", mode=0o600)
        empty.write_bytes(b"")
        for path, words in ((good, "ok token: can be used"), (empty, "fail token: --token: ")):
            settings = self.settings(token=(TokenFile("com.apple.maid", path),))
            self.assertTold(check_contents(settings), words)
        self.assertTold(check_contents(self.settings()))

    def test_disk(self) -> None:
        storage = StorageSettings(kind="sqlite", dsn=self.directory / "db")
        settings = self.settings(storages=(storage,))
        for free, word in ((99, "fail"), (1023, "warn"), (1024, "ok")):
            usage = shutil._ntuple_diskusage(0, 0, free << 20)
            self.patch(machine.shutil, "disk_usage", lambda path, usage=usage: usage)
            self.assertTold(check_disk(settings), f"{word} disk: {free} MiB are free for ")
        self.assertTold(check_disk(self.settings()))

    def test_limits(self) -> None:
        for limit, word in ((1024, "warn"), (16384, "ok"), (resource.RLIM_INFINITY, "ok")):
            self.patch(machine.resource, "getrlimit", lambda which, limit=limit: (limit, limit))
            self.assertTold(check_limits(self.settings()), f"{word} open files: ")
