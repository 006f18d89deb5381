"""
Tests for L{nanomdm.metrics.registry}.
"""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nanomdm import __version__
from nanomdm.metrics.registry import Metrics
from tests.metrics.text import Scrape


class MetricsTests(SynchronousTestCase):
    """
    L{Metrics}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.metrics = Metrics(self.clock)

    def test_build(self) -> None:
        [labels] = Scrape(self.metrics.text()).labels("nanomdm_build_info")
        self.assertEqual(dict(labels)["version"], __version__)

    def test_process(self) -> None:
        seen = Scrape(self.metrics.text())
        self.assertGreater(seen.value("process_resident_memory_bytes"), 1 << 20)
        self.assertIsNotNone(seen.value("python_gc_collections_total", generation="0"))

    def test_severalServers(self) -> None:
        """
        Each has its own.
        """
        other = Metrics(self.clock)
        other.devices.reported("Idle")
        name = "nanomdm_command_reports_total"
        self.assertEqual(Scrape(self.metrics.text()).value(name, status="Idle"), 0)
        self.assertEqual(Scrape(other.text()).value(name, status="Idle"), 1)

    def test_noBeginnings(self) -> None:
        self.metrics.devices.reported("Idle")
        self.assertNotIn(b"_created", self.metrics.text())

    def test_madeOnceASecond(self) -> None:
        """
        Scraping all the time costs no more.
        """
        first = self.metrics.text()
        self.metrics.devices.reported("Idle")
        self.clock.advance(0.9)
        self.assertIs(self.metrics.text(), first)
        self.clock.advance(0.1)
        self.assertIsNot(self.metrics.text(), first)
        status = {"status": "Idle"}
        self.assertEqual(
            Scrape(self.metrics.text()).value("nanomdm_command_reports_total", **status), 1
        )
