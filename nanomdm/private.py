"""
Files and directories that hold secrets: for their owner alone, whatever the umask is.
"""

from __future__ import annotations

import os
from io import BufferedWriter
from pathlib import Path
from typing import Final

#: The mode of a file that holds a secret, and that of one that others may read.
PRIVATE: Final = 0o600
PUBLIC: Final = 0o644

_DIRECTORY: Final = 0o700


def private_directory(path: Path) -> None:
    """
    Make a directory, and those above it that are missing.

    @raise OSError: that is not possible.
    """
    for above in reversed(path.parents):
        if not above.exists():
            above.mkdir(mode=_DIRECTORY, exist_ok=True)
    path.mkdir(mode=_DIRECTORY, exist_ok=True)


def create(path: Path, mode: int = PRIVATE) -> BufferedWriter:
    """
    Begin a new file, in place of one that an interrupted attempt left.

    @return: writes it.
    @raise OSError: that is not possible.
    """
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb")


def replace(path: Path, content: bytes, mode: int = PRIVATE) -> None:
    """
    Write a file that is there as a whole, or as it was before.

    @raise OSError: that is not possible.
    """
    part = Path(f"{path}.part")
    with create(part, mode) as file:
        file.write(content)
    part.replace(path)


def append(path: Path) -> BufferedWriter:
    """
    Go on with a file, which is made if it is missing.

    @raise OSError: that is not possible.
    """
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE), "ab")
