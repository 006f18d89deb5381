"""
What tells how the server is, put together.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.endpoints import serverFromString
from twisted.web.resource import Resource

from nanomdm.http.api.keys import APIKeys
from nanomdm.http.endpoint import Folder
from nanomdm.http.health import HealthEndpoint, Readiness, ReadyEndpoint
from nanomdm.http.metrics import GuardedMetricsEndpoint, MetricsEndpoint
from nanomdm.http.site import Site
from nanomdm.interfaces import IStorage
from nanomdm.listen import endpoint_description
from nanomdm.listener import Listener
from nanomdm.metrics.registry import Metrics
from nanomdm.metrics.stored import StoredNumbers

#: Bytes of a request's body, of all requests in memory, and connections at once, where
#: only scrapers are to come.
_BODY: Final = 1 << 12
_MEMORY: Final = 1 << 20
_CONNECTIONS: Final = 100


class Monitoring:
    """
    The endpoints for scrapers and probes, and what they look at.

    @param metrics: what C{/metrics} shows.
    @param webhook: whether the server has one.
    @ivar numbers: reads some of that, as long as it runs.
    @ivar readiness: what C{/readyz} shows.
    """

    def __init__(self, metrics: Metrics, storage: IStorage, reactor: Any, webhook: bool) -> None:
        self._metrics = metrics
        self._reactor = reactor
        certificates = metrics.certificates
        self.numbers = StoredNumbers(storage, metrics.registry, certificates, reactor, webhook)
        self.readiness = Readiness(storage.ping, reactor)
        metrics.ready.set_function(lambda: self.readiness.ready)

    def add_probes(self, root: Resource) -> None:
        """
        Put C{/healthz} and C{/readyz} into a resource tree.
        """
        root.putChild(b"healthz", HealthEndpoint())
        root.putChild(b"readyz", ReadyEndpoint(self.readiness))

    def add_guarded(self, root: Resource, keys: APIKeys) -> None:
        """
        Put C{/metrics} into a resource tree, for operators.
        """
        root.putChild(b"metrics", GuardedMetricsEndpoint(keys, self._scrape))

    def listener(self, address: str) -> Listener:
        """
        @param address: what C{--metrics-listen} says.
        @return: serves all of it to anybody, with limits of its own.
        """
        root = Folder()
        self.add_probes(root)
        root.putChild(b"metrics", MetricsEndpoint(self._scrape))
        site = Site(root, self._reactor, _BODY, _CONNECTIONS, _MEMORY, self._metrics.http)
        endpoint = serverFromString(self._reactor, endpoint_description(address))
        return Listener(f"--metrics-listen: {address}", endpoint, site)

    def _scrape(self) -> bytes:
        text = self._metrics.text()
        # Afterwards, so that it does not see itself at work.
        self.numbers.scraped()
        self.readiness.look()
        return text
