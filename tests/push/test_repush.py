"""
Tests for pushing again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from random import Random
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.errors import StorageUnavailable
from nanomdm.interfaces import PushAgain, PushResult
from nanomdm.push.repush import Repusher

#: The longest pause between two rounds that all went well.
PAUSE = 6.0


@define
class Asked:
    """
    One question to the store.
    """

    at: float
    server: str
    limit: int
    answer: Deferred[list[PushAgain]] = field(factory=Deferred)


class FakeStore:
    """
    Answers by itself as long as there is somebody due.

    @ivar asked: all questions so far.
    @ivar due: how many there are of each step, for ever; L{None} leaves each
        question to the test.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.asked: list[Asked] = []
        self.due: dict[int, int] | None = None
        self.repeated: list[list[PushAgain]] = []

    def push_again(self, server: str, limit: int) -> Deferred[list[PushAgain]]:
        asked = Asked(self.clock.seconds(), server, limit)
        self.asked.append(asked)
        if self.due is not None:
            asked.answer.callback(
                [
                    PushAgain(f"{step}-{number}", step)
                    for step, count in self.due.items()
                    for number in range(min(count, limit))
                ]
            )
        return asked.answer

    def repeat_step(self, due: Sequence[PushAgain]) -> Deferred[None]:
        self.repeated.append(list(due))
        return succeed(None)


class FakePusher:
    """
    @ivar pushed: when, to whom, with which further arguments.
    @ivar waiting: what it has not answered; L{None} when it answers at once.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.pushed: list[tuple[float, list[str], dict[str, Any]]] = []
        self.waiting: list[Deferred[Mapping[str, PushResult]]] | None = None

    def push(self, ids: Sequence[str], **more: Any) -> Deferred[Mapping[str, PushResult]]:
        self.pushed.append((self.clock.seconds(), list(ids), more))
        answer: Deferred[Mapping[str, PushResult]] = Deferred()
        if self.waiting is None:
            answer.callback(dict.fromkeys(ids, PushResult(id="x")))
        else:
            self.waiting.append(answer)
        return answer


class RepusherCase(SynchronousTestCase):
    """
    Has a L{Repusher} with a clock.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.store = FakeStore(self.clock)
        self.pusher = FakePusher(self.clock)

    def begin(self, per_minute: int = 60) -> None:
        self.repusher = Repusher(self.store, self.pusher, self.clock, per_minute, Random(1))
        self.repusher.start()

    def run_for(self, seconds: float) -> None:
        """
        Let time pass, in steps of a tenth of a second.
        """
        self.clock.pump([0.1] * round(seconds * 10))

    def stop(self) -> None:
        """
        It stops at once and leaves nothing behind.
        """
        self.successResultOf(self.repusher.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])


