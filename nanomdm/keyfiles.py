"""
Files with a key in each line.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from nanomdm.errors import ConfigError

#: Bytes of a file, at most.
_LARGEST: Final = 1 << 20


def others_can_read(path: Path) -> bool:
    """
    @return: whether a file's group or anybody can; not if that can not be told.  Blocks.
    """
    try:
        return bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
    except OSError:
        return False


def key_lines(path: Path, where: str) -> Iterator[tuple[str, str]]:
    """
    Read a file.  Empty lines and those that begin with C{#} are comments.  Blocks.

    @param where: the option and the path, for errors.
    @return: for each other line where it is, for errors, and the line.
    @raise ConfigError: it can not be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise ConfigError(f"{where}: {error.strerror or error}") from None
    if len(content) > _LARGEST:
        raise ConfigError(f"{where}: more than {_LARGEST} bytes")
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: is not UTF-8") from None
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield f"{where}: line {number}", line.strip()
