"""
Whom the server talks to: APNs, the webhook's receiver, and others.
"""

from __future__ import annotations

import base64
import http.client
import os
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from nanomdm.ctl.checks.finding import TIMEOUT, Finding, Findings, fail, ok
from nanomdm.ctl.connection import USER_AGENT, connection_to, reason
from nanomdm.errors import ConfigError
from nanomdm.options import Settings
from nanomdm.push.address import APNsURL, ProxyURL, proxy_to_use

#: Bytes of what a proxy answers before there is a tunnel.
_LARGEST_HEAD: Final = 16 << 10

_CONNECTED: Final = re.compile(rb"HTTP/1\.[0-9] 2[0-9]{2}[ \r]")

_H2: Final = "h2"


def check_apns(settings: Settings) -> Findings:
    """
    Connect to APNs as far as the protocol is agreed on; nothing is pushed.
    """
    url = settings.apns_url
    try:
        proxy = proxy_to_use(settings.apns_proxy, os.environ, url)
    except ConfigError as error:
        yield fail("apns", str(error), "The server does not start with it.")
        return
    by = f" through the proxy {proxy.host_and_port}" if proxy else ""
    where = f"{url.host_and_port}{by}"
    try:
        trust = ssl.create_default_context(cafile=settings.apns_ca)
        trust.set_alpn_protocols([_H2])
        with (
            _tunnel(url, proxy) as tunnel,
            trust.wrap_socket(tunnel, server_hostname=url.host) as secure,
        ):
            agreed = secure.selected_alpn_protocol()
    except (OSError, ConnectionError) as error:
        yield _unreachable("apns", where, error, "Does a firewall or proxy stand in between?")
        return
    if agreed != _H2:
        advice = "Something in between breaks TLS open; it must let this host pass."
        yield fail("apns", f"{where} does not speak HTTP/2", advice)
        return
    yield ok("apns", f"{where} can be reached")


@contextmanager
def _tunnel(url: APNsURL, proxy: ProxyURL | None) -> Iterator[socket.socket]:
    nearest = proxy or url
    connection = socket.create_connection((nearest.host, nearest.port), TIMEOUT)
    with closing(connection):
        if proxy is not None:
            _ask(connection, url, proxy)
        yield connection


def _ask(connection: socket.socket, url: APNsURL, proxy: ProxyURL) -> None:
    """
    Have a proxy open a tunnel (RFC 9110 section 9.3.6).

    @raise ConnectionError: it does not.
    """
    target = url.host_and_port
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.credentials is not None:
        basic = base64.b64encode(proxy.credentials).decode()
        lines.append(f"Proxy-Authorization: Basic {basic}")
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    head = b""
    while b"\r\n\r\n" not in head:
        # No more than the head: what follows is the other side's.
        byte = connection.recv(1)
        if not byte or len(head) > _LARGEST_HEAD:
            raise ConnectionError("the proxy does not open a tunnel")
        head += byte
    if not _CONNECTED.match(head):
        status = head.partition(b"\r\n")[0][:40].decode("ascii", "replace")
        raise ConnectionError(f"the proxy answers {status}")


def check_webhook(settings: Settings) -> Findings:
    """
    See whether the webhook's receiver answers anything; it gets no event.
    """
    if settings.webhook_url is not None:
        yield _answers("webhook-url", settings.webhook_url, settings.webhook_ca)


def check_others(settings: Settings) -> Findings:
    """
    See whether the other servers that are asked for something are there.
    """
    for option, url in (
        ("dm", settings.dm),
        ("token-url", settings.token_url),
        ("auth-proxy-url", settings.auth_proxy_url),
    ):
        if url is not None:
            yield _answers(option, url, None)


def _answers(option: str, value: str, ca: Path | None) -> Finding:
    """
    @param value: a URL; only its host is shown, as the rest may be a secret.
    @param ca: further roots that it may chain to.
    """
    url = urlsplit(value)
    trust = ssl.create_default_context()
    try:
        if ca is not None:
            trust.load_verify_locations(ca)
        status = _head(url, trust)
    except (OSError, http.client.HTTPException) as error:
        return _unreachable(option, url.netloc, error, f"Is --{option} right, does it run?")
    return ok(option, f"{url.netloc} answers (HTTP {status} to HEAD)")


def _head(url: SplitResult, trust: ssl.SSLContext) -> int:
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    with closing(connection_to(url, trust, TIMEOUT)) as connection:
        connection.request("HEAD", target, headers={"User-Agent": USER_AGENT})
        return connection.getresponse().status


def _unreachable(check: str, where: str, error: Exception, advice: str) -> Finding:
    if isinstance(error, ssl.SSLCertVerificationError):
        return fail(check, f"{where}: its certificate: {error.verify_message}", advice)
    if isinstance(error, TimeoutError):
        return fail(check, f"{where}: no answer within {TIMEOUT:g} s", advice)
    return fail(check, f"{where}: {reason(error)}", advice)
