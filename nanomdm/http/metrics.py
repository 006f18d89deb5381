"""
C{/metrics}: what the server counts and measures, for Prometheus.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from nanomdm.http.api.guard import GuardedEndpoint
from nanomdm.http.api.keys import APIKeys, Role
from nanomdm.http.health import OpenEndpoint
from nanomdm.http.request import Request
from nanomdm.http.response import Response

_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4.encode()
_ROUTE: Final = "/metrics"


class MetricsEndpoint(OpenEndpoint):
    """
    For anybody.

    @param scrape: makes the text.
    """

    route = _ROUTE

    def __init__(self, scrape: Callable[[], bytes]) -> None:
        super().__init__()
        self._scrape = scrape

    async def look(self, request: Request) -> Response:
        return Response(200, self._scrape(), _TYPE)


class GuardedMetricsEndpoint(GuardedEndpoint):
    """
    For operators.

    @param scrape: makes the text.
    """

    route = _ROUTE
    quiet = True
    methods = {b"GET": Role.READ, b"HEAD": Role.READ}

    def __init__(self, keys: APIKeys, scrape: Callable[[], bytes]) -> None:
        super().__init__(keys)
        self._scrape = scrape

    async def respond_to_operator(self, request: Request) -> Response:
        return Response(200, self._scrape(), _TYPE)
