"""
Tests for L{nanomdm.metrics.stored} and L{nanomdm.metrics.certificates}.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.errors import StorageUnavailable
from nanomdm.interfaces import Backlog, ListedPushCertificate, QueueSummary
from nanomdm.metrics import stored
from nanomdm.metrics.certificates import CertificateMetrics
from nanomdm.metrics.stored import StoredNumbers
from nanomdm.sim.ca import ThrowawayCA
from tests.http.case import ca
from tests.metrics.text import Scrape, scrape

TOPIC = "com.apple.mgmt.External.one"
EXPIRY = "nanomdm_certificate_expiry_timestamp_seconds"
AGE = "nanomdm_storage_numbers_age_seconds"
SUMMARY = QueueSummary(outstanding=3, enrollments=2, enabled=1)
BACKLOG = Backlog(waiting=4, oldest=5.0, failed=6)
KINDS = ("queue", "webhook", "push_certificates")


class FakeStore:
    """
    A storage that answers when the test says so.

    @ivar asked: what was asked and has no answer.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, Deferred[Any]]] = []

    def _ask(self, what: str) -> Deferred[Any]:
        self.asked.append((what, Deferred()))
        return self.asked[-1][1]

    def queue_summary(self) -> Deferred[QueueSummary]:
        return self._ask("queue")

    def event_backlog(self) -> Deferred[Backlog]:
        return self._ask("webhook")

    def push_certificates(self) -> Deferred[list[ListedPushCertificate]]:
        return self._ask("push_certificates")


