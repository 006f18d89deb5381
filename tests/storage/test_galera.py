"""
Storages on different nodes of a Galera cluster: what each committed the others see, and
what two do at once conflicts, since locks are one node's.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from contextlib import closing
from itertools import count
from threading import Barrier
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from nanomdm.errors import AlreadyAnswered, ConfigError
from nanomdm.mdm.checkin import parse_checkin
from nanomdm.mdm.command import installs_mdm_profile, parse_command, parse_report
from nanomdm.storage import (
    associations,
    commands,
    enrollments,
    leases,
    queues,
    removal,
    upkeep,
    webhook,
)
from nanomdm.storage.batcher import Operation
from nanomdm.storage.dsn import parse_mysql
from nanomdm.storage.factory import open_prepared, prepare_storage
from nanomdm.storage.mysql import MySQLEngine
from nanomdm.storage.schema import migrate, pending
from nanomdm.storage.schema.galera import node_of, take
from nanomdm.storage.settings import StorageSettings
from nanomdm.storage.sql import SQLStorage
from nanomdm.storage.transaction import Transaction
from tests import samples
from tests.servers import galera
from tests.storage.event_contract import event, name_of
from tests.storage.tables import query

HASHES = tuple(letter * 64 for letter in "abc")

_PATIENCE = 20
_numbers = count()
_WITHOUT_KEY = """
    SELECT table_name FROM information_schema.tables AS t
     WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE'
       AND (engine <> 'InnoDB' OR NOT EXISTS (
            SELECT 1 FROM information_schema.table_constraints AS c
             WHERE c.table_schema = t.table_schema AND c.table_name = t.table_name
               AND c.constraint_type = 'PRIMARY KEY'))
"""
_WAITING = """
    SELECT count(*) FROM information_schema.processlist
     WHERE db = %s AND command = 'Query' AND state = 'starting'
