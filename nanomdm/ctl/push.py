"""
C{nanomdmctl push}: wakes devices.
"""

from __future__ import annotations

from collections.abc import Sequence

import click

from nanomdm.ctl.batches import Status, call_for, run_batches
from nanomdm.ctl.client import Client
from nanomdm.ctl.options import api_options, json_option
from nanomdm.ctl.targets import Targets, target_options


@click.command()
@api_options
@target_options
@click.option("--force", is_flag=True, help="Also where the push token is known to be dead.")
@json_option
def push(client: Client, targets: Targets, force: bool, as_json: bool) -> None:
    """
    Push to enrollments: have them ask for their commands.
    """

    def wake(ids: Sequence[str]) -> Status:
        return call_for(client, "PUT", "push", ids, None, force=force or None)

    run_batches(targets.resolve(client), "Pushes", wake).tell("Pushed", as_json)
