"""
What all clients in this server have in common: deadlines, and words for connections
that do not come about.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

T = TypeVar("T")

NOT_CONNECTED: Final = (ConnectError, DNSLookupError)
"""
What endpoints raise when there is no TCP connection.
"""


def not_connected_words(error: ConnectError | DNSLookupError) -> str:
    """
    @return: why there is no TCP connection, without a capital.
    """
    if isinstance(error, DNSLookupError):
        return "no such host"
    text = os.strerror(error.osError) if error.osError else str(error)
    return text[:1].lower() + text[1:]


def bounded(
    work: Deferred[T], clock: IReactorTime, timeout: float, late: Callable[[], Exception]
) -> Deferred[T]:
    """
    What is cancelled fails with whatever it was waiting for says about that.

    @param timeout: seconds.
    @return: fires like C{work}, but fails with L{CancelledError} whenever it is
        cancelled and with C{late()} after C{timeout}; C{work} is cancelled then.
    """

    def end(error: Exception) -> None:
        result.errback(error)
        work.cancel()

    def ended(outcome: T | Failure) -> None:
        if deadline.active():
            deadline.cancel()
        if not result.called:
            result.callback(outcome)

    result: Deferred[T] = Deferred(lambda result: end(CancelledError()))
    deadline = clock.callLater(timeout, lambda: end(late()))
    work.addBoth(ended)
    return result
