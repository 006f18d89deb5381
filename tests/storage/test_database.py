"""
Tests for L{nanomdm.storage.database}.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList, gatherResults, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from nanomdm.errors import Overloaded, StorageError, StorageUnavailable, TooLarge
from nanomdm.storage import database
from nanomdm.storage.database import Database
from nanomdm.storage.engine import PoolLimits, Trouble
from nanomdm.storage.transaction import Transaction
from tests.storage.fake_engine import FakeConnection, FakeEngine, Fault

_WAIT = 30


class Faulty:
    """
    An operation that fails some times before it succeeds.

    @ivar runs: how often it ran.
    """

    def __init__(self, *faults: Exception) -> None:
        self._faults = list(faults)
        self.runs = 0

    def __call__(self, transaction: Transaction, arguments: Sequence[Any]) -> list[Any]:
        self.runs += 1
        if self._faults:
            raise self._faults.pop(0)
        return list(arguments)


class Gate:
    """
    An operation that does not end before the gate is open.

    @ivar started: the arguments, in the order in which they ran.
    @ivar most: how many ran at once at most.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = threading.Event()
        self._expected = 0
        self._arrived: Deferred[None] = Deferred()
        self._running = 0
        self.started: list[Any] = []
        self.most = 0

    def __call__(self, transaction: Transaction, arguments: Sequence[Any]) -> list[Any]:
        with self._lock:
            self.started.extend(arguments)
            self._running += 1
            self.most = max(self.most, self._running)
        reactor.callFromThread(self._check)
        opened = self._open.wait(_WAIT)
        with self._lock:
            self._running -= 1
        if not opened:
            raise RuntimeError("the gate stayed shut")
        transaction.execute("SELECT 1")
        return list(arguments)

    def entered(self, count: int) -> Deferred[None]:
        """
        @return: fires when so many have come.
        """
        self._expected, self._arrived = count, Deferred()
        self._check()
        return self._arrived

    def _check(self) -> None:
        if 0 < self._expected <= len(self.started):
            self._expected = 0
            self._arrived.callback(None)

    def open(self) -> None:
        """
        Let everybody through.
        """
        self._open.set()


class DatabaseCase(TestCase):
    """
    A test case with a database on a L{FakeEngine}.

    @ivar pauses: the seconds between attempts, which are not waited for.
    """

    def setUp(self) -> None:
        self.engine = FakeEngine()
        self.pauses: list[float] = []
        self.patch(database, "deferLater", self.pause)

    def pause(self, clock: object, seconds: float) -> Deferred[None]:
        self.pauses.append(seconds)
        return succeed(None)

    def open(self, size: int = 1, shared: bool = False) -> Database:
        """
        Open a database.
        """
        self.database = Database(reactor, self.engine, PoolLimits(size), shared)
        self.addCleanup(self.database.close)
        return self.database

    def gate(self) -> Gate:
        """
        @return: one that is open at the end of the test, before all is closed.
        """
        gate = Gate()
        self.addCleanup(gate.open)
        return gate


