"""
The server's own TLS: C{--tls-cert}, C{--tls-key} and C{--tls-client-ca}, whose
files are read again at SIGHUP.

Clients are asked for a certificate with C{--tls-client-ca} and need not have one:
the API is used, and enrollment profiles are fetched, without.  Whose certificate it
is is none of TLS's business either: a device whose handshake fails takes the server
for dead, so any certificate gets through here, and
L{TLSIdentity<nanomdm.http.identity.TLSIdentity>} answers for those that are no good.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IListeningPort,
    IOpenSSLServerConnectionCreator,
    IProtocolFactory,
    IReactorTime,
    IStreamServerEndpoint,
    ITCPTransport,
)
from twisted.logger import Logger
from twisted.protocols.tls import (
    BufferingTLSTransport,
    TLSMemoryBIOFactory,
    TLSMemoryBIOProtocol,
)
from zope.interface import implementer

from nanomdm.crypto.certificates import UNUSABLE
from nanomdm.crypto.chain import load_certificates
from nanomdm.errors import ConfigError
from nanomdm.reload import Source
from nanomdm.tls import openssl_words

_log: Final = Logger(namespace="nanomdm.http")

#: Days before its end from which on the start warns of a certificate.
WARNING_DAYS: Final = 30

#: Bytes that a client may send before the handshake ends: the longest certificate
#: that is accepted fits, and those of some CAs.
MAX_HANDSHAKE: Final = 1 << 15

#: Forward secrecy always; the last of these are for clients without AES-GCM.  (TLS
#: 1.3 has cipher suites of its own, all of them good.)
_CIPHERS: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES256:ECDHE+AES128"

_OPTIONS: Final = SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE

_PRIVATE_KEY: Final = re.compile(
    rb"-----BEGIN ((?:[A-Z]+ )?PRIVATE KEY)-----.*?-----END \1-----", re.DOTALL
)


@frozen
class TLSFiles:
    """
    Where certificates and the key are, all of them as PEM.

    @ivar certificate: the server's certificate, the rest of its chain behind it.
    @ivar key: its private key; L{None} when it is in the same file.
    @ivar client_ca: the CAs whose certificates clients are asked for; L{None}
        asks for none.
    """

    certificate: Path
    key: Path | None = None
    client_ca: Path | None = None


@frozen
class TLSContext:
    """
    What the files held, ready for use.

    @ivar context: makes connections.
    @ivar not_after: when the first certificate of the chain ends, in UTC.
    """

    context: SSL.Context
    not_after: datetime


def load_tls(files: TLSFiles) -> TLSContext:
    """
    Read the files.  Blocks.

    @raise ConfigError: one of them can not be read or used; the text names the
        option.
    """
    chain = load_certificates(files.certificate, "--tls-cert")
    where = f"--tls-key: {files.key}" if files.key else f"--tls-cert: {files.certificate}"
    key = _load_key(files.key or files.certificate, where)
    context = _bare_context()
    try:
        if chain[0].public_key() != key.public_key():
            raise ConfigError(f"{where}: the private key is not that of the first certificate")
        _use(context, chain, key)
        not_after = min(one.not_valid_after_utc for one in chain)
    except SSL.Error as error:
        raise ConfigError(f"--tls-cert: {files.certificate}: {openssl_words(error)}") from None
    except UNUSABLE as error:
        raise ConfigError(f"--tls-cert: {files.certificate}: {error}") from None
    if files.client_ca is not None:
        _ask_for_certificates(context, load_certificates(files.client_ca, "--tls-client-ca"))
    return TLSContext(context, not_after)


def _load_key(path: Path, where: str) -> Any:
    try:
        match = _PRIVATE_KEY.search(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{where}: {error.strerror or error}") from None
    if match is None:
        raise ConfigError(f"{where}: no PEM private key in it")
    if b"ENCRYPTED" in match[0]:
        raise ConfigError(f"{where}: the private key is encrypted: decrypt it first")
    try:
        return load_pem_private_key(match[0], None)
    except UNUSABLE:
        # What the error says may be a part of the key.
        raise ConfigError(f"{where}: unreadable private key") from None


def _bare_context() -> SSL.Context:
    """
    TLS 1.2 and 1.3, and what HTTP needs of it.
    """
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(_OPTIONS)
    # Idle connections give their buffers back.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_cipher_list(_CIPHERS)
    context.set_alpn_select_callback(_select_protocol)
    # Sessions are resumed by tickets, which hold the client's certificate too, so
    # that nothing is kept here.  New files make new keys of tickets.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(b"nanomdm")
    return context


def _select_protocol(connection: SSL.Connection, offered: Sequence[bytes]) -> Any:
    return b"http/1.1" if b"http/1.1" in offered else SSL.NO_OVERLAPPING_PROTOCOLS


def _use(context: SSL.Context, chain: Sequence[x509.Certificate], key: Any) -> None:
    context.use_certificate(chain[0])
    for certificate in chain[1:]:
        context.add_extra_chain_cert(certificate)
    context.use_privatekey(key)


def _ask_for_certificates(context: SSL.Context, authorities: Sequence[x509.Certificate]) -> None:
    context.set_verify(SSL.VERIFY_PEER, _any_certificate)
    for authority in authorities:
        context.add_client_ca(authority)


def _any_certificate(*of_the_chain: object) -> bool:
    return True


@implementer(IOpenSSLServerConnectionCreator)
class ServerTLS:
    """
    Makes connections from the files as they were read last.

    @param files: they are read at once.
    @param now: the time, with a time zone.
    @ivar source: the files, to be read again: new connections use what they hold then.
    @raise ConfigError: a file can not be read or used.
    """

    def __init__(self, files: TLSFiles, now: Callable[[], datetime]) -> None:
        self._now = now
        self.source = Source("TLS files", partial(load_tls, files), self._take)
        self._take(self.source.read())

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """
        A new connection.  It keeps what it was made from.
        """
        return SSL.Connection(self._current.context)

    def not_after(self) -> datetime:
        """
        @return: when the certificate ends, in UTC.
        """
        return self._current.not_after

    def _take(self, loaded: TLSContext) -> None:
        self._current = loaded
        days = (loaded.not_after - self._now()).days
        fields = {"not_after": f"{loaded.not_after:%Y-%m-%dT%H:%M:%SZ}", "days": days}
        _log.info("TLS certificate read", **fields)
        if days < WARNING_DAYS:
            _log.warn("the TLS certificate is to be renewed", **fields)


class _Transport(BufferingTLSTransport):
    """
    TLS whose handshake has a limit: OpenSSL's own are several times what anybody
    needs, and a client can make many connections.
    """

    _size = 0

    def dataReceived(self, data: bytes) -> None:
        """
        Go on, unless this makes the handshake too long.
        """
        super().dataReceived(data)
        # Looked at last, because a request may follow in the same segment.
        if self.connected and not self._handshakeDone:
            self._size += len(data)
            if self._size > MAX_HANDSHAKE:
                self.abortConnection()

    def setTcpNoDelay(self, enabled: bool) -> None:
        """
        Do that where there is TCP.  TLS passes for a transport of it, whatever is
        below; here that may be a Unix socket.
        """
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(enabled)


class TLSFactory(TLSMemoryBIOFactory):
    """
    Puts TLS between transports and the protocols of a factory.
    """

    protocol = _Transport


@frozen
@implementer(IStreamServerEndpoint)
class TLSEndpoint:
    """
    Speaks TLS at another endpoint.

    @ivar endpoint: where.
    @ivar tls: makes the connections.
    @ivar clock: delays small writes until the reactor's next turn.
    """

    endpoint: IStreamServerEndpoint
    tls: ServerTLS
    clock: IReactorTime

    def listen(self, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """
        Serve a factory's protocols.
        """
        return self.endpoint.listen(TLSFactory(self.tls, False, factory, self.clock))
