"""
Parsers of single values: from the text that somebody gave to an option to what
it means.  Each raises L{ConfigError} with what is wrong, for a message that
begins with where the text came from.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from hyperlink import URL

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

_LABEL: Final = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
# The last label is no number: such a name would be taken for an IPv4 address in one
# of its old notations.
_HOST: Final = re.compile(rf"(?=.{{1,253}}\Z)(?:{_LABEL}\.)*(?![0-9]+\Z){_LABEL}")
_HIGHEST_PORT: Final = 65535
_PORTS: Final = {"http": 80, "https": 443}
_HTTP_FORM: Final = "is not a URL such as http://host:port/path or https://host/path"


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


def whole_seconds(longest: str) -> Callable[[str], int]:
    """
    @param longest: the longest duration that is taken, for L{duration}.
    @return: a parser of durations in whole seconds, parts of which are rounded up.
        It raises L{ConfigError} for anything else.
    """

    def parse(value: str) -> int:
        exact = duration(value)
        if exact > duration(longest):
            raise ConfigError(f"{value!r} is more than {longest}")
        return math.ceil(exact)

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


def parsed_url(value: str, form: str) -> URL:
    """
    @param form: what to say of something that is no URL.
    @raise ConfigError: it is none.  The text quotes nothing of it: there may be a
        password in it.
    """
    try:
        return URL.from_text(text(value))
    except ValueError:
        raise ConfigError(form) from None


def host_of(url: URL) -> str:
    """
    @return: a name in lower case, or an IP address without brackets.
    @raise ConfigError: it is neither.
    """
    host = url.host.lower()
    try:
        return str(ip_address(host))
    except ValueError:
        if _HOST.fullmatch(host):
            return host
    raise ConfigError("has a host that is neither a name nor an IP address")


def port_of(url: URL, default: int) -> int:
    """
    @raise ConfigError: it is not from 1 to 65535.
    """
    # It is absent when the scheme is in capitals.
    port = default if url.port is None else url.port
    if not 1 <= port <= _HIGHEST_PORT:
        raise ConfigError(f"has a port that is not from 1 to {_HIGHEST_PORT}")
    return port


def http_url(value: str) -> str:
    """
    @return: an C{http} or C{https} URL, in ASCII, with its path and query.
    @raise ConfigError: it is none, or one with a user name or a fragment.  The text
        quotes nothing of it: path and query may hold a secret.
    """
    url = _http_url(value)
    return str(url.to_text())


def http_directory(value: str) -> str:
    """
    @return: the URL of what other URLs are below, with a slash at its end.
    @raise ConfigError: see L{http_url}; a query is not allowed either.
    """
    url = _http_url(value)
    if url.query:
        raise ConfigError("has a query, which nothing can be below of")
    return str(url.to_text()).rstrip("/") + "/"


def _http_url(value: str) -> URL:
    url = parsed_url(value, _HTTP_FORM)
    scheme = url.scheme.lower()
    if scheme not in _PORTS or not url.host:
        raise ConfigError(_HTTP_FORM)
    if url.userinfo:
        raise ConfigError("holds a user name, which is not supported")
    if url.fragment:
        raise ConfigError("holds a fragment (#...), which is never sent")
    host, port = host_of(url), port_of(url, _PORTS[scheme])
    # The host is ASCII already, and that of an IPv6 address could not be encoded.
    uri = url.replace(host="host", path=url.path or [""]).to_uri()
    return uri.replace(scheme=scheme, host=host, port=port)
