"""
Tests for the storage on SQLite, in a file and in memory.
"""

from __future__ import annotations

import gc
import os
import sqlite3
import stat
from pathlib import Path
from types import SimpleNamespace

from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from nanomdm.errors import ConfigError, StorageError, StorageUnavailable, TooLarge
from nanomdm.interfaces import EnrollmentFilter
from nanomdm.mdm.command import parse_report
from nanomdm.storage import commands, listing, queues, repush, results, webhook
from nanomdm.storage.schema import changes
from nanomdm.storage.schema.sqlite import MIGRATIONS
from nanomdm.storage.sql import SQLStorage
from nanomdm.storage.sqlite import prepare
from tests import samples
from tests.storage.contract import StorageContract
from tests.storage.event_contract import EventContract
from tests.storage.inspection_contract import EnrollmentInspectionContract
from tests.storage.push_contract import PushContract
from tests.storage.queue_contract import QueueInspectionContract
from tests.storage.tables import open_sqlite


class FileTests(
    StorageContract,
    PushContract,
    EventContract,
    EnrollmentInspectionContract,
    QueueInspectionContract,
    TestCase,
):
    """
    A database file.
    """

    def open(self) -> SQLStorage:
        self.path = Path(self.mktemp())
        prepare(self.path)
        return open_sqlite(reactor, self.path)

    def open_second(self) -> SQLStorage:
        return open_sqlite(reactor, self.path)

    async def test_secretFiles(self) -> None:
        await self.enroll()
        for path in self.path.parent.glob(self.path.name + "*"):
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600, path)

    async def test_committedWhenAnswered(self) -> None:
        """
        What a call's Deferred said is there for another connection.
        """
        await self.enroll()
        await self.enqueue("C1")
        await self.report("Acknowledged", "C1")
        other = sqlite3.connect(self.path)
        self.addCleanup(other.close)
        self.assertEqual(
            other.execute("SELECT status FROM command_results").fetchall(), [("Acknowledged",)]
        )

    async def test_survivesReopening(self) -> None:
        await self.enroll()
        await self.enqueue("C1")
        await self.storage.stop()
        prepare(self.path)
        self.storage = open_sqlite(reactor, self.path)
        self.addCleanup(self.storage.stop)
        self.assertEqual(await self.next_uuid(), "C1")

    async def test_seenIsWrittenAtTheEnd(self) -> None:
        await self.enroll()
        await self.query("UPDATE enrollments SET last_seen_at = '2001-01-01 00:00:00'")
        self.storage.touch("D1")
        await self.storage.stop()
        other = sqlite3.connect(self.path)
        self.addCleanup(other.close)
        [(seen,)] = other.execute("SELECT last_seen_at FROM enrollments")
        self.assertGreater(seen, "2002")

    async def test_nextCommandUsesTheIndex(self) -> None:
        statement = commands.NEXT_COMMANDS.format(index="", values="?, ?")
        plan = await self.query("EXPLAIN QUERY PLAN " + statement, "D1", "D2")
        steps = [str(row[-1]) for row in plan]
        lookup = "SEARCH q USING COVERING INDEX nanomdm_queue_next (id=? AND active=?)"
        self.assertIn(lookup, steps)
        self.assertFalse([step for step in steps if "SCAN" in step or "TEMP B-TREE" in step], steps)

    async def test_pushAgainUsesTheIndexes(self) -> None:
        dialect = self.storage._database._engine.dialect
        states = repush.states_statement(dialect).format(values="?, ?")
        for statement, lookup, times, parameters in (
            (repush.due_statement(dialect), "nanomdm_pushes_due (step=? AND due<?)", 5, ()),
            (states, "nanomdm_queue_next (id=? AND active=?)", 2, ("D1", "D2")),
        ):
            plan = await self.query("EXPLAIN QUERY PLAN " + statement, *parameters)
            steps = [str(row[-1]) for row in plan]
            self.assertEqual(len([step for step in steps if lookup in step]), times, steps)
            self.assertFalse([step for step in steps if "SCAN enrollment" in step], steps)

    async def test_inspectionUsesTheIndexes(self) -> None:
        dialect = self.storage._database._engine.dialect
        queue, targets = queues.outstanding_statement, results.targets_statement
        begin = "r.updated_at <= ? AND (r.updated_at < ? OR r.command_uuid < ?)"
        for statement, lookup in (
            (queue(dialect, False), "q USING COVERING INDEX nanomdm_queue_next (id=? AND active=?"),
            (queue(dialect, True), "nanomdm_queue_next (id=? AND active=? AND priority<?"),
            (targets(dialect, False), "q USING INDEX nanomdm_queue_targets (command_uuid=?"),
            (targets(dialect, True), "nanomdm_queue_targets (command_uuid=? AND id>?"),
            (
                results.answers_statement(dialect, []),
                "r USING COVERING INDEX nanomdm_results_newest (id=?",
            ),
            (
                results.answers_statement(dialect, [begin, "r.status = ?"]),
                "nanomdm_results_newest (id=? AND updated_at<?",
            ),
        ):
            parameters = ["1"] * statement.count("?")
            plan = await self.query("EXPLAIN QUERY PLAN " + statement, *parameters)
            steps = [str(row[-1]) for row in plan]
            self.assertTrue([step for step in steps if lookup in step], steps)
            # Only the page that was found is gone through, and sorted.
            self.assertEqual([step for step in steps if "SCAN" in step], ["SCAN k"], steps)
            self.assertEqual(len([step for step in steps if "TEMP B-TREE" in step]), 1, steps)

    async def test_eventsUseTheIndexes(self) -> None:
        dialect = self.storage._database._engine.dialect
        first = webhook.first_statement(dialect).format(values="?, ?")
        for statement, lookups, parameters in (
            (webhook.due_statement(dialect, 16), ["nanomdm_webhook_streams_due (due<?)"], ()),
            (
                first,
                [
                    "SEARCH s USING INDEX sqlite_autoindex_nanomdm_webhook_streams_1",
                    "SEARCH e USING COVERING INDEX nanomdm_webhook_events_enrollment",
                ],
                ("D1", "D2"),
            ),
        ):
            plan = await self.query("EXPLAIN QUERY PLAN " + statement, *parameters)
            steps = "\n".join(str(row[-1]) for row in plan)
            for lookup in lookups:
                self.assertIn(lookup, steps)
            for slow in ("SCAN", "TEMP B-TREE"):
                self.assertNotIn(slow, steps)

    async def test_listsUseTheIndexes(self) -> None:
        """
        Where no index has what is asked for in the order of the ids, the table is read
        as it lies.
        """
        dialect = self.storage._database._engine.dialect
        covering = "SEARCH e USING COVERING INDEX nanomdm_enrollments_"
        for which, step in (
            (EnrollmentFilter(type="User"), f"{covering}types (type=? AND id>?)"),
            (EnrollmentFilter(enabled=False), f"{covering}enabled (enabled=? AND id>?)"),
            (EnrollmentFilter(topic="x"), f"{covering}topic (topic=? AND id>?)"),
            (EnrollmentFilter(topic="x", enabled=True), "SCAN e"),
            (EnrollmentFilter(type="User", seen_before=1.0), "SCAN e"),
            (EnrollmentFilter(serial="x"), "SEARCH v USING INDEX serial_number (serial_number=?)"),
            (
                EnrollmentFilter(user="x"),
                "SEARCH users USING INDEX nanomdm_users_short_name (user_short_name=?)",
            ),
            (
                EnrollmentFilter(pending=True, enabled=True),
                "SEARCH q USING COVERING INDEX nanomdm_queue_active (id>?)",
            ),
        ):
            statement, values = listing.enrollments_statement(dialect, which, "D1")
            plan = await self.query("EXPLAIN QUERY PLAN " + statement, *values, 101)
            steps = [str(row[-1]) for row in plan]
            self.assertIn(step, steps)
            scans = [one for one in steps if one.startswith("SCAN ") and one != "SCAN p"]
            users = "SCAN s USING COVERING INDEX sqlite_autoindex_users_1"
            self.assertLessEqual(set(scans), {step, "SCAN n", users}, steps)

    async def test_answeredRowsDoNotSlowTheQueue(self) -> None:
        await self.enroll()
        await self.enqueue("C1")
        await self.report("Acknowledged", "C1")
        self.assertEqual(await self.query("SELECT active FROM enrollment_queue"), [(False,)])

    async def test_updatedAtFollows(self) -> None:
        await self.enroll()
        [(before,)] = await self.query("SELECT updated_at FROM devices")
        await self.query("UPDATE devices SET updated_at = '2001-01-01 00:00:00'")
        await self.token_update()
        [(after,)] = await self.query("SELECT updated_at FROM devices")
        self.assertGreaterEqual(after, before)

    async def test_poisonedMemberFailsAlone(self) -> None:
        """
        A call that breaks the transaction fails, the ones gathered with it do
        not, and nothing of it stays behind.
        """
        await self.enroll("D1", "D2")
        await self.enqueue("C1", "D1", "D2")

        def poison(transaction, batch):
            transaction.execute("UPDATE enrollments SET topic = 'poisoned'")
            transaction.execute("INSERT INTO enrollment_queue (id, command_uuid) VALUES ('x', 'y')")

        good = [self.enqueue("C2"), self.enqueue("C3", "D2")]
        bad = self.storage._database.write(poison, None)
        good.append(self.token_update())
        await self.assertFailure(bad, Exception)
        self.assertEqual(await gatherResults(good), [{}, {}, 2])
        self.assertEqual(
            await self.query("SELECT DISTINCT topic FROM enrollments"), [(samples.TOPIC,)]
        )

    async def test_brokenOffReading(self) -> None:
        """
        A row that can not be read leaves its connection as it was: it sees what is
        written then, and can write.
        """
        # Until the garbage is collected, errors have everything that they went through.
        gc.disable()
        self.addCleanup(gc.enable)
        await self.enroll()
        other = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(other.close)
        for schedule in (False, True):
            other.execute("UPDATE enrollments SET topic = CAST(x'ff' AS TEXT)")
            await self.assertFailure(self.storage.push_targets(["D1"], schedule), StorageError)
            other.execute("UPDATE enrollments SET topic = 'right'")
            targets = await self.storage.push_targets(["D1"], schedule)
            self.assertEqual(targets["D1"].topic, "right")

    async def test_lockedByAnother(self) -> None:
        """
        Another process that holds the file makes calls fail, all at once and
        after a bounded wait; afterwards all is well again.
        """
        await self.enroll()
        await self.query("PRAGMA busy_timeout = 50")
        other = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(other.close)
        other.execute("BEGIN IMMEDIATE")
        failing = [self.enqueue(f"C{n}") for n in range(50)]
        for call in failing:
            await self.assertFailure(call, StorageUnavailable)
        other.execute("ROLLBACK")
        self.assertEqual(await self.enqueue("C1"), {})

    async def test_tooLargeForTheDatabase(self) -> None:
        await self.enroll()
        await self.enqueue("C1")

        def limit(transaction, batch):
            transaction._cursor.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100_000)
            return [None]

        await self.storage._database.write(limit, None)
        big = parse_report(samples.report("Acknowledged", "C1", Big="x" * 200_000))
        await self.assertFailure(self.storage.store_report(big), TooLarge)
        self.assertEqual(await self.query("SELECT * FROM command_results"), [])
        self.assertEqual(await self.next_uuid(), "C1")


