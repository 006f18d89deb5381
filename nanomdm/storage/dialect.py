"""
Where the engines' SQL differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol


class Cursor(Protocol):
    """
    The part of a DB-API cursor that is used here.
    """

    rowcount: int

    def execute(self, sql: str, parameters: Sequence[Any] = ...) -> Any: ...

    def executemany(self, sql: str, parameters: Sequence[Sequence[Any]]) -> Any: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> Any: ...


class Dialect(Protocol):
    """
    Where the engines' SQL differs.  Everything else stands once, in the modules
    of its concerns.
    """

    @property
    def rows_one_by_one(self) -> bool:
        """
        Whether C{executemany} waits for the server after each row, unless it is a plain
        C{INSERT}.
        """
        ...

    @property
    def for_update(self) -> str:
        """
        The end of a C{SELECT} that locks its rows; nothing where a writer has
        the whole database.
        """
        ...

    @property
    def for_update_skip_locked(self) -> str:
        """
        As L{for_update}, but rows that somebody else has locked are left out.
        """
        ...

    def statement(self, sql: str) -> str:
        """
        @return: C{sql} with the driver's placeholders for C{?}.
        """
        ...

    def on_conflict(self, keys: Sequence[str], assignments: Sequence[str]) -> str:
        """
        @param keys: the columns of the unique key.
        @param assignments: what to do with the row that is there; nothing when
            empty.
        @return: the end of an C{INSERT}.
        """
        ...

    def inserted(self, column: str) -> str:
        """
        @return: the value that the C{INSERT} meant for C{column}.
        """
        ...

    def age(self, column: str) -> str:
        """
        @return: seconds since the time in C{column}.
        """
        ...

    def unix_time(self, column: str) -> str:
        """
        @return: the time in C{column} as Unix seconds, perhaps with a fraction.
        """
        ...

    @property
    def time_ago(self) -> str:
        """
        With a C{?} for seconds, a float: the time so long ago, to compare columns with.
        """
        ...

    @property
    def scan(self) -> str:
        """
        Behind a table's name: read it as it lies, where the engine would go through an
        index from row to row, which takes longest when few of them are wanted.
        """
        ...

    def json_array(self, column: str) -> str:
        """
        @return: an aggregate: the values of C{column} as a JSON array, in any order;
            nothing or NULL when there are none.
        """
        ...

    @property
    def unix_now(self) -> str:
        """
        The present time by the database's clock, in whole seconds since 1970.
        """
        ...

    def random_below(self, count: int) -> str:
        """
        @return: a random whole number from 0 to less than C{count}, for each row
            another one.
        """
        ...

    def as_python_sorts(self, column: str) -> str:
        """
        @return: for C{ORDER BY}: text in the order of its characters' numbers,
            whatever the column's collation.
        """
        ...

    def concatenated(self, *texts: str) -> str:
        """
        @return: several texts as one.
        """
        ...

    def pairs(self, columns: tuple[str, str], count: int) -> str:
        """
        @return: a condition: the two columns are one of C{count} pairs.
        """
        ...

    def use_index(self, name: str) -> str:
        """
        @return: behind a table's name: look there with this index, where the
            engine would not choose it by itself.
        """
        ...

    @property
    def ignore_primary_key(self) -> str:
        """
        Behind a table's name: do not look there with the primary key, where the engine
        might for the sake of its order.
        """
        ...

    def next_number(self, cursor: Cursor) -> int:
        """
        @return: a number that is higher than all before it.
        """
        ...

    @property
    def forget_numbers(self) -> Sequence[str]:
        """
        Statements that delete what L{next_number} left behind.
        """
        ...


class OnConflictDialect:
    """
    What SQLite and PostgreSQL have in common.
    """

    rows_one_by_one = False
    forget_numbers: Sequence[str] = ()
    ignore_primary_key = ""

    def on_conflict(self, keys: Sequence[str], assignments: Sequence[str]) -> str:
        action = f"UPDATE SET {', '.join(assignments)}" if assignments else "NOTHING"
        return f"ON CONFLICT ({', '.join(keys)}) DO {action}"

    def inserted(self, column: str) -> str:
        return f"excluded.{column}"

    def concatenated(self, *texts: str) -> str:
        return " || ".join(texts)

    def pairs(self, columns: tuple[str, str], count: int) -> str:
        return f"({', '.join(columns)}) IN (VALUES {', '.join(['(?, ?)'] * count)})"

    def use_index(self, name: str) -> str:
        return ""


@lru_cache(maxsize=1024)
def format_style(sql: str) -> str:
    """
    @return: C{sql} for drivers whose placeholder is C{%s}.
    """
    return sql.replace("?", "%s")
