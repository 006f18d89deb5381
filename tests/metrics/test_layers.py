"""
Tests for what the layers tell their metrics.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from prometheus_client import CollectorRegistry
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredQueue, gatherResults
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from nanomdm.errors import StorageUnavailable
from nanomdm.interfaces import DeadToken
from nanomdm.metrics.devices import CHECKINS, DeviceMetrics
from nanomdm.metrics.pushes import PushMetrics
from nanomdm.metrics.storage import StorageMetrics
from nanomdm.metrics.webhook import WebhookMetrics
from nanomdm.push.notification import ConnectionFailed
from nanomdm.push.service import PushService
from nanomdm.storage.batcher import Batcher
from nanomdm.storage.engine import PoolLimits
from nanomdm.storage.pool import Pool
from nanomdm.storage.transaction import Transaction
from tests.metrics.text import scrape
from tests.push.fakes import NOW
from tests.push.test_service import OTHER, ServiceCase
from tests.service.test_webhook import WebhookCase
from tests.storage.fake_engine import FakeEngine


class DeviceMetricsTests(SynchronousTestCase):
    """
    L{DeviceMetrics}.
    """

    def setUp(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = DeviceMetrics(self.registry)

    def test_checkins(self) -> None:
        """
        All types are there from the beginning.
        """
        self.metrics.checked_in("CheckOut")
        seen = scrape(self.registry)
        values = {type: seen.value("nanomdm_checkins_total", type=type) for type in CHECKINS}
        self.assertEqual(values.pop("CheckOut"), 1)
        self.assertEqual(set(values.values()), {0})

    def test_statuses(self) -> None:
        """
        What a device makes up has one series for all of it.
        """
        for status in ("Idle", "NotNow", "Idle", "Mine", "Yours"):
            self.metrics.reported(status)
        seen = scrape(self.registry)
        name = "nanomdm_command_reports_total"
        for status, count in {"Idle": 2, "NotNow": 1, "Error": 0, "other": 2}.items():
            self.assertEqual(seen.value(name, status=status), count)
        self.assertEqual(len(seen.labels(name)), 6)


class PushMetricsTests(ServiceCase):
    """
    L{PushMetrics}, told by the push service.
    """

    def setUp(self) -> None:
        super().setUp()
        self.registry = CollectorRegistry()
        self.service = PushService(
            self.store,
            self.connector,
            self.clock,
            expiration=3600,
            connections=1,
            schedule=True,
            now=lambda: NOW,
            random=self.random,
            metrics=PushMetrics(self.registry),
        )

    def results(self) -> dict[str, float]:
        """
        @return: what there is any of.
        """
        seen, name = scrape(self.registry), "nanomdm_pushes_total"
        values = {dict(one)["result"]: seen.value(name, **dict(one)) for one in seen.labels(name)}
        self.assertEqual(len(values), 10)
        return {result: value for result, value in values.items() if value}

    def state(self, name: str) -> float | None:
        return scrape(self.registry).value(name)

    def test_sent(self) -> None:
        self.push(*self.store.add("D1"))
        self.clock.advance(3)
        self.answer()
        self.assertEqual(self.results(), {"sent": 1})
        self.assertEqual(self.state("nanomdm_push_seconds_sum"), 3)

    def test_failed(self) -> None:
        """
        By kinds of reasons, however many reasons there are.
        """
        answers = [
            (410, "Unregistered"),
            (400, "BadDeviceToken"),
            (400, "X"),
            (403, "Y"),
            (413, ""),
        ]
        self.push(*self.store.add(*(f"D{number}" for number in range(len(answers)))))
        for status, reason in answers:
            self.answer(status, reason=reason)
        self.assertEqual(self.results(), {"bad_token": 2, "rejected": 2, "certificate": 1})

    def test_passing(self) -> None:
        """
        What it is tried for again counts once, for its last answer.
        """
        for id, status in (("D1", 503), ("D2", 429)):
            self.push(*self.store.add(id))
            while self.connection.waiting:
                self.answer(status)
                self.clock.pump([1.0] * 20)
        self.assertEqual(self.results(), {"apns_error": 1, "throttled": 1})

    def test_notTried(self) -> None:
        dead = DeadToken(410, "Unregistered")
        self.push("D1", *self.store.add("D2", enabled=False), *self.store.add("D3", dead=dead))
        self.assertEqual(self.results(), {"untried": 3})
        self.assertEqual(self.state("nanomdm_push_seconds_count"), 0)

    def test_noCertificate(self) -> None:
        self.push(*self.store.add("D1", topic=OTHER, stale_token=None))
        self.assertEqual(self.results(), {"no_certificate": 1})

    def test_unreachable(self) -> None:
        """
        A topic without a connection is told of until it has one again.
        """
        self.connector.at_once = None
        self.push(*self.store.add("D1"))
        self.connector.fail(ConnectionFailed("nobody is there"))
        self.turn()
        self.assertEqual(self.state("nanomdm_apns_topics_unreachable"), 1)
        self.assertEqual(self.state("nanomdm_pushes_under_way"), 1)
        self.clock.advance(30)
        self.turn()
        self.assertEqual(self.results(), {"no_answer": 1})

    def test_states(self) -> None:
        names = [
            *("nanomdm_apns_connections", "nanomdm_apns_streams", "nanomdm_apns_streams_limit"),
            *("nanomdm_pushes_under_way", "nanomdm_apns_topics_unreachable"),
        ]
        self.assertEqual([self.state(name) for name in names], [0, 0, 0, 0, 0])
        self.push(*self.store.add("D1", "D2"))
        self.assertEqual([self.state(name) for name in names], [1, 2, 10, 2, 0])
        self.answer(count=2)
        self.assertEqual([self.state(name) for name in names], [1, 0, 10, 0, 0])


class WebhookMetricsTests(WebhookCase):
    """
    What the webhook tells.
    """

    def setUp(self) -> None:
        super().setUp()
        self.registry = CollectorRegistry()

    def values(self) -> list[float | None]:
        """
        @return: how many were delivered, failed and were given up, and the seconds.
        """
        seen, name = scrape(self.registry), "nanomdm_webhook_deliveries_total"
        results = [seen.value(name, result=result) for result in ("delivered", "failed")]
        others = ("nanomdm_webhook_given_up_total", "nanomdm_webhook_delivery_seconds_sum")
        return [*results, *map(seen.value, others)]

    def test_delivered(self) -> None:
        self.store.write("D1", "a", "b")
        self.receiver.waiting = {}
        self.begin(metrics=WebhookMetrics(self.registry))
        self.assertEqual(self.values(), [0, 0, 0, 0])
        self.run_for(1)
        waited = self.clock.seconds() - self.receiver.got[0][0]
        self.receiver.answer("a")
        self.assertEqual(self.values(), [1, 0, 0, waited])
        self.receiver.answer("b")
        self.assertEqual(self.values()[:3], [2, 0, 0])
        self.stop()

    def test_failed(self) -> None:
        """
        Each attempt counts, and the event once.
        """
        self.store.write("D1", "a", "b")
        self.receiver.bad = {"a"}
        self.begin(metrics=WebhookMetrics(self.registry), max_age=60)
        self.run_for(120)
        attempts = self.receiver.names.count("a")
        self.assertGreater(attempts, 1)
        self.assertEqual(self.values()[:3], [1, attempts, 1])
        self.stop()

    def test_stopped(self) -> None:
        """
        What the stop ends has not failed.
        """
        self.store.write("D1", "a")
        self.receiver.waiting = {}
        self.begin(metrics=WebhookMetrics(self.registry))
        self.run_for(1)
        self.stop()
        self.assertEqual(self.receiver.cancelled, ["a"])
        self.assertEqual(self.values()[:3], [0, 0, 0])


class BatchMetricsTests(SynchronousTestCase):
    """
    What a batcher tells.
    """

    LABELS = {"database": "main", "kind": "write"}

    def setUp(self) -> None:
        self.registry = CollectorRegistry()
        self.running: list[Deferred[list[int]]] = []
        metrics = StorageMetrics(self.registry).database("main").batches("write")
        self.batcher = Batcher(self.run_later, metrics=metrics)

    def run_later(self, work: object) -> Deferred[list[int]]:
        self.running.append(Deferred())
        return self.running[-1]

    def call(self) -> Deferred[int]:
        return self.batcher.call(lambda transaction, arguments: list(arguments), 1)

    def value(self, name: str, **more: str) -> float | None:
        return scrape(self.registry).value(f"nanomdm_storage_{name}", **self.LABELS, **more)

    def test_gathered(self) -> None:
        calls = [self.call() for _ in range(4)]
        self.assertEqual(self.value("calls_waiting"), 3)
        self.running.pop(0).callback([1])
        self.assertEqual(self.value("calls_waiting"), 0)
        self.running.pop(0).callback([1, 1, 1])
        self.assertEqual(len(self.successResultOf(gatherResults(calls))), 4)
        self.assertEqual(self.value("batch_calls_count"), 2)
        self.assertEqual(self.value("batch_calls_sum"), 4)
        self.assertEqual(self.value("batch_calls_bucket", le="2.0"), 1)
        self.assertEqual(self.value("batch_wait_seconds_count"), 2)
        self.assertEqual(self.value("transaction_seconds_count"), 2)
        self.assertEqual(self.value("transactions_failed_total"), 0)

    def test_failed(self) -> None:
        call = self.call()
        self.running.pop(0).errback(StorageUnavailable("away"))
        self.failureResultOf(call, StorageUnavailable)
        self.assertEqual(self.value("transactions_failed_total"), 1)
        self.assertEqual(self.value("transaction_seconds_count"), 1)


class PoolMetricsTests(TestCase):
    """
    What a pool tells.
    """

    async def test_connections(self) -> None:
        registry, clock = CollectorRegistry(), Clock()
        metrics = StorageMetrics(registry).database("main").pool("read")
        limits = PoolLimits(size=2)
        pool = Pool(reactor, FakeEngine(), limits, True, clock.seconds, metrics)
        self.addCleanup(pool.close)

        def values() -> list[float | None]:
            seen, labels = scrape(registry), {"database": "main", "pool": "read"}
            names = ("size", "connections", "used", "wait_seconds_count")
            return [seen.value(f"nanomdm_storage_pool_{name}", **labels) for name in names]

        self.assertEqual(values(), [2, 0, 0, 0])
        came: DeferredQueue[None] = DeferredQueue()
        gate = threading.Event()
        self.addCleanup(gate.set)

        def work(transaction: Transaction) -> None:
            reactor.callFromThread(came.put, None)
            gate.wait(30)

        running: Sequence[Deferred[None]] = [pool.run(work) for _ in range(3)]
        for _ in range(2):
            await came.get()
        self.assertEqual(values(), [2, 2, 2, 2])
        gate.set()
        await gatherResults(running)
        self.assertEqual(values(), [2, 2, 0, 3])
