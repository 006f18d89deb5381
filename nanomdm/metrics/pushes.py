"""
Pushes and the connections to APNs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

#: What becomes of pushes that are sent, or wait in vain for that.
SENT: Final = "sent"
BAD_TOKEN: Final = "bad_token"
CERTIFICATE: Final = "certificate"
THROTTLED: Final = "throttled"
APNS_ERROR: Final = "apns_error"
REJECTED: Final = "rejected"
NO_ANSWER: Final = "no_answer"

#: What becomes of those that are not: the enrollment is unknown or disabled, or its
#: token is known to be dead; there is no certificate; or the server can not.
UNTRIED: Final = "untried"
NO_CERTIFICATE: Final = "no_certificate"
FAILED: Final = "failed"

_RESULTS: Final = (
    *(SENT, BAD_TOKEN, CERTIFICATE, THROTTLED, APNS_ERROR, REJECTED, NO_ANSWER),
    *(UNTRIED, NO_CERTIFICATE, FAILED),
)

#: Reasons of status 400 that are about the token (Apple, "Handling notification
#: responses from APNs").
_TOKEN_REASONS: Final = frozenset({"BadDeviceToken", "DeviceTokenNotForTopic"})

#: Seconds.
_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class WatchedProvider(Protocol):
    """
    A topic: L{nanomdm.push.provider.Provider}.
    """

    @property
    def load(self) -> tuple[int, int, int]:
        """
        How many connections there are, how many streams are open on them, and how
        many may be.
        """
        ...

    @property
    def obstacle(self) -> str | None:
        """
        Why there is no connection.
        """
        ...


class PushMetrics:
    """
    What becomes of pushes.

    @param registry: has the metrics; L{None} where nobody looks at them.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        pushes = Counter(
            "nanomdm_pushes_total",
            "Pushes that came to an end, by result",
            ["result"],
            registry=registry,
        )
        self._results = {result: pushes.labels(result) for result in _RESULTS}
        self._seconds = Histogram(
            "nanomdm_push_seconds",
            "Time from the beginning of a push to its result, with all attempts",
            buckets=_BUCKETS,
            registry=registry,
        )
        self._connections = Gauge(
            "nanomdm_apns_connections", "Connections to APNs in use", registry=registry
        )
        self._streams = Gauge(
            "nanomdm_apns_streams", "Pushes that wait for the answer of APNs", registry=registry
        )
        self._limit = Gauge(
            "nanomdm_apns_streams_limit",
            "Pushes that may wait for the answer of APNs at once",
            registry=registry,
        )
        self._under_way = Gauge(
            "nanomdm_pushes_under_way", "Pushes that have no result yet", registry=registry
        )
        self._unreachable = Gauge(
            "nanomdm_apns_topics_unreachable",
            "Push topics that have no connection because the last attempt failed",
            registry=registry,
        )

    def ended(self, status: int | None, reason: str | None, failed: bool, seconds: float) -> None:
        """
        Count a push.

        @param status: the HTTP status that APNs answered, if it failed with one.
        @param reason: APNs' reason.
        @param failed: whether it did.
        @param seconds: how long it took.
        """
        self._results[_of_answer(status, reason) if failed else SENT].inc()
        self._seconds.observe(seconds)

    def not_begun(self, result: str, count: int = 1) -> None:
        """
        Count pushes that were not.

        @param result: L{UNTRIED}, L{NO_CERTIFICATE} or L{FAILED}.
        """
        self._results[result].inc(count)

    def watch(
        self, providers: Callable[[], Iterable[WatchedProvider]], under_way: Callable[[], int]
    ) -> None:
        """
        Tell of topics, and of the pushes that have no result, from now on.
        """
        self._connections.set_function(lambda: sum(one.load[0] for one in providers()))
        self._streams.set_function(lambda: sum(one.load[1] for one in providers()))
        self._limit.set_function(lambda: sum(one.load[2] for one in providers()))
        self._unreachable.set_function(lambda: sum(one.obstacle is not None for one in providers()))
        self._under_way.set_function(under_way)


def _of_answer(status: int | None, reason: str | None) -> str:
    if status is None:
        return NO_ANSWER
    if status == 410 or (status == 400 and reason in _TOKEN_REASONS):
        return BAD_TOKEN
    if status == 403:
        return CERTIFICATE
    if status == 429:
        return THROTTLED
    return APNS_ERROR if status >= 500 else REJECTED
