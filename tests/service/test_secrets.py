"""
Tests for telling in time that keys for secrets are missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.crypto.secretkeys import Keyring, new_key, parse_secret_keys
from nanomdm.crypto.vault import Vault
from nanomdm.errors import StorageUnavailable
from nanomdm.interfaces import SecretsCursor, SecretsPage
from nanomdm.metrics.secrets import SecretsMetrics
from nanomdm.service.secrets import SecretsWatch

ONE, TWO = new_key(), new_key()
[ID_ONE], [ID_TWO] = (parse_secret_keys(key).keys for key in (ONE, TWO))
HOUR, DAY = 3600, 86400
LOST = "secrets can not be decrypted"
PLAIN = (
    "the database has encrypted secrets, but there is no --secret-key-file:"
    " new ones are stored in plain text"
)


class FakeStore:
    """
    @ivar asked: when it was asked, and from where on.
    @ivar pages: what it answers, each page with the next one's number; an exception to
        fail with; L{None} to leave it to C{answer}.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.asked: list[tuple[float, SecretsCursor | None]] = []
        self.pages: Sequence[dict[str, int]] | Exception | None = ({},)
        self.answer: Deferred[SecretsPage] = Deferred()

    def encrypted(self, cursor: SecretsCursor | None) -> Deferred[SecretsPage]:
        self.asked.append((self.clock.seconds(), cursor))
        answer = self.answer = Deferred()
        if isinstance(self.pages, Exception):
            answer.errback(self.pages)
        elif self.pages is not None:
            number = 0 if cursor is None else cursor[0]
            following = (number + 1, "") if number + 1 < len(self.pages) else None
            answer.callback(SecretsPage(self.pages[number], following))
        return answer


class SecretsWatchTests(SynchronousTestCase):
    """
    L{SecretsWatch}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.store = FakeStore(self.clock)
        self.vault = Vault(parse_secret_keys(ONE))
        self.metrics = SecretsMetrics()
        self.watch = SecretsWatch(self.store, self.vault, self.clock, self.metrics)
        self.watch.start()

    def run_for(self, seconds: float) -> list[tuple[Any, ...]]:
        """
        @return: level, message, key and count of what was logged in that time.
        """
        with capturedLogs() as events:
            self.clock.advance(seconds)
            self.clock.pump([0.02] * 5)
        names = ("log_level", "log_format", "key", "count")
        return [tuple(event.get(name) for name in names) for event in events]

    def test_allThere(self) -> None:
        """
        Nothing is said, soon after the start and daily.
        """
        self.store.pages = ({ID_ONE: 5},)
        self.assertIsNone(self.metrics.unreadable)
        self.assertEqual(self.run_for(9), [])
        self.assertEqual(self.store.asked, [])
        self.assertEqual(self.run_for(1), [])
        self.assertEqual(self.metrics.unreadable, 0)
        self.assertEqual(self.run_for(DAY), [])
        self.assertEqual(len(self.store.asked), 2)

    def test_missing(self) -> None:
        """
        Each key is named, and by the hour until it is there.
        """
        self.store.pages = ({ID_ONE: 5, ID_TWO: 2}, {}, {ID_TWO: 1, "unknown": 4})
        told = [(LogLevel.error, LOST, ID_TWO, 3), (LogLevel.error, LOST, "unknown", 4)]
        self.assertEqual(self.run_for(10), sorted(told, key=str))
        self.assertEqual(self.metrics.unreadable, 7)
        self.store.pages = ({ID_ONE: 5},)
        self.assertEqual(self.run_for(HOUR), [])
        self.assertEqual(self.metrics.unreadable, 0)

    def test_pages(self) -> None:
        """
        There is a pause between two.
        """
        self.store.pages = ({}, {}, {})
        self.run_for(10)
        (one, start), (two, following), (three, _) = self.store.asked
        self.assertEqual((start, following), (None, (1, "")))
        self.assertGreater(two, one)
        self.assertGreater(three, two)

    def test_noKeys(self) -> None:
        """
        What is encrypted still is a reason to warn of what will not be.
        """
        self.vault.use(Keyring())
        self.store.pages = ({ID_ONE: 5},)
        error = (LogLevel.error, LOST, ID_ONE, 5)
        self.assertEqual(self.run_for(10), [(LogLevel.warn, PLAIN, None, None), error])

    def test_nothingEncrypted(self) -> None:
        self.vault.use(Keyring())
        self.assertEqual(self.run_for(10), [])

    def test_otherKeys(self) -> None:
        """
        They are looked at at once, but not the same ones.
        """
        self.store.pages = ({ID_ONE: 5},)
        self.run_for(10)
        self.vault.use(parse_secret_keys(ONE))
        self.assertEqual(self.run_for(1), [])
        self.assertEqual(len(self.store.asked), 1)
        self.vault.use(parse_secret_keys(TWO))
        self.assertEqual(self.run_for(0), [(LogLevel.error, LOST, ID_ONE, 5)])
        self.vault.use(parse_secret_keys(f"{TWO},{ONE}"))
        self.assertEqual(self.run_for(0), [])
        self.assertEqual(self.metrics.unreadable, 0)

    def test_otherKeysMeanwhile(self) -> None:
        """
        They decide.
        """
        self.store.pages = None
        self.run_for(10)
        self.vault.use(parse_secret_keys(TWO))
        with capturedLogs() as events:
            self.store.answer.callback(SecretsPage({ID_ONE: 5}))
        self.assertEqual([event["key"] for event in events], [ID_ONE])

    def test_storageAway(self) -> None:
        """
        What was known stays.
        """
        self.store.pages = ({ID_TWO: 1},)
        self.run_for(10)
        self.store.pages = StorageUnavailable("away")
        [(level, text, *_)] = self.run_for(HOUR)
        told = (LogLevel.warn, "secrets were not looked at, it will be tried again")
        self.assertEqual((level, text), told)
        self.assertEqual(self.metrics.unreadable, 1)
        self.store.pages = ({},)
        self.assertEqual(self.run_for(HOUR), [])
        self.assertEqual(self.metrics.unreadable, 0)

    def test_bug(self) -> None:
        self.store.pages = ZeroDivisionError()
        self.run_for(10)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.run_for(HOUR)
        self.assertEqual(len(self.store.asked), 2)
        self.flushLoggedErrors(ZeroDivisionError)

    def test_stop(self) -> None:
        self.successResultOf(self.watch.stop())
        self.vault.use(parse_secret_keys(TWO))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopWhileItAsks(self) -> None:
        """
        No other page is asked for, and of some nothing is told.
        """
        self.store.pages = None
        self.run_for(10)
        stopped = self.watch.stop()
        self.assertNoResult(stopped)
        with capturedLogs() as events:
            self.store.answer.callback(SecretsPage({ID_TWO: 1}, (1, "")))
            self.clock.advance(0.02)
        self.successResultOf(stopped)
        self.assertEqual((events, len(self.store.asked)), ([], 1))
        self.assertEqual((self.clock.getDelayedCalls(), self.metrics.unreadable), ([], None))
