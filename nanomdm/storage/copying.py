"""
Everything in one database into another, of whatever kind.

Tables go one after the other, each after those that it refers to, in pages by
their primary keys.  What the target has already stays as it is.  The source is
read in one transaction, so that what it shows fits together whatever is written
there meanwhile.  Connections are DB-API ones; everything here blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from attrs import frozen

from nanomdm.errors import StorageError
from nanomdm.storage.engine import Engine
from nanomdm.storage.schema.tables import BASE, CERT_OWNERS, Column, Table
from nanomdm.storage.transaction import Transaction, flatten, marks

#: Each after those that it refers to.  Which pushes may have to be repeated, which
#: tokens are dead and which server does what are left behind: that is found out anew.
#: The webhook's events stay as well: from both databases they would be told twice.
TABLES: Final = (*BASE, CERT_OWNERS)

#: Zones whose clocks are never put back.
_CONSTANT: Final = frozenset({"UTC", "Etc/UTC", "Universal", "Zulu", "GMT", "Etc/GMT"})

#: Rows in a transaction; some may have many megabytes.
PAGE: Final = 200

_HIGHEST: Final = """
    SELECT max(n) FROM (SELECT max(nanomdm_seq) AS n FROM enrollment_queue
                         UNION ALL
                        SELECT max(nanomdm_seq) FROM cert_auth_associations) AS numbers
