"""
Requests and connections.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

#: The endpoint of a request that leads to none, or did not get that far.
NO_ENDPOINT: Final = "other"

#: Seconds.
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

#: Methods that are counted by their names.
_METHODS: Final = frozenset({b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PATCH", b"POST", b"PUT"})

#: Statuses that are counted by themselves.
_STATUSES: Final = frozenset(int(status) for status in HTTPStatus)


class WatchedBudget(Protocol):
    """
    Memory for requests: L{nanomdm.http.limits.Budget}.
    """

    used: int
    total: int


class WatchedSite(Protocol):
    """
    A site: L{nanomdm.http.site.Site}.
    """

    @property
    def budget(self) -> WatchedBudget:
        """
        The memory that all requests share.
        """
        ...

    @property
    def connections(self) -> int:
        """
        How many there are.
        """
        ...

    @property
    def max_connections(self) -> int:
        """
        How many are served at once.
        """
        ...

    @property
    def running(self) -> int:
        """
        Requests that are being worked on.
        """
        ...


class HTTPMetrics:
    """
    What clients ask for and get.

    @param registry: has the metrics; L{None} where nobody looks at them.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._requests = Counter(
            "nanomdm_http_requests_total",
            "HTTP requests answered, by endpoint, method and status",
            ["endpoint", "method", "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "nanomdm_http_request_seconds",
            "Time from the complete request to its answer",
            ["endpoint"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self._connections = Gauge(
            "nanomdm_http_connections",
            "Open connections of clients, also of those that are refused",
            registry=registry,
        )
        self._limit = Gauge(
            "nanomdm_http_connections_limit",
            "Connections that are served at once",
            registry=registry,
        )
        self._refused = Counter(
            "nanomdm_http_connections_refused_total",
            "Connections refused because there were too many",
            registry=registry,
        )
        self._running = Gauge(
            "nanomdm_http_requests_running",
            "HTTP requests that are being worked on",
            registry=registry,
        )
        self._used = Gauge(
            "nanomdm_http_budget_used_bytes",
            "Memory of large requests that arrive or are being worked on, and of large answers "
            "being read",
            registry=registry,
        )
        self._total = Gauge(
            "nanomdm_http_budget_bytes",
            "Memory that large requests and answers may have together",
            registry=registry,
        )
        # labels() takes longer than all the rest.
        self._counters: dict[tuple[str, bytes, int], Counter] = {}
        self._histograms: dict[str, Histogram] = {}

    def answered(self, endpoint: str, method: bytes, code: int, seconds: float) -> None:
        """
        Count an answer of an endpoint.

        @param endpoint: its route.
        @param seconds: how long it took.
        """
        self.count(endpoint, method, code)
        histogram = self._histograms.get(endpoint)
        if histogram is None:
            histogram = self._histograms[endpoint] = self._seconds.labels(endpoint)
        histogram.observe(seconds)

    def count(self, endpoint: str, method: bytes, code: int) -> None:
        """
        Count an answer.
        """
        if method not in _METHODS:
            # A client may think of any number of them.
            method = b"other"
        key = (endpoint, method, code)
        counter = self._counters.get(key)
        if counter is None:
            # The server behind /authproxy/ may make up others than there are.
            status = str(code) if code in _STATUSES else f"{code // 100}xx"
            counter = self._requests.labels(endpoint, method.decode(), status)
            self._counters[key] = counter
        counter.inc()

    def refused(self) -> None:
        """
        Count a connection that is not served, and its answer.
        """
        self._refused.inc()
        self.count(NO_ENDPOINT, b"", HTTPStatus.SERVICE_UNAVAILABLE)

    def watch(self, site: WatchedSite) -> None:
        """
        Tell of a site's connections and requests from now on.
        """
        budget = site.budget
        self._connections.set_function(lambda: site.connections)
        self._limit.set(site.max_connections)
        self._running.set_function(lambda: site.running)
        self._used.set_function(lambda: budget.used)
        self._total.set(budget.total)
