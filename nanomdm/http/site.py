"""
The HTTP server itself: limits on what comes in, and draining at the end.
"""

from __future__ import annotations

import os
from io import BytesIO
from typing import Any, Final

from attrs import Factory, define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime, ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http, server
from twisted.web.resource import IResource

#: Bytes of request line and headers: certificate chains in headers and long id
#: lists in paths both occur.
MAX_HEADER_SIZE: Final = 1 << 20

#: Seconds in which a client whose request was refused can read why.
_LINGER: Final = 5

#: Seconds without a byte after which a connection is closed.
_IDLE_TIMEOUT: Final = 60


class Request(server.Request):
    """
    A request whose body is collected in memory, up to a limit.

    @ivar trace_id: names the request in logs.
    @ivar gone: the client is no longer there to read an answer.
    @ivar notes: what the request's log line is to say besides.
    """

    channel: Channel
    site: Site

    def __init__(self, channel: Channel, *args: Any, **kwargs: Any) -> None:
        super().__init__(channel, *args, **kwargs)
        self.trace_id = os.urandom(8).hex()
        self.gone = False
        self.notes: dict[str, Any] = {}
        self.content: BytesIO = BytesIO()

    @property
    def body(self) -> bytes:
        """
        The whole body.
        """
        return self.content.getvalue()

    @property
    def peer(self) -> str:
        """
        The address that the connection comes from.
        """
        host: str = getattr(self.client, "host", "")
        return host.removeprefix("::ffff:")

    def parseCookies(self) -> None:
        """
        Nothing here uses cookies.
        """

    def gotLength(self, length: int | None) -> None:
        """
        Refuse a body that announces itself as too large, before it arrives.
        """
        # The body stays in memory: a temporary file, as Twisted would use for a
        # large one, would block the reactor.
        if length is not None and length > self.channel.site.max_body_size:
            # Otherwise the client would be told to go on.
            self.requestHeaders.removeHeader(b"Expect")
            self._refuse_body()

    def handleContentChunk(self, data: bytes) -> None:
        """
        Refuse a chunked body once it grows too large.
        """
        if self.content.tell() + len(data) > self.channel.site.max_body_size:
            self._refuse_body()
        else:
            self.content.write(data)

    def _refuse_body(self) -> None:
        self.channel.refuse(self, http.REQUEST_ENTITY_TOO_LARGE, b"Request Entity Too Large\n")

    def connectionLost(self, reason: Failure) -> None:
        """
        Note that nobody is there any more; what is under way goes on.
        """
        self.gone = True
        super().connectionLost(reason)


class Channel(http.HTTPChannel):
    """
    One connection.
    """

    MAX_LENGTH = MAX_HEADER_SIZE
    totalHeadersSize = MAX_HEADER_SIZE

    site: Site
    transport: ITCPTransport
    _refused = False
    _linger: IDelayedCall | None = None
    _log = Logger()

    def connectionMade(self) -> None:
        super().connectionMade()
        self.site.connected(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        self.site.disconnected(self)

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        """
        Keep a connection open as HTTP/1.1 says, but not while shutting down.
        """
        if self.site.draining:
            request.setHeader(b"Connection", b"close")
            return False
        return bool(super().checkPersistence(request, version))

    def close_when_idle(self) -> None:
        """
        Close now, or after the answer to the request that is under way.
        """
        if self.requests:
            self.persistent = False
        else:
            self.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        if not self._refused:
            super().dataReceived(data)

    def rawDataReceived(self, data: bytes) -> None:
        if not self._refused:
            super().rawDataReceived(data)

    def lineLengthExceeded(self, line: bytes) -> None:
        """
        Answer, where Twisted would only hang up.
        """
        self._respondToBadRequestAndDisconnect()

    def refuse(self, request: Request, code: int, body: bytes) -> None:
        """
        Answer before the request is complete, and close.

        Closing while the client still sends would reset the connection, and the
        client might never see the answer; so what comes is read and thrown away
        for a moment.
        """
        if self._refused:
            return
        self._refused = True
        self.setTimeout(None)
        self.transport.write(
            b"HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\n"
            b"Content-Length: %d\r\nConnection: close\r\n\r\n%s"
            % (code, http.RESPONSES[code], len(body), body)
        )
        self._log.warn("request refused", trace_id=request.trace_id, status=code, ip=request.peer)
        # TLS can not close one direction only.
        half_close = getattr(self.transport, "loseWriteConnection", self.transport.loseConnection)
        half_close()
        self._linger = self.callLater(_LINGER, self._stop_lingering)

    def _stop_lingering(self) -> None:
        self._linger = None
        self.transport.abortConnection()


@define(eq=False)
class _Drain:
    """
    A wait for the last connection and the last answer.
    """

    deadline: IDelayedCall
    done: Deferred[None] = Factory(Deferred)


class Site(server.Site):
    """
    The site: knows its connections and running requests, so that it can drain.

    @param root: the root of the resource tree.
    @param reactor: the clock.
    @param max_body_size: bytes that a request's body may have.
    """

    noisy = False
    requestFactory = Request
    protocol = Channel  # type: ignore[assignment]  # Twisted's would speak HTTP/2 too

    def __init__(self, root: IResource, reactor: IReactorTime, max_body_size: int) -> None:
        super().__init__(
            root, timeout=_IDLE_TIMEOUT, reactor=reactor, parsePOSTFormSubmission=False
        )
        self.max_body_size = max_body_size
        self._clock = reactor
        self._channels: set[Channel] = set()
        self._running = 0
        self._drain: _Drain | None = None

    @property
    def draining(self) -> bool:
        """
        Whether the site is shutting down.
        """
        return self._drain is not None

    def startFactory(self) -> None:
        """
        No access log of Twisted's, so no clock for it either.
        """

    def stopFactory(self) -> None:
        """
        See L{startFactory}.
        """

    def log(self, request: http.Request) -> None:
        """
        L{nanomdm.http.endpoint} logs requests, with what it knows of them.
        """

    def connected(self, channel: Channel) -> None:
        """
        A connection is there.
        """
        self._channels.add(channel)

    def disconnected(self, channel: Channel) -> None:
        """
        A connection is gone.
        """
        self._channels.discard(channel)
        self._check_drained()

    def request_started(self) -> None:
        """
        A request is being worked on, whether or not its client stays.
        """
        self._running += 1

    def request_ended(self) -> None:
        """
        See L{request_started}.
        """
        self._running -= 1
        self._check_drained()

    def drain(self, deadline: float) -> Deferred[None]:
        """
        Let requests that are under way end, and close every connection.

        @param deadline: seconds after which the remaining ones are cut off.
        @return: fires when nothing is left.
        """
        self._drain = _Drain(self._clock.callLater(deadline, self._cut_off))
        done = self._drain.done
        for channel in list(self._channels):
            channel.close_when_idle()
        self._check_drained()
        return done

    def _cut_off(self) -> None:
        for channel in list(self._channels):
            channel.transport.abortConnection()
        self._running = 0
        self._check_drained()

    def _check_drained(self) -> None:
        drain = self._drain
        if drain is None or self._channels or self._running > 0 or drain.done.called:
            return
        if drain.deadline.active():
            drain.deadline.cancel()
        drain.done.callback(None)
