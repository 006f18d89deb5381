"""
Parsers of single values: from the text that somebody gave to an option to what
it means.  Each raises L{ConfigError} with what is wrong, for a message that
begins with where the text came from.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from nanomdm.errors import ConfigError
from nanomdm.listen import endpoint_description

# A field name (RFC 9110 section 5.1).
_FIELD_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TRUTH: Final = {"1": True, "true": True, "yes": True, "on": True}
_TRUTH.update({"0": False, "false": False, "no": False, "off": False})

# What the addresses of other databases have and paths of files do not.
_OTHER_DATABASE: Final = re.compile(r"://|@(?:tcp|unix)?(?:\(|/)|\bpassword\s*=")

_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3}
_SECONDS.update({"s": 1, "m": 60, "h": 3600, "d": 86400})
_DURATION_PART: Final = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)(ns|us|µs|μs|ms|s|m|h|d)")
_LONGEST_DURATION: Final = 36500 * 86400


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


def bit(value: str) -> bool:
    """
    @return: what 0 or 1 means.
    @raise ConfigError: it is neither.
    """
    if value not in ("0", "1"):
        raise ConfigError(f"{value!r} is not 0 or 1")
    return value == "1"


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
    @raise ConfigError: it is SQLite's notation for something that is no file, or
        the address of another database, which is not quoted: it may hold a
        password.
    """
    if _OTHER_DATABASE.search(value):
        raise ConfigError("is not the path of a file but the address of another kind of database")
    if value.startswith((":", "file:")) or "\0" in value:
        raise ConfigError(f"{value!r} is not the path of a file")
    return Path(value).absolute()


def duration(value: str) -> float:
    """
    @param value: numbers with units, such as C{30s}, C{1h30m}, C{1.5h} or
        C{30d}, as Go's C{time.ParseDuration} takes them, and days too; or C{0}.
    @return: seconds.
    @raise ConfigError: it is something else, or longer than a century.
    """
    if value == "0":
        return 0
    parts = _DURATION_PART.findall(value)
    if not parts or "".join(number + unit for number, unit in parts) != value:
        raise ConfigError(f"{value!r} is not a duration such as 30s, 3m or 1h30m")
    seconds: float = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if seconds > _LONGEST_DURATION:
        raise ConfigError(f"{value!r} is longer than a century")
    return seconds


def limit(lowest: str) -> Callable[[str], float | None]:
    """
    @param lowest: the shortest duration that makes sense, for L{duration}.
    @return: a parser of durations in seconds, in which C{0} and C{none} mean
        L{None}, no limit.  It raises L{ConfigError} for anything else.
    """

    def parse(value: str) -> float | None:
        if value == "none":
            return None
        seconds = duration(value)
        if 0 < seconds < duration(lowest):
            raise ConfigError(f"{value!r} is less than {lowest}")
        return seconds or None

    return parse


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
    listed = " or ".join(filter(None, (", ".join(values[:-1]), values[-1])))

    def parse(value: str) -> str:
        if value not in values:
            raise ConfigError(f"{value!r} is not {listed}")
        return value

    return parse
