"""
Tests for DSNs: what they mean, and that no message tells a password.
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress as ignoring
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch
from urllib.parse import quote

import pymysql
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from psycopg.conninfo import conninfo_to_dict
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.errors import ConfigError
from nanomdm.sim.ca import ThrowawayCA
from nanomdm.storage.dsn import parse_mysql, parse_postgres, safe
from nanomdm.storage.settings import StorageSettings

ODD = "@:/?#%&=+,;()[]{}<>~ '\"\\$!*|^`äπ🔑aZ09_-."


def odd_passwords(count: int) -> Iterator[str]:
    """
    Passwords that hold what DSNs use as delimiters, and other alphabets.
    """
    random = Random(3)
    for _ in range(count):
        yield "".join(random.choice(ODD) for _ in range(random.randint(1, 12)))


class DSNCase(SynchronousTestCase):
    """
    Parses DSNs.
    """

    def assertRefused(self, parse: Callable[[str], object], dsn: str, problem: str) -> None:
        error = self.assertRaises(ConfigError, parse, dsn)
        self.assertEqual(str(error), problem)


class MySQLTests(DSNCase):
    """
    L{parse_mysql}.
    """

    WHERE = {"host": "db.example", "port": 3307, "user": "nano", "database": "mdm"}
    DEFAULTS = {**WHERE, "host": "127.0.0.1", "port": 3306, "password": b""}

    def test_url(self) -> None:
        expected = {**self.WHERE, "password": b"p@s"}
        for dsn in (
            "mysql://nano:p%40s@db.example:3307/mdm",
            "MySQL://nano:p@s@db.example:3307/mdm",
            "mysql://n%61no:p%40s@db.example:3307/m%64m?",
        ):
            self.assertEqual(parse_mysql(dsn), expected)

    def test_go(self) -> None:
        expected = {**self.WHERE, "password": b"p@s"}
        self.assertEqual(parse_mysql("nano:p@s@tcp(db.example:3307)/mdm"), expected)
        self.assertEqual(parse_mysql("nano:p@s@tcp(db.example:3307)/mdm?parseTime=true"), expected)

    def test_parts_left_out(self) -> None:
        for dsn in (
            "mysql://nano@/mdm",
            "nano@/mdm",
            "nano@tcp/mdm",
            "nano@tcp()/mdm",
            "nano:@/mdm",
        ):
            self.assertEqual(parse_mysql(dsn), self.DEFAULTS)

    def test_no_user(self) -> None:
        expected = {key: value for key, value in self.DEFAULTS.items() if key != "user"}
        for dsn in ("mysql://@/mdm", "@/mdm", "@tcp(127.0.0.1)/mdm"):
            self.assertEqual(parse_mysql(dsn), expected)

    def test_ipv6(self) -> None:
        for dsn, host, port in (
            ("mysql://nano@[::1]:1/mdm", "::1", 1),
            ("mysql://nano@[2001:db8::1]/mdm", "2001:db8::1", 3306),
            ("nano@tcp([fe80::1%eth0]:3)/mdm", "fe80::1%eth0", 3),
        ):
            self.assertEqual(parse_mysql(dsn), {**self.DEFAULTS, "host": host, "port": port})

    def test_socket(self) -> None:
        """
        Without TLS, unless it is asked for.
        """
        expected = {
            "unix_socket": "/run/my sql.sock",
            "user": "nano",
            "password": b"x",
            "database": "mdm",
        }
        for dsn in (
            "nano:x@unix(/run/my sql.sock)/mdm",
            "mysql://nano:x@localhost/mdm?unix_socket=/run/my%20sql.sock",
            "mysql://nano:x@/mdm?unix_socket=%2Frun%2Fmy%20sql.sock",
            "nano:x@/mdm?unix_socket=%2Frun%2Fmy%20sql.sock",
        ):
            self.assertEqual(parse_mysql(dsn), {**expected, "ssl_disabled": True})
            with_tls = dsn + ("&" if "?" in dsn else "?") + "tls=preferred"
            self.assertEqual(parse_mysql(with_tls), expected)

    def test_odd_passwords(self) -> None:
        """
        Percent-encoded in a URL, as they are in Go's form.
        """
        for password in odd_passwords(300):
            quoted = quote(password, safe="")
            for dsn in (
                f"mysql://nano:{quoted}@db.example:3307/mdm?timeout=5s",
                f"nano:{password}@tcp(db.example:3307)/mdm?timeout=5s",
            ):
                self.assertEqual(
                    parse_mysql(dsn),
                    {**self.WHERE, "password": password.encode(), "connect_timeout": 5},
                )
                self.assertEqual(
                    safe("mysql", dsn), "host=db.example port=3307 user=nano database=mdm"
                )

    def test_shownUser(self) -> None:
        """
        What is shown does not depend on what another kind of database would read.
        """
        dsn = "user=nano:sesam@tcp(h:1)/mdm"
        self.assertEqual(safe("mysql", dsn), "host=h port=1 user=user=nano database=mdm")
        shown = StorageSettings(kind="mysql", dsn=dsn).shown
        self.assertEqual(shown, "host=h port=1 user=user=nano database=mdm")

    def test_odd_names(self) -> None:
        for name in odd_passwords(100):
            quoted = quote(name, safe="")
            parsed = parse_mysql(f"mysql://{quoted}:x@/m{quoted.replace('%2F', '')}")
            self.assertEqual(
                (parsed["user"], parsed["database"]), (name, "m" + name.replace("/", ""))
            )

    def test_timeouts(self) -> None:
        parsed = parse_mysql("nano@/mdm?timeout=90s&readTimeout=1m30s&writeTimeout=500ms")
        self.assertEqual(
            (parsed["connect_timeout"], parsed["read_timeout"], parsed["write_timeout"]),
            (90, 90, 0.5),
        )
        self.assertEqual(parse_mysql("nano@/mdm?timeout=0&readTimeout=0"), self.DEFAULTS)

    def test_what_only_go_needs(self) -> None:
        self.assertEqual(
            parse_mysql(
                "nano@/mdm?parseTime=true&charset=utf8mb4,utf8&collation=utf8mb4_unicode_ci"
                "&loc=Europe%2FBerlin&allowNativePasswords=true&allowCleartextPasswords=1"
                "&interpolateParams=true&multiStatements=true&maxAllowedPacket=0"
                "&checkConnLiveness=false&rejectReadOnly=true&clientFoundRows=true"
            ),
            self.DEFAULTS,
        )

    def test_pymysql_takes_it(self) -> None:
        for dsn in (
            "mysql://nano:p%40s@[::1]:3307/mdm?tls=true&timeout=5s&readTimeout=1.5s&writeTimeout=1h",
            "nano:пароль@unix(/x)/mdm?charset=utf8mb4",
            "nano:x@tcp(h)/mdm?tls=preferred",
            "nano@/mdm?tls=false",
        ):
            connection = pymysql.Connection(**parse_mysql(dsn), defer_connect=True)
            self.assertEqual((connection.user, connection.db), ("nano", "mdm"))
        self.assertEqual(
            pymysql.Connection(**parse_mysql("nano:пароль@/mdm"), defer_connect=True).password,
            "пароль".encode(),
        )

    def test_wrong_parts(self) -> None:
        forms = (
            "is neither mysql://user:password@host:port/database "
            "nor user:password@tcp(host:port)/database nor user:password@unix(/path)/database; "
            "'/' and '@' in parameters are written %2F and %40"
        )
        escapes = (
            "user or password: '/', '?', '#' and '@' in them are written %2F, %3F, %23 and %40; "
            "'@' elsewhere %40 too"
        )
        host = "host: is neither a name nor an IPv4 address nor an [IPv6 address]"
        port = "port: is not a number from 1 to 65535"
        for dsn, problem in (
            ("", forms),
            ("nanomdm", forms),
            ("sesam@tcp(h)", forms),
            ("u:sesam/db", forms),
            ("u:sesam@h/db", forms),
            ("u:sesam@tcp(h:1/db", forms),
            ("u:sesam@cloudsql(h)/db", forms),
            ("u:sesam@tcp(h)/db?ssl_ca=/etc/ca.pem", forms),
            ("postgres://u:sesam@h/db", forms),
            (
                "mysql://u:sesam@tcp(h)/db",
                "user:password@tcp(host:port)/database goes without mysql://",
            ),
            ("mysql://u:se/sam@h/db", escapes),
            ("mysql://u:se?sam@h/db", escapes),
            ("mysql://u:se#sam@h/db", escapes),
            ("mysql://u:sesam@h/db#x", "'#' is written %23"),
            ("mysql://u:se%sam@h/db", "password: '%' in it is written %25"),
            ("mysql://u:se%00am@h/db", "password: holds %00"),
            ("mysql://%FF:sesam@h/db", "user: is not UTF-8"),
            ("mysql://u%:sesam@h/db", "user: '%' in it is written %25"),
            (
                "mysql://u:1234/db",
                "user: missing; a URL is mysql://user:password@host:port/database",
            ),
            ("mysql://u:sesam@h h/db", host),
            ("mysql://u:sesam@[::1/db", host),
            ("mysql://u:sesam@::1/db", port),
            ("u:sesam@tcp(::1)/db", port),
            ("mysql://u:sesam@h:0/db", port),
            ("mysql://u:sesam@h:65536/db", port),
            ("mysql://u:sesam@h:/db", port),
            ("u:sesam@tcp(h:http)/db", port),
            ("u:sesam@unix(x.sock)/db", "unix_socket: is not an absolute path"),
            ("mysql://u:sesam@h", "database: missing"),
            ("mysql://u:sesam@h?timeout=1s", "database: missing"),
            ("u:sesam@/", "database: missing"),
            ("mysql://u:sesam@h/a/b", "database: '/' in it is written %2F"),
            ("mysql://u:sesam@h/%FF", "database: is not UTF-8"),
            ("u:sesam@/db?timeout", "parameters: are not name=value&name=value"),
            ("u:sesam@/db?a-b=1", "parameters: are not name=value&name=value"),
            ("u:sesam@/db?sql_mode=x", "sql_mode: no such parameter"),
            ("u:sesam@/db?timeout=1s&timeout=1s", "timeout: given more than once"),
            ("u:sesam@/db?timeout=5", "timeout: '5' is not a duration such as 30s, 3m or 1h30m"),
            ("u:sesam@/db?timeout=9000h", "timeout: is longer than a year"),
            ("u:sesam@/db?charset=latin1", "charset: is not utf8mb4, utf8mb3 or utf8"),
            (
                "mysql://u:sesam@h/db?unix_socket=/x",
                "unix_socket: has no meaning with another host",
            ),
            ("mysql://u:sesam@/db?unix_socket=x", "unix_socket: is not an absolute path"),
            ("u:se\nsam@/db", "holds a control character"),
            ("u:se\udcffsam@/db", "is not UTF-8"),
        ):
            self.assertRefused(parse_mysql, dsn, problem)
            self.assertNotIn("sesam", safe("mysql", dsn))


class TLSTests(DSNCase):
    """
    TLS to MySQL.
    """

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.authority = ThrowawayCA.load_or_create(self.directory)
        self.ca = self.directory / "ca.pem"
        self.key = self.directory / "ca.key"

    def parse(self, parameters: str) -> dict[str, Any]:
        arguments = parse_mysql(f"mysql://u:sesam@h/db?{parameters}")
        return {key: value for key, value in arguments.items() if key.startswith("ssl")}

    def assertChecks(self, parameters: str, mode: ssl.VerifyMode, name: bool) -> ssl.SSLContext:
        context: ssl.SSLContext = self.parse(parameters)["ssl"]
        self.assertEqual((context.verify_mode, context.check_hostname), (mode, name))
        return context

    def test_modes_of_go(self) -> None:
        self.assertEqual(self.parse("tls=false"), {"ssl_disabled": True})
        self.assertEqual(self.parse("tls=0"), {"ssl_disabled": True})
        self.assertEqual(self.parse("tls=preferred"), {})
        self.assertEqual(self.parse(""), {})
        self.assertChecks("tls=skip-verify", ssl.CERT_NONE, False)
        self.assertChecks("tls=true", ssl.CERT_REQUIRED, True)
        self.assertChecks("tls=TRUE", ssl.CERT_REQUIRED, True)
        self.assertChecks("tls=1", ssl.CERT_REQUIRED, True)

    def test_own_ca(self) -> None:
        """
        It alone is trusted, and TLS is a must.
        """
        for parameters in (f"ssl_ca={self.ca}", f"tls=true&ssl_ca={self.ca}"):
            context = self.assertChecks(parameters, ssl.CERT_REQUIRED, True)
            self.assertEqual(context.cert_store_stats()["x509"], 1)

    def test_what_is_checked(self) -> None:
        self.assertChecks(f"ssl_ca={self.ca}&ssl_verify=identity", ssl.CERT_REQUIRED, True)
        self.assertChecks(f"ssl_ca={self.ca}&ssl_verify=ca", ssl.CERT_REQUIRED, False)
        self.assertChecks("ssl_verify=none", ssl.CERT_NONE, False)

    def test_pymysql_insists_on_tls(self) -> None:
        arguments = parse_mysql("u@/db?tls=skip-verify")
        connection = pymysql.Connection(**arguments, defer_connect=True)
        self.assertTrue(connection._ssl_required)

    def test_client_certificate(self) -> None:
        """
        It is shown to a server that asks for one.
        """
        cert, key = self.issue(client_auth=True)
        for parameters, mode in (
            (f"ssl_cert={cert}&ssl_key={key}&ssl_ca={self.ca}&ssl_verify=ca", ssl.CERT_REQUIRED),
            (f"tls=skip-verify&ssl_cert={cert}&ssl_key={key}", ssl.CERT_NONE),
        ):
            context = self.assertChecks(parameters, mode, False)
            self.assertEqual(self.handshake(context), Path(cert).read_bytes())

    def test_other_ca(self) -> None:
        """
        A server whose certificate another CA issued is not spoken to.
        """
        other = Path(self.mktemp())
        ThrowawayCA.load_or_create(other)
        context = self.parse(f"ssl_ca={other / 'ca.pem'}&ssl_verify=ca")["ssl"]
        self.assertRaises(ssl.SSLCertVerificationError, self.handshake, context)

    def test_other_name(self) -> None:
        context = self.parse(f"ssl_ca={self.ca}")["ssl"]
        error = self.assertRaises(ssl.SSLCertVerificationError, self.handshake, context)
        self.assertIn("not valid for 'db.example'", str(error))

    def issue(self, client_auth: bool) -> tuple[str, str]:
        """
        @return: the files of a certificate of the CA and of its key.
        """
        identity = self.authority.issue(client_auth=client_auth)
        cert, key = (self.directory / f"{client_auth}.{end}" for end in ("pem", "key"))
        cert.write_bytes(identity.pem)
        key.write_bytes(
            identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        return str(cert), str(key)

    def handshake(self, context: ssl.SSLContext) -> bytes | None:
        """
        Shake hands with a server, named db.example, that asks for certificates.

        @return: the client's certificate, as PEM.
        """
        server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server_context.load_cert_chain(*self.issue(client_auth=False))
        server_context.load_verify_locations(self.ca)
        server_context.verify_mode = ssl.CERT_OPTIONAL
        ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(theirs, ours, server_hostname="db.example")
        server = server_context.wrap_bio(ours, theirs, server_side=True)
        for side in (client, server) * 2:
            with ignoring(ssl.SSLWantReadError):
                side.do_handshake()
        shown = server.getpeercert(binary_form=True)
        return shown and ssl.DER_cert_to_PEM_cert(shown).encode()

    def test_wrong(self) -> None:
        both = self.directory / "nothing.pem"
        both.write_text("nothing\n")
        own = (
            "ssl_cert: does not hold a certificate and its key (or ssl_key the key), "
            "in PEM form and not encrypted"
        )
        for parameters, problem in (
            ("tls=maybe", "tls: 'maybe' is not true, skip-verify, preferred or false"),
            (
                f"tls=false&ssl_ca={self.ca}",
                "ssl_ca: has no meaning with tls=false",
            ),
            ("tls=skip-verify&ssl_verify=ca", "ssl_verify: has no meaning with tls=skip-verify"),
            (f"tls=preferred&ssl_cert={self.ca}", "ssl_cert: has no meaning with tls=preferred"),
            ("ssl_verify=yes", "ssl_verify: 'yes' is not identity, ca or none"),
            ("ssl_ca=/nowhere", "ssl_ca: '/nowhere' can not be read: No such file or directory"),
            (f"ssl_ca={both}", "ssl_ca: holds no certificates in PEM form"),
            (f"ssl_key={self.key}", "ssl_key: needs ssl_cert"),
            (f"ssl_cert={self.ca}", own),
            (f"ssl_cert={both}&ssl_key={self.key}", own),
        ):
            self.assertRefused(self.parse, parameters, problem)


class PostgreSQLTests(DSNCase):
    """
    L{parse_postgres}.
    """

    def test_url(self) -> None:
        expected = {
            "user": "nano",
            "password": "p@s",
            "host": "db.example",
            "port": "5433",
            "dbname": "mdm",
            "sslmode": "verify-full",
            "sslrootcert": "/etc/ca.pem",
        }
        tail = "nano:p%40s@db.example:5433/mdm?sslmode=verify-full&sslrootcert=/etc/ca.pem"
        for scheme in ("postgres", "postgresql"):
            parsed = parse_postgres(f"{scheme}://{tail}")
            self.assertEqual(conninfo_to_dict(parsed), expected)

    def test_keywords(self) -> None:
        self.assertEqual(
            conninfo_to_dict(parse_postgres(r" host = h user=u password='a \' b' dbname=d")),
            {"host": "h", "user": "u", "password": "a ' b", "dbname": "d"},
        )

    def test_as_libpq_takes_it(self) -> None:
        for dsn in (
            "postgres:///mdm",
            "postgres://",
            "postgres://h",
            "postgres://h?sslmode=disable",
            "postgres://u@h:5432",
            "postgres://u@%2Frun%2Fpostgresql/mdm",
            "postgres://u@/mdm?host=/run/postgresql",
            "postgres://u:p@[::1]:5433,b.example:2/mdm?target_session_attrs=read-write",
            "postgres://u:p@h/mdm?ssl=true&connect_timeout=3&options=-c%20search_path%3Dx",
            "postgres://u:a?b#c=d&e@h/mdm",
            "service=mdm",
            "host=a,b port=1,2 connect_timeout=2",
        ):
            self.assertEqual(conninfo_to_dict(parse_postgres(dsn)), conninfo_to_dict(dsn))

    def test_odd_passwords(self) -> None:
        for password in odd_passwords(300):
            escaped = password.replace("\\", r"\\").replace("'", r"\'")
            for dsn in (
                f"postgres://nano:{quote(password, safe='')}@h:1/mdm",
                f"postgres://h:1/mdm?user=nano&password={quote(password, safe='')}",
                f"host=h port=1 user=nano dbname=mdm password='{escaped}'",
            ):
                self.assertEqual(conninfo_to_dict(parse_postgres(dsn))["password"], password)
                self.assertEqual(safe("pgsql", dsn), "host=h port=1 user=nano dbname=mdm")

    def test_wrong_parts(self) -> None:
        forms = (
            "is neither postgres://user:password@host:port/database "
            "nor host=... user=... dbname=..., as libpq reads them"
        )
        spaces = f"{forms}; a value with spaces stands in '...'"
        escapes = (
            "user or password: '/', '?', '#' and '@' in them are written %2F, %3F, %23 and %40; "
            "'@' elsewhere %40 too"
        )
        place = "host or port: is not host:port or [IPv6 address]:port"
        port = "port: is not a number from 1 to 65535"
        for dsn, problem in (
            ("", "must not be empty"),
            (" ", "must not be empty"),
            ("mdm", forms),
            ("u:sesam@tcp(h)/db", forms),
            ("mysql://u:sesam@h/db", forms),
            ("POSTGRES://u:sesam@h/db", forms),
            ("postgres://u:se/sam@h/db", escapes),
            ("postgres://u:se@sam@h/db", escapes),
            ("postgres://u:se%sam@h/db", "password: '%' in it is written %25"),
            ("postgres://u:se%00am@h/db", "password: holds %00"),
            ("postgres://u:sesam/db", place),
            ("postgres://u:sesam@[::1/db", place),
            ("postgres://u:sesam@h:0/db", port),
            ("postgres://u:sesam@h:1,i:99999/db", port),
            ("host=h port=sesam", port),
            ("postgres://u:sesam@h/d%b", "database: '%' in it is written %25"),
            ("postgres://u:sesam@h%/db", "host: '%' in it is written %25"),
            ("postgres://u:sesam@h/db?parseTime=true", "parseTime: no such parameter"),
            ("postgres://u:sesam@h/db?sslmode", "parameters: are not name=value&name=value"),
            ("postgres://u:sesam@h/db?port=1&port=2", "port: given more than once"),
            (
                "postgres://h/db?password=a&sesam=b",
                "parameters: one is unknown; '&' in a value is written %26",
            ),
            ("postgres://u:sesam@h/db?ssl=maybe", forms),
            ("host=h databse=d password=sesam", "databse: no such parameter"),
            ("host=h password=open sesam=1", spaces),
            ("host=h password='sesam", spaces),
            ("host=h password=open sesam", spaces),
            ("host=h connect_timeout=5s", "connect_timeout: is not a number of seconds"),
            ("host=h password=se\x00sam", "holds a control character"),
        ):
            self.assertRefused(parse_postgres, dsn, problem)
            self.assertNotIn("sesam", safe("pgsql", dsn))

    def test_without_psycopg(self) -> None:
        with patch.dict(sys.modules, {"psycopg": None}):
            self.assertRefused(
                parse_postgres, "postgres://h/db", "needs psycopg: install nanomdm-twisted[pgsql]"
            )


class SecretTests(DSNCase):
    """
    No error tells a password, or a part of it, however a DSN is damaged.
    """

    SIGNS = "@:/?#%&=+,;()[] '\"\\"
    FORMS = (
        (parse_mysql, "mysql://u:{}@h:1/db?tls=false&timeout=3s"),
        (parse_mysql, "u:{}@tcp(h:1)/db?parseTime=true"),
        (parse_mysql, "u:{}@unix(/x)/db"),
        (parse_mysql, "u:{}@/db"),
        (parse_postgres, "postgres://u:{}@h:1/db?sslmode=require"),
        (parse_postgres, "postgres:///db?user=u&password={}&host=x"),
        (parse_postgres, "host=h user=u password={} dbname=db"),
        (parse_postgres, "dbname=db password='{}' port=5 host=x"),
    )

    def damaged(self, random: Random, dsn: str) -> str:
        """
        One character too many or too few, or an end that is missing.
        """
        place = random.randrange(len(dsn) + 1)
        return random.choice(
            [
                dsn,
                dsn[:place] + dsn[place + 1 :],
                dsn[:place] + random.choice(self.SIGNS) + dsn[place:],
                dsn[:place],
            ]
        )

    def test_damaged(self) -> None:
        random = Random(4)
        refused = 0
        for _ in range(4000):
            letters = "".join(random.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(12))
            password = letters
            for _ in range(random.randrange(3)):
                place = random.randrange(len(password) + 1)
                password = password[:place] + random.choice(self.SIGNS) + password[place:]
            parse, form = random.choice(self.FORMS)
            dsn = self.damaged(random, form.format(password))
            try:
                parse(dsn)
            except ConfigError as error:
                refused += 1
                self.assertTrue(error.__suppress_context__ or error.__context__ is None)
                for start in range(len(letters) - 3):
                    self.assertNotIn(letters[start : start + 4], str(error), dsn)
        self.assertGreater(refused, 1000)
