"""
C{nanomdmctl secrets}: the keys that encrypt what is secret in databases.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from datetime import UTC, datetime
from typing import Final

import click

from nanomdm.crypto.secretkeys import new_key, parse_secret_keys
from nanomdm.crypto.vault import Vault
from nanomdm.ctl.database import failures, open_source
from nanomdm.ctl.options import json_option
from nanomdm.ctl.secretkeys import ServerData, server_data_options
from nanomdm.ctl.show import Column, Item, print_json, print_list, say
from nanomdm.storage.factory import engine_of
from nanomdm.storage.rewriting import Rewriter
from nanomdm.storage.secretrows import MESSAGES, PLAIN, count_secrets
from nanomdm.storage.settings import StorageSettings
from nanomdm.storage.transaction import Transaction

_COLUMNS: Final = (
    Column("What", "what"),
    Column("Key", "key"),
    Column("Count", "count"),
    Column("State", "state"),
)

#: Rows between two lines of progress, and problems that are shown.
_PROGRESS: Final = 20_000
_SHOWN: Final = 20

#: The state of what is as the first key says.
_RIGHT: Final = "current"

#: The state of what none of the keys decrypts.
_MISSING: Final = "missing"


@click.group()
def secrets() -> None:
    """
    Encrypt what is secret in a database: make keys, count, and rewrite.
    """


@secrets.command()
@json_option
def key(as_json: bool) -> None:
    """
    Make a new key, for the file that the server's --secret-key-file names.

    It is printed as lines for that file: a comment with the key's id, and the key.
    """
    made = new_key()
    keyring = parse_secret_keys(made)
    assert keyring.current is not None
    if as_json:
        print_json({"id": keyring.current.id, "key": made})
        return
    click.echo(f"# {keyring.current.id}, made {datetime.now(UTC):%Y-%m-%d}\n{made}")


@secrets.command()
@server_data_options
@json_option
@click.pass_context
def status(context: click.Context, data: ServerData, as_json: bool) -> None:
    """
    Count the secrets in a database by the keys that they are encrypted with.

    What is as the first of the keys says is "current", what another one can decrypt
    is "old"; "missing" is what none of them can. Nothing is changed.

    The exit status is 1 if something is missing.
    """
    with failures("--storage-dsn"):
        items = _items(data)
    print_list(_COLUMNS, items, "There are no secrets.", as_json)
    if any(item["state"] == _MISSING for item in items):
        context.exit(1)


@secrets.command()
@server_data_options
@click.pass_context
def rewrite(context: click.Context, data: ServerData) -> None:
    """
    Encrypt all secrets in a database with the first of the keys.

    What is encrypted with another of them, or not at all, is encrypted anew; where
    the first line is "plain", everything is decrypted. Devices and servers can go on
    meanwhile, and it can be interrupted and repeated.

    The exit status is 1 if something remains.
    """
    if data.vault.is_empty:
        raise click.UsageError("give the keys; to decrypt, a file whose first line is plain")
    with failures("--storage-dsn"):
        # It is to have all tables.
        open_source(data.storage).close()
        engine = engine_of(data.storage, data.storage.dsn)
        connection = engine.connect()
    with closing(connection), failures("stopped"):
        rewriter = Rewriter(engine, connection, data.vault)
        rewriter.run(_Ticker())
    with failures("--storage-dsn"):
        items = _items(data)
    rows = "1 row was" if rewriter.changed == 1 else f"{rewriter.changed} rows were"
    click.echo(f"{rows} rewritten.")
    for item in items:
        click.echo(f"{item['what']}: {item['count']} {item['state']} ({item['key']})")
    _complain(rewriter.problems)
    if rewriter.problems or any(item["state"] != _RIGHT for item in items):
        context.exit(1)


class _Ticker:
    """
    Says from time to time how far it is.
    """

    def __init__(self) -> None:
        self._due = _PROGRESS

    def __call__(self, table: str, rows: int) -> None:
        if rows >= self._due:
            say(f"{table}: {rows} rows ...")
            self._due = rows + _PROGRESS


def _complain(problems: list[str]) -> None:
    for problem in problems[:_SHOWN]:
        say(problem)
    if len(problems) > _SHOWN:
        say(f"... and {len(problems) - _SHOWN} more")


def _counts(settings: StorageSettings) -> Counter[tuple[str, str]]:
    """
    @raise ConfigError: the database lacks something.
    """
    with closing(open_source(settings)) as connection:
        engine = engine_of(settings, settings.dsn)
        return count_secrets(Transaction(connection.cursor(), engine.dialect))


def _items(data: ServerData) -> list[Item]:
    """
    @raise ConfigError: the database lacks something.
    """
    return [
        {"what": what, "key": key, "count": count, "state": _state(key, data.vault)}
        for (what, key), count in sorted(_counts(data.storage).items())
        if what != MESSAGES or data.vault.current is not None
    ]


def _state(key: str, vault: Vault) -> str:
    if not vault.is_empty and key == (vault.current or PLAIN):
        return _RIGHT
    if key == PLAIN:
        return "not encrypted"
    return "old" if vault.has(key) else _MISSING
