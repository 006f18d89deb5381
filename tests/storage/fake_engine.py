"""
A database engine that does nothing, and fails when a test says so.
"""

from __future__ import annotations

from typing import Any

from nanomdm.storage.engine import Trouble
from nanomdm.storage.sqlite import SQLiteDialect


class Fault(Exception):
    """
    An error of the driver.
    """

    def __init__(self, trouble: Trouble, message: str = "a fault") -> None:
        super().__init__(message)
        self.trouble = trouble


class FakeCursor:
    """
    @ivar connection: where it belongs.
    @ivar closed: whether it was closed.
    """

    rowcount = 0
    closed = False

    def __init__(self, connection: FakeConnection) -> None:
        self.connection = connection

    def execute(self, sql: str, parameters: Any = ()) -> None:
        """
        Do nothing.
        """
        self.connection.check()

    def close(self) -> None:
        """
        Fail if the connection is dead, as some drivers do.
        """
        self.closed = True
        self.connection.check()


class FakeConnection:
    """
    @ivar dead: whether the other side is gone.
    @ivar commit_fault: what the next commit raises.
    """

    def __init__(self) -> None:
        self.pings = self.commits = self.rollbacks = 0
        self.dead = self.closed = self.interrupted = False
        self.commit_fault: Exception | None = None

    def check(self) -> None:
        """
        Fail if it is dead.
        """
        if self.dead:
            raise Fault(Trouble.LOST, "the connection is dead")

    def cursor(self) -> FakeCursor:
        """
        Notice nothing.
        """
        return FakeCursor(self)

    def commit(self) -> None:
        """
        Count it.
        """
        self.check()
        fault, self.commit_fault = self.commit_fault, None
        if fault is not None:
            raise fault
        self.commits += 1

    def rollback(self) -> None:
        """
        Count it.
        """
        self.check()
        self.rollbacks += 1

    def close(self) -> None:
        """
        End it, which does not work if it is dead.
        """
        self.check()
        self.closed = True


class FakeEngine:
    """
    L{nanomdm.storage.engine.Engine}.

    @ivar opened: the connections so far.
    @ivar tries: how often somebody wanted one.
    @ivar refusal: what opening one raises.
    """

    kind = "fake"
    dialect = SQLiteDialect()
    begin_write = None

    def __init__(self) -> None:
        self.opened: list[FakeConnection] = []
        self.tries = 0
        self.refusal: Exception | None = None

    def connect(self, autocommit: bool = False) -> FakeConnection:
        self.tries += 1
        if self.refusal is not None:
            raise self.refusal
        self.opened.append(FakeConnection())
        return self.opened[-1]

    connect_for_schema = connect

    def ping(self, connection: FakeConnection) -> None:
        connection.pings += 1
        connection.check()

    def interrupt(self, connection: FakeConnection) -> None:
        connection.check()
        connection.interrupted = True

    def trouble(self, error: BaseException) -> Trouble:
        return error.trouble if isinstance(error, Fault) else Trouble.OTHER
