"""
Tests for telling in time that push certificates expire.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.errors import StorageUnavailable
from nanomdm.interfaces import ListedPushCertificate
from nanomdm.push.expiry import ExpiryWatch
from nanomdm.sim.ca import ThrowawayCA

TOPIC = "com.apple.mgmt.External.a"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR, DAY = 3600, 86400
TURN = 0.001


@cache
def certificate(**left: float) -> str:
    """
    @param left: how much longer than L{NOW} it is valid.
    @return: PEM.
    """
    ca = ThrowawayCA.create()
    issued = ca.issue_push(
        TOPIC,
        key=ec.generate_private_key(ec.SECP256R1()),
        not_before=NOW - timedelta(days=365),
        not_after=NOW + timedelta(**left),
    )
    return issued.pem.decode() + ca.pem.decode()


class TurningClock(Clock):
    """
    A clock that runs what is to be done at once in its next turn, as reactors do.
    """

    def callLater(self, delay: float, *more: Any, **keywords: Any) -> Any:
        return super().callLater(max(delay, TURN), *more, **keywords)


class FakeStore:
    """
    @ivar asked: when it was asked, in seconds.
    @ivar certificates: what it answers; an exception to fail with; L{None} to
        leave it to C{answer}.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.asked: list[float] = []
        self.certificates: list[ListedPushCertificate] | Exception | None = []
        self.answer: Deferred[list[ListedPushCertificate]] = Deferred()

    def push_certificates(self) -> Deferred[list[ListedPushCertificate]]:
        self.asked.append(self.clock.seconds())
        if isinstance(self.certificates, Exception):
            self.answer.errback(self.certificates)
        elif self.certificates is not None:
            self.answer.callback(self.certificates)
        answer, self.answer = self.answer, self.answer if self.certificates is None else Deferred()
        return answer


