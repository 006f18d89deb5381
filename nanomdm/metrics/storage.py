"""
Databases: calls, the transactions that they are gathered in, and connections.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from attrs import frozen
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

#: Calls in a transaction; see L{nanomdm.storage.batcher.Batcher}.
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)

#: Seconds.
_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class BatchMetrics:
    """
    The transactions of one kind on one database.
    """

    def __init__(
        self, size: Histogram, wait: Histogram, seconds: Histogram, failed: Counter, waiting: Gauge
    ) -> None:
        self._size = size
        self._wait = wait
        self._seconds = seconds
        self._failed = failed
        self._waiting = waiting

    def ended(self, size: int, waited: float, seconds: float, failed: bool) -> None:
        """
        A transaction has ended.

        @param size: how many calls were in it.
        @param waited: seconds for which the first of them waited until it began.
        @param seconds: how long it took, with repetitions.
        """
        self._size.observe(size)
        self._wait.observe(waited)
        self._seconds.observe(seconds)
        if failed:
            self._failed.inc()

    def watch(self, waiting: Callable[[], int]) -> None:
        """
        @param waiting: says how many calls wait for a transaction.
        """
        self._waiting.set_function(waiting)


class PoolMetrics:
    """
    A pool of connections.
    """

    def __init__(self, size: Gauge, connections: Gauge, used: Gauge, wait: Histogram) -> None:
        self._size = size
        self._connections = connections
        self._used = used
        self._wait = wait

    def got(self, waited: float) -> None:
        """
        A transaction has got a connection.  Any thread may say so.

        @param waited: seconds for which it waited.
        """
        self._wait.observe(waited)

    def watch(self, size: int, connections: Callable[[], int], used: Callable[[], int]) -> None:
        """
        @param size: how many connections there may be.
        @param connections: says how many are open.
        @param used: says how many have a transaction.
        """
        self._size.set(size)
        self._connections.set_function(connections)
        self._used.set_function(used)


class StorageMetrics:
    """
    All databases of a server.

    @param registry: has the metrics; L{None} where nobody looks at them.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        kinds, pools = ["database", "kind"], ["database", "pool"]
        self._size = Histogram(
            "nanomdm_storage_batch_calls",
            "Calls gathered in one transaction",
            kinds,
            buckets=_SIZES,
            registry=registry,
        )
        self._wait = Histogram(
            "nanomdm_storage_batch_wait_seconds",
            "Time that the first call of a transaction waited for it to begin",
            kinds,
            buckets=_BUCKETS,
            registry=registry,
        )
        self._seconds = Histogram(
            "nanomdm_storage_transaction_seconds",
            "Time of a transaction, with repetitions and the wait for a connection",
            kinds,
            buckets=_BUCKETS,
            registry=registry,
        )
        self._failed = Counter(
            "nanomdm_storage_transactions_failed_total",
            "Transactions that failed",
            kinds,
            registry=registry,
        )
        self._waiting = Gauge(
            "nanomdm_storage_calls_waiting",
            "Calls that wait for a transaction",
            kinds,
            registry=registry,
        )
        self._pool_size = Gauge(
            "nanomdm_storage_pool_size",
            "Connections that a pool may have",
            pools,
            registry=registry,
        )
        self._pool_connections = Gauge(
            "nanomdm_storage_pool_connections",
            "Connections of a pool that are open",
            pools,
            registry=registry,
        )
        self._pool_used = Gauge(
            "nanomdm_storage_pool_used",
            "Connections of a pool that have a transaction",
            pools,
            registry=registry,
        )
        self._pool_wait = Histogram(
            "nanomdm_storage_pool_wait_seconds",
            "Time that a transaction waited for a connection, or for one to be opened",
            pools,
            buckets=_BUCKETS,
            registry=registry,
        )

    def database(self, name: str) -> DatabaseMetrics:
        """
        @param name: tells the database from the server's others.
        """
        return DatabaseMetrics(partial(self._batches, name), partial(self._pool, name))

    def _batches(self, *labels: str) -> BatchMetrics:
        return BatchMetrics(
            self._size.labels(*labels),
            self._wait.labels(*labels),
            self._seconds.labels(*labels),
            self._failed.labels(*labels),
            self._waiting.labels(*labels),
        )

    def _pool(self, *labels: str) -> PoolMetrics:
        return PoolMetrics(
            self._pool_size.labels(*labels),
            self._pool_connections.labels(*labels),
            self._pool_used.labels(*labels),
            self._pool_wait.labels(*labels),
        )


@frozen
class DatabaseMetrics:
    """
    One database.

    @ivar batches: makes the metrics of a kind of transactions: of what calls them.
    @ivar pool: makes those of a pool, from what it is for.
    """

    batches: Callable[[str], BatchMetrics]
    pool: Callable[[str], PoolMetrics]


def unseen_database() -> DatabaseMetrics:
    """
    @return: metrics that nobody looks at.
    """
    return StorageMetrics().database("")
