"""
C{nanomdmctl webhook}: events that were given up.
"""

from __future__ import annotations

from typing import Any, Final

import click

from nanomdm.ctl.client import Client
from nanomdm.ctl.options import api_options, json_option, limit_option
from nanomdm.ctl.show import Column, print_item, print_list

_COLUMNS: Final = (
    Column("Number", "number"),
    Column("Topic", "topic", rank=1),
    Column("Enrollment", "id"),
    Column("Created", "created", rank=3),
    Column("Given up", "failed", rank=2),
    Column("Attempts", "attempts", rank=4),
    Column("Reason", "reason"),
)


@click.group()
def webhook() -> None:
    """
    See the events that the webhook's receiver did not take, and send them again.
    """


@webhook.command()
@api_options
@limit_option
@json_option
def failed(client: Client, limit: int | None, as_json: bool) -> None:
    """
    List the events that were given up.

    Without a terminal each is a line with tabs between: number, topic, enrollment
    id, when it was created, when it was given up, attempts, reason.
    """
    events = client.items("/v1/webhook/failed", "events", limit)
    print_list(_COLUMNS, events, "No event was given up.", as_json)


@webhook.command()
@api_options
@click.argument("numbers", nargs=-1, type=click.IntRange(0), metavar="NUMBER...")
@click.option("--all", "everything", is_flag=True, help="All that were given up.")
@json_option
def retry(client: Client, numbers: tuple[int, ...], everything: bool, as_json: bool) -> None:
    """
    Send events again that were given up.
    """
    if everything == bool(numbers):
        raise click.UsageError("which events? Give their numbers, or --all")
    which: dict[str, Any] = {"all": True} if everything else {"numbers": list(numbers)}
    print_item(client.post("/v1/webhook/retry", which).json, as_json)
