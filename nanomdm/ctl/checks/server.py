"""
The server that runs.
"""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping
from typing import Final

from nanomdm import __version__
from nanomdm.ctl.checks.database import clocks
from nanomdm.ctl.checks.finding import Finding, Findings, fail, ok, warn
from nanomdm.ctl.client import Answer, Client, Failed

#: Calls that change nothing and take a role each, and what they are answered then: a
#: push certificate must not be empty, and a push needs an id.
_PROBES: Final = (
    ("admin", "PUT", "/v1/pushcert", 400),
    ("enqueue", "GET", "/v1/push/", 400),
    ("read", "GET", "/v1/webhook/failed", 200),
)

#: What else they may be answered.
_REFUSED: Final = frozenset({401, 403, 404})


def check_server(client: Client, has_key: bool) -> Findings:
    """
    Look at a running server.

    @param has_key: whether there is an API key to try.
    """
    try:
        answer = client.get("/version")
        version = answer.json["version"]
    except (Failed, LookupError, TypeError) as error:
        yield fail("server", str(error), "Is --server right, and does the server run?")
        return
    yield _version(version)
    yield from _clock(answer.headers)
    yield _ready(client)
    if has_key:
        yield _key(client)


def _version(version: str) -> Finding:
    if version != __version__:
        text = f"it runs version {version}, and this is {__version__}"
        return warn("server", text, "Use the nanomdmctl of the same version.")
    return ok("server", f"it runs, version {version}")


def _clock(headers: Mapping[str, str]) -> Findings:
    try:
        there = email.utils.parsedate_to_datetime(headers["date"]).timestamp()
    except (LookupError, ValueError, TypeError):
        return
    # It tells whole seconds, and may have been under way for one.
    yield clocks("the server", max(0.0, abs(time.time() - there) - 2))


def _ready(client: Client) -> Finding:
    try:
        answer = client.request("GET", "/readyz", accepted={404, 503})
    except Failed as error:
        return fail("server", str(error), "See its log.")
    if answer.status == 404:
        text = "there is no /readyz"
        return warn("server", text, "Does a proxy in front pass it on? It is an older one else.")
    if answer.status == 503:
        return fail("server", f"it is not ready: {_said(answer)}", "See its log.")
    return ok("server", "it is ready")


def _said(answer: Answer) -> str:
    try:
        return str(answer.json["status"])
    except (Failed, LookupError, TypeError):
        return "no reason given"


def _key(client: Client) -> Finding:
    for role, method, path, expected in _PROBES:
        try:
            answer = client.request(method, path, accepted={expected, *_REFUSED})
        except Failed as error:
            return fail("key", str(error), "See the server's log.")
        if answer.status == expected:
            return ok("key", f"the server accepts it; its role is {role}")
        if answer.status == 401:
            return fail("key", "the server does not accept it", "See --key and --user.")
        if answer.status == 404:
            return fail("key", "there is no API", "It has one with --api or --api-key-file.")
    return fail("key", "it is good for nothing", "See the server's log.")
