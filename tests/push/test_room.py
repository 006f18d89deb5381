"""
Tests for L{nanomdm.push.room}.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.push.room import Room


class RoomTests(SynchronousTestCase):
    """
    Who gets a place, and when.
    """

    def setUp(self) -> None:
        self.capacity = 3
        self.room = Room(lambda: self.capacity)
        self.entered: list[str] = []

    def wait(self, name: str) -> Deferred[None]:
        """
        Wait for a place under a name.
        """
        return self.room.wait().addCallback(lambda ignored: self.entered.append(name))

    def fill(self) -> None:
        """
        Take all places.
        """
        while self.room.take():
            pass

    def test_capacity(self) -> None:
        self.assertEqual([self.room.take() for _ in range(5)], [True] * 3 + [False] * 2)
        self.assertEqual(self.room.taken, 3)

    def test_inTurn(self) -> None:
        self.fill()
        for name in "abc":
            self.wait(name)
        self.assertEqual(self.entered, [])
        self.room.leave()
        self.assertEqual(self.entered, ["a"])
        self.assertEqual(self.room.taken, 3)
        self.room.leave()
        self.assertEqual(self.entered, ["a", "b"])

    def test_noOvertaking(self) -> None:
        """
        Nobody takes a place while others wait.
        """
        self.fill()
        self.wait("a")
        self.assertFalse(self.room.take())
        self.capacity = 9
        self.assertFalse(self.room.take())
        self.room.changed()
        self.assertEqual(self.entered, ["a"])
        self.assertTrue(self.room.take())

    def test_waitWithRoom(self) -> None:
        self.wait("a")
        self.assertEqual(self.entered, ["a"])
        self.assertEqual(self.room.taken, 1)

    def test_more(self) -> None:
        self.fill()
        for name in "abcd":
            self.wait(name)
        self.capacity = 6
        self.room.changed()
        self.assertEqual(self.entered, ["a", "b", "c"])
        self.assertEqual(self.room.taken, 6)

    def test_less(self) -> None:
        """
        Nobody is thrown out.
        """
        self.fill()
        self.wait("a")
        self.capacity = 1
        self.room.leave()
        self.room.leave()
        self.assertEqual(self.entered, [])
        self.room.leave()
        self.assertEqual(self.entered, ["a"])

    def test_paused(self) -> None:
        self.fill()
        self.wait("a")
        self.room.pause()
        self.assertEqual(self.entered, ["a"])
        self.room.resume()
        self.room.leave()
        self.assertFalse(self.room.take())
        self.room.leave()
        self.assertTrue(self.room.take())

    def test_pausedIsBounded(self) -> None:
        for _ in range(1000):
            self.assertTrue(self.room.take())
            self.room.pause()
        for _ in range(3):
            self.assertTrue(self.room.take())
            self.room.pause()
        self.assertFalse(self.room.take())

    def test_close(self) -> None:
        self.fill()
        self.wait("a")
        self.wait("b")
        self.room.close()
        self.wait("c")
        self.assertEqual(self.entered, ["a", "b", "c"])
