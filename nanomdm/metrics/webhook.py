"""
Events and their deliveries.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

#: Seconds.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class WebhookMetrics:
    """
    What becomes of the events that this server delivers.

    @param registry: has the metrics; L{None} where nobody looks at them.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        deliveries = Counter(
            "nanomdm_webhook_deliveries_total",
            "Attempts to deliver an event, by result",
            ["result"],
            registry=registry,
        )
        self._delivered = deliveries.labels("delivered")
        self._failed = deliveries.labels("failed")
        self._given_up = Counter(
            "nanomdm_webhook_given_up_total", "Events that were given up", registry=registry
        )
        self._seconds = Histogram(
            "nanomdm_webhook_delivery_seconds",
            "Time that the receiver took for an event, or to fail",
            buckets=_BUCKETS,
            registry=registry,
        )

    def attempted(self, delivered: bool, seconds: float) -> None:
        """
        Count an attempt.

        @param delivered: whether the receiver took the event.
        @param seconds: how long it took.
        """
        (self._delivered if delivered else self._failed).inc()
        self._seconds.observe(seconds)

    def given_up(self) -> None:
        """
        Count an event that will not be tried again.
        """
        self._given_up.inc()
