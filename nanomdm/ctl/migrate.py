"""
C{nanomdmctl migrate}: for those who move their devices to another server.
"""

from __future__ import annotations

import itertools
import ssl
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult

import click
from attrs import frozen

from nanomdm.ctl.connection import parse_url
from nanomdm.ctl.database import connect_to_read, failures
from nanomdm.ctl.progress import Progress
from nanomdm.ctl.secretkeys import ServerData, server_data_options
from nanomdm.ctl.sender import Refused, Sender, Unusable
from nanomdm.errors import MessageError
from nanomdm.mdm.migration import EnrolledDevice, parcels
from nanomdm.storage.factory import engine_of
from nanomdm.storage.roster import Left, Roster

#: Devices for each thread that are read ahead.
_AHEAD: Final = 4

#: Without these no user of a device gets through.
_FIRST: Final = frozenset({"Authenticate", "TokenUpdate"})


def _url(context: click.Context, option: click.Parameter, value: str) -> SplitResult:
    """
    Read the URL of a migration endpoint.
    """
    url = parse_url(value, "https://host/migration")
    if url.path in ("", "/"):
        raise click.BadParameter("the path is missing, mostly /migration")
    return url


@frozen
class _Outcome:
    """
    What became of a device.

    @ivar users: how many of its users got through.
    @ivar problems: a line for each message that did not.
    """

    device_id: str
    users: int
    problems: list[str]


@click.command()
@server_data_options
@click.option(
    "--url",
    required=True,
    callback=_url,
    help="The other server's migration endpoint: https://host/migration.",
)
@click.option(
    "--key",
    envvar="NANOMDM_API",
    prompt="API key of the other server",
    hide_input=True,
    help="Its API key. Better from NANOMDM_API: others see the command line.",
)
@click.option(
    "--ca",
    type=click.Path(exists=True, dir_okay=False),
    help="PEM file of the root CAs that it must chain to, instead of the system's.",
)
@click.option(
    "--parallel",
    type=click.IntRange(1, 64),
    default=8,
    show_default=True,
    help="Devices that are sent at once.",
)
@click.option(
    "--state",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File that remembers how far it is. Run again with it to go on.",
)
@click.option(
    "--disabled",
    is_flag=True,
    help="Also devices and users that are not enabled. The other server enables them.",
)
@click.pass_context
def migrate(
    context: click.Context,
    data: ServerData,
    url: SplitResult,
    key: str,
    ca: str | None,
    parallel: int,
    state: Path | None,
    disabled: bool,
) -> None:
    """
    Send the enrollments of a database to another MDM server.

    The database may be one of NanoMDM; nothing is written to it. The other server
    may be this one or NanoMDM. It gets what the devices said when they enrolled,
    with their unlock and bootstrap tokens, a device before its users. Queued
    commands and certificate associations do not come along. Tokens that are
    encrypted are decrypted, with the keys of the server whose database it is.

    The exit status is 1 if some did not get through.
    """
    if not key.strip():
        raise click.UsageError("--key: must not be empty")
    with failures("--ca"):
        trust = ssl.create_default_context(cafile=ca)
    source = data.storage
    with failures("--storage-dsn"):
        connection = connect_to_read(source)
    with closing(connection):
        with failures("--storage-dsn"):
            dialect = engine_of(source, source.dsn).dialect
            roster = Roster(connection, dialect, disabled, data.vault)
        progress = Progress(state, source.shown, url.geturl())
        with failures("--state"):
            progress.load()
            # If it can not be written, that is to be known now.
            progress.save()
        with failures("stopped"), closing(Sender(url, key, trust)) as sender:
            run = _Run(roster, progress, sender, parallel)
            try:
                run.all()
            except Unusable as error:
                again = "; run it again with the same --state to go on" if state else ""
                raise Unusable(f"{url.geturl()}: {error}{again}") from None
            run.tell()
    if progress.failed:
        context.exit(1)


class _Run:
    """
    One run of a migration.

    @param parallel: how many devices are sent at once.
    """

    def __init__(self, roster: Roster, progress: Progress, sender: Sender, parallel: int) -> None:
        self._roster = roster
        self._progress = progress
        self._sender = sender
        self._parallel = parallel
        self._devices = self._users = 0

    def all(self) -> None:
        """
        Send what failed before, then what was not tried yet.

        @raise Unusable: it makes no sense to go on.
        """
        progress, again = self._progress, list(self._progress.failed)
        count = len(again) + self._roster.count(progress.after)
        pool = ThreadPoolExecutor(self._parallel)
        try:
            with click.progressbar(length=count, label="Devices", file=sys.stderr) as bar:
                for outcome in self._send(pool, self._roster.some(again)):
                    self._note(outcome)
                    again.remove(outcome.device_id)
                    bar.update(1)
                # Those that are not enrolled any more.
                for device_id in again:
                    progress.tried(device_id, [])
                for outcome in self._send(pool, self._roster.devices(progress.after)):
                    self._note(outcome)
                    progress.after = outcome.device_id
                    progress.save(now=False)
                    bar.update(1)
        finally:
            self._sender.stop()
            pool.shutdown(cancel_futures=True)
            progress.save()
        progress.finish()

    def tell(self) -> None:
        """
        Print what became of all of them.
        """
        left, failed = self._roster.left(), self._progress.failed
        click.echo(f"Migrated: {self._devices} devices and {self._users} users.")
        if left != Left(0, 0):
            click.echo(f"Not enrolled: {left.devices} devices and {left.users} users.")
        if failed:
            click.echo(f"Failed: {len(failed)} devices:")
            for problem in itertools.chain.from_iterable(failed.values()):
                click.echo(f"  {problem}")

    def _send(
        self, pool: ThreadPoolExecutor, devices: Iterator[EnrolledDevice]
    ) -> Iterator[_Outcome]:
        """
        @return: what became of each device, in their order.
        """
        window: deque[Future[_Outcome]] = deque()
        for device in devices:
            window.append(pool.submit(self._carry, device))
            if len(window) >= self._parallel * _AHEAD:
                yield window.popleft().result()
        while window:
            yield window.popleft().result()

    def _carry(self, device: EnrolledDevice) -> _Outcome:
        users, problems = 0, []
        try:
            for parcel in parcels(device):
                try:
                    self._sender.send(parcel.body)
                    users += parcel.id != device.id
                except Refused as error:
                    problems.append(f"{parcel.id}: {parcel.message_type}: {error}")
                    if parcel.id == device.id and parcel.message_type in _FIRST:
                        break
        except MessageError as error:
            problems.append(f"{device.id}: {error}")
        return _Outcome(device.id, users, problems)

    def _note(self, outcome: _Outcome) -> None:
        self._progress.tried(outcome.device_id, outcome.problems)
        self._devices += not outcome.problems
        self._users += outcome.users
