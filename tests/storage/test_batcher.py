"""
Tests for L{nanomdm.storage.batcher}.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.errors import Overloaded, StorageError, StorageUnavailable, TooLarge
from nanomdm.storage.batcher import Batcher, Transaction

Work = Callable[[Transaction], Any]


class Runner:
    """
    Runs transactions when a test says so.

    @ivar pending: the transactions under way, oldest first.
    @ivar started: how many there were.
    """

    def __init__(self) -> None:
        self.pending: list[tuple[Work, Deferred[Any]]] = []
        self.started = 0

    def __call__(self, work: Work) -> Deferred[Any]:
        self.started += 1
        done: Deferred[Any] = Deferred()
        self.pending.append((work, done))
        return done

    def commit(self) -> None:
        """
        Let the oldest transaction run and end.
        """
        work, done = self.pending.pop(0)
        try:
            result = work(self)
        except Exception:
            done.errback(Failure())
        else:
            done.callback(result)

    def fail(self, error: Exception) -> None:
        """
        Let the oldest transaction fail.
        """
        self.pending.pop(0)[1].errback(Failure(error))

    def finish(self) -> None:
        """
        Run transactions until there is none.
        """
        while self.pending:
            self.commit()


class BatcherCase(SynchronousTestCase):
    """
    A batcher on a L{Runner}, and operations that note what they are given.
    """

    max_batch = 4
    max_waiting = 10

    def setUp(self) -> None:
        self.runner = Runner()
        self.now = 100.0
        self.batcher = Batcher(
            self.runner, self.max_batch, self.max_waiting, patience=10, seconds=lambda: self.now
        )
        self.batches: list[list[Any]] = []

    def double(self, transaction: Transaction, arguments: Sequence[int]) -> list[Any]:
        """
        An operation.
        """
        self.assertIs(transaction, self.runner)
        self.batches.append(list(arguments))
        return [argument * 2 for argument in arguments]

    def negate(self, transaction: Transaction, arguments: Sequence[int]) -> list[Any]:
        """
        Another operation.
        """
        self.batches.append([f"negate {argument}" for argument in arguments])
        return [-argument for argument in arguments]

    def picky(self, transaction: Transaction, arguments: Sequence[int]) -> list[Any]:
        """
        An operation that raises for negative numbers, and returns an exception
        for 13.
        """
        self.batches.append(list(arguments))
        if any(argument < 0 for argument in arguments):
            raise TooLarge("negative")
        return [StorageError("13") if argument == 13 else argument for argument in arguments]

    def calls(self, *arguments: int, operation: Any = None) -> list[Deferred[Any]]:
        """
        Make some calls.
        """
        return [self.batcher.call(operation or self.double, argument) for argument in arguments]

    def drained(self) -> list[None]:
        """
        Ask to be told when nothing is left.
        """
        told: list[None] = []
        self.batcher.drained().addCallback(told.append)
        return told


class GatheringTests(BatcherCase):
    """
    Which calls share a transaction.
    """

    def test_idleRunsAtOnce(self) -> None:
        [call] = self.calls(1)
        self.assertEqual(self.runner.started, 1)
        self.assertNoResult(call)
        self.runner.commit()
        self.assertEqual(self.successResultOf(call), 2)

    def test_batchesFormWhileOneRuns(self) -> None:
        first, *others = self.calls(1, 2, 3)
        self.assertEqual(self.runner.started, 1)
        self.runner.commit()
        self.assertEqual(self.successResultOf(first), 2)
        self.assertEqual(self.runner.started, 2)
        for call in others:
            self.assertNoResult(call)
        self.runner.commit()
        self.assertEqual([self.successResultOf(call) for call in others], [4, 6])
        self.assertEqual(self.batches, [[1], [2, 3]])

    def test_oneTransactionAtATime(self) -> None:
        self.calls(*range(8))
        while self.runner.pending:
            self.assertEqual(len(self.runner.pending), 1)
            self.runner.commit()
        self.assertEqual(self.runner.started, 3)

    def test_boundOfABatch(self) -> None:
        calls = self.calls(*range(10))
        self.runner.finish()
        self.assertEqual(self.batches, [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9]])
        self.assertEqual([self.successResultOf(call) for call in calls], [*range(0, 20, 2)])

    def test_orderIsKept(self) -> None:
        """
        Where nobody can tell whom calls are about, only neighbours of one kind go together.
        """
        self.calls(0)
        order: list[int] = []
        for operation, argument in (
            (self.double, 1),
            (self.negate, 2),
            (self.negate, 3),
            (self.double, 4),
        ):
            self.batcher.call(operation, argument).addCallback(order.append)
        self.runner.finish()
        self.assertEqual(self.batches, [[0], [1], ["negate 2", "negate 3"], [4]])
        self.assertEqual(self.runner.started, 2)
        self.assertEqual(order, [2, -2, -3, 8])

    def test_gathered(self) -> None:
        """
        Calls of one kind go together, past others that are about somebody else.
        """
        self.assertEqual(
            self.ran(("double", 10), ("negate", 20), ("double", 30), ("negate", 40)),
            [[10, 30], ["negate 20", "negate 40"]],
        )

    def test_orderOfOne(self) -> None:
        """
        Calls about the same stay in their order, and nothing moves past what may be about
        anybody.
        """
        self.assertEqual(
            self.ran(("double", 10), ("negate", 11), ("double", 12), ("double", 20)),
            [[10], ["negate 11"], [12, 20]],
        )
        self.assertEqual(
            self.ran(("double", 10), ("negate", -1), ("double", 20), ("negate", 30)),
            [[10], ["negate -1", "negate 30"], [20]],
        )

    def ran(self, *calls: tuple[str, int]) -> list[list[Any]]:
        """
        Gather calls, which are about the tens of their arguments.

        @return: what the operations were given, in their order.
        """

        def tens(number: int) -> frozenset[str] | None:
            return None if number < 0 else frozenset([str(number // 10)])

        self.batcher = Batcher(self.runner, subjects=tens)
        self.calls(0)
        self.batches = []
        made = [self.batcher.call(getattr(self, name), number) for name, number in calls]
        self.runner.finish()
        for call, (name, number) in zip(made, calls, strict=True):
            self.assertEqual(
                self.successResultOf(call), getattr(self, name)(self.runner, [number])[0]
            )
        return self.batches[1 : -len(calls)]

    def test_runsAgainAfterIdling(self) -> None:
        for _ in range(3):
            [call] = self.calls(1)
            self.runner.commit()
            self.assertEqual(self.successResultOf(call), 2)
        self.assertEqual(self.runner.started, 3)

    def test_synchronousRun(self) -> None:
        """
        A transaction that is over at once.
        """

        def run(work: Work) -> Deferred[Any]:
            done = self.runner(work)
            self.runner.commit()
            return done

        self.batcher = Batcher(run)
        self.assertEqual(
            [self.successResultOf(call) for call in self.calls(*range(2000))], [*range(0, 4000, 2)]
        )


class FailureTests(BatcherCase):
    """
    Whom a failure reaches.
    """

    def test_exceptionAsResult(self) -> None:
        _, a, bad, b = self.calls(0, 1, 13, 2, operation=self.picky)
        self.runner.finish()
        self.assertEqual((self.successResultOf(a), self.successResultOf(b)), (1, 2))
        self.assertEqual(str(self.failureResultOf(bad, StorageError).value), "13")
        self.assertEqual(self.runner.started, 2)

    def test_poisonedMemberFailsAlone(self) -> None:
        _, a, bad, b = self.calls(0, 1, -1, 2, operation=self.picky)
        self.runner.finish()
        self.assertEqual((self.successResultOf(a), self.successResultOf(b)), (1, 2))
        self.failureResultOf(bad, TooLarge)
        self.assertEqual(self.batches, [[0], [1, -1, 2], [1], [-1], [2]])

    def test_poisonedAmongOtherKinds(self) -> None:
        self.calls(0)
        [a], [bad] = self.calls(1), self.calls(-1, operation=self.picky)
        [b] = self.calls(3, operation=self.negate)
        self.runner.finish()
        self.assertEqual((self.successResultOf(a), self.successResultOf(b)), (2, -3))
        self.failureResultOf(bad, TooLarge)

    def test_singleCallIsNotRepeated(self) -> None:
        [bad] = self.calls(-1, operation=self.picky)
        self.runner.finish()
        self.failureResultOf(bad, TooLarge)
        self.assertEqual(self.runner.started, 1)

    def test_laterCallsWaitForTheRepeats(self) -> None:
        """
        A call does not overtake the members of a failed batch.
        """
        _, _, bad = self.calls(0, 1, -1, operation=self.picky)
        self.runner.commit()
        self.runner.commit()
        [late] = self.calls(5, operation=self.picky)
        self.runner.finish()
        self.assertEqual(self.batches[-3:], [[1], [-1], [5]])
        self.failureResultOf(bad, TooLarge)
        self.assertEqual(self.successResultOf(late), 5)

    def test_unavailableFailsAllAtOnce(self) -> None:
        first, *others = self.calls(0, 1, 2, 3)
        self.runner.commit()
        self.runner.fail(StorageUnavailable("locked"))
        self.successResultOf(first)
        for call in others:
            self.failureResultOf(call, StorageUnavailable)
        self.assertEqual((self.runner.started, self.runner.pending), (2, []))

    def test_worksAfterUnavailable(self) -> None:
        [bad] = self.calls(0)
        [waiting] = self.calls(1)
        self.runner.fail(StorageUnavailable("locked"))
        self.runner.commit()
        self.failureResultOf(bad, StorageUnavailable)
        self.assertEqual(self.successResultOf(waiting), 2)

    def test_otherFailureOfTheTransaction(self) -> None:
        """
        As when the commit fails.
        """
        _, a, b = self.calls(0, 1, 2)
        self.runner.commit()
        self.runner.fail(ValueError("commit"))
        self.runner.commit()
        self.runner.fail(ValueError("again"))
        self.assertEqual(self.successResultOf(a), 2)
        self.assertEqual(str(self.failureResultOf(b, ValueError).value), "again")

    def test_runRaises(self) -> None:
        def run(work: Work) -> Deferred[Any]:
            raise RuntimeError("pool is closed")

        self.batcher = Batcher(run)
        for _ in range(2):
            [call] = self.calls(0)
            self.failureResultOf(call, RuntimeError)
        self.assertEqual(self.drained(), [None])

    def test_runFailsAtOnce(self) -> None:
        self.batcher = Batcher(lambda work: fail(StorageUnavailable("full")))
        for call in self.calls(0, 1):
            self.failureResultOf(call, StorageUnavailable)

    def test_wrongNumberOfResults(self) -> None:
        """
        Undoes the transaction, mixes up nobody and stops nothing.
        """
        for wrong in ([], [1, 2, 3]):
            self.setUp()
            calls = self.calls(0, 1, 2, operation=lambda t, arguments, wrong=wrong: wrong)
            self.runner.finish()
            for call in calls:
                self.failureResultOf(call, ValueError)
            # One alone, two together, and those two alone.
            self.assertEqual(self.runner.started, 4)
            [after] = self.calls(7)
            self.runner.finish()
            self.assertEqual(self.successResultOf(after), 14)


class LimitTests(BatcherCase):
    """
    How many calls may wait.
    """

    def test_overloaded(self) -> None:
        calls = self.calls(*range(1 + self.max_waiting))
        error = self.assertRaises(Overloaded, self.batcher.call, self.double, 99)
        self.assertGreaterEqual(error.retry_after, 1)
        self.runner.commit()
        # A batch has left the queue.
        calls += self.calls(*range(self.max_batch))
        self.assertRaises(Overloaded, self.batcher.call, self.double, 99)
        self.runner.finish()
        for call in calls:
            self.successResultOf(call)
        self.assertNotIn(99, [argument for batch in self.batches for argument in batch])

    def test_refusedCallLeavesNothing(self) -> None:
        self.calls(*range(1 + self.max_waiting))
        for _ in range(5):
            self.assertRaises(Overloaded, self.batcher.call, self.double, 99)
        self.runner.finish()
        self.assertEqual(self.drained(), [None])

    def test_slowTransaction(self) -> None:
        """
        Nobody joins a queue that does not move, however short it is.
        """
        running = self.calls(1)
        self.now += 60
        waiting = self.calls(2)
        self.now += 10
        waiting += self.calls(3)
        self.now += 0.1
        error = self.assertRaises(Overloaded, self.batcher.call, self.double, 99)
        self.assertGreaterEqual(error.retry_after, 1)
        self.runner.commit()
        waiting += self.calls(4)
        self.runner.finish()
        self.assertEqual([self.successResultOf(one) for one in running + waiting], [2, 4, 6, 8])

    def test_waitedTooLong(self) -> None:
        """
        Calls whose turn comes too late are given up, and nothing is done for them.
        """
        running = self.calls(1)
        late = self.calls(2)
        self.now += 10
        intime = self.calls(3)
        self.now += 20.1
        self.runner.commit()
        self.failureResultOf(late[0], Overloaded)
        self.runner.finish()
        self.assertEqual([self.successResultOf(one) for one in running + intime], [2, 6])
        self.assertEqual(self.batches, [[1], [3]])

    def test_allWaitedTooLong(self) -> None:
        [_, *late] = self.calls(1, 2, 3)
        self.now += 31
        self.runner.commit()
        for call in late:
            self.failureResultOf(call, Overloaded)
        self.assertEqual((self.runner.pending, self.drained()), ([], [None]))
        self.calls(4)
        self.assertEqual(len(self.runner.pending), 1)


class DrainedTests(BatcherCase):
    """
    When nothing is left to do.
    """

    def test_idle(self) -> None:
        self.assertEqual(self.drained(), [None])

    def test_afterEverything(self) -> None:
        calls = self.calls(*range(6))
        told = [self.drained(), self.drained()]
        while self.runner.pending:
            self.assertEqual(told, [[], []])
            self.runner.commit()
        self.assertEqual(told, [[None], [None]])
        for call in calls:
            self.successResultOf(call)

    def test_afterFailures(self) -> None:
        calls = self.calls(-1, 1, -2, operation=self.picky)
        told = self.drained()
        self.runner.finish()
        self.assertEqual(told, [None])
        for bad in calls[::2]:
            self.failureResultOf(bad, TooLarge)

    def test_waitsForCallsThatCameLater(self) -> None:
        self.calls(1)
        told = self.drained()
        self.calls(2)
        self.runner.commit()
        self.assertEqual(told, [])
        self.runner.commit()
        self.assertEqual(told, [None])

    def test_callWhenDrained(self) -> None:
        """
        Who is told first may call again; the others wait for that, too.
        """
        self.calls(1)
        again: list[Deferred[Any]] = []
        self.batcher.drained().addCallback(lambda _: again.extend(self.calls(2)))
        told = self.drained()
        self.runner.commit()
        self.assertEqual((len(again), told), (1, []))
        self.runner.commit()
        self.assertEqual(told, [None])
        self.assertEqual(self.successResultOf(again[0]), 4)


class ReentrancyTests(BatcherCase):
    """
    Callers that do something in their callbacks.
    """

    def test_callAgain(self) -> None:
        """
        Calls made by the callbacks of a batch go together into the next.
        """
        second: list[Deferred[Any]] = []
        first = self.calls(1, 10, 20)
        for call in first:
            call.addCallback(lambda result: second.extend(self.calls(result)))
        self.runner.finish()
        self.assertEqual(self.batches, [[1], [10, 20, 2], [20, 40]])
        self.assertEqual([self.successResultOf(call) for call in second], [4, 40, 80])
        self.assertEqual(self.drained(), [None])

    def test_callbackRaises(self) -> None:
        first, bad, other = self.calls(0, 1, 2)
        bad.addCallback(lambda result: result / 0)
        self.runner.finish()
        self.failureResultOf(bad, ZeroDivisionError)
        self.assertEqual((self.successResultOf(first), self.successResultOf(other)), (0, 4))

    def test_cancelled(self) -> None:
        """
        A caller that gave up, before or while its transaction runs.
        """
        running, waiting, other = self.calls(0, 1, 2)
        running.cancel()
        waiting.cancel()
        self.failureResultOf(running, CancelledError)
        self.failureResultOf(waiting, CancelledError)
        self.runner.finish()
        self.assertEqual(self.successResultOf(other), 4)
        self.assertEqual(self.drained(), [None])

    def test_cancelANeighbour(self) -> None:
        """
        One member's callback cancels another's.
        """
        _, first, second, third = self.calls(0, 1, 2, 3)
        first.addCallback(lambda result: second.cancel())
        self.runner.finish()
        self.failureResultOf(second, CancelledError)
        self.assertEqual(self.successResultOf(third), 6)
        [after] = self.calls(4)
        self.runner.finish()
        self.assertEqual(self.successResultOf(after), 8)

    def test_overloadedInACallback(self) -> None:
        """
        A caller that fills the queue hurts only itself.
        """

        def flood(result: int) -> None:
            for number in range(100):
                self.batcher.call(self.double, number)

        first, other = self.calls(0, 1)
        first.addCallback(flood)
        self.runner.finish()
        self.failureResultOf(first, Overloaded)
        self.assertEqual(self.successResultOf(other), 2)
