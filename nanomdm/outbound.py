"""
The HTTP client for whatever the server asks of others: webhook receivers, declarative
management, tokens, Apple.

treq's client would always decode C{gzip}, but signatures are over what was sent, and a
limit is one of what arrives.  So this is Twisted's C{Agent}, which follows no redirects
and knows nothing of cookies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from attrs import frozen
from cryptography import x509
from OpenSSL.SSL import Error as OpenSSLError
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, gatherResults
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectionClosed
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.ssl import CertificateOptions
from twisted.web.client import (
    URI,
    Agent,
    HTTPConnectionPool,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from nanomdm import __version__
from nanomdm.bodies import Fetched, WholeRequest, receive
from nanomdm.crypto.pushcert import PushCertificate
from nanomdm.errors import OutboundError, Overloaded
from nanomdm.lines import LineEndpoint, Lines
from nanomdm.network import NOT_CONNECTED, bounded, not_connected_words
from nanomdm.tls import ClientTLS, client_options, openssl_words

CONNECT_TIMEOUT: Final = 5.0
"""
Seconds for finding a name's addresses and opening a TCP connection.
"""

#: Seconds that a connection is kept for the next request.  Common servers close theirs
#: after five seconds or more, and a request must not meet with that.
_IDLE: Final = 4.0

#: Connections to one server that are kept for the next request.
_KEPT: Final = 100

__all__ = ["Fetched", "Lane", "OutboundClient", "OutboundError", "Way", "open_client"]

_FAILURES: Final = (*NOT_CONNECTED, OpenSSLError, RequestGenerationFailed, ResponseFailed)
_UNANSWERED: Final = (RequestTransmissionFailed, ResponseNeverReceived)


def open_client(
    reactor: Any,
    ca: Sequence[x509.Certificate] = (),
    connect_timeout: float = CONNECT_TIMEOUT,
    certificate: PushCertificate | None = None,
    clock: IReactorTime | None = None,
) -> OutboundClient:
    """
    @param reactor: connects and resolves names.
    @param ca: roots for C{https}, besides those of the system.
    @param connect_timeout: seconds, see L{CONNECT_TIMEOUT}.
    @param certificate: this side's, for servers that ask for one.
    @param clock: measures all times; the reactor unless it is given.
    @raise CertificateUnusable: OpenSSL does not take the certificate or the key.
    """
    options = client_options(ca, system=True, certificate=certificate)
    return OutboundClient(reactor, options, connect_timeout, clock or reactor)


class OutboundClient:
    """
    Sends requests, and keeps connections for a moment.

    @param reactor: connects and resolves names.
    @param connect_timeout: seconds, see L{CONNECT_TIMEOUT}.
    @ivar clock: measures all times.
    """

    def __init__(
        self, reactor: Any, options: CertificateOptions, connect_timeout: float, clock: IReactorTime
    ) -> None:
        self.clock = clock
        self._reactor = reactor
        self._options = options
        self._connect_timeout = connect_timeout
        self._pool = HTTPConnectionPool(clock)
        self._pool.maxPersistentPerHost = _KEPT
        self._pool.cachedConnectionTimeout = _IDLE  # type: ignore[assignment]  # of an int
        self._lines = Lines(clock)
        self._under_way: set[Deferred[Fetched]] = set()
        self._closed = False

    async def fetch(
        self,
        method: str,
        url: str,
        headers: Mapping[bytes, bytes],
        body: bytes | None,
        *,
        timeout: float,
        limit: int,
        cut: bool = False,
    ) -> Fetched:
        """
        Send a request and read the whole response.  Cancelling it, or its end for any
        other reason, leaves nothing behind.  If the end of a kept connection crosses the
        request, that is sent again: so it may arrive twice.

        @param url: from L{nanomdm.values.http_url}, or below it.
        @param headers: one value each.  C{Host}, C{User-Agent} and what frames the body
            are added.
        @param body: L{None} for none.
        @param timeout: seconds for all of it.
        @param limit: bytes of the largest response body.
        @param cut: a larger one is none instead of an error, for those whom the status
            tells enough.
        @return: whatever came, of any status.
        @raise OutboundError: there was no complete response.
        """
        if self._closed:
            raise OutboundError(f"{_place(url)}: not asked, this server stops")
        sent = Headers({name: [value] for name, value in headers.items()})
        sent.setRawHeaders(b"User-Agent", [b"nanomdm/" + __version__.encode()])
        sending = self._send(method.encode(), url.encode(), sent, body, limit, cut)
        work = bounded(
            Deferred.fromCoroutine(sending),
            self.clock,
            timeout,
            lambda: OutboundError(f"no whole answer within {timeout:g} s"),
        )
        self._under_way.add(work)
        try:
            return await work
        except CancelledError:
            if not self._closed:
                raise
            raise OutboundError(f"{_place(url)}: given up, this server stops") from None
        except OutboundError as error:
            raise OutboundError(f"{_place(url)}: {error}") from error
        finally:
            self._under_way.discard(work)

    async def _send(
        self,
        method: bytes,
        url: bytes,
        headers: Headers,
        body: bytes | None,
        limit: int,
        cut: bool,
    ) -> Fetched:
        while True:
            doors = _Doors(self._reactor, self._options, self._connect_timeout, self._lines)
            agent = Agent.usingEndpointFactory(self._reactor, doors, self._pool)
            producer = None if body is None else WholeRequest(body)
            try:
                return await receive(agent.request(method, url, headers, producer), limit, cut)
            except _UNANSWERED as error:
                if any(reason.check(CancelledError) for reason in error.reasons):
                    raise CancelledError() from error
                if doors.opened:
                    raise OutboundError(_words(error, doors.tls)) from error
                # The connection was kept from before: its end and the request crossed.
            except _FAILURES as error:
                raise OutboundError(_words(error, doors.tls)) from error

    def way(self, url: str) -> Way:
        """
        @param url: as for L{fetch}.
        """
        doors = _Doors(self._reactor, self._options, self._connect_timeout, self._lines)
        return Way(url, doors)

    def close(self) -> Deferred[None]:
        """
        End everything that is under way and close all connections.

        @return: fires when they are closed.
        """
        self._closed = True
        for work in list(self._under_way):
            work.cancel()
        closed = [self._pool.closeCachedConnections(), self._lines.abort()]
        return gatherResults(closed).addCallback(lambda ignored: None)


@frozen
class Way:
    """
    Leads to a server, for those who need a connection of their own.  L{OutboundClient.close}
    closes it too.
    """

    _url: str
    _doors: _Doors

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        @param factory: of C{HTTP11ClientProtocol}s.
        """
        return self._doors.endpointForURI(URI.fromBytes(self._url.encode())).connect(factory)

    def error(self, error: Exception) -> OutboundError | None:
        """
        @param error: what connecting or an C{HTTP11ClientProtocol} raised.
        @return: the same in words; L{None} if it is not about the server.
        """
        if isinstance(error, OutboundError):
            return OutboundError(f"{_place(self._url)}: {error}")
        if isinstance(error, (*_FAILURES, *_UNANSWERED)):
            return OutboundError(f"{_place(self._url)}: {_words(error, self._doors.tls)}")
        return None


