"""
C{nanomdmctl simulate}: devices, a push service and a CA for trials.
"""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult

import click

from nanomdm.crypto.chain import load_certificates
from nanomdm.ctl.connection import parse_url
from nanomdm.ctl.progressbar import progress_bar
from nanomdm.ctl.show import echo, print_json, say
from nanomdm.errors import NanoMDMError
from nanomdm.private import private_directory

if TYPE_CHECKING:
    from nanomdm.sim.ca import ThrowawayCA
    from nanomdm.sim.fleet import Tally
    from nanomdm.sim.fleet_members import FleetMembers

_DIRECTORY: Final = click.Path(file_okay=False, path_type=Path)
_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)

#: As L{nanomdm.sim.fleet_members.KINDS} has them, and L{nanomdm.sim.device.DEFAULT_TOPIC}:
#: neither is worth loading all of the simulation for.
_KINDS: Final = ("mac", "ipad", "byod", "mixed")
_TOPIC: Final = "com.apple.mgmt.External.6b2d3b1c-53a4-4b0e-9a55-2f0b7d1c8e10"

#: Seconds between connections of a device that nobody can push to.
_UNPUSHED: Final = 30.0

_CLEAR_LINE: Final = "\r\x1b[K"


@click.group()
def simulate() -> None:
    """
    Simulated devices, a simulated push service, and a CA for them: for trials.
    """


