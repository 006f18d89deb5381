"""
Tests for what L{nanomdm.tap} does before the reactor runs.
"""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from nanomdm.config import Settings
from nanomdm.errors import ConfigError
from nanomdm.storage.settings import StorageSettings
from nanomdm.tap import hand_over


class HandOverTests(SynchronousTestCase):
    """
    Database files belong to the user that C{twistd --uid} names.
    """

    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute()
        storages = (StorageSettings(dsn=self.path), StorageSettings(kind="inmem"))
        self.settings = Settings(api="k", disable_mdm=True, storages=storages)
        self.given: list[tuple[object, ...]] = []
        self.patch(os, "chown", lambda *arguments: self.given.append(arguments))

    def test_nobodyNamed(self) -> None:
        hand_over(self.settings, {"uid": None, "gid": None})
        self.assertEqual(self.given, [])

    def test_userAndGroup(self) -> None:
        hand_over(self.settings, {"uid": 12, "gid": 34})
        self.assertEqual(self.given, [(self.path, 12, 34)])

    def test_userOnly(self) -> None:
        hand_over(self.settings, {"uid": 12, "gid": None})
        self.assertEqual(self.given, [(self.path, 12, -1)])

    def test_notAllowed(self) -> None:
        def refuse(*arguments: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        self.patch(os, "chown", refuse)
        error = self.assertRaises(ConfigError, hand_over, self.settings, {"uid": 12})
        self.assertEqual(str(error), f"--uid: {self.path}: Operation not permitted")
