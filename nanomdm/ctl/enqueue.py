"""
C{nanomdmctl enqueue}: a command for enrollments.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import BinaryIO

import click

from nanomdm.ctl.batches import Status, call_for, run_batches
from nanomdm.ctl.client import Client
from nanomdm.ctl.options import api_options, json_option
from nanomdm.ctl.show import say
from nanomdm.ctl.targets import Targets, name_of, target_options
from nanomdm.errors import MessageError
from nanomdm.mdm.catalogue import Care, care_of
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
    Before it erases devices, or restarts several of them, and the like, it asks.
    """
    if file in targets.files:
        raise click.UsageError("standard input can not be both the command and --file")
    body = file.read()
    try:
        command = parse_command(body)
    except MessageError as error:
        raise click.ClickException(f"{name_of(file)}: {error}") from None
    send(client, command, targets, no_push, as_json)


def send(client: Client, command: Command, targets: Targets, no_push: bool, as_json: bool) -> None:
    """
    Queue a command for enrollments, push to them, and print what became of it; ask
    first if much can be lost.
    """
    ids = targets.resolve(client)
    _confirm(command.request_type, ids, targets.yes)
    query = {"nopush": no_push or None}

    def queue(batch: Sequence[str]) -> Status:
        return call_for(client, "PUT", "enqueue", batch, command.raw, **query)

    run = run_batches(ids, "Enrollments", queue)
    say(f"{command.request_type} {command.uuid}")
    run.tell("Queued", as_json, command_uuid=command.uuid, request_type=command.request_type)


def _confirm(request_type: str, ids: Sequence[str], yes: bool) -> None:
    """
    @raise click.UsageError: somebody must say yes, and nobody is there.
    @raise click.Abort: somebody said no.
    """
    care = care_of(request_type)
    if yes or care is Care.NEVER or (care is Care.SEVERAL and len(ids) < 2):
        return
    whom = ids[0] if len(ids) == 1 else f"{len(ids)} enrollments"
    if not sys.stdin.isatty():
        raise click.UsageError(f"{request_type} for {whom}: needs --yes")
    click.confirm(f"Really {request_type} for {whom}?", abort=True, err=True)
