"""
Opens connections to APNs: addresses, TCP, a proxy if there is one, TLS, and HTTP/2
up to the server's settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

from attrs import Factory as AttrsFactory
from attrs import frozen
from cryptography import x509
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from zope.interface import Interface, implementer

from nanomdm.crypto.pushcert import PushCertificate
from nanomdm.network import NOT_CONNECTED, bounded, not_connected_words
from nanomdm.push.address import APNsURL, ProxyURL
from nanomdm.push.connection import APNsConnection
from nanomdm.push.notification import ConnectionFailed
from nanomdm.push.proxy import TunnelEndpoint
from nanomdm.tls import CertificateUnusable, ClientTLS, client_options

#: Seconds for everything until a connection is open.
TIMEOUT: Final = 10


class IConnector(Interface):
    """
    Opens connections to APNs.
    """

    def connect(certificate: PushCertificate) -> Deferred[APNsConnection]:
        """
        @param certificate: proves for which topic this side may push.
        @return: an open connection.  Fails with L{ConnectionFailed} within
            L{TIMEOUT}.  Cancelling it leaves nothing open.
        """


@implementer(IConnector)
@frozen(eq=False)
class APNsConnector:
    """
    Opens connections to one URL.

    @ivar reactor: connects and resolves names.
    @ivar url: where APNs is.
    @ivar trust: the roots that the server's certificate must chain to; those of the
        system when there is none.
    @ivar proxy: the HTTP proxy to go through, which then resolves the name.
    @ivar clock: measures all times; the reactor unless it is given.
    """

    reactor: Any
    url: APNsURL
    trust: Sequence[x509.Certificate] = ()
    proxy: ProxyURL | None = None
    clock: IReactorTime = AttrsFactory(lambda self: self.reactor, takes_self=True)

    def connect(self, certificate: PushCertificate) -> Deferred[APNsConnection]:
        """
        See L{IConnector.connect}.
        """
        attempt = _Attempt(self, certificate)
        opening = Deferred.fromCoroutine(attempt.open())
        return bounded(opening, self.clock, TIMEOUT, attempt.timed_out)

    def failed(self, reason: str, refused: bool = False) -> ConnectionFailed:
        """
        @return: an error that names the URL.
        """
        return ConnectionFailed(f"{self.url.host_and_port}: {reason}", refused)

    def endpoint(self) -> IStreamClientEndpoint:
        """
        @return: leads to the URL's host and port.
        """
        nearest = self.proxy or self.url
        endpoint = HostnameEndpoint(self.reactor, nearest.host, nearest.port, TIMEOUT)
        if self.proxy is None:
            return endpoint
        return TunnelEndpoint(endpoint, self.proxy, self.url.host_and_port)


class _Attempt:
    """
    One connection that is being opened.
    """

    def __init__(self, connector: APNsConnector, certificate: PushCertificate) -> None:
        self._connector = connector
        self._certificate = certificate
        self._is_connected = False

    def timed_out(self) -> ConnectionFailed:
        """
        @return: what is to be said when it took too long.
        """
        if self._is_connected:
            missing = "TLS and HTTP/2 are not ready"
        elif self._connector.proxy is not None:
            missing = f"no way through the proxy {self._connector.proxy.host_and_port}"
        else:
            missing = "not connected"
        return self._connector.failed(f"timed out: {missing} after {TIMEOUT} s")

    async def open(self) -> APNsConnection:
        """
        @raise ConnectionFailed: that is not possible.
        """
        try:
            return await self._open()
        except ConnectionFailed as error:
            raise self._connector.failed(str(error), error.refused) from error

    async def _open(self) -> APNsConnection:
        tls = self._tls()
        connection = await self._connect(tls)
        self._is_connected = True
        try:
            await connection.opened
        except ConnectionFailed:
            if tls.refused is None:
                raise
            reason = f"the server's certificate is not accepted: {tls.refused}"
            raise ConnectionFailed(reason) from None
        return connection

    def _tls(self) -> ClientTLS:
        """
        TLS 1.2 or newer with ALPN C{h2} (RFC 9113 sections 3.2 and 9.2) and a client
        certificate (Apple, "Establishing a certificate-based connection to APNs").
        """
        trust = self._connector.trust
        try:
            options = client_options(
                trust, system=not trust, certificate=self._certificate, protocols=[b"h2"]
            )
        except CertificateUnusable as error:
            raise ConnectionFailed(str(error)) from None
        return ClientTLS(self._connector.url.host, options)

    async def _connect(self, tls: ClientTLS) -> APNsConnection:
        connector = self._connector
        endpoint = wrapClientTLS(tls, connector.endpoint(), connector.reactor)
        factory = Factory.forProtocol(
            lambda: APNsConnection(connector.clock, connector.url.authority)
        )
        factory.noisy = False
        try:
            return cast(APNsConnection, await endpoint.connect(factory))
        except NOT_CONNECTED as error:
            reason = not_connected_words(error)
            if connector.proxy is not None:
                reason = f"the proxy {connector.proxy.host_and_port}: {reason}"
            raise ConnectionFailed(reason) from error
