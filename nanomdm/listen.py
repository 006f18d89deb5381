"""
From C{--listen} to the description of a Twisted endpoint.
"""

from __future__ import annotations

import re
import socket
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from twisted.internet.endpoints import quoteStringArgument, serverFromString

from nanomdm.errors import ConfigError

_ADDRESS = re.compile(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<host>[^:\[\]]*)):(?P<port>[^:=]*)")
# "tcp:9000" has the form of a host and a port; but the only name of a host that
# is accepted is localhost.
_ENDPOINT_TYPE = re.compile("(?!localhost:)[a-z]+[0-9]*:")
_ENDPOINT_PORT = re.compile(r"(?:^|:)(?:tcp6?|ssl|tls):(?:port=)?(-?[0-9]+)(?=:|$)")
_HIGHEST_PORT = 65535
_TLS = re.compile("(?:haproxy:)*(?:ssl|tls):")
_TLS_METHOD = re.compile(r":(?:sslmethod=)?\w+_METHOD(?=:|$)")


def endpoint_description(listen: str) -> str:
    """
    The endpoint that an address means.

    @param listen: C{:9000} for all interfaces, C{127.0.0.1:9000},
        C{localhost:9000}, C{[::1]:9000}, or the description of an endpoint as
        L{serverFromString} takes it, which comes back as it is.  Port 0 is a
        free port that the system picks.
    @return: a description for L{serverFromString}.
    @raise ConfigError: it is none of these, or a part of it is wrong.
    """
    match = _ADDRESS.fullmatch(listen)
    if match is None or _ENDPOINT_TYPE.match(listen):
        return _checked(listen)
    port = _port(match["port"])
    if match["v6"] is not None:
        return _tcp6(port, match["v6"])
    if match["host"]:
        return _tcp(port, match["host"])
    return _tcp6(port, "::") if _dual_stack() else f"tcp:{port}"


def speaks_tls(description: str) -> bool:
    """
    @param description: of an endpoint.
    @return: whether the endpoint itself speaks TLS.
    """
    return _TLS.match(description) is not None


def _port(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) > _HIGHEST_PORT:
        raise ConfigError(f"{text!r} is not a port from 0 to {_HIGHEST_PORT}")
    return int(text)


def _tcp(port: int, host: str) -> str:
    try:
        address = "127.0.0.1" if host == "localhost" else str(IPv4Address(host))
    except AddressValueError:
        raise ConfigError(f"{host!r} is neither an IP address nor localhost") from None
    return f"tcp:{port}:interface={address}"


def _tcp6(port: int, host: str) -> str:
    try:
        address = str(IPv6Address(host))
    except AddressValueError:
        raise ConfigError(f"{host!r} is not an IPv6 address") from None
    return f"tcp6:{port}:interface={quoteStringArgument(address)}"


def _dual_stack() -> bool:
    """
    Whether a socket bound to C{::} takes IPv4 connections as well.
    """
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
            return probe.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0
    except OSError:
        return False


def _checked(description: str) -> str:
    """
    Build the endpoint once without a reactor: that finds an unknown type, a
    missing argument, an unreadable key and an absent socket of systemd.
    """
    for port in _ENDPOINT_PORT.findall(description):
        _port(port)
    if speaks_tls(description) and _TLS_METHOD.search(description):
        # Without it the endpoint keeps to these by itself.
        raise ConfigError(f"{description!r}: TLS is 1.2 or 1.3 here: leave sslmethod out")
    try:
        # Its parsers raise whatever their own int() or open() does.
        serverFromString(None, description)
    except Exception as error:
        raise ConfigError(
            f"{description!r} is neither an address with a port nor an endpoint: "
            f"{type(error).__name__}: {error}"
        ) from None
    return description
