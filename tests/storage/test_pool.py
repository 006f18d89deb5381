"""
Tests for L{nanomdm.storage.pool}.
"""

from __future__ import annotations

import threading
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from nanomdm.errors import StorageUnavailable
from nanomdm.storage.engine import PoolLimits, Trouble
from nanomdm.storage.pool import Pool
from nanomdm.storage.transaction import Transaction
from tests.storage.fake_engine import FakeConnection, FakeEngine, Fault

_WAIT = 30


def _connection(transaction: Transaction) -> FakeConnection:
    transaction.execute("SELECT 1")
    return transaction._cursor.connection


class PoolCase(TestCase):
    """
    A test case that opens pools.
    """

    def setUp(self) -> None:
        self.engine = FakeEngine()
        self.clock = Clock()

    def open(self, autocommit: bool = False, **limits: Any) -> Pool:
        """
        Open a pool whose time is L{clock}'s.
        """
        pool = Pool(reactor, self.engine, PoolLimits(**limits), autocommit, self.clock.seconds)
        self.addCleanup(lambda: pool.running and pool.close())
        return pool

    def use(self, pool: Pool) -> Deferred[FakeConnection]:
        """
        Run a transaction.

        @return: the connection that did it.
        """
        return pool.run(_connection)

    def use_all(self, pool: Pool, count: int) -> list[Deferred[FakeConnection]]:
        """
        Run as many transactions at once as there are threads.
        """
        barrier = threading.Barrier(count, timeout=_WAIT)

        def work(transaction: Transaction) -> FakeConnection:
            barrier.wait()
            return _connection(transaction)

        return [pool.run(work) for _ in range(count)]

    async def fails(self, pool: Pool, error: Exception) -> FakeConnection:
        """
        Run a transaction that fails.
        """
        used: list[FakeConnection] = []

        def work(transaction: Transaction) -> None:
            used.append(_connection(transaction))
            raise error

        await self.assertFailure(pool.run(work), type(error))
        return used[0]


class TransactionTests(PoolCase):
    """
    How a transaction ends.
    """

    async def test_commits(self) -> None:
        connection = await self.use(self.open())
        self.assertEqual((connection.commits, connection.rollbacks), (1, 0))

    async def test_autocommit(self) -> None:
        connection = await self.use(self.open(autocommit=True))
        self.assertEqual((connection.commits, connection.rollbacks), (0, 0))

    async def test_rollsBack(self) -> None:
        pool = self.open()
        connection = await self.fails(pool, ValueError("no"))
        self.assertEqual((connection.commits, connection.rollbacks), (0, 1))
        self.assertIs(await self.use(pool), connection)

    async def test_cursorIsClosed(self) -> None:
        """
        Also of a transaction that fails: what the cursor holds would be freed by
        whichever thread collects the error.
        """
        cursors: list[Any] = []

        def work(transaction: Transaction) -> None:
            cursors.append(transaction._cursor)
            transaction.execute("SELECT 1")
            raise ValueError("no")

        pool = self.open()
        connection = await self.use(pool)
        await self.assertFailure(pool.run(work), ValueError)
        connection.dead = True
        await self.assertFailure(pool.run(work), Fault)
        self.assertEqual([cursor.closed for cursor in cursors], [True, True])

    async def test_atEnd(self) -> None:
        """
        What is left for the end runs once, in the same transaction.
        """
        ran: list[Any] = []

        def last(transaction: Transaction, arguments: Any) -> None:
            ran.append((_connection(transaction).commits, list(arguments)))

        def work(transaction: Transaction) -> FakeConnection:
            transaction.at_end(last, [1])
            transaction.at_end(last, (2, 3))
            ran.append("work")
            return _connection(transaction)

        pool = self.open()
        connection = await pool.run(work)
        self.assertEqual(ran, ["work", (0, [1, 2, 3])])
        self.assertEqual((connection.commits, connection.rollbacks), (1, 0))
        await self.use(pool)
        self.assertEqual(len(ran), 2)

    async def test_failsAtTheEnd(self) -> None:
        def last(transaction: Transaction, arguments: Any) -> None:
            raise ValueError("no")

        pool = self.open()
        connection = await self.use(pool)
        work = pool.run(lambda transaction: transaction.at_end(last, [1]))
        await self.assertFailure(work, ValueError)
        self.assertEqual((connection.commits, connection.rollbacks), (1, 1))

    async def test_commitUndone(self) -> None:
        """
        The error says that nothing happened.
        """
        pool = self.open()
        connection = await self.use(pool)
        for count, trouble in enumerate((Trouble.RETRY, Trouble.READ_ONLY), 1):
            connection.commit_fault = Fault(trouble)
            await self.assertFailure(self.use(pool), Fault)
            self.assertEqual(connection.rollbacks, count)

    async def test_commitInDoubt(self) -> None:
        """
        After any other error it may have happened.
        """
        pool = self.open()
        connection = await self.use(pool)
        for trouble in set(Trouble) - {Trouble.RETRY, Trouble.READ_ONLY}:
            connection.commit_fault = Fault(trouble)
            await self.assertFailure(self.use(pool), StorageUnavailable)

    async def test_deadConnection(self) -> None:
        """
        It is thrown away, wherever its death shows.
        """
        pool = self.open()
        connection = await self.use(pool)
        connection.dead = True
        await self.assertFailure(self.use(pool), Fault)
        self.assertIsNot(await self.use(pool), connection)


