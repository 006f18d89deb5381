"""
C{nanomdmctl copy}: for those who move to another database.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import click

from nanomdm.errors import ConfigError, StorageError
from nanomdm.storage.copying import TABLES, Side, copy_table, finish
from nanomdm.storage.factory import engine_of, prepare_storage
from nanomdm.storage.schema import pending
from nanomdm.storage.schema.changes import reason
from nanomdm.storage.settings import StorageSettings, parse_dsn

#: Rows between two lines of progress.
_PROGRESS: Final = 20_000

_KIND: Final = click.Choice(["sqlite", "mysql", "pgsql"])


@click.command()
@click.option(
    "--from-storage",
    type=_KIND,
    required=True,
    envvar="NANOMDM_FROM_STORAGE",
    help="Kind of the source; also from NANOMDM_FROM_STORAGE.",
)
@click.option(
    "--from-dsn",
    required=True,
    envvar="NANOMDM_FROM_DSN",
    help="Where it is. Better from NANOMDM_FROM_DSN if it holds a password.",
)
@click.option(
    "--to-storage",
    type=_KIND,
    required=True,
    envvar="NANOMDM_TO_STORAGE",
    help="Kind of the target; also from NANOMDM_TO_STORAGE.",
)
@click.option(
    "--to-dsn",
    required=True,
    envvar="NANOMDM_TO_DSN",
    help="Where it is. Better from NANOMDM_TO_DSN if it holds a password.",
)
def copy(from_storage: str, from_dsn: str, to_storage: str, to_dsn: str) -> None:
    """
    Copy everything from one database into another.

    The target's tables are made or brought up to date first. Rows that it has
    already stay as they are, so this can be repeated. Stop the servers of both
    databases meanwhile: what they write may not be copied.
    """
    with _failures("--from-dsn"):
        source = _settings(from_storage, from_dsn)
        reading = _open_source(source)
    with closing(reading):
        with _failures("--to-dsn"):
            target = _settings(to_storage, to_dsn)
            if target == source:
                raise ConfigError("names the source itself")
            prepare_storage(target)
            writing = engine_of(target, target.dsn).connect()
        with closing(writing), _failures("stopped"):
            _copy(
                Side(engine_of(source, source.dsn), reading),
                Side(engine_of(target, target.dsn), writing),
            )


def _settings(kind: str, dsn: str) -> StorageSettings:
    return StorageSettings(kind=kind, dsn=parse_dsn(kind, dsn))


def _open_source(source: StorageSettings) -> Any:
    """
    @return: a connection to a database that is up to date.
    """
    if isinstance(source.dsn, Path):
        # Others would create a file that is not there.
        connection: Any = sqlite3.connect(
            f"{source.dsn.as_uri()}?mode=ro", uri=True, isolation_level=None
        )
    else:
        connection = engine_of(source, source.dsn).connect(autocommit=True)
    lacking = ", ".join(change.name for change in pending(connection, source.kind))
    if lacking:
        connection.close()
        raise ConfigError(
            f"the database lacks: {lacking} (starting the server on it once adds that;"
            " nanomdmctl schema prints the statements)"
        )
    return connection


def _copy(source: Side, target: Side) -> None:
    source.begin_reading()
    total = 0
    for table in TABLES:
        due = _PROGRESS
        for copied in copy_table(source, target, table):
            if copied.read >= due:
                click.echo(f"{table.name}: {copied.read} rows ...", err=True)
                due += _PROGRESS
        there = copied.read - copied.added
        click.echo(f"{table.name}: {copied.added} rows copied, {there} were there")
        total += copied.read
    finish(target)
    click.echo(f"The target has all {total} rows of the source.")


@contextmanager
def _failures(prefix: str) -> Iterator[None]:
    """
    Turn what goes wrong into one line for the operator.
    """
    try:
        yield
    except (ConfigError, StorageError) as error:
        text = str(error).removeprefix("--storage-dsn: ")
        raise click.ClickException(f"{prefix}: {text}") from None
    except Exception as error:
        # Each driver has errors of its own, and may be missing itself.
        raise click.ClickException(f"{prefix}: {reason(error)}") from None
