"""
What only the database can tell, read in the background while somebody scrapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

from cryptography import x509
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from nanomdm.crypto.certificates import UNUSABLE
from nanomdm.errors import NanoMDMError
from nanomdm.interfaces import Backlog, IStorage, ListedPushCertificate, QueueSummary
from nanomdm.metrics.certificates import CertificateMetrics
from nanomdm.network import bounded

T = TypeVar("T")

#: Seconds between the end of one reading and the next.
INTERVAL: Final = 30.0

#: Seconds since a scrape for which it goes on.
_INTEREST: Final = 180.0

#: Seconds for each of the things that are read.
_DEADLINE: Final = 20.0

#: Certificates that are read in one turn of the reactor: less than a millisecond each.
_PIECE: Final = 10

QUEUE: Final = "queue"
WEBHOOK: Final = "webhook"
CERTIFICATES: Final = "push_certificates"


class StoredNumbers(Collector):
    """
    Reads how much there is, and tells what it read last.  Nobody waits for it: when the
    storage is away, its numbers get old.

    @param registry: has the metrics.
    @param certificates: told when push certificates end.
    @param clock: the clock.
    @param webhook: whether this server has a webhook, so that its backlog is read.
    """

    _log = Logger()

    def __init__(
        self,
        storage: IStorage,
        registry: CollectorRegistry,
        certificates: CertificateMetrics,
        clock: IReactorTime,
        webhook: bool,
    ) -> None:
        self._storage = storage
        self._certificates = certificates
        self._clock = clock
        self._queue: QueueSummary | None = None
        self._backlog: Backlog | None = None
        # When each was read last; None before that.
        self._read_at: dict[str, float | None] = {QUEUE: None, CERTIFICATES: None}
        if webhook:
            self._read_at[WEBHOOK] = None
        self._ends: dict[str, tuple[str, float | None]] = {}
        self._failing: set[str] = set()
        self._wanted = float("-inf")
        self._next: IDelayedCall | None = None
        self._reading: Deferred[None] = succeed(None)
        self._busy = False
        self._stopping = True
        registry.register(self)

    def start(self) -> None:
        """
        Read from now on, when there are scrapes.
        """
        self._stopping = False

    def stop(self) -> Deferred[None]:
        """
        @return: fires once what is being read has ended.
        """
        self._stopping = True
        if self._next is not None:
            self._next.cancel()
            self._next = None
        done: Deferred[None] = Deferred()
        self._reading.addCallback(done.callback)
        return done

    def scraped(self) -> None:
        """
        Somebody is interested.
        """
        self._wanted = self._clock.seconds()
        if self._next is None and not self._busy and not self._stopping:
            self._begin()

    def _begin(self) -> None:
        self._next = None
        if self._clock.seconds() - self._wanted <= _INTEREST:
            self._busy = True
            self._reading = Deferred.fromCoroutine(self._read_all())
            self._reading.addErrback(self._bug).addCallback(self._ended)

    def _ended(self, ignored: None) -> None:
        self._busy = False
        if not self._stopping:
            self._next = self._clock.callLater(INTERVAL, self._begin)

    async def _read_all(self) -> None:
        storage = self._storage
        self._queue = await self._read(QUEUE, storage.queue_summary) or self._queue
        if WEBHOOK in self._read_at:
            self._backlog = await self._read(WEBHOOK, storage.event_backlog) or self._backlog
        certificates = await self._read(CERTIFICATES, storage.push_certificates)
        if certificates is not None:
            await self._note_ends(certificates)

    async def _read(self, what: str, ask: Callable[[], Deferred[T]]) -> T | None:
        """
        @return: L{None} if the storage does not say.
        """
        if self._stopping:
            return None
        try:
            number = await bounded(maybeDeferred(ask), self._clock, _DEADLINE, TimeoutError)
        except Exception:
            self._complain(what, Failure())
            return None
        self._failing.discard(what)
        self._read_at[what] = self._clock.seconds()
        return number

    def _complain(self, what: str, failure: Failure) -> None:
        # Once: what is broken stays so for a while.
        if what in self._failing or self._stopping:
            return
        self._failing.add(what)
        text = "numbers for the metrics were not read, it will be tried again"
        if failure.check(NanoMDMError, TimeoutError):
            self._log.warn(text, what=what, error=failure.getErrorMessage() or "too late")
        else:
            self._log.failure(text, failure, what=what)

    async def _note_ends(self, certificates: Sequence[ListedPushCertificate]) -> None:
        """
        Parse only what has changed: there may be many, and they seldom do.
        """
        known, self._ends = self._ends, {}
        for number, certificate in enumerate(certificates, 1):
            topic, pem = certificate.topic, certificate.certificate_pem
            before = known.get(topic)
            self._ends[topic] = before if before and before[0] == pem else (pem, _end(pem))
            if number % _PIECE == 0:
                await deferLater(self._clock, 0)
        self._certificates.pushes = {
            topic: end for topic, (_, end) in self._ends.items() if end is not None
        }

    def collect(self) -> Iterator[Metric]:
        """
        See L{Collector}.
        """
        queue, backlog = self._queue, self._backlog
        yield _gauge(
            "nanomdm_commands_outstanding",
            "Queued commands without a final answer",
            queue and queue.outstanding,
        )
        yield _gauge(
            "nanomdm_enrollments",
            "Device and user channels that ever enrolled",
            queue and queue.enrollments,
        )
        yield _gauge(
            "nanomdm_enrollments_enabled",
            "Enrollments that are enabled",
            queue and queue.enabled,
        )
        yield _gauge(
            "nanomdm_webhook_backlog_events",
            "Events that wait for their delivery",
            backlog and backlog.waiting,
        )
        yield _gauge(
            "nanomdm_webhook_backlog_oldest_seconds",
            "Age of the oldest event that waits",
            backlog and (backlog.oldest or 0),
        )
        yield _gauge(
            "nanomdm_webhook_failed_events",
            "Events that were given up and are kept apart",
            backlog and backlog.failed,
        )
        yield self._ages()

    def _ages(self) -> Metric:
        ages = GaugeMetricFamily(
            "nanomdm_storage_numbers_age_seconds",
            "Time since numbers were read from the database, +Inf before the first time",
            labels=["of"],
        )
        now = self._clock.seconds()
        for what, then in self._read_at.items():
            ages.add_metric([what], float("inf") if then is None else now - then)
        return ages

    def _bug(self, failure: Failure) -> None:
        self._log.failure("unexpected error", failure)


def _gauge(name: str, text: str, value: Any) -> Metric:
    """
    @param value: L{None} if it is not known yet.
    """
    return GaugeMetricFamily(name, text, value=value)


def _end(pem: str) -> float | None:
    try:
        return x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc.timestamp()
    except UNUSABLE:
        # Another job complains of it.
        return None