class RepusherTests(RepusherCase):
    """
    What a L{Repusher} does while it runs.
    """

    def test_pushesToWhatIsDue(self) -> None:
        """
        They are pushed to as such, which leaves their schedule alone.
        """
        self.begin()
        self.run_for(PAUSE)
        [asked] = self.store.asked
        self.assertGreaterEqual(asked.at, 2.0)
        asked.answer.callback([PushAgain("D1", 0), PushAgain("D2", 3)])
        [(_, ids, more)] = self.pusher.pushed
        self.assertEqual((ids, more), (["D1", "D2"], {"again": True}))
        self.stop()

    def test_withoutAnAnswerAStepDoesNotCount(self) -> None:
        """
        While APNs can not be reached, nobody moves on to being pushed to daily.
        """
        self.pusher.waiting = []
        self.begin()
        self.run_for(PAUSE)
        due = [PushAgain(f"D{number}", number) for number in range(4)]
        self.store.asked[0].answer.callback(due)
        self.pusher.waiting[0].callback(
            {
                "D0": PushResult(id="x"),
                "D1": PushResult(error="APNs can not be reached: timed out"),
                "D2": PushResult(error="APNs answered 410", status=410, reason="Unregistered"),
                "D3": PushResult(error="no push certificate for topic t"),
            }
        )
        self.assertEqual(self.store.repeated, [[due[1], due[3]]])
        self.stop()

    def test_logsWhatItPushed(self) -> None:
        self.pusher.waiting = []
        self.begin()
        self.run_for(PAUSE)
        with capturedLogs() as events:
            self.store.asked[0].answer.callback([PushAgain("D1", 0), PushAgain("D2", 0)])
            self.pusher.waiting[0].callback(
                {"D1": PushResult(id="x"), "D2": PushResult(error="no")}
            )
        [event] = events
        self.assertEqual(
            (event["log_format"], event["log_level"], event["count"], event["failed"]),
            ("pushed again", LogLevel.info, 2, 1),
        )
        self.stop()

    def test_nothingDue(self) -> None:
        """
        Nothing is pushed or logged, and it asks again.
        """
        self.store.due = {}
        self.begin()
        with capturedLogs() as events:
            self.run_for(60)
        self.assertEqual((events, self.pusher.pushed), ([], []))
        self.assertGreaterEqual(len(self.store.asked), 60 / PAUSE - 1)
        self.stop()

    def test_pausesVary(self) -> None:
        self.store.due = {}
        self.begin()
        self.run_for(60)
        times = [asked.at for asked in self.store.asked]
        pauses = {round(later - earlier, 1) for earlier, later in pairwise(times)}
        self.assertGreater(len(pauses), 3)
        self.assertTrue(all(4.0 <= pause <= PAUSE + 0.1 for pause in pauses), pauses)
        self.stop()

    def test_oneRoundAtATime(self) -> None:
        """
        Neither a slow storage nor slow pushes make it begin another round.
        """
        self.pusher.waiting = []
        self.begin()
        self.run_for(100)
        [asked] = self.store.asked
        asked.answer.callback([PushAgain("D1", 0)])
        self.run_for(100)
        self.assertEqual((len(self.store.asked), len(self.pusher.pushed)), (1, 1))
        self.pusher.waiting[0].callback({"D1": PushResult(id="x")})
        self.run_for(PAUSE)
        self.assertEqual(len(self.store.asked), 2)
        self.store.asked[1].answer.callback([])
        self.stop()

    def counts(self, step: str) -> list[tuple[float, int]]:
        """
        @return: when there were how many pushes of a step.
        """
        return [
            (at, sum(id.startswith(step) for id in ids)) for at, ids, more in self.pusher.pushed
        ]

    def most_in_a_minute(self, step: str) -> int:
        counts = self.counts(step)
        return max(
            sum(count for at, count in counts if begin <= at < begin + 60) for begin, _ in counts
        )

    def test_budget(self) -> None:
        """
        In no minute are there more of a step than allowed, and in the long run not
        much fewer, and they are spread over it.
        """
        for per_minute in (1, 7, 60, 1000):
            self.setUp()
            self.store.due = {0: 10_000, 4: 10_000}
            self.begin(per_minute)
            self.run_for(600)
            for step in ("0", "4"):
                counts = self.counts(step)
                self.assertEqual(self.most_in_a_minute(step), per_minute)
                self.assertGreater(sum(count for _, count in counts), 8.5 * per_minute)
                self.assertLessEqual(max(count for _, count in counts), per_minute / 10 + 1)
            self.stop()

    def test_stepsHaveABudgetEach(self) -> None:
        """
        What one step used up another can use as well.
        """
        self.begin(60)
        for number in range(20):
            self.run_for(PAUSE)
            asked = self.store.asked[-1]
            step = number % 2
            asked.answer.callback([PushAgain(f"{step}-", step)] * asked.limit)
        self.assertGreater(self.most_in_a_minute(""), 55)
        self.assertLessEqual(self.most_in_a_minute("0"), 60)
        self.stop()

    def test_budgetAtTheStart(self) -> None:
        """
        The time before it does not count.
        """
        self.clock.advance(1000)
        self.begin(60)
        self.run_for(PAUSE)
        self.assertIn(self.store.asked[0].limit, (4, 5, 6, 7))

    def test_budgetAfterSlowPushes(self) -> None:
        """
        The time that pushes took counts, but not more than a minute of it.
        """
        self.pusher.waiting = []
        self.begin(60)
        self.run_for(PAUSE)
        self.store.asked[0].answer.callback([PushAgain("D1", 2)])
        self.run_for(24)
        self.pusher.waiting[0].callback({"D1": PushResult(id="x")})
        self.run_for(PAUSE)
        self.assertGreater(self.store.asked[1].limit, 24)
        self.assertLess(self.store.asked[1].limit, 33)
        self.run_for(600)
        self.store.asked[1].answer.callback([])
        self.run_for(PAUSE)
        self.assertEqual(self.store.asked[2].limit, 60)
        self.store.asked[2].answer.callback([])
        self.stop()

    def test_asksWithoutBudgetToo(self) -> None:
        """
        Otherwise another server would begin where this one had to stop.
        """
        self.store.due = {0: 10}
        self.begin(1)
        self.run_for(50)
        self.assertEqual([asked.limit for asked in self.store.asked[:4]], [1, 0, 0, 0])
        self.assertEqual(len(self.pusher.pushed), 1)
        self.stop()

    def test_storageAway(self) -> None:
        """
        It is told once, asked less and less often, and goes on when it is back.
        """
        self.begin()
        with capturedLogs() as events:
            for _ in range(8):
                self.run_for(80)
                self.store.asked[-1].answer.errback(StorageUnavailable("away"))
        self.assertEqual(len(self.store.asked), 8)
        [event] = events
        self.assertEqual((event["log_level"], event["error"]), (LogLevel.warn, "away"))
        self.run_for(40)
        self.assertEqual(len(self.store.asked), 8)
        self.run_for(40)
        with capturedLogs() as events:
            self.store.asked[-1].answer.callback([])
        self.assertEqual([event["log_format"] for event in events], ["pushing again works again"])
        self.run_for(PAUSE)
        with capturedLogs() as events:
            self.store.asked[-1].answer.errback(StorageUnavailable("away"))
        self.assertEqual(len(events), 1)
        self.stop()

    def test_firstPauseAfterAFailure(self) -> None:
        self.begin()
        self.run_for(PAUSE)
        self.store.asked[-1].answer.errback(StorageUnavailable("away"))
        self.run_for(7.9)
        self.assertEqual(len(self.store.asked), 1)
        self.run_for(4.2)
        self.assertEqual(len(self.store.asked), 2)

    def test_pusherFails(self) -> None:
        self.pusher.waiting = []
        self.begin()
        self.run_for(PAUSE)
        self.store.asked[0].answer.callback([PushAgain("D1", 0)])
        with capturedLogs() as events:
            self.pusher.waiting[0].errback(StorageUnavailable("away"))
        self.assertEqual([event["log_level"] for event in events], [LogLevel.warn])
        self.run_for(13)
        self.assertEqual(len(self.store.asked), 2)

    def test_bug(self) -> None:
        """
        What nobody thought of is logged with its traceback, once, and it goes on.
        """

        def fail(server: str, limit: int) -> None:
            raise ZeroDivisionError

        self.patch(self.store, "push_again", fail)
        self.begin()
        self.run_for(300)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.stop()

    def test_names(self) -> None:
        """
        A server keeps its name, and no other has it.
        """
        self.store.due = {}
        first = Random(1)
        for random in (first, first):
            Repusher(self.store, self.pusher, self.clock, 1, random).start()
        self.run_for(60)
        names = {asked.server for asked in self.store.asked}
        self.assertEqual(len(names), 2)
        for name in names:
            self.assertIn(f" {os.getpid()} ", name)
            self.assertTrue(name.isascii())
            self.assertLess(len(name), 200)

    def test_nameIsMadeAtTheStart(self) -> None:
        """
        Not before twistd forks.
        """
        repusher = Repusher(self.store, self.pusher, self.clock, 1, Random(1))
        self.patch(os, "getpid", lambda: 4711)
        repusher.start()
        self.run_for(PAUSE)
        self.assertIn(" 4711 ", self.store.asked[0].server)