class RetryTests(DatabaseCase):
    """
    What is tried again.
    """

    async def test_deadlocks(self) -> None:
        operation = Faulty(*[Fault(Trouble.RETRY)] * 5)
        self.assertEqual(await self.open().write(operation, 7), 7)
        self.assertEqual(operation.runs, 6)
        [connection] = self.engine.opened
        self.assertEqual((connection.commits, connection.rollbacks), (1, 5))

    async def test_pauses(self) -> None:
        """
        They grow, and no two servers take the same.
        """
        await self.open().write(Faulty(*[Fault(Trouble.RETRY)] * 5), 7)
        for position, pause in enumerate(self.pauses):
            longest = 0.04 * 2**position
            self.assertTrue(longest / 2 <= pause <= longest, self.pauses)
        factors = {pause / 2**position for position, pause in enumerate(self.pauses)}
        self.assertEqual(len(factors), 5)

    async def test_bounded(self) -> None:
        operation = Faulty(*[Fault(Trouble.RETRY, "deadlock")] * 9)
        error = await self.assertFailure(self.open().write(operation, 7), StorageUnavailable)
        self.assertEqual((operation.runs, str(error)), (6, "database: deadlock"))

    async def test_orphan(self) -> None:
        """
        What another transaction deleted is gone when this one begins again; if it still
        refers to that, it is wrong, and not the database away.
        """
        operation = Faulty(Fault(Trouble.ORPHAN))
        self.assertEqual(await self.open().write(operation, 7), 7)
        self.assertEqual((operation.runs, self.pauses), (2, []))
        operation = Faulty(*[Fault(Trouble.ORPHAN)] * 9)
        error = await self.assertFailure(self.database.write(operation, 7), StorageError)
        self.assertNotIsInstance(error, StorageUnavailable)
        self.assertEqual(operation.runs, 2)

    async def test_boundedInTime(self) -> None:
        """
        Each attempt may have waited for a lock.
        """
        self.patch(database, "_PATIENCE", -1)
        operation = Faulty(Fault(Trouble.RETRY))
        await self.assertFailure(self.open().write(operation, 7), StorageUnavailable)
        self.assertEqual(operation.runs, 1)

    async def test_commitUndone(self) -> None:
        operation = Faulty()
        await self.open().write(operation, 7)
        self.engine.opened[0].commit_fault = Fault(Trouble.RETRY)
        self.assertEqual(await self.database.write(operation, 8), 8)
        self.assertEqual(operation.runs, 3)

    async def test_commitInDoubt(self) -> None:
        """
        It may have happened, so it is not done again, alone or among others.
        """
        gate, operation = self.gate(), Faulty()
        first = self.open().write(gate, 1)
        calls = [self.database.write(operation, number) for number in range(3)]
        await gate.entered(1)
        first.addCallback(self.break_commit)
        gate.open()
        await first
        for call in calls:
            await self.assertFailure(call, StorageUnavailable)
        self.assertEqual(operation.runs, 1)

    def break_commit(self, result: object) -> None:
        self.engine.opened[0].commit_fault = Fault(Trouble.LOST)

    async def test_lost(self) -> None:
        for call in (self.open().write, self.database.read):
            operation = Faulty(Fault(Trouble.LOST))
            self.assertEqual(await call(operation, 7), 7)
        self.assertEqual(self.pauses, [])

    async def test_lostAgain(self) -> None:
        operation = Faulty(*[Fault(Trouble.LOST)] * 2)
        await self.assertFailure(self.open().write(operation, 7), StorageUnavailable)
        self.assertEqual(operation.runs, 2)

    async def test_readOnly(self) -> None:
        """
        Somewhere else it may be written, and is only to be read from then on.
        """

        def used(transaction: Transaction, arguments: Sequence[Any]) -> list[Any]:
            return [transaction._cursor.connection]

        old = [await self.open().write(used, 7), await self.database.read(used, 7)]
        operation = Faulty(Fault(Trouble.READ_ONLY))
        self.assertEqual(await self.database.write(operation, 7), 7)
        self.assertEqual(operation.runs, 2)
        for call in [self.database.write, *[self.database.read] * 4]:
            self.assertNotIn(await call(used, 7), old)

    async def test_readOnlyAgain(self) -> None:
        operation = Faulty(*[Fault(Trouble.READ_ONLY)] * 2)
        await self.assertFailure(self.open().write(operation, 7), StorageUnavailable)
        self.assertEqual(operation.runs, 2)

    async def test_allStale(self) -> None:
        """
        That all connections died costs nobody a request.
        """
        gate = self.gate()
        self.open(size=4)
        calls = [self.database.write_alone(gate, number) for number in range(3)]
        calls.append(self.database.write(gate, 3))
        await gate.entered(4)
        gate.open()
        await gatherResults(calls)
        self.assertEqual(len(self.engine.opened), 4)
        for connection in self.engine.opened:
            connection.dead = True
        for number in range(8):
            self.assertEqual(await self.database.write(gate, number), number)

    async def test_unavailable(self) -> None:
        operation = Faulty(Fault(Trouble.UNAVAILABLE))
        await self.assertFailure(self.open().write(operation, 7), StorageUnavailable)
        self.assertEqual(operation.runs, 1)

    async def test_otherErrors(self) -> None:
        """
        Rows that the driver quotes stay out of the texts.
        """
        for trouble, kind in ((Trouble.TOO_LARGE, TooLarge), (Trouble.OTHER, StorageError)):
            operation = Faulty(Fault(trouble, "bad row\nDETAIL: its secrets"))
            error = await self.assertFailure(self.open().write(operation, 7), kind)
            self.assertNotIsInstance(error, StorageUnavailable)
            self.assertIn("bad row", str(error))
            self.assertNotIn("secrets", str(error))
            self.assertEqual(operation.runs, 1)

    async def test_refusesWrites(self) -> None:
        """
        After one that the database did not take, until one that it did, or for a moment.
        """
        clock = self.open()._clock = Clock()

        async def refuses(*faults: Exception, read: bool = False) -> bool:
            call = self.database.read if read else self.database.write
            await DeferredList([call(Faulty(*faults), 7)], consumeErrors=True)
            return self.database.refuses_writes

        self.assertFalse(await refuses())
        self.assertFalse(await refuses(Fault(Trouble.TOO_LARGE)))
        self.assertFalse(await refuses(Fault(Trouble.UNAVAILABLE), read=True))
        self.assertTrue(await refuses(Fault(Trouble.UNAVAILABLE)))
        self.assertTrue(await refuses(read=True))
        self.assertFalse(await refuses())
        self.assertTrue(await refuses(*[Fault(Trouble.READ_ONLY)] * 2))
        clock.advance(5)
        self.assertFalse(self.database.refuses_writes)

    async def test_down(self) -> None:
        """
        All who wait are told, after one attempt to connect.
        """
        self.engine.refusal = Fault(Trouble.LOST, "down")
        call = self.open().write
        calls = [call(Faulty(), number) for number in range(1000)]
        for success, failure in await DeferredList(calls, consumeErrors=True):
            self.assertFalse(success)
            failure.trap(StorageUnavailable)
        self.assertEqual(self.engine.tries, 1)