class StaleTests(PoolCase):
    """
    Connections that are not used any more.
    """

    async def test_used(self) -> None:
        pool = self.open()
        connection = await self.use(pool)
        self.clock.advance(5)
        self.assertIs(await self.use(pool), connection)
        self.assertEqual(connection.pings, 0)

    async def test_pinged(self) -> None:
        pool = self.open(ping_after=7)
        connection = await self.use(pool)
        self.clock.advance(7.1)
        self.assertIs(await self.use(pool), connection)
        self.assertEqual(connection.pings, 1)
        self.clock.advance(1)
        await self.use(pool)
        self.assertEqual(connection.pings, 1)

    async def test_deadAfterIdling(self) -> None:
        pool = self.open()
        connection = await self.use(pool)
        connection.dead = True
        self.clock.advance(5.1)
        self.assertIsNot(await self.use(pool), connection)

    async def test_idleTime(self) -> None:
        pool = self.open(max_idle_time=10, ping_after=100)
        connection = await self.use(pool)
        for _ in range(3):
            self.clock.advance(10)
            self.assertIs(await self.use(pool), connection)
        self.clock.advance(10.1)
        self.assertIsNot(await self.use(pool), connection)
        self.assertTrue(connection.closed)

    async def test_lifetime(self) -> None:
        pool = self.open(max_lifetime=10)
        connection = await self.use(pool)
        for _ in range(2):
            self.clock.advance(5)
            self.assertIs(await self.use(pool), connection)
        self.clock.advance(0.1)
        self.assertIsNot(await self.use(pool), connection)
        self.assertTrue(connection.closed)

    async def test_renewed(self) -> None:
        """
        All of them are replaced, but not over and over while that does not help.
        """
        pool = self.open(size=2)
        first = await gatherResults(self.use_all(pool, 2))
        pool.renew()
        self.clock.advance(0.1)
        second = await gatherResults(self.use_all(pool, 2))
        self.assertFalse(set(first) & set(second))
        self.assertEqual([connection.closed for connection in first], [True, True])
        pool.renew()
        self.assertEqual(set(await gatherResults(self.use_all(pool, 2))), set(second))
        self.clock.advance(0.5)
        pool.renew()
        self.clock.advance(0.1)
        third = await gatherResults(self.use_all(pool, 2))
        self.assertFalse(set(second) & set(third))

    async def test_oneLostAllDoubted(self) -> None:
        """
        When a connection turns out to be dead, the others are tried before they are used.
        """
        pool = self.open(size=3)
        first = await gatherResults(self.use_all(pool, 3))
        self.clock.advance(1)
        for connection in first:
            connection.dead = True
        await self.assertFailure(self.use(pool), Fault)
        second = await gatherResults(self.use_all(pool, 3))
        self.assertFalse(set(first) & set(second))
        self.assertEqual([connection.pings for connection in second], [0, 0, 0])

    async def test_notAllTried(self) -> None:
        """
        Nor are all of them tried when they are dead: that may take seconds for each.
        """
        pool = self.open(size=5)
        first = await gatherResults(self.use_all(pool, 5))
        self.clock.advance(6)
        for connection in first:
            connection.dead = True
        for _ in range(20):
            await self.use(pool)
            self.clock.advance(0.1)
        self.assertEqual(sum(connection.pings for connection in first), 1)

    async def test_doubtedButAlive(self) -> None:
        pool = self.open(size=2)
        dead, alive = await gatherResults(self.use_all(pool, 2))
        dead.dead = True
        await DeferredList(self.use_all(pool, 2), consumeErrors=True)
        self.clock.advance(1)
        self.assertIn(alive, await gatherResults(self.use_all(pool, 2)))
        self.assertEqual((alive.pings, dead.pings), (1, 0))


