"""
Whatever comes from elsewhere is understood or refused, in the ways that there are for it.

C{FAULTS_EXAMPLES} says how many inputs are made up for each test; they are the same each
time, but for the keys and certificates in them.
"""

from __future__ import annotations

import json
import os
import plistlib
import re
import socket
from base64 import b64encode
from collections.abc import Callable, Iterable
from datetime import datetime
from importlib.resources import files
from random import Random
from typing import Any, Final
from urllib.parse import quote

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from twisted.internet.threads import deferToThread
from twisted.trial import util
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.errors import ConfigError, MessageError
from nanomdm.mdm.plist import MAX_DEPTH, parse
from nanomdm.storage.cursors import cursor_of
from nanomdm.storage.dsn import safe
from nanomdm.storage.settings import parse_dsn, parse_options
from tests import samples
from tests.faults import others, wires
from tests.faults.mutations import change_bytes, change_der
from tests.faults.target import Target
from tests.faults.targets import TARGETS, same_as_plistlib
from tests.http.case import KEY, ServerCase

EXAMPLES: Final = int(os.environ.get("FAULTS_EXAMPLES", "200"))

# Some changed certificates have such numbers and names, and cryptography warns of them.
suppress = [
    util.suppress(message="Parsed a serial number which wasn't positive"),
    util.suppress(message="Attribute's length must be"),
]

MESSAGES: Final = ("plist", "checkin", "report", "command", "profile", "plain-json")
IDENTITIES: Final = (
    *("ber", "cms", "mdm-signature", "certificate", "certificate-header"),
    *("push-certificate", "push-certificate-der", "push-key"),
)
OPTIONS: Final = ("mysql", "postgres", "storage-options", "option", "ini", "api-keys")
REQUESTS: Final = ("query", "cursor", "json", "ids", "accept", "authorization", "unlock-form")
OTHERS: Final = tuple(name for name in (*wires.TARGETS, *others.TARGETS) if name not in REQUESTS)

SEEDS: Final = st.integers(0, 2**64 - 1)


