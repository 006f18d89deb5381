"""
C{nanomdmctl status}: what became of a command.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import click

from nanomdm.ctl.client import Client, segment
from nanomdm.ctl.options import api_options, json_option, limit_option
from nanomdm.ctl.show import Column, Item, print_list, say

_COLUMNS = (
    Column("Id", "id"),
    Column("State", "state"),
    Column("Status", "status"),
    Column("Answered at", "answered_at", rank=1),
    Column("NotNow", "not_now_count", rank=2),
)


@click.command()
@api_options
@click.argument("uuid")
@limit_option
@json_option
def status(client: Client, uuid: str, limit: int | None, as_json: bool) -> None:
    """
    Tell what became of a command: who has answered it, and what.

    Without a terminal each enrollment is a line with tabs between: id, state
    (waiting, not_now, answered or cleared), the last status, when that came, how often
    it was NotNow. How many there are of each state is said at the end.
    """
    counts = Counter[str]()
    targets = client.items(f"/v1/commands/{segment(uuid)}", "targets", limit)
    print_list(_COLUMNS, _counted(targets, counts), "Nobody has this command.", as_json)
    if counts and not as_json:
        say(", ".join(f"{state}: {count}" for state, count in sorted(counts.items())))


def _counted(targets: Iterable[Item], counts: Counter[str]) -> Iterator[Item]:
    for target in targets:
        counts[target["state"]] += 1
        yield target
