"""
The pushes that wait for a stream.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from nanomdm.interfaces import PushResult
from nanomdm.push.notification import Answer, Notification


class Waiter(Protocol):
    """
    A push, as it gets a stream and what comes of that.
    """

    notification: Notification

    def sent(self, stream: Deferred[Answer]) -> None:
        """
        @param stream: to be cancelled, if need be; what comes of it comes by
            L{answered} or L{lost}.
        """

    def answered(self, answer: Answer) -> None:
        """
        APNs answered.
        """

    def lost(self, failure: Failure) -> None:
        """
        The stream ended without an answer.
        """

    def give_up(self, result: PushResult) -> None:
        """
        There will be no stream.
        """


class Line:
    """
    First come, first served; but those that were sent before come before all
    others.  Leaving it takes no longer when it is long.
    """

    def __init__(self) -> None:
        self._first: OrderedDict[Waiter, None] = OrderedDict()
        self._again: OrderedDict[Waiter, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._first) + len(self._again)

    def add(self, waiter: Waiter, again: bool) -> None:
        """
        @param again: it was sent before.
        """
        (self._again if again else self._first)[waiter] = None

    def withdraw(self, waiter: Waiter) -> None:
        """
        Let one go, if it is there.
        """
        self._first.pop(waiter, None)
        self._again.pop(waiter, None)

    def next(self) -> Waiter:
        """
        @return: whose turn it is; there must be one.
        """
        waiter, _ = (self._again or self._first).popitem(last=False)
        return waiter

    def give_up(self, result: PushResult) -> None:
        """
        Let all go.

        @param result: what becomes of them.
        """
        for waiter in [self.next() for _ in range(len(self))]:
            waiter.give_up(result)
