"""
DSNs: where a database server is, and who logs in there.

A DSN holds a password.  Whatever is wrong with a DSN, no message quotes a part
of it that may have been meant as one: nothing of it is quoted before it is clear
where user and password end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from nanomdm.errors import ConfigError
from nanomdm.storage.tls import TLS_PARAMETERS, tls_arguments
from nanomdm.values import duration, integer, text

_MYSQL_URL: Final = re.compile("mysql://", re.IGNORECASE)
_POSTGRES_URL: Final = re.compile("postgres(?:ql)?://")
# The keyword form of libpq.
_KEYWORDS: Final = re.compile(r"\s*\w+\s*=")
_BARE_PERCENT: Final = re.compile("%(?![0-9A-Fa-f]{2})")
_NAME: Final = re.compile(r"\w{1,40}")
_SECRET: Final = re.compile(r"\w*(?:password|secret|key)", re.IGNORECASE)

_MYSQL_FORMS: Final = (
    "is neither mysql://user:password@host:port/database "
    "nor user:password@tcp(host:port)/database nor user:password@unix(/path)/database"
)
_POSTGRES_FORMS: Final = (
    "is neither postgres://user:password@host:port/database nor host=... user=... dbname=..., "
    "as libpq reads them"
)
_ESCAPES: Final = (
    "user or password: '/', '?', '#' and '@' in them are written %2F, %3F, %23 and %40; "
    "'@' elsewhere %40 too"
)

# What Go's driver knows and nothing here needs: how it scans and quotes, what it
# lets a server ask for, the collation (columns have theirs).
_GO_ONLY: Final = frozenset(
    {
        "allowAllFiles",
        "allowCleartextPasswords",
        "allowFallbackToPlaintext",
        "allowNativePasswords",
        "allowOldPasswords",
        "checkConnLiveness",
        "clientFoundRows",
        "collation",
        "columnsWithAlias",
        "compress",
        "connectionAttributes",
        "interpolateParams",
        "loc",
        "maxAllowedPacket",
        "multiStatements",
        "parseTime",
        "rejectReadOnly",
        "timeTruncate",
    }
)
_TIMEOUTS: Final = {
    "timeout": "connect_timeout",
    "readTimeout": "read_timeout",
    "writeTimeout": "write_timeout",
}
_MYSQL_PARAMETERS: Final = _GO_ONLY | set(TLS_PARAMETERS) | {*_TIMEOUTS, "charset", "unix_socket"}
_UTF8: Final = frozenset({"utf8mb4", "utf8mb3", "utf8"})
# PyMySQL takes no longer one to connect.
_LONGEST_TIMEOUT: Final = 31536000

# Of C{shown}, in this order; names of both drivers.
_SHOWN: Final = (
    *("service", "host", "hostaddr", "port", "unix_socket"),
    *("user", "dbname", "database"),
)
_port: Final = integer(1, 65535)


def parse_mysql(dsn: str) -> dict[str, Any]:
    """
    Read the address of a MySQL or MariaDB server: a URL,
    C{mysql://user:password@host:port/database?name=value}, in which user,
    password, database and values may be percent-encoded, or what Go's driver
    takes (README of go-sql-driver/mysql, "DSN (Data Source Name)"),
    C{user:password@tcp(host:port)/database?name=value} and
    C{user:password@unix(/path)/database}, in which user and password are as they
    are.

    Parameters: C{timeout} (to connect), C{readTimeout} and C{writeTimeout}, as
    durations, with 0 for the default; C{unix_socket}; C{charset}, which must be
    UTF-8; those of L{tls_arguments}; and those that matter to Go's driver alone,
    which are not looked at.

    @return: keyword arguments for C{pymysql.connect}.  The password is in bytes,
        because PyMySQL would encode it as Latin-1, and Go's driver sends UTF-8.
        An empty user is left out.
    @raise ConfigError: a part is wrong, which the text names without quoting
        anything secret; or a certificate that it names can not be read.
    """
    arguments, parameters = _mysql(dsn)
    for name, argument in _TIMEOUTS.items():
        seconds = _duration(name, parameters.get(name, "0"))
        if seconds:
            arguments[argument] = seconds
    if not _UTF8.issuperset(parameters.get("charset", "utf8").lower().split(",")):
        raise ConfigError("charset: is not utf8mb4, utf8mb3 or utf8")
    if "unix_socket" in arguments and not set(TLS_PARAMETERS) & parameters.keys():
        # Nobody listens in between.
        return {**arguments, "ssl_disabled": True}
    return {**arguments, **tls_arguments(parameters)}


def _mysql(dsn: str) -> tuple[dict[str, Any], dict[str, str]]:
    """
    @return: arguments for where and who, and the parameters.
    """
    url = _MYSQL_URL.match(text(dsn))
    if url and re.search(r"@(?:tcp|unix)?\(", dsn):
        raise ConfigError("user:password@tcp(host:port)/database goes without mysql://")
    user, password, address, tail = _url_parts(dsn[url.end() :]) if url else _go_parts(dsn)
    database, _, query = tail.partition("?")
    arguments = {**address, "password": password, "database": _text("database", database)}
    if user:
        arguments["user"] = user
    if not database:
        raise ConfigError("database: missing")
    if "/" in database:
        raise ConfigError("database: '/' in it is written %2F")
    parameters = dict(_parameters(query, _MYSQL_PARAMETERS))
    if "unix_socket" in parameters:
        if arguments.pop("host", "localhost") not in ("localhost", "127.0.0.1"):
            raise ConfigError("unix_socket: has no meaning with another host")
        arguments.pop("port", None)
        arguments.update(_socket(parameters["unix_socket"]))
    return arguments, parameters


def _url_parts(rest: str) -> tuple[str, bytes, dict[str, Any], str]:
    """
    Behind C{mysql://}: user, password, address, and what follows the slash.
    """
    authority, slash, tail = _cut(rest, "[/?#]")
    if "@" in tail:
        raise ConfigError(_ESCAPES)
    if "@" not in authority:
        raise ConfigError("user: missing; a URL is mysql://user:password@host:port/database")
    if "#" in slash + tail:
        raise ConfigError("'#' is written %23")
    credentials, _, address = authority.rpartition("@")
    user, _, password = credentials.partition(":")
    return (
        _text("user", user),
        _decoded("password", password),
        _host_and_port(address),
        tail if slash == "/" else slash + tail,
    )


def _go_parts(dsn: str) -> tuple[str, bytes, dict[str, Any], str]:
    """
    As L{_url_parts}, of Go's form: the last slash ends the address, and the last
    "@" in front of it the password.
    """
    head, slash, tail = dsn.rpartition("/")
    credentials, at, network = head.rpartition("@")
    match = re.fullmatch(r"(tcp|unix|)(?:\((.*)\))?", network)
    if not slash or not at or "@" in tail or match is None:
        raise ConfigError(f"{_MYSQL_FORMS}; '/' and '@' in parameters are written %2F and %40")
    user, _, password = credentials.partition(":")
    address = match[2] or ""
    location = _socket(address) if match[1] == "unix" else _host_and_port(address)
    return user, password.encode(), location, tail


def _cut(value: str, pattern: str) -> tuple[str, str, str]:
    match = re.search(pattern, value)
    if match is None:
        return value, "", ""
    return value[: match.start()], match[0], value[match.end() :]


def _host_and_port(address: str) -> dict[str, Any]:
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+(?:%\w+)?)\]|([\w.-]*))(?::(.*))?", address)
    if match is None:
        raise ConfigError("host: is neither a name nor an IPv4 address nor an [IPv6 address]")
    return {
        "host": match[1] or match[2] or "127.0.0.1",
        "port": 3306 if match[3] is None else _checked_port(match[3]),
    }


def _checked_port(value: str) -> int:
    try:
        return _port(value)
    except ConfigError:
        # What stands there may be a password, with the host forgotten.
        raise ConfigError("port: is not a number from 1 to 65535") from None


def _socket(path: str) -> dict[str, Any]:
    if not path.startswith("/"):
        raise ConfigError("unix_socket: is not an absolute path")
    return {"unix_socket": path}


def _parameters(query: str, known: frozenset[str] | set[str]) -> Iterator[tuple[str, str]]:
    """
    @param query: where user and password are behind us.
    @return: names and decoded values.
    """
    seen: set[str] = set()
    for pair in query.split("&") if query else ():
        name, equals, value = pair.partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise ConfigError("parameters: are not name=value&name=value")
        if name not in known and any(map(_SECRET.match, (*seen, name))):
            # Its name may be a part of a secret.
            raise ConfigError("parameters: one is unknown; '&' in a value is written %26")
        if name not in known:
            raise ConfigError(f"{name}: no such parameter")
        if name in seen:
            raise ConfigError(f"{name}: given more than once")
        seen.add(name)
        yield name, _text(name, value)


def _duration(name: str, value: str) -> float:
    try:
        seconds = duration(value)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    if seconds > _LONGEST_TIMEOUT:
        raise ConfigError(f"{name}: is longer than a year")
    return seconds


def _decoded(part: str, value: str) -> bytes:
    if _BARE_PERCENT.search(value):
        raise ConfigError(f"{part}: '%' in it is written %25")
    decoded = unquote_to_bytes(value)
    if b"\0" in decoded:
        raise ConfigError(f"{part}: holds %00")
    return decoded


def _text(part: str, value: str) -> str:
    try:
        return _decoded(part, value).decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{part}: is not UTF-8") from None


def parse_postgres(dsn: str) -> str:
    """
    Check the address of a PostgreSQL server: what libpq takes ("Connection
    Strings" in PostgreSQL's documentation), a URL or keywords and values.

    @return: the same in keywords and values, for C{psycopg.connect}.
    @raise ConfigError: a part is wrong, which the text names without quoting
        anything secret; or psycopg is missing.
    """
    checked: str = _conninfo().make_conninfo(**_postgres(dsn))
    return checked


def _conninfo() -> Any:
    try:
        # As late as here: other storages work without it.
        from psycopg import conninfo
    except ImportError:
        raise ConfigError("needs psycopg: install nanomdm-twisted[pgsql]") from None
    return conninfo


def _postgres(dsn: str) -> Mapping[str, Any]:
    from_libpq = _conninfo()
    if not text(dsn).strip():
        raise ConfigError("must not be empty")
    if _POSTGRES_URL.match(dsn):
        _check_postgres_url(dsn)
    try:
        fields: Mapping[str, Any] = from_libpq.conninfo_to_dict(dsn)
    except Exception:
        # libpq's own message quotes what it did not understand.
        raise ConfigError(_unreadable(dsn)) from None
    for port in str(fields.get("port", "")).split(","):
        if port:
            _checked_port(port)
    if not re.fullmatch("[0-9]{0,9}", str(fields.get("connect_timeout", ""))):
        raise ConfigError("connect_timeout: is not a number of seconds")
    return fields


def _check_postgres_url(dsn: str) -> None:
    """
    Find what libpq would take for something else than it was meant to be, or
    refuse without saying which part it is.
    """
    authority, _, tail = _cut(_POSTGRES_URL.sub("", dsn, count=1), "/")
    credentials, _, address = authority.rpartition("@")
    if "@" in tail or "@" in credentials:
        raise ConfigError(_ESCAPES)
    user, _, password = credentials.partition(":")
    _text("user", user)
    _text("password", password)
    address, question, query = address.partition("?")
    if not re.fullmatch(r"(?:\[[^][]*\]|[^][:])*(?::[0-9]*(?:,.*)?)?", address):
        raise ConfigError("host or port: is not host:port or [IPv6 address]:port")
    database, _, rest = tail.partition("?")
    _text("host", address)
    _text("database", database)
    known = {*_libpq_keywords(), "ssl"}
    list(_parameters(query if question else rest, known))


def _libpq_keywords() -> set[str]:
    from psycopg import pq

    return {option.keyword.decode() for option in pq.Conninfo.get_defaults()}


def _unreadable(dsn: str) -> str:
    """
    @return: what is wrong with a DSN that libpq can not read.  Keywords are
        named if they stand in front of every password; behind it they may be
        the rest of one that holds spaces.
    """
    if _KEYWORDS.match(dsn):
        open_part = _SECRET.split(dsn, maxsplit=1)[0]
        for keyword in re.findall(r"(?:^|\s)(\w{1,40})\s*=", open_part):
            if keyword not in _libpq_keywords():
                return f"{keyword}: no such parameter"
        return f"{_POSTGRES_FORMS}; a value with spaces stands in '...'"
    return _POSTGRES_FORMS


def safe(kind: str, dsn: str) -> str:
    """
    @param kind: C{mysql} or C{pgsql}; what one takes for a user name can be a password
        to the other.
    @param dsn: for L{parse_mysql} or L{parse_postgres}.
    @return: host, port, database and user, for messages and the log; never a
        password.
    """
    try:
        parts = _postgres(dsn) if kind == "pgsql" else _mysql(dsn)[0]
    except ConfigError:
        return "unreadable DSN"
    return " ".join(f"{name}={parts[name]}" for name in _SHOWN if name in parts)
