"""
The options of the commands that read secrets in databases: whose they are, and the keys.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
from attrs import frozen

from nanomdm.config import from_environment, from_file, from_flags, resolve
from nanomdm.crypto.secretkeys import parse_secret_keys, read_secret_keys
from nanomdm.crypto.vault import Vault
from nanomdm.ctl.database import KIND, failures, settings_of
from nanomdm.errors import ConfigError
from nanomdm.options import Settings
from nanomdm.storage.settings import StorageSettings

#: As the server's.
_DEFAULT_KIND: Final = "sqlite"

_OPTIONS: Final = (
    click.option(
        "--config",
        type=click.Path(path_type=Path),
        envvar="NANOMDM_CONFIG",
        metavar="FILE",
        help="The server's configuration file, for all that the other options do not say;"
        " also from NANOMDM_CONFIG.",
    ),
    click.option(
        "--storage",
        type=KIND,
        envvar="NANOMDM_STORAGE",
        help=f"Kind of the database, {_DEFAULT_KIND} if not given; also from NANOMDM_STORAGE.",
    ),
    click.option(
        "--storage-dsn",
        envvar="NANOMDM_STORAGE_DSN",
        help="Where it is. Better from NANOMDM_STORAGE_DSN if it holds a password.",
    ),
    click.option(
        "--secret-key-file",
        envvar="NANOMDM_SECRET_KEY_FILE",
        metavar="FILE",
        help="The server's file of keys for secrets; also from NANOMDM_SECRET_KEY_FILE.",
    ),
    click.option(
        "--secret-keys",
        envvar="NANOMDM_SECRET_KEYS",
        metavar="KEYS",
        help="These keys themselves. Better from NANOMDM_SECRET_KEYS: others see the command line.",
    ),
)


@frozen
class ServerData:
    """
    What a server keeps, and how.  Only flags can give it several storages: each is one
    of its own here.

    @ivar vault: its keys.
    """

    storage: StorageSettings
    vault: Vault


def server_data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """
    Give a command the options that say which databases and keys, as the server has them.
    It gets C{data}, a L{ServerData}.
    """

    @functools.wraps(command)
    def with_data(config: Path | None, **values: Any) -> Any:
        names = ("storage", "storage_dsn", "secret_key_file", "secret_keys")
        given = {name: values.pop(name) for name in names}
        data = _given_alone(**given) if config is None else _configured(config, given)
        return command(data=data, **values)

    for option in reversed(_OPTIONS):
        with_data = option(with_data)
    return with_data


def vault_of(settings: Settings) -> Vault:
    """
    @return: the keys of a server.
    @raise ConfigError: their file can not be read or used.
    """
    if settings.secret_key_file is not None:
        return Vault(read_secret_keys(settings.secret_key_file))
    return Vault(settings.secret_keys)


def _configured(config: Path, given: dict[str, str | None]) -> ServerData:
    """
    @param given: by options, which count more than the file.
    """
    flags = {name.replace("_", "-"): value for name, value in given.items() if value is not None}
    try:
        settings, _ = resolve(
            [
                *from_file(str(config)),
                *from_environment(os.environ),
                *from_flags(flags.items()),
            ]
        )
        vault = vault_of(settings)
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    [storage] = settings.storages
    if storage.kind == "inmem":
        raise click.ClickException(f"{config}: what is in memory only the server can see")
    return ServerData(storage, vault)


def _given_alone(
    storage: str | None,
    storage_dsn: str | None,
    secret_key_file: str | None,
    secret_keys: str | None,
) -> ServerData:
    vault = _vault_of(secret_key_file, secret_keys)
    with failures("--storage-dsn"):
        return ServerData(settings_of(storage or _DEFAULT_KIND, storage_dsn), vault)


def _vault_of(file: str | None, keys: str | None) -> Vault:
    """
    @raise click.ClickException: the keys can not be read or used.
    """
    if file is not None and keys is not None:
        raise click.UsageError("--secret-keys excludes --secret-key-file")
    if keys is not None:
        with failures("--secret-keys"):
            return Vault(parse_secret_keys(keys))
    if file is not None:
        with failures("--secret-key-file"):
            return Vault(read_secret_keys(Path(file)))
    return Vault()
