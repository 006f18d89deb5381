"""
A TLS server on this machine that does as much of HTTP/2 as opening a connection
takes, or less.
"""

from __future__ import annotations

from typing import Any

from cryptography import x509
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived
from OpenSSL import SSL
from OpenSSL.crypto import X509
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener, IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from nanomdm.sim.ca import DeviceIdentity


@implementer(IOpenSSLServerConnectionCreator)
class TLSServer(ServerFactory):
    """
    Takes client certificates of one root only.

    @ivar alpn: the protocol that it selects, whatever the client offers; L{None} for
        a server that knows nothing of ALPN.
    @ivar speaks: whether it sends HTTP/2's SETTINGS.
    @ivar tls: whether it does TLS at all; otherwise it is silent.
    @ivar newest: the newest version of TLS that it knows.
    @ivar server_name: the name that the last client asked for.
    @ivar chain: what the last client sent behind its certificate.
    @ivar reached: fires when the first client is there: with its handshake done, when
        this does TLS, or with its first bytes.
    @ivar requested: fires with the headers of the first request.
    @ivar left: fires with the reason when the first client is gone.
    """

    noisy = False

    def __init__(
        self,
        identity: DeviceIdentity,
        root: x509.Certificate,
        *,
        alpn: bytes | None = b"h2",
        speaks: bool = True,
        tls: bool = True,
        newest: int = SSL.TLS1_3_VERSION,
    ) -> None:
        self.speaks = speaks
        self.reached: Deferred[None] = Deferred()
        self.requested: Deferred[dict[bytes, bytes]] = Deferred()
        self.left: Deferred[str] = Deferred()
        self.server_name: bytes | None = None
        self.chain: list[x509.Certificate] = []
        self._port: Any = None
        self._tls = tls
        self._context = SSL.Context(SSL.TLS_SERVER_METHOD)
        # OpenSSL's signatures for old versions are too weak for other levels.
        self._context.set_cipher_list(b"DEFAULT@SECLEVEL=0")
        self._context.set_min_proto_version(SSL.TLS1_VERSION)
        self._context.set_max_proto_version(newest)
        self._context.use_certificate(identity.certificate)
        self._context.use_privatekey(identity.key)
        self._context.set_verify(
            SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *arguments: arguments[-1]
        )
        store = self._context.get_cert_store()
        assert store is not None
        store.add_cert(X509.from_cryptography(root))
        if alpn is not None:
            self._context.set_alpn_select_callback(lambda connection, offered: alpn)

    def serverConnectionForTLS(self, protocol: object) -> SSL.Connection:
        """
        A client begins with TLS.
        """
        return SSL.Connection(self._context, None)

    def listen(self, interface: str = "127.0.0.1") -> int:
        """
        @return: the port.
        """
        if self._tls:
            self._port = reactor.listenSSL(0, self, self, interface=interface)
        else:
            self._port = reactor.listenTCP(0, self, interface=interface)
        number: int = self._port.getHost().port
        return number

    def stop(self) -> Any:
        """
        Accept nobody any more.
        """
        return self._port.stopListening()

    def buildProtocol(self, address: object) -> Protocol:
        """
        A client came.
        """
        return _Client(self) if self._tls else _Silent(self)


class _Silent(Protocol):
    """
    Reads, and says nothing.
    """

    def __init__(self, server: TLSServer) -> None:
        self.server = server

    def dataReceived(self, data: bytes) -> None:
        if not self.server.reached.called:
            self.server.reached.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.server.left.called:
            self.server.left.callback(str(reason.value))


@implementer(IHandshakeListener)
class _Client(_Silent):
    """
    Speaks HTTP/2.
    """

    def handshakeCompleted(self) -> None:
        handle = self.transport.getHandle()
        self.server.server_name = handle.get_servername()
        self.server.chain = handle.get_peer_cert_chain(as_cryptography=True) or []
        self._http2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self._http2.initiate_connection()
        if self.server.speaks:
            self.transport.write(self._http2.data_to_send())
        super().dataReceived(b"")

    def dataReceived(self, data: bytes) -> None:
        for event in self._http2.receive_data(data):
            if isinstance(event, RequestReceived) and not self.server.requested.called:
                self.server.requested.callback(dict(event.headers))
