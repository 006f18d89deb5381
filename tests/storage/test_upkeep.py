"""
Tests for keeping the queue short.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock, deferLater
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase, TestCase

from nanomdm.errors import StorageUnavailable
from nanomdm.interfaces import QueueSummary, ReportOutcome
from nanomdm.mdm.checkin import parse_checkin
from nanomdm.mdm.command import parse_command, parse_report
from nanomdm.storage import upkeep
from nanomdm.storage.commands import EnqueueCall, enqueue
from nanomdm.storage.factory import engine_of, open_storage
from nanomdm.storage.inspection import summarize
from nanomdm.storage.settings import StorageOptions, StorageSettings
from nanomdm.storage.sql import SQLStorage
from nanomdm.storage.transaction import Transaction
from nanomdm.storage.upkeep import Upkeep, forget_numbers, tidy_commands, tidy_queue
from tests import samples
from tests.servers import shared, unavailable
from tests.storage.tables import query
from tests.storage.test_engines import EngineCase

_LONG_AGO = "2026-01-01 00:00:00"


class UpkeepTests:
    """
    What holds on every engine.
    """

    def open(self, **options: Any) -> SQLStorage:
        raise NotImplementedError

    def setUp(self) -> None:
        self.patch(upkeep, "_PAUSE", 0.0)

    async def use(self, **options: Any) -> None:
        """
        Open a storage with two devices.
        """
        self.storage = self.open(**options)
        self.storage.start()
        self.addCleanup(self.storage.stop)
        for udid in ("D1", "D2"):
            message = parse_checkin(samples.authenticate(udid))
            await self.storage.store_authenticate(message, "PEM", lambda command: False)
            await self.storage.store_token_update(parse_checkin(samples.token_update(udid)))

    def query(self, sql: str, *parameters: object) -> Deferred[Any]:
        return query(self.storage, sql, *parameters)

    async def enqueue(self, *uuids: str, ids: tuple[str, ...] = ("D1",)) -> None:
        for uuid in uuids:
            self.assertEqual(
                await self.storage.enqueue(parse_command(samples.command(uuid)), ids), {}
            )

    async def report(self, status: str, uuid: str, udid: str = "D1") -> ReportOutcome:
        return await self.storage.store_report(parse_report(samples.report(status, uuid, udid)))

    async def next_uuid(self, udid: str = "D1") -> str | None:
        raw = await self.storage.next_command(udid)
        return None if raw is None else samples.uuid_of(raw)

    async def reactivate(self) -> None:
        """
        Leave answered rows active, as NanoMDM does.
        """
        await self.query("UPDATE enrollment_queue SET active = TRUE")

    async def age(self, *uuids: str) -> None:
        """
        Make everything about some commands old.
        """
        for uuid in uuids:
            for table in ("command_results", "enrollment_queue", "commands"):
                await self.query(
                    f"UPDATE {table} SET created_at = ?, updated_at = ? WHERE command_uuid = ?",
                    *(_LONG_AGO, _LONG_AGO, uuid),
                )

    async def tidy(self) -> list[str]:
        """
        @return: what the log said.
        """
        with capturedLogs() as events:
            await self.storage._upkeep.tidy()
        return [event["log_format"] for event in events]

    async def active(self) -> dict[str, bool]:
        rows = await self.query("SELECT command_uuid, active FROM enrollment_queue WHERE id = 'D1'")
        return {uuid: bool(active) for uuid, active in rows}

    async def uuids(self, table: str) -> list[str]:
        rows = await self.query(f"SELECT command_uuid FROM {table} ORDER BY command_uuid")
        return [uuid for (uuid,) in rows]

    async def test_retires(self) -> None:
        """
        Answered rows that NanoMDM left active become inactive; others stay.
        """
        await self.use()
        await self.enqueue("C1", "C2", "C3", "C4")
        for status, uuid in (("Acknowledged", "C1"), ("Error", "C2"), ("NotNow", "C3")):
            await self.report(status, uuid)
        await self.reactivate()
        self.assertEqual(await self.tidy(), ["queue"])
        self.assertEqual(await self.active(), {"C1": False, "C2": False, "C3": True, "C4": True})
        self.assertEqual(await self.uuids("command_results"), ["C1", "C2", "C3"])
        self.assertEqual(await self.uuids("commands"), ["C1", "C2", "C3", "C4"])
        self.assertEqual(await self.next_uuid(), "C3")

    async def test_retention(self) -> None:
        """
        What was answered long ago goes, with commands that nobody else has;
        what was answered lately, or not at all, stays however old.
        """
        await self.use(retention=3600.0)
        await self.enqueue("C1", "C2", "C3", "C4")
        await self.enqueue("C5", ids=("D1", "D2"))
        for status, uuid in (
            *(("Acknowledged", "C1"), ("NotNow", "C2"), ("Acknowledged", "C3")),
            ("CommandFormatError", "C5"),
        ):
            await self.report(status, uuid)
        await self.age("C1", "C2", "C4", "C5")
        await self.reactivate()
        await self.tidy()
        self.assertEqual(await self.active(), {"C2": True, "C3": False, "C4": True})
        self.assertEqual(await self.uuids("command_results"), ["C2", "C3"])
        self.assertEqual(await self.uuids("commands"), ["C2", "C3", "C4", "C5"])
        self.assertEqual(await self.next_uuid("D2"), "C5")

    async def test_orphans_stay(self) -> None:
        """
        Without C{delete} and C{retention} nothing is deleted.
        """
        await self.use()
        await self.orphan("C1")
        await self.tidy()
        self.assertEqual(await self.uuids("commands"), ["C1"])

    async def orphan(self, uuid: str) -> None:
        """
        Make a command that is in no queue any more.
        """
        await self.enqueue(uuid)
        await self.query("DELETE FROM enrollment_queue WHERE command_uuid = ?", uuid)

    async def test_orphans_with_results_stay(self) -> None:
        """
        Deleting a command would delete results.
        """
        await self.use(delete=True)
        await self.enqueue("C1")
        await self.report("NotNow", "C1")
        await self.query("DELETE FROM enrollment_queue")
        await self.tidy()
        self.assertEqual(await self.uuids("command_results"), ["C1"])

    async def test_delete(self) -> None:
        """
        An answered command leaves the queue at once, without its result, and the
        command goes with the next pass.  Who answers again hears what is next.
        """
        await self.use(delete=True)
        await self.enqueue("C1", "C2")
        outcome = await self.report("Acknowledged", "C1")
        self.assertTrue(outcome.known)
        self.assertEqual(samples.uuid_of(outcome.next_command), "C2")
        self.assertEqual(await self.uuids("enrollment_queue"), ["C2"])
        self.assertEqual(await self.uuids("command_results"), [])
        self.assertEqual(await self.uuids("commands"), ["C1", "C2"])
        for _ in range(2):
            outcome = await self.report("Acknowledged", "C1")
            self.assertFalse(outcome.known)
            self.assertEqual(samples.uuid_of(outcome.next_command), "C2")
            await self.tidy()
        self.assertEqual(await self.uuids("commands"), ["C2"])
        self.assertEqual(await self.uuids("command_results"), [])
        await self.report("NotNow", "C2")
        await self.tidy()
        self.assertEqual(await self.next_uuid(), "C2")

    def record(self) -> list[Any]:
        """
        @return: what the storage will be asked to do in transactions of their own;
            the third time it fails.
        """
        calls: list[Any] = []
        original = self.storage._database.write_alone

        def write_alone(operation: Any, argument: Any) -> Deferred[Any]:
            calls.append((operation, getattr(argument, "after", argument)))
            if len(calls) == 3:
                raise StorageUnavailable("gone")
            return original(operation, argument)

        self.storage._database.write_alone = write_alone
        return calls

    async def test_pieces(self) -> None:
        """
        A pass goes in small pieces; one that failed goes on where it stopped.
        """
        self.patch(upkeep, "_PIECE", 3)
        await self.use(delete=True)
        uuids = [f"C{number}" for number in range(7)]
        await self.enqueue(*uuids, ids=("D1", "D2"))
        await self.query("DELETE FROM enrollment_queue WHERE command_uuid > 'C5'")
        calls = self.record()
        self.assertEqual(await self.tidy(), ["upkeep failed, it will be tried again"])
        starts = [("", ""), ("D1", "C2"), ("D1", "C5")]
        self.assertEqual(calls, [(tidy_queue, start) for start in starts])
        calls[:] = [None] * 3
        self.assertEqual(await self.tidy(), ["queue"])
        self.assertEqual(
            calls[3:],
            [(tidy_queue, start) for start in (("D1", "C5"), ("D2", "C2"), ("D2", "C5"))]
            + [(tidy_commands, after) for after in ("", "C2", "C5")]
            + [(forget_numbers, None)],
        )
        self.assertEqual(await self.uuids("commands"), uuids[:-1])
        await self.tidy()
        self.assertEqual(calls[10], (tidy_queue, ("", "")))

    async def test_numbers_are_forgotten(self) -> None:
        """
        Where numbers come from a table, a pass removes what is long used; the next
        number is higher all the same.
        """
        await self.use()
        if self.kind == "pgsql":
            return
        newest = "SELECT MAX(value) FROM nanomdm_sequence"
        await self.enqueue("C1", ids=("D1",))
        [(before,)] = await self.query(newest)
        await self.query(f"INSERT INTO nanomdm_sequence (value) VALUES ({before + 20_000})")
        await self.storage._upkeep.tidy()
        [(count,)] = await self.query("SELECT count(*) FROM nanomdm_sequence WHERE value < 10000")
        self.assertEqual(count, 0 if self.kind == "mysql" else 1)
        await self.enqueue("C2", ids=("D1",))
        [(seq,)] = await self.query(
            "SELECT nanomdm_seq FROM enrollment_queue WHERE command_uuid = 'C2'"
        )
        self.assertGreater(seq, before + 20_000)

    async def test_summary(self) -> None:
        """
        Each pass ends with a line in the log.
        """
        await self.use()
        await self.enqueue("C1", "C2", "C3", ids=("D1", "D2"))
        await self.report("Acknowledged", "C1")
        await self.report("NotNow", "C2")
        await self.storage.disable(parse_checkin(samples.checkin("CheckOut", "D2")).enrollment)
        self.assertEqual(await self.storage.queue_summary(), QueueSummary(5, 2, 1))
        with capturedLogs() as events:
            await self.storage._upkeep.tidy()
        [event] = events
        numbers = (event["outstanding"], event["enrollments"], event["enabled"])
        self.assertEqual(numbers, (5, 2, 1))


class SQLiteTests(UpkeepTests, TestCase):
    """
    A database file.
    """

    kind = "sqlite"

    def open(self, **options: Any) -> SQLStorage:
        settings = StorageSettings(dsn=Path(self.mktemp()), options=StorageOptions(**options))
        return open_storage([settings], reactor)


class ServerTests(UpkeepTests, EngineCase):
    """
    What holds where others use the database at the same time.
    """

    waiting: str
    timeout = 30

    def open(self, **options: Any) -> SQLStorage:
        storage = open_storage([self.settings(**options)], reactor)
        self.empty()
        return storage

    async def blocked(self) -> None:
        """
        Wait until somebody waits for a lock.
        """
        with closing(shared(self.engine).python_connection("contract")) as connection:
            while True:
                with connection.cursor() as cursor:
                    cursor.execute(self.waiting)
                    if cursor.fetchone()[0]:
                        return
                # InnoDB shows the same again to who asks more often than each 0.1 seconds.
                await deferLater(reactor, 0.15)

    def other_server(self) -> tuple[Any, Transaction]:
        """
        Another server's transaction.
        """
        engine = engine_of(self.settings(), self.settings().dsn)
        connection = engine.connect()
        self.addCleanup(connection.close)
        return connection, Transaction(connection.cursor(), engine.dialect)

    async def test_enqueued_before(self) -> None:
        """
        A command that another server is just enqueueing again is not deleted.
        """
        await self.use(delete=True)
        await self.orphan("C1")
        await self.orphan("C2")
        connection, transaction = self.other_server()
        enqueue_in(transaction, "C1")
        tidying = self.storage._upkeep.tidy()
        await self.blocked()
        connection.commit()
        await tidying
        self.assertEqual(await self.uuids("commands"), ["C1"])
        self.assertEqual(await self.next_uuid(), "C1")

    async def test_enqueued_after(self) -> None:
        """
        Who enqueues a command that another server is just deleting waits for
        that, and makes it anew.
        """
        await self.use(delete=True)
        await self.orphan("C1")
        connection, transaction = self.other_server()
        tidy_commands(transaction, [""])
        enqueueing = Deferred.fromCoroutine(self.enqueue("C1"))
        await self.blocked()
        connection.commit()
        await enqueueing
        self.assertEqual(await self.uuids("commands"), ["C1"])
        self.assertEqual(await self.next_uuid(), "C1")

    async def test_queued_commands_are_not_locked(self) -> None:
        """
        A pass does not wait for who uses commands that are in a queue.
        """
        await self.use(delete=True)
        await self.enqueue("C1")
        await self.orphan("C2")
        connection, transaction = self.other_server()
        enqueue_in(transaction, "C1", "D2")
        await self.storage._upkeep.tidy()
        connection.rollback()
        self.assertEqual(await self.uuids("commands"), ["C1"])


def enqueue_in(transaction: Transaction, uuid: str, udid: str = "D1") -> None:
    """
    Enqueue a command in a transaction that is under way.
    """
    enqueue(transaction, [EnqueueCall(parse_command(samples.command(uuid)), (udid,))])


class MariaDBTests(ServerTests):
    """
    MariaDB.
    """

    engine, kind = "mariadb", "mysql"
    skip = unavailable("mariadb")
    waiting = "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"


class MySQLTests(MariaDBTests):
    """
    MySQL.
    """

    engine = "mysql"
    skip = unavailable("mysql")


class PostgreSQLTests(ServerTests):
    """
    PostgreSQL.
    """

    engine, kind = "postgresql", "pgsql"
    skip = unavailable("postgresql")
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"


del ServerTests


class FakeDatabase:
    """
    A database that answers when the test says so.
    """

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.running: Deferred[Any] = Deferred()

    def write_alone(self, operation: Any, argument: Any) -> Deferred[Any]:
        self.calls.append(operation)
        if operation is forget_numbers:
            return succeed(None)
        self.running = Deferred()
        return self.running

    def look(self, operation: Any, argument: Any) -> Deferred[Any]:
        self.calls.append(operation)
        return succeed(QueueSummary(1, 2, 3))


class ScheduleTests(SynchronousTestCase):
    """
    When passes are made, and their end.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.database = FakeDatabase()
        self.upkeep = Upkeep(self.database, self.clock, delete_commands=True)

    def finish(self) -> None:
        """
        End a piece and the pause after it.
        """
        self.database.running.callback(None)
        self.clock.advance(0.05)

    def assertStops(self) -> None:
        self.successResultOf(self.upkeep.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_passes(self) -> None:
        """
        The first a moment after the start, the others an hour apart.
        """
        self.upkeep.start()
        self.clock.advance(14.9)
        self.assertEqual(self.database.calls, [])
        one = [tidy_queue, tidy_commands, forget_numbers, summarize]
        self.clock.advance(0.2)
        self.finish()
        self.finish()
        self.assertEqual(self.database.calls, one)
        self.clock.advance(3598.0)
        self.assertEqual(self.database.calls, one)
        self.clock.advance(2.0)
        self.finish()
        self.finish()
        self.assertEqual(self.database.calls, one * 2)
        self.assertStops()

    def test_failure(self) -> None:
        """
        A pass that fails is logged, the next one comes all the same.
        """
        self.upkeep.start()
        self.clock.advance(15.0)
        with capturedLogs() as events:
            self.database.running.errback(StorageUnavailable("gone"))
        self.assertEqual([event["error"] for event in events], ["gone"])
        self.clock.advance(3600.0)
        self.assertEqual(self.database.calls, [tidy_queue] * 2)
        self.finish()
        self.finish()
        self.assertStops()

    def test_summary_of_the_replica(self) -> None:
        replica = FakeDatabase()
        self.upkeep = Upkeep(self.database, self.clock, inspected=replica)
        self.upkeep.tidy()
        self.finish()
        self.assertEqual(self.database.calls, [tidy_queue, forget_numbers])
        self.assertEqual(replica.calls, [summarize])

    def test_stop_before_it_began(self) -> None:
        self.assertStops()
        self.upkeep = Upkeep(self.database, self.clock)
        self.upkeep.start()
        self.assertStops()

    def test_stop_in_a_piece(self) -> None:
        """
        The piece ends, no other follows.
        """
        self.upkeep.start()
        self.clock.advance(15.0)
        stopped = self.upkeep.stop()
        self.assertNoResult(stopped)
        with capturedLogs() as events:
            self.database.running.callback(("D1", "C1"))
        self.successResultOf(stopped)
        self.assertEqual((self.database.calls, events), ([tidy_queue], []))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_in_a_pause(self) -> None:
        self.upkeep.start()
        self.clock.advance(15.0)
        self.database.running.callback(("D1", "C1"))
        with capturedLogs() as events:
            self.assertStops()
        self.assertEqual((self.database.calls, events), ([tidy_queue], []))
