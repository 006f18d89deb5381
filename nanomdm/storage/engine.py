"""
What a database engine is to the storage: how to connect, and what its errors
mean.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Protocol

from attrs import define

from nanomdm.storage.dialect import Dialect


class Trouble(Enum):
    """
    What to make of an error.
    """

    #: A deadlock or the like: the same transaction may well succeed again.
    RETRY = "retry"
    #: What a new row refers to was deleted meanwhile; the same transaction may well
    #: notice that from its beginning.
    ORPHAN = "orphan"
    #: The connection is gone; a new one may work.
    LOST = "lost"
    #: This server may not write, such as one that was the primary; a new connection may
    #: lead to one that may.
    READ_ONLY = "read-only"
    #: The database can not serve at present, or not in time.
    UNAVAILABLE = "unavailable"
    #: A value does not fit.
    TOO_LARGE = "too large"
    #: A bug, or data that the tables do not allow.
    OTHER = "other"


class Engine(Protocol):
    """
    One database on one engine.
    """

    @property
    def kind(self) -> str:
        """
        The name in C{--storage}.
        """
        ...

    @property
    def dialect(self) -> Dialect:
        """
        Its SQL.
        """
        ...

    @property
    def begin_write(self) -> str | None:
        """
        Starts a transaction that will write; L{None} where the driver does it by
        itself.
        """
        ...

    def connect(self, autocommit: bool = False) -> Any:
        """
        Open a connection.  Blocks.

        @param autocommit: each statement is a transaction of its own.
        """
        ...

    def connect_for_schema(self) -> Any:
        """
        Open a connection that commits each statement and waits for it as long
        as it takes.  Blocks.
        """
        ...

    def ping(self, connection: Any) -> None:
        """
        Raise unless a connection still works.  Blocks, but not for long.
        """
        ...

    def interrupt(self, connection: Any) -> None:
        """
        Make fail soon what another thread does with a connection.
        """
        ...

    def trouble(self, error: BaseException) -> Trouble:
        """
        @return: what to make of an error of the driver.
        """
        ...


@define
class PoolLimits:
    """
    How connections are kept.

    @ivar size: how many at the most.
    @ivar max_lifetime: seconds after which one is replaced; L{None} for never.
    @ivar max_idle_time: seconds unused after which one is replaced; L{None} for
        never.
    @ivar ping_after: seconds unused after which one is tried before it is used.
    """

    size: int = 1
    max_lifetime: float | None = None
    max_idle_time: float | None = None
    ping_after: float = 5.0
