"""
A pusher that wakes nobody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from nanomdm.interfaces import IPusher, PushResult


@implementer(IPusher)
class RecordingPusher:
    """
    Notes whom it was to wake.

    @ivar pushed: the ids of each call.
    @ivar forced: C{force} of each call.
    @ivar results: what becomes of pushes, where not all is well.
    @ivar error: what pushing fails with.
    """

    def __init__(self) -> None:
        self.pushed: list[list[str]] = []
        self.forced: list[bool] = []
        self.results: dict[str, PushResult] = {}
        self.error: Exception | None = None

    def push(
        self, ids: Sequence[str], force: bool = False, again: bool = False
    ) -> Deferred[Mapping[str, PushResult]]:
        """
        Note it.
        """
        self.pushed.append(list(ids))
        self.forced.append(force)
        if self.error is not None:
            return fail(self.error)
        return succeed({id: self.results.get(id, PushResult(id=f"apns-{id}")) for id in ids})
