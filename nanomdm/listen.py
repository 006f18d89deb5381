"""
From C{--listen} to the description of a Twisted endpoint.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Any, Final

from OpenSSL import SSL, crypto
from twisted.internet.endpoints import quoteStringArgument, serverFromString

from nanomdm.errors import ConfigError

_ADDRESS = re.compile(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<host>[^:\[\]]*)):(?P<port>[^:=]*)")
# "tcp:9000" has the form of a host and a port; but the only name of a host that
# is accepted is localhost.
_ENDPOINT_TYPE = re.compile("(?!localhost:)[a-z]+[0-9]*:")
_HIGHEST_PORT = 65535
#: Connections that may wait for the server to notice them.  Of Twisted's own 50, more
#: devices at once are left for a second until they try again.
_BACKLOG = 1024
_TLS = re.compile("(?:haproxy:)*(?:ssl|tls):")
# Colons and equals signs that belong to a value have a backslash in front of them.
_PART = re.compile(r"(?:[^:\\]|\\.)*")
_NAMED = re.compile(r"((?:[^=\\]|\\.)*)=(.*)", re.DOTALL)

#: What the endpoints of Twisted take, in its order; each needs the first.
_PARAMETERS: Final = {
    "tcp": ("port", "interface", "backlog"),
    "tcp6": ("port", "backlog", "interface"),
    "unix": ("address", "mode", "backlog", "lockfile"),
    "systemd": ("domain", "index", "name"),
    "ssl": (
        *("port", "privateKey", "certKey", "sslmethod", "interface", "backlog"),
        *("extraCertChain", "dhParameters"),
    ),
}

_KINDS: Final = ", ".join(f"{kind}:" for kind in (*_PARAMETERS, "tls", "haproxy"))

#: What the values of some parameters have to be, whichever endpoint takes them.
_VALUES: Final = {
    "backlog": ("[0-9]{1,9}", "is not a number"),
    "index": ("[0-9]{1,9}", "is not a number"),
    "mode": ("[0-7]{1,4}", "is not an octal number such as 660"),
    "lockfile": ("[01]", "is neither 0 nor 1"),
    "domain": ("INET6?|UNIX", "is not INET, INET6 or UNIX"),
}


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
    return _tcp6(port, "::") if _dual_stack() else f"tcp:{port}:backlog={_BACKLOG}"


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
    return f"tcp:{port}:interface={address}:backlog={_BACKLOG}"


def _tcp6(port: int, host: str) -> str:
    try:
        address = str(IPv6Address(host))
    except AddressValueError:
        raise ConfigError(f"{host!r} is not an IPv6 address") from None
    return f"tcp6:{port}:interface={quoteStringArgument(address)}:backlog={_BACKLOG}"


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
    Look at each parameter, and build the endpoint once without a reactor: that finds an
    unreadable key and an absent socket of systemd.
    """
    inner = description
    while inner.startswith("haproxy:"):
        inner = inner.removeprefix("haproxy:")
    kind = inner.partition(":")[0]
    try:
        if kind in _PARAMETERS:
            _check_parameters(kind, inner)
        _check_endpoint(serverFromString(None, inner))
    except ConfigError as error:
        raise ConfigError(f"{description!r}: {error}") from None
    except (KeyError, IndexError):
        raise ConfigError(f"{description!r}: systemd passed no such socket") from None
    except (SSL.Error, crypto.Error):
        problem = "the private key or a certificate is unreadable or does not fit"
        raise ConfigError(f"{description!r}: {problem}") from None
    except OSError as error:
        raise ConfigError(f"{description!r}: {error.filename}: {error.strerror}") from None
    except Exception:
        # Parsers raise whatever their own code does, in words that are for programmers.
        raise ConfigError(
            f"{description!r} is neither an address with a port nor an endpoint: "
            f"such are :9000, [::1]:9000, and what begins with {_KINDS}"
        ) from None
    return description


def _check_parameters(kind: str, description: str) -> None:
    """
    @raise ConfigError: one is unknown, wrong, missing, or there twice.
    """
    given: set[str] = set()
    for name, value in _parameters(kind, description):
        if name not in _PARAMETERS[kind]:
            choices = ", ".join(_PARAMETERS[kind])
            raise ConfigError(f"{kind} has no {name!r}, only {choices}")
        if name in given:
            raise ConfigError(f"{name} is there twice")
        given.add(name)
        if name == "port":
            _port(value)
        elif name == "sslmethod":
            # Without it the endpoint keeps to these by itself.
            raise ConfigError("TLS is 1.2 or 1.3 here: leave sslmethod out")
        elif name in _VALUES and not re.fullmatch(_VALUES[name][0], value):
            raise ConfigError(f"{name}: {value!r} {_VALUES[name][1]}")
        elif not value:
            raise ConfigError(f"{name} is empty; a colon in a value is written \\:")
    if _PARAMETERS[kind][0] not in given:
        raise ConfigError(f"{_PARAMETERS[kind][0]} is missing")
    if kind == "systemd" and len(given) != 2:
        raise ConfigError("systemd takes either name or index")


def _parameters(kind: str, description: str) -> Iterator[tuple[str, str]]:
    """
    @return: names and values; those without a name have that of their position.
    """
    position = len(kind)
    names = iter(_PARAMETERS[kind])
    while position < len(description):
        match = _PART.match(description, position + 1)
        assert match is not None
        position = match.end()
        if description[position:] == "\\":
            raise ConfigError("ends in a backslash")
        named = _NAMED.fullmatch(match[0])
        if named is not None:
            yield named[1], named[2]
        elif (name := next(names, None)) is not None:
            yield name, match[0]
        else:
            raise ConfigError("has too many parts; a colon in a value is written \\:")


def _check_endpoint(endpoint: Any) -> None:
    """
    @param endpoint: any; that of a socket of systemd tells which one it is.
    @raise ConfigError: the socket does not listen, or is of another domain.  Addresses
        of clients would be wrong then.
    """
    number = getattr(endpoint, "fileno", None)
    if not isinstance(number, int):
        return
    with socket.socket(fileno=os.dup(number)) as passed:
        if not passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ConfigError("the socket that systemd passed does not listen: Accept=no is needed")
        if passed.family != endpoint.addressFamily:
            domain = passed.family.name.removeprefix("AF_")
            raise ConfigError(f"the socket that systemd passed is of domain={domain}")
