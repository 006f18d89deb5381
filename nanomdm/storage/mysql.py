"""
MySQL and MariaDB, through PyMySQL.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pymysql
from attrs import field, frozen

from nanomdm.storage.dialect import Cursor, format_style
from nanomdm.storage.engine import Trouble

#: Seconds to connect, without an answer to a statement, and to a ping.
_CONNECT_TIMEOUT: Final = 5
_ANSWER_TIMEOUT: Final = 30
_PING_TIMEOUT: Final = 3

#: Seconds that a statement waits for locks of rows and of tables.
_LOCK_TIMEOUT: Final = 5

#: What a session on a node of a Galera cluster waits for (C{wsrep_sync_wait}): before it
#: reads, updates, deletes or inserts, unless that goes on with a transaction, all that was
#: committed on any node.
_CAUSAL: Final = 1 | 2 | 4

#: Bytes of what MariaDB makes of many rows in one value; what is more it cuts off.
_LONGEST_ARRAY: Final = 2**26

# Error numbers ("Server Error Message Reference" and "Client Error Message
# Reference" of MySQL, "MariaDB Error Codes").
#: Lock wait timeout, deadlock, row changed since, locked (NOWAIT), group
#: replication or Galera undid it.
_RETRY: Final = frozenset({1205, 1213, 1020, 3572, 3101})
#: A foreign key constraint fails.
_ORPHAN: Final = frozenset({1452})
#: Closed, gone, out of step, shutting down, killed, idle for too long, or the
#: server could not read or write.
_LOST: Final = frozenset({0, 2006, 2013, 2014, 2055, 1053, 1927, 4031, *range(1158, 1162)})
#: Read-only: the server, the transaction, InnoDB or the table; a Galera node that is not
#: ready.
_READ_ONLY: Final = frozenset({1290, 1792, 1836, 1874, 1036, 1047})
_UNAVAILABLE: Final = frozenset(
    {
        # Out of disk or memory, file errors, table full, too many transactions.
        *(3, 28, 1021, 1026, 1030, 1037, 1038, 1041, 1114, 1135, 1637),
        # Too many connections, of a user, of a host with errors.
        *(1040, 1203, 1226, 1129),
        # Access: database, password, host, account, TLS.
        *(1044, 1045, 1049, 1130, 1251, 1698, 1820, 1862, 3118, 3159, 4151),
        # Stopped by the server or its administrator: took too long.
        *(1317, 1969, 3024),
        # No connection at all: socket, host, name, protocol, TLS.
        *(2002, 2003, 2005, 2007, 2026),
    }
)
_TOO_LARGE: Final = frozenset({1153, 1301, 1406})


class _Connection(pymysql.connections.Connection):
    """
    A connection whose patience with the server can be changed.
    """

    def wait_at_most(self, seconds: float) -> None:
        self._read_timeout = seconds

    def interrupt(self) -> None:
        sock: Any = self._sock  # type: ignore[attr-defined]
        if sock is not None:
            sock.shutdown(socket.SHUT_RDWR)


class MySQLDialect:
    """
    L{nanomdm.storage.dialect.Dialect} of MySQL and MariaDB.
    """

    rows_one_by_one = True
    # The newest row stays away from what other servers are inserting.
    forget_numbers: Sequence[str] = (
        "SET @nanomdm_newest = (SELECT MAX(value) FROM nanomdm_sequence)",
        "DELETE FROM nanomdm_sequence WHERE value < @nanomdm_newest - 10000 LIMIT 100000",
    )
    for_update = "FOR UPDATE"
    for_update_skip_locked = "FOR UPDATE SKIP LOCKED"
    ignore_primary_key = "IGNORE INDEX (PRIMARY)"

    def statement(self, sql: str) -> str:
        return format_style(sql)

    def on_conflict(self, keys: Sequence[str], assignments: Sequence[str]) -> str:
        nothing = [f"{keys[0]} = VALUES({keys[0]})"]
        return f"ON DUPLICATE KEY UPDATE {', '.join(assignments or nothing)}"

    def inserted(self, column: str) -> str:
        # Deprecated in MySQL, but the one form that MariaDB knows too.
        return f"VALUES({column})"

    def age(self, column: str) -> str:
        return f"TIMESTAMPDIFF(MICROSECOND, {column}, CURRENT_TIMESTAMP(6)) / 1e6"

    def unix_time(self, column: str) -> str:
        return f"UNIX_TIMESTAMP({column})"

    time_ago = "CURRENT_TIMESTAMP - INTERVAL ? SECOND"

    # Tables lie in the order of their keys.
    scan = "FORCE INDEX (PRIMARY)"

    def json_array(self, column: str) -> str:
        return f"JSON_ARRAYAGG({column})"

    unix_now = "UNIX_TIMESTAMP()"

    def random_below(self, count: int) -> str:
        return f"FLOOR(RAND() * {count})"

    def as_python_sorts(self, column: str) -> str:
        return f"CAST({column} AS BINARY)"

    def concatenated(self, *texts: str) -> str:
        return f"CONCAT({', '.join(texts)})"

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
        arguments = {
            "connect_timeout": _CONNECT_TIMEOUT,
            "write_timeout": _ANSWER_TIMEOUT,
            "charset": "utf8mb4",
            # An update that finds a row counts it, changed or not.
            "client_flag": pymysql.constants.CLIENT.FOUND_ROWS,
            **self.arguments,
        }
        # A server that accepts but does not greet is not there either.
        arguments["read_timeout"] = arguments["connect_timeout"]
        connection = _Connection(**arguments, autocommit=autocommit)
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            _wait_for_other_nodes(cursor)
            cursor.execute(
                f"SET SESSION innodb_lock_wait_timeout = {_LOCK_TIMEOUT},"
                f" lock_wait_timeout = {_LOCK_TIMEOUT},"
                f" group_concat_max_len = {_LONGEST_ARRAY}"
            )
        connection.wait_at_most(self._answer_timeout)
        return connection

    @property
    def _answer_timeout(self) -> float:
        seconds: float = self.arguments.get("read_timeout", _ANSWER_TIMEOUT)
        return seconds

    def connect_for_schema(self) -> Any:
        arguments = {
            "connect_timeout": _CONNECT_TIMEOUT,
            **self.arguments,
            # Building an index takes as long as it takes.
            **{"read_timeout": None, "write_timeout": None, "autocommit": True},
        }
        connection = pymysql.connect(**arguments)
        with connection.cursor() as cursor:
            _wait_for_other_nodes(cursor)
        return connection

    def ping(self, connection: Any) -> None:
        connection.wait_at_most(_PING_TIMEOUT)
        connection.ping(reconnect=False)
        connection.wait_at_most(self._answer_timeout)

    def interrupt(self, connection: Any) -> None:
        connection.interrupt()

    def trouble(self, error: BaseException) -> Trouble:
        if isinstance(error, pymysql.err.InterfaceError):
            return Trouble.LOST
        if not isinstance(error, pymysql.err.MySQLError):
            return Trouble.UNAVAILABLE if isinstance(error, OSError) else Trouble.OTHER
        if isinstance(error.__context__, TimeoutError):
            # The server may still be at it, and would take as long again.
            return Trouble.UNAVAILABLE
        code = error.args[0] if error.args else 0
        for codes, trouble in (
            (_RETRY, Trouble.RETRY),
            (_ORPHAN, Trouble.ORPHAN),
            (_LOST, Trouble.LOST),
            (_READ_ONLY, Trouble.READ_ONLY),
            (_UNAVAILABLE, Trouble.UNAVAILABLE),
            (_TOO_LARGE, Trouble.TOO_LARGE),
        ):
            if code in codes:
                return trouble
        return Trouble.OTHER


def _wait_for_other_nodes(cursor: Any) -> None:
    """
    Have a session on a node of a Galera cluster see what was committed on the others.
    """
    # Only some servers have the variable.
    cursor.execute("SHOW SESSION VARIABLES LIKE 'wsrep_on'")
    found = cursor.fetchone()
    if found is not None and found[1] == "ON":
        cursor.execute(f"SET SESSION wsrep_sync_wait = {_CAUSAL}")
