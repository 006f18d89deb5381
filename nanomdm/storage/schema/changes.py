"""
What a database still lacks, and bringing it there: the part that is the same on
every engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from typing import Any, Final, Protocol

from attrs import frozen

from nanomdm.errors import ConfigError

#: Seconds to wait for another server that is changing the same database: an
#: index over millions of rows takes minutes.
LOCK_TIMEOUT: Final = 600.0

#: Seconds that a statement may wait for a table which others use.  Meanwhile
#: everybody who comes later waits behind it.
ALTER_TIMEOUT: Final = 10

_LOCK_INTERVAL: Final = 0.2


@frozen
class Change:
    """
    One step towards the current schema; it only ever adds.

    @ivar name: what it adds, such as C{index nanomdm_queue_next on enrollment_queue}.
    @ivar statements: the SQL that does it, without semicolons at the end.
    """

    name: str
    statements: tuple[str, ...]


class Engine(Protocol):
    """
    What each kind of database does in its own way.
    """

    def pending(self, connection: Any) -> list[Change]:
        """
        @return: what the database lacks, in the order in which it can be added.
        @raise ConfigError: it can not be brought to the current schema by
            additions.
        """
        ...

    def locked(self, connection: Any, timeout: float) -> AbstractContextManager[None]:
        """
        Keep every other server from changing the schema meanwhile.

        @param timeout: seconds to wait for it.
        @raise ConfigError: another one held the lock for longer than that.
        """
        ...

    def execute(self, connection: Any, statement: str) -> None:
        """
        Execute a statement of a change.
        """
        ...

    def blank(self) -> list[Change]:
        """
        @return: everything, as an empty database lacks it.
        """
        ...


def bring_up(engine: Engine, connection: Any, timeout: float) -> list[Change]:
    """
    Make all pending changes, unless another server is doing so: then wait for
    it and see what it left.

    @return: the changes that this call made.
    @raise ConfigError: see L{Engine}, or the database refused a change.
    """
    if not engine.pending(connection):
        return []
    with engine.locked(connection, timeout):
        changes = engine.pending(connection)
        for change in changes:
            _apply(engine, connection, change)
    return changes


def _apply(engine: Engine, connection: Any, change: Change) -> None:
    for statement in change.statements:
        try:
            engine.execute(connection, statement)
        except connection.Error as error:
            raise ConfigError(
                f"the database refused to add {change.name}: {reason(error)}"
            ) from error


def run(connection: Any, statement: str) -> None:
    """
    Execute a statement that returns nothing of interest.
    """
    cursor = connection.cursor()
    cursor.execute(statement)
    cursor.close()


def rows(connection: Any, query: str) -> list[tuple[Any, ...]]:
    """
    @return: all rows of a query.
    """
    cursor = connection.cursor()
    cursor.execute(query)
    found = [tuple(row) for row in cursor.fetchall()]
    cursor.close()
    return found


def wait_for(lock: Callable[[], bool], timeout: float) -> None:
    """
    Try to get a lock until that succeeds.

    @param timeout: seconds after which to give up.
    @raise ConfigError: it was given up.
    """
    deadline = time.monotonic() + timeout
    while not lock():
        if time.monotonic() >= deadline:
            raise ConfigError(
                "another server has been changing the tables of this database for more than"
                f" {timeout:g} seconds"
            )
        time.sleep(_LOCK_INTERVAL)


def release(connection: Any, *statements: str) -> None:
    """
    Let go of a lock.  Where that fails the connection is lost, and its lock and
    settings with it; what went wrong before is what must be told.
    """
    with suppress(connection.Error):
        for statement in statements:
            run(connection, statement)


def reason(error: Exception) -> str:
    """
    @return: what a driver's error says, in one line.
    """
    text = str(error.args[-1]) if error.args else str(error)
    return " ".join(text.partition("\n")[0].split()) or type(error).__name__


def script(changes: Iterable[Change]) -> str:
    """
    @return: the statements of the changes, as the engine's own shell runs them.
    """
    parts = []
    for change in changes:
        parts += [f"-- {change.name}", *(f"{statement};" for statement in change.statements), ""]
    return "\n".join(parts)
