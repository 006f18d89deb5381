"""
Comparing a MySQL or PostgreSQL database with what it should hold.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from attrs import Factory, evolve, frozen

from nanomdm.errors import ConfigError
from nanomdm.storage.schema.changes import Change, rows, run
from nanomdm.storage.schema.tables import BASE, OWN, VIEW, Column, Index, Table


@frozen
class Present:
    """
    What a database holds.

    @ivar columns: the columns of each table and view.
    @ivar indexes: of each table the columns of its indexes, by name.
    @ivar broken: names of indexes whose building was interrupted.
    @ivar partial: names of indexes that have some of the rows only.
    @ivar touched: tables whose C{updated_at} a trigger keeps up.
    @ivar has_function: whether the function of such triggers is there.
    @ivar filled: whether a table has rows.
    """

    columns: Mapping[str, Sequence[str]] = Factory(dict)
    indexes: Mapping[str, Mapping[str, Sequence[str]]] = Factory(dict)
    broken: frozenset[str] = frozenset()
    partial: frozenset[str] = frozenset()
    touched: frozenset[str] = frozenset()
    has_function: bool = False
    filled: Callable[[str], bool] = lambda table: False

    def has_index(self, table: str, index: Index) -> bool:
        """
        Whether a table has an index of this name, or another one on the same
        columns: sites make their own, under other names.
        """
        if index.where is not None:
            return index.name in self.partial
        there = self.indexes.get(table, {})
        return index.name in there or index.plain in map(tuple, there.values())


class ServerEngine(ABC):
    """
    The part of L{nanomdm.storage.schema.changes.Engine} that compares.

    @cvar creates_indexes: whether C{CREATE TABLE} makes the indexes too.
    @cvar table_options: what follows the parentheses of C{CREATE TABLE}.
    """

    creates_indexes: bool
    table_options: str

    def __init__(self, base: Sequence[Table], words: Mapping[str, str]) -> None:
        """
        @param base: NanoMDM's tables as this engine has them.
        @param words: what stands for the words in braces.
        """
        self._base: Final = base
        self._words: Final = words

    @abstractmethod
    def look(self, connection: Any) -> Present:
        """
        @return: what the database holds.
        """

    @abstractmethod
    def add_column(self, table: Table, column: Column) -> str:
        """
        @return: SQL that adds a column without reading or copying the table.
        """

    @abstractmethod
    def add_index(self, table: Table, index: Index, present: Present) -> tuple[str, ...]:
        """
        @return: SQL that adds an index while others read and write the table.
        """

    @abstractmethod
    def extras(self, present: Present) -> Iterator[Change]:
        """
        @return: what else this engine needs, beside tables and the view.
        """

    def pending(self, connection: Any) -> list[Change]:
        """
        @return: what the database lacks, in the order in which it can be added.
        @raise ConfigError: it holds some of NanoMDM's tables, but not all that
            can not be added.
        """
        present = self.look(connection)
        self._require_whole(present)
        return self._compare(present)

    def execute(self, connection: Any, statement: str) -> None:
        """
        Execute a statement of a change.
        """
        run(connection, statement)

    def blank(self) -> list[Change]:
        """
        @return: everything, as an empty database lacks it.
        """
        return self._compare(Present())

    def create(self, table: Table) -> str:
        """
        @return: SQL that makes a table.
        """
        lines = [column.definition for column in table.columns]
        lines.append(f"PRIMARY KEY ({', '.join(table.key)})")
        lines += [f"UNIQUE ({column})" for column in table.unique]
        lines += [f"CHECK ({column.check})" for column in table.columns if column.check]
        lines += [
            f"FOREIGN KEY ({', '.join(reference.columns)})"
            f" REFERENCES {reference.table} ({', '.join(reference.target)})"
            " ON DELETE CASCADE ON UPDATE CASCADE"
            for reference in table.references
        ]
        if self.creates_indexes:
            lines += [f"INDEX {index.name} ({', '.join(index.columns)})" for index in table.indexes]
        body = ",\n    ".join(map(self.words, lines))
        return f"CREATE TABLE {table.name} (\n    {body}\n){self.table_options}"

    def words(self, text: str) -> str:
        """
        Put this engine's words for those in braces.
        """
        return text.format_map(self._words)

    def _compare(self, present: Present) -> list[Change]:
        changes: list[Change] = []
        for table in (*self._base, *OWN):
            changes += self._compare_table(table, present)
        if "view_queue" not in present.columns:
            changes.append(Change("view view_queue", (VIEW,)))
        return [*changes, *self.extras(present)]

    def _compare_table(self, table: Table, present: Present) -> Iterator[Change]:
        there = present.columns.get(table.name)
        if there is None:
            yield Change(f"table {table.name}", (self.create(table),))
            if self.creates_indexes:
                return
        else:
            for column in table.columns:
                if column.name not in there:
                    name = f"column {column.name} of {table.name}"
                    yield Change(name, (self.add_column(table, column),))
        for index in table.indexes:
            if not present.has_index(table.name, index):
                name = f"index {index.name} on {table.name}"
                yield Change(name, self.add_index(table, index, present))

    def _require_whole(self, present: Present) -> None:
        lacking: list[str] = []
        missing = [table.name for table in self._base if table.name not in present.columns]
        if 0 < len(missing) < len(self._base) and not self._interrupted(len(missing), present):
            lacking += [f"table {name}" for name in missing]
        for table in (*self._base, *OWN):
            there = present.columns.get(table.name)
            lacking += [
                f"column {column.name} of {table.name}"
                for column in table.columns
                if there is not None and column.name not in there and not column.addable
            ]
        if lacking:
            raise ConfigError(
                "the database has tables with the names of NanoMDM's, but not all that belongs"
                f" to them; it lacks: {', '.join(lacking)}"
            )

    def _interrupted(self, missing: int, present: Present) -> bool:
        """
        Whether the tables are what an interrupted creation leaves: the first ones,
        without any row.
        """
        made = [table.name for table in self._base[: len(self._base) - missing]]
        return all(name in present.columns for name in made) and not any(map(present.filled, made))


def filled(connection: Any, table: str) -> bool:
    """
    @return: whether a table has rows.
    """
    [(found,)] = rows(connection, f"SELECT EXISTS (SELECT 1 FROM {table})")
    return bool(found)


def with_indexes(indexes: Mapping[str, tuple[Index, ...]]) -> tuple[Table, ...]:
    """
    @param indexes: for some tables the indexes that one engine has on them.
    @return: NanoMDM's tables with these.
    """
    return tuple(evolve(table, indexes=indexes.get(table.name, ())) for table in BASE)
