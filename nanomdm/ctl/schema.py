"""
C{nanomdmctl schema}: the tables as SQL, for sites whose server may not alter
them.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import click

from nanomdm.ctl.database import connect_to_read, storage_options
from nanomdm.errors import ConfigError
from nanomdm.storage.factory import engine_of
from nanomdm.storage.schema import Change, ddl, pending, script
from nanomdm.storage.schema.changes import reason
from nanomdm.storage.settings import StorageSettings, parse_dsn


@click.command()
@storage_options
@click.option("--full", is_flag=True, help="The whole schema; connects to no database.")
def schema(storage: str, storage_dsn: str | None, full: bool) -> None:
    """
    Print, as SQL, what a database lacks for this server; change nothing.

    The output is for mysql, psql or sqlite3. Statements with ALGORITHM or
    CONCURRENTLY can run while devices connect.
    """
    if full:
        click.echo(ddl(storage), nl=False)
        return
    try:
        changes = _pending(storage, storage_dsn)
    except ConfigError as error:
        raise click.ClickException(f"--storage-dsn: {error}") from None
    if changes:
        click.echo(script(changes), nl=False)
    else:
        click.echo("Nothing is pending.", err=True)


def _pending(kind: str, given: str | None) -> list[Change]:
    """
    @raise ConfigError: the DSN is bad, the database can not be reached or read, or
        holds something else.
    """
    dsn = parse_dsn(kind, given)
    try:
        with closing(_connect(kind, dsn)) as connection:
            return pending(connection, kind)
    except ConfigError:
        raise
    except Exception as error:
        # Each driver has errors of its own, and may be missing itself.
        raise ConfigError(reason(error)) from None


def _connect(kind: str, dsn: Path | str | None) -> Any:
    settings = StorageSettings(kind=kind, dsn=dsn)
    if isinstance(dsn, Path):
        return connect_to_read(settings)
    return engine_of(settings, dsn).connect_for_schema()
