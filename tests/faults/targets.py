"""
Every parser of what comes from elsewhere, with what it may raise.

L{tests.faults.test_hostile} and L{tests.faults.fuzz} try them.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import plistlib
import re
import ssl
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from unittest import mock
from urllib.parse import quote

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.web.http import parse_qs

from nanomdm.config import from_file
from nanomdm.crypto import ber
from nanomdm.crypto.chain import ChainVerifier
from nanomdm.crypto.cms import SignatureVerifier, verify_detached
from nanomdm.crypto.header import certificate_from_header
from nanomdm.crypto.pushcert import parse_push_certificate
from nanomdm.errors import (
    BadSignature,
    ConfigError,
    IdentityError,
    MessageError,
    UntrustedCertificate,
)
from nanomdm.http.api.body import json_body
from nanomdm.http.api.keys import APIKeys, read_api_keys
from nanomdm.http.api.many import parse_ids
from nanomdm.http.api.plists import prefers_plist
from nanomdm.http.api.query import age, number, only, page, truth
from nanomdm.mdm.checkin import parse_checkin
from nanomdm.mdm.command import installs_mdm_profile, parse_command, parse_report
from nanomdm.mdm.plainjson import plain_dictionary
from nanomdm.mdm.plist import NESTED, parse
from nanomdm.options import OPTIONS
from nanomdm.sim.signing import sign_like_device, sign_modern
from nanomdm.storage.cursors import cursor_of, key_of
from nanomdm.storage.dsn import safe
from nanomdm.storage.settings import parse_dsn, parse_options
from tests import samples
from tests.crypto import build
from tests.faults import others, wires
from tests.faults.target import Target

NOW: Final = datetime(2026, 11, 20, tzinfo=UTC)

_ENCODING: Final = re.compile(rb"""\A(<\?xml[^>]*?)\s+encoding\s*=\s*("[^"]*"|'[^']*')""")


def same_as_plistlib(body: bytes) -> None:
    """
    Read a property list, which must mean what C{plistlib} says that it means, unless it
    is refused.
    """
    values = parse(body)
    # The declared encoding does not count here, and dates stay as they are.
    plain = _ENCODING.sub(rb"\1", body)
    with mock.patch("plistlib._date_from_string", lambda text, *_: text.strip()):
        expected = plistlib.loads(plain, fmt=plistlib.FMT_XML)
    # NaN is not equal to itself.
    if repr(values) != repr(expected):
        raise AssertionError(f"{values!r} is not {expected!r}")
    outermost = parse(body, keep=1)
    for key, value in values.items():
        assert outermost[key] is NESTED or repr(outermost[key]) == repr(value), key


def _messages() -> list[bytes]:
    captured = [path.read_bytes() for path in sorted(samples.MESSAGES.glob("*.plist"))]
    everything = {"i": -1, "r": 1.5, "d": NOW.replace(tzinfo=None), "l": [True, b"x"], "t": {}}
    return [
        *captured,
        samples.authenticate(),
        samples.token_update(),
        samples.report("Acknowledged", "C1", **everything),
        samples.command("C1", **everything),
        samples.install_mdm_profile("C1"),
        samples.checkin("DeclarativeManagement", Endpoint="status", Data=b"{}"),
    ]


_XML: Final = (
    *(b"<dict>", b"</dict>", b"<array>", b"</array>", b"<key>", b"</key>", b"<string>"),
    *(b"</string>", b"<integer>", b"</integer>", b"<real>", b"</real>", b"<date>", b"</date>"),
    *(b"<data>", b"</data>", b"<true/>", b"<false/>", b"<dict/>", b"<plist>", b"</plist>"),
    *(b'<?xml version="1.0" encoding="UTF-16"?>', b"<![CDATA[", b"]]>", b"<!--", b"-->", b"&#x0;"),
    *(b"<!DOCTYPE plist [", b"<!ENTITY a 'b'>", b"]>", b"&a;", b"&lt;", b"&#65;", b"nan", b"inf"),
)


@functools.cache
def chains() -> ChainVerifier:
    """
    Trusts L{build.ca}.
    """
    return ChainVerifier([build.ca().certificate], now=lambda: datetime.now(UTC))


