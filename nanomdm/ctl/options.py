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

from nanomdm.ctl.client import Client, is_unicode
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
        client = _client(own.with_given(server=server, user=user, key=key, ca=ca))
        context.call_on_close(client.close)
        return command(*arguments, client=client, **options)

    for option in reversed(_OPTIONS):
        connected = option(connected)
    return connected


def _client(given: Profile) -> Client:
    if given.server is None:
        raise click.UsageError("--server: missing; it can be in NANOMDM_SERVER or ctl.toml too")
    key = given.key
    if key is None and sys.stdin.isatty():
        key = click.prompt("API key", hide_input=True, err=True)
    if key is None or not key.strip():
        raise click.UsageError("--key: missing; it can be in NANOMDM_KEY or ctl.toml too")
    return client_to(given.server, given.user, key, given.ca)


def client_to(
    server: str,
    user: str | None,
    key: str,
    ca: str | None,
    *,
    ca_option: str = "--ca",
    retry: bool = True,
) -> Client:
    """
    @param user: L{None} for the one of C{--api}.
    @param ca: the file with the root CAs, L{None} for the system's.
    @param ca_option: what names that file.
    @param retry: see L{Client}.
    @raise click.UsageError: one of them can not be meant.
    """
    url = _server(server)
    name = user or ADMIN_USER
    if ":" in name:
        raise click.UsageError("--user: there must be no colon")
    if not is_unicode(name + key):
        raise click.UsageError("--user and --key: must be UTF-8")
    try:
        trust = ssl.create_default_context(cafile=ca)
    except (OSError, ValueError) as error:
        text = getattr(error, "strerror", None) or str(error)
        raise click.UsageError(f"{ca_option}: {ca}: {text}") from None
    return Client(url, name, key, trust, retry)


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