"""


@frozen
class _Words:
    """
    Where engines differ in what is copied.

    @ivar begin: begins a transaction that sees one moment.
    @ivar read: the time in a column, as UTC's.
    @ivar write: a parameter that is a time of UTC's.
    @ivar time: makes that parameter.
    """

    begin: Sequence[str]
    read: str = "{}"
    write: str = "?"
    time: Callable[[datetime], object] = lambda time: time


_WORDS: Final[Mapping[str, _Words]] = {
    "sqlite": _Words(("BEGIN",), time=lambda time: time.isoformat(" ", timespec="milliseconds")),
    "mysql": _Words(
        (
            "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
            "START TRANSACTION WITH CONSISTENT SNAPSHOT",
        ),
        # It would round up, into the future.
        time=lambda time: time.replace(microsecond=0),
    ),
    # Times without a zone are in the one that sessions get.
    "pgsql": _Words(
        ("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",),
        "{} AT TIME ZONE current_setting('TimeZone') AT TIME ZONE 'UTC'",
        "?::timestamp AT TIME ZONE 'UTC' AT TIME ZONE current_setting('TimeZone')",
    ),
}


@frozen
class Copied:
    """
    How much of a table was copied.

    @ivar read: rows of the source so far.
    @ivar added: those that the target did not have.
    """

    table: str
    read: int = 0
    added: int = 0


class Side:
    """
    One of the two databases.

    @param engine: its engine.
    @param connection: to it; the target's does not commit by itself.
    """

    def __init__(self, engine: Engine, connection: Any) -> None:
        self.words = _WORDS[engine.kind]
        self.kind = engine.kind
        self._begin_write = engine.begin_write
        self._connection = connection
        self.transaction = Transaction(connection.cursor(), engine.dialect)
        if self.kind == "mysql":
            self.transaction.execute("SET time_zone = '+00:00'")

    def begin_reading(self) -> None:
        """
        See everything as it is now, from now on.
        """
        for statement in self.words.begin:
            self.transaction.execute(statement)

    def begin_writing(self) -> None:
        """
        Begin a transaction that writes.
        """
        if self._begin_write is not None:
            self.transaction.execute(self._begin_write)

    def commit(self) -> None:
        """
        End it.
        """
        self._connection.commit()

    def pages(self, table: Table) -> Iterator[list[Any]]:
        """
        @return: all rows of a table, in pages; times are UTC's.
        """
        names = [column.name for column in table.columns]
        places = [names.index(name) for name in table.key]
        columns = ", ".join(map(self._read, table.columns))
        order = ", ".join(table.key)
        statement = f"SELECT {columns} FROM {table.name}{{}} ORDER BY {order} LIMIT {PAGE}"
        page = self.transaction.rows(statement.format(""))
        while page:
            yield page
            last = [page[-1][place] for place in places]
            condition, parameters = _after(table.key, last)
            page = self.transaction.rows(statement.format(f" WHERE {condition}"), parameters)

    def count(self, table: Table, keys: Sequence[Sequence[Any]] | None = None) -> int:
        """
        @return: how many rows there are, or how many of C{keys}.
        """
        statement = f"SELECT count(*) FROM {table.name}"
        if keys is not None:
            one, *more = table.key
            pairs = self.transaction.dialect.pairs
            condition = (
                pairs((one, more[0]), len(keys)) if more else f"{one} IN ({marks(len(keys))})"
            )
            statement += f" WHERE {condition}"
        count: int = self.transaction.row(statement, flatten(keys or ()))[0]
        return count

    def insert(self, table: Table, rows: Sequence[Sequence[Any]]) -> None:
        """
        Insert those rows that are not there.
        """
        names = ", ".join(column.name for column in table.columns)
        values = ", ".join(map(self._write, table.columns))
        there = self.transaction.dialect.on_conflict(table.key, ())
        converted = [self.kept(table, row) for row in rows]
        statement = f"INSERT INTO {table.name} ({names}) VALUES ({values}) {there}"
        self.transaction.execute_many(statement, converted)

    def kept(self, table: Table, row: Sequence[Any]) -> list[Any]:
        """
        @return: a row's values as this side keeps them, such as times that are less
            exact.
        """
        return [
            self._value(column, value) for column, value in zip(table.columns, row, strict=True)
        ]

    @property
    def keeps_times(self) -> bool:
        """
        Whether a time comes back as it went in.  PostgreSQL's are without a zone, in
        that of its sessions, which may have an hour twice.
        """
        if self.kind != "pgsql":
            return True
        zone: str = self.transaction.row("SHOW TimeZone")[0]
        return zone in _CONSTANT

    def continue_numbers(self) -> None:
        """
        Make the next number higher than all that were copied.
        """
        highest = self.transaction.row(_HIGHEST)[0]
        if not highest:
            return
        if self.kind == "pgsql":
            self.transaction.execute(
                "SELECT setval('nanomdm_sequence', greatest(?, last_value)) FROM nanomdm_sequence",
                (highest,),
            )
        else:
            self.transaction.insert_missing("nanomdm_sequence", ("value",), (), [(highest,)])

    def _read(self, column: Column) -> str:
        return self.words.read.format(column.name) if is_time(column) else column.name

    def _write(self, column: Column) -> str:
        return self.words.write if is_time(column) else "?"

    def _value(self, column: Column, value: Any) -> Any:
        if value is None:
            return None
        if is_time(column):
            return self.words.time(datetime_of(value))
        return bool(value) if column.type == "BOOLEAN" else value


def copy_table(source: Side, target: Side, table: Table) -> Iterator[Copied]:
    """
    Copy a table, a page in each transaction.

    @return: how far it is after each page, at least once.
    @raise StorageError: not all rows of a page are in the target then.
    """
    read = added = 0
    for page in all_pages(source, table):
        added += add_page(target, table, page)
        read += len(page)
        yield Copied(table.name, read, added)
    if not read:
        yield Copied(table.name)


def all_pages(source: Side, table: Table) -> Iterator[list[Any]]:
    """
    @return: all rows of a table, in pages; times are UTC's.
    @raise StorageError: they were not all.
    """
    read = 0
    for page in source.pages(table):
        read += len(page)
        yield page
    if source.count(table) != read:
        raise StorageError(f"{table.name}: not all rows of the source were read")


def add_page(target: Side, table: Table, page: Sequence[Sequence[Any]]) -> int:
    """
    Insert those rows that are not there, in a transaction.

    @param page: values of all columns, in their order.
    @return: how many rows were not there.
    @raise StorageError: not all rows are there then.
    """
    names = [column.name for column in table.columns]
    places = [names.index(name) for name in table.key]
    keys = [[row[place] for place in places] for row in page]
    target.begin_writing()
    before = target.count(table, keys)
    if before < len(page):
        target.insert(table, page)
    if target.count(table, keys) != len(page):
        raise StorageError(f"{table.name}: the target does not take all rows")
    target.commit()
    return len(page) - before


def finish(target: Side) -> None:
    """
    Prepare the target for new rows, once all tables are copied.
    """
    target.begin_writing()
    target.continue_numbers()
    target.commit()


def _after(key: Sequence[str], last: Sequence[Any]) -> tuple[str, list[Any]]:
    """
    @return: a condition, with its parameters, that a row is behind a key.
    """
    one, *more = key
    if not more:
        return f"{one} > ?", list(last)
    # Every engine goes straight to the first row in the index.
    return f"{one} >= ? AND ({one} > ? OR {more[0]} > ?)", [last[0], last[0], last[1]]


def is_time(column: Column) -> bool:
    """
    Whether a column holds times.
    """
    return column.type == "TIMESTAMP"


def datetime_of(value: datetime | str) -> datetime:
    """
    @param value: a time of UTC's, as a driver has it.
    @raise ValueError: it is none.
    """
    # SQLite keeps text.
    return value if isinstance(value, datetime) else datetime.fromisoformat(value)