class OpenTests(PoolCase):
    """
    Databases that can not be reached.
    """

    async def test_unavailable(self) -> None:
        self.engine.refusal = Fault(Trouble.OTHER, "no\n\tsuch server")
        error = await self.assertFailure(self.use(self.open()), StorageUnavailable)
        self.assertEqual(str(error), "database: no such server")

    async def test_notTriedForAMoment(self) -> None:
        """
        A queue of calls does not take one timeout each.
        """
        pool = self.open(size=2)
        self.engine.refusal = Fault(Trouble.LOST, "down")
        await self.assertFailure(self.use(pool), StorageUnavailable)
        for _ in range(20):
            error = await self.assertFailure(self.use(pool), StorageUnavailable)
            self.assertIn("down", str(error))
        self.assertEqual(self.engine.tries, 1)
        self.clock.advance(0.5)
        await self.assertFailure(self.use(pool), StorageUnavailable)
        self.assertEqual(self.engine.tries, 2)

    async def test_back(self) -> None:
        pool = self.open()
        self.engine.refusal = Fault(Trouble.LOST, "down")
        await self.assertFailure(self.use(pool), StorageUnavailable)
        self.engine.refusal = None
        self.clock.advance(0.5)
        self.assertEqual([await self.use(pool)], self.engine.opened)


class EndTests(PoolCase):
    """
    Closing and interrupting.
    """

    async def test_close(self) -> None:
        """
        Neither connections nor threads are left, also where a connection is dead.
        """
        pool = self.open(size=3)
        connections = await gatherResults(self.use_all(pool, 3))
        threads = list(pool.threadpool.threads)
        self.assertEqual(len(threads), 3)
        connections[1].dead = True
        pool.close()
        self.assertEqual([c.closed for c in connections], [True, False, True])
        self.assertEqual([t for t in threads if t.is_alive()], [])

    async def test_interrupt(self) -> None:
        pool = self.open(size=2)
        connections = await gatherResults(self.use_all(pool, 2))
        connections[0].dead = True
        pool.interrupt()
        self.assertEqual([c.interrupted for c in connections], [False, True])
        await self.assertFailure(self.use(pool), StorageUnavailable)

    async def test_interruptWhileConnecting(self) -> None:
        """
        Who gets a connection only now does not begin to work.
        """
        pool = self.open()
        connect = self.engine.connect

        def slow(autocommit: bool = False) -> FakeConnection:
            pool.interrupt()
            return connect(autocommit)

        self.engine.connect = slow
        await self.assertFailure(self.use(pool), StorageUnavailable)
        self.assertEqual(self.engine.opened[0].commits, 0)
