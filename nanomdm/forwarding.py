"""
Requests that are passed on to another server, and its responses as they come.

L{nanomdm.outbound} holds whole bodies and writes URLs in its own way.  Here nothing is
held and nothing is changed, so each request has a connection of its own, on which
Twisted's client protocol is spoken without its C{Agent}.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IConsumer, IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web._newclient import HTTP11ClientProtocol, Request
from twisted.web.client import ResponseDone
from twisted.web.http import NO_BODY_CODES, PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer, IResponse
from zope.interface import implementer

from nanomdm.errors import OutboundError
from nanomdm.outbound import Way

SILENCE: Final = 60.0
"""
Seconds in which something of a request or its response must move.
"""

#: Bytes of a body that are written at once.
_PIECE: Final = 1 << 16

#: What is about one connection (RFC 9110 section 7.6.1), or is made anew for the next.
_OF_THE_CONNECTION: Final = frozenset(
    {
        b"connection",
        b"content-length",
        b"keep-alive",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)


_NO_LETTER: Final = re.compile(rb"[^a-z0-9]")


def canonical(name: bytes) -> bytes:
    """
    @return: the same for all header names that are one name to some server: where headers
        become variables (RFC 3875 section 4.1.18), all but letters and digits may become
        underscores.
    """
    return _NO_LETTER.sub(b"-", name.lower())


def end_to_end(headers: Headers, connection: Iterable[bytes]) -> Headers:
    """
    @param connection: the values of C{Connection}.
    @return: what is passed on of a message's headers: not those about the connection or
        its proxies, nor C{Content-Length}.  A NUL becomes a blank (RFC 9110 section 5.5).
    """
    named = {canonical(name.strip()) for value in connection for name in value.split(b",")}
    left_out = _OF_THE_CONNECTION | named
    passed = Headers()
    for name, values in headers.getAllRawHeaders():
        common = canonical(name)
        # What calls itself just "Proxy" becomes HTTP_PROXY in CGI programs.
        if common not in left_out and common.partition(b"-")[0] != b"proxy":
            passed.setRawHeaders(name, [value.replace(b"\0", b" ") for value in values])
    return passed


@frozen
class Head:
    """
    What a response begins with.

    @ivar code: the HTTP status.
    @ivar headers: those that are passed on.
    @ivar length: C{Content-Length}; L{None} if there is none.
    """

    code: int
    headers: Headers
    length: int | None


class Exchange:
    """
    One request to another server and its response, which end when nothing moves for
    L{SILENCE}.

    @param way: leads to the server.
    @param clock: measures L{SILENCE}.
    """

    def __init__(self, way: Way, clock: IReactorTime) -> None:
        self._way = way
        self._clock = clock
        self._connecting: Deferred[Any] | None = None
        self._client: Any = None
        self._response: IResponse | None = None
        self._body: _Body | None = None
        self._given_up: OutboundError | None = None
        self._silence: IDelayedCall | None = None
        self._held = False

    async def send(
        self, method: bytes, target: bytes, headers: Headers, body: IBodyProducer | None
    ) -> Head:
        """
        @param target: path and query, sent as they are.
        @param headers: C{Host} too, but none about the body's length.
        @param body: should call L{moved} now and then.
        @return: the head of the response; L{receive} is to follow, or L{give_up}.
        @raise OutboundError: there is no response.
        """
        self._silence = self._clock.callLater(SILENCE, self._expired)
        try:
            connecting: Deferred[Any] = self._way.connect(Factory.forProtocol(_Client))
            self._connecting = connecting
            client = self._client = await connecting
            self._response = await client.request(Request(method, target, headers, body))
            return _head(method, self._response, client.connection_header)
        except Exception as error:
            raise self._failed(error) from None

    @property
    def received(self) -> int:
        """
        Bytes of the response's body that were passed on.
        """
        return 0 if self._body is None else self._body.size

    async def receive(self, consumer: IConsumer) -> None:
        """
        Pass the response's body on.

        @param consumer: gets it; when it pauses, so does the server.
        @raise OutboundError: what came is not all of it.
        """
        assert self._response is not None
        body = self._body = _Body(self, consumer.write)
        try:
            self._response.deliverBody(body)
            # Only now, because delivery begins with resuming.
            consumer.registerProducer(body, True)
            try:
                [reason] = await body.ended
            finally:
                consumer.unregisterProducer()
            if not _is_whole(reason, self._client.lost):
                raise OutboundError("the connection was closed in the middle of the answer")
        except Exception as error:
            raise self._failed(error) from None
        self._stop_clock()

    def moved(self) -> None:
        """
        Note that a part of either body was passed on.
        """
        if self._silence is not None:
            self._silence.reset(SILENCE)

    def hold(self, held: bool) -> None:
        """
        Note whether the response waits for its consumer.
        """
        self._held = held
        self.moved()

    def _expired(self) -> None:
        self._silence = None
        if self._held:
            self.give_up(OutboundError(f"the client read nothing for {SILENCE:g} s"))
        else:
            self._given_up = self._way.error(OutboundError(f"nothing came for {SILENCE:g} s"))
            self._close()

    def give_up(self, error: OutboundError) -> None:
        """
        End it, and close the connection.

        @param error: what L{send} or L{receive} is to raise.
        """
        if self._given_up is None:
            self._given_up = error
        self._close()

    def _close(self) -> None:
        self._stop_clock()
        if self._client is not None:
            self._client.abort_connection()
        elif self._connecting is not None:
            self._connecting.cancel()

    def _failed(self, error: Exception) -> Exception:
        """
        @return: what to raise instead.
        """
        self._close()
        return self._given_up or self._way.error(error) or error

    def _stop_clock(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None


def _head(method: bytes, response: Any, connection: Iterable[bytes]) -> Head:
    if not 200 <= response.code <= 999:
        raise OutboundError(f"the answer has the status {response.code}")
    length = response.length if isinstance(response.length, int) else None
    if method == b"HEAD":
        # There is no body, but this is of the one that GET would have.
        announced = response.headers.getRawHeaders(b"Content-Length", [b""])[0]
        length = int(announced) if announced.isdigit() else None
    elif response.code in NO_BODY_CODES:
        length = None
    return Head(response.code, end_to_end(response.headers, connection), length)


def _is_whole(reason: Failure, lost: Failure | None) -> bool:
    """
    @param reason: why a response's body ended.
    @param lost: why the connection ended, if it has.
    """
    if reason.check(PotentialDataLoss):
        # The end of the connection is that of the body (RFC 9112 section 6.3).
        return lost is not None and lost.check(ConnectionDone) is not None
    return reason.check(ResponseDone) is not None


class _Client(HTTP11ClientProtocol):
    """
    @ivar connection_header: the values of C{Connection} in the response, which
        Twisted takes out.
    @ivar lost: why the connection ended, once it has.
    """

    transport: Any

    def __init__(self) -> None:
        super().__init__()
        self.connection_header: list[bytes] = []
        self.lost: Failure | None = None

    def request(self, request: Request) -> Deferred[IResponse]:
        responding = super().request(request)
        parser: Any = self._parser

        def look(response: IResponse) -> IResponse:
            self.connection_header = parser.connHeaders.getRawHeaders(b"Connection", [])
            return response

        return responding.addCallback(look)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason
        super().connectionLost(reason)

    def abort_connection(self) -> None:
        if self.lost is None:
            self.transport.abortConnection()


@implementer(IPushProducer)
class _Body(Protocol):
    """
    A response's body on its way to a consumer.

    @ivar size: bytes so far.
    @ivar ended: fires with the reason, which may be a good one.
    """

    transport: Any

    def __init__(self, exchange: Exchange, write: Callable[[bytes], object]) -> None:
        self.size = 0
        self.ended: Deferred[tuple[Failure]] = Deferred()
        self._exchange = exchange
        self._write = write

    def dataReceived(self, data: bytes) -> None:
        self._exchange.moved()
        self.size += len(data)
        self._write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended.callback((reason,))

    def pauseProducing(self) -> None:
        self._exchange.hold(True)
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self._exchange.hold(False)
        self.transport.resumeProducing()

    def stopProducing(self) -> None:
        self._exchange.give_up(OutboundError("the client went away"))


@implementer(IBodyProducer)
class WholeBody:
    """
    A request's body that is all there, sent as fast as the server takes it.

    @param moved: called whenever it took some.
    """

    def __init__(self, body: bytes, moved: Callable[[], None]) -> None:
        self.length = len(body)
        self._body = memoryview(body)
        self._moved = moved
        self._written = 0
        self._paused = False
        self._consumer: IConsumer | None = None
        self._done: Deferred[None] = Deferred()

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """
        See L{IBodyProducer}.
        """
        self._consumer = consumer
        self.resumeProducing()
        return self._done

    def resumeProducing(self) -> None:
        """
        Write until there is a pause, or no more.
        """
        self._paused = False
        self._moved()
        while not self._paused and self._consumer is not None:
            piece = self._body[self._written : self._written + _PIECE]
            self._written += len(piece)
            self._consumer.write(bytes(piece))
            if self._written == self.length:
                self._consumer, self._body = None, memoryview(b"")
                self._done.callback(None)

    def pauseProducing(self) -> None:
        """
        See L{IPushProducer}.
        """
        self._paused = True

    def stopProducing(self) -> None:
        """
        Nobody takes it any more.
        """
        self._consumer = None
