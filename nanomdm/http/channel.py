"""
One connection: parsing in linear time, deadlines, refusals.
"""

from __future__ import annotations

from enum import Enum, auto
from io import BytesIO
from math import inf
from typing import TYPE_CHECKING, Final

from OpenSSL.SSL import Error as TLSError
from twisted.internet.interfaces import IPushProducer, ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.web import http

from nanomdm.http.framing import ambiguous, closes, is_field
from nanomdm.http.limits import (
    BODY_RATE,
    BODY_TIME,
    CLOSE_TIME,
    HEAD_TIME,
    IDLE_TIME,
    LINGER_TIME,
    MAX_HEADER_LINES,
    MAX_HEADER_SIZE,
    Share,
)
from nanomdm.http.refusal import refusal
from nanomdm.http.request import Request, shown_host
from nanomdm.metrics.http import NO_ENDPOINT
from nanomdm.tls import openssl_words

if TYPE_CHECKING:
    from nanomdm.http.site import Site

_log: Final = Logger(namespace="nanomdm.http")


class Phase(Enum):
    """
    What a connection waits for.
    """

    IDLE = auto()
    HEAD = auto()
    BODY = auto()
    ANSWER = auto()
    CLOSE = auto()


_TIME: Final = {Phase.IDLE: IDLE_TIME, Phase.HEAD: HEAD_TIME, Phase.BODY: BODY_TIME}


