"""
What the tests of the checks share.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from nanomdm.config import Settings
from nanomdm.ctl.checks.finding import Finding, Findings
from nanomdm.storage.settings import StorageSettings


def ago(days: float) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


def told(findings: Sequence[Finding]) -> list[str]:
    """
    @return: what was found, without advice.
    """
    return [f"{one.outcome.value} {one.check}: {one.text}" for one in findings]


class Case(SynchronousTestCase):
    """
    Files and findings.
    """

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()

    def file(self, *content: bytes, name: str = "file", mode: int = 0o600) -> Path:
        path = self.directory / name
        path.write_bytes(b"".join(content))
        path.chmod(mode)
        return path

    def settings(self, **given: Any) -> Settings:
        return Settings(
            **{"storages": (StorageSettings(kind="inmem"),), "apns_proxy": "none", **given}
        )

    def assertTold(self, findings: Findings, *expected: str) -> None:
        """
        Each is the beginning of what was found.
        """
        found = told(list(findings))
        self.assertEqual(len(found), len(expected), found)
        for text, beginning in zip(found, expected, strict=True):
            self.assertTrue(text.startswith(beginning), found)
