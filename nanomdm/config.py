"""
The configuration: flags, environment and INI file become one L{Settings}.

A flag beats the environment, which beats the file, which beats the default; but
a bad value is an error wherever it stands, even where it would be overruled.
What a DSN or storage options mean depends on the kind of storage, so these are
understood only where they count.

Storages are described by sets of three options.  Each of the three is taken as
a whole from the strongest source that has it, so that the kind may stand in the
file and the DSN, with its password, in the environment; flags alone may be
repeated; and C{--token}.
Environment variables with the prefix that belong to no option are only warned of:
orchestrators set some on their own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from configparser import (
    ConfigParser,
    DuplicateOptionError,
    DuplicateSectionError,
    MissingSectionHeaderError,
    ParsingError,
)
from configparser import Error as INIError
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import attrs
from twisted.logger import Logger
from twisted.python import usage

from nanomdm import __version__, log
from nanomdm.errors import ConfigError
from nanomdm.listen import endpoint_description, speaks_tls
from nanomdm.options import OPTIONS, STORAGE_OPTIONS, Settings
from nanomdm.service.tokens import TokenFile
from nanomdm.storage.settings import StorageSettings, parse_dsn, parse_options

__all__ = ["Given", "Options", "Settings", "endpoint_description", "refuse", "resolve"]

_log = Logger(namespace="nanomdm")

_SECTION = "nanomdm"
_BY_NAME = {option.name: option for option in OPTIONS}

_T = TypeVar("_T")


@attrs.frozen
class Given:
    """
    A value that somebody gave to an option.

    @ivar name: the option's name.
    @ivar text: the value, not parsed; it may be a secret.
    @ivar origin: where it came from, for error messages.
    """

    name: str
    text: str = attrs.field(repr=False)
    origin: str


def from_flags(flags: Iterable[tuple[str, str]]) -> Iterator[Given]:
    """
    @param flags: option names and texts from the command line.
    """
    for name, value in flags:
        yield Given(name, value, f"--{name}")


def variable(name: str) -> str:
    """
    @return: the environment variable of an option.
    """
    return f"NANOMDM_{name.upper().replace('-', '_')}"


#: What orchestrators set by themselves for a service that is called nanomdm, and what
#: nanomdmctl reads.
_OTHERS = re.compile(
    "NANOMDM_(NAME|ENV_.*|SERVICE_.*|PORT(_.*)?|SERVER|SERVER_CA|USER|KEY|PROFILE)"
)


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """
    @return: environment variables that look like options and are none: mistyped,
        or of a part that this server does not have.
    """
    known = {variable(name) for name in (*_BY_NAME, "config")}
    return sorted(
        name
        for name in environ
        if name.startswith("NANOMDM_") and name not in known and not _OTHERS.fullmatch(name)
    )


def from_environment(environ: Mapping[str, str]) -> Iterator[Given]:
    """
    @param environ: environment variables; those of no option are passed over.
    """
    for name in _BY_NAME:
        if variable(name) in environ:
            yield Given(name, environ[variable(name)], variable(name))


def from_file(path: str) -> Iterator[Given]:
    """
    Read an INI file.  Blocks.

    @raise ConfigError: it can not be read, is no INI file, or holds something
        other than options in a section C{[nanomdm]}.
    """
    parser = _parse_file(path)
    for section in parser.sections():
        if section != _SECTION:
            raise ConfigError(f"{path}: unknown section [{section}]")
    for name, value in parser.items(_SECTION) if parser.has_section(_SECTION) else ():
        if name not in _BY_NAME:
            raise ConfigError(f"{path}: {name}: no such option")
        if "\n" in value:
            # An indented line continues the one before it, in INI files.
            raise ConfigError(f"{path}: {name}: goes on in an indented line")
        yield Given(name, value, f"{path}: {name}")


def _parse_file(path: str) -> ConfigParser:
    # No interpolation, so that "%" is nothing special; no section of defaults.
    parser = ConfigParser(
        interpolation=None,
        delimiters=("=",),
        default_section="",
        empty_lines_in_values=False,
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        parser.read_string(Path(path).read_text("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: can not be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8") from None
    except INIError as error:
        raise ConfigError(f"{path}: {_explain(error)}") from None
    return parser


def _explain(error: INIError) -> str:
    """
    What is wrong with an INI file, without the line itself: it may hold a key.
    """
    if isinstance(error, DuplicateOptionError):
        return f"{error.option}: given more than once"
    if isinstance(error, DuplicateSectionError):
        return f"section [{error.section}]: given more than once"
    if isinstance(error, MissingSectionHeaderError):
        return f"line {error.lineno}: [{_SECTION}] must come first"
    if isinstance(error, ParsingError) and error.errors:
        return f"line {error.errors[0][0]}: is neither 'name = value' nor a section"
    return "is not an INI file"


def resolve(given: Iterable[Given]) -> tuple[Settings, dict[str, str]]:
    """
    Parse everything, and check that it fits together.

    @param given: what was given, the weakest first.
    @return: the settings, and by option name where each value came from; options
        left at their default are not in there.
    @raise ConfigError: a value is bad, something is missing, or two options
        exclude each other.
    """
    values: dict[str, Any] = {}
    sets: dict[str, list[Any]] = {}
    origins: dict[str, str] = {}
    for one in given:
        value = _parse(one)
        if not _BY_NAME[one.name].repeatable:
            values[one.name.replace("-", "_")] = value
        elif origins.get(one.name) == one.origin:
            sets[one.name].append(value)
        else:
            sets[one.name] = [value]
        origins[one.name] = one.origin
    if "token" in sets:
        values["token"] = _tokens(sets["token"], origins["token"])
    settings = Settings(storages=_storages(sets, origins), **values)
    if settings.disable_mdm and not settings.has_api:
        raise ConfigError("nothing for server to do: --disable-mdm without --api")
    if settings.ca is None and not settings.disable_mdm:
        raise ConfigError("--ca: required unless --disable-mdm is given")
    for name in ("migration", "api-secrets"):
        if getattr(settings, name.replace("-", "_")) and not settings.has_api:
            raise ConfigError(f"{origins[name]}: needs --api or --api-key-file")
    if settings.dm is None:
        _refuse_parts(origins, "dm")
    if settings.webhook_url is None:
        _refuse_parts(origins, "webhook", "webhook-url")
    if settings.secret_keys is not None and settings.secret_key_file is not None:
        raise ConfigError(f"{origins['secret-keys']}: excludes --secret-key-file")
    _check_identity(settings, origins)
    return settings, origins


def _refuse_parts(origins: Mapping[str, str], of: str, needed: str | None = None) -> None:
    """
    Refuse options that say more about something that is not there.

    @param of: what their names begin with.
    @param needed: the option without which it is not there, if it has another name.
    """
    for name, origin in origins.items():
        if name.startswith(f"{of}-"):
            raise ConfigError(f"{origin}: needs --{needed or of}")


def _tokens(given: Iterable[tuple[TokenFile, ...]], origin: str) -> tuple[TokenFile, ...]:
    tokens = tuple(one for several in given for one in several)
    types = [one.service_type for one in tokens]
    if len(set(types)) < len(types):
        raise ConfigError(f"{origin}: names one type twice")
    return tokens


def _check_identity(settings: Settings, origins: Mapping[str, str]) -> None:
    """
    Refuse options about TLS and device identities that do not fit together.
    """
    if settings.tls_cert is None:
        for name in ("tls-key", "tls-client-ca"):
            if name in origins:
                raise ConfigError(f"{origins[name]}: needs --tls-cert")
    elif speaks_tls(settings.listen):
        raise ConfigError(f"{origins['tls-cert']}: --listen {settings.listen} speaks TLS by itself")
    # Who speaks TLS with this server itself is the client, and no proxy.
    proxied = settings.auth_proxy_url is not None and settings.tls_client_ca is None
    if settings.cert_header is None and not proxied and "trusted-proxies" in origins:
        needed = "--cert-header, or --auth-proxy-url without --tls-client-ca"
        raise ConfigError(f"{origins['trusted-proxies']}: needs {needed}")
    if settings.cert_header is not None and settings.tls_client_ca is not None:
        raise ConfigError(f"{origins['tls-client-ca']}: excludes --cert-header")


def _parse(given: Given) -> Any:
    option = _BY_NAME[given.name]
    # Among several storages, an empty flag stands for one that has none of it.
    placeholder = option.repeatable and given.origin == f"--{given.name}" and not given.text
    try:
        if not given.text.strip() and not placeholder:
            raise ConfigError("must not be empty")
        return option.parse(given.text)
    except ConfigError as error:
        raise ConfigError(f"{given.origin}: {error}") from None


def _storages(
    sets: Mapping[str, Sequence[str]], origins: Mapping[str, str]
) -> tuple[StorageSettings, ...]:
    """
    Put the storages together.

    @param sets: the values of L{STORAGE_OPTIONS} that were given, by name.
    @param origins: where they came from.
    """
    kinds = sets.get("storage", ["sqlite"])
    dsns = sets.get("storage-dsn", [None] if len(kinds) == 1 else [])
    options = sets.get("storage-options", [""] * len(kinds))
    if not len(kinds) == len(dsns) == len(options):
        counts = [
            f"{len(sets.get(option.name, ()))} of {origins.get(option.name, f'--{option.name}')}"
            for option in STORAGE_OPTIONS
        ]
        raise ConfigError(f"storages come in sets, but there are {', '.join(counts)}")
    storages = tuple(
        _storage(one, f" (storage {number})" if len(kinds) > 1 else "", origins)
        for number, one in enumerate(zip(kinds, dsns, options, strict=True), 1)
    )
    places = [storage.dsn for storage in storages if storage.dsn is not None]
    if len(set(places)) < len(places):
        raise ConfigError(f"{origins['storage-dsn']}: names one database twice")
    return storages


def _storage(
    one: tuple[str, str | None, str], which: str, origins: Mapping[str, str]
) -> StorageSettings:
    kind, dsn, options = one

    def understood(name: str, parse: Callable[[str, Any], _T], value: str | None) -> _T:
        try:
            return parse(kind, value)
        except ConfigError as error:
            origin = origins.get(name, f"--{name}")
            raise ConfigError(f"{origin}{which}: {error}") from None

    return StorageSettings(
        kind=kind,
        dsn=understood("storage-dsn", parse_dsn, dsn),
        options=understood("storage-options", parse_options, options),
    )


def refuse(error: Exception) -> NoReturn:
    """
    End the start of the server: one line on standard error, exit status 1.
    """
    raise SystemExit(f"twistd nanomdm: {log.printable(str(error))}")


class Options(usage.Options):
    """
    The command line of C{twistd nanomdm}.

    @param environ: the environment variables.
    @ivar settings: the result, once L{parseOptions} returned.
    @ivar origins: where each value came from, by option name, for messages about
        values that turn out to be bad later.
    """

    synopsis = "[options]"
    longdesc = (
        "Apple MDM server. Every option can also be given in the environment, as NANOMDM_ and "
        "its name in capitals with underscores for dashes, or in section [nanomdm] of the file "
        "that --config names; switches are 1 or 0 there. A flag beats the environment, which "
        "beats the file. --token may be repeated, and the storage flags, in sets of the same "
        "length."
    )
    optFlags = [[option.name, None, option.help] for option in OPTIONS if option.is_switch]
    optParameters = [
        *(
            [option.name, None, option.default, option.help]
            for option in OPTIONS
            if not option.is_switch
        ),
        ["config", None, None, "INI file to read options from"],
    ]

    settings: Settings
    origins: Mapping[str, str]

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ
        self._flags: list[tuple[str, str]] = []
        super().__init__()

    def __setitem__(self, name: str, value: object) -> None:
        """
        What the command line says, and nothing else, comes through here.
        """
        repeatable = name in _BY_NAME and _BY_NAME[name].repeatable
        if not repeatable and name in dict(self._flags):
            raise usage.UsageError(f"--{name}: given more than once")
        self._flags.append((name, "1" if value == 1 else str(value)))
        super().__setitem__(name, value)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """
        Parse the command line, the environment and the file, or end the process
        with one line that says what is wrong.
        """
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            refuse(ConfigError(f"{error}; see twistd nanomdm --help"))
        except ConfigError as error:
            refuse(error)

    def parseArgs(self, *arguments: str) -> None:
        """
        Refuse what is not an option, unseen: it may be half of a secret.
        """
        if arguments:
            raise usage.UsageError("takes options only, but other words follow")

    def opt_version(self) -> None:
        """
        Show the version and exit
        """
        print(f"nanomdm {__version__}")
        raise SystemExit(0)

    def postOptions(self) -> None:
        """
        Put everything together, and let twistd log as the settings say.
        """
        path, origin = dict(self._flags).get("config"), "--config"
        if path is None and variable("config") in self._environ:
            path, origin = self._environ[variable("config")], variable("config")
        if path is not None and not path.strip():
            raise ConfigError(f"{origin}: must not be empty")
        self.settings, self.origins = resolve(
            [
                *(from_file(path) if path is not None else ()),
                *from_environment(self._environ),
                *from_flags(flag for flag in self._flags if flag[0] != "config"),
            ]
        )
        for name in unknown_variables(self._environ):
            _log.warn("environment variable belongs to no option", name=name)
        if self.parent is not None:
            if self.settings.dump and not self.parent["nodaemon"]:
                raise ConfigError(f"{self.origins['dump']}: needs twistd -n")
            log.install(self.parent, self.settings.log_format, self.settings.debug)
