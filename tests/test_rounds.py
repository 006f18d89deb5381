"""
Tests for what is done again and again; those of its users show the rest.
"""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.rounds import Rounds


class RoundsTests(SynchronousTestCase):
    """
    L{Rounds}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.times: list[float] = []

    async def run_round(self) -> float:
        self.times.append(self.clock.seconds())
        return 5.0 * len(self.times)

    async def break_down(self) -> float:
        raise ZeroDivisionError

    def test_pauses(self) -> None:
        """
        Each round says how long the pause behind it is.
        """
        Rounds(self.clock, self.run_round).start(3)
        self.clock.pump([1] * 40)
        self.assertEqual(self.times, [3, 8, 18, 33])

    def test_hastened(self) -> None:
        """
        The next round begins at once; a round that is under way, and an end, stay.
        """
        rounds = Rounds(self.clock, self.run_round)
        rounds.start(3)
        rounds.hasten()
        self.clock.pump([1] * 7)
        rounds.hasten()
        self.clock.pump([0, 1])
        self.assertEqual(self.times, [1, 6, 7])
        self.successResultOf(rounds.stop())
        rounds.hasten()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_brokenRound(self) -> None:
        """
        It is the last one, nobody misses why, and stopping works still.
        """
        rounds = Rounds(self.clock, self.break_down)
        rounds.start(1)
        self.clock.advance(1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.successResultOf(rounds.stop())
