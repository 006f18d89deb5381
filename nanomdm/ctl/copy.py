"""
C{nanomdmctl copy}: for those who move to another database.
"""

from __future__ import annotations

from contextlib import closing
from typing import Final

import click

from nanomdm.ctl.database import KIND, failures, open_source, settings_of
from nanomdm.errors import ConfigError
from nanomdm.storage.copying import TABLES, Side, copy_table, finish
from nanomdm.storage.factory import engine_of, prepare_storage

#: Rows between two lines of progress.
_PROGRESS: Final = 20_000


@click.command()
@click.option(
    "--from-storage",
    type=KIND,
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
    type=KIND,
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
    with failures("--from-dsn"):
        source = settings_of(from_storage, from_dsn)
        reading = open_source(source)
    with closing(reading):
        with failures("--to-dsn"):
            target = settings_of(to_storage, to_dsn)
            if target == source:
                raise ConfigError("names the source itself")
            prepare_storage(target)
            writing = engine_of(target, target.dsn).connect()
        with closing(writing), failures("stopped"):
            _copy(
                Side(engine_of(source, source.dsn), reading),
                Side(engine_of(target, target.dsn), writing),
            )


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
