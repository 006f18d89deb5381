"""
PostgreSQL, through psycopg 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import psycopg
from attrs import field, frozen

from nanomdm.storage.engine import Trouble
from nanomdm.storage.transaction import Cursor

_CONNECT_TIMEOUT: Final = 5
#: For the server: milliseconds that a statement may take and wait for locks.
_TIMEOUTS: Final = "-c statement_timeout=30000 -c lock_timeout=10000"

# SQLSTATEs (PostgreSQL, "Error Codes"), whole or by class.
_RETRY: Final = frozenset({"40001", "40P01", "55P03"})
_LOST: Final = frozenset({"57P01", "57P02", "57P03", "08"})
_UNAVAILABLE: Final = frozenset({"53", "57", "58", "25006", "28", "3D", "55"})
_TOO_LARGE: Final = frozenset({"22001", "54"})


class PostgreSQLDialect:
    """
    L{nanomdm.storage.transaction.Dialect} of PostgreSQL.
    """

    for_update = "FOR UPDATE"

    @staticmethod
    @cache
    def statement(sql: str) -> str:
        return sql.replace("?", "%s")

    def on_conflict(self, keys: Sequence[str], assignments: Sequence[str]) -> str:
        action = f"UPDATE SET {', '.join(assignments)}" if assignments else "NOTHING"
        return f"ON CONFLICT ({', '.join(keys)}) DO {action}"

    def inserted(self, column: str) -> str:
        return f"excluded.{column}"

    def age(self, column: str) -> str:
        return f"EXTRACT(EPOCH FROM (LOCALTIMESTAMP - {column}))"

    def pairs(self, columns: tuple[str, str], count: int) -> str:
        return f"({', '.join(columns)}) IN (VALUES {', '.join(['(?, ?)'] * count)})"

    def use_index(self, name: str) -> str:
        return ""

    def next_number(self, cursor: Cursor) -> int:
        cursor.execute("SELECT nextval('nanomdm_sequence')")
        number: int = cursor.fetchone()[0]
        return number


@frozen
class PostgreSQLEngine:
    """
    L{nanomdm.storage.engine.Engine} of PostgreSQL.

    @param conninfo: where, as libpq takes it.
    """

    conninfo: str = field(repr=False)
    kind = "pgsql"
    dialect = PostgreSQLDialect()
    begin_write = None

    def connect(self, autocommit: bool = False) -> Any:
        return self._connect(_TIMEOUTS, autocommit)

    def connect_for_schema(self) -> Any:
        return self._connect("", autocommit=True)

    def _connect(self, more_options: str, autocommit: bool) -> Any:
        given: dict[str, Any] = psycopg.conninfo.conninfo_to_dict(self.conninfo)
        given["options"] = f"{more_options} {given.get('options') or ''}".strip()
        given.setdefault("connect_timeout", _CONNECT_TIMEOUT)
        # Notices a peer that vanished without a word.
        given.setdefault("tcp_user_timeout", 30_000)
        return psycopg.connect(psycopg.conninfo.make_conninfo(**given), autocommit=autocommit)

    def ping(self, connection: Any) -> None:
        connection.execute("SELECT 1")
        if not connection.autocommit:
            connection.rollback()

    def trouble(self, error: BaseException) -> Trouble:
        if not isinstance(error, psycopg.Error):
            return Trouble.UNAVAILABLE if isinstance(error, OSError) else Trouble.OTHER
        state = error.sqlstate
        if state is None:
            return _without_state(error)
        for states, trouble in (
            (_RETRY, Trouble.RETRY),
            (_LOST, Trouble.LOST),
            (_UNAVAILABLE, Trouble.UNAVAILABLE),
            (_TOO_LARGE, Trouble.TOO_LARGE),
        ):
            if state in states or state[:2] in states:
                return trouble
        return Trouble.OTHER


def _without_state(error: psycopg.Error) -> Trouble:
    """
    The client's own errors have no SQLSTATE.
    """
    if isinstance(error, (psycopg.errors.ConnectionTimeout, psycopg.OperationalError)):
        # Nothing could be opened, or what was open broke.
        return Trouble.LOST
    return Trouble.OTHER
