"""
A server's name among those on one database.
"""

from __future__ import annotations

import os
import socket
from random import Random


def server_name(random: Random) -> str:
    """
    To be made once the process is the one that stays: twistd may fork.

    @return: a name that no other process has, which also tells people which one it is.
    """
    host = socket.gethostname().encode("ascii", "replace").decode()
    return f"{host[:100]} {os.getpid()} {random.getrandbits(64):016x}"
