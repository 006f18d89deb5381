"""
Tests for L{nanomdm.push.topics}.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.errors import (
    MessageError,
    NotConfigured,
    Overloaded,
    SecretUnreadable,
    StorageUnavailable,
)
from nanomdm.push.provider import Provider
from nanomdm.push.topics import Topics
from tests.push.fakes import NOW, TOPIC, FakeConnector, FakePush, FakeStore, FixedRandom, stored


class TopicsTests(SynchronousTestCase):
    """
    Which certificate a topic has.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.store = FakeStore(certificates={TOPIC: stored()})
        self.connector = FakeConnector()
        self.topics = Topics(self.store, self.clock, self.create)

    def create(self, topic: str) -> Provider:
        """
        Make a provider.
        """
        return Provider(
            topic,
            self.connector,
            self.clock,
            connections=1,
            now=lambda: NOW,
            random=FixedRandom(),
        )

    def find(self, stale_token: int | None = 0, topic: str = TOPIC) -> Deferred[Provider]:
        """
        Ask for a provider.
        """
        return Deferred.fromCoroutine(self.topics.provider(topic, stale_token))

    def days(self, provider: Provider) -> int:
        """
        @return: which version of the certificate the provider connects with.
        """
        count = len(self.connector.certificates)
        provider.submit(FakePush())
        self.assertEqual(len(self.connector.certificates), count + 1)
        return (self.connector.certificates[-1].not_after - NOW) // timedelta(days=1) - 100

    def test_cached(self) -> None:
        provider = self.successResultOf(self.find())
        self.assertIs(self.successResultOf(self.find()), provider)
        self.assertEqual(self.store.fetches, [TOPIC])
        self.assertEqual(self.days(provider), 0)

    def test_oneEach(self) -> None:
        other = "com.apple.mgmt.External.other"
        self.store.certificates[other] = stored(other)
        providers = [self.successResultOf(self.find(topic=topic)) for topic in (TOPIC, other)]
        self.assertEqual([provider.topic for provider in providers], [TOPIC, other])
        self.assertEqual(self.store.fetches, [TOPIC, other])

    def test_replaced(self) -> None:
        provider = self.successResultOf(self.find())
        self.days(provider)
        self.store.certificates[TOPIC] = stored(TOPIC, 1)
        self.assertIs(self.successResultOf(self.find(1)), provider)
        self.assertEqual(len(self.store.fetches), 2)
        # What waited connects with the new one.
        self.assertEqual(len(self.connector.certificates), 2)
        self.assertEqual(self.connector.cancelled, 1)
        self.successResultOf(self.find(1))
        self.assertEqual(len(self.store.fetches), 2)

    def test_onceForAll(self) -> None:
        self.store.hold.add("push_certificate")
        finding = [self.find() for _ in range(100)]
        self.assertEqual(len(self.store.fetches), 1)
        self.store.release("push_certificate")
        self.assertEqual(len({self.successResultOf(each) for each in finding}), 1)
        self.assertEqual(len(self.store.fetches), 1)

    def test_fetchedTooEarly(self) -> None:
        """
        A fetch that began before the certificate was replaced is not enough.
        """
        self.store.hold.add("push_certificate")
        early = self.find(0)
        late = self.find(1)
        self.store.release("push_certificate")
        self.successResultOf(early)
        self.assertNoResult(late)
        self.store.certificates[TOPIC] = stored(TOPIC, 1)
        self.store.release("push_certificate")
        self.assertEqual(self.days(self.successResultOf(late)), 1)
        self.assertEqual(len(self.store.fetches), 2)

    def test_olderTargets(self) -> None:
        """
        Who still has heard of the version before gets the present one.
        """
        self.store.certificates[TOPIC] = stored(TOPIC, 1)
        self.successResultOf(self.find(1))
        self.assertEqual(self.days(self.successResultOf(self.find(0))), 1)
        self.successResultOf(self.find(1))

    def test_none(self) -> None:
        error = f"no push certificate for topic {TOPIC}"
        with capturedLogs() as logs:
            for _ in range(3):
                failure = self.failureResultOf(self.find(None), NotConfigured)
                self.assertEqual(failure.getErrorMessage(), error)
            self.assertEqual(self.store.fetches, [])
            del self.store.certificates[TOPIC]
            failure = self.failureResultOf(self.find(), NotConfigured)
            self.assertEqual(failure.getErrorMessage(), error)
        self.assertEqual([event["log_format"] for event in logs], ["no push certificate"])
        self.clock.advance(60)
        with capturedLogs() as logs:
            self.failureResultOf(self.find(None), NotConfigured)
        self.assertEqual(len(logs), 1)

    def test_goneAndBack(self) -> None:
        provider = self.successResultOf(self.find())
        self.failureResultOf(self.find(None), NotConfigured)
        del self.store.certificates[TOPIC]
        self.failureResultOf(self.find(1), NotConfigured)
        self.store.certificates[TOPIC] = stored()
        self.assertIs(self.successResultOf(self.find()), provider)

    def test_unusable(self) -> None:
        """
        Said once for each version.
        """
        wrong = "com.apple.mgmt.External.wrong"
        for version, certificate, reason in (
            (1, evolve(stored(), key_pem="?", stale_token=1), "there is no private key"),
            (2, evolve(stored(wrong), topic=TOPIC, stale_token=2), f"it is for topic {wrong}"),
        ):
            self.store.certificates[TOPIC] = certificate
            error = f"the stored push certificate of topic {TOPIC} can not be used: {reason}"
            with capturedLogs() as logs:
                for _ in range(3):
                    failure = self.failureResultOf(self.find(version), MessageError)
                    self.assertEqual(failure.getErrorMessage(), error)
            self.assertEqual([event["error"] for event in logs], [reason])
        self.assertEqual(len(self.store.fetches), 2)
        self.store.certificates[TOPIC] = stored(TOPIC, 3)
        self.assertEqual(self.days(self.successResultOf(self.find(3))), 3)

    def test_keyUnreadable(self) -> None:
        """
        Said once in a while, and looked for again each time: the key may come back.
        """
        self.store.errors["push_certificate"] = Failure(SecretUnreadable("no key 1a"))
        with capturedLogs() as logs:
            for _ in range(3):
                self.failureResultOf(self.find(), SecretUnreadable)
        self.assertEqual([(one["topic"], one["error"]) for one in logs], [(TOPIC, "no key 1a")])
        self.assertEqual(len(self.store.fetches), 3)
        self.store.errors.clear()
        self.successResultOf(self.find())

    def test_notCachedWhenItFails(self) -> None:
        errors: list[Any] = [Overloaded("full"), Failure(StorageUnavailable("away"))]
        for error in errors:
            self.store.errors["push_certificate"] = error
            self.failureResultOf(self.find(), Overloaded, StorageUnavailable)
        self.store.hold.add("push_certificate")
        finding = [self.find() for _ in range(10)]
        self.store.release("push_certificate")
        for each in finding:
            self.failureResultOf(each, StorageUnavailable)
        self.assertEqual(len(self.store.fetches), 3)
        self.store.errors.clear()
        self.store.hold.clear()
        self.successResultOf(self.find())

    def test_stop(self) -> None:
        self.successResultOf(self.topics.stop())
        provider = self.successResultOf(self.find())
        provider.submit(FakePush())
        connection = self.connector.open()
        stopping = self.topics.stop()
        self.assertNoResult(stopping)
        connection.answer()
        connection.vanish()
        self.successResultOf(stopping)