class AloneTests(DatabaseCase):
    """
    Calls that take long.
    """

    async def test_bounded(self) -> None:
        gate = self.gate()
        call = self.open(size=10).write_alone
        calls = [call(gate, number) for number in range(104)]
        self.assertRaises(Overloaded, call, gate, 104)
        await gate.entered(4)
        gate.open()
        self.assertEqual(await gatherResults(calls), list(range(104)))
        self.assertEqual(gate.most, 4)
        self.assertEqual(sorted(gate.started), list(range(104)))

    async def test_inOrder(self) -> None:
        gate = self.gate()
        gate.open()
        call = self.open(size=2).write_alone
        await gatherResults([call(gate, number) for number in range(10)])
        self.assertEqual((gate.started, gate.most), (list(range(10)), 1))

    async def test_leavesRoom(self) -> None:
        """
        The gathered calls go on meanwhile, however small the pool is.
        """
        for size in (2, 3, 5, 8):
            gate, operation = self.gate(), Faulty()
            self.open(size)
            long = [self.database.write_alone(gate, number) for number in range(6)]
            await gate.entered(min(4, size - 1))
            self.assertEqual(await self.database.write(operation, 7), 7)
            gate.open()
            await gatherResults(long)

    async def test_retried(self) -> None:
        operation = Faulty(Fault(Trouble.RETRY), Fault(Trouble.LOST))
        self.assertEqual(await self.open(size=2).write_alone(operation, 7), 7)

    async def test_onOneConnection(self) -> None:
        self.assertEqual(await self.open().write_alone(Faulty(), 7), 7)