class MemoryTests(
    StorageContract,
    PushContract,
    EventContract,
    EnrollmentInspectionContract,
    QueueInspectionContract,
    TestCase,
):
    """
    A database in memory.
    """

    def open(self) -> SQLStorage:
        return open_sqlite(reactor, None)


class PrepareTests(SynchronousTestCase):
    """
    Tests for L{prepare}.
    """

    def version(self, path: Path) -> int:
        connection = sqlite3.connect(path)
        try:
            return connection.execute("PRAGMA user_version").fetchone()[0]
        finally:
            connection.close()

    def execute(self, path: Path, statement: str) -> None:
        connection = sqlite3.connect(path)
        connection.execute(statement)
        connection.commit()
        connection.close()

    def assertRefused(self, path: Path, reason: str) -> None:
        error = self.assertRaises(ConfigError, prepare, path)
        self.assertIn(f"--storage-dsn: {path}: ", str(error))
        self.assertIn(reason, str(error))
        self.assertNotIn("\n", str(error))

    def test_creates(self) -> None:
        path = Path(self.mktemp())
        prepare(path)
        self.assertEqual(self.version(path), len(MIGRATIONS))
        prepare(path)

    def test_anotherServerStarts(self) -> None:
        """
        A server that finds another one at work on the new file waits for it.
        """
        path = Path(self.mktemp())
        other = sqlite3.connect(path, isolation_level=None)
        self.addCleanup(other.close)
        other.execute("BEGIN IMMEDIATE")
        waited = []

        def sleep(seconds: float) -> None:
            waited.append(seconds)
            if len(waited) == 3:
                other.execute("COMMIT")

        self.patch(changes, "time", SimpleNamespace(monotonic=Clock().seconds, sleep=sleep))
        prepare(path)
        self.assertEqual((len(waited), self.version(path)), (3, len(MIGRATIONS)))

    def test_neverUnlocked(self) -> None:
        """
        It does not wait for ever.
        """
        path = Path(self.mktemp())
        other = sqlite3.connect(path, isolation_level=None)
        self.addCleanup(other.close)
        other.execute("BEGIN IMMEDIATE")
        clock = Clock()
        self.patch(changes, "time", SimpleNamespace(monotonic=clock.seconds, sleep=clock.advance))
        self.assertRefused(path, "another server has been changing the tables")
        self.assertAlmostEqual(clock.seconds(), 5, delta=0.5)

    def test_newerVersion(self) -> None:
        path = Path(self.mktemp())
        prepare(path)
        self.execute(path, "PRAGMA user_version = 99")
        self.assertRefused(path, "schema version 99, made by a newer nanomdm")

    def test_somethingElse(self) -> None:
        path = Path(self.mktemp())
        self.execute(path, "CREATE TABLE photos (id INTEGER)")
        self.assertRefused(path, "not made by nanomdm")

    def test_noDatabase(self) -> None:
        path = Path(self.mktemp())
        path.write_bytes(b"x" * 4096)
        self.assertRefused(path, "file is not a database")

    def test_noFolder(self) -> None:
        folder = Path(self.mktemp()) / "sub"
        self.assertRefused(folder / "db", f"the directory {folder} does not exist")

    def test_failedUpgradeChangesNothing(self) -> None:
        path = Path(self.mktemp())
        broken = (*MIGRATIONS, "CREATE TABLE extra (id INTEGER);\nNONSENSE;\n")
        prepare(path)
        self.patch(
            __import__("nanomdm.storage.schema.sqlite", fromlist=["x"]), "MIGRATIONS", broken
        )
        self.assertRefused(path, "syntax error")
        self.assertEqual(self.version(path), len(MIGRATIONS))
