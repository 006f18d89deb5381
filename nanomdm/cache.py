"""
A small bounded cache with an optional lifetime for its entries.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LRUCache(Generic[K, V]):
    """
    Remembers the C{size} entries that were used last.  Threads may share one.

    @param size: number of entries kept, at least 1.
    @param ttl: seconds after which an entry is forgotten; L{None} keeps it
        until it is pushed out.
    @param seconds: the clock, as C{IReactorTime.seconds}; only read when there
        is a C{ttl}.
    """

    def __init__(
        self,
        size: int,
        ttl: float | None = None,
        seconds: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._size = size
        self._ttl = ttl
        self._seconds = seconds
        self._entries: OrderedDict[K, tuple[float, V]] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """
        @return: the value, or L{None} when it is unknown or too old.
        """
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            if self._ttl is not None and entry[0] <= self._seconds():
                del self._entries[key]
                return None
            self._entries.move_to_end(key)
            return entry[1]

    def discard(self, key: K) -> None:
        """
        Forget an entry, if it is there.
        """
        with self._lock:
            self._entries.pop(key, None)

    def put(self, key: K, value: V) -> None:
        """
        Remember C{value}, and forget the entry unused for longest when full.
        """
        expires = 0.0 if self._ttl is None else self._seconds() + self._ttl
        with self._lock:
            self._entries[key] = (expires, value)
            self._entries.move_to_end(key)
            if len(self._entries) > self._size:
                self._entries.popitem(last=False)