def each(
    *strategies: SearchStrategy[Any], times: int = 1
) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """
    Call a function with L{EXAMPLES} values of some strategies.

    @param times: how many times as many values there are to be.
    """

    def decorate(check: Callable[..., None]) -> Callable[[], None]:
        limits = settings(
            max_examples=EXAMPLES * times,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        called: Callable[[], None] = limits(given(*strategies)(check))
        return called

    return decorate


def inputs(target: Target) -> SearchStrategy[bytes]:
    """
    Bytes, text, what inputs are made of, and good inputs with one to four changes.
    """
    seeds = list(target.seeds())
    change = change_der if target.is_der else change_bytes

    def changed(data: bytes, changes: int, seed: int) -> bytes:
        rng = Random(seed)
        for _ in range(changes):
            data = change(data, rng) or change_bytes(data, rng)
        return data

    pieces = st.sampled_from([*target.words, b"=", b"\0"]) | st.binary(max_size=4)
    return st.one_of(
        st.binary(max_size=200),
        st.text().map(str.encode),
        st.lists(pieces).map(b"".join),
        st.builds(changed, st.sampled_from(seeds), st.integers(1, 4), SEEDS),
    )


class AnythingTests(SynchronousTestCase):
    """
    Each parser takes an input, or refuses it as it may.
    """

    suppress = suppress

    def tryAll(self, names: Iterable[str]) -> None:
        """
        Try inputs with some parsers.
        """
        for name in names:
            target = TARGETS[name]
            each(inputs(target))(target.try_)()

    def test_messages(self) -> None:
        self.tryAll(MESSAGES)

    def test_identities(self) -> None:
        self.tryAll(IDENTITIES)

    def test_options(self) -> None:
        self.tryAll(OPTIONS)

    def test_requests(self) -> None:
        self.tryAll(REQUESTS)

    def test_others(self) -> None:
        """
        Those at the other ends of connections, and what other programs have stored.
        """
        self.tryAll(OTHERS)

    def test_seeds(self) -> None:
        """
        Each parser has something to begin with that it takes, or it would only be tried
        how it refuses.
        """
        for name, target in TARGETS.items():
            self.assertTrue(any(self.isTaken(target, seed) for seed in target.seeds()), name)

    def isTaken(self, target: Target, data: bytes) -> bool:
        try:
            target.parse(data)
        except target.refusal:
            return False
        return True

    def test_nothingIsLeftOut(self) -> None:
        self.assertEqual(set(TARGETS), {*MESSAGES, *IDENTITIES, *OPTIONS, *REQUESTS, *OTHERS})


#: What XML can have; it makes a line feed of a carriage return.
TEXTS: Final = st.one_of(
    st.text(st.characters(exclude_categories=("Cc", "Cn", "Cs")) | st.sampled_from("\t\n")),
    st.sampled_from([" a\n", "\u00a0", "<&>]]>", "'\"", "\u0130\U0001f600", "0x1", "nan"]),
)
DATES: Final = st.datetimes(min_value=datetime(1000, 1, 1)).map(
    lambda one: one.replace(microsecond=0)
)
SCALARS: Final = st.one_of(
    TEXTS,
    DATES,
    st.booleans(),
    st.binary(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
)
VALUES: Final = st.recursive(
    SCALARS, lambda inside: st.lists(inside) | st.dictionaries(TEXTS, inside), max_leaves=8
)
PLISTS: Final = st.dictionaries(TEXTS, VALUES, max_size=5)


def as_text(value: Any) -> Any:
    """
    A property list whose dates are text.
    """
    if isinstance(value, dict):
        return {key: as_text(one) for key, one in value.items()}
    if isinstance(value, list):
        return [as_text(one) for one in value]
    return f"{value.isoformat()}Z" if isinstance(value, datetime) else value


def document(inside: bytes, declaration: bytes = b'<?xml version="1.0"?>') -> bytes:
    """
    A property list whose key C{a} has a value given as XML.
    """
    return declaration + b"<plist><dict><key>a</key>" + inside + b"</dict></plist>"


LAUGHS: Final = b"".join(b'<!ENTITY l%d "%s">' % (n, b"&l%d;" % (n - 1) * 10) for n in range(1, 10))

#: Long enough for a request's body, as it is limited at first.
LONG: Final = 64 << 20


class PropertyListTests(SynchronousTestCase):
    """
    L{parse} against C{plistlib}, and against those who know XML.
    """

    def test_roundTrip(self) -> None:
        @each(PLISTS)
        def check(values: dict[str, Any]) -> None:
            body = plistlib.dumps(values)
            self.assertEqual(parse(body), as_text(values))
            same_as_plistlib(body)

        check()

    def test_understood(self) -> None:
        """
        What XML has besides elements, and is not harmful.
        """
        for inside, expected in (
            (b"<string><![CDATA[<a>&b;]]></string>", "<a>&b;"),
            (b"<string>a<!-- <b> -->c</string>", "ac"),
            (b"<string>a<?php b?>c</string>", "ac"),
            (b"<string>&lt;&#65;&#x1F600;</string>", "<A\U0001f600"),
            (b"<string\n\tb='c'>d</string >", "d"),
            (b"<integer>18446744073709551615</integer>", 2**64 - 1),
            (b"<integer>-0009</integer>", -9),
            (b"<real>1e999</real>", float("inf")),
        ):
            same_as_plistlib(document(inside))
            self.assertEqual(parse(document(inside)), {"a": expected})

    def test_refused(self) -> None:
        declaration = b'<?xml version="1.0"?>'
        string = b"<string>&e;</string>"
        dtd = b"<!DOCTYPE plist [<!ENTITY %s>]>"
        for body in (
            document(
                string.replace(b"e", b"l9"),
                declaration + b"<!DOCTYPE plist [<!ENTITY l0 'ha'>" + LAUGHS + b"]>",
            ),
            document(string, declaration + dtd % b'e "b"'),
            document(string, declaration + dtd % b'e SYSTEM "file:///etc/passwd"'),
            document(string, declaration + dtd % b'% e SYSTEM "http://127.0.0.1:9/"'),
            document(string, declaration + b'<!DOCTYPE plist SYSTEM "http://127.0.0.1:9/">'),
            document(string),
            document(b"<true/>", declaration + b'<!DOCTYPE p [<!ATTLIST string a CDATA "b">]>'),
            document(b"<integer>%s</integer>" % (b"9" * 5000)),
            document(b"<integer>0x10</integer>"),
            document(b"<integer>1_0</integer>"),
            document(b"<array>" * MAX_DEPTH + b"</array>" * MAX_DEPTH),
            document(b"<array>" * 100_000),
            document(b"<true/><key>a</key><true/>"),
            document(b"<string>\0</string>"),
            document(b"<string>&#0;</string>"),
            document(b"<string>&#xD800;</string>"),
            document(b"<string>\xff</string>"),
            document(b"<string>\xed\xa0\x80</string>"),
            document(b"<string>\xc0\xbc</string>"),
            document(b"<true/>").decode().encode("utf-16"),
            document(b"<true/>").decode().encode("utf-16-be"),
            document(b"<true/>").decode().encode("utf-8-sig"),
            document(b"<true/>") + document(b"<true/>"),
        ):
            self.assertRaises(MessageError, parse, body)

    def test_long(self) -> None:
        """
        One value as long as a body can be.
        """
        body = document(b"<string>%s</string>" % (b"a" * LONG))
        self.assertEqual(parse(body), {"a": "a" * LONG})
        for tag in (b"integer", b"date", b"data", b"nothing"):
            body = document(b"<%s>%s</%s>" % (tag, b"1" * (LONG + 1), tag))
            error = self.assertRaises(MessageError, parse, body)
            self.assertLess(len(str(error)), 200)
        for keep in (1, MAX_DEPTH):
            for body in (b"<", b"<!--", b"<a" * 9, b"<![CDATA["):
                self.assertRaises(MessageError, parse, document(body + b"x" * LONG), keep)


SECRET: Final = "Wb7qX"
MYSQL: Final = (
    f"mysql://user:{SECRET}@host:3306/database?timeout=5s",
    f"user:{SECRET}@tcp(host:3306)/database?charset=utf8mb4&timeout=1s",
    f"user:{SECRET}@unix(/run/socket)/database",
)
POSTGRES: Final = (
    f"postgres://user:{SECRET}@host:5432/database?sslmode=require",
    f"postgres://host:5432/database?user=user&password={SECRET}",
    f"host=host user=user password='{SECRET}' dbname=database port=5432",
)
#: With the password where a port should be.
MISPLACED: Final = (
    f"mysql://user@host:{SECRET}/database",
    f"user@tcp(host:{SECRET})/database",
    f"postgres://user@host:{SECRET}/database",
)


def read_replica(kind: str, dsn: str) -> None:
    """
    Read a DSN where it is one of the options of a storage.
    """
    parse_options(kind, f"pool_size=3,replica_dsn={dsn}")


class SecretTests(SynchronousTestCase):
    """
    No message about a DSN has any of its password, however the DSN is wrong.
    """

    def test_passwords(self) -> None:
        special = st.sampled_from([*":/?#@%&='\\ []().,;", "%zz", "\t", "\0", "\udcff", "é"])
        pieces = [SECRET[start : start + 2] for start in range(len(SECRET) - 1)]
        near = st.integers(-3, len(SECRET) + 1) | st.integers(-60, 60)

        @each(
            st.sampled_from([*MYSQL, *POSTGRES, *MISPLACED]), near, st.booleans(), special, times=10
        )
        def check(dsn: str, where: int, is_removed: bool, added: str) -> None:
            start = max(0, dsn.index(SECRET) + where)
            wrong = dsn[:start] + ("" if is_removed else added) + dsn[start + is_removed :]
            for kind in ("mysql", "pgsql"):
                for read in (parse_dsn, read_replica):
                    try:
                        read(kind, wrong)
                    except ConfigError as error:
                        message = str(error)
                        self.assertFalse([piece for piece in pieces if piece in message], message)
            # Without what is in front of it, the password becomes a part of the user.
            if not is_removed and dsn not in MISPLACED:
                shown = safe("pgsql" if dsn in POSTGRES else "mysql", wrong)
                self.assertFalse([piece for piece in pieces if piece in shown], shown)

        check()


def paths() -> list[str]:
    """
    Where there is something, with C{{...}} where names stand.
    """
    file = files("nanomdm.http.api").joinpath("openapi.yaml")
    documented = yaml.safe_load(file.read_bytes())["paths"]
    return [*documented, "/", "/v1", "/v1/enrollments/{id}/{name}/{uuid}", "/{name}"]


NAMES: Final = st.one_of(
    st.sampled_from(["D1", "C1", "D1:U1", "D1,D2", "%00", "%2F", "..", "%zz", ",", "%ED%A0%80"]),
    st.binary(max_size=30).map(quote),
    st.text().map(lambda text: quote(text.encode())),
    st.integers(250, 9000).map("a".__mul__),
)
PARAMETERS: Final = st.sampled_from(
    [
        *("limit", "cursor", "serial", "id", "type", "enabled", "topic", "user", "seen_before"),
        *("seen_after", "pending", "purge", "since", "status", "request_type", "nopush", "x"),
    ]
)
ARGUMENTS: Final = NAMES | st.sampled_from(
    [
        *("1", "0", "true", "Device", "30d", "9" * 30, "-1", "0001-01-01T00:00:00-23:59"),
        *("2026-11-20", "2026-02-30", "9999-12-31T23:59:59Z", cursor_of("D1")),
    ]
)
LISTS: Final = st.sampled_from(
    [
        *("/v1/enrollments", "/v1/enrollments/D1/queue", "/v1/enrollments/D1/results"),
        *("/v1/commands/C1", "/v1/webhook/failed"),
    ]
)
KEYS: Final = st.one_of(
    *(st.integers(), st.text(), st.sampled_from([2**63, -(2**63), 2**64])),
    st.datetimes().map(str),
)
CURSORS: Final = st.lists(KEYS, max_size=3).map(lambda key: cursor_of(*key))
BODIES: Final = st.one_of(
    st.just(b""),
    st.binary(max_size=50),
    st.sampled_from(
        [samples.command("C1"), samples.token_update(), b'{"priority": 1e2}', b"[" * 1000]
    ),
    st.recursive(
        st.none() | st.integers() | st.floats() | st.text(),
        lambda inside: st.lists(inside) | st.dictionaries(st.just("priority") | st.text(), inside),
    ).map(lambda value: json.dumps(value).encode()),
)
CREDENTIALS: Final = b64encode(f"nanomdm:{KEY}".encode()).decode()


class ServerTests(ServerCase):
    """
    No path, query, or body makes a server fail.
    """

    async def test_requests(self) -> None:
        self.serve(escrow_key_unlock_url="http://127.0.0.1:9/", migration=True, api_secrets=True)
        await self.enroll()
        await self.enqueue("D1")
        codes = await deferToThread(self.tryRequests)
        self.assertLessEqual({200, 400, 404, 405}, codes)

    def tryRequests(self) -> set[int]:
        """
        @return: the statuses that came back.
        """
        codes = set()
        methods = st.sampled_from(["GET", "PUT", "POST", "DELETE", "PATCH", "HEAD", "X"])
        query = st.lists(st.tuples(PARAMETERS, ARGUMENTS), max_size=3)
        some = st.lists(NAMES, min_size=5, max_size=5)

        @each(methods, st.sampled_from(paths()), some, query, BODIES)
        def check(
            method: str, path: str, names: list[str], pairs: list[tuple[str, str]], body: bytes
        ) -> None:
            for name in names:
                path = re.sub(r"\{\w+\}", lambda match, name=name: name, path, count=1)
            asked = "&".join("=".join(pair) for pair in pairs)
            codes.add(self.ask(method, f"{path}?{asked}".encode("latin-1"), body))

        @each(LISTS, CURSORS)
        def check_cursor(path: str, cursor: str) -> None:
            codes.add(self.ask("GET", f"{path}?limit=1&cursor={cursor}".encode(), b""))

        @each(BODIES)
        def check_body(body: bytes) -> None:
            codes.add(self.ask("PATCH", b"/v1/enrollments/D1/queue/C1", body))

        @each(st.binary(max_size=100))
        def check_bytes(anything: bytes) -> None:
            codes.add(self.ask("GET", b"/" + anything, b""))

        for checks in (check, check_cursor, check_body, check_bytes):
            checks()
        return codes

    def ask(self, method: str, path: bytes, body: bytes) -> int:
        """
        Send a request as an operator, and read the answer, which tells of no fault of the
        server.  Blocks.

        @return: its status.
        """
        head = (
            f" HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {CREDENTIALS}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(method.encode() + b" " + path + head.encode() + body)
            answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        self.assertEqual(answer[:9], b"HTTP/1.1 ", (method, path))
        code = int(answer[9:12])
        # That is what enqueueing and pushing say when it worked for none of the ids.
        if code != 500 or b'"status"' not in answer:
            self.assertLess(code, 500, (method, path, body, answer))
        return code
