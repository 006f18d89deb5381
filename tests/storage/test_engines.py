"""
The storage contract on real MariaDB, MySQL and PostgreSQL servers.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import count
from typing import Any, ClassVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from nanomdm.errors import AlreadyAnswered
from nanomdm.interfaces import EnrollmentFilter, Page, QueuedEvent
from nanomdm.mdm.command import parse_report
from nanomdm.mdm.event import Event
from nanomdm.storage import commands, listing, queues, repush, results, webhook
from nanomdm.storage.engine import Trouble
from nanomdm.storage.factory import open_storage
from nanomdm.storage.leases import take_lease
from nanomdm.storage.settings import StorageOptions, StorageSettings
from nanomdm.storage.sql import SQLStorage
from nanomdm.storage.transaction import Transaction
from tests import samples
from tests.servers import shared, unavailable
from tests.storage.contract import StorageContract
from tests.storage.event_contract import EventContract, event
from tests.storage.filling import fill_queue
from tests.storage.inspection_contract import EnrollmentInspectionContract
from tests.storage.push_contract import PushContract
from tests.storage.queue_contract import QueueInspectionContract

TABLES = (
    *("command_results", "enrollment_queue", "commands", "enrollments", "users", "devices"),
    *("push_certs", "cert_auth_associations", "nanomdm_cert_owners"),
    *("nanomdm_pushes", "nanomdm_dead_tokens", "nanomdm_leases"),
    *("nanomdm_webhook_events", "nanomdm_webhook_streams", "nanomdm_webhook_failed"),
)
_numbers = count()

#: Filters, each with the index that serves it.
LISTS = (
    (EnrollmentFilter(type="User"), "nanomdm_enrollments_types"),
    (EnrollmentFilter(enabled=False), "nanomdm_enrollments_enabled"),
    (EnrollmentFilter(topic="other"), "nanomdm_enrollments_topic"),
    (EnrollmentFilter(serial="other"), "serial_number"),
    (EnrollmentFilter(user="other"), "nanomdm_users_short_name"),
    (EnrollmentFilter(pending=True), "nanomdm_queue_active"),
)


@cache
def contract_database(engine: str) -> str:
    """
    @return: the DSN of a database that the tests of an engine empty and share,
        since making one takes long.
    """
    return shared(engine).create_database("contract")


class EngineCase(TestCase):
    """
    A test case with a database on one engine.
    """

    engine: ClassVar[str]
    kind: ClassVar[str]

    def settings(self, dsn: str | None = None, **options: Any) -> StorageSettings:
        """
        A storage on this engine, by default on the shared database.
        """
        return StorageSettings(
            kind=self.kind,
            dsn=dsn or contract_database(self.engine),
            options=StorageOptions(**options),
        )

    def database(self) -> str:
        """
        @return: the DSN of a new database.
        """
        server, name = shared(self.engine), f"test_{next(_numbers)}"
        self.addCleanup(server.drop_database, name)
        return server.create_database(name)

    def empty(self) -> None:
        """
        Empty the shared database.
        """
        connection = shared(self.engine).python_connection("contract")
        with connection.cursor() as cursor:
            for table in TABLES:
                cursor.execute(f"DELETE FROM {table}")
        connection.commit()
        connection.close()


class EngineContract(
    StorageContract,
    PushContract,
    EventContract,
    EnrollmentInspectionContract,
    QueueInspectionContract,
    EngineCase,
):
    """
    The contract on the shared database.
    """

    def open(self) -> SQLStorage:
        storage = open_storage([self.settings()], reactor)
        self.empty()
        return storage

    def open_second(self) -> SQLStorage:
        return open_storage([self.settings()], reactor)

    def test_leaseIsLocked(self) -> None:
        """
        Nobody gets between the look at a lease that has ended and its taking.
        """
        engine = self.storage._database._engine
        one, two = engine.connect(), engine.connect()
        for connection in (one, two):
            self.addCleanup(connection.close)
        other = Transaction(two.cursor(), engine.dialect)
        other.execute(self.impatient)

        class Interrupted(Transaction):
            def row(_, *arguments: Any) -> Any:
                error = self.assertRaises(two.Error, take_lease, other, "any", "two", 60)
                self.assertIs(engine.trouble(error), Trouble.RETRY)
                two.rollback()
                return super().row(*arguments)

        take_lease(Transaction(one.cursor(), engine.dialect), "any", "gone", 0)
        one.commit()
        transaction = Interrupted(one.cursor(), engine.dialect)
        self.assertTrue(take_lease(transaction, "any", "one", 60))
        one.commit()
        self.assertFalse(take_lease(other, "any", "two", 60))

    def other(self) -> Transaction:
        """
        @return: a transaction of another server, which does not wait for locks.
        """
        engine = self.storage._database._engine
        connection = engine.connect()
        self.addCleanup(connection.close)
        transaction = Transaction(connection.cursor(), engine.dialect)
        transaction.execute(self.impatient)
        connection.commit()
        return transaction

    def assertWaits(self, work: Any, other: Transaction, *more: Any) -> None:
        """
        Another server can not do this now, since somebody else is at it.
        """
        connection = other._cursor.connection
        error = self.assertRaises(connection.Error, work, other, *more)
        self.assertIs(self.storage._database._engine.trouble(error), Trouble.RETRY)
        connection.rollback()
        other._last.clear()

    def write(self, transaction: Transaction, *events: Event) -> None:
        webhook.record(transaction, events)
        transaction.finish()

    async def test_lastEventWhileAnotherIsWritten(self) -> None:
        """
        Who finishes an enrollment's last event waits for who is writing the next
        one, and the other way round: so nothing is left behind that nobody looks for.
        """

        def settle(transaction: Transaction) -> QueuedEvent | None:
            attempt = webhook.Attempt("one", queued, webhook.Outcome.DELIVERED)
            [following] = webhook.settle(transaction, [attempt])
            return following

        await self.record("D1", "E1")
        queued = await self.claim_one()
        one, two = self.other(), self.other()
        self.write(one, event("E2"))
        self.assertWaits(settle, two)
        self.assertWaits(self.write, two, event("E3"))
        one._cursor.connection.commit()
        queued = settle(two)
        two._cursor.connection.commit()
        self.assertIsNone(settle(two))
        self.assertWaits(self.write, one, event("E4"))
        two._cursor.connection.commit()
        two = self.other()
        self.write(two, event("E4"))
        two._cursor.connection.commit()
        self.assertEqual(await self.names(), {"D1": ["E4"]})

    async def test_claimLeavesOutWhatIsLocked(self) -> None:
        """
        Nobody who looks for events waits for who is writing some.
        """
        await self.record("D1", "E1")
        await self.record("D2", "E2")
        other = self.other()
        self.write(other, event("E3", "D1"), event("E4", "D3"))
        self.assertEqual((await self.claim_one()).enrollment_id, "D2")
        other._cursor.connection.commit()
        self.assertEqual(await self.names("two"), {"D1": ["E1", "E3"], "D3": ["E4"]})

    async def test_cancelWhileAnswered(self) -> None:
        """
        Who cancels a command waits for its answer that is being stored, and the other way
        round: what came first counts, and the answer is stored in any case.
        """
        await self.enroll()
        await self.enqueue("C1")
        await self.enqueue("C2")
        one, two = self.other(), self.other()

        def report(transaction: Transaction, uuid: str) -> None:
            answer = parse_report(samples.report("Acknowledged", uuid))
            [outcome] = commands.store_report(transaction, [answer])
            self.assertTrue(outcome.known)

        report(one, "C1")
        for change in (queues.cancel, queues.set_priority):
            call = ("D1", "C1", 5)[: 2 if change is queues.cancel else 3]
            self.assertWaits(change, two, [call])
        self.assertWaits(queues.clear, two, ["D1"])
        one._cursor.connection.commit()
        [refused] = queues.cancel(two, [("D1", "C1")])
        self.assertIsInstance(refused, AlreadyAnswered)
        self.assertEqual(queues.cancel(two, [("D1", "C2")]), [None])
        self.assertEqual(queues.clear(two, ["D1"]), [0])
        two._cursor.connection.commit()
        report(one, "C2")
        one._cursor.connection.commit()
        self.assertEqual((await self.storage.result("D1", "C2")).status, "Acknowledged")

    async def test_answerWhileCancelled(self) -> None:
        """
        An answer that waits for who cancels its command is stored then.
        """
        await self.enroll()
        await self.enqueue("C1")
        one, two = self.other(), self.other()
        answer = parse_report(samples.report("Acknowledged", "C1"))

        class Looked(Transaction):
            """
            Once it was looked whether the command is in the queue, nobody answers it.
            """

            def row(_, sql: str, *more: Any) -> Any:
                found = super().row(sql, *more)
                if "SELECT active" in sql:
                    self.assertWaits(commands.store_report, two, [answer])
                return found

        looked = Looked(one._cursor, one.dialect)
        self.assertEqual(queues.cancel(looked, [("D1", "C1")]), [None])

        class Interrupted(Transaction):
            """
            The answer's result is there; its queue row is next.
            """

            def execute_pairs(_, sql: str, *more: Any) -> None:
                if "UPDATE enrollment_queue" in sql:
                    one._cursor.connection.commit()
                super().execute_pairs(sql, *more)

        commands.store_report(Interrupted(two._cursor, two.dialect), [answer])
        two._cursor.connection.commit()
        self.assertEqual((await self.storage.result("D1", "C1")).status, "Acknowledged")
        [target] = (await self.storage.list_targets("C1", Page(5))).items
        self.assertEqual((target.active, target.status), (False, "Acknowledged"))

    explain = "EXPLAIN"
    impatient = "SET SESSION innodb_lock_wait_timeout = 1"
    analyze = "ANALYZE TABLE users"

    def fill(self, devices: int = 20, answered: int = 100, **more: Any) -> None:
        connection = shared(self.engine).python_connection("contract")
        self.addCleanup(connection.close)
        fill_queue(connection, self.kind, devices, answered, outstanding=20, **more)

    async def plan(self, statement: str, *parameters: object) -> str:
        rows = await self.query(f"{self.explain} {statement}", *parameters)
        return "\n".join(" ".join(map(str, row)) for row in rows)

    async def test_nextCommandUsesTheIndex(self) -> None:
        """
        One index answers the look for the next command, without the table and
        without sorting, once there are enough rows to matter.
        """
        self.fill()
        hint = self.storage._database._engine.dialect.use_index("nanomdm_queue_next")
        statement = commands.NEXT_COMMANDS.format(index=hint, values="?, ?")
        self.assertPlan(await self.plan(statement, "Q1", "Q2"))
        self.assertEqual(await self.storage.next_command("Q1"), b"<?xml outstanding")

    async def test_pushAgainUsesTheIndexes(self) -> None:
        """
        What is due is found in one index, and what is outstanding in another,
        without sorting and without reading the tables.
        """
        self.fill(pushes=50_000)
        dialect = self.storage._database._engine.dialect
        self.assertDuePlan(await self.plan(repush.due_statement(dialect)))
        states = repush.states_statement(dialect).format(values="?, ?")
        self.assertStatesPlan(await self.plan(states, "Q1", "Q2"))
        self.assertEqual(await self.storage.push_again("one", 10), [])
        # The first two thousand of each step are of nobody, and so done.
        self.assertEqual(await self.query("SELECT count(*) FROM nanomdm_pushes"), [(40_000,)])

    async def test_eventsUseTheIndexes(self) -> None:
        """
        What is due, and the first event of each enrollment, are found in an index
        without sorting.
        """
        self.fill(events=20_000)
        dialect = self.storage._database._engine.dialect
        self.assertClaimPlan(await self.plan(webhook.due_statement(dialect, 16)))
        first = webhook.first_statement(dialect).format(values="?, ?")
        self.assertFirstPlan(await self.plan(first, "W1", "W2"))
        self.assertEqual([one.enrollment_id for one in await self.claim(streams=2)], ["W0", "W1"])

    async def test_inspectionUsesTheIndexes(self) -> None:
        """
        A part of a queue, of the targets of a command and of the answers of an enrollment
        is found in an index, wherever it begins.
        """
        self.fill()
        dialect = self.storage._database._engine.dialect
        when = "2026-01-01 00:00:00"
        after = ("Q1", 0, 0, when, when, 1, 1, "O1", 5)
        for go_on, parameters in ((False, ("Q1", 5)), (True, after)):
            statement = queues.outstanding_statement(dialect, go_on)
            self.assertQueuePlan(await self.plan(statement, *parameters))
        for go_on, parameters in ((False, ("A1", 5)), (True, ("A1", "Q1", 5))):
            statement = results.targets_statement(dialect, go_on)
            self.assertTargetsPlan(await self.plan(statement, *parameters))
        begin = "r.updated_at <= ? AND (r.updated_at < ? OR r.command_uuid < ?)"
        for conditions, parameters in (
            ([], ("Q1", 5)),
            ([begin], ("Q1", when, when, "A1", 5)),
            (["r.status = ?"], ("Q1", "Acknowledged", 5)),
        ):
            statement = results.answers_statement(dialect, conditions)
            self.assertAnswersPlan(await self.plan(statement, *parameters))

    def assertQueuePlan(self, plan: str) -> None:
        [line] = [line for line in plan.splitlines() if "DERIVED q " in line]
        self.assertRegex(line, r"\b(ref|range)\b.* nanomdm_queue_next .*Using index")
        self.assertNotIn("filesort", line)

    def assertTargetsPlan(self, plan: str) -> None:
        [line] = [line for line in plan.splitlines() if "DERIVED q " in line]
        self.assertRegex(line, r"\b(ref|range)\b.* command_uuid [0-9]+ ")
        self.assertNotIn("filesort", line)

    def assertAnswersPlan(self, plan: str) -> None:
        [line] = [line for line in plan.splitlines() if "DERIVED r " in line]
        # Those of one enrollment are read and sorted: another index would have to be kept up
        # with each answer.
        self.assertRegex(line, r"\bref\b.* PRIMARY ")

    async def test_listsUseTheIndexes(self) -> None:
        """
        The ids of a page are found in the index of their filter, in its order, and
        what is wide is read for them alone.
        """
        self.fill(devices=5_000, answered=2)
        dialect = self.storage._database._engine.dialect
        user = dialect.concatenated("id", "':u'")
        await self.query(
            f"INSERT INTO users (id, device_id, user_short_name) SELECT {user}, id, id FROM devices"
        )
        await self.query(self.analyze)
        for which, index in LISTS:
            statement, values = listing.enrollments_statement(dialect, which, "Q2")
            plan = await self.plan(statement, *values, 101)
            self.assertListPlan(plan, self.indexes.get(index, index))
            ids = [one.id for one in (await self.storage.list_enrollments(which, Page(9))).items]
            self.assertEqual(ids, ["Q1"] if which.pending else [])

    #: What some indexes are called.
    indexes: ClassVar[dict[str, str]] = {"nanomdm_enrollments_types": "type"}

    def assertListPlan(self, plan: str, index: str) -> None:
        """
        MySQL's and MariaDB's words.
        """
        self.assertRegex(plan, rf"\b(ref|range|index)\b.*\b{index}\b")
        self.assertNotRegex(plan, r"\b[evucq]\b.*\bALL\b")

    def assertPlan(self, plan: str) -> None:
        """
        MySQL's and MariaDB's words.
        """
        [line] = [line for line in plan.splitlines() if "nanomdm_queue_next" in line]
        self.assertRegex(line, r"\bq\b.*\bref\b.* nanomdm_queue_next .*Using index")
        self.assertNotIn("filesort", line)

    def assertDuePlan(self, plan: str) -> None:
        lines = [line for line in plan.splitlines() if "DERIVED" in line]
        self.assertEqual(len(lines), 5, plan)
        for line in lines:
            self.assertRegex(line, r"\brange nanomdm_pushes_due\b")
            self.assertNotIn("filesort", line)

    def assertStatesPlan(self, plan: str) -> None:
        self.assertEqual(len(re.findall(r"\be\b.*\brange PRIMARY\b", plan)), 1, plan)
        looks = re.findall(r"\bq\b.*\bref\b.* nanomdm_queue_next .*Using index", plan)
        self.assertEqual(len(looks), 2, plan)
        self.assertNotIn("filesort", plan)

    def assertClaimPlan(self, plan: str) -> None:
        self.assertRegex(plan, r"\brange nanomdm_webhook_streams_due\b")
        self.assertNotIn("filesort", plan)

    def assertFirstPlan(self, plan: str) -> None:
        self.assertRegex(plan, r"\be\b.*\bref nanomdm_webhook_events_enrollment .*Using index")
        self.assertRegex(plan, r"\bs\b.*\brange PRIMARY\b")
        self.assertNotIn("filesort", plan)


class MariaDBTests(EngineContract):
    """
    MariaDB.
    """

    engine, kind = "mariadb", "mysql"
    skip = unavailable("mariadb")


class MySQLTests(EngineContract):
    """
    MySQL.
    """

    engine, kind = "mysql", "mysql"
    explain = "EXPLAIN FORMAT=TRADITIONAL"
    skip = unavailable("mysql")


class PostgreSQLTests(EngineContract):
    """
    PostgreSQL.
    """

    engine, kind = "postgresql", "pgsql"
    impatient = "SET lock_timeout = 50"
    analyze = "ANALYZE users"
    skip = unavailable("postgresql")

    def assertPlan(self, plan: str) -> None:
        self.assertIn("Index Only Scan using nanomdm_queue_next on enrollment_queue q", plan)
        self.assertNotIn("Sort", plan)

    def assertQueuePlan(self, plan: str) -> None:
        self.assertRegex(plan, "Index (Only )?Scan (using|on) nanomdm_queue_next")
        self.assertNotIn("Seq Scan on enrollment_queue", plan)
        self.assertNotIn("Seq Scan on command_results", plan)

    def assertTargetsPlan(self, plan: str) -> None:
        self.assertRegex(plan, "Index (Only )?Scan (using|on) nanomdm_queue_targets")
        self.assertNotIn("Seq Scan on enrollment_queue", plan)

    def assertAnswersPlan(self, plan: str) -> None:
        self.assertRegex(plan, "Index Scan (using|on) command_results_pkey")
        self.assertNotIn("Seq Scan on command_results", plan)

    def assertDuePlan(self, plan: str) -> None:
        self.assertEqual(plan.count("Index Scan using nanomdm_pushes_due on"), 5, plan)
        self.assertNotIn("Seq Scan", plan)
        # Only the few that were found, of all steps together, may have to be sorted.
        self.assertEqual(plan.count("->  Limit"), 5, plan)

    def assertStatesPlan(self, plan: str) -> None:
        # Both have nothing but active rows of an enrollment.
        looks = re.findall(
            "Index Only Scan using nanomdm_queue_(?:next|active) on enrollment_queue q", plan
        )
        self.assertEqual(len(looks), 2, plan)
        self.assertNotIn("Sort", plan)

    indexes: ClassVar[dict[str, str]] = {"serial_number": "nanomdm_devices_serial_number"}

    def assertListPlan(self, plan: str, index: str) -> None:
        self.assertRegex(plan, rf"Index (Only )?Scan using {index} on|Index Scan on {index}\b")
        # The ends of users' ids are looked for in few pages, until they are many.
        some = plan.replace("Seq Scan on users s", "")
        self.assertNotRegex(
            some, "Seq Scan on (devices|users|enrollments|enrollment_queue|command)"
        )

    def assertClaimPlan(self, plan: str) -> None:
        self.assertIn("Index Scan using nanomdm_webhook_streams_due on", plan)
        self.assertNotIn("Sort", plan)

    def assertFirstPlan(self, plan: str) -> None:
        self.assertIn("Index Only Scan using nanomdm_webhook_events_enrollment on", plan)
        self.assertIn("Scan using nanomdm_webhook_streams_pkey on", plan)
        self.assertNotIn("Sort", plan)
        self.assertNotIn("Seq Scan", plan)

    def backdate(self, when: str, sha256: str) -> Deferred[int]:
        """
        The trigger would set the present time.
        """
        switch = "ALTER TABLE cert_auth_associations {} TRIGGER USER"
        self.query(switch.format("DISABLE"))
        changed = super().backdate(when, sha256)
        self.query(switch.format("ENABLE"))
        return changed


del EngineContract
