"""
Runs a command as a user without privileges, to whom everything but one directory is
read-only.  It is a script of its own, needs the standard library and C{setpriv}, and is
called by root, in a mount namespace of its own, with the directory and the command.
"""

from __future__ import annotations

import ctypes
import os
import re
import stat
import sys
from pathlib import Path

#: A user and group that nobody has.
USER = 61184

_READ_ONLY, _REMOUNT, _BIND = 1, 32, 4096
_ROOT = Path(__file__).parent.parent


def mount(source: str, target: Path, flags: int, kind: str | None = None) -> None:
    """
    What L{mount(2)} does.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    names = [None if name is None else os.fsencode(name) for name in (source, target, kind)]
    if libc.mount(*names, ctypes.c_ulong(flags), b"mode=755" if kind == "tmpfs" else None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


def closed_above(path: Path) -> Path | None:
    """
    @return: the directory above through which only its owner gets, such as C{/root}.
    """
    for above in reversed(path.parents):
        if above.exists() and not above.stat().st_mode & stat.S_IXOTH:
            return above
    return None


def open_up(paths: list[Path]) -> None:
    """
    Let everybody get to some directories, and to nothing else that is beside them.
    """
    handles = {path: os.open(path, os.O_PATH) for path in sorted(paths) if closed_above(path)}
    for path, handle in handles.items():
        # One of these directories may be in another, behind one more that is closed.
        while above := closed_above(path):
            mount("tmpfs", above, 0, "tmpfs")
        path.mkdir(parents=True, exist_ok=True)
        mount(f"/proc/self/fd/{handle}", path, _BIND)
        os.close(handle)


def make_read_only() -> None:
    """
    So far as there is something mounted.
    """
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), line.split()[4])
        try:
            mount("none", Path(point), _BIND | _REMOUNT | _READ_ONLY)
        except OSError:
            continue  # hidden by another, or not for us to change


def confine(directory: Path) -> None:
    """
    Leave one directory to write in.
    """
    open_up([_ROOT, Path(sys.prefix), Path(sys.base_prefix), directory])
    make_read_only()
    mount(str(directory), directory, _BIND)
    mount("none", directory, _BIND | _REMOUNT)
    for path in (directory, *directory.rglob("*")):
        os.chown(path, USER, USER)
    os.chdir(directory)


if __name__ == "__main__":
    confine(Path(sys.argv[1]))
    ids = [f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    os.execvp("setpriv", ["setpriv", *ids, "--no-new-privs", "--", *sys.argv[2:]])
