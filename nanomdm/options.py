"""
Every option of the server, in one table: the fields of L{Settings}, each of one
option but for the storages, which three describe.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import attrs

from nanomdm.log import RENDERERS
from nanomdm.storage.settings import DEFAULT_FILE, KINDS, StorageSettings
from nanomdm.values import address, boolean, choice, field_name, integer, readable_file, text

_CENTURY_DAYS: Final = 36500
_CENTURY_SECONDS: Final = _CENTURY_DAYS * 86400
_HIGHEST_SIZE: Final = 2**31 - 1


@attrs.frozen
class Option:
    """
    One option.

    @ivar name: its name, as in C{--name}.
    @ivar help: what it does.
    @ivar default: the text that is parsed when nothing is given; L{None} when
        there is no default.
    @ivar parse: makes the value from the text; raises
        L{nanomdm.errors.ConfigError} with what is wrong with it.
    @ivar repeatable: whether the flag may be given several times.
    """

    name: str
    help: str
    default: str | None
    parse: Callable[[str], Any]
    repeatable: bool = False

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


#: The options that describe storages; a set of them is one storage.
STORAGE_OPTIONS: Final = (
    Option(
        "storage",
        "Where data is kept: sqlite (a file), inmem (in memory, lost at exit), mysql "
        "(MySQL or MariaDB) or pgsql (PostgreSQL). Given several times, with as many of "
        "--storage-dsn, the first storage answers and the others get the same writes",
        "sqlite",
        choice(*KINDS),
        repeatable=True,
    ),
    Option(
        "storage-dsn",
        "SQLite database file, created if missing, or where the server is: "
        "mysql://user:password@host:port/database, user:password@tcp(host:port)/database, "
        "postgres://user:password@host:port/database. Empty for inmem among several",
        DEFAULT_FILE,
        text,
        repeatable=True,
    ),
    Option(
        "storage-options",
        "name=value,name=value: delete, retention; with mysql and pgsql also pool_size, "
        "conn_max_lifetime, conn_max_idle_time, auto_migrate, replica_dsn (the last one)",
        None,
        text,
        repeatable=True,
    ),
)


@attrs.frozen(kw_only=True)
class Settings:
    """
    How the server is configured: one attribute for each option, named as the
    option is, with underscores for dashes, but for the storages.  Paths are
    absolute.

    @ivar listen: for L{nanomdm.listen.endpoint_description}.
    @ivar storages: at least one; the first answers.
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
    storages: tuple[StorageSettings, ...] = attrs.field(
        factory=lambda: (StorageSettings(),), metadata={"options": STORAGE_OPTIONS}
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


def _options(field: attrs.Attribute[Any]) -> tuple[Option, ...]:
    if "options" in field.metadata:
        options: tuple[Option, ...] = field.metadata["options"]
        return options
    return (Option(name=field.name.replace("_", "-"), **field.metadata),)


#: Every option, in the order in which they are shown.
OPTIONS: Final = tuple(option for field in attrs.fields(Settings) for option in _options(field))
