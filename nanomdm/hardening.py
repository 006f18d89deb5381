"""
What the process does so that others on its machine learn nothing from it.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from twisted.logger import Logger

_log: Final = Logger(namespace="nanomdm")

#: Of L{prctl(2)<https://man7.org/linux/man-pages/man2/PR_SET_DUMPABLE.2const.html>}.
_PR_SET_DUMPABLE: Final = 4

#: The files that the process makes are its user's alone, unless C{--umask} says else.
_UMASK: Final = 0o077


def harden(twistd: Mapping[str, Any], reactor: Any) -> None:
    """
    Make no core dumps, and no files that others can read: at once, and again when the
    process has become the user that it stays.

    @param twistd: twistd's own options.
    """
    umask = twistd.get("umask")
    os.umask(_UMASK if umask is None else umask)
    forbid_core_dumps()
    reactor.callWhenRunning(_settled)


def forbid_core_dumps() -> None:
    """
    A dump would hold keys and tokens.

    The limit is about files.  Where the kernel hands dumps to a program, that runs
    whatever the limit is; a process that is not dumpable has none at all, and nobody but
    root can read its memory while it runs, not even its own user.
    """
    # Where a filter of system calls forbids it, the service manager has set the limit.
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl
        prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
        prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if resource.getrlimit(resource.RLIMIT_CORE)[0] != 0:
        _log.warn("core dumps can not be switched off, they hold secrets")


def _settled() -> None:
    # Becoming another user takes the flag back where fs.suid_dumpable is not 0.
    forbid_core_dumps()
    if os.geteuid() == 0:
        _log.warn("the server runs as root, which it need not: a service has User=, twistd --uid")
