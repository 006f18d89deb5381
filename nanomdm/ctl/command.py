"""
C{nanomdmctl command}: makes a command, and queues it.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import click

from nanomdm.ctl.client import Client
from nanomdm.ctl.enqueue import send
from nanomdm.ctl.group import ListedGroup
from nanomdm.ctl.options import api_options, json_option
from nanomdm.ctl.show import say
from nanomdm.ctl.targets import Targets, target_options
from nanomdm.ctl.values import Assigned, Assignment, FileOf, option_of, value_of, variable
from nanomdm.errors import MessageError
from nanomdm.mdm.build import nested, new_command, read_command
from nanomdm.mdm.catalogue import CATALOGUE, Known
from nanomdm.mdm.command import MAX_COMMAND_UUID, Command

_REQUEST_TYPE: Final = re.compile("[A-Za-z][A-Za-z0-9]{0,62}")

#: What is no request type: a command that is in a file already.
_RAW: Final = "raw"

_SET: Final = click.option(
    "--set",
    "assigned",
    multiple=True,
    type=Assignment(),
    help="A further key: NAME=TEXT, NAME:=JSON, or NAME@FILE for the bytes of a file."
    " May be repeated.",
)


class CommandGroup(ListedGroup):
    """
    Has a subcommand for each known command, and one for any other.
    """

    @property
    def listed(self) -> Mapping[str, str]:
        """
        @return: those that are known.
        """
        known = {name: known.help for name, known in CATALOGUE.items()}
        return {**known, _RAW: "Send a command that is in FILE."}

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """
        @return: the subcommand for a request type, known or not.
        """
        if cmd_name == _RAW:
            return _raw
        if cmd_name in CATALOGUE:
            return _of(CATALOGUE[cmd_name])
        return _unknown(cmd_name) if _REQUEST_TYPE.fullmatch(cmd_name) else None


@click.command(cls=CommandGroup, subcommand_metavar="REQUEST_TYPE [OPTIONS]...")
def command() -> None:
    """
    Make a command, queue it for enrollments, and push to them.

    REQUEST_TYPE is one of the commands below, each of which has its own --help, or any
    other that devices know, whose keys --set gives.
    """


def _sent(make: Callable[..., Command]) -> Callable[..., None]:
    """
    Make a callback that sends, or prints, a command.

    @param make: makes it, from the options that are not about sending.
    """

    @functools.wraps(make)
    def run(uuid: str | None, printed: bool, **given: Any) -> None:
        own = {name: given.pop(name) for name in list(given) if name in _SENDING}
        made = _made(make, uuid, given)
        if printed:
            click.echo(made.raw, nl=False)
        else:
            _send(made=made, **own)

    return run


def _made(make: Callable[..., Command], uuid: str | None, given: Mapping[str, Any]) -> Command:
    if uuid is not None and not 0 < len(uuid) <= MAX_COMMAND_UUID:
        raise click.UsageError(f"--uuid: is not 1 to {MAX_COMMAND_UUID} characters")
    try:
        return make(uuid=uuid, **given)
    except MessageError as error:
        raise click.UsageError(str(error)) from None


@api_options
@target_options
@click.option("--no-push", is_flag=True, help="Do not wake the devices.")
@json_option
def _send(client: Client, targets: Targets, made: Command, no_push: bool, as_json: bool) -> None:
    send(client, made, targets, no_push, as_json)


def _options_of(function: Callable[..., Any]) -> list[click.Parameter]:
    options: list[click.Parameter] = function.__click_params__  # type: ignore[attr-defined]
    return list(reversed(options))


#: The options about sending, and their names.
_SENDING_OPTIONS: Final = _options_of(_send)
_SENDING: Final = frozenset(option.name for option in _SENDING_OPTIONS)

_COMMON: Final = (
    click.Option(["--uuid"], help="Its CommandUUID, instead of a new one."),
    click.Option(
        ["--print", "printed"],
        is_flag=True,
        help="Print the property list, and send nothing.",
    ),
)


def _subcommand(
    name: str,
    make: Callable[..., Command],
    options: Iterable[click.Parameter],
    help: str,
    epilog: str | None = None,
) -> click.Command:
    params = [*options, *_COMMON, *_SENDING_OPTIONS]
    return click.Command(name, callback=_sent(make), params=params, help=help, epilog=epilog)


def _of(known: Known) -> click.Command:
    """
    @return: the subcommand for a command of the catalogue.
    """

    def make(uuid: str | None, assigned: tuple[Assigned, ...], **given: Any) -> Command:
        return new_command(_content(known, given, assigned), uuid)

    options = [*map(option_of, known.keys), _set_option()]
    return _subcommand(known.request_type, make, options, known.help, f"\b\nSee {known.page}")


def _unknown(request_type: str) -> click.Command:
    """
    @return: the subcommand for any other command.
    """

    def make(uuid: str | None, assigned: tuple[Assigned, ...]) -> Command:
        close = _similar(request_type)
        if close is not None:
            say(f"Warning: {request_type} is sent, but it is not known; is it {close}?")
        return new_command({"RequestType": request_type, **_assigned(assigned)}, uuid)

    help = f"Send {request_type}, of which nothing is known here."
    return _subcommand(request_type, make, [_set_option()], help)


def _similar(request_type: str) -> str | None:
    lower = {name.lower(): name for name in CATALOGUE}
    found = difflib.get_close_matches(request_type.lower(), lower, 1, 0.8)
    return lower[found[0]] if found else None


def _set_option() -> click.Parameter:
    def none() -> None:
        pass

    [option] = _options_of(_SET(none))
    return option


def _content(
    known: Known, given: Mapping[str, Any], assigned: Iterable[Assigned]
) -> dict[str, Any]:
    """
    @param given: the options' values.
    @return: the C{Command} dictionary.
    @raise click.UsageError: something is missing, or twice.
    """
    members: dict[str, Any] = {}
    for key in known.keys:
        value = value_of(key, given[variable(key)])
        if value is None:
            continue
        if key.path in members:
            raise click.UsageError(f"{known.option(key.path)}: not both")
        members[key.path] = value
    more = _assigned(assigned)
    _check(known, {*more, *(path for path, value in members.items() if value is not False)})
    content = {"RequestType": known.request_type, **nested(members)}
    for name in more:
        if name in content:
            raise click.UsageError(f"--set: {name}: there is an option for it, given already")
    return {**content, **more}


def _assigned(assigned: Iterable[Assigned]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for one in assigned:
        if one.name in values or one.name == "RequestType":
            raise click.UsageError(f"--set: {one.name}: given more than once")
        values[one.name] = one.value
    return values


def _check(known: Known, paths: set[str]) -> None:
    """
    @param paths: what is given, and not said no to.
    @raise click.UsageError: something is missing.
    """
    names = {path.partition(".")[0] for path in paths}
    if known.any_of and not any(path in paths or path in names for path in known.any_of):
        options = dict.fromkeys(known.option(path) for path in known.any_of)
        raise click.UsageError(f"missing: {' or '.join(options)}")
    for path, needed in known.needs:
        if path in paths and needed not in paths:
            raise click.UsageError(f"{known.option(path)}: needs {known.option(needed)}")


def _read(uuid: str | None, content: bytes) -> Command:
    return read_command(content, uuid)


_raw: Final = _subcommand(
    _RAW,
    _read,
    [click.Argument(["content"], type=FileOf(bytes), metavar="FILE")],
    "Send a command that is in FILE: a property list of all of it, or of its Command"
    " dictionary alone, which gets a CommandUUID; '-' is standard input.",
)
