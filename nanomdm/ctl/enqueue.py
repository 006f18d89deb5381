"""
C{nanomdmctl enqueue}: a command for enrollments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

import click

from nanomdm.ctl.batches import Status, call_for, run_batches
from nanomdm.ctl.client import Client
from nanomdm.ctl.database import failures
from nanomdm.ctl.options import api_options, json_option
from nanomdm.ctl.show import say
from nanomdm.ctl.targets import Targets, name_of, target_options
from nanomdm.mdm.command import Command, parse_command


@click.command()
@api_options
@click.argument("file", type=click.File("rb"))
@target_options
@click.option("--no-push", is_flag=True, help="Do not wake the devices.")
@json_option
def enqueue(client: Client, file: BinaryIO, targets: Targets, no_push: bool, as_json: bool) -> None:
    """
    Queue the command in FILE for enrollments, and push to them.

    FILE is a property list with a CommandUUID, "-" for standard input. It can be
    queued again: who has a command with this UUID already does not get it twice.
    """
    if file in targets.files:
        raise click.UsageError("standard input can not be both the command and --file")
    body = file.read()
    with failures(name_of(file)):
        command = parse_command(body)
    send(client, command, targets.resolve(client), no_push, as_json)


def send(
    client: Client, command: Command, ids: Sequence[str], no_push: bool, as_json: bool
) -> None:
    """
    Queue a command for enrollments, push to them, and print what became of it.
    """
    query = {"nopush": no_push or None}

    def queue(batch: Sequence[str]) -> Status:
        return call_for(client, "PUT", "enqueue", batch, command.raw, **query)

    run = run_batches(ids, "Enrollments", queue)
    say(f"{command.request_type} {command.uuid}")
    run.tell("Queued", as_json, command_uuid=command.uuid, request_type=command.request_type)