class StopTests(RepusherCase):
    """
    L{Repusher.stop} at each moment.
    """

    def test_beforeTheFirstRound(self) -> None:
        self.begin()
        self.stop()

    def test_neverStarted(self) -> None:
        self.repusher = Repusher(self.store, self.pusher, self.clock, 1, Random(1))
        self.stop()

    def test_whileItAsks(self) -> None:
        """
        Who is due is taken note of as pushed to, so that is what happens.
        """
        self.begin()
        self.run_for(PAUSE)
        stopped = self.repusher.stop()
        self.assertNoResult(stopped)
        self.store.asked[0].answer.callback([PushAgain("D1", 0)])
        self.successResultOf(stopped)
        self.assertEqual(len(self.pusher.pushed), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_whileItPushes(self) -> None:
        self.pusher.waiting = []
        self.begin()
        self.run_for(PAUSE)
        self.store.asked[0].answer.callback([PushAgain("D1", 0)])
        stopped = self.repusher.stop()
        self.assertNoResult(stopped)
        self.pusher.waiting[0].callback({"D1": PushResult(id="x")})
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_storageThatCloses(self) -> None:
        """
        Nobody needs to hear that it can not be asked any more.
        """
        self.begin()
        self.run_for(PAUSE)
        stopped = self.repusher.stop()
        with capturedLogs() as events:
            self.store.asked[0].answer.errback(StorageUnavailable("closed"))
        self.successResultOf(stopped)
        self.assertEqual(events, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])