@simulate.command()
@click.option("--directory", type=_DIRECTORY, required=True, help="Where they are to be.")
@click.option(
    "--topic",
    "topics",
    multiple=True,
    default=[_TOPIC],
    help="Topic of the push certificate. May be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def ca(directory: Path, topics: tuple[str, ...], as_json: bool) -> None:
    """
    Make a CA and push certificates, unless they are there.

    The server gets the CA with --ca, and with --apns-ca for the simulated push service;
    "nanomdmctl pushcert" uploads the push certificate. No device and no push service of
    Apple's knows them.
    """
    from nanomdm.sim.kept import kept_push_certificate, push_certificate_file

    with _failures():
        made = _directory_ca(directory, create=True)
        for topic in topics:
            kept_push_certificate(directory, made, topic)
    files = {topic: str(push_certificate_file(directory, topic)) for topic in topics}
    if as_json:
        print_json({"ca": str(directory / "ca.pem"), "push_certificates": files})
        return
    echo(f"CA: {directory / 'ca.pem'}")
    for file in files.values():
        echo(f"Push certificate and key: {file}")


@simulate.command()
@click.option(
    "--directory",
    type=_DIRECTORY,
    required=True,
    help="Where the CA and the push certificates are; they are made if they are missing.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    help="Port on this machine, 0 for any free one.",
)
@click.option(
    "--latency",
    type=click.FloatRange(0, 60),
    default=0.05,
    show_default=True,
    help="Seconds to an answer.",
)
@click.option(
    "--streams",
    type=click.IntRange(1, 100_000),
    default=1000,
    show_default=True,
    help="How many pushes a connection may have under way.",
)
@click.option(
    "--topic", "topics", multiple=True, help="Make a push certificate for it. May be repeated."
)
def apns(directory: Path, port: int, latency: float, streams: int, topics: tuple[str, ...]) -> None:
    """
    Run a simulated push service, until Ctrl-C.

    It prints where it listens, which the server gets with --apns-url, and at the end,
    or at SIGUSR1, what it has seen. Simulated devices with the same --directory hear of
    their pushes.
    """
    from nanomdm.sim.apns_program import APNsOptions, run

    with _failures():
        _directory_ca(directory, create=True)
    run(APNsOptions(directory=directory, port=port, latency=latency, streams=streams, topic=topics))


def _url(context: click.Context, option: click.Parameter, value: str) -> SplitResult:
    """
    Read the server's URL.
    """
    url = parse_url(value, "https://host")
    if url.query:
        raise click.BadParameter("there must be no query")
    return url


@simulate.command()
@click.option(
    "--url",
    required=True,
    callback=_url,
    envvar="NANOMDM_SERVER",
    help="The server, without /mdm; also from NANOMDM_SERVER.",
)
@click.option(
    "--count",
    type=click.IntRange(1, 100_000),
    default=10,
    show_default=True,
    help="How many devices.",
)
@click.option(
    "--directory",
    type=_DIRECTORY,
    help="Where the CA is, and where the simulated push service runs that tells of pushes.",
)
@click.option("--ca-cert", type=_FILE, help="PEM file of the CA, instead of --directory.")
@click.option("--ca-key", type=_FILE, help="PEM file of its private key.")
@click.option(
    "--type",
    "kind",
    type=click.Choice(_KINDS),
    default="mac",
    show_default=True,
    help="What they are; byod are iPads that belong to their users.",
)
@click.option("--topic", default=_TOPIC, show_default=True, help="Their push topic.")
@click.option(
    "--concurrency",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    help="How many speak to the server at once, at most.",
)
@click.option(
    "--interval",
    type=click.FloatRange(0, min_open=True),
    help="Seconds, about, after which a device connects without a push; never if there is"
    f" a push service, {_UNPUSHED:g} otherwise.",
)
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="Stop after so long.")
@click.option(
    "--not-now",
    type=click.FloatRange(0, 100),
    default=0,
    metavar="PERCENT",
    help="In how many of their connections devices are busy and say NotNow.",
)
@click.option(
    "--state",
    type=_DIRECTORY,
    help="Directory where devices are kept, so that the same ones are there the next time.",
)
@click.option(
    "--server-ca",
    type=_FILE,
    envvar="NANOMDM_SERVER_CA",
    help="PEM file of the root CAs that the server must chain to, instead of the system's.",
)
@click.option(
    "--anywhere",
    is_flag=True,
    help="Also at a server with a public address: its database gets these devices.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def devices(
    url: SplitResult,
    directory: Path | None,
    ca_cert: Path | None,
    ca_key: Path | None,
    server_ca: Path | None,
    anywhere: bool,
    state: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """
    Let simulated devices enroll at a server, connect and answer commands, until Ctrl-C.

    Only at a server on this machine or in a private network, since its database gets
    these devices for good. The exit status is 1 if some could not enroll.
    """
    if not anywhere:
        _refuse_public(url.hostname or "")
    with _failures():
        issuer = _issuer(directory, ca_cert, ca_key)
        members = _members(issuer, state, options)
        roots = [] if server_ca is None else load_certificates(server_ca, "--server-ca")
        pushes = directory if directory is not None and _has_feed(directory) else None
        tally = _run(url, members, pushes, state, roots, options)
    enrolled = tally.enrolled == len(members.active)
    _tell(tally, len(members.active), as_json)
    if not enrolled:
        raise click.exceptions.Exit(1)


def _run(
    url: SplitResult,
    members: FleetMembers,
    pushes: Path | None,
    state: Path | None,
    roots: Any,
    options: dict[str, Any],
) -> Tally:
    from nanomdm.sim.fleet import Habits
    from nanomdm.sim.fleet_program import Run, run_fleet

    interval = options["interval"]
    if interval is None and pushes is None:
        interval = _UNPUSHED
    habits = Habits(
        concurrency=options["concurrency"], interval=interval, not_now=options["not_now"]
    )
    show = _shower(len(members.active))
    try:
        return run_fleet(
            Run(
                url=url.geturl().rstrip("/"),
                members=members,
                habits=habits,
                roots=roots,
                pushes=pushes,
                state=state,
                seconds=options["seconds"],
                show=show,
            )
        )
    finally:
        if sys.stderr.isatty():
            sys.stderr.write(_CLEAR_LINE)


def _refuse_public(host: str) -> None:
    """
    @raise click.UsageError: the host has a public address, or none.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        text = getattr(error, "strerror", None) or error
        raise click.UsageError(f"--url: {host}: {text}") from None
    for *_, address in found:
        # A zone may follow (RFC 4007 section 11).
        ip = ipaddress.ip_address(str(address[0]).partition("%")[0])
        if not ip.is_private:
            raise click.UsageError(
                f"--url: {host} has the public address {ip}, and simulated devices would stay"
                " in its database; give --anywhere if that is meant"
            )


def _issuer(directory: Path | None, cert: Path | None, key: Path | None) -> ThrowawayCA:
    from nanomdm.sim.ca import ThrowawayCA

    if (cert is None) != (key is None):
        raise click.UsageError("--ca-cert and --ca-key belong together")
    if cert is not None and key is not None:
        return ThrowawayCA.load(cert, key)
    if directory is None:
        raise click.UsageError("whose identities? Give --directory, or --ca-cert and --ca-key")
    return _directory_ca(directory, create=False)


def _directory_ca(directory: Path, create: bool) -> ThrowawayCA:
    from nanomdm.sim.ca import ThrowawayCA

    if not create and not (directory / "ca.pem").exists():
        raise click.UsageError(
            f"--directory: {directory} has no ca.pem (nanomdmctl simulate ca makes one)"
        )
    private_directory(directory)
    return ThrowawayCA.load_or_create(directory)


def _members(ca: ThrowawayCA, state: Path | None, options: dict[str, Any]) -> FleetMembers:
    from nanomdm.sim.fleet_members import FleetMembers, FleetPlan

    plan = FleetPlan(count=options["count"], kind=options["kind"], topic=options["topic"])
    members = FleetMembers.new(plan, ca) if state is None else FleetMembers.load(state, plan, ca)
    with progress_bar("Identities", plan.count - len(members.active)) as advance:
        for _ in members.make():
            advance(1)
    return members


def _has_feed(directory: Path) -> bool:
    from nanomdm.sim.feed import feed_file

    if feed_file(directory).exists():
        return True
    say(f"No simulated push service runs with {directory}: devices connect by themselves only.")
    return False


def _shower(count: int) -> Callable[[Tally], None]:
    """
    @return: shows how a fleet is getting on: on a terminal always, otherwise once all
        devices are enrolled.
    """
    said: list[int] = []

    def show(tally: Tally) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(_CLEAR_LINE + _summary(tally, count))
            sys.stderr.flush()
        elif tally.enrolled == count and not said:
            said.append(count)
            say(f"Enrolled: {count}")

    return show


def _summary(tally: Tally, count: int) -> str:
    counts = {
        "enrolled": f"{tally.enrolled}/{count}",
        "connects": tally.connects,
        "pushes": tally.pushes,
        **{status: number for status, number in sorted(tally.answers.items())},
        "failures": tally.failures,
    }
    return ", ".join(f"{name} {number}" for name, number in counts.items())


def _tell(tally: Tally, count: int, as_json: bool) -> None:
    for text, number in tally.errors.most_common():
        say(f"{number} times: {text}")
    if not as_json:
        echo(_summary(tally, count))
        return
    print_json(
        {
            "devices": count,
            "enrolled": tally.enrolled,
            "connects": tally.connects,
            "pushes": tally.pushes,
            "answers": dict(sorted(tally.answers.items())),
            "commands": dict(sorted(tally.commands.items())),
            "failures": tally.failures,
            "errors": dict(tally.errors.most_common()),
        }
    )


@contextmanager
def _failures() -> Iterator[None]:
    """
    Turn what goes wrong into one line for the operator.
    """
    try:
        yield
    except (NanoMDMError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
