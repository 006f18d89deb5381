"""
Which enrollments a command is for.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, Final

import click
from attrs import fields, frozen

from nanomdm.ctl.client import Client, Failed
from nanomdm.mdm.enrollment import EnrollmentType

#: The texts of the types, for an option.
TYPE: Final = click.Choice([one.value for one in EnrollmentType])

#: Bytes of a file of ids, at most.
_LARGEST: Final = 1 << 28

_OPTIONS: Final = (
    click.option(
        "--id", "ids", multiple=True, metavar="ID", help="An enrollment; also several with commas."
    ),
    click.option(
        "--serial",
        "serials",
        multiple=True,
        metavar="SERIAL",
        help="The device with this serial number.",
    ),
    click.option(
        "--file",
        "files",
        multiple=True,
        type=click.File("rb"),
        help="A file with an id on each line, '-' for standard input; lines that begin"
        " with # and what follows a tab do not count.",
    ),
    click.option(
        "--all", "everyone", is_flag=True, help="All that are enabled. Needs --yes in scripts."
    ),
    click.option("--type", type=TYPE, help="With --all: only enrollments of this type."),
    click.option("--topic", help="With --all: only enrollments with this push topic."),
    click.option("--yes", is_flag=True, help="Do not ask whether that is meant."),
)


@frozen
class Targets:
    """
    What the options say: a union of ids, serial numbers and files, or all.

    @ivar ids: some may be several, with commas.
    @ivar yes: nobody is to be asked.
    """

    ids: tuple[str, ...]
    serials: tuple[str, ...]
    files: tuple[BinaryIO, ...]
    everyone: bool
    type: str | None
    topic: str | None
    yes: bool

    def check(self) -> None:
        """
        @raise click.UsageError: the options name nobody, or do not go together.
        """
        named = bool(self.ids or self.serials or self.files)
        if self.everyone and named:
            raise click.UsageError("--all: there must be no --id, --serial or --file with it")
        if not self.everyone and not named:
            raise click.UsageError("for whom? Give --id, --serial, --file or --all")
        if not self.everyone and (self.type or self.topic):
            raise click.UsageError("--type and --topic are for --all only")
        if self.everyone and not self.yes and not sys.stdin.isatty():
            raise click.UsageError("--all: needs --yes")

    def resolve(self, client: Client) -> list[str]:
        """
        @return: the enrollment ids, each once; none only where a file or list is empty.
        @raise Failed: there is no device with one of the serial numbers.
        """
        if self.everyone:
            return self._everyone(client)
        named = (one.strip() for given in self.ids for one in given.split(","))
        ids = dict.fromkeys(filter(None, named))
        for file in self.files:
            ids.update(dict.fromkeys(_read_ids(file)))
        ids.update(dict.fromkeys(_of_serials(client, self.serials)))
        if not ids and not self.files:
            raise click.UsageError("for whom? There is not a single id")
        return list(ids)

    def _everyone(self, client: Client) -> list[str]:
        found = client.items(
            "/v1/enrollments", "enrollments", enabled=True, type=self.type, topic=self.topic
        )
        ids = [item["id"] for item in found]
        if ids and not self.yes:
            click.confirm(f"Really for all {len(ids)} enrollments?", abort=True, err=True)
        return ids


def target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """
    Give a command the options that say for whom, and call it with L{Targets} as
    C{targets}.
    """

    @functools.wraps(command)
    def aimed(*arguments: Any, **options: Any) -> Any:
        own = {one.name: options.pop(one.name) for one in fields(Targets)}
        targets = Targets(**own)
        targets.check()
        return command(*arguments, targets=targets, **options)

    for option in reversed(_OPTIONS):
        aimed = option(aimed)
    return aimed


def name_of(file: BinaryIO) -> str:
    """
    @return: the name of a file, for errors.
    """
    return str(getattr(file, "name", "-"))


def _read_ids(file: BinaryIO) -> Iterator[str]:
    """
    @raise click.UsageError: it is no file of ids.
    """
    content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise click.UsageError(f"--file: {name_of(file)}: more than {_LARGEST} bytes")
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise click.UsageError(f"--file: {name_of(file)}: is not UTF-8") from None
    for number, line in enumerate(lines, 1):
        one = line.partition("\t")[0].strip()
        if not one or one.startswith("#"):
            continue
        if "," in one or not one.isprintable():
            raise click.UsageError(f"--file: {name_of(file)}: line {number} is not an id")
        yield one


def _of_serials(client: Client, serials: Iterable[str]) -> Iterator[str]:
    """
    @return: the enrollments of devices.  Those that are not enabled count only where
        no other has the serial number: a device can have been enrolled differently
        before.
    @raise Failed: some are unknown.
    """
    unknown = []
    for serial in serials:
        found = client.items("/v1/enrollments", "enrollments", serial=serial)
        devices = [item for item in found if "parent_id" not in item]
        enabled = [item for item in devices if item["enabled"]]
        for item in enabled or devices:
            yield item["id"]
        if not devices:
            unknown.append(serial)
    if unknown:
        raise Failed(f"--serial: no device has the serial number {', '.join(unknown)}")
