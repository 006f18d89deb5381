"""
Tests for L{nanomdm.metrics.http}, and for what the site and its endpoints tell it.
"""

from __future__ import annotations

from http import HTTPStatus

from prometheus_client import CollectorRegistry

from nanomdm.http.endpoint import Folder
from nanomdm.http.site import Site
from nanomdm.metrics.http import HTTPMetrics
from tests.http.memory import SiteCase
from tests.metrics.text import Scrape, scrape

REQUESTS = "nanomdm_http_requests_total"


class HTTPMetricsTests(SiteCase):
    """
    A site with an endpoint at C{/slow}.
    """

    def setUp(self) -> None:
        super().setUp()
        self.registry = CollectorRegistry()
        self.metrics = HTTPMetrics(self.registry)
        self.endpoint.route = "/slow/{id}"
        root = Folder()
        root.putChild(b"slow", self.endpoint)
        self.site = Site(root, self.clock, self.max_body_size, metrics=self.metrics)
        self.metrics.watch(self.site)

    def scrape(self) -> Scrape:
        return scrape(self.registry)

    def count(self, endpoint: str, method: str, status: str) -> float | None:
        return self.scrape().value(REQUESTS, endpoint=endpoint, method=method, status=status)

    def test_answered(self) -> None:
        """
        An answer is counted by its endpoint's route, never by its path.
        """
        transport = self.connect()
        for path in (b"/slow", b"/slow?x=1"):
            self.send(transport, b"GET %s HTTP/1.1\r\n\r\n" % path)
            self.answer()
        self.assertEqual(self.count("/slow/{id}", "GET", "200"), 2)
        name = "nanomdm_http_request_seconds_count"
        self.assertEqual(self.scrape().value(name, endpoint="/slow/{id}"), 2)
        self.assertEqual(len(self.scrape().labels(REQUESTS)), 1)
        transport.closed()

    def test_whatIsUnknown(self) -> None:
        """
        Whatever clients think of, it makes no further series.
        """
        transport = self.connect()
        for number in range(50):
            self.send(transport, b"X%d /%d/%d HTTP/1.1\r\n\r\n" % (number, number, number))
        self.assertEqual(self.count("other", "other", "404"), 50)
        self.assertEqual(len(self.scrape().labels(REQUESTS)), 1)
        self.assertEqual(len(self.metrics._counters), 1)
        transport.closed()

    def test_madeUpStatuses(self) -> None:
        """
        Nor does what the server behind C{/authproxy/} thinks of.
        """
        for code in range(500, 600):
            self.metrics.count("/authproxy", b"GET", code)
        self.assertEqual(self.count("/authproxy", "GET", "503"), 1)
        self.assertIsNone(self.count("/authproxy", "GET", "599"))
        known = sum(500 <= status < 600 for status in HTTPStatus)
        self.assertEqual(self.count("/authproxy", "GET", "5xx"), 100 - known)

    def test_refused(self) -> None:
        """
        Requests that no endpoint sees are counted too.
        """
        self.send(self.connect(), b"PUT /slow HTTP/1.1\r\nContent-Length: 11\r\n\r\n")
        self.send(self.connect(), b"\x16\x03\x01\r\n\r\n")
        self.assertEqual(self.count("other", "PUT", "413"), 1)
        self.assertEqual(self.count("other", "other", "400"), 1)
        self.assertIsNone(self.count("/slow/{id}", "PUT", "413"))
        self.clock.advance(60)

    def test_tooManyConnections(self) -> None:
        """
        How many are served is told, and each that is not is counted.
        """
        site = Site(Folder(), self.clock, self.max_body_size, 2, metrics=self.metrics)
        self.metrics.watch(site)
        self.site = site
        transports = [self.connect() for _ in range(5)]
        seen = self.scrape()
        self.assertEqual(seen.value("nanomdm_http_connections_limit"), 2)
        self.assertEqual(seen.value("nanomdm_http_connections_refused_total"), 3)
        self.assertEqual(self.count("other", "other", "503"), 3)
        for transport in transports:
            transport.closed()
        self.assertClean()

    def test_states(self) -> None:
        """
        Connections, requests and memory are told as they are.
        """
        transport, other = self.connect(), self.connect()
        self.send(transport, b"GET /slow HTTP/1.1\r\n\r\n")
        self.site.budget.used = 17
        seen = self.scrape()
        self.assertEqual(seen.value("nanomdm_http_connections"), 2)
        self.assertEqual(seen.value("nanomdm_http_requests_running"), 1)
        self.assertEqual(seen.value("nanomdm_http_budget_used_bytes"), 17)
        self.assertEqual(seen.value("nanomdm_http_budget_bytes"), 256 << 20)
        self.answer()
        other.closed()
        seen = self.scrape()
        self.assertEqual(seen.value("nanomdm_http_connections"), 1)
        self.assertEqual(seen.value("nanomdm_http_requests_running"), 0)
        transport.closed()
        self.assertClean()
