"""
PostgreSQL, through psycopg 3.
"""

from __future__ import annotations

import math
import os
import re
import socket
from collections.abc import Generator
from typing import Any, Final, TypeVar

import psycopg
from attrs import field, frozen

from nanomdm.storage.dialect import Cursor, OnConflictDialect, format_style
from nanomdm.storage.engine import Trouble

#: Seconds to connect.
_CONNECT_TIMEOUT: Final = 5
#: Seconds without an answer to a statement, when the server did not keep to
#: L{_TIMEOUTS}, and to a ping; and those by which the first is longer than a
#: C{statement_timeout} of the DSN.
_ANSWER_TIMEOUT: Final = 35.0
_PING_TIMEOUT: Final = 3.0
_GRACE: Final = 5.0
#: For the server: milliseconds that a statement may take and wait for locks.
_TIMEOUTS: Final = "-c statement_timeout=30000 -c lock_timeout=5000"

_STATEMENT_TIMEOUT: Final = re.compile(r"-c\s*statement_timeout=([1-9]\d*)(ms|s|min)?(?!\S)")
_UNITS: Final = {"": 0.001, "ms": 0.001, "s": 1.0, "min": 60.0}

#: Seconds after which psycopg looks up while it waits.
_INTERVAL: Final = 0.1

# SQLSTATEs (PostgreSQL, "Error Codes"), whole or by class.
#: Serialization failure, deadlock, lock timeout.
_RETRY: Final = frozenset({"40001", "40P01", "55P03"})
#: Foreign key violation.
_ORPHAN: Final = frozenset({"23503"})
#: Connection failures, shutdown, crash, starting, idle for too long.
_LOST: Final = frozenset({"08", "57P01", "57P02", "57P03", "57P05", "25P03"})
_READ_ONLY: Final = frozenset({"25006"})
#: Resources, intervention and timeouts, system errors, login, no such database, wrong
#: state.
_UNAVAILABLE: Final = frozenset({"53", "57", "58", "25P04", "28", "3D", "55"})
_TOO_LARGE: Final = frozenset({"22001", "54"})

R = TypeVar("R")


class _Connection(psycopg.Connection[Any]):
    """
    A connection that may refuse to wait for a server that says nothing.

    @ivar patience: seconds.
    """

    patience = math.inf

    def wait(self, gen: Generator[Any, Any, R], *args: Any, **more: Any) -> R:
        """
        Wait for the end of an exchange with the server.

        @raise TimeoutError: the server says nothing any more.
        """
        try:
            result: R = super().wait(_patient(gen, self.patience), interval=_INTERVAL)
        except TimeoutError:
            # Whatever it says later answers nothing that is asked.
            self.close()
            raise
        return result


def _patient(gen: Generator[Any, Any, R], patience: float) -> Generator[Any, Any, R]:
    """
    What C{gen} does, until it waited too long for one thing.
    """
    silence, ready = 0.0, None
    try:
        while True:
            ready = yield gen.send(ready)
            # Nothing is what it is told at each interval.
            silence = 0.0 if ready else silence + _INTERVAL
            if silence > patience:
                raise TimeoutError(f"no answer within {patience:g} seconds")
    except StopIteration as end:
        result: R = end.value
        return result


class PostgreSQLDialect(OnConflictDialect):
    """
    L{nanomdm.storage.dialect.Dialect} of PostgreSQL.
    """

    for_update = "FOR UPDATE"
    for_update_skip_locked = "FOR UPDATE SKIP LOCKED"

    def statement(self, sql: str) -> str:
        return format_style(sql)

    def age(self, column: str) -> str:
        return f"EXTRACT(EPOCH FROM (LOCALTIMESTAMP - {column}))"

    def unix_time(self, column: str) -> str:
        return f"EXTRACT(EPOCH FROM CAST({column} AS TIMESTAMP WITH TIME ZONE))"

    time_ago = "LOCALTIMESTAMP - make_interval(secs => ?)"

    # Its statistics tell it when to.
    scan = ""

    def json_array(self, column: str) -> str:
        return f"CAST(json_agg({column}) AS TEXT)"

    # The time of the transaction's begin, as in L{age}.
    unix_now = "CAST(floor(EXTRACT(EPOCH FROM CURRENT_TIMESTAMP)) AS BIGINT)"

    def random_below(self, count: int) -> str:
        return f"CAST(floor(random() * {count}) AS BIGINT)"

    def as_python_sorts(self, column: str) -> str:
        return f'{column} COLLATE "C"'

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
        connection = self._connect(_TIMEOUTS, autocommit)
        connection.patience = self._answer_timeout
        return connection

    @property
    def _answer_timeout(self) -> float:
        given: dict[str, Any] = psycopg.conninfo.conninfo_to_dict(self.conninfo)
        said = _STATEMENT_TIMEOUT.findall(given.get("options") or "")
        if not said:
            return _ANSWER_TIMEOUT
        # The last one counts.
        count, unit = said[-1]
        return int(count) * _UNITS[unit] + _GRACE

    def connect_for_schema(self) -> Any:
        return self._connect("", autocommit=True)

    def _connect(self, more_options: str, autocommit: bool) -> Any:
        given: dict[str, Any] = psycopg.conninfo.conninfo_to_dict(self.conninfo)
        given["options"] = f"{more_options} {given.get('options') or ''}".strip()
        given.setdefault("connect_timeout", _CONNECT_TIMEOUT)
        # Notices a peer that vanished without a word.
        given.setdefault("tcp_user_timeout", 30_000)
        return _Connection.connect(psycopg.conninfo.make_conninfo(**given), autocommit=autocommit)

    def ping(self, connection: Any) -> None:
        connection.patience = _PING_TIMEOUT
        connection.execute("SELECT 1")
        if not connection.autocommit:
            connection.rollback()
        connection.patience = self._answer_timeout

    def interrupt(self, connection: Any) -> None:
        # A copy of the descriptor, as closing this socket must not close libpq's.
        with socket.socket(fileno=os.dup(connection.fileno())) as copy:
            copy.shutdown(socket.SHUT_RDWR)

    def trouble(self, error: BaseException) -> Trouble:
        if not isinstance(error, psycopg.Error):
            return Trouble.UNAVAILABLE if isinstance(error, OSError) else Trouble.OTHER
        state = error.sqlstate
        if state is None:
            # An error of the client: what was open broke.
            return Trouble.LOST if isinstance(error, psycopg.OperationalError) else Trouble.OTHER
        for states, trouble in (
            (_RETRY, Trouble.RETRY),
            (_ORPHAN, Trouble.ORPHAN),
            (_LOST, Trouble.LOST),
            (_READ_ONLY, Trouble.READ_ONLY),
            (_UNAVAILABLE, Trouble.UNAVAILABLE),
            (_TOO_LARGE, Trouble.TOO_LARGE),
        ):
            if state in states or state[:2] in states:
                return trouble
        return Trouble.OTHER
