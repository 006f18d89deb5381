"""
Tests for L{nanomdm.push.alarm}.
"""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.push.alarm import Alarm


class AlarmTests(SynchronousTestCase):
    """
    Two functions on one timer.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.alarm = Alarm(self.clock)
        self.calls: list[tuple[str, float]] = []

    def early(self) -> None:
        self.calls.append(("early", self.clock.seconds()))

    def late(self) -> None:
        self.calls.append(("late", self.clock.seconds()))

    def assertCalled(self, *calls: tuple[str, float]) -> None:
        """
        They were called just so, by never more than one timer, which is gone.
        """
        for _ in range(20):
            self.assertLessEqual(len(self.clock.getDelayedCalls()), 1)
            self.clock.advance(0.5)
        self.assertEqual(self.calls, list(calls))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_order(self) -> None:
        self.alarm.set(self.late, 3)
        self.alarm.set(self.early, 1)
        self.assertCalled(("early", 1), ("late", 3))

    def test_together(self) -> None:
        """
        Those that are due at once are called in their order.
        """
        self.alarm.set(self.late, 2)
        self.alarm.set(self.early, 1)
        self.clock.advance(2)
        self.assertCalled(("early", 2), ("late", 2))

    def test_moved(self) -> None:
        """
        Only the last time counts.
        """
        self.alarm.set(self.early, 4)
        self.alarm.set(self.early, 1)
        self.alarm.set(self.late, 1)
        self.alarm.set(self.late, 3)
        self.assertCalled(("early", 1), ("late", 3))

    def test_cleared(self) -> None:
        self.alarm.clear(self.late)
        self.alarm.set(self.early, 1)
        self.alarm.set(self.late, 2)
        self.alarm.clear(self.early)
        self.assertCalled(("late", 2))

    def test_changedFromWithin(self) -> None:
        """
        One that is called can clear another that is due, and set itself.
        """

        def clearing() -> None:
            self.alarm.clear(self.late)
            if not self.calls:
                self.early()
                self.alarm.set(clearing, 2)
                self.alarm.set(self.late, 1)

        self.alarm.set(clearing, 1)
        self.alarm.set(self.late, 1)
        self.assertCalled(("early", 1), ("late", 2))

    def test_stopped(self) -> None:
        self.alarm.set(self.early, 1)
        self.alarm.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.alarm.stop()
        self.assertCalled()

    def test_stoppedFromWithin(self) -> None:
        self.alarm.set(self.alarm.stop, 1)
        self.alarm.set(self.late, 1)
        self.alarm.set(self.early, 2)
        self.assertCalled()
