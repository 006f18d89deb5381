"""
Bodies that are in memory: of requests, and of responses up to a limit.
"""

from __future__ import annotations

from collections.abc import Awaitable

from attrs import field, frozen
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer, IResponse
from zope.interface import implementer

from nanomdm.errors import OutboundError


@frozen
class Fetched:
    """
    A response.

    @ivar status: the HTTP status.
    @ivar body: as it was sent, whatever its C{Content-Encoding}.
    """

    status: int
    headers: Headers
    body: bytes = field(repr=False)

    def header(self, name: bytes) -> bytes | None:
        """
        @return: a header's value; L{None} unless there is exactly one.
        """
        values = self.headers.getRawHeaders(name, [])
        return values[0] if len(values) == 1 else None


async def receive(sending: Awaitable[IResponse], limit: int, cut: bool = False) -> Fetched:
    """
    Read the whole response to a request.  If this is cancelled, or the response is no
    good, its connection is closed.

    @param limit: bytes of the largest body.
    @param cut: a larger one is none instead of an error.
    @raise OutboundError: the body is larger.
    """
    response = await sending
    body = _Body(limit, cut)
    response.deliverBody(body)
    return Fetched(response.code, response.headers, await body.whole)


class _Body(Protocol):
    def __init__(self, limit: int, cut: bool) -> None:
        self.whole: Deferred[bytes] = Deferred(self._close)
        self._limit = limit
        self._cut = cut
        self._size = 0
        self._pieces: list[bytes] = []

    def dataReceived(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= self._limit:
            self._pieces.append(data)
        else:
            self._close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.whole.called:
            return
        if self._size > self._limit:
            self._too_large()
        # The latter: whoever speaks HTTP/1.0 may end a body with the connection.
        elif reason.check(ResponseDone, PotentialDataLoss):
            self.whole.callback(b"".join(self._pieces))
        else:
            self.whole.errback(reason)

    def _too_large(self) -> None:
        if self._cut:
            self.whole.callback(b"")
        else:
            self.whole.errback(OutboundError(f"the answer has more than {self._limit} bytes"))

    def _close(self, cancelled: object = None) -> None:
        self._pieces.clear()
        if self.transport is not None:
            self.transport.loseConnection()


@implementer(IBodyProducer)
class WholeRequest:
    """
    A request's body, given to the connection at once.
    """

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """
        Write all of it.
        """
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None:
        """
        There is nothing to pause.
        """

    def resumeProducing(self) -> None:
        """
        See L{pauseProducing}.
        """

    def stopProducing(self) -> None:
        """
        See L{pauseProducing}.
        """
