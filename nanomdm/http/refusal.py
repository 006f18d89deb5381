"""
Answers without a look at the request, and connections that get nothing else.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from twisted.internet.interfaces import ISSLTransport, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web import http

from nanomdm.http.limits import LINGER_TIME, RETRY_AFTER

if TYPE_CHECKING:
    from nanomdm.http.site import Site

_TEXT: Final = (
    b"HTTP/1.1 %d %s\r\nServer: nanomdm\r\nDate: %s\r\n%s"
    b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n"
    b"Connection: close\r\n\r\n%s"
)


def refusal(code: int) -> bytes:
    """
    @param code: an HTTP status.
    @return: a whole answer, the last one of its connection.
    """
    retry = b"Retry-After: %d\r\n" % RETRY_AFTER if code == http.SERVICE_UNAVAILABLE else b""
    title = http.RESPONSES[code]
    body = title + b"\n"
    date = http.datetimeToString()
    return _TEXT % (code, title, date, retry, len(body), body)


class Refusal(Protocol):
    """
    A connection beyond the limit, which takes far less than one that is served.  It is
    answered when the client asks: an answer to nothing is an error to some.

    @ivar deadline: when L{end} is due, in seconds of the site's clock.
    """

    transport: ITCPTransport
    deadline = inf
    _answered = False

    def __init__(self, site: Site) -> None:
        self._site = site

    def connectionMade(self) -> None:
        """
        Wait for a request, but not for long.
        """
        self.deadline = self._site.now() + LINGER_TIME
        self._site.turned_away(self)

    def dataReceived(self, data: bytes) -> None:
        """
        Say that nobody serves the client, with no look at what it wants.
        """
        if self._answered:
            return
        self._answered = True
        self.transport.write(refusal(http.SERVICE_UNAVAILABLE))
        if ISSLTransport.providedBy(self.transport):  # TLS can not close one direction only.
            self.transport.loseConnection()
        else:
            self.transport.loseWriteConnection()

    def end(self) -> None:
        """
        Close, with the answer if there was none yet.
        """
        if ISSLTransport.providedBy(self.transport):
            # Closing would wait for the client.
            self.transport.abortConnection()
            return
        self.dataReceived(b"")
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        Make room for others.
        """
        self._site.forget(self)
