"""
From settings to a storage: connect once, bring the schema up to date, then open
the pools.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from attrs import evolve

from nanomdm.crypto.vault import Vault
from nanomdm.errors import ConfigError
from nanomdm.interfaces import IStorage
from nanomdm.metrics.storage import StorageMetrics
from nanomdm.storage import schema
from nanomdm.storage.database import Database
from nanomdm.storage.dsn import parse_mysql, parse_postgres
from nanomdm.storage.engine import Engine, PoolLimits
from nanomdm.storage.mirror import Follower, MirroredStorage
from nanomdm.storage.settings import StorageSettings
from nanomdm.storage.sql import SQLStorage
from nanomdm.storage.sqlite import SQLiteEngine, prepare
from nanomdm.storage.upkeep import Upkeep


def open_storage(
    storages: Sequence[StorageSettings],
    reactor: Any,
    metrics: StorageMetrics | None = None,
    vault: Vault | None = None,
) -> IStorage:
    """
    Prepare and open the storages.  Blocks, so it belongs before the reactor runs.

    @param storages: the first answers, the others get the same writes.
    @param reactor: for pools, threads and time.
    @param metrics: of all of them.
    @param vault: for the secrets in all of them.
    @raise ConfigError: one can not be used; the text says which and why.
    """
    for settings in storages:
        prepare_storage(settings)
    seen = metrics or StorageMetrics()
    first, *others = (
        open_prepared(settings, reactor, seen, f"copy{number}" if number else "main", vault)
        for number, settings in enumerate(storages)
    )
    if not others:
        return first
    followers = [
        Follower(other, settings.shown, reactor)
        for other, settings in zip(others, storages[1:], strict=True)
    ]
    return MirroredStorage(first, followers)


def open_prepared(
    settings: StorageSettings,
    reactor: Any,
    metrics: StorageMetrics | None = None,
    name: str = "main",
    vault: Vault | None = None,
) -> SQLStorage:
    """
    Open one storage whose schema is up to date.

    @param name: its name in the metrics.
    """
    seen = metrics or StorageMetrics()
    options = settings.options
    limits = PoolLimits()
    if settings.kind in ("mysql", "pgsql"):
        limits = PoolLimits(
            options.pool_size, options.conn_max_lifetime, options.conn_max_idle_time
        )
    database = Database(
        reactor,
        engine_of(settings, settings.dsn),
        limits,
        shared=settings.kind == "inmem",
        metrics=seen.database(name),
        vault=vault,
    )
    replica = None
    if options.replica_dsn is not None:
        replica = Database(
            reactor,
            engine_of(settings, options.replica_dsn),
            evolve(limits, size=1),
            metrics=seen.database(f"{name}_replica"),
        )
    upkeep = Upkeep(
        database,
        reactor,
        retention=options.retention,
        delete_commands=options.delete or options.retention is not None,
        inspected=replica,
    )
    return SQLStorage(database, reactor, upkeep, delete=options.delete, replica=replica)


def engine_of(settings: StorageSettings, dsn: Path | str | None) -> Engine:
    """
    @return: the engine of a storage, at one of its addresses.
    """
    if isinstance(dsn, str):
        # Drivers are only needed where their database is.
        if settings.kind == "mysql":
            from nanomdm.storage.mysql import MySQLEngine

            return MySQLEngine(parse_mysql(dsn))
        from nanomdm.storage.pgsql import PostgreSQLEngine

        return PostgreSQLEngine(parse_postgres(dsn))
    return SQLiteEngine(dsn)


def prepare_storage(settings: StorageSettings) -> None:
    """
    Make or bring up to date the tables of a storage.  Blocks.

    @raise ConfigError: it can not be used; the text begins with the option.
    """
    if isinstance(settings.dsn, Path):
        prepare(settings.dsn)
    elif settings.dsn is not None:
        _prepare_server(settings, settings.dsn)


def _prepare_server(settings: StorageSettings, dsn: str) -> None:
    try:
        engine = engine_of(settings, dsn)
        with closing(engine.connect_for_schema()) as connection:
            if settings.options.auto_migrate:
                schema.migrate(connection, engine.kind)
            else:
                schema.require_current(connection, engine.kind)
    except ImportError as error:
        raise ConfigError(
            f"--storage: {settings.kind} needs a driver: pip install"
            f" 'nanomdm-twisted[{settings.kind}]' ({error})"
        ) from None
    except ConfigError as error:
        raise ConfigError(f"--storage-dsn: {settings.shown}: {error}") from None
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"--storage-dsn: {settings.shown}: {reason}") from None