class Channel(http.HTTPChannel):
    """
    One connection, from its beginning: with TLS, the handshake must end before the
    first deadline too.

    @ivar deadline: when L{expire} is due, in seconds of the site's clock.
    @ivar refused: what still arrives is thrown away.
    @ivar share: the part of the site's budget that the request under way has, or the
        answer that is being read.
    """

    MAX_LENGTH = MAX_HEADER_SIZE
    totalHeadersSize = MAX_HEADER_SIZE

    site: Site
    transport: ITCPTransport
    share: Share
    deadline = inf
    refused = False
    _phase = Phase.IDLE
    _lines = 0
    _folded = False
    _held = False
    _silent = True
    _unread: Request | None = None

    def __init__(self) -> None:
        super().__init__()
        self._partial_line = bytearray()

    @property
    def head_size(self) -> int:
        """
        Bytes of request line and headers so far.
        """
        return self._receivedHeaderSize + len(self._partial_line)

    def connectionMade(self) -> None:
        super().connectionMade()
        self.share = Share(self.site.budget)
        self._expect(Phase.IDLE, IDLE_TIME)
        self.site.connected(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        if self._phase is not Phase.ANSWER:
            # Otherwise the request is still being worked on, and gives it back itself.
            self.share.release()
        if isinstance(reason.value, TLSError):
            error = openssl_words(reason.value)
            _log.debug("TLS failed", ip=shown_host(self.getPeer()), error=error)
        self.site.disconnected(self)

    def dataReceived(self, data: bytes) -> None:
        """
        Parse what arrives.

        The parser would look through the whole of an incomplete line again with
        each segment, so it gets lines only when they are complete.
        """
        self._silent = False
        if self.refused:
            return
        if self._busyReceiving:
            # The next request's beginning, handed back while the parser runs.
            super().dataReceived(data)
            return
        size = len(data)
        if self.line_mode:
            data = self._complete_lines(data)
        if data:
            super().dataReceived(data)
            if self.line_mode and self._buffer:
                self._partial_line += self.clearLineBuffer()
        if not (self._handlingRequest or self.refused):
            self._incomplete(size)

    def _complete_lines(self, data: bytes) -> bytes:
        line = self._partial_line
        if not line and self.delimiter in data:
            return data
        start = max(len(line) - 1, 0)
        line += data
        if line.find(self.delimiter, start) < 0:
            return b""
        data = bytes(line)
        line.clear()
        return data

    def _incomplete(self, size: int) -> None:
        """
        Set deadlines for the rest, and hold a head to its limits.
        """
        if not self.line_mode:
            phase = Phase.BODY
        elif self._partial_line or self.requests:
            phase = Phase.HEAD
            if self.head_size > MAX_HEADER_SIZE:
                self._refuse_head()
                return
            if not self.share.reach(self.head_size):
                self.refuse_for_memory()
                return
        else:
            phase = Phase.IDLE
        if phase is not self._phase:
            self._expect(phase, _TIME[phase])
        elif phase is Phase.BODY:
            # Nobody comes fast to hold the memory for long then.
            longest = self.site.now() + BODY_TIME
            self.deadline = min(self.deadline + size / BODY_RATE, longest)
        if self._held:
            self.deadline = inf

    def hold_body(self) -> None:
        """
        Read no more of the body for now; the client has all the time until
        L{let_body_come}.
        """
        self._held = True
        self.deadline = inf
        self._networkProducer.pauseProducing()

    def let_body_come(self) -> None:
        """
        Read on.
        """
        if self._held:
            self._held = False
            if self._phase is Phase.BODY:
                self._expect(Phase.BODY, BODY_TIME)
            self._networkProducer.resumeProducing()

    def resumeProducing(self) -> None:
        """
        Go on writing, but not reading what is held.
        """
        super().resumeProducing()
        if self._held:
            self._networkProducer.pauseProducing()
        request, self._unread = self._unread, None
        if request is not None:
            self.requestDone(request)

    def send_continue(self) -> None:
        """
        Tell a client that waits for it to send its body (RFC 9110 section 10.1.1).
        """
        self._send100Continue()

    def lineReceived(self, line: bytes) -> None:
        """
        Take one line of a head.
        """
        self._lines += 1
        if self._lines > MAX_HEADER_LINES:
            # Each continuation of a folded header copies what is before it.
            self._refuse_head()
            return
        self._folded |= line[:1] in (b" ", b"\t")
        super().lineReceived(line)

    def headerReceived(self, line: bytes) -> bool:
        """
        Take one header, whose continuations are behind it by now.
        """
        folded, self._folded = self._folded, False
        if ambiguous(line, folded, self.requests[-1].requestHeaders):
            self._respondToBadRequestAndDisconnect()
            return False
        return bool(super().headerReceived(line))

    def rawDataReceived(self, data: bytes) -> None:
        """
        Take a part of a body, and refuse a chunk that announces itself as too large.
        """
        super().rawDataReceived(data)
        if getattr(self._transferDecoder, "length", 0) > self.site.max_body_size:
            self.refuse_body()

    def allContentReceived(self) -> None:
        """
        Let the request be answered, unless it was refused in the middle of a
        segment.
        """
        if self.refused:
            return
        if not all(map(is_field, getattr(self._transferDecoder, "_trailerHeaders", ()))):
            self._respondToBadRequestAndDisconnect()
            return
        self._lines = 0
        self._phase = Phase.ANSWER
        self.deadline = inf
        super().allContentReceived()

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:
        """
        Let somebody write an answer, but not before the client has read the last one.
        """
        super().registerProducer(producer, streaming)
        if self._waitingForTransport:
            producer.pauseProducing()

    def requestDone(self, request: Request) -> None:
        """
        Wait for the next request, or for the client to read the last answer.  One that
        came before the request's end is the last.
        """
        if request.upload is not None and not request.upload.complete:
            self.refused = True
            self._held = False
            self.requests.remove(request)
            self._networkProducer.resumeProducing()
            self._end_slowly()
            return
        self._expect(Phase.IDLE if self.persistent else Phase.CLOSE, IDLE_TIME)
        if self.persistent and self._waitingForTransport:
            # Otherwise the answers to all requests that came at once would be in memory.
            self._unread = request
            return
        if self.persistent:
            self.share.release()
        super().requestDone(request)

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        """
        Keep a connection open as HTTP/1.1 says, but not while shutting down.
        """
        connection = request.requestHeaders.getRawHeaders(b"Connection", [])
        if self.site.draining or closes(connection):
            request.setHeader(b"Connection", b"close")
            return False
        return bool(super().checkPersistence(request, version))

    def close_when_idle(self, patient: bool) -> None:
        """
        Close now, or after the answer to the request that is under way.

        @param patient: the first request may be; clients do not send it again, as they
            do with others.
        """
        if self.requests:
            self.persistent = False
        elif not (self._partial_line or (patient and self._silent)):
            self._close()

    def _close(self) -> None:
        """
        Close a connection on which nobody says anything.
        """
        self.loseConnection()
        tls: object = self.transport
        if isinstance(tls, TLSMemoryBIOProtocol) and tls.transport is not None:
            # TLS would wait for the client's farewell (RFC 8446 section 6.1), and
            # clients do not look at connections that they do not use.
            tls.transport.loseConnection()

    def _expect(self, phase: Phase, seconds: float) -> None:
        self._phase = phase
        self.deadline = self.site.now() + seconds

    def expire(self) -> None:
        """
        Act on a client that did not keep the deadline.
        """
        if self._phase in (Phase.HEAD, Phase.BODY):
            self.refuse(http.REQUEST_TIMEOUT, "the request arrived too slowly")
        elif self._phase is Phase.IDLE:
            self._expect(Phase.CLOSE, CLOSE_TIME)
            self._close()
        else:
            self.transport.abortConnection()

    def lineLengthExceeded(self, line: bytes) -> None:
        """
        Answer, where Twisted would only hang up.
        """
        self._refuse_head()

    def _refuse_head(self) -> None:
        self.refuse(http.BAD_REQUEST, "request line and headers are too long")

    def _respondToBadRequestAndDisconnect(self) -> None:
        self.refuse(http.BAD_REQUEST, "not a well-formed HTTP request")

    def refuse_body(self) -> None:
        """
        Refuse a body beyond the site's limit.
        """
        self.refuse(http.REQUEST_ENTITY_TOO_LARGE, "the body is too large")

    def refuse_for_memory(self) -> None:
        """
        Refuse what does not fit into the site's budget.
        """
        self.refuse(http.SERVICE_UNAVAILABLE, "too many large requests at once")

    def refuse(self, code: int, reason: str) -> None:
        """
        Answer without a look at the rest of the request, and close.

        Closing while the client still sends would reset the connection, and the
        client might never see the answer; so what comes is read and thrown away
        for a moment.

        @param code: the HTTP status.
        @param reason: for the log.
        """
        if self.refused:
            return
        self.refused = True
        self._log_refusal(code, reason)
        self._forget_request()
        self.transport.write(refusal(code))
        self._end_slowly()

    def _end_slowly(self) -> None:
        self._expect(Phase.CLOSE, LINGER_TIME)
        if self.isSecure():  # TLS can not close one direction only.
            self.loseConnection()
        else:
            self.transport.loseWriteConnection()

    def _log_refusal(self, code: int, reason: str) -> None:
        request = self.requests[-1] if self.requests else Request(self)
        if request.path is None and hasattr(self, "_command"):
            request.identify(self._command, self._path)
        request.notes["error"] = reason
        self.site.metrics.count(NO_ENDPOINT, request.method, code)
        request.log(code)

    def _forget_request(self) -> None:
        """
        Free what was collected, and leave the parser nothing to go on with.
        """
        for request in self.requests:
            request.content = BytesIO()
            # If it is being answered already, that is too late.
            request.gone = True
        self.share.release()
        self._partial_line.clear()
        self.clearLineBuffer()
