"""
Tests for L{nanomdm.service.webhook}, and for what it is made of, with a fake clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any

from attrs import define, evolve, field
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.errors import LeaseLost, OutboundError, StorageUnavailable
from nanomdm.interfaces import Backlog, QueuedEvent
from nanomdm.service.backlog import BacklogWatch
from nanomdm.service.outage import Outage
from nanomdm.service.webhook import Webhook

DAY = 86400.0


@define(eq=False)
class Stream:
    """
    An enrollment's events, as the fake store has them.
    """

    events: list[QueuedEvent] = field(factory=list)
    written: list[float] = field(factory=list)
    due: float = 0.0
    holder: str = ""
    attempts: int = 0


class FakeStore:
    """
    Behaves as L{nanomdm.interfaces.IEventStore} says, at once, on a clock.

    @ivar claims: how many enrollments each claim asked for, and when.
    @ivar calls: how often each method was called.
    @ivar error: what everything fails with, for now.
    @ivar lost: enrollments that another server has got hold of.
    @ivar gate: when it is set, claims wait for it.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.streams: dict[str, Stream] = {}
        self.claims: list[tuple[float, int]] = []
        self.calls: Counter[str] = Counter()
        self.delays: list[tuple[str, float]] = []
        self.failed: list[tuple[str, str]] = []
        self.error: Exception | None = None
        self.lost: set[str] = set()
        self.gate: Deferred[None] | None = None
        self.servers: set[str] = set()
        self._number = 0

    def write(self, id: str, *names: str) -> None:
        """
        Write events.
        """
        stream = self.streams.setdefault(id, Stream(due=self.clock.seconds()))
        for name in names:
            self._number += 1
            stream.events.append(QueuedEvent(self._number, id, name.encode(), 0, 0))
            stream.written.append(self.clock.seconds())

    def _first(self, stream: Stream) -> QueuedEvent:
        age = int(self.clock.seconds() - stream.written[0])
        return evolve(stream.events[0], age=age, attempts=stream.attempts)

    def _call(self, name: str, work: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        self.calls[name] += 1
        if self.error is not None:
            return fail(self.error)
        try:
            return succeed(work(*arguments))
        except LeaseLost as error:
            return fail(error)

    def claim_events(self, server: str, streams: int, lease: float) -> Deferred[list[QueuedEvent]]:
        self.claims.append((self.clock.seconds(), streams))
        self.servers.add(server)
        if self.gate is not None:
            self.gate.addCallback(lambda ignored: self._claim(server, streams, lease))
            return self.gate
        return self._call("claim", self._claim, server, streams, lease)

    def _claim(self, server: str, streams: int, lease: float) -> list[QueuedEvent]:
        now = self.clock.seconds()
        due = [(s.due, id) for id, s in self.streams.items() if s.due <= now]
        taken = [self.streams[id] for _, id in sorted(due)[:streams]]
        for stream in taken:
            stream.due, stream.holder = now + lease, server
        return [self._first(stream) for stream in taken]

    def _held(self, server: str, event: QueuedEvent) -> Stream:
        stream = self.streams.get(event.enrollment_id)
        if stream is None or stream.holder != server or event.enrollment_id in self.lost:
            raise LeaseLost("in other hands")
        if stream.events[0].number != event.number:
            raise AssertionError("not the first event")
        return stream

    def _done(self, server: str, event: QueuedEvent) -> QueuedEvent | None:
        stream = self._held(server, event)
        stream.events.pop(0)
        stream.written.pop(0)
        stream.attempts = 0
        if not stream.events:
            del self.streams[event.enrollment_id]
            return None
        stream.due = self.clock.seconds() + 60
        return self._first(stream)

    def event_delivered(self, server: str, event: QueuedEvent) -> Deferred[QueuedEvent | None]:
        return self._call("delivered", self._done, server, event)

    def event_postponed(self, server: str, event: QueuedEvent, delay: float) -> Deferred[None]:
        def postpone() -> None:
            stream = self._held(server, event)
            stream.attempts += 1
            stream.holder, stream.due = "", self.clock.seconds() + delay
            self.delays.append((event.enrollment_id, delay))

        return self._call("postponed", postpone)

    def event_failed(
        self, server: str, event: QueuedEvent, reason: str
    ) -> Deferred[QueuedEvent | None]:
        def give_up() -> QueuedEvent | None:
            following = self._done(server, event)
            self.failed.append((event.body.decode(), reason))
            return following

        return self._call("failed", give_up)

    def release_events(self, server: str) -> Deferred[None]:
        def release() -> None:
            for stream in self.streams.values():
                if stream.holder == server:
                    stream.holder, stream.due = "", self.clock.seconds()

        return self._call("release", release)

    @property
    def names(self) -> list[str]:
        """
        What is left.
        """
        return [e.body.decode() for s in self.streams.values() for e in s.events]


class FakeReceiver:
    """
    Takes everything, unless told otherwise.

    @ivar got: what was tried, and when.
    @ivar error: why it takes nothing, for now.
    @ivar bad: what it never takes.
    @ivar waiting: what is under way; L{None} when it answers at once.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.got: list[tuple[float, str]] = []
        self.error: str | None = None
        self.bad: set[str] = set()
        self.waiting: dict[str, Deferred[None]] | None = None
        self.most = 0
        self.cancelled: list[str] = []
        self.closed = 0

    async def post(self, body: bytes) -> None:
        """
        Take an event.
        """
        name = body.decode()
        self.got.append((self.clock.seconds(), name))
        if self.waiting is not None:
            answer: Deferred[None] = Deferred(lambda _: self.cancelled.append(name))
            self.waiting[name] = answer
            self.most = max(self.most, len(self.waiting))
            try:
                await answer
            finally:
                self.waiting.pop(name, None)
        if self.error is not None or name in self.bad:
            raise OutboundError(self.error or "no, thanks")

    def answer(self, *names: str) -> None:
        """
        Answer some requests.
        """
        assert self.waiting is not None
        for name in names:
            self.waiting[name].callback(None)

    def close(self) -> Deferred[None]:
        """
        Close.
        """
        self.closed += 1
        return succeed(None)

    @property
    def names(self) -> list[str]:
        """
        What was tried.
        """
        return [name for _, name in self.got]


class WebhookCase(SynchronousTestCase):
    """
    A webhook between a fake store and a fake receiver.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.store = FakeStore(self.clock)
        self.receiver = FakeReceiver(self.clock)

    def begin(self, **options: Any) -> None:
        """
        Start.
        """
        self.webhook = Webhook(self.store, self.receiver, self.clock, Random(1), **options)
        self.webhook.start()

    def run_for(self, seconds: float, step: float = 0.05) -> None:
        """
        Let time pass.
        """
        for _ in range(round(seconds / step)):
            self.clock.advance(step)

    def stop(self) -> None:
        """
        Stop, and leave nothing behind.
        """
        stopped = self.webhook.stop()
        self.run_for(10)
        self.assertIsNone(self.successResultOf(stopped))
        self.assertEqual(self.clock.getDelayedCalls(), [])


class UnreadableTests(WebhookCase):
    """
    Events that can not be decrypted.
    """

    def setUp(self) -> None:
        super().setUp()
        self.store.write("D1", "one", "two")
        self.store.write("D2", "three")
        self.stream = self.store.streams["D1"]
        self.stream.events[0] = evolve(self.stream.events[0], unreadable="no key 1a")

    def test_waits(self) -> None:
        """
        It goes to nobody, what stands behind it waits, and others are delivered.
        """
        with capturedLogs() as logs:
            self.begin()
            self.run_for(100)
        self.assertEqual(self.receiver.names, ["three"])
        self.assertGreater(len(self.store.delays), 3)
        self.assertEqual([(one["id"], one["error"]) for one in logs], [("D1", "no key 1a")])
        self.stream.events[0] = evolve(self.stream.events[0], unreadable=None)
        self.run_for(900)
        self.assertEqual(self.receiver.names, ["three", "one", "two"])
        self.stop()

    def test_givenUp(self) -> None:
        """
        In the end it is kept apart like others.
        """
        self.begin(max_age=10)
        self.run_for(60)
        self.assertEqual(self.store.failed, [("one", "no key 1a")])
        self.assertEqual(self.receiver.names, ["three", "two"])
        self.stop()


class DeliveryTests(WebhookCase):
    """
    Delivering.
    """

    def test_whatIsThereAtTheStart(self) -> None:
        self.store.write("D1", "a", "b", "c")
        self.store.write("D2", "d")
        self.begin()
        self.run_for(0.1)
        self.assertEqual(self.receiver.names, ["a", "b", "c", "d"])
        self.assertEqual(self.store.names, [])
        [server] = self.store.servers
        self.assertNotEqual(server, "")
        self.stop()

    def test_wake(self) -> None:
        """
        What is new is told at once, and much of it costs one look.
        """
        self.begin()
        self.run_for(1)
        looks = len(self.store.claims)
        for number in range(10):
            self.store.write(f"D{number}", f"{number}")
            self.webhook.wake()
        self.run_for(0.1)
        self.assertEqual(len(self.receiver.got), 10)
        self.assertEqual(len(self.store.claims), looks + 1)
        self.stop()

    def test_wakeDuringALook(self) -> None:
        self.store.gate = Deferred()
        self.begin()
        self.run_for(0.1)
        self.webhook.wake()
        self.run_for(10)
        self.assertEqual(len(self.store.claims), 1)
        gate, self.store.gate = self.store.gate, None
        gate.callback(None)
        self.store.write("D1", "a")
        self.run_for(0.1)
        self.assertEqual(self.receiver.names, ["a"])
        self.stop()

    def test_poll(self) -> None:
        """
        What other servers leave is found, too.
        """
        self.begin()
        self.run_for(1)
        self.store.write("D1", "a")
        self.run_for(6.1)
        self.assertEqual(self.receiver.names, ["a"])
        self.run_for(60)
        times = [at for at, _ in self.store.claims]
        pauses = [b - a for a, b in pairwise(times)]
        self.assertTrue(all(3.9 < pause < 6.1 for pause in pauses[1:]), pauses)
        self.assertGreater(len(set(pauses)), 3)
        self.stop()

    def test_concurrency(self) -> None:
        """
        So many at once, each of another enrollment.
        """
        for number in range(40):
            self.store.write(f"D{number:02}", f"{number}a", f"{number}b")
        self.receiver.waiting = {}
        self.begin(concurrency=20)
        self.run_for(1)
        self.assertEqual(len(self.receiver.waiting), 20)
        self.assertTrue(all(name.endswith("a") for name in self.receiver.waiting))
        self.receiver.answer("0a")
        self.run_for(1)
        self.assertIn("0b", self.receiver.waiting)
        self.receiver.answer("0b")
        self.run_for(1)
        self.assertIn("20a", self.receiver.waiting)
        while self.receiver.waiting:
            self.receiver.answer(*list(self.receiver.waiting))
            self.run_for(0.1)
        self.assertEqual(self.receiver.most, 20)
        self.assertEqual(self.store.names, [])
        self.assertLessEqual(max(count for _, count in self.store.claims), 16)
        for number in range(40):
            mine = [n for n in self.receiver.names if n[:-1] == str(number)]
            self.assertEqual(mine, [f"{number}a", f"{number}b"])
        self.stop()

    def test_slowOnesDoNotStopOthers(self) -> None:
        for number in range(30):
            self.store.write(f"D{number:02}", f"{number}")
        self.receiver.waiting = {}
        self.begin(concurrency=4)
        self.run_for(0.1)
        for number in range(3, 30):
            self.receiver.answer(f"{number}")
            self.run_for(0.05)
        self.assertEqual(set(self.receiver.waiting), {"0", "1", "2"})
        self.receiver.answer("0", "1", "2")
        self.stop()
        self.assertEqual(self.store.names, [])

    def test_fairness(self) -> None:
        """
        An enrollment without end lets others have their turn.
        """
        self.store.write("A", *(f"a{number}" for number in range(250)))
        self.store.write("B", "b")
        self.begin(concurrency=1)
        self.run_for(5)
        names = self.receiver.names
        self.assertEqual(names.index("b"), 100)
        self.assertEqual([n for n in names if n != "b"], [f"a{number}" for number in range(250)])
        self.assertEqual(self.store.calls["postponed"], 2)
        self.stop()

    def test_noFairness(self) -> None:
        """
        Alone, it need not.
        """
        self.store.write("A", *(f"a{number}" for number in range(250)))
        self.begin(concurrency=2)
        self.run_for(1)
        self.assertEqual(len(self.receiver.got), 250)
        self.assertEqual(self.store.calls["postponed"], 0)
        self.stop()

    def test_leaseLost(self) -> None:
        """
        Another server has it: nothing more is done about it, or said.
        """
        self.store.write("D1", "a", "b")
        self.store.lost.add("D1")
        with capturedLogs() as logs:
            self.begin()
            self.run_for(1)
        self.assertEqual(self.receiver.names, ["a"])
        self.assertEqual(logs, [])
        self.stop()

    def test_deliveredButNotWritten(self) -> None:
        """
        Delivered once more when the lease has ended, and before what comes behind it.
        """
        self.store.write("D1", "a", "b")
        self.receiver.waiting = {}
        self.begin()
        self.run_for(0.1)
        self.store.error = StorageUnavailable("gone")
        with capturedLogs() as logs:
            self.receiver.answer("a")
        self.assertEqual(
            [log["log_format"] for log in logs], ["webhook event will be delivered once more"]
        )
        self.store.error = self.receiver.waiting = None
        self.run_for(70)
        self.assertEqual(self.receiver.names, ["a", "a", "b"])
        self.assertGreaterEqual(self.receiver.got[1][0], 60)
        self.stop()

    def test_storeAway(self) -> None:
        """
        It is asked less and less, by no wake-up more, and said so once.
        """
        self.store.error = StorageUnavailable("gone")
        with capturedLogs() as logs:
            self.begin()
            for _ in range(6000):
                self.run_for(0.1)
                self.webhook.wake()
        texts = [log["log_format"] for log in logs]
        self.assertEqual(texts, ["webhook events can not be read"])
        times = [at for at, _ in self.store.claims]
        pauses = [b - a for a, b in pairwise(times)]
        self.assertTrue(all(3.9 < pause < 73 for pause in pauses), pauses)
        self.assertTrue(all(pause > 47 for pause in pauses[5:]), pauses)
        self.store.error = None
        self.store.write("D1", "a")
        with capturedLogs() as logs:
            self.run_for(73)
        self.assertEqual([log["log_format"] for log in logs], ["webhook events can be read again"])
        self.assertEqual(self.receiver.names, ["a"])
        self.stop()

    def test_unexpectedErrors(self) -> None:
        """
        Even a bug does not end it.
        """
        self.store.error = RuntimeError("a bug")
        self.begin()
        self.run_for(1)
        self.store.error = None
        self.store.write("D1", "a", "b")
        self.run_for(70)
        self.assertEqual(self.receiver.names, ["a", "b"])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.stop()


class FailureTests(WebhookCase):
    """
    A receiver that does not take some events.
    """

    def test_backoff(self) -> None:
        """
        Exponential, with full jitter, up to a quarter of an hour; and what stands behind
        waits.
        """
        self.store.write("D1", "bad", "b")
        self.receiver.bad.add("bad")
        self.begin()
        self.run_for(DAY / 2, 1)
        delays = [delay for _, delay in self.store.delays]
        self.assertGreater(len(delays), 30)
        for number, delay in enumerate(delays):
            self.assertLessEqual(delay, min(2**number, 900))
        late = delays[10:]
        self.assertLess(min(late), 200)
        self.assertGreater(max(late), 700)
        self.assertEqual(set(self.receiver.names), {"bad"})
        # The first time soon, and later at the next poll if need be.
        times = [at for at, _ in self.receiver.got]
        waits = [b - a for a, b in pairwise(times)]
        self.assertLessEqual(waits[0], 3)
        for wait, delay in zip(waits, delays, strict=False):
            self.assertTrue(delay <= wait <= delay + 8)
        self.receiver.bad.clear()
        self.run_for(910, 1)
        self.assertEqual(self.receiver.names[-2:], ["bad", "b"])
        self.stop()

    def test_onceOnly(self) -> None:
        """
        After a single failure there is not much to wait for, whatever is looked for
        meanwhile.
        """
        self.store.write("D1", "a")
        self.receiver.error = "no"
        self.begin()
        self.run_for(0.1)
        self.receiver.error = None
        self.webhook.wake()
        self.run_for(2.5)
        self.assertEqual(self.receiver.names, ["a", "a"])
        self.stop()

    def test_others(self) -> None:
        """
        Nobody else waits.
        """
        self.store.write("D1", "bad")
        self.receiver.bad.add("bad")
        self.begin()
        for number in range(100):
            self.run_for(1)
            self.store.write("D2", str(number))
            self.webhook.wake()
        self.run_for(0.1)
        self.assertEqual(
            [name for name in self.receiver.names if name != "bad"],
            [str(number) for number in range(100)],
        )
        self.stop()

    def test_givenUp(self) -> None:
        """
        After the longest age, and what stands behind goes on at once.
        """
        body = '{"topic": "mdm.Connect", "event_id": "e1", "secret": "s3cret"}'
        self.store.write("D1", body, "b")
        self.receiver.bad.add(body)
        with capturedLogs() as logs:
            self.begin(max_age=3600)
            self.run_for(3700, 1)
        self.assertEqual(self.store.failed, [(body, "no, thanks")])
        last = max(at for at, name in self.receiver.got if name == body)
        self.assertTrue(3600 <= last < 3610, last)
        self.assertEqual(self.receiver.got[-1][1], "b")
        self.assertEqual(self.store.names, [])
        said = [(log["log_level"], log["log_format"]) for log in logs]
        self.assertEqual(
            said,
            [
                (LogLevel.warn, "webhook event not delivered, it will be tried again"),
                (LogLevel.error, "webhook event given up"),
            ],
        )
        for log in logs:
            self.assertEqual((log["id"], log["topic"]), ("D1", "mdm.Connect"))
            self.assertEqual((log["event_id"], log["error"]), ("e1", "no, thanks"))
            self.assertNotIn("s3cret", str(log))
        self.stop()

    def test_oldEventsAreTried(self) -> None:
        """
        Each event is tried, however long it had to wait for others.
        """
        self.store.write("D1", "bad", "b")
        self.receiver.bad.add("bad")
        self.begin(max_age=0)
        self.run_for(1)
        self.assertEqual(self.receiver.names, ["bad", "b"])
        self.assertEqual([name for name, _ in self.store.failed], ["bad"])
        self.stop()


class OutageTests(WebhookCase):
    """
    A receiver that takes nothing.
    """

    def write_many(self, count: int = 200) -> list[str]:
        """
        Write two events each for so many enrollments.
        """
        for number in range(count):
            self.store.write(f"D{number:03}", f"{number}a", f"{number}b")
        return self.store.names

    def test_outage(self) -> None:
        """
        It is asked ever more seldom, for one enrollment, and devices do not change that.
        """
        self.write_many()
        self.receiver.error = "gone"
        with capturedLogs() as logs:
            self.begin()
            self.run_for(0.5)
            self.assertEqual(len(self.receiver.got), 16)
            for _ in range(3600):
                self.run_for(1, 0.5)
                self.webhook.wake()
        # A few with single doubts, one for all.
        texts = Counter(log["log_format"] for log in logs)
        self.assertEqual(
            texts,
            {
                "webhook event not delivered, it will be tried again": 4,
                "webhook receiver fails, events wait for it": 1,
            },
        )
        tries = self.receiver.got[16:]
        self.assertTrue(60 < len(tries) < 140, len(tries))
        later = [at for at, _ in tries if at > 300]
        pauses = [b - a for a, b in pairwise(later)]
        self.assertTrue(all(29 < pause < 62 for pause in pauses), pauses)
        # So few writes, whatever waits.
        self.assertLess(self.store.calls["postponed"], 160)
        self.assertLess(self.store.calls["claim"], 160)
        self.assertEqual({count for at, count in self.store.claims if at > 1}, {1})
        # Nor do the enrollments that are tried wait for longer than that.
        self.assertLessEqual(max(delay for _, delay in self.store.delays), 1)
        self.stop()

    def test_end(self) -> None:
        """
        The first success ends it for all.
        """
        self.clock.advance(1000)
        names = self.write_many()
        self.receiver.error = "gone"
        self.begin()
        self.run_for(600, 0.5)
        self.receiver.error = None
        tried = len(self.receiver.got)
        with capturedLogs() as logs:
            while len(self.receiver.got) == tried:
                self.run_for(0.5, 0.1)
        [log] = logs
        self.assertEqual(log["log_format"], "webhook receiver takes events again")
        self.assertTrue(600 <= log["seconds"] <= 661, log)
        self.run_for(3)
        self.assertEqual(sorted(self.receiver.names[tried:]), sorted(names))
        self.assertEqual(self.store.names, [])
        self.stop()

    def test_single(self) -> None:
        """
        One enrollment alone is no sign of an outage, however often it fails.
        """
        self.store.write("D1", "bad")
        self.receiver.bad.add("bad")
        self.begin()
        self.run_for(1000, 1)
        self.assertGreater(len(self.receiver.got), 8)
        self.store.write("D2", "b")
        self.webhook.wake()
        self.run_for(0.1)
        self.assertEqual(self.receiver.names[-1], "b")
        self.stop()

    def test_hanging(self) -> None:
        """
        While requests hang, no others are begun.
        """
        self.write_many()
        self.receiver.waiting = {}
        self.begin()
        self.run_for(30)
        self.assertEqual(len(self.receiver.waiting), 16)
        self.receiver.error = "too slow"
        first, *others = list(self.receiver.waiting)
        self.receiver.answer(*others)
        self.run_for(10)
        # Nor does an attempt begin while one of the first is still under way.
        self.assertEqual(list(self.receiver.waiting), [first])
        self.receiver.answer(first)
        self.run_for(10)
        self.assertEqual(len(self.receiver.waiting), 1)
        self.receiver.answer(*self.receiver.waiting)
        self.stop()

    def test_givingUp(self) -> None:
        """
        In an outage all events of that age are given up together, untried, and none that
        is younger.
        """
        names = self.write_many()
        self.receiver.error = "gone"
        self.begin(max_age=600)
        self.run_for(400, 0.5)
        self.store.write("young", "young")
        self.run_for(265, 0.5)
        self.assertEqual(sorted(name for name, _ in self.store.failed), sorted(names))
        self.assertEqual({reason for _, reason in self.store.failed}, {"gone"})
        self.assertEqual(self.store.names, ["young"])
        self.assertNotIn("b", {name[-1] for name in self.receiver.names})
        self.assertLess(len(self.receiver.got), 60)
        # Then nothing more goes on than before.
        claims = len(self.store.claims)
        self.run_for(90, 0.5)
        self.assertLess(len(self.store.claims), claims + 5)
        self.run_for(400, 0.5)
        self.assertEqual(self.store.names, [])
        self.stop()

    def test_pause(self) -> None:
        """
        What was under way when the outage began does not make it look longer.
        """
        outage, random = Outage(), Random(1)
        for number in range(4):
            outage.failed(f"D{number}", 0, "gone", random)
            outage.failed(f"D{number}", 0, "gone", random)
            self.assertFalse(outage.on)
        for number in range(4, 20):
            outage.failed(f"D{number}", 0, "gone", random)
            self.assertTrue(outage.on)
            self.assertTrue(0.5 <= outage.until <= 1)
        pauses = []
        for _ in range(10):
            begun = outage.until
            outage.failed("D1", begun, "gone", random)
            pauses.append(outage.until - begun)
        for pause, longest in zip(pauses, (2, 4, 8, 16, 32, 60, 60, 60, 60, 60), strict=True):
            self.assertTrue(longest / 2 <= pause <= longest)
        self.assertGreater(len(set(pauses[-5:])), 3)
        self.assertTrue(outage.over())
        self.assertFalse(outage.over())
        self.assertFalse(outage.on)
        for number in range(5):
            outage.failed(f"D{number}", 5000, "gone", random)
        self.assertEqual(outage.since, 5000)
        self.assertTrue(5000.5 <= outage.until <= 5001)


class StopTests(WebhookCase):
    """
    Stopping.
    """

    def test_idle(self) -> None:
        self.begin()
        self.run_for(1)
        self.assertIsNone(self.successResultOf(self.webhook.stop()))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual((self.store.calls["release"], self.receiver.closed), (1, 1))
        self.webhook.wake()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_underWay(self) -> None:
        """
        It ends, and what would come next is let go of.
        """
        self.store.write("D1", "a", "b")
        self.receiver.waiting = {}
        self.begin()
        self.run_for(0.1)
        stopped = self.webhook.stop()
        self.run_for(1)
        self.assertNoResult(stopped)
        self.receiver.answer("a")
        self.assertIsNone(self.successResultOf(stopped))
        self.assertEqual((self.receiver.names, self.store.names), (["a"], ["b"]))
        self.assertEqual((self.store.streams["D1"].holder, self.store.calls["release"]), ("", 1))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_hanging(self) -> None:
        """
        It is given up, and comes again elsewhere.
        """
        self.store.write("D1", "a")
        self.receiver.waiting = {}
        with capturedLogs() as logs:
            self.begin()
            self.run_for(0.1)
            stopped = self.webhook.stop()
            self.run_for(3.1)
        self.assertIsNone(self.successResultOf(stopped))
        self.assertEqual((self.receiver.cancelled, self.store.names), (["a"], ["a"]))
        stream = self.store.streams["D1"]
        self.assertEqual((stream.holder, stream.attempts), ("", 0))
        self.assertLessEqual(stream.due, self.clock.seconds())
        self.assertEqual(logs, [])

    def test_failing(self) -> None:
        """
        What fails during the stop does not count.
        """
        self.store.write("D1", "a")
        self.receiver.waiting = {}
        self.begin(max_age=0)
        self.run_for(0.1)
        self.receiver.error = "gone"
        stopped = self.webhook.stop()
        with capturedLogs() as logs:
            self.receiver.answer("a")
        self.assertIsNone(self.successResultOf(stopped))
        self.assertEqual((self.store.failed, self.store.delays, logs), ([], [], []))
        self.assertEqual(self.store.streams["D1"].holder, "")

    def test_duringALook(self) -> None:
        """
        What that brings is let go of.
        """
        self.store.write("D1", "a")
        self.store.gate = Deferred()
        self.begin()
        self.run_for(0.1)
        stopped = self.webhook.stop()
        self.assertNoResult(stopped)
        self.store.gate.callback(None)
        self.assertIsNone(self.successResultOf(stopped))
        self.assertEqual((self.receiver.names, self.store.streams["D1"].holder), ([], ""))

    def test_storeHangs(self) -> None:
        self.store.gate = Deferred()
        self.begin()
        self.run_for(0.1)
        stopped = self.webhook.stop()
        self.run_for(3.1)
        self.assertIsNone(self.successResultOf(stopped))
        self.assertEqual(self.receiver.closed, 1)
        self.store.gate.addErrback(lambda failure: failure.trap(CancelledError))

    def test_storeAway(self) -> None:
        self.begin()
        self.run_for(0.1)
        self.store.error = StorageUnavailable("gone")
        with capturedLogs() as logs:
            self.assertIsNone(self.successResultOf(self.webhook.stop()))
        [log] = logs
        self.assertEqual(log["log_format"], "webhook events are only let go of with time")

    def test_again(self) -> None:
        """
        Who is stopped twice ends twice.
        """
        self.begin()
        self.assertIsNone(self.successResultOf(self.webhook.stop()))
        self.assertIsNone(self.successResultOf(self.webhook.stop()))


class BacklogTests(SynchronousTestCase):
    """
    L{BacklogWatch}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.backlog: Backlog | Exception = Backlog(0, None, 0)
        self.watch = BacklogWatch(self, self.clock)
        self.watch.start()
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))
        self.addCleanup(lambda: self.successResultOf(self.watch.stop()))

    def event_backlog(self) -> Deferred[Backlog]:
        """
        See L{nanomdm.interfaces.IEventStore.event_backlog}.
        """
        if isinstance(self.backlog, Exception):
            return fail(self.backlog)
        return succeed(self.backlog)

    def said(self, backlog: Backlog | Exception) -> list[dict[str, Any]]:
        """
        @return: what is logged within the next minute.
        """
        self.backlog = backlog
        with capturedLogs() as logs:
            self.clock.advance(60)
        return logs

    def test_late(self) -> None:
        self.assertEqual(self.said(Backlog(3, 59, 0)), [])
        for _ in range(2):
            [log] = self.said(Backlog(3, 60, 0))
            self.assertEqual(log["log_format"], "webhook backlog")
            self.assertEqual((log["waiting"], log["oldest"], log["failed"]), (3, 60, 0))

    def test_givenUp(self) -> None:
        """
        Said when there are more, not for ever.
        """
        [log] = self.said(Backlog(0, None, 2))
        self.assertEqual((log["waiting"], log["oldest"], log["failed"]), (0, 0, 2))
        self.assertEqual(self.said(Backlog(0, None, 2)), [])
        self.assertEqual(len(self.said(Backlog(0, None, 3))), 1)
        self.assertEqual(self.said(Backlog(0, None, 1)), [])

    def test_notCounted(self) -> None:
        [log] = self.said(StorageUnavailable("gone"))
        self.assertEqual(log["error"], "gone")
        self.assertEqual(len(self.said(Backlog(3, 60, 0))), 1)
        self.said(RuntimeError("a bug"))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(len(self.said(Backlog(3, 60, 0))), 1)