class StoredCase(SynchronousTestCase):
    """
    A reader of numbers.
    """

    webhook = True

    def setUp(self) -> None:
        self.clock = Clock()
        self.store = FakeStore()
        self.registry = CollectorRegistry()
        self.certificates = CertificateMetrics(self.registry)
        self.numbers = StoredNumbers(
            self.store, self.registry, self.certificates, self.clock, self.webhook
        )
        self.numbers.start()

    def answer(self, what: str, value: object) -> None:
        """
        Answer the only question, which must be this one.
        """
        [(asked, answer)] = self.store.asked
        self.assertEqual(asked, what)
        self.store.asked.clear()
        answer.callback(value)

    def fail_with(self, error: Exception) -> None:
        [(_, answer)] = self.store.asked
        self.store.asked.clear()
        answer.errback(error)

    def answer_all(
        self,
        queue: QueueSummary = SUMMARY,
        backlog: Backlog = BACKLOG,
        certificates: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.answer("queue", queue)
        if self.webhook:
            self.answer("webhook", backlog)
        self.answer("push_certificates", [ListedPushCertificate(*one) for one in certificates])
        self.clock.advance(0)

    def scraped(self) -> Scrape:
        """
        Scrape as the endpoint does.
        """
        self.numbers.scraped()
        return scrape(self.registry)

    def stop(self) -> None:
        self.successResultOf(self.numbers.stop())
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ReadingTests(StoredCase):
    """
    When it reads, and what it tells then.
    """

    def test_nobodyAsks(self) -> None:
        self.clock.pump([60.0] * 20)
        self.assertEqual(self.store.asked, [])
        self.stop()

    def test_first(self) -> None:
        """
        The first scrape does not wait, and tells that nothing is known yet.
        """
        seen = self.scraped()
        self.assertIsNone(seen.value("nanomdm_commands_outstanding"))
        self.assertIn("nanomdm_commands_outstanding", seen.families)
        self.assertEqual(seen.value(AGE, of="queue"), float("inf"))
        self.answer_all()
        self.clock.advance(7)
        seen = self.scraped()
        values = {
            "commands_outstanding": 3,
            "enrollments": 2,
            "enrollments_enabled": 1,
            "webhook_backlog_events": 4,
            "webhook_backlog_oldest_seconds": 5,
            "webhook_failed_events": 6,
        }
        for name, value in values.items():
            self.assertEqual(seen.value(f"nanomdm_{name}"), value, name)
        for what in ("queue", "webhook", "push_certificates"):
            self.assertEqual(seen.value(AGE, of=what), 7)
        self.stop()

    def test_nothingWaits(self) -> None:
        """
        No event is no age.
        """
        self.scraped()
        self.answer_all(backlog=Backlog(0, None, 0))
        self.assertEqual(self.scraped().value("nanomdm_webhook_backlog_oldest_seconds"), 0)
        self.stop()

    def test_again(self) -> None:
        """
        Half a minute after the last reading, however often somebody scrapes.
        """
        self.scraped()
        self.scraped()
        self.answer_all()
        for _ in range(29):
            self.clock.advance(1)
            self.scraped()
        self.assertEqual(self.store.asked, [])
        self.clock.advance(1)
        self.answer_all(queue=QueueSummary(0, 0, 0))
        self.assertEqual(self.scraped().value("nanomdm_commands_outstanding"), 0)
        self.stop()

    def test_nobodyAsksAnyMore(self) -> None:
        """
        It ends a while after the last scrape, and the next one makes it begin again.
        """
        self.scraped()
        self.answer_all()
        rounds = 0
        while self.clock.getDelayedCalls():
            self.clock.advance(30)
            if self.store.asked:
                rounds += 1
                self.answer_all()
        self.assertEqual(rounds, 6)
        self.scraped()
        self.assertEqual(len(self.store.asked), 1)
        self.answer_all()
        self.stop()

    def test_away(self) -> None:
        """
        What was read last stays, and gets old; of the trouble the log tells once.
        """
        self.scraped()
        self.answer_all()
        with capturedLogs() as events:
            for _ in range(2):
                self.clock.advance(30)
                for _ in range(3):
                    self.fail_with(StorageUnavailable("away"))
        self.assertEqual([event["what"] for event in events], list(KINDS))
        self.assertEqual({event["log_level"] for event in events}, {LogLevel.warn})
        seen = self.scraped()
        self.assertEqual(seen.value("nanomdm_commands_outstanding"), 3)
        self.assertEqual(seen.value(AGE, of="queue"), 60)
        self.clock.advance(30)
        self.answer_all(queue=QueueSummary(9, 2, 1))
        seen = self.scraped()
        self.assertEqual(seen.value("nanomdm_commands_outstanding"), 9)
        self.assertEqual(seen.value(AGE, of="queue"), 0)
        self.stop()

    def test_silent(self) -> None:
        """
        One thing that takes too long does not keep the others from being read.
        """
        self.scraped()
        self.store.asked.clear()
        with capturedLogs() as events:
            self.clock.advance(20)
        [event] = events
        self.assertEqual((event["what"], event["error"]), ("queue", "too late"))
        self.answer("webhook", Backlog(4, 5.0, 6))
        self.answer("push_certificates", [])
        seen = self.scraped()
        self.assertIsNone(seen.value("nanomdm_commands_outstanding"))
        self.assertEqual(seen.value("nanomdm_webhook_backlog_events"), 4)
        self.stop()

    def test_bug(self) -> None:
        self.scraped()
        self.fail_with(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.answer("webhook", Backlog(0, None, 0))
        self.answer("push_certificates", [])
        self.stop()

    def test_stop(self) -> None:
        """
        What is being read ends, and nothing follows.
        """
        self.scraped()
        stopped = self.numbers.stop()
        self.assertNoResult(stopped)
        self.answer("queue", QueueSummary(3, 2, 1))
        self.successResultOf(stopped)
        self.scraped()
        self.assertEqual((self.store.asked, self.clock.getDelayedCalls()), ([], []))

    def test_notStarted(self) -> None:
        """
        Before the storage has started nobody asks it.
        """
        numbers = StoredNumbers(
            self.store, CollectorRegistry(), self.certificates, self.clock, self.webhook
        )
        numbers.scraped()
        self.assertEqual(self.store.asked, [])


class WithoutWebhookTests(StoredCase):
    """
    A server that has none.
    """

    webhook = False

    def test_noBacklog(self) -> None:
        self.scraped()
        self.answer_all()
        seen = self.scraped()
        self.assertIsNone(seen.value("nanomdm_webhook_backlog_events"))
        self.assertIsNone(seen.value(AGE, of="webhook"))
        self.assertEqual(seen.value(AGE, of="queue"), 0)
        self.stop()


class CertificateTests(StoredCase):
    """
    When certificates end.
    """

    def certificate(self) -> tuple[str, float]:
        """
        @return: a certificate's PEM, and when it ends.
        """
        certificate = x509.load_pem_x509_certificate(ca().pem)
        return ca().pem.decode(), certificate.not_valid_after_utc.timestamp()

    def test_pushCertificates(self) -> None:
        pem, end = self.certificate()
        self.scraped()
        self.answer_all(certificates=((TOPIC, pem), ("bad", "nothing")))
        seen = self.scraped()
        self.assertEqual(seen.value(EXPIRY, kind="push", name=TOPIC), end)
        self.assertEqual(len(seen.labels(EXPIRY)), 1)
        self.clock.advance(30)
        self.answer_all()
        self.assertEqual(self.scraped().labels(EXPIRY), set())
        self.stop()

    def test_parsedOnce(self) -> None:
        """
        As long as they stay the same.
        """
        pem, end = self.certificate()
        parsed: list[str] = []
        parse: Callable[[str], float | None] = stored._end
        self.patch(stored, "_end", lambda pem: (parsed.append(pem), parse(pem))[1])
        self.scraped()
        self.answer_all(certificates=((TOPIC, pem),))
        self.clock.advance(30)
        self.answer_all(certificates=((TOPIC, pem), ("other", pem)))
        self.assertEqual(len(parsed), 2)
        self.assertEqual(self.scraped().value(EXPIRY, kind="push", name="other"), end)
        self.stop()

    def test_many(self) -> None:
        """
        The reactor has its turns in between.
        """
        pem, _ = self.certificate()
        self.scraped()
        self.answer("queue", QueueSummary(0, 0, 0))
        self.answer("webhook", Backlog(0, None, 0))
        many = [ListedPushCertificate(f"topic{number}", pem) for number in range(25)]
        self.answer("push_certificates", many)
        self.assertEqual(len(self.certificates.pushes), 0)
        self.clock.pump([0, 0])
        self.assertEqual(len(self.certificates.pushes), 25)
        self.stop()

    def test_files(self) -> None:
        """
        Of authorities with one name, the first to end counts.
        """
        long, short = (
            ThrowawayCA.create(not_after=datetime.now(UTC) + timedelta(days=days))
            for days in (20, 1)
        )
        certificates = [x509.load_pem_x509_certificate(one.pem) for one in (long, short)]
        self.certificates.add_authorities("ca", certificates)
        end = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
        self.certificates.watch_server(lambda: end)
        seen = self.scraped()
        name = certificates[0].subject.rfc4514_string()
        ends = [one.not_valid_after_utc.timestamp() for one in certificates]
        self.assertNotEqual(ends[0], ends[1])
        self.assertEqual(seen.value(EXPIRY, kind="ca", name=name), min(ends))
        self.assertEqual(seen.value(EXPIRY, kind="tls", name="server"), end.timestamp())
        self.answer_all()
        self.stop()
