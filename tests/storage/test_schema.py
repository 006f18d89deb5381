"""
Tests for the tables: making them, taking NanoMDM's over, several servers at once,
interruptions.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from threading import Barrier, Thread
from typing import Any

import psycopg
import pymysql
from pymysql.constants import CLIENT
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.errors import ConfigError
from nanomdm.storage import schema
from nanomdm.storage.schema import ddl, migrate, pending, require_current
from nanomdm.storage.schema import mysql as mysql_schema
from nanomdm.storage.schema import pgsql as pgsql_schema
from nanomdm.storage.schema.tables import BASE, OWN
from tests.servers import shared, unavailable
from tests.storage import nanomdm_tables as nanomdm

DATABASE = "schema_test"

#: What this server adds to NanoMDM's newest revision.
ADDED = [
    "index nanomdm_users_short_name on users",
    "index nanomdm_enrollments_enabled on enrollments",
    "index nanomdm_enrollments_topic on enrollments",
    "column nanomdm_seq of enrollment_queue",
    "index nanomdm_queue_next on enrollment_queue",
    "index nanomdm_queue_active on enrollment_queue",
    "column nanomdm_seq of cert_auth_associations",
    "table nanomdm_cert_owners",
    "table nanomdm_pushes",
    "table nanomdm_dead_tokens",
    "table nanomdm_leases",
    "table nanomdm_webhook_events",
    "table nanomdm_webhook_streams",
    "table nanomdm_webhook_failed",
]


class Crash(Exception):
    """
    The end of a server in the middle of its work.
    """


class Crashing:
    """
    A connection that breaks when a given number of changes was made.
    """

    def __init__(self, connection: Any, changes: int) -> None:
        self._connection = connection
        self.left = changes
        self.Error = connection.Error

    def cursor(self) -> Any:
        cursor = self._connection.cursor()
        execute = cursor.execute

        class Cursor:
            fetchall = cursor.fetchall
            close = cursor.close

            def execute(_, statement: str) -> None:
                if statement.startswith(("CREATE", "ALTER", "DROP")):
                    self.left -= 1
                    if self.left < 0:
                        self._connection.close()
                        raise Crash
                execute(statement)

        return Cursor()


def names(changes: list[schema.Change]) -> list[str]:
    return [change.name for change in changes]


class SchemaTests:
    """
    What holds on every server.
    """

    server: str
    kind: str
    tables: tuple[str, ...]
    older: tuple[str, ...]
    added: list[str]
    #: The first that waits for somebody who uses the table enrollment_queue.
    busy = "column nanomdm_seq of enrollment_queue"
    restored: list[str]

    def setUp(self) -> None:
        self.database = shared(self.server)
        self.database.create_database(DATABASE)
        self.addCleanup(self.database.drop_database, DATABASE)
        self.connection = self.connect()

    def connect(self) -> Any:
        connection = self.database.python_connection(DATABASE)
        self.addCleanup(self.disconnect, connection)
        return connection

    def disconnect(self, connection: Any) -> None:
        raise NotImplementedError

    def run_script(self, script: str) -> None:
        raise NotImplementedError

    def execute(self, statement: str, parameters: tuple[object, ...] | None = None) -> Any:
        with closing(self.connection.cursor()) as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else None

    def executes(self, *statements: str) -> None:
        for statement in statements:
            self.execute(statement)

    def site(self) -> None:
        """
        A database that NanoMDM has used.
        """
        self.executes(*self.tables)
        self.insert("old")

    def insert(self, name: str) -> None:
        for statement, parameters in nanomdm.rows(name):
            self.execute(statement, parameters)

    def contents(self) -> dict[str, list[Any]]:
        return {
            table: sorted(self.execute(f"SELECT {columns}, created_at, updated_at FROM {table}"))
            for table, columns in nanomdm.COLUMNS.items()
        }

    def structure(self) -> set[tuple[Any, ...]]:
        raise NotImplementedError

    def refusal(self, action: Callable[..., object], *arguments: object) -> str:
        error = self.assertRaises(ConfigError, action, *arguments)
        self.assertNotIn("\n", str(error))
        return str(error)

    def test_empty(self) -> None:
        """
        An empty database gets everything, once.
        """
        changes = pending(self.connection, self.kind)
        self.assertEqual(schema.script(changes), ddl(self.kind))
        self.assertEqual(migrate(self.connection, self.kind), changes)
        self.assertEqual(pending(self.connection, self.kind), [])
        self.assertEqual(migrate(self.connection, self.kind), [])
        self.insert("new")

    def test_by_hand(self) -> None:
        """
        The printed script does the same.
        """
        migrate(self.connection, self.kind)
        made = self.structure()
        self.connection.close()
        self.database.drop_database(DATABASE)
        self.database.create_database(DATABASE)
        self.connection = self.connect()
        self.run_script(ddl(self.kind))
        self.assertEqual(pending(self.connection, self.kind), [])
        self.assertEqual(self.structure(), made)

    def test_pending_by_hand(self) -> None:
        """
        What is printed for NanoMDM's database can be run too.
        """
        self.site()
        for statement in schema.script(pending(self.connection, self.kind)).split(";\n"):
            if statement.strip():
                self.execute(statement)
        self.assertEqual(pending(self.connection, self.kind), [])

    def test_distinct_ids(self) -> None:
        """
        Ids that differ in case alone are different, as on every engine.
        """
        migrate(self.connection, self.kind)
        for one in ("a", "A", "\N{LATIN SMALL LETTER A WITH ACUTE}"):
            self.execute(
                "INSERT INTO nanomdm_cert_owners (sha256, id) VALUES (%s, %s)", (one * 9, one)
            )
            self.execute(
                "INSERT INTO devices (id, authenticate, authenticate_at)"
                " VALUES (%s, %s, CURRENT_TIMESTAMP)",
                (one, nanomdm.XML),
            )
        self.assertEqual(self.execute("SELECT count(*) FROM devices")[0][0], 3)

    def test_checks(self) -> None:
        """
        What NanoMDM's tables refuse, tables made here refuse as well.
        """
        migrate(self.connection, self.kind)
        self.insert("new")
        for table, assignment in (
            ("devices", "serial_number = ''"),
            ("devices", "unlock_token = ''"),
            ("devices", "bootstrap_token_b64 = ''"),
            ("users", "user_short_name = ''"),
            ("users", "user_long_name = ''"),
            ("enrollments", "topic = ''"),
            ("enrollments", "type = ''"),
            ("enrollments", "push_magic = ''"),
            ("enrollments", "token_hex = ''"),
            ("enrollments", "user_id = 'nobody'"),
            ("commands", "request_type = ''"),
            ("commands", "command = 'rm'"),
            ("command_results", "result = 'rm'"),
            ("command_results", "status = ''"),
            ("enrollment_queue", "id = 'nobody'"),
            ("push_certs", "topic = ''"),
        ):
            statement = f"UPDATE {table} SET {assignment}"
            self.assertRaises(self.connection.Error, self.execute, statement)

    def test_cascade(self) -> None:
        migrate(self.connection, self.kind)
        self.insert("new")
        self.execute("UPDATE commands SET command_uuid = 'other' WHERE command_uuid = 'new-C1'")
        for table in ("command_results", "enrollment_queue"):
            [row] = self.execute(f"SELECT id FROM {table} WHERE command_uuid = 'other'")
            self.assertEqual(row, ("new-D",), table)
        # MySQL 9.7 leaves the device's own enrollment behind where both ways to
        # enrollments, over users and at once, delete something.
        self.execute("DELETE FROM users")
        self.assertEqual(self.execute("SELECT id FROM enrollments")[0], ("new-D",))
        self.execute("DELETE FROM devices")
        for table in ("users", "enrollments", "command_results", "enrollment_queue"):
            self.assertEqual(len(self.execute(f"SELECT * FROM {table}")), 0, table)
        self.assertEqual(len(self.execute("SELECT * FROM commands")), 2)

    def test_updated_at(self) -> None:
        """
        It follows every update, and C{authenticate_at} does not.
        """
        migrate(self.connection, self.kind)
        self.insert("new")
        self.execute("UPDATE devices SET updated_at = '2001-01-01 00:00:00', serial_number = 'S2'")
        self.execute("UPDATE devices SET serial_number = 'S3'")
        [(updated, authenticated)] = self.execute("SELECT updated_at, authenticate_at FROM devices")
        self.assertGreater(updated.year, 2023)
        self.assertEqual(authenticated.isoformat(), "2024-05-06T07:08:09")

    def test_view(self) -> None:
        migrate(self.connection, self.kind)
        self.insert("new")
        self.assertEqual(
            sorted(self.execute("SELECT id, command_uuid, request_type, status FROM view_queue")),
            [
                ("new-D", "new-C1", "DeviceInformation", "Acknowledged"),
                ("new-D", "new-C2", "SecurityInfo", None),
                ("new-D:U", "new-C2", "SecurityInfo", None),
            ],
        )

    def test_takeover(self) -> None:
        """
        NanoMDM's database only gets more, its rows stay, and NanoMDM's own
        statements go on working.
        """
        self.site()
        structure, contents = self.structure(), self.contents()
        changes = migrate(self.connection, self.kind)
        self.assertEqual(names(changes), self.added)
        self.assertEqual(structure - self.structure(), set())
        self.assertEqual(
            [one for one in self.structure() - structure if "nanomdm_" not in repr(one)], []
        )
        self.assertEqual(self.contents(), contents)
        self.assertEqual(migrate(self.connection, self.kind), [])
        require_current(self.connection, self.kind)
        self.insert("new")
        self.assertEqual(
            set(self.execute("SELECT nanomdm_seq FROM enrollment_queue")),
            {(0,)},
        )

    def test_older(self) -> None:
        """
        What an old revision lacks is added.
        """
        self.site()
        self.executes(*self.older)
        structure = self.structure()
        changes = migrate(self.connection, self.kind)
        self.assertEqual(sorted(names(changes)), sorted(self.added + self.restored))
        self.assertEqual(structure - self.structure(), set())
        self.assertEqual(migrate(self.connection, self.kind), [])
        self.assertEqual(
            set(self.execute("SELECT token_update_tally, last_seen_at IS NULL FROM enrollments")),
            {(1, False)},
        )
        self.insert("new")

    def test_partial(self) -> None:
        self.site()
        self.executes("DROP TABLE push_certs", "DROP TABLE cert_auth_associations")
        before = self.structure()
        for action in (pending, migrate, require_current):
            refusal = self.refusal(action, self.connection, self.kind)
            self.assertIn(
                "it lacks: table push_certs, table cert_auth_associations", refusal, action
            )
        self.assertEqual(self.structure(), before)

    def test_partial_without_rows(self) -> None:
        """
        Tables that are not the first ones are not what an interruption leaves.
        """
        migrate(self.connection, self.kind)
        self.executes("DROP VIEW view_queue", "DROP TABLE enrollment_queue")
        self.assertIn(
            "it lacks: table enrollment_queue",
            self.refusal(pending, self.connection, self.kind),
        )

    def test_missing_column(self) -> None:
        self.site()
        self.execute("ALTER TABLE push_certs DROP COLUMN stale_token")
        self.assertIn(
            "it lacks: column stale_token of push_certs",
            self.refusal(pending, self.connection, self.kind),
        )

    def test_tables_of_others(self) -> None:
        """
        Something else with one of the names is left alone.
        """
        self.execute("CREATE TABLE users (id INTEGER, name VARCHAR(20))")
        refusal = self.refusal(migrate, self.connection, self.kind)
        self.assertIn("it lacks: table devices", refusal)
        self.assertEqual(len(self.execute("SELECT * FROM users")), 0)

    def test_own_index(self) -> None:
        """
        An index that the site made itself under another name is as good.
        """
        self.site()
        self.executes(*self.older)
        self.execute("CREATE INDEX site_sha256 ON cert_auth_associations (sha256)")
        changes = names(migrate(self.connection, self.kind))
        self.assertEqual([name for name in changes if "index" in name and "cert_auth" in name], [])

    def test_together(self) -> None:
        """
        Servers that start together make each change once.
        """
        self.site()
        both = Barrier(2)
        made: list[str] = []
        failed: list[Exception] = []

        def start(connection: Any) -> None:
            try:
                both.wait(30)
                made.extend(names(migrate(connection, self.kind)))
            except Exception as error:
                failed.append(error)

        threads = [Thread(target=start, args=(self.connect(),)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failed, [])
        self.assertEqual(made, self.added)

    def test_other_server_takes_too_long(self) -> None:
        engine = schema._ENGINES[self.kind]
        with engine.locked(self.connect(), 0):
            refusal = self.refusal(migrate, self.connection, self.kind, 0)
        self.assertIn("another server has been changing the tables", refusal)
        self.assertNotEqual(migrate(self.connection, self.kind, 0), [])

    def assertContinues(self) -> None:
        """
        Each attempt crashes after one more change, until none is left.
        """
        expected = pending(self.connection, self.kind)
        steps = sum(len(change.statements) for change in expected)
        for step in range(1, steps):
            self.assertRaises(Crash, migrate, Crashing(self.connect(), 1), self.kind)
            left = pending(self.connection, self.kind)
            self.assertEqual(sum(len(change.statements) for change in left), steps - step)
        self.assertEqual(len(migrate(self.connection, self.kind)), 1)
        self.assertEqual(pending(self.connection, self.kind), [])

    def test_interrupted_creation(self) -> None:
        self.assertContinues()
        self.insert("new")

    def test_interrupted_takeover(self) -> None:
        self.site()
        contents = self.contents()
        self.assertContinues()
        self.assertEqual(self.contents(), contents)

    def test_require_current(self) -> None:
        """
        A server that may not alter tables says what is missing.
        """
        self.site()
        before = self.structure()
        refusal = self.refusal(require_current, self.connection, self.kind)
        self.assertTrue(refusal.startswith("auto_migrate is off and the database lacks: "))
        for name in self.added:
            self.assertIn(name, refusal)
        self.assertEqual(self.structure(), before)

    def test_busy_table(self) -> None:
        """
        A table that somebody uses for long is not waited for, as everybody else
        would have to wait behind; the lock is free afterwards.
        """
        self.site()
        for module in (mysql_schema, pgsql_schema):
            self.patch(module, "ALTER_TIMEOUT", 1)
        other = self.connect()
        with closing(other.cursor()) as cursor:
            cursor.execute("BEGIN")
            cursor.execute("SELECT * FROM enrollment_queue")
            refusal = self.refusal(migrate, self.connection, self.kind)
            self.assertIn(f"refused to add {self.busy}: ", refusal)
            self.assertIn("timeout", refusal)
            cursor.execute("ROLLBACK")
        rest = self.added[self.added.index(self.busy) :]
        self.assertEqual(names(migrate(self.connect(), self.kind, 0)), rest)


class MySQLTests(SchemaTests):
    """
    What holds on MySQL and MariaDB.
    """

    kind = "mysql"
    tables = nanomdm.MYSQL
    older = nanomdm.MYSQL_OLDER + nanomdm.OLDER
    added = [*ADDED, "table nanomdm_sequence"]
    restored = [
        *nanomdm.RESTORED,
        "index priority on enrollment_queue",
        "index idx_queue_lookup on enrollment_queue",
        "index idx_sha256 on cert_auth_associations",
    ]

    def disconnect(self, connection: Any) -> None:
        if connection.open:
            connection.close()

    def run_script(self, script: str) -> None:
        connection = pymysql.connect(
            user=self.database.administrator,
            host="127.0.0.1",
            port=self.database.port,
            database=DATABASE,
            client_flag=CLIENT.MULTI_STATEMENTS,
        )
        with closing(connection), connection.cursor() as cursor:
            cursor.execute(script)
            while cursor.nextset():
                pass

    def structure(self) -> set[tuple[Any, ...]]:
        """
        Columns, indexes, constraints and views, as far as they are the same at
        every look.
        """
        found: set[tuple[Any, ...]] = set()
        for table, columns in (
            (
                "columns",
                "table_name, column_name, column_type, is_nullable, column_default, extra,"
                " collation_name",
            ),
            (
                "statistics",
                "table_name, index_name, seq_in_index, column_name, collation, non_unique",
            ),
            ("table_constraints", "table_name, constraint_type, constraint_name"),
            ("tables", "table_name, engine, table_collation, row_format"),
            ("views", "table_name, view_definition"),
        ):
            rows = self.execute(
                f"SELECT {columns} FROM information_schema.{table} WHERE table_schema = DATABASE()"
            )
            found |= {(table, *row) for row in rows}
        return found

    def test_never_copies(self) -> None:
        """
        Changes of tables that exist say how they are to be made.
        """
        self.site()
        self.executes(*self.older)
        for change in pending(self.connection, self.kind):
            for statement in change.statements:
                if change.name.startswith("column"):
                    self.assertTrue(statement.endswith(", ALGORITHM=INSTANT"), statement)
                elif change.name.startswith("index"):
                    self.assertTrue(statement.endswith(", ALGORITHM=INPLACE, LOCK=NONE"), statement)

    def test_can_not_without_copying(self) -> None:
        """
        Where a column can not be added at once, the operator has to decide.
        """
        self.site()
        self.execute("ALTER TABLE enrollment_queue ROW_FORMAT=COMPRESSED")
        first = self.added.index("column nanomdm_seq of enrollment_queue")
        for change in pending(self.connection, self.kind)[:first]:
            self.executes(*change.statements)
        before = self.structure()
        refusal = self.refusal(migrate, self.connection, self.kind)
        self.assertIn("refused to add column nanomdm_seq of enrollment_queue: ", refusal)
        self.assertIn("ALGORITHM=INSTANT", refusal)
        self.assertEqual(self.structure(), before)
        self.execute("ALTER TABLE enrollment_queue ADD nanomdm_seq BIGINT NOT NULL DEFAULT 0")
        self.assertEqual(names(migrate(self.connection, self.kind)), self.added[first + 1 :])

    def test_sequence(self) -> None:
        migrate(self.connection, self.kind)
        numbers = []
        for _ in range(3):
            self.execute("INSERT INTO nanomdm_sequence () VALUES ()")
            numbers.append(self.execute("SELECT LAST_INSERT_ID()")[0][0])
        self.assertEqual(numbers, sorted(set(numbers)))


class MariaDBSchemaTests(MySQLTests, SynchronousTestCase):
    """
    MariaDB.
    """

    server = "mariadb"
    skip = unavailable("mariadb")


class MySQLSchemaTests(MySQLTests, SynchronousTestCase):
    """
    MySQL.
    """

    server = "mysql"
    # That table refers to enrollments, and so is in the way of changing these.
    busy = "index nanomdm_enrollments_enabled on enrollments"
    skip = unavailable("mysql")


class PostgreSQLSchemaTests(SchemaTests, SynchronousTestCase):
    """
    PostgreSQL.
    """

    server = "postgresql"
    skip = unavailable("postgresql")
    kind = "pgsql"
    tables = nanomdm.PGSQL
    older = nanomdm.OLDER
    added = [
        "index nanomdm_users_device_id on users",
        "index nanomdm_users_short_name on users",
        "index nanomdm_enrollments_device_id on enrollments",
        "index nanomdm_enrollments_types on enrollments",
        "index nanomdm_enrollments_enabled on enrollments",
        "index nanomdm_enrollments_topic on enrollments",
        "index nanomdm_command_results_command_uuid on command_results",
        "column nanomdm_seq of enrollment_queue",
        "index nanomdm_queue_next on enrollment_queue",
        "index nanomdm_queue_targets on enrollment_queue",
        "index nanomdm_queue_active on enrollment_queue",
        "column nanomdm_seq of cert_auth_associations",
        "index nanomdm_cert_auth_associations_sha256 on cert_auth_associations",
        "table nanomdm_cert_owners",
        "table nanomdm_pushes",
        "index nanomdm_pushes_due on nanomdm_pushes",
        "table nanomdm_dead_tokens",
        "table nanomdm_leases",
        "table nanomdm_webhook_events",
        "index nanomdm_webhook_events_enrollment on nanomdm_webhook_events",
        "table nanomdm_webhook_streams",
        "index nanomdm_webhook_streams_due on nanomdm_webhook_streams",
        "table nanomdm_webhook_failed",
        "sequence nanomdm_sequence",
    ]
    restored = nanomdm.RESTORED

    def disconnect(self, connection: Any) -> None:
        connection.close()

    def run_script(self, script: str) -> None:
        self.execute(script)

    def structure(self) -> set[tuple[Any, ...]]:
        """
        Columns, indexes, constraints, triggers and views.
        """
        found: set[tuple[Any, ...]] = set()
        for query in (
            "SELECT table_name, column_name, data_type, character_maximum_length, is_nullable,"
            " column_default FROM information_schema.columns WHERE table_schema = 'public'",
            "SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = 'public'",
            "SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE connamespace = 'public'::regnamespace",
            "SELECT tgrelid::regclass::text, pg_get_triggerdef(oid) FROM pg_trigger"
            " WHERE NOT tgisinternal",
            "SELECT viewname, definition FROM pg_views WHERE schemaname = 'public'",
            "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
        ):
            found |= set(self.execute(query))
        return found

    def files(self) -> list[Any]:
        return [
            self.execute("SELECT pg_relation_filenode(%s::regclass)", (table,))
            for table in nanomdm.COLUMNS
        ]

    def test_never_copies(self) -> None:
        """
        No table gets a new file, and indexes are made while others write.
        """
        self.site()
        self.executes(*self.older)
        files = self.files()
        for change in pending(self.connection, self.kind):
            # Its own tables are new, and nobody waits for them.
            if change.name.startswith("index") and "on nanomdm_" not in change.name:
                [statement] = change.statements
                self.assertTrue(statement.startswith("CREATE INDEX CONCURRENTLY"), statement)
        migrate(self.connection, self.kind)
        self.assertEqual(self.files(), files)

    def test_interrupted_index(self) -> None:
        """
        An index whose building was interrupted is made anew.
        """
        self.site()
        by_name = {change.name: change for change in pending(self.connection, self.kind)}
        self.executes(*by_name["column nanomdm_seq of enrollment_queue"].statements)
        # One of all rows, and one of some.
        for name in ("nanomdm_queue_next", "nanomdm_queue_active"):
            index = by_name[f"index {name} on enrollment_queue"]
            writer = self.connect()
            writer.execute("BEGIN")
            writer.execute("UPDATE enrollment_queue SET active = FALSE")
            self.execute("SET statement_timeout = 100")
            error = self.assertRaises(psycopg.Error, self.executes, *index.statements)
            self.assertEqual(error.sqlstate, "57014")
            self.execute("RESET statement_timeout")
            writer.execute("ROLLBACK")
            [again] = [c for c in pending(self.connection, self.kind) if c.name == index.name]
            self.assertEqual(
                again.statements, (f"DROP INDEX CONCURRENTLY {name}", *index.statements)
            )
        migrate(self.connection, self.kind)
        self.assertEqual(pending(self.connection, self.kind), [])

    def test_partial_index(self) -> None:
        """
        An index on some of the rows, or on more than columns, does not count.
        """
        self.site()
        self.executes(
            "CREATE INDEX site_some ON cert_auth_associations (sha256) WHERE id <> ''",
            "CREATE INDEX site_lower ON cert_auth_associations (lower(sha256))",
        )
        self.assertEqual(names(pending(self.connection, self.kind)), self.added)

    def test_partial_index_of_ours(self) -> None:
        """
        One that has some of the rows on purpose is found by its name alone; one of all
        rows on its columns is another.
        """
        self.site()
        self.execute("CREATE INDEX site_all ON enrollment_queue (id, command_uuid)")
        self.assertEqual(names(pending(self.connection, self.kind)), self.added)
        migrate(self.connection, self.kind)
        [(definition,)] = self.execute(
            "SELECT indexdef FROM pg_indexes WHERE indexname = 'nanomdm_queue_active'"
        )
        self.assertTrue(definition.endswith("(id, command_uuid) WHERE active"), definition)
        self.assertEqual(pending(self.connection, self.kind), [])

    def test_restored_trigger(self) -> None:
        """
        A table without anything that keeps C{updated_at} up gets it.
        """
        self.site()
        self.execute("DROP TRIGGER site_updated ON devices")
        changes = names(migrate(self.connection, self.kind))
        self.assertEqual(
            changes[-2:], ["function nanomdm_touch", "trigger nanomdm_touch on devices"]
        )
        self.execute("UPDATE devices SET updated_at = '2001-01-01', serial_number = 'S2'")
        self.execute("UPDATE devices SET serial_number = 'S3'")
        [(updated,)] = self.execute("SELECT updated_at FROM devices")
        self.assertGreater(updated.year, 2023)

    def test_first_schema_of_the_path(self) -> None:
        """
        Tables are found where the login's statements find them.
        """
        self.site()
        self.executes("CREATE SCHEMA own", "SET search_path = own, public")
        self.assertEqual(names(pending(self.connection, self.kind)), self.added)
        self.execute("SET search_path = own")
        self.assertEqual(schema.script(pending(self.connection, self.kind)), ddl(self.kind))

    def test_statement_timeout(self) -> None:
        """
        The limit of the server's own statements is not that of a change, and
        holds again afterwards.
        """
        connection = psycopg.connect(
            host="127.0.0.1",
            port=self.database.port,
            user=self.database.administrator,
            dbname=DATABASE,
            options="-c statement_timeout=12345",
            autocommit=True,
        )
        with closing(connection):
            migrate(connection, self.kind)
            shown = connection.execute("SHOW statement_timeout").fetchone()
        self.assertEqual(shown, ("12345ms",))


class SQLiteTests(SynchronousTestCase):
    """
    SQLite; see also the tests of its storage.
    """

    def setUp(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.addCleanup(self.connection.close)

    def test_empty(self) -> None:
        self.assertEqual(
            names(migrate(self.connection, "sqlite")),
            [f"schema version {number}" for number in (1, 2, 3, 4)],
        )
        self.assertEqual(migrate(self.connection, "sqlite"), [])
        require_current(self.connection, "sqlite")

    def test_by_hand(self) -> None:
        self.connection.executescript(ddl("sqlite"))
        self.assertEqual(pending(self.connection, "sqlite"), [])

    def test_require_current(self) -> None:
        error = self.assertRaises(ConfigError, require_current, self.connection, "sqlite")
        self.assertIn("the database lacks: schema version 1, schema version 2, ", str(error))

    def test_first_version(self) -> None:
        """
        A database of the first version gets what it lacks, and keeps its rows.
        """
        self.connection.executescript(ddl("sqlite").partition("-- schema version 2")[0])
        self.connection.execute(
            "INSERT INTO push_certs (topic, cert_pem, key_pem, stale_token) VALUES ('t', '', '', 1)"
        )
        self.assertEqual(
            names(migrate(self.connection, "sqlite")),
            [f"schema version {number}" for number in (2, 3, 4)],
        )
        self.assertEqual(
            self.connection.execute("SELECT topic FROM push_certs").fetchall(), [("t",)]
        )
        self.connection.execute("SELECT id, pushed, step, due FROM nanomdm_pushes")
        self.connection.execute("SELECT number, head, raw FROM nanomdm_webhook_events")

    def test_same_columns(self) -> None:
        """
        Every engine has the same tables with the same columns.
        """
        migrate(self.connection, "sqlite")
        for table in (*BASE, *OWN):
            found = self.connection.execute(f"SELECT name FROM pragma_table_info('{table.name}')")
            self.assertEqual(
                sorted(name for (name,) in found), sorted(column.name for column in table.columns)
            )
