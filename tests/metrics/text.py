"""
Reading what a scrape says.
"""

from __future__ import annotations

from attrs import frozen
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families


@frozen
class Family:
    """
    A metric, whatever its labels.

    @ivar name: as it is in queries, but for what histograms add.
    @ivar labels: the names of its labels.
    """

    name: str
    type: str
    help: str
    labels: tuple[str, ...]


class Scrape:
    """
    One scrape.

    @ivar families: the metrics by name.
    """

    def __init__(self, text: bytes) -> None:
        self.families: dict[str, Family] = {}
        self._values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for metric in text_string_to_metric_families(text.decode()):
            name = f"{metric.name}_total" if metric.type == "counter" else metric.name
            labels = {label for sample in metric.samples for label in sample.labels} - {"le"}
            self.families[name] = Family(
                name, metric.type, metric.documentation, tuple(sorted(labels))
            )
            for sample in metric.samples:
                self._values[sample.name, frozenset(sample.labels.items())] = sample.value

    def value(self, name: str, /, **labels: str) -> float | None:
        """
        @return: a sample; L{None} if it is not there.
        """
        return self._values.get((name, frozenset(labels.items())))

    def labels(self, name: str) -> set[frozenset[tuple[str, str]]]:
        """
        @return: the labels of all samples of a name.
        """
        return {labels for one, labels in self._values if one == name}

    @property
    def names(self) -> set[str]:
        """
        What a query can ask for.
        """
        return {name for name, _ in self._values} | set(self.families)


def scrape(registry: CollectorRegistry) -> Scrape:
    """
    @return: what a registry has.
    """
    return Scrape(generate_latest(registry))
