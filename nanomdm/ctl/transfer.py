"""
C{nanomdmctl export} and C{nanomdmctl import}: everything of a database in a file.
"""

from __future__ import annotations

import gzip
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final, cast

import click

from nanomdm.ctl.database import failures, open_source, settings_of, storage_options
from nanomdm.private import create
from nanomdm.storage import export as exporting
from nanomdm.storage import importing
from nanomdm.storage.copying import Side
from nanomdm.storage.factory import engine_of, prepare_storage

#: Rows between two lines of progress.
_PROGRESS: Final = 20_000

_STANDARD_OUTPUT: Final = "-"
_PACKED: Final = ".gz"


@click.command()
@click.argument("file")
@storage_options
def export(file: str, storage: str, storage_dsn: str | None) -> None:
    """
    Write everything that a database holds to a file.

    FILE is readable by you alone, as it holds secrets; it is compressed if its
    name ends in .gz; "-" stands for standard output. What is written meanwhile is
    not in it.
    """
    with failures("--storage-dsn"):
        source = settings_of(storage, storage_dsn)
        connection = open_source(source)
    with closing(connection), failures(file), _written(file) as write:
        side = Side(engine_of(source, source.dsn), connection)
        side.begin_reading()
        counts = exporting.export(side, write, datetime.now(UTC), _Ticker())
    for table, count in counts.items():
        click.echo(f"{table}: {count} rows", err=True)
    click.echo(f"Exported {sum(counts.values())} rows.", err=True)


@click.command(name="import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@storage_options
def import_(file: Path, storage: str, storage_dsn: str | None) -> None:
    """
    Add everything that an exported file holds to a database.

    The file is checked first, and nothing is written if it is damaged. The
    database's tables are made or brought up to date. Rows that it has already stay
    as they are, so this can be repeated. Stop its servers meanwhile.
    """
    with failures(str(file)), _opened(file) as lines:
        total = sum(1 for _ in exporting.read(lines))
        with failures("--storage-dsn"):
            target = settings_of(storage, storage_dsn)
            prepare_storage(target)
            connection = engine_of(target, target.dsn).connect()
        with closing(connection), failures("stopped"):
            side = Side(engine_of(target, target.dsn), connection)
            lines.seek(0)
            for one in importing.load(exporting.read(lines), side, _Ticker()):
                there = one.rows - one.added
                click.echo(f"{one.table.name}: {one.added} rows imported, {there} were there")
    click.echo(f"The target has all {total} rows of the file.")


class _Ticker:
    """
    Says from time to time how far it is.
    """

    def __init__(self) -> None:
        self._due = ("", 0)

    def __call__(self, table: str, rows: int) -> None:
        if self._due[0] != table:
            self._due = (table, _PROGRESS)
        if rows >= self._due[1]:
            click.echo(f"{table}: {rows} rows ...", err=True)
            self._due = (table, rows + _PROGRESS)


@contextmanager
def _written(name: str) -> Iterator[Callable[[bytes], object]]:
    """
    Write a file that appears once it is whole.  A device or a pipe stays what it is, and
    so does a link.

    @return: writes bytes.
    """
    if name == _STANDARD_OUTPUT:
        yield sys.stdout.buffer.write
        sys.stdout.buffer.flush()
        return
    if Path(name).exists() and not Path(name).is_file():
        with open(name, "wb") as raw, _packed(raw, name) as file:
            yield file.write
        return
    target = Path(name).resolve()
    part = Path(f"{target}.part")
    try:
        with create(part) as raw:
            with _packed(raw, name) as file:
                yield file.write
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _packed(raw: IO[bytes], name: str) -> AbstractContextManager[IO[bytes]]:
    if name.endswith(_PACKED):
        # No name in it: it would be the one of the part.
        return cast("IO[bytes]", gzip.GzipFile(filename="", mode="wb", fileobj=raw))
    return nullcontext(raw)


def _opened(path: Path) -> IO[bytes]:
    if path.name.endswith(_PACKED):
        return cast("IO[bytes]", gzip.open(path, "rb"))
    return open(path, "rb")
