"""
Whether the table in C{docs/metrics.md}, the dashboard and the alerts speak of metrics that
there are.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from tests.http.test_metrics import MetricsCase
from tests.metrics.text import Scrape

ROOT = Path(__file__).parent.parent.parent
ROW = re.compile(r"^\| `(nanomdm_\w+)` \| (\w+) \|(.*?)\| (.*?) \|$", re.MULTILINE)
METRIC = re.compile(r"\b((?:nanomdm|process|python)_\w+)(?:\{(.*?)\})?")
MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')

#: What Prometheus adds to all that it scrapes.
TARGET = {"job", "instance"}


def expressions(value: Any) -> list[str]:
    """
    @return: what is asked in a dashboard or a file of alerts.
    """
    if isinstance(value, list):
        return [one for part in value for one in expressions(part)]
    if not isinstance(value, dict):
        return []
    own = [value[name] for name in ("expr", "query") if isinstance(value.get(name), str)]
    return own + expressions(list(value.values()))


class DocumentTests(MetricsCase):
    """
    Against what a server with traffic tells.
    """

    async def seen(self) -> Scrape:
        """
        @return: a scrape that has a sample of everything that may have one.
        """
        self.serve(webhook_url="http://127.0.0.1:9/")
        await self.enroll()
        await self.enqueue("D1")
        await self.report("Idle")
        while True:
            scrape = await self.scrape()
            ages = scrape.labels("nanomdm_storage_numbers_age_seconds")
            name = "nanomdm_storage_numbers_age_seconds"
            if max(scrape.value(name, **dict(one)) for one in ages) < 1e9:
                return scrape

    def assertKnown(self, seen: Scrape, expression: str) -> None:
        """
        There are the metrics that an expression names, with the labels and, where one
        value is asked for, the values.
        """
        metrics = METRIC.findall(expression)
        self.assertTrue(metrics or "up{" in expression, expression)
        for name, matchers in metrics:
            self.assertIn(name, seen.names, expression)
            samples = [dict(labels) for labels in seen.labels(name)]
            labels = {label for sample in samples for label in sample} | TARGET
            for label, operator, value in MATCHER.findall(matchers):
                self.assertIn(label, labels, expression)
                if operator == "=" and label not in TARGET:
                    self.assertIn(value, {sample.get(label) for sample in samples}, expression)

    async def test_table(self) -> None:
        seen = await self.seen()
        text = (ROOT / "docs/metrics.md").read_text()
        told = {
            name: (type, tuple(sorted(re.findall(r"`(\w+)`", labels))), meaning)
            for name, type, labels, meaning in ROW.findall(text)
        }
        there = {
            name: (family.type, family.labels, family.help)
            for name, family in seen.families.items()
            if name.startswith("nanomdm_")
        }
        self.assertEqual(told, there)

    async def test_dashboard(self) -> None:
        seen = await self.seen()
        dashboard = json.loads((ROOT / "etc/grafana-dashboard.json").read_text())
        [source] = dashboard["__inputs"]
        self.assertEqual((source["name"], source["pluginId"]), ("DS_PROMETHEUS", "prometheus"))
        asked = expressions(dashboard)
        self.assertGreater(len(asked), 50)
        for expression in asked:
            self.assertKnown(seen, expression)
        ids = [panel["id"] for panel in dashboard["panels"]]
        self.assertEqual(len(set(ids)), len(ids))
        for panel in dashboard["panels"]:
            if panel["type"] != "row":
                self.assertEqual(panel["datasource"]["uid"], "${DS_PROMETHEUS}")

    async def test_alerts(self) -> None:
        seen = await self.seen()
        [group] = yaml.safe_load((ROOT / "etc/prometheus-alerts.yml").read_text())["groups"]
        names = [rule["alert"] for rule in group["rules"]]
        self.assertEqual(len(set(names)), len(names))
        for rule in group["rules"]:
            self.assertKnown(seen, rule["expr"])
            self.assertIn(rule["labels"]["severity"], ("warning", "critical"))
            self.assertEqual(set(rule["annotations"]), {"summary", "description"})

    async def test_everythingIsShown(self) -> None:
        """
        The dashboard leaves nothing out.
        """
        seen = await self.seen()
        dashboard = (ROOT / "etc/grafana-dashboard.json").read_text()
        missing = {
            name for name in seen.families if name.startswith("nanomdm_") and name not in dashboard
        }
        self.assertEqual(missing, set())