def structures() -> list[bytes]:
    """
    CMS of many forms, over L{build.BODY} but for those that were captured.
    """
    rsa, ec = build.identity("rsa"), build.identity("p256")
    return [
        *(base64.b64decode(build.capture(number)) for number in (1, 2)),
        base64.b64decode(sign_like_device(rsa, build.BODY)),
        base64.b64decode(sign_modern(ec, build.BODY)),
        build.signed(rsa, digest="sha512", attributes=False, plain_rsa=True),
        build.signed(ec, digest="sha384", key_identifier=True),
    ]


def _headers() -> list[bytes]:
    return [base64.b64encode(structure) for structure in structures()]


def _certificates() -> list[bytes]:
    return [build.identity(kind).der for kind in ("rsa", "p256", "p384")]


def _certificate_headers() -> list[bytes]:
    identity = build.identity()
    escaped = [quote(identity.pem, safe=safe).encode() for safe in ("", "+=/")]
    return [b":" + base64.b64encode(identity.der) + b":", *escaped]


@functools.cache
def push_certificates() -> tuple[bytes, ...]:
    """
    Push certificates for an RSA key and for an EC key.
    """
    keys = [build.identity(kind).key for kind in ("rsa", "p256")]
    return tuple(build.ca().issue_push(samples.TOPIC, key=key).pem for key in keys)


def _pushed() -> list[bytes]:
    keys = [build.pem(build.identity(kind).key) for kind in ("rsa", "p256")]
    return [certificate + key for certificate, key in zip(push_certificates(), keys, strict=True)]


