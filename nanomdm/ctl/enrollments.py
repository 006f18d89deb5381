"""
C{nanomdmctl enrollments}: which devices and users there are.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

import click

from nanomdm.crypto.pushcert import utc_text
from nanomdm.ctl.batches import one_by_one
from nanomdm.ctl.client import UNEXPECTED, Answer, Client, Failed, segment
from nanomdm.ctl.options import api_options, json_option, limit_option
from nanomdm.ctl.show import Column, Item, print_item, print_list
from nanomdm.ctl.targets import TYPE


def _model(item: Item) -> object:
    # iPhones and iPads call it otherwise.
    return item.get("model") or item.get("product_name")


_COLUMNS: Final = (
    Column("Id", "id"),
    Column("Type", "type", rank=1),
    Column("Enabled", "enabled", rank=4),
    Column("Serial number", "serial_number", rank=2),
    Column("User", "user_short_name", rank=6),
    Column("Model", _model, rank=3),
    Column("OS", "os_version", rank=5),
    Column("Last seen", "last_seen_at"),
    Column("Queue", "queue_length"),
)

#: Outstanding commands that hints are made of.
_LOOKED_AT: Final = 1000


@click.group()
def enrollments() -> None:
    """
    See which devices and users there are, and remove them.
    """


@enrollments.command("list")
@api_options
@click.option("--serial", help="Only those with this serial number.")
@click.option("--id", help="Only this one.")
@click.option("--type", type=TYPE, help="Only those of this type.")
@click.option("--enabled/--disabled", default=None, help="Only those that are enabled, or not.")
@click.option("--topic", help="Only those with this push topic.")
@click.option("--of-user", metavar="NAME", help="Only channels of the user with this name or id.")
@click.option(
    "--seen-before",
    metavar="WHEN",
    help="Only those last seen before: a time, a date, or how long ago, as 30d, 12h, 90m, 45s.",
)
@click.option("--seen-after", metavar="WHEN", help="Only those seen after.")
@click.option("--pending", is_flag=True, help="Only those with a command outstanding.")
@limit_option
@json_option
def list_(
    client: Client,
    of_user: str | None,
    pending: bool,
    limit: int | None,
    as_json: bool,
    **which: Any,
) -> None:
    """
    List enrollments.

    Without a terminal each is a line with tabs between: id, type, enabled (yes or
    no), serial number, user, model, OS version, when it was seen last, number of
    outstanding commands.
    """
    more = {"user": of_user, "pending": pending or None}
    found = client.items("/v1/enrollments", "enrollments", limit, **which, **more)
    print_list(_COLUMNS, found, "No enrollment matches.", as_json)


@enrollments.command()
@api_options
@click.argument("id")
@json_option
def show(client: Client, id: str, as_json: bool) -> None:
    """
    Tell all about an enrollment, and why its commands may be stuck.
    """
    path = f"/v1/enrollments/{segment(id)}"
    facts = client.get(path).json
    try:
        waiting = []
        if facts["queue_length"]:
            waiting = list(client.items(f"{path}/queue", "commands", _LOOKED_AT))
        push = _push_certificate(client, facts["topic"])
        hints = list(_hints(facts, push, waiting, utc_text(datetime.now(UTC))))
    except (LookupError, TypeError, AttributeError):
        raise Failed(UNEXPECTED) from None
    print_item({**facts, "hints": hints} if hints else facts, as_json)


@enrollments.command()
@api_options
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option(
    "--purge",
    is_flag=True,
    help="Delete all that is known of them, instead of disabling them.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def rm(client: Client, ids: tuple[str, ...], purge: bool, yes: bool, as_json: bool) -> None:
    """
    Disable enrollments, or delete them.

    A device takes its users along. It stays managed for itself until it enrolls
    anew.
    """
    once = list(dict.fromkeys(ids))
    verb = "Delete" if purge else "Disable"
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("needs --yes")
        click.confirm(f"{verb} {', '.join(once)}?", abort=True, err=True)

    def remove(one: str) -> Answer:
        path = f"/v1/enrollments/{segment(one)}"
        return client.request("DELETE", path, query={"purge": purge or None})

    one_by_one(once, "Enrollments", remove).tell(f"{verb}d", as_json)


def _push_certificate(client: Client, topic: str) -> Item:
    """
    @return: until when a topic's push certificate is good, or why pushes have none.
    """
    query = {"topic": topic}
    answer = client.request("GET", "/v1/pushcert", query=query, accepted=(404, 500))
    return answer.json if answer.by_api else {}


def _hints(facts: Item, push: Item, waiting: list[Item], now: str) -> Iterator[str]:
    """
    @param push: what there is to say of its push certificate.
    @param waiting: what is outstanding, or the most urgent of it.
    @param now: the time, in the form of the others, which can be compared as text.
    @return: why commands may be stuck.
    """
    if not facts["enabled"]:
        yield "not enabled: it gets no commands until it enrolls again or renews its push token"
    if "error" in push:
        yield f"no push wakes it: {push['error']}"
    elif push.get("not_after", now) < now:
        yield "no push wakes it: the push certificate of its topic has expired"
    token = facts.get("push_token", {})
    if token.get("state") == "dead":
        why = f"{token.get('status', '')} {token.get('reason', '')}".strip()
        yield f"its push token is dead ({why}): no push wakes it until it sends another"
    certificate = facts.get("identity_certificate", {})
    if certificate.get("not_after", now) < now:
        yield "its identity certificate has expired: it may be refused"
    seen = facts.get("last_seen_at", "")
    unseen = sum(
        command["queued_at"] > seen and command["state"] != "not_now" for command in waiting
    )
    if unseen:
        what = "a command was" if unseen == 1 else f"{unseen} commands were"
        yield f"not seen since {what} queued: it may be off or offline"
    for command in waiting:
        if command["state"] == "not_now":
            yield (
                f"{command['request_type']} {command['command_uuid']}: the device said NotNow"
                f" (so often: {command['not_now_count']}): it may be locked or busy"
            )
