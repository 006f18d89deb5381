"""
Secrets in the database.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class SecretsMetrics(Collector):
    """
    @param registry: has the metrics; L{None} where nobody looks at them.
    @ivar unreadable: secrets that can not be decrypted; L{None} if that is not known yet.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.unreadable: int | None = None
        if registry is not None:
            registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """
        See L{Collector}.
        """
        yield GaugeMetricFamily(
            "nanomdm_secrets_unreadable",
            "Secrets in the database that this server has no key for",
            value=self.unreadable,
        )
