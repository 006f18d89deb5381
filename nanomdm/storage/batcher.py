"""
Gathers calls that arrive while a transaction is running into the next one.

A thread hop, a transaction and a commit cost far more than the statements in
them.  Nothing waits on purpose: an idle batcher runs a single call at once, and
batches only form while an earlier one is under way.  A call's Deferred fires
after the commit of the transaction that holds it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from nanomdm.errors import Overloaded, StorageUnavailable
from nanomdm.metrics.storage import BatchMetrics, unseen_database
from nanomdm.storage.transaction import Transaction

_log = Logger()

A = TypeVar("A")
R = TypeVar("R")


#: For how long a call may itself wait, compared with the oldest one that may be before
#: it when it comes.
_LONGEST_WAIT = 3

#: One kind of storage work for many callers at once: a function that runs in a
#: pool thread and returns a result for each argument.  An exception as a result
#: fails that caller alone; raising fails the transaction.
Operation = Callable[[Transaction, Sequence[Any]], Sequence[Any]]

#: Runs a function of a transaction in a pool thread and commits.
RunInteraction = Callable[[Callable[[Transaction], Any]], "Deferred[Any]"]


#: Tells from an argument whom a call is about; L{None} if it can not be told.  Calls about
#: the same keep their order.
Subjects = Callable[[Any], "frozenset[str] | None"]


def unknown(argument: Any) -> None:
    """
    As L{Subjects}: all calls keep their order.
    """


@define(eq=False)
class _Call:
    operation: Operation
    argument: Any
    came: float
    result: Deferred[Any] = field(factory=Deferred)


@define(eq=False)
class _Group:
    """
    Calls of one kind.

    @ivar subjects: whom they are about.
    @ivar positions: where they stand in their batch.
    """

    operation: Operation
    subjects: frozenset[str] | None
    positions: list[int] = field(factory=list)
    arguments: list[Any] = field(factory=list)

    def add(self, position: int, argument: Any, subjects: frozenset[str] | None) -> None:
        """
        Take a call more.
        """
        self.positions.append(position)
        self.arguments.append(argument)
        if self.subjects is None or subjects is None:
            self.subjects = None
        else:
            self.subjects |= subjects


class Batcher:
    """
    @param run: starts one transaction.
    @param max_batch: how many calls share a transaction at most.
    @param max_waiting: how many calls may wait for one; beyond it
        L{Overloaded} is raised.
    @param patience: seconds that the oldest call may have waited when another one comes;
        beyond it L{Overloaded} is raised.  Nor does any wait longer than three times that,
        and a transaction: by then the client is gone, and work for it keeps others waiting.
    @param workers: how many transactions run at once at most.
    @param subjects: whom calls are about.
    @param metrics: told of each transaction.
    """

    def __init__(
        self,
        run: RunInteraction,
        max_batch: int = 256,
        max_waiting: int = 10_000,
        patience: float = 10.0,
        workers: int = 1,
        subjects: Subjects = unknown,
        metrics: BatchMetrics | None = None,
        seconds: Callable[[], float] = perf_counter,
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._patience = patience
        self._seconds = seconds
        self._workers = workers
        self._subjects = subjects
        self._working = 0
        self._waiting: deque[_Call] = deque()
        self._idle: list[Deferred[None]] = []
        self._metrics = metrics or unseen_database().batches("")
        self._metrics.watch(lambda: len(self._waiting))

    def call(
        self, operation: Callable[[Transaction, Sequence[A]], Sequence[R | Exception]], argument: A
    ) -> Deferred[R]:
        """
        Run C{operation} for C{argument}, with others of its kind if there are.

        @return: a Deferred with the operation's result for this argument.
            Fails with L{Overloaded} if its turn did not come.
        @raise Overloaded: too many calls wait already, or for too long.
        """
        now = self._seconds()
        if len(self._waiting) >= self._max_waiting:
            raise Overloaded("too many requests wait for the storage")
        if self._waiting and now - self._waiting[0].came > self._patience:
            raise Overloaded("requests wait too long for the storage")
        call = _Call(operation, argument, now)
        self._waiting.append(call)
        if self._working < self._workers:
            self._working += 1
            Deferred.fromCoroutine(self._work()).addErrback(_bug)
        return call.result

    @property
    def busy(self) -> bool:
        """
        Whether anything runs or waits.
        """
        return self._working > 0

    def drained(self) -> Deferred[None]:
        """
        @return: fires once nothing runs or waits.
        """
        done: Deferred[None] = Deferred()
        if self.busy:
            self._idle.append(done)
        else:
            done.callback(None)
        return done

    async def _work(self) -> None:
        while batch := self._next_batch():
            await self._attempt(batch)
        self._working -= 1
        # Whoever is told first may call again, and the others wait on.
        while self._idle and not self.busy:
            self._idle.pop(0).callback(None)

    def _next_batch(self) -> list[_Call]:
        waiting, late = self._waiting, self._seconds() - _LONGEST_WAIT * self._patience
        while waiting and waiting[0].came < late:
            given_up = Overloaded("the storage was busy for too long")
            waiting.popleft().result.errback(Failure(given_up))
        return [waiting.popleft() for _ in range(min(len(waiting), self._max_batch))]

    async def _attempt(self, batch: list[_Call]) -> None:
        try:
            results = await self._transact(batch)
        except StorageUnavailable:
            # Trying every call alone would only multiply the waiting.
            _fail_all(batch, Failure())
        except Exception:
            await self._one_by_one(batch, Failure())
        else:
            _deliver(batch, results)

    async def _transact(self, batch: list[_Call]) -> list[Any]:
        began, failed = self._seconds(), True
        try:
            results: list[Any] = await self._run(
                partial(_perform, groups=self._groups(batch), size=len(batch))
            )
            failed = False
        finally:
            seconds = self._seconds() - began
            self._metrics.ended(len(batch), began - batch[0].came, seconds, failed)
        return results

    def _groups(self, batch: list[_Call]) -> list[_Group]:
        """
        Gather calls of one kind, unless one would have to move past another one that is
        about the same.
        """
        groups: list[_Group] = []
        for position, call in enumerate(batch):
            subjects = self._subjects(call.argument)
            group = _place(groups, call.operation, subjects)
            if group is None:
                group = _Group(call.operation, subjects)
                groups.append(group)
            group.add(position, call.argument, subjects)
        return groups

    async def _one_by_one(self, batch: list[_Call], failure: Failure) -> None:
        """
        One bad call must not fail the others, so each runs again by itself.
        """
        if len(batch) == 1:
            _fail_all(batch, failure)
            return
        for position, call in enumerate(batch):
            try:
                results = await self._transact([call])
            except StorageUnavailable:
                _fail_all(batch[position:], Failure())
                return
            except Exception:
                _fail_all([call], Failure())
            else:
                _deliver([call], results)


def _deliver(batch: list[_Call], results: list[Any]) -> None:
    for call, result in zip(batch, results, strict=True):
        if isinstance(result, Exception):
            call.result.errback(Failure(result))
        else:
            call.result.callback(result)


def _fail_all(batch: list[_Call], failure: Failure) -> None:
    for call in batch:
        call.result.errback(failure)


def _bug(failure: Failure) -> None:
    _log.failure("batcher stopped", failure)


def _place(
    groups: list[_Group], operation: Operation, subjects: frozenset[str] | None
) -> _Group | None:
    """
    @return: the last group of a kind that a call can join.
    """
    for group in reversed(groups):
        if group.operation == operation:
            return group
        if subjects is None or group.subjects is None or not subjects.isdisjoint(group.subjects):
            return None
    return None


def _perform(transaction: Transaction, groups: list[_Group], size: int) -> list[Any]:
    """
    Run in a pool thread.

    @return: the results, in the order of the calls.
    """
    results: list[Any] = [None] * size
    for group in groups:
        answers = group.operation(transaction, group.arguments)
        # A result too few or too many must undo the transaction, not mix up callers.
        for position, answer in zip(group.positions, answers, strict=True):
            results[position] = answer
    return results
