"""
Which storage there is to be: its kind, where it is, its options.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import attrs

from nanomdm.errors import ConfigError
from nanomdm.storage.dsn import parse_mysql, parse_postgres, safe
from nanomdm.values import bit, database_file, integer, limit, text

#: What C{--storage} takes.
KINDS: Final = ("sqlite", "inmem", "mysql", "pgsql")
_SERVERS: Final = ("mysql", "pgsql")

#: The DSN of sqlite when none is given.
DEFAULT_FILE: Final = "nanomdm.db"
_DSN_PARSERS: Final[dict[str, Callable[[str], object]]] = {
    "mysql": parse_mysql,
    "pgsql": parse_postgres,
}
_NAME: Final = re.compile("[A-Za-z0-9_-]{1,40}")
# A DSN may hold commas: everything behind this belongs to it.
_LAST: Final = "replica_dsn"


def _option(
    parse: Callable[[str], Any], default: Any, kinds: tuple[str, ...] = _SERVERS, **field: Any
) -> Any:
    return attrs.field(default=default, metadata={"parse": parse, "kinds": kinds}, **field)


@attrs.frozen(kw_only=True)
class StorageOptions:
    """
    What C{--storage-options} says about one storage.  Options that its kind does
    not have are at their default.

    @ivar delete: whether commands, with their results, are deleted once no
        enrollment has to answer them any more.
    @ivar retention: seconds after which answered commands and their results are
        deleted; L{None} to keep them.
    @ivar conn_max_lifetime: seconds after which a connection is replaced;
        L{None} for never.
    @ivar conn_max_idle_time: seconds after which an unused connection is
        replaced; L{None} for never.
    @ivar pool_size: connections at most.
    @ivar replica_dsn: a read replica, for the same parser as the DSN, which has
        accepted it; a secret.
    @ivar auto_migrate: whether missing tables, columns and indexes are made.
    """

    delete: bool = _option(bit, False, KINDS)
    retention: float | None = _option(limit("1h"), None, KINDS)
    conn_max_lifetime: float | None = _option(limit("1s"), 1800.0)
    conn_max_idle_time: float | None = _option(limit("1s"), 180.0)
    pool_size: int = _option(integer(1, 100), 5)
    auto_migrate: bool = _option(bit, True)
    replica_dsn: str | None = _option(text, None, repr=False)


_OPTIONS: Final = {field.name: field.metadata for field in attrs.fields(StorageOptions)}


def parse_options(kind: str, value: str) -> StorageOptions:
    """
    @param kind: one of L{KINDS}.
    @param value: C{name=value,name=value}; empty for the defaults.
        C{replica_dsn}, which may hold commas, must be the last.
    @raise ConfigError: the text begins with the name of the option at fault.
        Nothing is quoted that may be a secret.
    """
    pairs, marker, replica = _partition(value)
    given: dict[str, Any] = {}
    for pair in pairs.split(",") if pairs else ():
        name, equals, content = pair.partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise ConfigError("is not name=value,name=value")
        if name in given:
            raise ConfigError(f"{name}: given more than once")
        given[name] = _parse(kind, name, content)
    if marker:
        given[_LAST] = _parse(kind, _LAST, replica)
    return StorageOptions(**given)


def _partition(value: str) -> tuple[str, bool, str]:
    before, marker, after = f",{value}".partition(f",{_LAST}=")
    if marker and re.search(r",[a-z_]+=", after):
        raise ConfigError(f"{_LAST}: must be the last option; a comma in it is written %2C")
    return before[1:], bool(marker), after


def _parse(kind: str, name: str, content: str) -> object:
    if name not in _OPTIONS:
        raise ConfigError(f"{name}: no such storage option")
    if kind not in _OPTIONS[name]["kinds"]:
        raise ConfigError(f"{name}: storage {kind} does not have this option")
    try:
        if not content:
            raise ConfigError("must not be empty")
        parsed: object = _OPTIONS[name]["parse"](content)
        if name == _LAST:
            _DSN_PARSERS[kind](content)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    return parsed


def parse_dsn(kind: str, value: str | None) -> Path | str | None:
    """
    @param kind: one of L{KINDS}.
    @param value: the DSN; L{None} or empty if there is none.
    @return: an absolute path for sqlite, L{None} for inmem, and otherwise
        C{value}, which the engine's parser has accepted.
    @raise ConfigError: it is bad, missing, or there should be none.
    """
    if kind == "inmem":
        if value:
            raise ConfigError("storage inmem has no DSN")
        return None
    if kind == "sqlite":
        if value == "":
            raise ConfigError("must not be empty")
        return database_file(DEFAULT_FILE if value is None else value)
    if not value:
        raise ConfigError(f"required with storage {kind}")
    _DSN_PARSERS[kind](text(value))
    return value


@attrs.frozen(kw_only=True)
class StorageSettings:
    """
    One storage.

    @ivar kind: one of L{KINDS}.
    @ivar dsn: where it is: an absolute path for sqlite, L{None} for inmem, and
        otherwise what L{parse_mysql} or L{parse_postgres} takes; a secret.
    @ivar options: its options.
    """

    kind: str = "sqlite"
    dsn: Path | str | None = attrs.field(repr=False)
    options: StorageOptions = StorageOptions()

    @dsn.default
    def _default_dsn(self) -> Path | str | None:
        return parse_dsn(self.kind, None)

    @property
    def shown(self) -> str:
        """
        Where it is, for messages and the log: without the password.
        """
        if self.dsn is None:
            return "memory"
        return safe(self.kind, self.dsn) if isinstance(self.dsn, str) else str(self.dsn)
