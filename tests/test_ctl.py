"""
Tests for C{nanomdmctl}.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from nanomdm import __version__
from nanomdm.ctl import main
from nanomdm.storage.schema import ddl, migrate
from tests.servers import shared, unavailable

DATABASE = "ctl_test"


class CtlTestCase(SynchronousTestCase):
    """
    Runs the command without the variables of whoever runs the tests.
    """

    def ctl(self, *arguments: str, **variables: str) -> Result:
        environ = {name: None for name in os.environ if name.startswith("NANOMDM_")}
        return CliRunner().invoke(main, arguments, env={**environ, **variables})

    def assertPrints(self, text: str, *arguments: str, **variables: str) -> None:
        result = self.ctl(*arguments, **variables)
        self.assertEqual((result.stdout, result.stderr, result.exit_code), (text, "", 0))

    def assertRefused(self, text: str, *arguments: str, **variables: str) -> str:
        """
        @return: the one line on standard error.
        """
        result = self.ctl(*arguments, **variables)
        self.assertEqual((result.stdout, result.exit_code), ("", 1))
        [line] = result.stderr.splitlines()
        self.assertIn(text, line)
        self.assertIsInstance(result.exception, SystemExit)
        return line


class MainTests(CtlTestCase):
    """
    The group of commands.
    """

    def test_version(self) -> None:
        self.assertPrints(f"nanomdmctl {__version__}\n", "--version")

    def test_help(self) -> None:
        result = self.ctl("--help")
        self.assertIn("\n  schema ", result.stdout)
        self.assertEqual(result.exit_code, 0)


class SchemaTests(CtlTestCase):
    """
    C{nanomdmctl schema}, apart from servers.
    """

    def test_full(self) -> None:
        for kind in ("sqlite", "mysql", "pgsql"):
            self.assertPrints(ddl(kind), "schema", "--storage", kind, "--full")

    def test_kind_from_the_environment(self) -> None:
        self.assertPrints(ddl("pgsql"), "schema", "--full", NANOMDM_STORAGE="pgsql")

    def test_wrong_kind(self) -> None:
        for arguments in (("--full",), ("--storage", "inmem")):
            result = self.ctl("schema", *arguments)
            self.assertEqual((result.stdout, result.exit_code), ("", 2))
            self.assertIn("--storage", result.stderr)

    def test_no_dsn(self) -> None:
        self.assertRefused(
            "--storage-dsn: required with storage mysql", "schema", "--storage", "mysql"
        )

    def test_bad_dsn(self) -> None:
        for kind, dsn in (("mysql", "root:sesame@tcp(::"), ("pgsql", "postgres://a:sesame@b:c/d")):
            line = self.assertRefused(
                "Error: --storage-dsn: ", "schema", "--storage", kind, NANOMDM_STORAGE_DSN=dsn
            )
            self.assertNotIn("sesame", line)

    def test_unreachable(self) -> None:
        """
        Nothing listens on port 1.
        """
        for kind, dsn in (
            ("mysql", "mysql://root:sesame@127.0.0.1:1/x"),
            ("pgsql", "postgres://root:sesame@127.0.0.1:1/x"),
        ):
            line = self.assertRefused(
                "Error: --storage-dsn: ", "schema", "--storage", kind, "--storage-dsn", dsn
            )
            self.assertRegex(line, "(?i)refused")
            self.assertNotIn("sesame", line)

    def test_sqlite(self) -> None:
        path = Path(self.mktemp())
        arguments = ("schema", "--storage", "sqlite", "--storage-dsn", str(path))
        self.assertRefused("unable to open database file", *arguments)
        self.assertFalse(path.exists())
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("VACUUM")
            self.assertPrints(ddl("sqlite"), *arguments)
            migrate(connection, "sqlite")
        result = self.ctl(*arguments)
        self.assertEqual(
            (result.stdout, result.stderr, result.exit_code), ("", "Nothing is pending.\n", 0)
        )

    def test_sqlite_of_something_else(self) -> None:
        path = Path(self.mktemp())
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE photos (id INTEGER)")
        self.assertRefused(
            "was not made by nanomdm", "schema", "--storage", "sqlite", "--storage-dsn", str(path)
        )


class ServerTests:
    """
    C{nanomdmctl schema} on a server.
    """

    engine: str
    kind: str

    def setUp(self) -> None:
        self.server = shared(self.engine)
        self.server.create_database(DATABASE)
        self.addCleanup(self.server.drop_database, DATABASE)
        self.variables = {
            "NANOMDM_STORAGE": self.kind,
            "NANOMDM_STORAGE_DSN": self.server.password_dsn(DATABASE),
        }

    def execute(self, statement: str) -> None:
        with (
            closing(self.server.python_connection(DATABASE)) as connection,
            closing(connection.cursor()) as cursor,
        ):
            cursor.execute(statement)

    def test_pending(self) -> None:
        self.assertPrints(ddl(self.kind), "schema", **self.variables)
        with closing(self.server.python_connection(DATABASE)) as connection:
            migrate(connection, self.kind)
        result = self.ctl("schema", **self.variables)
        self.assertEqual(
            (result.stdout, result.stderr, result.exit_code), ("", "Nothing is pending.\n", 0)
        )
        self.execute("ALTER TABLE cert_auth_associations DROP COLUMN nanomdm_seq")
        result = self.ctl("schema", **self.variables)
        self.assertRegex(
            result.stdout,
            r"\A-- column nanomdm_seq of cert_auth_associations\n"
            r"ALTER TABLE cert_auth_associations ADD COLUMN nanomdm_seq BIGINT NOT NULL"
            r" DEFAULT 0(, ALGORITHM=INSTANT)?;\n\Z",
        )

    def test_not_whole(self) -> None:
        self.execute("CREATE TABLE commands (id INTEGER)")
        self.assertRefused("it lacks: table devices", "schema", **self.variables)

    def test_wrong_password(self) -> None:
        dsn = self.variables["NANOMDM_STORAGE_DSN"].replace("w%2Frd", "sesame")
        line = self.assertRefused(
            "Error: --storage-dsn: ", "schema", "--storage", self.kind, "--storage-dsn", dsn
        )
        self.assertNotIn("sesame", line)

    def test_no_database(self) -> None:
        dsn = self.server.password_dsn("nowhere")
        self.assertRefused("nowhere", "schema", "--storage", self.kind, "--storage-dsn", dsn)


class MariaDBTests(ServerTests, CtlTestCase):
    """
    MariaDB.
    """

    engine = "mariadb"
    kind = "mysql"
    skip = unavailable("mariadb")


class MySQLTests(ServerTests, CtlTestCase):
    """
    MySQL.
    """

    engine = "mysql"
    kind = "mysql"
    skip = unavailable("mysql")


class PostgreSQLTests(ServerTests, CtlTestCase):
    """
    PostgreSQL.
    """

    engine = "postgresql"
    kind = "pgsql"
    skip = unavailable("postgresql")
