"""
Every option of the server, in one table: the fields of L{Settings}.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import attrs

from nanomdm.errors import ConfigError
from nanomdm.listen import endpoint_description
from nanomdm.log import RENDERERS

# A field name (RFC 9110 section 5.1).
_FIELD_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TRUTH: Final = {"1": True, "true": True, "yes": True, "on": True}
_TRUTH.update({"0": False, "false": False, "no": False, "off": False})

_CENTURY_DAYS: Final = 36500
_CENTURY_SECONDS: Final = _CENTURY_DAYS * 86400
_HIGHEST_SIZE: Final = 2**31 - 1


def text(value: str) -> str:
    """
    @return: C{value}.
    @raise ConfigError: it is not Unicode text on one line, as an environment
        variable in another encoding is not.  The value is not quoted: it may be
        a secret.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigError("is not UTF-8") from None
    if not value.isprintable():
        raise ConfigError("holds a control character")
    return value


def address(value: str) -> str:
    """
    @return: C{value}, which messages show as it was given.
    @raise ConfigError: L{endpoint_description} can not make an endpoint of it.
    """
    endpoint_description(value)
    return value


def boolean(value: str) -> bool:
    """
    @return: what one of 1, 0, true, false, yes, no, on, off means.
    @raise ConfigError: it is none of them.
    """
    try:
        return _TRUTH[value.lower()]
    except KeyError:
        raise ConfigError(f"{value!r} is none of {', '.join(_TRUTH)}") from None


def field_name(value: str) -> str:
    """
    @return: the name of an HTTP header.
    @raise ConfigError: no header can have that name.
    """
    if not _FIELD_NAME.fullmatch(value):
        raise ConfigError(f"{value!r} is not the name of an HTTP header")
    return value


def readable_file(value: str) -> Path:
    """
    @return: the absolute path of a file that exists.
    @raise ConfigError: it can not be read.
    """
    path = Path(value).absolute()
    try:
        path.open("rb").close()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{value!r} can not be read: {reason}") from None
    return path


def database_file(value: str) -> Path:
    """
    @return: the absolute path of a database file, which need not exist: twistd
        may go to another directory before it is opened.
    @raise ConfigError: it is SQLite's notation for something that is no file.
    """
    if value.startswith((":", "file:")) or "\0" in value:
        raise ConfigError(f"{value!r} is not the path of a file")
    return Path(value).absolute()


def integer(lowest: int, highest: int) -> Callable[[str], int]:
    """
    @return: a parser of decimal numbers from C{lowest} to C{highest}, which
        raises L{ConfigError} for anything else.
    """

    def parse(value: str) -> int:
        if not re.fullmatch("[0-9]{1,18}", value) or not lowest <= int(value) <= highest:
            raise ConfigError(f"{value!r} is not a number from {lowest} to {highest}")
        return int(value)

    return parse


def choice(*values: str) -> Callable[[str], str]:
    """
    @return: a parser that takes C{values} only and raises L{ConfigError} for
        anything else.
    """

    def parse(value: str) -> str:
        if value not in values:
            raise ConfigError(f"{value!r} is not {' or '.join(values)}")
        return value

    return parse


@attrs.frozen
class Option:
    """
    One option.

    @ivar name: its name, as in C{--name}.
    @ivar help: what it does.
    @ivar default: the text that is parsed when nothing is given; L{None} when
        there is no default.
    @ivar parse: makes the value from the text; raises L{ConfigError} with what
        is wrong with it.
    """

    name: str
    help: str
    default: str | None
    parse: Callable[[str], Any]

    @property
    def is_switch(self) -> bool:
        """
        Whether the flag takes no value.
        """
        return self.parse is boolean


def _option(
    help: str,
    parse: Callable[[str], Any],
    default: str | None = None,
    **field: Any,
) -> Any:
    value = None if default is None else attrs.Factory(lambda: parse(default))
    metadata = {"help": help, "default": default, "parse": parse}
    return attrs.field(default=value, metadata=metadata, **field)


def _switch(help: str) -> Any:
    metadata = {"help": help, "default": None, "parse": boolean}
    return attrs.field(default=False, metadata=metadata)


@attrs.frozen(kw_only=True)
class Settings:
    """
    How the server is configured: one attribute for each option, named as the
    option is, with underscores for dashes.  Paths are absolute.

    @ivar listen: for L{endpoint_description}.
    @ivar storage_dsn: the database file; L{None} for the storage in memory.
    @ivar superseded_identity_grace: seconds.
    @ivar expired_identity_grace: days.
    @ivar max_body_size: bytes.
    """

    listen: str = _option(
        "Address and port to listen on: :9000 (all interfaces), 127.0.0.1:9000, [::1]:9000, "
        "or a Twisted endpoint such as unix:/run/nanomdm.sock or systemd:domain=INET:name=mdm",
        address,
        ":9000",
    )
    api: str | None = _option(
        "API key, the password of the user nanomdm. Without it there is no API",
        text,
        repr=False,
    )
    disable_mdm: bool = _switch("Serve the API only, no devices")
    ca: Path | None = _option(
        "PEM file of the root CAs that device identities must chain to. "
        "Required unless --disable-mdm",
        readable_file,
    )
    intermediate: Path | None = _option(
        "PEM file of intermediate CAs of device identities", readable_file
    )
    cert_header: str | None = _option(
        "Take the device identity from this HTTP header, set by a proxy in front, "
        "instead of Mdm-Signature",
        field_name,
    )
    checkin: bool = _switch("Serve check-ins on /checkin; /mdm then takes command results only")
    retro: bool = _switch(
        "Let an enrollment without a certificate association be associated "
        "by any of its requests, not by Authenticate only"
    )
    superseded_identity_grace: int = _option(
        "Seconds that the old certificate still works after a device enrolled again with a new one",
        integer(0, _CENTURY_SECONDS),
        "86400",
    )
    expired_identity_grace: int = _option(
        "Days that an expired certificate still works for the enrollment it is associated with",
        integer(0, _CENTURY_DAYS),
        "0",
    )
    ua_zl_dc: bool = _switch(
        "Answer UserAuthenticate with a zero-length DigestChallenge instead of 410"
    )
    storage: Literal["sqlite", "inmem"] = _option(
        "Where data is kept: sqlite (a file) or inmem (in memory, lost at exit)",
        choice("sqlite", "inmem"),
        "sqlite",
    )
    storage_dsn: Path | None = _option(
        "SQLite database file, created if missing", database_file, "nanomdm.db"
    )
    max_body_size: int = _option(
        "Bytes of the largest request body; a larger one is refused with 413",
        integer(1, _HIGHEST_SIZE),
        "67108864",
    )
    log_format: Literal["logfmt", "json"] = _option(
        "Log lines as logfmt (key=value) or json", choice(*RENDERERS), "logfmt"
    )
    debug: bool = _switch("Log debug messages too")


#: Every option, in the order in which they are shown.
OPTIONS: Final = tuple(
    Option(name=field.name.replace("_", "-"), **field.metadata) for field in attrs.fields(Settings)
)
