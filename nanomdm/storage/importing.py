"""
An exported file into a database, of whatever kind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any, Final

from attrs import define

from nanomdm.errors import StorageError
from nanomdm.storage.copying import PAGE, Side, add_page, all_pages, finish, is_time
from nanomdm.storage.export import Row, row_line
from nanomdm.storage.schema.tables import Table

#: Bytes of lines in a transaction, about.
_PAGE_SIZE: Final = 1 << 24


@define
class Imported:
    """
    What became of the rows of a table.

    @ivar rows: how many the file has.
    @ivar added: those that were not there.
    """

    table: Table
    rows: int = 0
    added: int = 0


@define
class _Sum:
    """
    A checksum of rows in any order: databases sort differently.
    """

    without_times: bool
    rows: int = 0
    value: int = 0

    def add(self, table: Table, row: Iterable[Any]) -> None:
        if self.without_times:
            pairs = zip(table.columns, row, strict=True)
            row = [None if is_time(column) else value for column, value in pairs]
        digest = hashlib.sha256(row_line(table, row)).digest()
        self.rows += 1
        self.value = (self.value + int.from_bytes(digest)) % (1 << 256)


def load(
    rows: Iterable[Row], target: Side, progress: Callable[[str, int], object]
) -> Iterator[Imported]:
    """
    Add rows to a database, and read them again.  Rows that are there already stay
    as they are.

    @param rows: of a file that was seen to be whole.
    @param progress: told the table and its rows so far, from time to time.
    @return: what became of each table that has rows.
    @raise StorageError: the target does not have all of them then, or has them not
        as they are in the file.
    """
    without_times = not target.keeps_times
    for table, of_table in groupby(rows, key=lambda row: row.table):
        yield _load_table(table, of_table, target, _Sum(without_times), progress)
    finish(target)


def _load_table(
    table: Table,
    rows: Iterator[Row],
    target: Side,
    expected: _Sum,
    progress: Callable[[str, int], object],
) -> Imported:
    imported = Imported(table)
    was_empty = target.count(table) == 0
    for page in _pages(rows):
        imported.added += add_page(target, table, page)
        imported.rows += len(page)
        for row in page:
            expected.add(table, target.kept(table, row))
        progress(table.name, imported.rows)
    if was_empty:
        _verify(target, table, expected)
    return imported


def _pages(rows: Iterable[Row]) -> Iterator[list[list[Any]]]:
    page: list[list[Any]] = []
    size = 0
    for row in rows:
        page.append(row.values)
        size += row.size
        if len(page) >= PAGE or size >= _PAGE_SIZE:
            yield page
            page, size = [], 0
    if page:
        yield page


def _verify(target: Side, table: Table, expected: _Sum) -> None:
    found = _Sum(expected.without_times)
    for page in all_pages(target, table):
        for row in page:
            found.add(table, row)
    target.commit()
    if found != expected:
        raise StorageError(f"{table.name}: the target has not kept all rows as they are")