"""


class Meeting:
    """
    Makes transactions ready to commit before any of them does.

    @ivar runs: how many there were.
    """

    def __init__(self, size: int) -> None:
        self._barrier = Barrier(size)
        self.runs = 0

    def attend(self, operation: Operation) -> Operation:
        """
        @return: the operation, which meets the others the first time.
        """
        met = False

        def wait(transaction: Transaction, arguments: object) -> None:
            nonlocal met
            self.runs += 1
            if not met:
                met = True
                self._barrier.wait(_PATIENCE)

        def attending(transaction: Transaction, arguments: Sequence[Any]) -> Sequence[Any]:
            results = operation(transaction, arguments)
            transaction.at_end(wait, [None])
            return results

        return attending


def take_lease(transaction: Transaction, holders: Sequence[str]) -> list[bool]:
    """
    Take a lease, as an operation.
    """
    return [leases.take_lease(transaction, "test", holder, 60) for holder in holders]


class GaleraTests(TestCase):
    """
    Tests for two storages, each with a node of its own.
    """

    skip = galera.unavailable()
    timeout = 180

    async def setUp(self) -> None:
        cluster = await deferToThread(galera.shared)
        self.nodes, self.name = cluster.nodes, f"galera_storage_{next(_numbers)}"
        dsns = cluster.create_database(self.name)
        self.addCleanup(cluster.drop_database, self.name)
        settings = [StorageSettings(kind="mysql", dsn=dsn) for dsn in dsns]
        await gatherResults([deferToThread(prepare_storage, one) for one in settings])
        self.storages = [self.open(one) for one in settings[:2]]

    def open(self, settings: StorageSettings) -> SQLStorage:
        storage = open_prepared(settings, reactor)
        self.addCleanup(storage.stop)
        return storage

    async def enroll(self, *udids: str) -> None:
        storage = self.storages[0]
        for udid in udids:
            message = parse_checkin(samples.authenticate(udid))
            await storage.store_authenticate(message, "", installs_mdm_profile)
            await storage.store_token_update(parse_checkin(samples.token_update(udid)))

    async def enqueue(self, uuid: str, *udids: str, node: int = 0) -> None:
        command = parse_command(samples.command(uuid))
        self.assertEqual(await self.storages[node].enqueue(command, udids), {})

    def answer(
        self, node: int, uuid: str, status: str = "Acknowledged", udid: str = "D1"
    ) -> Deferred[Any]:
        report = parse_report(samples.report(status, uuid, udid))
        return self.storages[node].store_report(report)

    async def at_once(self, *calls: tuple[Operation, Any]) -> list[Any]:
        """
        Run operations on one node each, so that all are ready before any is committed.

        @return: their results.
        """
        meeting = Meeting(len(calls))
        writes = [
            storage._database.write_alone(meeting.attend(operation), argument)
            for storage, (operation, argument) in zip(self.storages, calls, strict=True)
        ]
        results = await gatherResults(writes)
        self.runs = meeting.runs
        return results

    def test_schema(self) -> None:
        """
        Three servers that start together make the schema, and every table can be
        replicated.
        """
        for node in self.nodes:
            with closing(node.python_connection(self.name)) as connection:
                self.assertEqual(pending(connection, "mysql"), [])
                cursor = connection.cursor()
                cursor.execute(_WITHOUT_KEY)
                self.assertEqual(cursor.fetchall(), ())

    def test_schema_lock(self) -> None:
        """
        Only one node's server changes the schema.  If that is killed, the next one on the
        same node goes on at once, and one on another node after a while.
        """
        dsns = [node.dsn(self.name) for node in self.nodes]
        one, other = (MySQLEngine(parse_mysql(dsn)).connect_for_schema() for dsn in dsns[:2])
        for connection in (one, other):
            self.addCleanup(connection.close)
        one.cursor().execute("DROP TABLE nanomdm_pushes")
        node = node_of(one)
        assert node is not None
        self.assertTrue(take(one, node))
        self.assertFalse(take(other, "other"))
        self.assertRaises(ConfigError, migrate, other, "mysql", 0.5)
        self.assertEqual(pending(one, "mysql"), migrate(one, "mysql", 0.5))
        other.cursor().execute("DROP TABLE nanomdm_pushes")
        self.assertEqual(pending(other, "mysql"), migrate(other, "mysql", 0.5))
        self.assertTrue(take(one, node))
        one.cursor().execute("UPDATE nanomdm_leases SET expires = expires - 60")
        self.assertTrue(take(other, "other"))

    async def test_conflict(self) -> None:
        """
        Of two transactions that change a row on two nodes one is repeated.
        """
        await self.enroll("D1")
        message = parse_checkin(samples.token_update("D1"))
        tallies = await self.at_once(
            (enrollments.token_update, message), (enrollments.token_update, message)
        )
        self.assertEqual((sorted(tallies), self.runs), ([2, 3], 3))

    async def test_late_node(self) -> None:
        """
        What was acknowledged on one node counts on another one that has not got it yet: a
        command is not delivered again after its answer, and the next one is.
        """
        await self.enroll("D1", "D2")
        for uuid in ("C1", "C2"):
            await self.enqueue(uuid, "D1", "D2")
        # Connections that are open already can be used while the node stands still.
        await gatherResults([self.storages[1].next_command("D1"), self.answer(1, "C1", udid="D2")])
        late = self.nodes[1].administer()
        self.addCleanup(late.close)
        late.cursor().execute("FLUSH TABLES WITH READ LOCK")
        await self.answer(0, "C1")
        read, written = self.storages[1].next_command("D1"), self.answer(1, "C3")
        await self.waiting(late, 2)
        late.cursor().execute("UNLOCK TABLES")
        self.assertEqual(await read, samples.command("C2"))
        self.assertEqual((await written).next_command, samples.command("C2"))

    async def waiting(self, connection: Any, sessions: int) -> None:
        """
        Wait until sessions on the node wait for the others.
        """

        def look() -> None:
            found, deadline = 0, time.monotonic() + _PATIENCE
            with closing(connection.cursor()) as cursor:
                while found < sessions and time.monotonic() < deadline:
                    cursor.execute(_WAITING, self.name)
                    [found] = cursor.fetchone()
            self.assertEqual(found, sessions)

        await deferToThread(look)

    async def test_order(self) -> None:
        """
        Commands that come over all nodes in turn are delivered in that order.
        """
        await self.enroll("D1")
        uuids = [f"C{number}" for number in range(12)]
        for number, uuid in enumerate(uuids):
            await self.enqueue(uuid, "D1", node=number % 2)
        await query(self.storages[0], "UPDATE enrollment_queue SET created_at = '2026-11-20'")
        delivered = []
        command = await self.storages[1].next_command("D1")
        while command:
            delivered.append(samples.uuid_of(command))
            command = (await self.answer(len(delivered) % 2, delivered[-1])).next_command
        self.assertEqual(delivered, uuids)

    async def test_event_at_the_end(self) -> None:
        """
        An event that is written while another node ends the enrollment's stream, which it
        takes for empty, is delivered.
        """
        one, other = self.storages
        await one.record_event(event("first"))
        [first] = await other.claim_events("server", 1, 60)
        attempt = webhook.Attempt("server", first, webhook.Outcome.DELIVERED)
        _, following = await self.at_once(
            (webhook.record, event("second")), (webhook.settle, attempt)
        )
        found = [following] if following else await one.claim_events("another", 1, 60)
        self.assertEqual([name_of(queued) for queued in found], ["second"])

    async def test_claims(self) -> None:
        """
        Two servers on two nodes do not take one enrollment in hand.
        """
        await self.storages[0].record_event(event("only"))
        claims = [webhook.Claim(server, 1, 60) for server in ("one", "two")]
        claimed = await self.at_once(*((webhook.claim, claim) for claim in claims))
        self.assertEqual(sorted(map(len, claimed)), [0, 1])

    async def test_lease(self) -> None:
        """
        Two servers on two nodes do not get one lease.
        """
        for _ in range(2):
            taken = await self.at_once((take_lease, "one"), (take_lease, "two"))
            self.assertEqual(sorted(taken), [False, True])
            await query(self.storages[0], "UPDATE nanomdm_leases SET expires = 0")

    async def test_one_certificate(self) -> None:
        """
        Of two devices that show a new certificate to two nodes one gets it.
        """
        pairs = [associations.Pair(device, HASHES[0]) for device in ("D1", "D2")]
        calls = [associations.AssociateCall(pair, False, 60.0) for pair in pairs]
        found = await self.at_once(*((associations.associate, call) for call in calls))
        self.assertEqual(sorted(facts.inserted for facts in found), [False, True])

    async def test_first_certificate(self) -> None:
        """
        A device that shows its first certificate on one node, and another one on the next,
        gets one of them, also if there was an attempt before that came to nothing.
        """
        key = hashlib.sha256(b"id D1").hexdigest()
        statement = "INSERT INTO nanomdm_cert_owners (sha256, id) VALUES (?, 'D1')"
        await query(self.storages[0], statement, key)
        pairs = [associations.Pair("D1", sha256) for sha256 in HASHES[:2]]
        calls = [associations.AssociateCall(pair, True, 60.0) for pair in pairs]
        found = await self.at_once(*((associations.associate, call) for call in calls))
        self.assertEqual(sorted(facts.inserted for facts in found), [False, True])

    async def test_answered_and_cancelled(self) -> None:
        """
        A command that is answered on one node can not be cancelled on another.
        """
        await self.enroll("D1")
        for number in range(4):
            uuid = f"C{number}"
            await self.enqueue(uuid, "D1")
            report = parse_report(samples.report("Acknowledged", uuid, "D1"))
            _, refusal = await self.at_once((commands.store_report, report), (cancel, ("D1", uuid)))
            statement = "SELECT active FROM enrollment_queue WHERE command_uuid = ?"
            self.assertEqual(await query(self.storages[0], statement, uuid), [(0,)])
            self.assertEqual(self.runs, 3)
            self.assertIn(refusal, (None, "answered"))

    async def test_one_uuid(self) -> None:
        """
        Two commands of one UUID are enqueued on two nodes: one of them is refused.
        """
        await self.enroll("D1", "D2")
        calls = [
            commands.EnqueueCall(parse_command(samples.command("C1", type)), [udid])
            for udid, type in (("D1", "DeviceInformation"), ("D2", "SecurityInfo"))
        ]
        refusals = await self.at_once(*((enqueue, call) for call in calls))
        self.assertEqual(sorted(refusals), [False, True])
        delivered = [await self.storages[0].next_command(udid) for udid in ("D1", "D2")]
        expected = [
            None if refused else call.command.raw
            for refused, call in zip(refusals, calls, strict=True)
        ]
        self.assertEqual(delivered, expected)

    async def test_purged(self) -> None:
        """
        A device is deleted on one node while another one enqueues for it.
        """
        await self.enroll("D1")
        call = commands.EnqueueCall(parse_command(samples.command("C1")), ["D1"])
        await self.at_once((removal.purge, "D1"), (commands.enqueue, call))
        self.assertEqual(self.runs, 3)
        for storage in self.storages:
            for table in ("devices", "enrollments", "enrollment_queue"):
                self.assertEqual(await query(storage, f"SELECT * FROM {table}"), [])

    async def test_last_answers(self) -> None:
        """
        The last two answers to a command come to two nodes, which delete it.
        """
        await self.enroll("D1", "D2")
        await self.enqueue("C1", "D1", "D2")
        reports = [
            parse_report(samples.report("Acknowledged", "C1", udid)) for udid in ("D1", "D2")
        ]
        await self.at_once(*((commands.store_and_delete, report) for report in reports))
        await self.at_once((upkeep.tidy_commands, ""), (upkeep.tidy_commands, ""))
        for table in ("enrollment_queue", "command_results", "commands"):
            self.assertEqual(await query(self.storages[0], f"SELECT * FROM {table}"), [])

    async def test_command_in_use(self) -> None:
        """
        A command that nobody has any more is not deleted while another node gives it to
        somebody.
        """
        await self.enroll("D1", "D2")
        await self.enqueue("C1", "D1")
        await self.answer(1, "C1")
        call = commands.EnqueueCall(parse_command(samples.command("C1")), ["D2"])
        await self.at_once((commands.enqueue, call), (upkeep.tidy_commands, ""))
        for storage in self.storages:
            self.assertEqual(await storage.next_command("D2"), samples.command("C1"))


def cancel(transaction: Transaction, calls: Sequence[tuple[str, str]]) -> list[str | None]:
    """
    Cancel commands, as an operation whose refusals are results.
    """
    results = queues.cancel(transaction, calls)
    return ["answered" if isinstance(one, AlreadyAnswered) else None for one in results]


def enqueue(transaction: Transaction, calls: Sequence[commands.EnqueueCall]) -> list[bool]:
    """
    Enqueue commands, as an operation.

    @return: for each, whether it was refused.
    """
    return [isinstance(one, Exception) for one in commands.enqueue(transaction, calls)]
