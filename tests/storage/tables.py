"""
A bare storage, and looking into its tables behind its back.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from nanomdm.storage.database import Database
from nanomdm.storage.engine import PoolLimits
from nanomdm.storage.sql import SQLStorage
from nanomdm.storage.sqlite import SQLiteEngine
from nanomdm.storage.transaction import Transaction


def open_sqlite(reactor: Any, path: Path | None) -> SQLStorage:
    """
    Open a prepared database file, or one in memory, without upkeep.
    """
    database = Database(reactor, SQLiteEngine(path), PoolLimits(), shared=path is None)
    return SQLStorage(database, reactor)


_LOOKS = ("SELECT", "EXPLAIN", "SHOW")


def query(storage: SQLStorage, sql: str, *parameters: Any) -> Deferred[Any]:
    """
    Execute a statement, with C{?} for parameters.

    @return: the rows, or how many were changed.
    """

    def look(transaction: Transaction, batch: object) -> list[Any]:
        if sql.lstrip().startswith(_LOOKS):
            return [[tuple(row) for row in transaction.rows(sql, parameters)]]
        return [transaction.execute(sql, parameters)]

    return storage._database.write(look, None)
