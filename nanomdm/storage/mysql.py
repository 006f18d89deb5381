"""
MySQL and MariaDB, through PyMySQL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

import pymysql
from attrs import field, frozen

from nanomdm.storage.engine import Trouble
from nanomdm.storage.transaction import Cursor

#: Seconds to connect, and without an answer.
_CONNECT_TIMEOUT: Final = 5
_ANSWER_TIMEOUT: Final = 30

# MySQL's error numbers ("Server Error Message Reference").
_RETRY: Final = frozenset({1213, 1205, 1020, 3572})
_LOST: Final = frozenset({0, 2006, 2013, 2014, 2055, 1053, 1927, 4031})
_UNAVAILABLE: Final = frozenset(
    {1021, 1040, 1044, 1045, 1047, 1049, 1203, 1290, 1836, 1114, 1969, 2002, 2003, 3024, 3159}
)
_TOO_LARGE: Final = frozenset({1153, 1301, 1406})


class MySQLDialect:
    """
    L{nanomdm.storage.transaction.Dialect} of MySQL and MariaDB.
    """

    for_update = "FOR UPDATE"

    @staticmethod
    @cache
    def statement(sql: str) -> str:
        return sql.replace("?", "%s")

    def on_conflict(self, keys: Sequence[str], assignments: Sequence[str]) -> str:
        nothing = [f"{keys[0]} = VALUES({keys[0]})"]
        return f"ON DUPLICATE KEY UPDATE {', '.join(assignments or nothing)}"

    def inserted(self, column: str) -> str:
        # Deprecated in MySQL, but the one form that MariaDB knows too.
        return f"VALUES({column})"

    def age(self, column: str) -> str:
        return f"TIMESTAMPDIFF(MICROSECOND, {column}, CURRENT_TIMESTAMP(6)) / 1e6"

    def pairs(self, columns: tuple[str, str], count: int) -> str:
        # Row values in a list do not use an index on every version.
        return " OR ".join([f"({columns[0]} = ? AND {columns[1]} = ?)"] * count)

    def use_index(self, name: str) -> str:
        # It prefers the primary key, and then reads and sorts every row of an id.
        return f"FORCE INDEX ({name})"

    def next_number(self, cursor: Cursor) -> int:
        cursor.execute("INSERT INTO nanomdm_sequence () VALUES ()")
        cursor.execute("SELECT LAST_INSERT_ID()")
        number: int = cursor.fetchone()[0]
        return number


@frozen
class MySQLEngine:
    """
    L{nanomdm.storage.engine.Engine} of MySQL and MariaDB.

    @param arguments: for C{pymysql.connect}.
    """

    arguments: Mapping[str, Any] = field(repr=False)
    kind = "mysql"
    dialect = MySQLDialect()
    begin_write = None

    def connect(self, autocommit: bool = False) -> Any:
        defaults = {
            "connect_timeout": _CONNECT_TIMEOUT,
            "read_timeout": _ANSWER_TIMEOUT,
            "write_timeout": _ANSWER_TIMEOUT,
            "charset": "utf8mb4",
            # An update that finds a row counts it, changed or not.
            "client_flag": pymysql.constants.CLIENT.FOUND_ROWS,
        }
        connection: Any = pymysql.connect(
            **{**defaults, **self.arguments, "autocommit": autocommit}
        )
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            cursor.execute("SET SESSION innodb_lock_wait_timeout = 10")
        connection.commit()
        return connection

    def connect_for_schema(self) -> Any:
        arguments = {
            "connect_timeout": _CONNECT_TIMEOUT,
            **self.arguments,
            # Building an index takes as long as it takes.
            **{"read_timeout": None, "write_timeout": None, "autocommit": True},
        }
        return pymysql.connect(**arguments)

    def ping(self, connection: Any) -> None:
        connection.ping(reconnect=False)

    def trouble(self, error: BaseException) -> Trouble:
        if isinstance(error, pymysql.err.InterfaceError):
            return Trouble.LOST
        if not isinstance(error, pymysql.err.MySQLError):
            return Trouble.UNAVAILABLE if isinstance(error, OSError) else Trouble.OTHER
        code = error.args[0] if error.args else 0
        for codes, trouble in (
            (_RETRY, Trouble.RETRY),
            (_LOST, Trouble.LOST),
            (_UNAVAILABLE, Trouble.UNAVAILABLE),
            (_TOO_LARGE, Trouble.TOO_LARGE),
        ):
            if code in codes:
                return trouble
        return Trouble.OTHER
