"""
The tables of every engine: creating them, and bringing a database up to date.

Table and column names and their meanings are NanoMDM's, so that its databases
can be used in place.  What this server adds to them is additive: NanoMDM goes on
working beside it.  Connections are DB-API ones in autocommit mode, without a
limit on the time of a statement; everything here blocks, so it belongs before
the reactor runs.  C{kind} is C{sqlite}, C{mysql} (also MariaDB) or C{pgsql}.
"""

from __future__ import annotations

from typing import Any, Final

from nanomdm.errors import ConfigError
from nanomdm.storage.schema.changes import LOCK_TIMEOUT, Change, Engine, bring_up, script
from nanomdm.storage.schema.mysql import MySQL
from nanomdm.storage.schema.pgsql import PostgreSQL
from nanomdm.storage.schema.sqlite import SQLite

__all__ = ["Change", "ddl", "migrate", "pending", "require_current", "script"]

_ENGINES: Final[dict[str, Engine]] = {
    "sqlite": SQLite(),
    "mysql": MySQL(),
    "pgsql": PostgreSQL(),
}


def pending(connection: Any, kind: str) -> list[Change]:
    """
    Look what a database lacks, and change nothing.

    @return: the changes, in the order in which they can be made; all of the
        schema if the database is empty.
    @raise ConfigError: the database holds something that additions can not turn
        into the current schema.
    """
    return _ENGINES[kind].pending(connection)


def migrate(connection: Any, kind: str, timeout: float = LOCK_TIMEOUT) -> list[Change]:
    """
    Make the pending changes.  Servers that start together do it once, and a
    server that was killed in the middle is continued by the next one.

    @param timeout: seconds to wait for another server that is at it.
    @return: the changes that this call made.
    @raise ConfigError: as for L{pending}, or the database refused a change, or
        another server took too long.
    """
    return bring_up(_ENGINES[kind], connection, timeout)


def require_current(connection: Any, kind: str) -> None:
    """
    See that nothing is pending, for a server that may not alter tables.

    @raise ConfigError: it names every change that is missing.
    """
    changes = pending(connection, kind)
    if changes:
        names = ", ".join(change.name for change in changes)
        raise ConfigError(
            f"auto_migrate is off and the database lacks: {names}"
            " (nanomdmctl schema prints the statements)"
        )


def ddl(kind: str) -> str:
    """
    @return: a script that makes the whole schema in an empty database, for the
        engine's own shell.
    """
    return script(_ENGINES[kind].blank())
