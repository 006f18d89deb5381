"""
When certificates end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Final

from cryptography import x509
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from nanomdm.crypto.certificates import UNUSABLE

#: Characters of a name.
_LONGEST_NAME: Final = 200


class CertificateMetrics(Collector):
    """
    The ends of all certificates that the server needs.

    @param registry: has the metrics; L{None} where nobody looks at them.
    @ivar pushes: by topic, the end of its push certificate in Unix seconds.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.pushes: Mapping[str, float] = {}
        self._authorities: dict[tuple[str, str], float] = {}
        self._server: Callable[[], datetime] | None = None
        if registry is not None:
            registry.register(self)

    def watch_server(self, end: Callable[[], datetime]) -> None:
        """
        @param end: says when the certificate of the server's own TLS ends, in UTC.
        """
        self._server = end

    def add_authorities(self, kind: str, certificates: Iterable[x509.Certificate]) -> None:
        """
        @param kind: what they are for.
        @param certificates: where several have one subject, the first to end counts.
        """
        for certificate in certificates:
            key = (kind, _name(certificate))
            end = certificate.not_valid_after_utc.timestamp()
            self._authorities[key] = min(end, self._authorities.get(key, end))

    def collect(self) -> Iterator[Metric]:
        """
        See L{Collector}.
        """
        ends = GaugeMetricFamily(
            "nanomdm_certificate_expiry_timestamp_seconds",
            "When a certificate ends, in Unix seconds; its name is the topic or the subject",
            labels=["kind", "name"],
        )
        for topic, end in self.pushes.items():
            ends.add_metric(["push", topic], end)
        for key, end in self._authorities.items():
            ends.add_metric(key, end)
        if self._server is not None:
            ends.add_metric(["tls", "server"], self._server().timestamp())
        yield ends


def _name(certificate: x509.Certificate) -> str:
    try:
        return certificate.subject.rfc4514_string()[:_LONGEST_NAME]
    except UNUSABLE:
        return ""
