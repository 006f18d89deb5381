"""
Looking into a storage's tables behind its back.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from nanomdm.storage.sql import SQLStorage
from nanomdm.storage.transaction import Transaction

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
