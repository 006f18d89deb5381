"""
What commands print: tables for people, plain lines and JSON for programs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TextIO, TypeAlias

import click
from attrs import frozen
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nanomdm.log import printable

Item: TypeAlias = Mapping[str, Any]

#: Characters between two columns of a table.
_GAP: Final = 3


@frozen
class Column:
    """
    A column of a list.

    @ivar title: for people.
    @ivar value: what it says of an item: the name of a member, or a function.
    @ivar rank: where a terminal is too narrow, the columns with the highest one are
        left out first, and those with 0 never.
    """

    title: str
    value: str | Callable[[Item], object]
    rank: int = 0

    def of(self, item: Item) -> str:
        """
        @return: what stands in it.
        """
        found = item.get(self.value) if isinstance(self.value, str) else self.value(item)
        return readable(found)


def readable(value: object) -> str:
    """
    @return: a value of JSON for people, on one line, with nothing that a terminal
        obeys.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(readable, value))
    if isinstance(value, dict):
        return printable(json.dumps(value, ensure_ascii=False))
    return printable(str(value))


def echo(text: str) -> None:
    """
    Print a line on standard output, whatever its encoding.
    """
    click.echo(_encodable(text, sys.stdout))


def say(text: str) -> None:
    """
    Print a line on standard error.
    """
    click.echo(_encodable(printable(text), sys.stderr), err=True)


def print_json(document: object) -> None:
    """
    Print JSON.  All of it is ASCII: a terminal obeys nothing of it.
    """
    click.echo(json.dumps(document, indent=2))


def print_raw(data: bytes) -> None:
    """
    Print bytes as they are; on a terminal with nothing that it would obey.
    """
    if not sys.stdout.isatty():
        click.echo(data, nl=False)
        return
    for line in data.decode("utf-8", "replace").splitlines():
        echo(printable(line.expandtabs()))


def print_list(
    columns: Sequence[Column], items: Iterable[Item], nothing: str, as_json: bool
) -> None:
    """
    Print a list: as a JSON array; as a table on a terminal; otherwise as lines with
    tabs between the columns, as soon as they are there.

    @param nothing: what to say if it is empty.
    """
    if as_json:
        _print_array(items)
        return
    rows = ([column.of(item) for column in columns] for item in items)
    printed = (_print_table if sys.stdout.isatty() else _print_lines)(columns, rows)
    if not printed:
        say(nothing)


def print_item(item: Item, as_json: bool) -> None:
    """
    Print one object: as JSON, or as lines of a name and a value; the members of an
    object in it have names with a dot.
    """
    if as_json:
        print_json(item)
        return
    rows = list(_members(item))
    if not sys.stdout.isatty():
        for name, value in rows:
            echo(f"{name}\t{value}")
        return
    width = max((cell_len(name) for name, _ in rows), default=0)
    for name, value in rows:
        # The terminal folds what is too long for it: then it can be copied in one piece.
        padding = " " * (width - cell_len(name))
        echo(f"{click.style(name, bold=True)}{padding}  {value}")


def _members(item: Item, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in item.items():
        if isinstance(value, dict):
            yield from _members(value, f"{prefix}{printable(name)}.")
        else:
            yield prefix + printable(name), readable(value)


def _print_array(items: Iterable[Item]) -> None:
    """
    The items are printed as soon as they are there.
    """
    before = "[\n"
    for item in items:
        click.echo(before + json.dumps(item, indent=2), nl=False)
        before = ",\n"
    click.echo("[]" if before == "[\n" else "\n]")


def _print_lines(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> int:
    count = 0
    for row in rows:
        echo("\t".join(row))
        count += 1
    return count


def _print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> int:
    console = Console(highlight=False)
    cells = [[_encodable(value, sys.stdout) for value in row] for row in rows]
    if not cells:
        return 0
    places = _fitting(columns, cells, console.width)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place in places:
        table.add_column(columns[place].title, overflow="fold")
    for row in cells:
        table.add_row(*(Text(row[place]) for place in places))
    console.print(table)
    left_out = [columns[place].title for place in range(len(columns)) if place not in places]
    if left_out:
        say(f"Not shown, as the terminal is too narrow: {', '.join(left_out)}")
    return len(cells)


def _fitting(columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int) -> list[int]:
    """
    @return: the places of the columns that a terminal has room for.
    """
    titles = [column.title for column in columns]
    widths = [max(map(cell_len, cell)) for cell in zip(titles, *cells, strict=True)]
    places = list(range(len(columns)))
    while sum(widths[place] + _GAP for place in places) > width + 1:
        last = max(places, key=lambda place: columns[place].rank)
        if not columns[last].rank:
            break
        places.remove(last)
    return places


def _encodable(text: str, stream: TextIO) -> str:
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
