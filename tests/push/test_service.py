"""
Tests for L{nanomdm.push.service}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from nanomdm.errors import Overloaded, StorageError, StorageUnavailable
from nanomdm.interfaces import DeadToken, IPusher, PushResult
from nanomdm.push.notification import ConnectionFailed, ConnectionLost, Notification
from nanomdm.push.service import PushService
from tests.push.fakes import (
    GOAWAY,
    NOW,
    TOPIC,
    FakeConnection,
    FakeConnector,
    FakeStore,
    FixedRandom,
    stored,
)

OTHER = "com.apple.mgmt.External.other"
STOPPING = PushResult(error="the server is stopping")

Results = Deferred[Mapping[str, PushResult]]


class ServiceCase(SynchronousTestCase):
    """
    A service with one topic's certificate, whose connections open at once.

    @ivar limit: of streams.
    """

    limit = 10
    connections = 1
    schedule = True

    def setUp(self) -> None:
        self.clock = Clock()
        self.store = FakeStore(certificates={TOPIC: stored()})
        self.connector = FakeConnector()
        self.connector.at_once = self.limit
        self.random = FixedRandom()
        self.service = PushService(
            self.store,
            self.connector,
            self.clock,
            expiration=3600,
            connections=self.connections,
            schedule=self.schedule,
            now=lambda: NOW,
            random=self.random,
        )

    def turn(self) -> None:
        """
        Let the reactor do what can be done now.
        """
        while any(call.getTime() <= self.clock.seconds() for call in self.clock.getDelayedCalls()):
            self.clock.advance(0)

    def push(self, *ids: str, **how: bool) -> Results:
        """
        Push, as far as it goes at once.
        """
        results = self.service.push(ids, **how)
        self.turn()
        return results

    @property
    def connection(self) -> FakeConnection:
        """
        The newest connection.
        """
        return self.connector.connections[-1]

    def answer(self, status: int = 200, count: int = 1, **fields: Any) -> None:
        """
        Answer the oldest push.
        """
        self.connection.answer(status, count, **fields)
        self.turn()

    def answer_all(self, status: int = 200, **fields: Any) -> int:
        """
        Answer until nobody waits for an answer.

        @return: how many answers that were.
        """
        count = 0
        while self.connection.waiting:
            count += len(self.connection.waiting)
            self.answer(status, len(self.connection.waiting), **fields)
        return count

    def quiet(self) -> None:
        """
        Check that nothing is left over.
        """
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.service._under_way, {})
        self.assertEqual(self.service._calls, set())
        for provider in self.service._topics._providers.values():
            self.assertEqual(len(provider._line), 0)
            if not self.service._stopping:
                self.assertEqual(provider.room.taken, 0)


def ids(count: int, begin: int = 0) -> list[str]:
    """
    @return: distinct ids.
    """
    return [f"id-{number:06}" for number in range(begin, begin + count)]


class PushTests(ServiceCase):
    """
    Ids and their results.
    """

    def test_interface(self) -> None:
        verifyObject(IPusher, self.service)

    def test_success(self) -> None:
        self.store.add("a", "b")
        results = self.push("a", "b")
        self.assertEqual(self.store.lookups, [(["a", "b"], True)])
        self.assertEqual(
            [sent.notification for sent in self.connection.waiting],
            [
                Notification(token, TOPIC, payload, int(NOW.timestamp()) + 3600)
                for token, payload in (
                    ("61", b'{"mdm":"magic of a"}'),
                    ("62", b'{"mdm":"magic of b"}'),
                )
            ],
        )
        self.answer()
        self.assertNoResult(results)
        self.answer()
        expected = {"a": PushResult(id="id-61"), "b": PushResult(id="id-62")}
        self.assertEqual(self.successResultOf(results), expected)
        self.quiet()

    def test_nothing(self) -> None:
        self.assertEqual(self.successResultOf(self.push()), {})

    def test_twice(self) -> None:
        """
        An id that is there twice counts once.
        """
        self.store.add("a")
        results = self.push("a", "a")
        self.assertEqual(self.answer_all(), 1)
        self.assertEqual(self.successResultOf(results), {"a": PushResult(id="id-61")})

    def test_notPushedTo(self) -> None:
        self.store.add("disabled", enabled=False)
        self.store.add("dead", dead=DeadToken(410, "Unregistered"))
        self.store.add("odd", token_hex="abc")
        self.store.add("path", token_hex="../..")
        self.store.add("empty", token_hex="")
        not_hex = PushResult(error="the push token is not hexadecimal")
        expected = {
            "unknown": PushResult(error="unknown enrollment id"),
            "disabled": PushResult(error="enrollment is disabled"),
            "dead": PushResult(
                error="the push token is dead: APNs answered 410 Unregistered",
                status=410,
                reason="Unregistered",
            ),
            **dict.fromkeys(("odd", "path", "empty"), not_hex),
        }
        self.assertEqual(self.successResultOf(self.push(*expected)), expected)
        self.assertEqual(self.connector.certificates, [])
        self.quiet()

    def test_force(self) -> None:
        self.store.add("dead", dead=DeadToken(410, "Unregistered"))
        results = self.push("dead", force=True)
        self.answer()
        self.assertIsNone(self.successResultOf(results)["dead"].error)

    def test_forceIsNotForDisabled(self) -> None:
        self.store.add("a", enabled=False)
        self.assertIn("disabled", str(self.successResultOf(self.push("a", force=True))["a"]))

    def test_again(self) -> None:
        """
        The schedule is not begun anew by the schedule.
        """
        self.store.add("a")
        self.push("a", again=True)
        self.assertEqual(self.store.lookups, [(["a"], False)])

    def test_mixed(self) -> None:
        self.store.add("a", "c")
        results = self.push("a", "b", "c")
        self.answer(410, reason="Unregistered")
        self.answer()
        self.assertEqual(
            self.successResultOf(results),
            {
                "a": PushResult(
                    error="APNs answered 410 Unregistered", status=410, reason="Unregistered"
                ),
                "b": PushResult(error="unknown enrollment id"),
                "c": PushResult(id="id-63"),
            },
        )

    def test_logs(self) -> None:
        """
        One line for all, and what failed only for who wants to know.
        """
        self.store.add("a", "b")
        with capturedLogs() as logs:
            results = self.push("a", "b", "unknown")
            self.clock.advance(2)
            self.answer_all()
            self.successResultOf(results)
        [event] = [each for each in logs if each["log_format"] == "pushed"]
        fields = {name: event[name] for name in ("ids", "pushed", "failed", "seconds")}
        self.assertEqual(fields, {"ids": 3, "pushed": 2, "failed": 1, "seconds": 2})
        self.assertIs(event["log_level"], LogLevel.info)
        [failed] = [each for each in logs if each["log_format"] == "push failed"]
        self.assertIs(failed["log_level"], LogLevel.debug)
        self.assertNotIn("magic of", repr(logs))


class ScheduleTests(ServiceCase):
    """
    Without further pushes.
    """

    schedule = False

    def test_notScheduled(self) -> None:
        self.store.add("a")
        self.push("a")
        self.assertEqual(self.store.lookups, [(["a"], False)])


class TopicTests(ServiceCase):
    """
    Several topics, and what is wrong with one.
    """

    def test_several(self) -> None:
        """
        Each over its own connection, none in the way of another.
        """
        self.store.certificates[OTHER] = stored(OTHER)
        some, others = self.store.add(*ids(50)), self.store.add(*ids(50, 50), topic=OTHER)
        results = self.push(*some, *others)
        first, second = self.connector.connections
        self.assertEqual((first.most, second.most), (10, 10))
        while second.waiting:
            second.answer()
            self.turn()
        self.assertEqual(len(second.sent), 50)
        self.assertEqual(len(first.sent), 10)
        while first.waiting:
            first.answer()
            self.turn()
        self.assertEqual({each.error for each in self.successResultOf(results).values()}, {None})

    def test_noCertificate(self) -> None:
        self.store.add("a", topic=OTHER, stale_token=None)
        self.store.add("b", topic=OTHER)
        self.store.add("c")
        results = self.push("a", "b", "c")
        self.answer()
        error = PushResult(error=f"no push certificate for topic {OTHER}")
        expected = {"a": error, "b": error, "c": PushResult(id="id-63")}
        self.assertEqual(self.successResultOf(results), expected)

    def test_certificateCanNotBeFetched(self) -> None:
        """
        By one topic, which is tried again at the next push.
        """
        self.store.add("a")
        errors: list[Any] = [StorageUnavailable("away"), Failure(StorageUnavailable("away"))]
        for error in errors:
            self.store.errors["push_certificate"] = error
            result = self.successResultOf(self.push("a"))
            self.assertEqual(result, {"a": PushResult(error="storage unavailable")})
        self.store.errors.clear()
        results = self.push("a")
        self.answer()
        self.assertEqual(self.successResultOf(results), {"a": PushResult(id="id-61")})

    def test_bug(self) -> None:
        self.store.add("a")
        self.store.errors["push_certificate"] = ZeroDivisionError("oops")
        result = self.successResultOf(self.push("a"))
        self.assertEqual(result, {"a": PushResult(error="internal error")})
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_replacedCertificate(self) -> None:
        self.store.add("a", "b")
        results = [self.push("a")]
        old = self.connection
        self.store.certificates[TOPIC] = stored(TOPIC, 1)
        self.store.add("b", stale_token=1)
        results.append(self.push("b"))
        self.assertEqual(len(self.connector.connections), 2)
        self.assertEqual(self.connection.sent, ["62"])
        old.answer()
        self.answer()
        for each in results:
            self.assertNotIn("error='", str(self.successResultOf(each)))
        self.assertTrue(old.closed)
        self.assertEqual(len(self.store.fetches), 2)

    def test_refused(self) -> None:
        """
        All others fail without being sent.
        """
        results = self.push(*self.store.add(*ids(5000)))
        self.answer(403, reason="BadCertificate")
        self.answer_all()
        errors = [result.error for result in self.successResultOf(results).values()]
        refused = f"APNs refuses the push certificate of topic {TOPIC}: 403 BadCertificate"
        self.assertEqual(errors.count("APNs answered 403 BadCertificate"), 1)
        self.assertEqual(errors.count(refused), 4990)
        self.assertEqual(errors.count(None), 9)
        self.quiet()

    def test_unreachable(self) -> None:
        """
        30 seconds, however many there are.
        """
        self.connector.at_once = ConnectionFailed("connection refused")
        results = self.push(*self.store.add(*ids(5000)))
        while not results.called:
            self.assertLess(self.clock.seconds(), 31)
            self.clock.advance(0.1)
        errors = {result.error for result in self.successResultOf(results).values()}
        self.assertLessEqual(
            errors,
            {
                "APNs can not be reached: connection refused",
                "no answer from APNs within 30 seconds:"
                " APNs can not be reached: connection refused",
            },
        )
        self.quiet()


class RoomTests(ServiceCase):
    """
    How much is under way.

    @ivar most: how much there ever was.
    """

    def setUp(self) -> None:
        super().setUp()
        self.most = 0
        start = self.service._start

        def count(*arguments: Any) -> None:
            start(*arguments)
            self.most = max(self.most, len(self.service._under_way))

        self.service._start = count  # type: ignore[method-assign]

    def check(self, count: int, most: int) -> None:
        """
        Push to many, and check how many there are under way.
        """
        results = self.push(*self.store.add(*ids(count)))
        self.assertEqual(len(self.connection.waiting), self.connection.limit)
        for _ in range(count - self.connection.limit):
            self.answer()
            # No stream ever idles.
            self.assertEqual(len(self.connection.waiting), self.connection.limit)
            self.assertLessEqual(len(self.service._under_way), most)
        self.answer_all()
        self.assertEqual(len(self.successResultOf(results)), count)
        self.assertEqual(self.connection.most, self.connection.limit)
        self.assertLessEqual(self.most, most)
        self.quiet()

    def prepare(self, limit: int) -> None:
        """
        Have a connection with that limit.
        """
        self.connector.at_once = limit
        self.store.add("first")
        self.push("first")
        self.answer()
        self.most = 0

    def test_one(self) -> None:
        self.prepare(1)
        self.check(100, 2)

    def test_ten(self) -> None:
        self.prepare(10)
        self.check(1234, 20)

    def test_thousand(self) -> None:
        self.prepare(1000)
        self.check(1500, 1100)

    def test_notAhead(self) -> None:
        """
        Targets are looked up for the chunk that is being started and the next.
        """
        self.prepare(10)
        self.store.lookups.clear()
        self.push(*self.store.add(*ids(5000)))
        self.assertEqual([len(looked) for looked, _ in self.store.lookups], [500, 500])
        self.answer(count=10)
        for _ in range(48):
            self.answer(count=10)
        self.assertEqual(len(self.store.lookups), 3)

    def test_backoff(self) -> None:
        """
        Pushes that wait do not keep others from going, up to a thousand.
        """
        self.prepare(10)
        self.push(*self.store.add(*ids(5000)))
        self.random.value = 1.0
        while self.connection.waiting:
            self.answer(429, retry_after="20")
        self.assertEqual(self.most, 1020)
        self.assertEqual(len(self.connection.sent), 1021)
        self.clock.advance(20)
        self.turn()
        self.assertEqual(len(self.connection.waiting), 10)
        self.assertEqual(len(self.service._under_way), 1020)

    def test_fairness(self) -> None:
        """
        A call with one id is not behind a call with many.
        """
        self.prepare(10)
        many = self.push(*self.store.add(*ids(3000)))
        self.store.add("single")
        single = self.push("single")
        for _ in range(25):
            self.answer()
        self.successResultOf(single)
        self.assertNoResult(many)

    def test_severalCalls(self) -> None:
        """
        All get on alike.
        """
        self.prepare(10)
        calls = [self.push(*self.store.add(*ids(200, 1000 * number))) for number in range(4)]
        for _ in range(400):
            self.answer()
        sent = [bytes.fromhex(token).decode() for token in self.connection.sent]
        counts = [sum(id.startswith(f"id-00{number}") for id in sent) for number in range(4)]
        self.assertLess(max(counts) - min(counts), 45)
        self.answer_all()
        for each in calls:
            self.assertEqual(len(self.successResultOf(each)), 200)

    def test_slices(self) -> None:
        """
        Starting pushes lets the reactor go on after 10 ms.
        """
        self.prepare(1000)
        turns: list[int] = []
        call_later, start = self.clock.callLater, self.service._start

        def later(delay: float, *more: Any) -> Any:
            if not delay:
                turns.append(0)
            return call_later(delay, *more)

        def slow(*arguments: Any) -> None:
            turns[-1] += 1
            self.clock.rightNow += 0.001
            start(*arguments)

        self.service._start = slow  # type: ignore[method-assign]
        self.clock.callLater = later  # type: ignore[method-assign]
        self.push(*self.store.add(*ids(200)))
        self.assertEqual(sum(turns), 200)
        self.assertLessEqual(max(turns), 11)


class MergeTests(ServiceCase):
    """
    The same push for several calls.
    """

    def test_merged(self) -> None:
        self.store.add("a", "b")
        first, second = self.push("a"), self.push("b", "a")
        self.assertEqual(self.connection.sent, ["61", "62"])
        self.answer()
        self.assertEqual(self.successResultOf(first), {"a": PushResult(id="id-61")})
        self.answer()
        self.assertEqual(self.successResultOf(second)["a"], PushResult(id="id-61"))
        third = self.push("a")
        self.assertEqual(len(self.connection.sent), 3)
        self.answer()
        self.successResultOf(third)
        self.quiet()

    def test_scheduled(self) -> None:
        """
        What was merged is in the schedule all the same.
        """
        self.store.add("a")
        self.push("a")
        self.push("a")
        self.assertEqual(self.store.lookups, [(["a"], True)] * 2)

    def test_afterWaiting(self) -> None:
        """
        Both wait for room, one gets it, the other gives it back.
        """
        blocked = self.push(*self.store.add(*ids(20)))
        self.store.add("a", "b")
        waiting = [self.push("a"), self.push("a"), self.push("b")]
        self.answer(count=3)
        self.answer_all()
        self.assertEqual(len(self.connection.sent), 22)
        for each in [blocked, *waiting]:
            self.successResultOf(each)
        self.quiet()

    def test_newToken(self) -> None:
        """
        Another token, or another magic, is another push.
        """
        self.store.add("a")
        results = [self.push("a")]
        self.store.add("a", token_hex="bb")
        results.append(self.push("a"))
        self.store.add("a", token_hex="bb", push_magic="new")
        results.append(self.push("a"))
        self.assertEqual(self.connection.sent, ["61", "bb", "bb"])
        self.answer_all()
        for each in results:
            self.assertIsNone(self.successResultOf(each)["a"].error)
        self.quiet()

    def test_failure(self) -> None:
        self.store.add("a")
        results = [self.push("a") for _ in range(3)]
        self.answer(400, reason="BadDeviceToken")
        for each in results:
            self.assertEqual(self.successResultOf(each)["a"].status, 400)
        self.assertEqual(self.store.forgotten, [["a"]])


class AftermathTests(ServiceCase):
    """
    What is written of bad tokens.
    """

    def test_written(self) -> None:
        self.store.add("a", "b", "c", "d", "e")
        results = self.push("a", "b", "c", "d", "e")
        self.answer(410, reason="Unregistered", timestamp=NOW.timestamp() - 5)
        self.answer(410, reason="Unregistered")
        self.answer(400, reason="BadDeviceToken")
        self.answer(400, reason="BadTopic")
        self.answer()
        self.successResultOf(results)
        [buried] = self.store.buried
        self.assertEqual((buried.id, buried.ago), ("a", 5))
        self.assertEqual(self.store.forgotten, [["b"], ["c"]])

    def test_writtenFirst(self) -> None:
        """
        The result is told when it is written, and the push has its place until
        then but no stream.
        """
        self.store.hold.add("bury_push_token")
        results = self.push(*self.store.add(*ids(30)))
        self.answer(410, count=10, timestamp=NOW.timestamp())
        self.assertEqual(len(self.connection.waiting), 10)
        self.answer(410, count=10, timestamp=NOW.timestamp())
        self.assertEqual(len(self.connection.waiting), 0)
        for _ in range(20):
            self.store.release("bury_push_token")
            self.turn()
        self.answer_all()
        self.successResultOf(results)
        self.quiet()

    def test_storageFails(self) -> None:
        self.store.add("a", "b")
        self.store.errors = {
            "bury_push_token": Failure(StorageError("away")),
            "forget_pushes": Overloaded("full"),
        }
        results = self.push("a", "b")
        self.answer(410, timestamp=NOW.timestamp())
        self.answer(400, reason="BadDeviceToken")
        self.assertEqual(
            [result.status for result in self.successResultOf(results).values()], [410, 400]
        )
        self.quiet()


class StorageTests(ServiceCase):
    """
    A storage that fails to look up targets.
    """

    def fail(self, *numbers: int, error: Exception | Failure) -> None:
        """
        Fail the lookups with these numbers, from 0.
        """
        look_up = self.store.push_targets

        def push_targets(ids: Any, schedule: bool) -> Any:
            number = len(self.store.lookups)
            self.store.errors = {"push_targets": error} if number in numbers else {}
            return look_up(ids, schedule)

        self.store.push_targets = push_targets  # type: ignore[method-assign]

    store: Any

    def test_nothingPushedYet(self) -> None:
        errors: list[Any] = [Overloaded("full"), Failure(StorageUnavailable("away"))]
        for error in errors:
            self.setUp()
            self.fail(0, error=error)
            results = self.push(*self.store.add(*ids(2000)))
            self.failureResultOf(results, Overloaded, StorageUnavailable)
            self.assertEqual(len(self.store.lookups), 1)
            self.quiet()

    def test_later(self) -> None:
        """
        Only the ids of that chunk fail.
        """
        texts: list[tuple[Any, str]] = [
            (Overloaded("full"), "full"),
            # What a database says is not for clients.
            (Failure(StorageUnavailable("database: full")), "storage unavailable"),
        ]
        for error, text in texts:
            self.setUp()
            self.fail(1, 3, error=error)
            results = self.push(*self.store.add(*ids(2400)))
            self.answer_all()
            outcome = self.successResultOf(results)
            failed = [id for id in outcome if outcome[id].error]
            self.assertEqual(failed, [*ids(500, 500), *ids(500, 1500)])
            self.assertEqual({outcome[id].error for id in failed}, {text})
            self.quiet()

    def test_bug(self) -> None:
        self.fail(1, error=Failure(ZeroDivisionError("oops")))
        results = self.push(*self.store.add(*ids(501)))
        self.answer_all()
        last = PushResult(error="internal error")
        self.assertEqual(self.successResultOf(results)["id-000500"], last)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_tooManyCalls(self) -> None:
        self.store.hold.add("push_targets")
        self.store.add("a")
        calls = [self.push("a") for _ in range(1000)]
        self.failureResultOf(self.push("a"), Overloaded)
        for _ in range(1000):
            self.store.release("push_targets")
        self.store.hold.clear()
        self.turn()
        self.answer()
        for each in calls:
            self.successResultOf(each)
        self.push("a")
        self.answer()
        self.quiet()


class StopTests(ServiceCase):
    """
    The end, at each place.
    """

    def stop(self) -> Deferred[None]:
        """
        Stop.
        """
        stopping = self.service.stop()
        self.turn()
        return stopping

    def test_idle(self) -> None:
        self.successResultOf(self.stop())
        self.store.add("a")
        self.assertEqual(self.successResultOf(self.push("a")), {"a": STOPPING})
        self.successResultOf(self.stop())

    def test_underWay(self) -> None:
        """
        With some answered, some sent, some in backoff, some ready, and the others
        waiting.
        """
        results = self.push(*self.store.add(*ids(3000)))
        self.answer(count=5)
        self.answer(503, count=3)
        stopping = self.stop()
        outcome = self.successResultOf(results)
        self.assertEqual(len(outcome), 3000)
        self.assertEqual(sum(result == STOPPING for result in outcome.values()), 2995)
        self.assertEqual(len(self.connection.cancelled), 10)
        self.successResultOf(stopping)
        self.quiet()

    def test_connecting(self) -> None:
        self.connector.at_once = None
        self.store.add("a")
        results = self.push("a")
        self.successResultOf(self.stop())
        self.assertEqual(self.successResultOf(results), {"a": STOPPING})
        self.assertEqual(self.connector.cancelled, 1)
        self.quiet()

    def test_unreachable(self) -> None:
        self.connector.at_once = ConnectionFailed("refused")
        results = self.push(*self.store.add(*ids(1000)))
        self.successResultOf(self.stop())
        self.assertEqual(set(self.successResultOf(results).values()), {STOPPING})
        self.quiet()

    def test_lookingUp(self) -> None:
        for method in ("push_targets", "push_certificate"):
            self.setUp()
            self.store.add("a")
            self.store.hold.add(method)
            results = self.push("a")
            stopping = self.stop()
            self.assertEqual(self.successResultOf(results), {"a": STOPPING})
            self.assertNoResult(stopping)
            self.store.release(method)
            self.turn()
            self.successResultOf(stopping)
            self.assertEqual(self.connector.certificates, [])
            self.quiet()

    def test_lookUpFailsAfterwards(self) -> None:
        self.store.hold.add("push_targets")
        results = self.push("a")
        stopping = self.stop()
        self.store.errors["push_targets"] = Failure(StorageUnavailable("closed"))
        self.store.release("push_targets")
        self.assertEqual(self.successResultOf(results), {"a": STOPPING})
        self.successResultOf(stopping)

    def test_writing(self) -> None:
        """
        The true result is known, so it is told; and the write is waited for.
        """
        self.store.add("a")
        self.store.hold.add("bury_push_token")
        results = self.push("a")
        self.answer(410, timestamp=NOW.timestamp())
        stopping = self.stop()
        self.assertEqual(self.successResultOf(results)["a"].status, 410)
        self.assertNoResult(stopping)
        self.store.release("bury_push_token")
        self.successResultOf(stopping)
        self.quiet()


class LossTests(ServiceCase):
    """
    Connections that end under many pushes.
    """

    def test_goaway(self) -> None:
        """
        Everything unanswered is sent again, once, and nothing else.
        """
        results = self.push(*self.store.add(*ids(100)))
        first = self.connection
        self.answer()
        self.connector.at_once = None
        first.lose(GOAWAY)
        self.connector.open(self.limit)
        self.assertEqual(self.connection.sent, first.sent[1:])
        self.answer_all()
        self.assertEqual({each.error for each in self.successResultOf(results).values()}, {None})
        self.assertEqual(len(self.connection.sent), 99)

    def test_flapping(self) -> None:
        """
        Every id has a result although no connection ever answers.
        """
        results = self.push(*self.store.add(*ids(300)))
        while not results.called:
            self.assertLess(self.clock.seconds(), 61)
            if self.connection.usable:
                self.connection.lose(ConnectionLost("the connection broke"))
            self.clock.advance(0.1)
            self.turn()
        outcome = self.successResultOf(results)
        self.assertEqual(len(outcome), 300)
        for result in outcome.values():
            self.assertIn("the connection broke", str(result.error))
        self.quiet()