class ExpiryWatchTests(SynchronousTestCase):
    """
    L{ExpiryWatch}.
    """

    def setUp(self) -> None:
        self.clock = TurningClock()
        self.store = FakeStore(self.clock)
        self.watch = ExpiryWatch(
            self.store, self.clock, lambda: NOW + timedelta(seconds=self.clock.seconds() - 10)
        )
        self.watch.start()

    def run_for(self, seconds: float) -> list[dict[str, Any]]:
        """
        @return: what was logged in that time.
        """
        with capturedLogs() as events:
            self.clock.advance(seconds)
        return events

    def logged(self, *certificates: tuple[str, ...]) -> list[tuple[Any, ...]]:
        """
        @return: level, message, topic, not_after and days of each event after the
            first look.
        """
        self.store.certificates = [ListedPushCertificate(*one) for one in certificates]
        return [
            (
                event["log_level"],
                event["log_format"],
                event["topic"],
                event.get("not_after"),
                event.get("days"),
            )
            for event in self.run_for(10)
        ]

    def test_expiresSoon(self) -> None:
        self.assertEqual(
            self.logged((TOPIC, certificate(days=29, hours=23))),
            [(LogLevel.warn, "push certificate expires soon", TOPIC, "2026-03-31T11:00:00Z", 29)],
        )

    def test_inThirtyDays(self) -> None:
        """
        It is told as soon as less than thirty days are left.
        """
        self.assertEqual(
            self.logged(
                (TOPIC, certificate(days=30)), ("b", certificate(days=29, hours=23, minutes=59))
            ),
            [(LogLevel.warn, "push certificate expires soon", "b", "2026-03-31T11:59:00Z", 29)],
        )

    def test_expired(self) -> None:
        """
        It is valid up to and with the end (RFC 5280 section 4.1.2.5).
        """
        self.assertEqual(
            self.logged((TOPIC, certificate(seconds=-1)), ("b", certificate(seconds=0))),
            [
                (LogLevel.error, "push certificate expired", TOPIC, "2026-03-01T11:59:59Z", None),
                (LogLevel.warn, "push certificate expires soon", "b", "2026-03-01T12:00:00Z", 0),
            ],
        )

    def test_keyUnreadable(self) -> None:
        """
        It is told with what is to be told of the certificate.
        """
        good, soon = certificate(days=300), certificate(days=1)
        lines = self.logged((TOPIC, good, "no key 1a"), ("b", good), ("c", soon, "no key 2b"))
        self.assertEqual(
            [(level, text, topic) for level, text, topic, _, _ in lines],
            [
                (LogLevel.error, "push key unreadable", TOPIC),
                (LogLevel.error, "push key unreadable", "c"),
                (LogLevel.warn, "push certificate expires soon", "c"),
            ],
        )

    def test_unreadable(self) -> None:
        """
        The others are looked at all the same.
        """
        good = certificate(days=1)
        base64 = good[:40] + "AAAA" + good[44:]
        levels = self.logged((TOPIC, ""), ("b", base64), ("c", "\udcff"), ("d", good))
        self.assertEqual(
            [(level, text, topic) for level, text, topic, _, _ in levels],
            [
                (LogLevel.error, "push certificate unreadable", TOPIC),
                (LogLevel.error, "push certificate unreadable", "b"),
                (LogLevel.error, "push certificate unreadable", "c"),
                (LogLevel.warn, "push certificate expires soon", "d"),
            ],
        )

    def test_daily(self) -> None:
        self.store.certificates = [ListedPushCertificate(TOPIC, certificate(days=31))]
        self.assertEqual(self.run_for(10), [])
        self.assertEqual(self.run_for(DAY - 1), [])
        self.assertEqual(self.run_for(1), [])
        for days in (29, 28):
            [event] = self.run_for(DAY)
            self.assertEqual(event["days"], days)
        self.assertEqual(self.store.asked, [day * DAY + 10 for day in range(4)])

    def test_storageAway(self) -> None:
        self.store.certificates = StorageUnavailable("away")
        events = self.run_for(10)
        self.assertEqual(
            [(event["log_level"], event["error"]) for event in events], [(LogLevel.warn, "away")]
        )
        self.store.certificates = [ListedPushCertificate(TOPIC, certificate(days=1))]
        self.assertEqual(self.run_for(HOUR - 1), [])
        self.assertEqual(len(self.run_for(1)), 1)

    def test_bug(self) -> None:
        self.store.certificates = ZeroDivisionError()
        self.run_for(10)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.run_for(HOUR)
        self.assertEqual(len(self.store.asked), 2)
        self.flushLoggedErrors(ZeroDivisionError)

    def test_many(self) -> None:
        """
        They are not all looked at in one turn of the reactor.
        """
        self.store.certificates = [ListedPushCertificate(TOPIC, certificate(days=1))] * 25
        self.assertEqual(len(self.run_for(10)), 10)
        self.assertEqual(len(self.run_for(TURN)), 10)
        self.assertEqual(len(self.run_for(TURN)), 5)

    def assertStops(self) -> None:
        """
        It ends at once or in the next turn of the reactor, and leaves nothing.
        """
        stopped = self.watch.stop()
        self.clock.advance(TURN)
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopBeforeTheFirstLook(self) -> None:
        self.assertStops()
        self.assertEqual(self.store.asked, [])

    def test_stopAfterALook(self) -> None:
        self.run_for(10)
        self.assertStops()

    def test_stopAmongMany(self) -> None:
        self.store.certificates = [ListedPushCertificate(TOPIC, certificate(days=1))] * 25
        self.run_for(10)
        with capturedLogs() as events:
            self.assertStops()
        self.assertEqual(events, [])

    def test_stopWhileItAsks(self) -> None:
        self.store.certificates = None
        self.run_for(10)
        stopped = self.watch.stop()
        self.clock.advance(TURN)
        self.assertNoResult(stopped)
        with capturedLogs() as events:
            self.store.answer.errback(StorageUnavailable("closed"))
        self.successResultOf(stopped)
        self.assertEqual(events, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])
