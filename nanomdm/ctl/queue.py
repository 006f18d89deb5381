"""
C{nanomdmctl queue}: what enrollments have to do.
"""

from __future__ import annotations

from typing import Final

import click

from nanomdm.ctl.batches import one_by_one
from nanomdm.ctl.client import Answer, Client, segment
from nanomdm.ctl.options import api_options, json_option, limit_option
from nanomdm.ctl.show import Column, print_item, print_list
from nanomdm.ctl.targets import Targets, target_options

_COLUMNS: Final = (
    Column("Command UUID", "command_uuid"),
    Column("Request type", "request_type"),
    Column("Priority", "priority", rank=2),
    Column("Queued at", "queued_at", rank=3),
    Column("Seconds ago", "age_seconds", rank=1),
    Column("State", "state"),
    Column("NotNow", "not_now_count"),
)


@click.group()
def queue() -> None:
    """
    See and change what enrollments have to do.
    """


@queue.command("list")
@api_options
@click.argument("id")
@limit_option
@json_option
def list_(client: Client, id: str, limit: int | None, as_json: bool) -> None:
    """
    List an enrollment's outstanding commands, in the order of delivery.

    Without a terminal each is a line with tabs between: UUID, request type,
    priority, when it was queued, how many seconds ago, state (waiting or not_now),
    how often the device said NotNow.
    """
    print_list(
        _COLUMNS, client.items(_queue(id), "commands", limit), "The queue is empty.", as_json
    )


@queue.command()
@api_options
@click.argument("id")
@click.argument("uuids", nargs=-1, required=True, metavar="UUID...")
@json_option
def cancel(client: Client, id: str, uuids: tuple[str, ...], as_json: bool) -> None:
    """
    Take commands out of an enrollment's queue.

    A device that has got a command already may still carry it out.
    """

    def drop(uuid: str) -> Answer:
        return client.request("DELETE", f"{_queue(id)}/{segment(uuid)}")

    one_by_one(list(dict.fromkeys(uuids)), "Commands", drop).tell("Cancelled", as_json)


@queue.command()
@api_options
@target_options
@json_option
def clear(client: Client, targets: Targets, as_json: bool) -> None:
    """
    Take all outstanding commands out of the queues of enrollments.
    """

    def empty(one: str) -> Answer:
        return client.request("DELETE", _queue(one))

    one_by_one(targets.resolve(client), "Queues", empty).tell("Cleared", as_json)


# Otherwise -1 would be an option.
@queue.command(context_settings={"ignore_unknown_options": True})
@api_options
@click.argument("id")
@click.argument("uuid")
@click.argument("number", type=click.IntRange(-128, 127))
@json_option
def priority(client: Client, id: str, uuid: str, number: int, as_json: bool) -> None:
    """
    Have a command delivered earlier or later.

    NUMBER is from -128 to 127; commands begin with 0, and higher numbers come
    first.
    """
    answer = client.patch(f"{_queue(id)}/{segment(uuid)}", {"priority": number})
    print_item(answer.json, as_json)


def _queue(id: str) -> str:
    return f"/v1/enrollments/{segment(id)}/queue"
