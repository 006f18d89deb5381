"""
Private throwaway database servers, made from the programs that the machine has.

A test takes the server that all tests of the process share, and has a database
of its own there::

    class MariaDBTests(TestCase):
        skip = unavailable("mariadb")

        def setUp(self):
            server = shared("mariadb")
            self.dsn = server.create_database("a_name")
            self.addCleanup(server.drop_database, "a_name")

A test that stops or kills a server takes the C{stoppable} one, and starts it again; or it
makes one for itself: C{ENGINES["mariadb"]()}, C{start}s and C{close}s it.
"""

from __future__ import annotations

import os
from functools import cache

from tests.servers.base import Server, ServerError
from tests.servers.mysql import MariaDB, MySQL
from tests.servers.postgres import PostgreSQL

__all__ = [
    "ENGINES",
    "MariaDB",
    "MySQL",
    "PostgreSQL",
    "Server",
    "ServerError",
    "shared",
    "stoppable",
    "unavailable",
]

ENGINES: dict[str, type[Server]] = {kind.engine: kind for kind in (MariaDB, MySQL, PostgreSQL)}


def unavailable(engine: str) -> str | None:
    """
    Tell whether the tests of an engine are to be skipped.

    @param engine: a key of L{ENGINES}.
    @return: why this machine can not run it, C{None} if it can.  Always C{None} where
        C{NANOMDM_REQUIRE_ENGINES} is 1: then the tests run, and fail for that reason.
    """
    if os.environ.get("NANOMDM_REQUIRE_ENGINES") == "1":
        return None
    return ENGINES[engine].missing()


@cache
def shared(engine: str) -> Server:
    """
    @param engine: a key of L{ENGINES}.
    @return: the running server of an engine that all tests of this process share.
    @raise ServerError: if it does not start.
    """
    server = ENGINES[engine]()
    server.start()
    return server


@cache
def stoppable(engine: str) -> Server:
    """
    As L{shared}, but another server.

    @return: one that tests may stop, and must start again.
    """
    server = ENGINES[engine]()
    server.start()
    return server
