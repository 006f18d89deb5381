"""
The process's limit of open files, of which each connection is one.
"""

from __future__ import annotations

import resource
from contextlib import suppress
from typing import Final

from attrs import frozen

from nanomdm.http.limits import MAX_REFUSED

#: Files of the server that are no clients: databases, APNs, other servers.
_OTHERS: Final = 1000


@frozen
class Room:
    """
    What a site may have.

    @ivar connections: that are served at once.
    @ivar refused: beyond these, that are told why they are not served.
    """

    connections: int
    refused: int


def files_needed(connections: int) -> int:
    """
    @param connections: of clients that are served at once.
    @return: how many files the server has open then.
    """
    return connections + MAX_REFUSED + _OTHERS


def raise_limit(wanted: int) -> int:
    """
    Let the process have so many files open, as far as it may allow itself that.  What
    most systems begin with, 1024, is for programs that use C{select}.

    @return: how many it can have.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _reaches(soft, wanted):
        return wanted
    limit = wanted if _reaches(hard, wanted) else hard
    # Some systems have further limits than they tell.
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        return limit
    return soft


def room_for(connections: int, files: int) -> Room:
    """
    Divide the files among clients and everything else, so that clients never take what
    the server needs to work.

    @param connections: that are to be served at once.
    @param files: that can be open.
    """
    served = min(connections, max(files - MAX_REFUSED - _OTHERS, files * 5 // 8))
    return Room(served, min(MAX_REFUSED, max(files - served - _OTHERS, files // 8)))


def _reaches(limit: int, wanted: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= wanted
