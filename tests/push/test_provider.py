"""
Tests for L{nanomdm.push.provider}.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.interfaces import PushResult
from nanomdm.push.notification import ConnectionFailed, ConnectionLost
from tests.push.fakes import (
    GOAWAY,
    NOW,
    TOPIC,
    FakeConnection,
    FakeConnector,
    FakePush,
    certificate,
    make_provider,
)

REFUSED = ConnectionFailed("connection refused")
BAD = ConnectionFailed("alert: unknown ca", refused=True)
UNREACHABLE = PushResult(error="APNs can not be reached: connection refused")


class ProviderCase(SynchronousTestCase):
    """
    A provider with a connector that does what a test says.
    """

    connections = 1

    def setUp(self) -> None:
        self.clock = Clock()
        self.now = NOW
        self.connector = FakeConnector()
        self.provider = make_provider(
            self.connector, self.clock, self.connections, lambda: self.now
        )
        self.random: Any = self.provider.random
        self.pushes: list[FakePush] = []

    def submit(self, count: int = 1, again: bool = False) -> list[FakePush]:
        """
        Submit some pushes.
        """
        pushes = [FakePush(len(self.pushes) + number) for number in range(count)]
        self.pushes += pushes
        for push in pushes:
            self.provider.submit(push, again)
        return pushes

    def connected(self, limit: int = 10) -> FakeConnection:
        """
        @return: a connection that has answered something.
        """
        self.submit()
        connection = self.connector.open(limit)
        connection.answer()
        return connection

    def events(self, logs: Any, level: LogLevel) -> list[dict[str, Any]]:
        """
        @return: what was logged with that level, without what the logger adds.
        """
        names = ("log_format", "reason", "topic", "streams", "since")
        return [
            {name: event[name] for name in names if name in event}
            for event in logs
            if event["log_level"] is level
        ]

    def unreachable(self) -> None:
        """
        Try for 30 seconds, and longer until the attempt fails.
        """
        self.connector.at_once = REFUSED
        self.submit()
        for _ in range(300):
            self.clock.advance(0.1)


class ConnectionTests(ProviderCase):
    """
    When connections are opened.
    """

    def test_whenFirstNeeded(self) -> None:
        self.assertEqual(self.connector.certificates, [])
        [push] = self.submit()
        self.assertEqual(self.connector.certificates, [certificate()])
        self.assertIsNone(push.stream)
        connection = self.connector.open()
        self.assertEqual(connection.sent, ["00000000"])
        connection.answer()
        self.assertEqual([answer.status for answer in push.answers], [200])

    def test_longLived(self) -> None:
        connection = self.connected()
        self.clock.advance(100_000)
        self.submit()
        self.assertEqual(len(connection.waiting), 1)
        self.assertEqual(len(self.connector.certificates), 1)

    def test_oneAttemptAtATime(self) -> None:
        self.submit(100)
        self.assertEqual(len(self.connector.attempts), 1)

    def test_saturated(self) -> None:
        """
        As many as there are streams, all the time.
        """
        self.submit(1)
        connection = self.connector.open(10)
        self.submit(49)
        for _ in range(40):
            self.assertEqual(len(connection.waiting), 10)
            connection.answer()
        self.assertEqual(connection.most, 10)
        connection.answer(count=10)
        self.assertEqual(connection.sent, [f"{number:08x}" for number in range(50)])

    def test_retriesFirst(self) -> None:
        self.submit()
        connection = self.connector.open(1)
        first = self.submit(2)
        again = self.submit(2, again=True)
        for _ in range(5):
            connection.answer()
        order = [*again, *first]
        self.assertEqual(connection.sent[1:], [push.notification.token for push in order])

    def test_lostIsNotReopened(self) -> None:
        connection = self.connected()
        connection.lose()
        self.clock.advance(1000)
        self.assertEqual(len(self.connector.certificates), 1)
        self.submit()
        self.assertEqual(len(self.connector.certificates), 2)

    def test_lostWithWaiters(self) -> None:
        """
        What waited for a stream gets one on the next connection.
        """
        connection = self.connected(2)
        pushes = self.submit(5)
        connection.lose(GOAWAY)
        self.assertEqual([len(push.losses) for push in pushes], [1, 1, 0, 0, 0])
        connection = self.connector.open()
        self.assertEqual(connection.sent, [push.notification.token for push in pushes[2:]])

    def test_paused(self) -> None:
        """
        A peer that does not read gets nothing, until it does.
        """
        connection = self.connected()
        connection.paused = True
        self.submit(3)
        self.assertEqual(connection.waiting, [])
        connection.paused = False
        connection.changed()
        self.assertEqual(len(connection.waiting), 3)

    def test_limitChanges(self) -> None:
        self.submit()
        connection = self.connector.open(5)
        self.submit(99)
        self.assertEqual(len(connection.waiting), 5)
        connection.allow(20)
        self.assertEqual(len(connection.waiting), 20)
        connection.allow(1)
        connection.answer(count=19)
        self.assertEqual(len(connection.waiting), 1)
        self.assertEqual(len(connection.sent), 20)
        connection.answer()
        self.assertEqual(len(connection.sent), 21)
        connection.allow(0)
        connection.answer()
        self.assertEqual(len(connection.waiting), 0)
        connection.allow(1000)
        self.assertEqual(len(connection.sent), 100)

    def test_withdrawn(self) -> None:
        pushes = self.submit(3)
        self.provider.withdraw(pushes[1])
        self.provider.withdraw(pushes[1])
        self.assertEqual(self.connector.open().sent, ["00000000", "00000002"])

    def test_endedBeforeItWasUsed(self) -> None:
        """
        A connection that is gone when it has been opened.
        """
        self.submit()
        connection = FakeConnection(10)
        connection.lost = ConnectionLost("at once")
        self.connector.attempts.pop().callback(connection)
        self.assertEqual(connection.sent, [])
        self.clock.advance(0.5)
        self.assertEqual(self.connector.open().sent, ["00000000"])


class SeveralConnectionsTests(ProviderCase):
    """
    More than one connection.
    """

    connections = 3

    def test_usedUp(self) -> None:
        self.submit()
        first = self.connector.open(2)
        self.submit()
        self.assertEqual(len(self.connector.certificates), 1)
        self.submit(10)
        self.assertEqual(len(self.connector.certificates), 2)
        self.assertEqual(len(self.connector.attempts), 1)
        second = self.connector.open(3)
        self.assertEqual((len(first.waiting), len(second.waiting)), (2, 3))
        third = self.connector.open(4)
        self.assertEqual(len(third.waiting), 4)
        self.assertEqual(len(self.connector.certificates), 3)
        self.assertEqual(self.provider.room._capacity(), 18)
        second.answer(count=2)
        self.assertEqual((len(first.waiting), len(second.waiting)), (2, 3))

    def test_pausedIsNotUsedUp(self) -> None:
        connection = self.connected(2)
        connection.paused = True
        self.submit()
        self.assertEqual(len(self.connector.certificates), 1)

    def test_furtherFails(self) -> None:
        """
        That there is no second one is not that APNs can not be reached.
        """
        self.connector.at_once = None
        connection = self.connected(1)
        self.submit(2)
        self.connector.at_once = REFUSED
        self.connector.fail(REFUSED)
        for _ in range(500):
            self.clock.advance(0.1)
            connection.changed()
        self.assertEqual([push.results for push in self.pushes], [[], [], []])
        self.assertLess(len(self.connector.certificates), 12)
        self.connector.at_once = None
        connection.lose()
        self.assertEqual(self.connector.open(1).sent, ["00000002"])

    def test_furtherFailedLongAgo(self) -> None:
        """
        It does not count when there is no connection at all, later.
        """
        self.submit()
        connection = self.connector.open(1)
        [push] = self.submit()
        self.connector.fail(REFUSED)
        self.clock.advance(40)
        connection.lose()
        self.assertEqual(push.results, [])

    def test_waitsForAttemptUnderWay(self) -> None:
        """
        It may be a second one, when the first connection is lost.
        """
        self.submit()
        self.connector.fail(REFUSED)
        self.clock.advance(0.5)
        connection = self.connector.open(1)
        self.submit()
        self.clock.advance(40)
        connection.lose()
        [push] = self.submit()
        self.assertEqual(push.results, [])
        self.assertIn(push.notification.token, self.connector.open().sent)


class RoomTests(ProviderCase):
    """
    How many pushes may be under way.
    """

    def capacity(self) -> int:
        """
        Take what there is.
        """
        count = 0
        while self.provider.room.take():
            count += 1
        self.provider.room.taken -= count
        return count

    def test_beforeAnyConnection(self) -> None:
        self.assertEqual(self.capacity(), 200)

    def test_readAhead(self) -> None:
        connection = self.connected(1)
        for limit, capacity in ((1, 2), (10, 20), (100, 200), (1000, 1100)):
            connection.allow(limit)
            self.assertEqual(self.capacity(), capacity)

    def test_lastKnown(self) -> None:
        connection = self.connected(7)
        connection.lose()
        self.assertEqual(self.capacity(), 14)

    def test_noStreams(self) -> None:
        """
        Pushes must not wait for ever to be started.
        """
        connection = self.connected(7)
        connection.allow(0)
        self.assertEqual(self.capacity(), 14)

    def test_more(self) -> None:
        connection = self.connected(1)
        while self.provider.room.take():
            pass
        waiting = self.provider.room.wait()
        self.assertNoResult(waiting)
        connection.allow(2)
        self.successResultOf(waiting)


class ReconnectTests(ProviderCase):
    """
    Backoff between attempts.
    """

    def attempts(self, seconds: float, step: float = 0.125) -> list[float]:
        """
        Let attempts fail for a time.

        @return: when they were made.
        """
        times = []
        while self.clock.seconds() < seconds:
            while self.connector.attempts:
                times.append(round(self.clock.seconds(), 3))
                self.connector.fail(REFUSED)
            self.clock.advance(step)
        return times

    def test_exponential(self) -> None:
        self.submit()
        self.assertEqual(self.attempts(29), [0, 0.5, 1.5, 3.5, 7.5, 15.5])

    def test_fullJitter(self) -> None:
        self.random.value = 0.5
        self.submit()
        self.assertEqual(self.attempts(10), [0, 0.25, 0.75, 1.75, 3.75, 7.75])

    def test_noJitterAtAll(self) -> None:
        """
        Never at once.
        """
        self.random.value = 0.0
        self.submit()
        self.assertEqual(len(self.attempts(1, 0.01)), 10)

    def test_atMostAMinute(self) -> None:
        """
        Unreachable for an hour: an attempt at most a minute apart when there is
        somebody to make it.
        """
        times = []
        while self.clock.seconds() < 3600:
            self.submit()
            if self.connector.attempts:
                times.append(self.clock.seconds())
                self.connector.fail(REFUSED)
            self.clock.advance(1)
        pauses = [later - earlier for earlier, later in pairwise(times)]
        self.assertEqual(max(pauses), 60)
        self.assertEqual(set(pauses[8:]), {60})

    def test_resetByAnAnswer(self) -> None:
        self.submit()
        self.attempts(4)
        self.clock.advance(4)
        connection = self.connector.open()
        connection.answer()
        connection.lose()
        self.submit()
        self.assertEqual(len(self.connector.attempts), 1)
        self.connector.fail(REFUSED)
        self.clock.advance(0.4)
        self.assertEqual(self.connector.attempts, [])
        self.clock.advance(0.1)
        self.assertEqual(len(self.connector.attempts), 1)

    def test_notResetByOpening(self) -> None:
        """
        Flapping: connections that open and answer nothing.
        """
        times = []
        self.connector.at_once = 10
        while self.clock.seconds() < 29:
            self.submit()
            for connection in self.connector.connections:
                if connection.usable:
                    times.append(round(self.clock.seconds(), 3))
                    connection.lose()
            self.clock.advance(0.125)
        self.assertEqual(times, [0, 0.5, 1.5, 3.5, 7.5, 15.5])
        self.assertEqual({len(push.results) for push in self.pushes}, {0})
        while self.clock.seconds() < 31:
            self.clock.advance(0.125)
        result = PushResult(error="APNs can not be reached: the connection broke")
        self.assertEqual(self.pushes[-1].results, [result])

    def test_nobodyWaits(self) -> None:
        """
        No attempts for nobody.
        """
        [push] = self.submit()
        self.connector.fail(REFUSED)
        self.provider.withdraw(push)
        self.clock.advance(100)
        self.assertEqual(self.connector.attempts, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_bug(self) -> None:
        """
        An attempt that ends in a way that it should not is one that failed.
        """
        self.submit()
        self.connector.fail(ZeroDivisionError("oops"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.clock.advance(0.5)
        self.assertEqual(len(self.connector.attempts), 1)


class UnreachableTests(ProviderCase):
    """
    No connection for more than 30 seconds.
    """

    def test_waitersFail(self) -> None:
        pushes = self.submit(50)
        self.connector.at_once = REFUSED
        self.connector.fail(REFUSED)
        while self.clock.seconds() < 29.9:
            self.clock.advance(0.1)
        self.assertEqual([push.results for push in pushes], [[]] * 50)
        self.clock.advance(0.2)
        self.assertEqual([push.results for push in pushes], [[UNREACHABLE]] * 50)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_failsAtOnce(self) -> None:
        self.unreachable()
        made = len(self.connector.certificates)
        for push in self.submit(1000):
            self.assertEqual(push.results, [UNREACHABLE])
        self.assertEqual(len(self.connector.certificates), made)

    def test_attemptOnDemand(self) -> None:
        """
        Once it is time for it; what comes meanwhile waits for that attempt.
        """
        self.unreachable()
        self.clock.advance(60)
        self.connector.at_once = None
        pushes = self.submit(20)
        self.assertEqual(len(self.connector.attempts), 1)
        self.assertEqual([push.results for push in pushes], [[]] * 20)
        self.connector.fail(REFUSED)
        self.assertEqual([push.results for push in pushes], [[UNREACHABLE]] * 20)
        self.assertEqual(self.submit()[0].results, [UNREACHABLE])
        self.clock.advance(60)
        [push] = self.submit()
        connection = self.connector.open()
        connection.answer()
        self.assertEqual(len(push.answers), 1)

    def test_attemptOnDemandWithoutJitter(self) -> None:
        """
        Who waits for that attempt does not wait for the next, too.
        """
        self.random.value = 0.0
        self.unreachable()
        self.clock.advance(1)
        [push] = self.submit()
        self.assertEqual(push.results, [UNREACHABLE])

    def test_slowAttempts(self) -> None:
        """
        30 seconds from the beginning of the first attempt.
        """
        [push] = self.submit()
        for _ in range(2):
            self.clock.advance(10)
            self.connector.fail(REFUSED)
            self.clock.advance(1)
        self.clock.advance(8)
        self.assertEqual(push.results, [])
        self.connector.fail(REFUSED)
        self.assertEqual(push.results, [UNREACHABLE])

    def test_obstacle(self) -> None:
        self.assertIsNone(self.provider.obstacle)
        self.submit()
        self.assertIsNone(self.provider.obstacle)
        self.connector.fail(REFUSED)
        self.assertEqual(self.provider.obstacle, UNREACHABLE.error)
        self.clock.advance(0.5)
        self.connector.open()
        self.assertIsNone(self.provider.obstacle)

    def test_saidOnce(self) -> None:
        with capturedLogs() as logs:
            self.unreachable()
            self.submit(10)
            self.clock.advance(60)
            self.connector.at_once = None
            self.submit()
            self.connector.open()
        [warning] = self.events(logs, LogLevel.warn)
        self.assertEqual(
            warning,
            {
                "log_format": "APNs can not be reached",
                "topic": TOPIC,
                "reason": "connection refused",
            },
        )
        self.assertNotIn("again", str(self.events(logs, LogLevel.info)))
        with capturedLogs() as logs:
            self.connector.connections[0].answer()
            self.submit()
            self.connector.connections[0].answer()
        again = {"log_format": "APNs can be reached again", "topic": TOPIC}
        self.assertEqual(self.events(logs, LogLevel.info), [again])


class RefusedTests(ProviderCase):
    """
    A certificate that APNs does not accept.
    """

    def refusal(
        self, text: str, status: int | None = None, reason: str | None = None
    ) -> PushResult:
        """
        @return: what pushes fail with.
        """
        error = f"APNs refuses the push certificate of topic {TOPIC}: {text}"
        return PushResult(error=error, status=status, reason=reason)

    def test_answer(self) -> None:
        connection = self.connected(3)
        pushes = self.submit(5)
        refusal = self.refusal("403 BadCertificate", 403, "BadCertificate")
        with capturedLogs() as logs:
            connection.answer(403, reason="BadCertificate", count=3)
        self.assertEqual([len(push.answers) for push in pushes], [1, 1, 1, 0, 0])
        self.assertEqual([push.results for push in pushes[3:]], [[refusal]] * 2)
        self.assertEqual(
            self.events(logs, LogLevel.error),
            [
                {
                    "log_format": "APNs refuses the push certificate",
                    "topic": TOPIC,
                    "reason": "403 BadCertificate",
                }
            ],
        )
        self.clock.advance(59.9)
        self.assertEqual(self.submit()[0].results, [refusal])
        self.clock.advance(0.1)
        [push] = self.submit()
        connection.answer()
        self.assertEqual(len(push.answers), 1)

    def test_again(self) -> None:
        """
        Said again when it is refused again.
        """
        connection = self.connected(1)
        with capturedLogs() as logs:
            for _ in range(3):
                self.submit()
                connection.answer(403)
                self.clock.advance(60)
        self.assertEqual(len(self.events(logs, LogLevel.error)), 3)

    def test_connecting(self) -> None:
        pushes = self.submit(2)
        self.connector.fail(BAD)
        refusal = self.refusal("alert: unknown ca")
        self.assertEqual([push.results for push in pushes], [[refusal]] * 2)
        self.clock.advance(59)
        self.assertEqual(self.submit()[0].results, [refusal])
        self.assertEqual(self.connector.attempts, [])
        self.clock.advance(1)
        self.submit()
        self.assertEqual(len(self.connector.attempts), 1)

    def test_lost(self) -> None:
        """
        With TLS 1.3 it comes when the connection seems to be open.
        """
        loss = ConnectionLost("alert: certificate revoked", refused=True)
        for streams in (0, 2):
            self.setUp()
            pushes = self.submit(4)
            if not streams:
                connection = FakeConnection(0)
                self.connector.attempts.pop().callback(connection)
            else:
                connection = self.connector.open(streams)
            connection.lose(loss)
            refusal = self.refusal("alert: certificate revoked")
            self.assertEqual(
                [push.results for push in pushes], [[]] * streams + [[refusal]] * (4 - streams)
            )
            self.assertEqual(self.connector.attempts, [])

    def test_liftedByAnother(self) -> None:
        connection = self.connected(2)
        self.submit(2)
        connection.answer(403)
        self.provider.use(certificate(until=NOW + timedelta(days=1)), 1)
        [push] = self.submit()
        # One of the old certificate's is still to come.
        connection.answer(403)
        self.assertEqual(push.results, [])
        self.connector.open().answer()
        self.assertEqual(len(push.answers), 1)

    def test_expired(self) -> None:
        self.connected()
        self.now += timedelta(days=100)
        [push] = self.submit()
        self.assertEqual(push.results, [])
        self.now += timedelta(seconds=1)
        expired = f"the push certificate of topic {TOPIC} expired on 2026-10-09"
        with capturedLogs() as logs:
            for _ in range(100):
                self.assertEqual(self.submit()[0].results, [PushResult(error=expired)])
                self.clock.advance(1)
        errors = self.events(logs, LogLevel.error)
        self.assertEqual(
            [error["log_format"] for error in errors], ["push certificate expired"] * 2
        )
        self.assertEqual(errors[0]["topic"], TOPIC)
        self.provider.use(certificate(until=self.now + timedelta(days=1)), 1)
        self.assertEqual(self.submit()[0].results, [])


class CertificateTests(ProviderCase):
    """
    A certificate that is replaced.
    """

    new = certificate(until=NOW + timedelta(days=465))

    def test_same(self) -> None:
        connection = self.connected()
        self.provider.use(certificate(), 0)
        self.submit()
        self.assertEqual(len(connection.waiting), 1)
        self.assertFalse(connection.closed)

    def test_idleConnection(self) -> None:
        old = self.connected()
        self.provider.use(self.new, 1)
        self.assertTrue(old.closed)
        self.assertEqual(self.connector.attempts, [])
        self.submit()
        self.assertEqual(self.connector.certificates, [certificate(), self.new])
        self.assertEqual(len(self.connector.open().waiting), 1)

    def test_unreachableBefore(self) -> None:
        """
        The new one is tried at once: it may have been for the old one.
        """
        self.unreachable()
        self.connector.at_once = None
        self.provider.use(self.new, 1)
        [push] = self.submit()
        self.connector.open().answer()
        self.assertEqual(len(push.answers), 1)

    def test_gracefully(self) -> None:
        """
        What is under way ends; what waits goes on with the new one.
        """
        old = self.connected(2)
        pushes = self.submit(3)
        self.provider.use(self.new, 1)
        self.assertFalse(old.closed)
        new = self.connector.open()
        self.assertEqual(new.sent, [pushes[2].notification.token])
        old.answer()
        self.assertEqual(len(new.sent), 1)
        self.assertFalse(old.closed)
        old.answer()
        self.assertTrue(old.closed)
        self.assertEqual([len(push.answers) for push in pushes], [1, 1, 0])

    def test_whileConnecting(self) -> None:
        self.submit()
        self.provider.use(self.new, 1)
        self.assertEqual(self.connector.cancelled, 1)
        self.assertEqual(self.connector.certificates, [certificate(), self.new])
        self.assertEqual(len(self.connector.open().sent), 1)

    def test_attemptThatCanNotBeCancelled(self) -> None:
        """
        A connection with the old one that comes all the same is not used.
        """
        self.submit()
        [attempt] = self.connector.attempts
        late = FakeConnection(10)
        attempt._canceller = lambda ignored: attempt.callback(late)
        self.provider.use(self.new, 1)
        self.assertTrue(late.closed)
        self.assertEqual(late.sent, [])

    def test_answerToTheOld(self) -> None:
        """
        APNs can be reached, so that attempts are made as at first.
        """
        self.submit()
        old = self.connector.open(1)
        self.provider.use(self.new, 1)
        self.submit()
        for pause in (0.5, 1, 2):
            self.connector.fail(REFUSED)
            self.clock.advance(pause)
        self.connector.fail(REFUSED)
        old.answer()
        self.connector.fail(REFUSED)
        self.clock.advance(0.5)
        self.assertEqual(len(self.connector.attempts), 1)

    def test_lossOfTheOld(self) -> None:
        """
        Says nothing about the new.
        """
        self.submit(2)
        old = self.connector.open(1)
        self.provider.use(self.new, 1)
        old.lose(ConnectionLost("alert: certificate expired", refused=True))
        self.assertEqual(self.pushes[1].results, [])
        self.assertEqual(len(self.connector.attempts), 1)


class StopTests(ProviderCase):
    """
    The end.
    """

    def test_idle(self) -> None:
        connection = self.connected()
        self.successResultOf(self.provider.stop())
        self.assertTrue(connection.closed)
        self.successResultOf(self.provider.stop())

    def test_unused(self) -> None:
        self.successResultOf(self.provider.stop())

    def test_waiters(self) -> None:
        [push] = self.submit()
        while self.provider.room.take():
            pass
        waiting = self.provider.room.wait()
        self.successResultOf(self.provider.stop())
        self.assertEqual(push.results, [PushResult(error="the server is stopping")])
        self.assertEqual(self.connector.cancelled, 1)
        self.successResultOf(waiting)
        self.assertEqual(self.submit()[0].results, [PushResult(error="the server is stopping")])
        self.assertEqual(len(self.connector.certificates), 1)

    def test_backoff(self) -> None:
        self.submit()
        self.connector.fail(REFUSED)
        self.successResultOf(self.provider.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_openStreams(self) -> None:
        """
        Waits until connections are gone, those of an old certificate too.
        """
        old = self.connected()
        self.submit()
        self.provider.use(certificate(), 1)
        self.submit()
        new = self.connector.open()
        stopping = self.provider.stop()
        self.assertTrue(old.closed and new.closed)
        new.lose()
        self.assertNoResult(stopping)
        old.lose()
        self.successResultOf(stopping)
        self.assertEqual(self.connector.attempts, [])

    def test_noNewCertificate(self) -> None:
        self.successResultOf(self.provider.stop())
        self.provider.use(certificate(), 1)
        self.assertEqual(self.submit()[0].results, [PushResult(error="the server is stopping")])
