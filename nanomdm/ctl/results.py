"""
C{nanomdmctl results}: what enrollments answered.
"""

from __future__ import annotations

from typing import Final

import click

from nanomdm.ctl.client import Client, segment
from nanomdm.ctl.options import api_options, json_option, limit_option
from nanomdm.ctl.show import Column, Item, print_item, print_list, print_raw

_XML: Final = {"Accept": "text/xml"}


def _errors(item: Item) -> str:
    return "; ".join(
        f"{error.get('domain', '')} {error.get('code', '')} {error.get('description', '')}".strip()
        for error in item.get("errors", [])
    )


_COLUMNS: Final = (
    Column("Command UUID", "command_uuid"),
    Column("Request type", "request_type"),
    Column("Status", "status"),
    Column("Answered at", "answered_at", rank=2),
    Column("NotNow", "not_now_count", rank=3),
    Column("Errors", _errors, rank=1),
)


@click.command()
@api_options
@click.argument("id")
@click.argument("uuid", required=False)
@click.option("--request-type", help="Only answers to commands of this request type.")
@click.option("--status", help="Only answers with this status, as Acknowledged or Error.")
@click.option(
    "--since",
    metavar="WHEN",
    help="Only later answers: a time, a date, or how long ago, as 30d, 12h, 90m, 45s.",
)
@click.option("--raw", is_flag=True, help="With UUID: print the property list as it came.")
@limit_option
@json_option
def results(
    client: Client,
    id: str,
    uuid: str | None,
    request_type: str | None,
    status: str | None,
    since: str | None,
    raw: bool,
    limit: int | None,
    as_json: bool,
) -> None:
    """
    List an enrollment's answers to commands, the newest first, or show one.

    Without a terminal each is a line with tabs between: UUID, request type,
    status, when it came, how often the device said NotNow before, errors.
    """
    path = f"/v1/enrollments/{segment(id)}/results"
    if uuid is None:
        if raw:
            raise click.UsageError("--raw: needs a UUID")
        which = {"request_type": request_type, "status": status, "since": since}
        print_list(_COLUMNS, client.items(path, "results", limit, **which), "No answer.", as_json)
        return
    if request_type or status or since or limit:
        raise click.UsageError("--request-type, --status, --since and --limit are for lists")
    if raw and as_json:
        raise click.UsageError("--raw and --json do not go together")
    path = f"{path}/{segment(uuid)}"
    if raw:
        print_raw(client.request("GET", path, headers=_XML).body)
    else:
        print_item(client.get(path).json, as_json)
