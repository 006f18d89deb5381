"""
Programs that some tests run, and that a machine may not have.
"""

from __future__ import annotations

import os
import shutil

# Where an ordinary user's PATH does not go.
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])


def program(name: str) -> str:
    """
    @return: the path of a program.
    """
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise FileNotFoundError(f"{name} is not installed")
    return found


def lacking(*names: str) -> str | None:
    """
    Tell whether the tests that run some programs are to be skipped.

    @return: why this machine can not run them, C{None} if it can.  Always C{None} where
        C{NANOMDM_REQUIRE_ENGINES} is 1: then the tests run, and fail for that reason.
    """
    if os.environ.get("NANOMDM_REQUIRE_ENGINES") == "1":
        return None
    missing = [name for name in names if shutil.which(name, path=_PATH) is None]
    return f"{', '.join(missing)} not installed" if missing else None
