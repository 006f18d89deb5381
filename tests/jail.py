"""
Runs a command as systemd runs a service: with no other system calls than those in
a list.  It is a script of its own, needs libseccomp and the standard library, and is
called with the file of the list and the command.

A line of the list is the name of a system call.  The word C{deny-write-execute}
stands for C{MemoryDenyWriteExecute=yes}.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

LIBRARY = "libseccomp.so.2"

_ALLOW = 0x7FFF0000
_EPERM = 0x00050000 | 1
_MASKED_EQUAL = 7
_WRITE, _EXECUTE = 2, 4
# Which protections each of these may ask for: by its third argument.
_PROTECTING = {
    "mmap": [(_WRITE | _EXECUTE, value) for value in (0, _WRITE, _EXECUTE)],
    "mprotect": [(_EXECUTE, 0)],
    "pkey_mprotect": [(_EXECUTE, 0)],
}


class _Comparison(ctypes.Structure):
    _fields_ = [
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("mask", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
    ]


def confine(names: set[str]) -> None:
    """
    Allow nothing but some system calls to this process from now on.
    """
    seccomp = ctypes.CDLL(LIBRARY)
    seccomp.seccomp_init.restype = ctypes.c_void_p
    rules = ctypes.c_void_p(seccomp.seccomp_init(_EPERM))
    for name in sorted(names):
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            continue  # of another architecture
        if "deny-write-execute" in names and name in _PROTECTING:
            for mask, value in _PROTECTING[name]:
                comparison = (_Comparison * 1)(_Comparison(2, _MASKED_EQUAL, mask, value))
                seccomp.seccomp_rule_add_array(rules, _ALLOW, number, 1, comparison)
        else:
            seccomp.seccomp_rule_add_array(rules, _ALLOW, number, 0, None)
    if seccomp.seccomp_load(rules) != 0:
        raise SystemExit("jail: the rules can not be loaded")


if __name__ == "__main__":
    confine(set(Path(sys.argv[1]).read_text().split()))
    os.execv(sys.argv[2], sys.argv[2:])
