"""
What the commands that speak HTTP have in common.
"""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import click

from nanomdm import __version__
from nanomdm.log import printable

#: Says who asks.
USER_AGENT: Final = f"nanomdmctl/{__version__}"

#: Characters of what a server says that are shown.
_SHOWN: Final = 200

#: Which members of a JSON object tell of an error.
_ERRORS: Final = ("error", "command_error", "push_error")


def parse_url(value: str, example: str) -> SplitResult:
    """
    @param example: what the URL is to look like, for the error.
    @raise click.BadParameter: it is no URL of HTTP, or holds what it must not.
    """
    try:
        url = urlsplit(value)
        known = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:
        known = False
    if not known or not value.isascii() or not value.isprintable() or " " in value:
        raise click.BadParameter(f"is not {example}")
    if url.username is not None or url.fragment:
        raise click.BadParameter("there must be no user and no fragment")
    return url


def connection_to(
    url: SplitResult, trust: ssl.SSLContext, timeout: float
) -> http.client.HTTPConnection:
    """
    @param timeout: seconds to connect, and without a word from the server.
    @return: connects when it is used and not connected.
    """
    host, port = url.hostname or "", url.port
    if url.scheme == "https":
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=trust)
    return http.client.HTTPConnection(host, port, timeout=timeout)


def said(text: bytes) -> str:
    """
    @return: what a server says is wrong: as JSON, as this one does, or as text.
    """
    decoded = text.decode("utf-8", "replace")
    try:
        members: Any = json.loads(decoded)
        decoded = next(str(members[name]) for name in _ERRORS if name in members)
    except (ValueError, LookupError, TypeError, StopIteration, RecursionError):
        pass
    return printable(decoded.strip().partition("\n")[0])[:_SHOWN]


def reason(error: Exception) -> str:
    """
    @return: on one line, why a connection failed.
    """
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return printable(" ".join(str(text).split()))