class Lane:
    """
    A limited part of a client's requests, so that who does not answer takes no more
    than that.

    @param http: sends the requests.
    @param running: how many requests are under way at once.
    @param waiting: how many more wait for that.
    """

    def __init__(self, http: OutboundClient, running: int = 100, waiting: int = 1000) -> None:
        self._http = http
        self._turns = DeferredSemaphore(running)
        self._waiting = waiting

    async def fetch(
        self,
        method: str,
        url: str,
        headers: Mapping[bytes, bytes],
        body: bytes | None,
        *,
        timeout: float,
        limit: int,
    ) -> Fetched:
        """
        See L{OutboundClient.fetch}; the time of waiting counts too.

        @raise Overloaded: too many wait.
        """
        if not self._turns.tokens and len(self._turns.waiting) >= self._waiting:
            raise Overloaded(f"too many requests wait for {_place(url)}")

        async def in_turn() -> Fetched:
            async with self._turns:
                return await self._http.fetch(
                    method, url, headers, body, timeout=timeout, limit=limit
                )

        def late() -> OutboundError:
            return OutboundError(f"{_place(url)}: no whole answer within {timeout:g} s")

        return await bounded(Deferred.fromCoroutine(in_turn()), self._http.clock, timeout, late)


@implementer(IAgentEndpointFactory)
class _Doors:
    """
    Leads one request to where its URL says.

    @ivar tls: what its connection is verified by, if that is to be.
    """

    def __init__(
        self, reactor: Any, options: CertificateOptions, timeout: float, lines: Lines
    ) -> None:
        self.tls: ClientTLS | None = None
        self._reactor = reactor
        self._options = options
        self._timeout = timeout
        self._lines = lines

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        # Its own timeout is one for each address of the host, and without the search
        # for them.
        endpoint: IStreamClientEndpoint = HostnameEndpoint(
            self._reactor, uri.host, uri.port, self._timeout * 2
        )
        if uri.scheme == b"https":
            self.tls = ClientTLS(uri.host.decode(), self._options)
            endpoint = wrapClientTLS(self.tls, endpoint, self._lines.clock)
        self._endpoint = LineEndpoint(endpoint, self._lines, self._timeout)
        return self._endpoint

    @property
    def opened(self) -> bool:
        """
        Whether the request needed a new connection.
        """
        return self._endpoint.used


def _place(url: str) -> str:
    return urlsplit(url).netloc


def _words(error: BaseException, tls: ClientTLS | None) -> str:
    """
    @return: why there is no response.
    """
    if tls is not None and tls.refused is not None:
        return f"the server's certificate is not accepted: {tls.refused}"
    while reasons := getattr(error, "reasons", None):
        error = reasons[0].value
    if isinstance(error, NOT_CONNECTED):
        return not_connected_words(error)
    if isinstance(error, OpenSSLError):
        return f"TLS failed: {openssl_words(error)}"
    if isinstance(error, ConnectionClosed):
        return "the connection was closed before the whole answer was there"
    return "the answer is not HTTP"
