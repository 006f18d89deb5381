"""
Tests for L{nanomdm.cache}.
"""

from __future__ import annotations

from threading import Thread

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.cache import LRUCache


class BoundTests(SynchronousTestCase):
    """
    What is kept when there is no room for all.
    """

    def held(self, cache: LRUCache[str, int], keys: str) -> str:
        """
        Which of some keys a cache holds, without using them.
        """
        return "".join(key for key in keys if key in cache._entries)

    def test_unknown(self) -> None:
        self.assertIsNone(LRUCache[str, int](2).get("a"))

    def test_remembers(self) -> None:
        cache = LRUCache[str, int](2)
        cache.put("a", 1)
        cache.put("b", 0)
        self.assertEqual((cache.get("a"), cache.get("b"), len(cache)), (1, 0, 2))

    def test_replaces(self) -> None:
        cache = LRUCache[str, int](2)
        cache.put("a", 1)
        cache.put("a", 2)
        self.assertEqual((cache.get("a"), len(cache)), (2, 1))

    def test_oldestGoes(self) -> None:
        cache = LRUCache[str, int](2)
        for number, key in enumerate("abc"):
            cache.put(key, number)
        self.assertEqual(self.held(cache, "abc"), "bc")

    def test_getCountsAsUse(self) -> None:
        cache = LRUCache[str, int](2)
        cache.put("a", 1)
        cache.put("b", 2)
        cache.get("a")
        cache.put("c", 3)
        self.assertEqual(self.held(cache, "abc"), "ac")

    def test_putCountsAsUse(self) -> None:
        cache = LRUCache[str, int](2)
        cache.put("a", 1)
        cache.put("b", 2)
        cache.put("a", 3)
        cache.put("c", 4)
        self.assertEqual(self.held(cache, "abc"), "ac")
        self.assertEqual(cache.get("a"), 3)

    def test_missesChangeNothing(self) -> None:
        cache = LRUCache[str, int](2)
        cache.put("a", 1)
        cache.put("b", 2)
        for key in "xyz":
            cache.get(key)
        self.assertEqual(self.held(cache, "abxyz"), "ab")

    def test_sizeOne(self) -> None:
        cache = LRUCache[str, int](1)
        cache.put("a", 1)
        cache.put("b", 2)
        self.assertEqual((cache.get("a"), cache.get("b"), len(cache)), (None, 2, 1))

    def test_stays(self) -> None:
        """
        However many pass through.
        """
        cache = LRUCache[int, int](10)
        for number in range(1000):
            cache.put(number, number)
            self.assertLessEqual(len(cache), 10)
        self.assertEqual([cache.get(number) for number in range(990, 1000)], [*range(990, 1000)])

    def test_threads(self) -> None:
        cache = LRUCache[int, int](50)
        wrong: list[object] = []

        def work(start: int) -> None:
            try:
                for number in range(start, start + 3000):
                    cache.put(number % 120, number % 120)
                    if cache.get((number * 7) % 120) not in (None, (number * 7) % 120):
                        wrong.append(number)
            except Exception as error:
                wrong.append(error)

        threads = [Thread(target=work, args=(start,)) for start in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])
        self.assertEqual(len(cache), 50)


class LifetimeTests(SynchronousTestCase):
    """
    How long entries are believed.
    """

    def setUp(self) -> None:
        self.clock = Clock()

    def cache(self, ttl: float) -> LRUCache[str, int]:
        """
        A cache with one fresh entry.
        """
        cache = LRUCache[str, int](3, ttl, self.clock.seconds)
        cache.put("a", 1)
        return cache

    def test_lifetime(self) -> None:
        cache = self.cache(30)
        self.clock.advance(29.9)
        self.assertEqual(cache.get("a"), 1)
        self.clock.advance(0.1)
        self.assertIsNone(cache.get("a"))
        self.assertEqual(len(cache), 0)

    def test_useDoesNotProlong(self) -> None:
        cache = self.cache(30)
        for _ in range(29):
            self.clock.advance(1)
            self.assertEqual(cache.get("a"), 1)
        self.clock.advance(1)
        self.assertIsNone(cache.get("a"))

    def test_putProlongs(self) -> None:
        cache = self.cache(30)
        self.clock.advance(20)
        cache.put("a", 2)
        self.clock.advance(20)
        self.assertEqual(cache.get("a"), 2)

    def test_discard(self) -> None:
        cache = self.cache(30)
        cache.discard("a")
        cache.discard("never there")
        self.assertIsNone(cache.get("a"))

    def test_zeroRemembersNothing(self) -> None:
        self.assertIsNone(self.cache(0).get("a"))

    def test_withoutLifetimeTheClockIsNotRead(self) -> None:
        def seconds() -> float:
            raise AssertionError("read")

        cache = LRUCache[str, int](2, None, seconds)
        cache.put("a", 1)
        self.assertEqual(cache.get("a"), 1)
