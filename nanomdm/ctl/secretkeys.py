"""
The options of the commands that read secrets in databases: the server's keys.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from nanomdm.crypto.secretkeys import parse_secret_keys, read_secret_keys
from nanomdm.crypto.vault import Vault
from nanomdm.ctl.database import failures


def secret_key_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """
    Give a command the options C{--secret-key-file} and C{--secret-keys}, as the server
    has them.
    """
    keys = click.option(
        "--secret-keys",
        envvar="NANOMDM_SECRET_KEYS",
        metavar="KEYS",
        help="These keys themselves. Better from NANOMDM_SECRET_KEYS: others see the command line.",
    )
    file = click.option(
        "--secret-key-file",
        type=click.Path(path_type=Path),
        envvar="NANOMDM_SECRET_KEY_FILE",
        metavar="FILE",
        help="The server's file of keys for secrets; also from NANOMDM_SECRET_KEY_FILE.",
    )
    return file(keys(command))


def vault_of(file: Path | None, keys: str | None) -> Vault:
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
            return Vault(read_secret_keys(file))
    return Vault()
