"""
Tests for L{nanomdm.ctl.checks.database}.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from nanomdm.ctl.checks import database
from nanomdm.ctl.checks.database import check_storage, clocks
from nanomdm.interfaces import Backlog
from nanomdm.storage.factory import engine_of, prepare_storage
from nanomdm.storage.settings import StorageOptions, StorageSettings
from tests.crypto import build
from tests.ctl.checks.case import Case, ago, told
from tests.servers import shared, unavailable

DATABASE = "doctor_test"
TOPIC = "com.apple.mgmt.External.test"


class SQLiteTests(Case):
    """
    A storage that is a file.
    """

    def storage(self) -> StorageSettings:
        return StorageSettings(kind="sqlite", dsn=self.directory / "db")

    def prepared(self) -> StorageSettings:
        storage = self.storage()
        prepare_storage(storage)
        return storage

    def execute(self, statement: str, *parameters: Any) -> None:
        with closing(sqlite3.connect(self.directory / "db", isolation_level=None)) as connection:
            connection.execute(statement, parameters)

    def test_good(self) -> None:
        """
        Nothing is written.
        """
        storage = self.prepared()
        before = {path.name: path.read_bytes() for path in self.directory.iterdir()}
        self.assertTold(
            check_storage(storage, True),
            f"ok storage: sqlite {storage.dsn} can be reached",
            "ok version: SQLite 3.",
            "ok schema: up to date",
            "ok writable",
            "warn push certificates: there is none",
            "ok secrets: nothing is encrypted",
            "ok webhook: 0 events wait",
        )
        after = {path.name: path.read_bytes() for path in self.directory.iterdir()}
        self.assertEqual(after, before)

    def test_missing(self) -> None:
        self.assertTold(check_storage(self.storage(), False), "warn storage: ")
        nowhere = StorageSettings(kind="sqlite", dsn=self.directory / "no" / "db")
        self.assertTold(check_storage(nowhere, False), "fail storage: ")
        self.assertEqual(list(self.directory.iterdir()), [])

    def test_notWritable(self) -> None:
        self.patch(os, "access", lambda path, mode: Path(path) != self.directory)
        found = told(list(check_storage(self.prepared(), False)))
        self.assertIn(
            f"fail writable: {self.directory} can not be written to by who runs this", found
        )
        self.patch(os, "access", lambda path, mode: False)
        shutil.rmtree(self.directory)
        self.directory.mkdir()
        self.assertTold(check_storage(self.storage(), False), "fail storage: ")

    def test_inMemory(self) -> None:
        self.assertTold(
            check_storage(StorageSettings(kind="inmem"), False), "warn storage: everything"
        )

    def test_somethingElse(self) -> None:
        self.execute("CREATE TABLE photos (id INTEGER)")
        *_, last = told(list(check_storage(self.storage(), False)))
        self.assertTrue(last.startswith("fail schema: "), last)

    def test_empty(self) -> None:
        self.execute("VACUUM")
        *_, last = told(list(check_storage(self.storage(), False)))
        self.assertTrue(last.startswith("warn schema: it lacks: schema version 1"), last)

    def push_certificate(self, **validity: Any) -> None:
        identity = build.ca().issue_push(TOPIC, key=build.device_key(), **validity)
        self.execute(
            "INSERT OR REPLACE INTO push_certs (topic, cert_pem, key_pem, stale_token)"
            " VALUES (?, ?, ?, 0)",
            *(TOPIC, identity.pem.decode(), identity.key_pem.decode()),
        )

    def found(self, check: str, webhook: bool = False) -> list[str]:
        findings = list(check_storage(self.storage(), webhook))
        return [text for text in told(findings) if f" {check}: " in text]

    def test_pushCertificates(self) -> None:
        self.prepared()
        for days, words in ((-100, "ok"), (-29, "warn"), (1, "fail")):
            self.push_certificate(not_before=ago(200), not_after=ago(days))
            [text] = self.found("push certificates")
            self.assertTrue(text.startswith(f"{words} push certificates: {TOPIC} "), text)
        self.execute("UPDATE push_certs SET key_pem = 'secret'")
        [text] = self.found("push certificates")
        self.assertEqual(text, f"fail push certificates: {TOPIC}: there is no private key")

    def test_topicWithout(self) -> None:
        """
        Only who is enrolled counts.
        """
        self.prepared()
        self.push_certificate()
        self.execute("PRAGMA foreign_keys = OFF")
        for number, (topic, enabled) in enumerate(((TOPIC, 1), ("gone", 0), ("here", 1))):
            self.execute(
                "INSERT INTO enrollments (id, device_id, type, topic, push_magic, token_hex,"
                " enabled, last_seen_at) VALUES (?, 'd', 'Device', ?, 'm', 'aa', ?, '2026-01-01')",
                *(f"D{number}", topic, enabled),
            )
        _, text = self.found("push certificates")
        self.assertEqual(
            text,
            "fail push certificates: devices are enrolled with topic here, and there is no"
            " certificate",
        )

    def test_webhook(self) -> None:
        self.prepared()
        self.patch(database, "backlog", lambda *_: [Backlog(waiting=7, oldest=301.0, failed=2)])
        self.assertEqual(
            self.found("webhook", webhook=True),
            [
                "warn webhook: 2 events were given up",
                "warn webhook: 7 events wait, the oldest for 301 s",
            ],
        )


class VersionTests(SynchronousTestCase):
    """
    Which versions of database servers are supported.
    """

    def test_versions(self) -> None:
        for kind, text, expected in (
            ("mysql", "8.0.18", "fail version: MySQL 8.0.18"),
            ("mysql", "8.0.19-0ubuntu1", "ok version: MySQL 8.0.19"),
            ("mysql", "9.7.0", "ok version: MySQL 9.7.0"),
            ("mysql", "10.5.9-MariaDB-1", "fail version: MariaDB 10.5.9"),
            ("mysql", "10.11.6-MariaDB-0+deb12u1", "ok version: MariaDB 10.11.6"),
            ("pgsql", "PostgreSQL 12.22 on x86_64", "fail version: PostgreSQL 12.22"),
            ("pgsql", "PostgreSQL 17beta1 (Debian 17)", "ok version: PostgreSQL 17"),
        ):
            self.patch(database, "rows", lambda connection, query, text=text: [(text,)])
            self.assertEqual(told([database._version(None, kind)]), [expected])

    def test_clocks(self) -> None:
        for apart, word in ((0, "ok"), (5, "ok"), (6, "warn"), (301, "fail")):
            self.assertEqual(clocks("it", apart).outcome.value, word)


class ServerTests:
    """
    A storage on a server.
    """

    engine: str
    kind: str
    read_only: str

    def setUp(self) -> None:
        self.server = shared(self.engine)
        self.server.create_database(DATABASE)
        self.addCleanup(self.server.drop_database, DATABASE)

    def storage(self, **options: Any) -> StorageSettings:
        dsn = self.server.password_dsn(DATABASE)
        return StorageSettings(kind=self.kind, dsn=dsn, options=StorageOptions(**options))

    def test_good(self) -> None:
        prepare_storage(self.storage())
        found = told(list(check_storage(self.storage(), False)))
        self.assertNotIn("w%2Frd", found[0])
        self.assertEqual(
            [text.partition(":")[0] for text in found],
            [
                *("ok storage", "ok version", "ok schema", "ok writable", "ok clock"),
                *("warn push certificates", "ok secrets"),
            ],
        )

    def test_lacking(self) -> None:
        for auto_migrate, word in ((True, "warn"), (False, "fail")):
            found = told(list(check_storage(self.storage(auto_migrate=auto_migrate), False)))
            self.assertTrue(found[-1].startswith(f"{word} schema: it lacks: table "), found)

    def test_readOnly(self) -> None:
        storage = self.storage()
        prepare_storage(storage)
        engine = engine_of(storage, storage.dsn)
        with closing(engine.connect(autocommit=True)) as connection:
            database.run(connection, self.read_only)
            [finding] = database._guarded(
                "writable", lambda: database._writable(storage, connection)
            )
        self.assertEqual(finding.outcome.value, "fail")
        self.assertIn("read", finding.text.lower())

    def test_clock(self) -> None:
        storage = self.storage()
        engine = engine_of(storage, storage.dsn)
        with closing(engine.connect(autocommit=True)) as connection:
            for off, word in ((-400, "fail"), (-20, "warn"), (20, "warn")):
                with_clock = _Shifted(off)
                self.patch(database, "time", with_clock)
                [finding] = database._clock(engine, connection)
                self.assertEqual(finding.outcome.value, word)

    def test_wrongPassword(self) -> None:
        dsn = self.server.password_dsn(DATABASE).replace("w%2Frd", "sesame")
        [finding] = check_storage(StorageSettings(kind=self.kind, dsn=dsn), False)
        self.assertEqual(finding.outcome.value, "fail")
        self.assertNotIn("sesame", finding.text)


class _Shifted:
    """
    Stands for the module C{time} of a machine whose clock is wrong.
    """

    def __init__(self, off: float) -> None:
        self._off = off

    def time(self) -> float:
        return datetime.now(UTC).timestamp() + self._off


class MariaDBTests(ServerTests, SynchronousTestCase):
    """
    MariaDB.
    """

    engine = "mariadb"
    kind = "mysql"
    read_only = "SET SESSION TRANSACTION READ ONLY"
    skip = unavailable("mariadb")


class MySQLTests(ServerTests, SynchronousTestCase):
    """
    MySQL.
    """

    engine = "mysql"
    kind = "mysql"
    read_only = "SET SESSION TRANSACTION READ ONLY"
    skip = unavailable("mysql")


class PostgreSQLTests(ServerTests, SynchronousTestCase):
    """
    PostgreSQL.
    """

    engine = "postgresql"
    kind = "pgsql"
    read_only = "SET default_transaction_read_only = on"
    skip = unavailable("postgresql")
