"""
What a database still lacks, and bringing it there: the part that is the same on
every engine.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from attrs import frozen

from nanomdm.errors import ConfigError

#: Seconds to wait for another server that is changing the same database: an
#: index over millions of rows takes minutes.
LOCK_TIMEOUT = 600


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
            _apply(connection, change)
    return changes


def _apply(connection: Any, change: Change) -> None:
    cursor = connection.cursor()
    for statement in change.statements:
        try:
            cursor.execute(statement)
        except connection.Error as error:
            raise ConfigError(
                f"the database refused to add {change.name}: {reason(error)}"
            ) from error
    cursor.close()


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
