"""
What the commands that open databases have in common.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from nanomdm.errors import ConfigError, MessageError, StorageError
from nanomdm.storage.factory import engine_of
from nanomdm.storage.schema import pending
from nanomdm.storage.schema.changes import reason
from nanomdm.storage.settings import StorageSettings, parse_dsn

#: The kinds of databases that outlive a process.
KIND: Final = click.Choice(["sqlite", "mysql", "pgsql"])


def storage_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """
    Give a command the options C{--storage} and C{--storage-dsn}.
    """
    dsn = click.option(
        "--storage-dsn",
        envvar="NANOMDM_STORAGE_DSN",
        help="Where it is. Better from NANOMDM_STORAGE_DSN if it holds a password.",
    )
    kind = click.option(
        "--storage",
        type=KIND,
        required=True,
        envvar="NANOMDM_STORAGE",
        help="Kind of the database; also from NANOMDM_STORAGE.",
    )
    return kind(dsn(command))


def settings_of(kind: str, dsn: str | None) -> StorageSettings:
    """
    @raise ConfigError: the DSN is bad.
    """
    return StorageSettings(kind=kind, dsn=parse_dsn(kind, dsn))


def connect_to_read(source: StorageSettings) -> Any:
    """
    @return: a connection that commits each statement and writes nothing.
    """
    if isinstance(source.dsn, Path):
        # Others would create a file that is not there.
        return sqlite3.connect(f"{source.dsn.as_uri()}?mode=ro", uri=True, isolation_level=None)
    return engine_of(source, source.dsn).connect(autocommit=True)


def open_source(source: StorageSettings) -> Any:
    """
    @return: a connection to a database that is up to date.
    @raise ConfigError: it is not.
    """
    connection = connect_to_read(source)
    try:
        lacking = ", ".join(change.name for change in pending(connection, source.kind))
        if lacking:
            raise ConfigError(
                f"the database lacks: {lacking} (starting the server on it once adds that;"
                " nanomdmctl schema prints the statements)"
            )
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def failures(prefix: str) -> Iterator[None]:
    """
    Turn what goes wrong into one line for the operator.

    @param prefix: begins that line.
    """
    try:
        yield
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except (ConfigError, MessageError, StorageError) as error:
        text = str(error).removeprefix("--storage-dsn: ").removeprefix(f"{prefix}: ")
        raise click.ClickException(f"{prefix}: {text}") from None
    except Exception as error:
        # Each driver has errors of its own, and may be missing itself.
        raise click.ClickException(f"{prefix}: {reason(error)}") from None
