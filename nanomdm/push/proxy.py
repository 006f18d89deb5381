"""
A way through an HTTP proxy: C{CONNECT} (RFC 9110 section 9.3.6).
"""

from __future__ import annotations

import base64
import re
from http import HTTPStatus
from http.client import responses
from typing import Final, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from nanomdm.push.address import ProxyURL
from nanomdm.push.notification import ConnectionFailed

#: Bytes of the answer's head and of the interim responses in front of it; more are
#: refused.
MAX_HEAD: Final = 16 << 10

_START: Final = b"HTTP/1."
_STATUS: Final = re.compile(rb"HTTP/1\.[0-9] ([1-9][0-9]{2})(?:[ \r\n]|\Z)")
# A line may end in LF alone (RFC 9112 section 2.2).
_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")


@implementer(IStreamClientEndpoint)
class TunnelEndpoint:
    """
    Connects to a target through a proxy.

    @param endpoint: leads to the proxy.
    @param proxy: whose credentials are sent, and what messages call it.
    @param target: host and port to connect to.
    """

    def __init__(self, endpoint: IStreamClientEndpoint, proxy: ProxyURL, target: str) -> None:
        self._endpoint = endpoint
        self._proxy = proxy
        self._target = target

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        @return: fires with the protocol as soon as the tunnel is open.  Fails with
            L{ConnectionFailed} when the proxy does not open one, and with what the
            endpoint says when the proxy can not be reached.
        """
        factory = _TunnelFactory(protocolFactory, self._request(), self._proxy.host_and_port)
        connecting: Deferred[IProtocol] = self._endpoint.connect(factory)
        return connecting.addCallback(lambda tunnel: cast(_Tunnel, tunnel).opened)

    def _request(self) -> bytes:
        lines = [f"CONNECT {self._target} HTTP/1.1", f"Host: {self._target}"]
        if self._proxy.credentials is not None:
            basic = base64.b64encode(self._proxy.credentials).decode()
            lines.append(f"Proxy-Authorization: Basic {basic}")
        return "\r\n".join([*lines, "", ""]).encode()


@implementer(IProtocolFactory)
class _TunnelFactory:
    """
    Makes tunnels with the protocols of another factory behind them.
    """

    def __init__(self, wrapped: IProtocolFactory, request: bytes, proxy: str) -> None:
        self._wrapped = wrapped
        self._request = request
        self._proxy = proxy

    def doStart(self) -> None:
        """
        The other factory is used as long as this one.
        """
        self._wrapped.doStart()

    def doStop(self) -> None:
        """
        See L{doStart}.
        """
        self._wrapped.doStop()

    def buildProtocol(self, addr: IAddress) -> _Tunnel | None:
        """
        The proxy accepted the connection.
        """
        inner = self._wrapped.buildProtocol(addr)
        return None if inner is None else _Tunnel(inner, self._request, self._proxy)


class _Tunnel(Protocol):
    """
    Asks the proxy for the tunnel; once it is open, whatever comes is the inner
    protocol's, which writes to the transport itself.

    @ivar opened: fires with the inner protocol, or fails with L{ConnectionFailed}.
        Cancelling it closes the connection.
    """

    transport: ITCPTransport

    def __init__(self, inner: IProtocol, request: bytes, proxy: str) -> None:
        self.opened: Deferred[IProtocol] = Deferred(lambda opened: self._abort())
        self._inner = inner
        self._request = request
        self._proxy = proxy
        self._head = b""
        self._interim = 0
        self._is_open = False

    def connectionMade(self) -> None:
        """
        Ask for the tunnel.
        """
        self.transport.write(self._request)

    def dataReceived(self, data: bytes) -> None:
        """
        A piece of the proxy's answer, or of what comes through the tunnel.
        """
        if self._is_open:
            self._inner.dataReceived(data)
        elif not self.opened.called:
            self._head += data
            self._read_head()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        The proxy, or somebody behind it, closed the connection.
        """
        if self._is_open:
            self._inner.connectionLost(reason)
        elif not self.opened.called:
            self._fail("closed the connection without an answer")

    def _read_head(self) -> None:
        code = 0
        # Interim responses stand in front of the answer (RFC 9110 section 15.2).
        while code < HTTPStatus.OK:
            head, *rest = _HEAD_END.split(self._head, maxsplit=1)
            status = _STATUS.match(head)
            if not head.startswith(_START[: len(head)]) or (rest and not status):
                self._fail("answered something that is not HTTP")
                return
            if self._interim + len(head) > MAX_HEAD:
                self._fail("answered with too long a head")
                return
            if not rest or not status:
                return
            code, self._head = int(status[1]), rest[0]
            self._interim += len(head)
        self._answered(code)

    def _answered(self, code: int) -> None:
        if code < HTTPStatus.MULTIPLE_CHOICES:
            self._open()
        else:
            # Not with the proxy's own words: they may be anything.
            self._fail(f"answered {code} {responses.get(code, '')}".rstrip())

    def _open(self) -> None:
        first, self._head = self._head, b""
        self._is_open = True
        self._inner.makeConnection(self.transport)
        self.opened.callback(self._inner)
        if first:
            self._inner.dataReceived(first)

    def _fail(self, what: str) -> None:
        self.opened.errback(ConnectionFailed(f"the proxy {self._proxy} {what}"))
        self._abort()

    def _abort(self) -> None:
        self.transport.abortConnection()