class LookTests(DatabaseCase):
    """
    What operators ask.
    """

    async def test_leavesRoom(self) -> None:
        """
        Devices' reads go on meanwhile, however small the pool is.
        """
        for size, at_once in ((1, 1), (2, 1), (3, 2), (8, 2)):
            gate = self.gate()
            self.open(size)
            looks = [self.database.look(gate, number) for number in range(6)]
            await gate.entered(at_once)
            self.assertEqual(await self.database.read(Faulty(), 7), 7)
            gate.open()
            await gatherResults(looks)
            self.assertEqual(gate.most, at_once)

    async def test_onOneConnection(self) -> None:
        self.assertEqual(await self.open(shared=True).look(Faulty(), 7), 7)


class CloseTests(DatabaseCase):
    """
    The end.
    """

    async def start(self, gate: Gate) -> list[Deferred[Any]]:
        """
        Have calls of all kinds that run, and that wait.
        """
        self.open(size=3)
        calls: list[Deferred[Any]] = []
        for call in (self.database.write, self.database.read, self.database.write_alone):
            calls += [call(gate, number) for number in range(4)]
        await gate.entered(4)
        return calls

    async def test_waits(self) -> None:
        gate = self.gate()
        calls = await self.start(gate)
        closed = Deferred.fromCoroutine(self.database.close())
        self.assertNoResult(closed)
        gate.open()
        await closed
        self.assertEqual([self.successResultOf(call) for call in calls], [0, 1, 2, 3] * 3)
        self.assertEqual([c for c in self.engine.opened if not c.closed], [])

    async def test_leavesNothing(self) -> None:
        before = set(threading.enumerate())
        gate = self.gate()
        calls = await self.start(gate)
        self.assertNotEqual(set(threading.enumerate()) - before, set())
        gate.open()
        await gatherResults(calls)
        await self.database.close()
        self.assertEqual(set(threading.enumerate()) - before, set())

    async def test_again(self) -> None:
        await self.open().write(Faulty(), 7)
        await gatherResults([Deferred.fromCoroutine(self.database.close()) for _ in range(2)])
        await self.database.close()

    async def test_callsAfterwards(self) -> None:
        await self.open().close()
        for call in (self.database.write, self.database.read, self.database.write_alone):
            await self.assertFailure(call(Faulty(), 7), StorageUnavailable)

    async def test_deadline(self) -> None:
        """
        What still runs is interrupted, and what waits fails.
        """
        gate = self.gate()

        def interrupt(connection: FakeConnection) -> None:
            connection.dead = True
            gate.open()

        self.engine.interrupt = interrupt
        calls = await self.start(gate)
        await self.database.close(deadline=0)
        for call in calls:
            self.failureResultOf(call, StorageUnavailable)
        # The gathered ones once each, and as many long ones as there is room for.
        self.assertEqual(len(gate.started), 4)

    async def test_deadlineWhileConnecting(self) -> None:
        """
        Who was connecting does not begin to work.
        """
        connecting: Deferred[None] = Deferred()
        go_on = threading.Event()
        self.addCleanup(go_on.set)
        connect, operation = self.engine.connect, Faulty()

        def slow(autocommit: bool = False) -> FakeConnection:
            reactor.callFromThread(connecting.callback, None)
            assert go_on.wait(_WAIT)
            return connect(autocommit)

        self.engine.connect = slow
        call = self.open().write(operation, 7)
        await connecting
        closed = Deferred.fromCoroutine(self.database.close(deadline=0))
        reactor.callLater(0, reactor.callLater, 0, go_on.set)
        await closed
        self.failureResultOf(call, StorageUnavailable)
        self.assertEqual(operation.runs, 0)

    async def test_shared(self) -> None:
        await self.open(shared=True).write(Faulty(), 7)
        self.assertEqual(await self.database.read(Faulty(), 8), 8)
        self.assertEqual(len(self.engine.opened), 1)
        await self.database.close()
        self.assertTrue(self.engine.opened[0].closed)
