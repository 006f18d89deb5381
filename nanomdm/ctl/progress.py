"""
How far a migration is, in a file, so that it can go on after an interruption.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final

from attrs import define, field

from nanomdm.errors import StorageError
from nanomdm.private import replace

#: Seconds between two writes.
_INTERVAL: Final = 1.0


@define
class Progress:
    """
    How far a migration is.

    @ivar path: the file; L{None} for none.
    @ivar source: the database, for people.
    @ivar target: the other server's URL.
    @ivar after: the id up to which all devices were tried.
    @ivar failed: of the devices that did not get through, why.
    """

    path: Path | None
    source: str
    target: str
    after: str | None = None
    failed: dict[str, list[str]] = field(factory=dict)
    _saved: float = field(default=float("-inf"), init=False)

    def load(self) -> None:
        """
        Go on where the file says, if there is one.

        @raise StorageError: it is no such file, or of another migration.
        """
        if self.path is None or not self.path.exists():
            return
        try:
            state: Any = json.loads(self.path.read_text("utf-8"))
            source, target = state["source"], state["target"]
            after, failed = state["after"], state["failed"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise StorageError(f"{self.path}: can not be read: {error}") from None
        if (source, target) != (self.source, self.target):
            raise StorageError(f"{self.path}: is of a migration from {source} to {target}")
        self.after, self.failed = after, failed

    def tried(self, device_id: str, problems: list[str]) -> None:
        """
        Note what became of a device.
        """
        if problems:
            self.failed[device_id] = problems
        else:
            self.failed.pop(device_id, None)

    def save(self, now: bool = True) -> None:
        """
        Write the file.

        @param now: otherwise only if it was not written for a while.
        """
        if self.path is None or (not now and time.monotonic() - self._saved < _INTERVAL):
            return
        state = {
            "source": self.source,
            "target": self.target,
            "after": self.after,
            "failed": self.failed,
        }
        # It tells which devices there are.
        replace(self.path, json.dumps(state, indent=1, ensure_ascii=False).encode())
        self._saved = time.monotonic()

    def finish(self) -> None:
        """
        Everything was tried: keep the file for what failed only.
        """
        if self.failed or self.path is None:
            self.save()
        else:
            self.path.unlink(missing_ok=True)
