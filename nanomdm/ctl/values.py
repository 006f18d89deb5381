"""
What can be said on the command line about the keys of a command.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import click
from attrs import frozen
from click.shell_completion import CompletionItem

from nanomdm.errors import MessageError
from nanomdm.mdm.build import (
    certificate_der,
    checked_profile,
    dictionaries,
    dictionary,
    nested,
    unlock_token,
)
from nanomdm.mdm.catalogue import Key, Kind

#: Bytes of a file, at most; the server takes 64 MiB, in which base64 must fit.
_LARGEST: Final = 45 << 20

_ASSIGNMENT: Final = re.compile(r"([^=:@]+)(:=|=|@)(.*)", re.DOTALL)

_STANDARD_INPUT: Final = "-"


class FileOf(click.ParamType[Any]):
    """
    A file, of which the content counts.

    @param convert: what to make of it; raises L{MessageError}.
    """

    name = "file"

    def __init__(self, convert: Callable[[bytes], Any]) -> None:
        self._convert = convert

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """
        Read it.
        """
        try:
            return self._convert(read_file(value))
        except (MessageError, OSError) as error:
            text = error.strerror if isinstance(error, OSError) else error
            self.fail(f"{value}: {text}", param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """
        @return: lets the shell look for files.
        """
        return [CompletionItem(incomplete, type="file")]


class Pin(click.ParamType[Any]):
    """
    Six digits.
    """

    name = "digits"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """
        See that it is.
        """
        if not re.fullmatch("[0-9]{6}", value):
            self.fail("is not six digits", param, ctx)
        return str(value)


class SecureURL(click.ParamType[Any]):
    """
    A URL that begins with C{https:}.
    """

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """
        See that it is.
        """
        if not re.fullmatch(r"https://[!-~]+", value):
            self.fail(f"{value!r} does not begin with https:// or is no URL", param, ctx)
        return str(value)


@frozen
class Assigned:
    """
    What C{NAME=VALUE} and its like say.

    @ivar name: of the key.
    @ivar value: as a property list has it.
    """

    name: str
    value: Any


class Assignment(click.ParamType[Any]):
    """
    C{NAME=TEXT}, C{NAME:=JSON} or C{NAME@FILE}.
    """

    name = "name=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Assigned:
        """
        Take it apart.
        """
        match = _ASSIGNMENT.fullmatch(value)
        if match is None:
            self.fail(f"{value!r} is not NAME=TEXT, NAME:=JSON or NAME@FILE", param, ctx)
        name, operator, rest = match.groups()
        if operator == "=":
            return Assigned(name, rest)
        try:
            return Assigned(name, read_file(rest) if operator == "@" else _json(rest))
        except (OSError, MessageError) as error:
            text = error.strerror if isinstance(error, OSError) else error
            self.fail(f"{name}: {rest}: {text}", param, ctx)
        except (ValueError, RecursionError) as error:
            self.fail(f"{name}: is not JSON: {error}", param, ctx)


def _json(text: str) -> Any:
    """
    @raise ValueError: it is no JSON, or has a number that no property list has.
    """
    return json.loads(text, parse_constant=_number, parse_float=_number)


def _number(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is no number")
    return value


def read_file(path: str) -> bytes:
    """
    @param path: C{-} for standard input.
    @raise OSError: it can not be read.
    @raise MessageError: it is too large.
    """
    if path == _STANDARD_INPUT:
        content = sys.stdin.buffer.read(_LARGEST + 1)
    else:
        with Path(path).open("rb") as file:
            content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise MessageError(f"more than {_LARGEST} bytes")
    return content


_FILES: Final[Mapping[Kind, Callable[[bytes], Any]]] = {
    Kind.DATA: bytes,
    Kind.PROFILE: checked_profile,
    Kind.TOKEN: unlock_token,
    Kind.CERTIFICATE: certificate_der,
    Kind.CERTIFICATES: certificate_der,
    Kind.DICTIONARY: dictionary,
    Kind.DICTIONARIES: dictionaries,
}

#: Such options can be given several times.
_SEVERAL: Final = frozenset({Kind.TEXTS, Kind.CERTIFICATES, Kind.SETTINGS})

#: Nobody is to read these over one's shoulder.
_HIDDEN: Final = frozenset({Kind.SECRET, Kind.PIN})


def option_of(key: Key) -> click.Option:
    """
    @return: the option for a key of a command.
    """
    name = f"--{key.option}"
    more: dict[str, Any] = {"required": key.required and key.default is None, "help": key.help}
    if key.default is not None and key.kind is not Kind.TEXTS:
        more.update(default=key.default, show_default=True)
    if key.kind in _SEVERAL:
        more["multiple"] = True
        more["help"] += " May be repeated."
    if key.kind in _HIDDEN:
        more.update(prompt=key.option, prompt_required=False, hide_input=True)
        more["help"] += " Without a value it is asked for."
    declared = f"{name}/--no-{key.option}" if key.kind is Kind.BOOLEAN else name
    if key.kind is Kind.BOOLEAN:
        more["default"] = None
    else:
        more["type"] = _type(key)
    return click.Option([declared, variable(key)], **more)


def variable(key: Key) -> str:
    """
    @return: the parameter that has the value of a key's option; no other option's has
        such a name.
    """
    return f"key_{key.option}".replace("-", "_")


def _type(key: Key) -> Any:
    if key.kind in _FILES:
        return FileOf(_FILES[key.kind])
    if key.kind is Kind.SETTINGS:
        return Assignment()
    if key.kind is Kind.PIN:
        return Pin()
    if key.kind is Kind.URL:
        return SecureURL()
    if key.choices:
        return click.Choice(key.choices)
    if key.kind is Kind.INTEGER:
        return click.INT if key.bounds is None else click.IntRange(*key.bounds)
    return click.STRING


def value_of(key: Key, given: Any) -> Any:
    """
    @param given: what the option of a key says.
    @return: the value for the command; L{None} if there is none.
    """
    if key.kind in _SEVERAL and not given:
        return None if key.default is None else list(key.default)
    if key.kind is Kind.SETTINGS:
        return settings(given)
    if key.kind in _SEVERAL:
        return list(given)
    if key.kind is Kind.INTEGER and given is not None:
        return int(given)
    return given


def settings(assigned: Iterable[Assigned]) -> list[dict[str, Any]]:
    """
    @param assigned: names are an item, the name of a member, and perhaps those of
        members inside of it, dots between them.
    @return: the array for the command C{Settings}: a dictionary for each item.
    @raise click.UsageError: a name is none of a member.
    """
    items: dict[str, dict[str, Any]] = {}
    for one in assigned:
        item, _, path = one.name.partition(".")
        if not item or not all(path.split(".")):
            raise click.UsageError(f"--setting: {one.name}: is not ITEM.KEY")
        items.setdefault(item, {})[path] = one.value
    try:
        return [{"Item": item, **nested(members)} for item, members in items.items()]
    except (TypeError, LookupError, ValueError):
        raise click.UsageError("--setting: one key can not be in another's value") from None
