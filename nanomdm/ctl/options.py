"""
The options of the commands that use the API: which server, and who asks.
"""

from __future__ import annotations

import functools
import ipaddress
import ssl
import sys
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import SplitResult

import click

from nanomdm.ctl.client import Client
from nanomdm.ctl.connection import parse_url
from nanomdm.ctl.profile import Profile, profile_path, read_profile
from nanomdm.http.api.keys import ADMIN_USER

_OPTIONS: Final = (
    click.option(
        "--server",
        envvar="NANOMDM_SERVER",
        metavar="URL",
        help="The server, https://host; also from NANOMDM_SERVER or ctl.toml.",
    ),
    click.option(
        "--user",
        envvar="NANOMDM_USER",
        metavar="NAME",
        help=f"Name of the API key, {ADMIN_USER} if not given; also from NANOMDM_USER or ctl.toml.",
    ),
    click.option(
        "--key",
        envvar="NANOMDM_KEY",
        help="The API key. Better from NANOMDM_KEY or ctl.toml: others see the command line.",
    ),
    click.option(
        "--ca",
        envvar="NANOMDM_SERVER_CA",
        metavar="FILE",
        help="PEM file of the root CAs that the server must chain to, instead of the"
        " system's; also from NANOMDM_SERVER_CA or ctl.toml.",
    ),
    click.option(
        "--profile",
        envvar="NANOMDM_PROFILE",
        metavar="NAME",
        help="Which profile of ctl.toml; also from NANOMDM_PROFILE.",
    ),
)

#: For commands that can print JSON.
json_option: Final = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, for scripts."
)

#: For commands that print lists.
limit_option: Final = click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Not more than N."
)


def api_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """
    Give a command the options that say which server, and call it with a
    L{Client} as C{client}.
    """

    @click.pass_context
    @functools.wraps(command)
    def connected(
        context: click.Context,
        /,
        *arguments: Any,
        server: str | None,
        user: str | None,
        key: str | None,
        ca: str | None,
        profile: str | None,
        **options: Any,
    ) -> Any:
        own = read_profile(profile_path(), profile)
        given = Profile(
            server=server or own.server,
            user=user or own.user,
            key=key or own.key,
            ca=ca or own.ca,
        )
        client = _client(given)
        context.call_on_close(client.close)
        return command(*arguments, client=client, **options)

    for option in reversed(_OPTIONS):
        connected = option(connected)
    return connected


def _client(given: Profile) -> Client:
    if given.server is None:
        raise click.UsageError("--server: missing; it can be in NANOMDM_SERVER or ctl.toml too")
    server = _server(given.server)
    user = given.user or ADMIN_USER
    if ":" in user:
        raise click.UsageError("--user: there must be no colon")
    key = given.key
    if key is None and sys.stdin.isatty():
        key = click.prompt("API key", hide_input=True, err=True)
    if key is None or not key.strip():
        raise click.UsageError("--key: missing; it can be in NANOMDM_KEY or ctl.toml too")
    try:
        trust = ssl.create_default_context(cafile=given.ca)
    except (OSError, ValueError) as error:
        text = getattr(error, "strerror", None) or str(error)
        raise click.UsageError(f"--ca: {given.ca}: {text}") from None
    return Client(server, user, key, trust)


def _server(value: str) -> SplitResult:
    try:
        server = parse_url(value, "https://host")
    except click.BadParameter as error:
        raise click.UsageError(f"--server: {error.message}") from None
    if server.query:
        raise click.UsageError("--server: there must be no query")
    host = server.hostname or ""
    if server.scheme == "http" and not _is_loopback(host):
        click.echo(f"Warning: http://{host}: the key can be read on the way; use https", err=True)
    return server


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
