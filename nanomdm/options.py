"""
Every option of the server, in one table: the fields of L{Settings}, each of one
option but for the storages, which three describe.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import attrs

from nanomdm.crypto.secretkeys import Keyring, parse_secret_keys
from nanomdm.http.limits import MAX_CONNECTIONS
from nanomdm.http.proxies import PRIVATE_NETWORKS, Networks, parse_networks
from nanomdm.log import RENDERERS
from nanomdm.push.address import APNsURL, ProxyURL, parse_apns_proxy, parse_apns_url
from nanomdm.service.tokens import TokenFile, token_files
from nanomdm.storage.settings import DEFAULT_FILE, KINDS, StorageSettings
from nanomdm.values import (
    address,
    bit,
    boolean,
    choice,
    field_name,
    http_directory,
    http_url,
    integer,
    readable_file,
    text,
    whole_seconds,
)

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
    @ivar apns_proxy: L{None} when the environment decides.
    @ivar push_expiration: seconds.
    @ivar webhook_max_age: seconds.
    @ivar repush: enrollments for each step of the schedule and minute; 0 for none.
    @ivar max_body_size: bytes.
    """

    listen: str = _option(
        "Address and port to listen on: :9000 (all interfaces), 127.0.0.1:9000, [::1]:9000, "
        "or a Twisted endpoint such as unix:/run/nanomdm/http.sock or systemd:domain=INET:name=mdm",
        address,
        ":9000",
    )
    tls_cert: Path | None = _option(
        "PEM file of the server's TLS certificate, the rest of its chain behind it. With it "
        "the server speaks TLS; SIGHUP makes it read its TLS files again",
        readable_file,
    )
    tls_key: Path | None = _option(
        "PEM file of the private key; not needed if that is in the file of --tls-cert",
        readable_file,
    )
    tls_client_ca: Path | None = _option(
        "PEM file of the CAs that clients are asked for a certificate of. Take the device "
        "identity from the TLS session instead of Mdm-Signature",
        readable_file,
    )
    api: str | None = _option(
        "API key, the password of the user nanomdm. Without it there is no API",
        text,
        repr=False,
    )
    api_key_file: Path | None = _option(
        "File of further API keys: in each line a name, which is the user name, a role (read, "
        "enqueue or admin) and the SHA-256 of the key. SIGHUP makes it be read again",
        readable_file,
    )
    api_secrets: bool = _option(
        "1 lets admins of the API read bootstrap tokens and unlock tokens; each time is logged",
        bit,
        "0",
    )
    metrics_listen: str | None = _option(
        "Address and port, or Twisted endpoint, of /metrics, /healthz and /readyz alone, for whom "
        "no key is asked. Without it /metrics is on --listen and takes an API key",
        address,
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
    trusted_proxies: Networks = _option(
        "Networks, separated by commas, from which --cert-header counts, and what "
        "X-Forwarded-For and the like say is passed on below /authproxy/",
        parse_networks,
        PRIVATE_NETWORKS,
    )
    checkin: bool = _switch("Serve check-ins on /checkin; /mdm then takes command results only")
    retro: bool = _switch(
        "Let an enrollment without a certificate association be associated "
        "by any of its requests, not by Authenticate only"
    )
    migration: bool = _switch(
        "Take the devices of another server over: check-in messages on /migration, from whoever "
        "has the API key. Needs --api, and --retro for the devices that come"
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
    webhook_url: str | None = _option(
        "URL that is told of every accepted request of a device", http_url, repr=False
    )
    webhook_hmac_key: str | None = _option(
        "Key to sign what --webhook-url is told with (X-Hmac-Signature)", text, repr=False
    )
    webhook_concurrency: int = _option(
        "Requests to --webhook-url at once, at most", integer(1, 256), "16"
    )
    webhook_max_age: int = _option(
        "How long the delivery of an event is tried again until it is given up and kept apart",
        whole_seconds("365d"),
        "3d",
    )
    webhook_idle: bool = _option("0 leaves out the devices that only ask for work", bit, "1")
    webhook_ca: Path | None = _option(
        "PEM file of root CAs that --webhook-url may chain to, besides the system's",
        readable_file,
    )
    dm: str | None = _option(
        "URL of the declarative management server; what devices ask for is below it",
        http_directory,
        repr=False,
    )
    dm_send_hmac_key: str | None = _option(
        "Key to sign requests to --dm with (X-Hmac-Signature)", text, repr=False
    )
    dm_recv_hmac_key: str | None = _option(
        "Key that answers of --dm must be signed with", text, repr=False
    )
    token: tuple[TokenFile, ...] = attrs.field(
        default=(),
        metadata={
            "help": "TYPE=FILE: answer GetToken for a service type, such as com.apple.maid, with "
            "the content of a file, which is read at the start. May be repeated",
            "default": None,
            "parse": token_files,
            "repeatable": True,
        },
    )
    token_url: str | None = _option(
        "URL that is asked for the tokens of all other service types", http_url, repr=False
    )
    auth_proxy_url: str | None = _option(
        "Pass what enrolled devices ask for below /authproxy/ on to below this URL",
        http_directory,
        repr=False,
    )
    escrow_key_unlock_url: str = _option(
        "Where Apple takes the Activation Lock off devices, for /v1/escrowkeyunlock",
        http_url,
        "https://deviceservices-external.apple.com/deviceservicesworkers/escrowKeyUnlock",
    )
    escrow_key_unlock_ca: Path | None = _option(
        "PEM file of root CAs that --escrow-key-unlock-url may chain to, besides the system's",
        readable_file,
    )
    storages: tuple[StorageSettings, ...] = attrs.field(
        factory=lambda: (StorageSettings(),), metadata={"options": STORAGE_OPTIONS}
    )
    secret_key_file: Path | None = _option(
        "File of keys, one in each line, with which push keys, bootstrap tokens and unlock tokens "
        "are encrypted in the database: by the first of them, the others only decrypt. NanoMDM "
        "can not read such a database. SIGHUP makes it be read again",
        readable_file,
    )
    secret_keys: Keyring | None = _option(
        "These keys themselves, separated by commas, instead of the file", parse_secret_keys
    )
    apns_url: APNsURL = _option(
        "Where Apple's push service is: https://host or https://host:port",
        parse_apns_url,
        "https://api.push.apple.com",
    )
    apns_ca: Path | None = _option(
        "PEM file of the root CAs that the push service must chain to, instead of the system's",
        readable_file,
    )
    apns_proxy: ProxyURL | Literal["none"] | None = _option(
        "HTTP proxy on the way to the push service: http://user:password@host:port, or none. "
        "Without it HTTPS_PROXY and NO_PROXY in the environment are followed",
        parse_apns_proxy,
    )
    apns_connections: int = _option(
        "Connections to the push service for each topic, at most; one unless its streams are all "
        "in use",
        integer(1, 100),
        "2",
    )
    push_expiration: int = _option(
        "How long the push service tries to reach a device that is off, up to 30d; 0 tries once",
        whole_seconds("30d"),
        "7d",
    )
    repush: int = _option(
        "Enrollments that are pushed to again each minute, for each step of the schedule, while "
        "they have commands outstanding and do not connect; 0 switches that off",
        integer(0, 6_000),
        "1000",
    )
    max_body_size: int = _option(
        "Bytes of the largest request body; a larger one is refused with 413",
        integer(1, _HIGHEST_SIZE),
        "67108864",
    )
    max_connections: int = _option(
        "Connections of clients that are served at once; the others are answered 503",
        integer(1, 1_000_000),
        str(MAX_CONNECTIONS),
    )
    log_format: Literal["logfmt", "json"] = _option(
        "Log lines as logfmt (key=value) or json", choice(*RENDERERS), "logfmt"
    )
    debug: bool = _switch("Log debug messages too")
    dump: bool = _switch(
        "Write the body of every device request and of its answer to standard output, secrets and "
        "all. Needs twistd -n"
    )

    @property
    def has_api(self) -> bool:
        """
        Whether there are keys for the API.
        """
        return self.api is not None or self.api_key_file is not None


def _options(field: attrs.Attribute[Any]) -> tuple[Option, ...]:
    if "options" in field.metadata:
        options: tuple[Option, ...] = field.metadata["options"]
        return options
    return (Option(name=field.name.replace("_", "-"), **field.metadata),)


#: Every option, in the order in which they are shown.
OPTIONS: Final = tuple(option for field in attrs.fields(Settings) for option in _options(field))