def _push_keys() -> list[bytes]:
    encoding = (Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return [build.identity(kind).key.private_bytes(*encoding) for kind in ("rsa", "p256")]


def _push_certificates() -> list[bytes]:
    return [ssl.PEM_cert_to_DER_cert(pem.decode()) for pem in push_certificates()]


def _push_key(data: bytes) -> None:
    """
    Read a key with its certificate, of whichever kind it is.
    """
    pem = b"-----BEGIN PRIVATE KEY-----\n%s\n-----END PRIVATE KEY-----\n"
    parse_push_certificate(b"".join(push_certificates()) + pem % base64.b64encode(data))


def _push_certificate(data: bytes) -> None:
    pem = ssl.DER_cert_to_PEM_cert(data).encode()
    parse_push_certificate(pem + build.pem(build.identity("p256").key))


def _text(data: bytes) -> str:
    """
    As an environment variable becomes text.
    """
    return data.decode("utf-8", "surrogateescape")


def _verify(header: bytes) -> None:
    SignatureVerifier().verify(header, build.BODY, chains())


def _reencode(data: bytes) -> None:
    ber.to_der(ber.parse(data))


def _dsn(kind: str, data: bytes) -> None:
    safe(kind, _text(data))
    parse_dsn(kind, _text(data))


def _storage_options(data: bytes) -> None:
    parse_options("mysql", _text(data))


def _option(data: bytes) -> None:
    OPTIONS[data[0] % len(OPTIONS) if data else 0].parse(_text(data[1:]))


def _file(read: Callable[[str], Any], data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(data)
        read(file.name)


def _options_of_file(path: str) -> None:
    list(from_file(path))


def request(query: bytes) -> Any:
    """
    What the functions for queries want of a request.
    """
    return SimpleNamespace(uri=b"/x?" + query, args=parse_qs(query, True))


def _query(data: bytes) -> None:
    asked = request(data)
    only(asked, "limit", "cursor", "since", "pending", "enabled")
    number(asked, "limit", 100, 1000)
    truth(asked, "pending")
    key = page(asked).cursor
    age(asked, "since", NOW)
    if key is not None:
        key_of(key, int, str)


def _cursor(data: bytes) -> None:
    encoded = base64.urlsafe_b64encode(data).decode().rstrip("=")
    for kinds in ((str,), (int, str), (datetime, str)):
        for cursor in (encoded, _text(data)):
            with contextlib.suppress(MessageError):
                key_of(cursor, *kinds)


def _header(read: Callable[[Any], object], data: bytes) -> None:
    headers = SimpleNamespace(getRawHeaders=lambda name, default: [data])
    read(SimpleNamespace(requestHeaders=headers))


_MYSQL: Final = (
    b"mysql://user:secret@host:3306/database?timeout=5s&tls=skip-verify",
    b"user:secret@tcp([::1]:3306)/database?charset=utf8mb4&readTimeout=1m",
    b"user:secret@unix(/run/mysqld/mysqld.sock)/database?parseTime=true",
)
_POSTGRES: Final = (
    b"postgres://user:secret@host:5432/database?sslmode=verify-full&connect_timeout=3",
    b"host=/run/postgresql user=user password='se cret' dbname=database port=5432",
)

_message: Final = functools.partial(Target, refusal=MessageError, seeds=_messages, words=_XML)

#: By name.
TARGETS: Final[dict[str, Target]] = {
    "plist": _message(same_as_plistlib),
    "checkin": _message(parse_checkin),
    "report": _message(parse_report),
    "command": _message(parse_command),
    "profile": Target(installs_mdm_profile, seeds=_messages, words=_XML),
    "plain-json": _message(plain_dictionary),
    "ber": Target(_reencode, ber.BERError, structures),
    "cms": Target(
        lambda data: verify_detached(data, build.BODY), BadSignature, structures, is_der=True
    ),
    "mdm-signature": Target(_verify, IdentityError, _headers),
    "certificate": Target(
        lambda data: chains().verify(data), UntrustedCertificate, _certificates, is_der=True
    ),
    "certificate-header": Target(
        certificate_from_header, seeds=_certificate_headers, words=(b"%0A", b"+", b":", b"%2B")
    ),
    "push-certificate": Target(
        parse_push_certificate, MessageError, _pushed, (b"-----BEGIN CERTIFICATE-----",)
    ),
    "push-key": Target(_push_key, MessageError, _push_keys, is_der=True),
    "push-certificate-der": Target(
        _push_certificate, MessageError, _push_certificates, is_der=True
    ),
    "mysql": Target(functools.partial(_dsn, "mysql"), ConfigError, lambda: _MYSQL),
    "postgres": Target(functools.partial(_dsn, "pgsql"), ConfigError, lambda: _POSTGRES),
    "storage-options": Target(
        _storage_options,
        ConfigError,
        lambda: [b"pool_size=3,retention=30d,replica_dsn=u:p@tcp(h:1)/d", b"delete=1"],
    ),
    "option": Target(
        _option,
        ConfigError,
        lambda: [
            *(bytes([n]) + (option.default or "").encode() for n, option in enumerate(OPTIONS)),
            *(bytes([n]) + b"http://[::1]:80/a?b" for n in range(len(OPTIONS))),
            b"\0unix:/run/x:mode=660",
            b"\0haproxy:tcp6:80:interface=\\:\\:1",
        ],
    ),
    "ini": Target(
        functools.partial(_file, _options_of_file),
        ConfigError,
        lambda: [
            b"[nanomdm]\nlisten = :9000\n# x\n; y\napi = 50%\n",
            b"[nanomdm]\napi = 50%\n  more\n",
        ],
        (b"[nanomdm]\n", b" = ", b"\n\t", b"[DEFAULT]", b"\xef\xbb\xbf"),
    ),
    "api-keys": Target(
        functools.partial(_file, lambda path: read_api_keys(Path(path))),
        ConfigError,
        lambda: [b"# x\nsome read " + b"0f" * 32 + b"\n"],
    ),
    "query": Target(
        _query,
        MessageError,
        lambda: [b"limit=10&cursor=WzEsICJhIl0&since=2026-11-20T10:00:00.5%2B01:00&pending=true"],
        (b"&", b"limit=9", b"since=30d", b"since=2026-13-01", b"since=0001-01-01T00:00:00-23:59"),
    ),
    "cursor": Target(
        _cursor,
        seeds=lambda: [
            cursor_of("a").encode(),
            cursor_of(1, "a").encode(),
            b'["2026-11-20 10:00:00.5", "a"]',
        ],
    ),
    "json": Target(
        lambda data: json_body(data, 1 << 20),
        MessageError,
        lambda: [b'{"priority": 10.0, "x": [1e999, NaN, null, "\\ud800"]}'],
        (b"1e400", b"NaN", b"Infinity", b"[[", b"\\u"),
    ),
    "ids": Target(parse_ids, MessageError, lambda: [b"A,B,A:B,%2C%00"]),
    "accept": Target(
        functools.partial(_header, prefers_plist),
        seeds=lambda: [b"text/xml;q=0.5, */*;q=0.1, application/json;q=1."],
    ),
    "authorization": Target(
        functools.partial(_header, APIKeys("key").identify),
        seeds=lambda: [b"Basic " + base64.b64encode(b"nanomdm:key")],
    ),
    **wires.TARGETS,
    **others.TARGETS,
}
