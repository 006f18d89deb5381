"""
All metrics of one server, and their text.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from twisted.internet.interfaces import IReactorTime

from nanomdm import __version__
from nanomdm.metrics.certificates import CertificateMetrics
from nanomdm.metrics.devices import DeviceMetrics
from nanomdm.metrics.http import HTTPMetrics
from nanomdm.metrics.pushes import PushMetrics
from nanomdm.metrics.secrets import SecretsMetrics
from nanomdm.metrics.storage import StorageMetrics
from nanomdm.metrics.webhook import WebhookMetrics

#: Seconds for which a text is given out again: making one takes the reactor some
#: milliseconds, and anybody may ask.
_FRESH: Final = 1.0


class _Registry(CollectorRegistry):
    """
    Leaves out when each series began, which would nearly double what is scraped.
    """

    def collect(self) -> Iterator[Metric]:
        for metric in super().collect():
            metric.samples = [one for one in metric.samples if not one.name.endswith("_created")]
            yield metric


class Metrics:
    """
    The metrics of one server.

    @param clock: for how long a text is good.
    @ivar registry: has all of them.
    @ivar ready: what C{/readyz} says.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self.registry = registry = _Registry()
        self.http = HTTPMetrics(registry)
        self.devices = DeviceMetrics(registry)
        self.pushes = PushMetrics(registry)
        self.webhook = WebhookMetrics(registry)
        self.storage = StorageMetrics(registry)
        self.certificates = CertificateMetrics(registry)
        self.secrets = SecretsMetrics(registry)
        self.ready = Gauge(
            "nanomdm_ready",
            "1 if the server could serve at the last scrape or probe, 0 if not",
            registry=registry,
        )
        build = Gauge(
            "nanomdm_build_info",
            "Always 1; the labels tell what runs",
            ["version", "python"],
            registry=registry,
        )
        build.labels(__version__, platform.python_version()).set(1)
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        self._clock = clock
        self._text = b""
        self._stale_from = float("-inf")

    def text(self) -> bytes:
        """
        @return: everything in Prometheus' text format, as of the last second.
        """
        now = self._clock.seconds()
        if now >= self._stale_from:
            self._text = generate_latest(self.registry)
            self._stale_from = now + _FRESH
        return self._text
