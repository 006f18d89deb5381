"""
Where a request's device identity comes from.
"""

from __future__ import annotations

from typing import Any, Protocol

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL.SSL import Connection
from twisted.internet.interfaces import IAddress, ISystemHandle
from twisted.protocols.policies import ProtocolWrapper

from nanomdm.crypto.certificates import UNUSABLE
from nanomdm.crypto.chain import ChainVerifier
from nanomdm.crypto.cms import SignatureVerifier
from nanomdm.crypto.header import certificate_from_header
from nanomdm.crypto.identity import Identity
from nanomdm.errors import BadSignature, UntrustedCertificate
from nanomdm.http.offload import Offloader
from nanomdm.http.proxies import Networks
from nanomdm.http.request import Request, shown_host


class IdentitySource(Protocol):
    """
    Finds out who sent a request.

    @ivar needs_body: it takes the whole body for that.
    """

    needs_body: bool

    async def identify(self, request: Request) -> Identity:
        """
        @raise IdentityError: it is not proven.
        """
        ...


class SignatureIdentity:
    """
    The certificate that signed the body, from C{Mdm-Signature} (Apple, "Passing
    an Identity Certificate Through a Proxy").
    """

    needs_body = True

    def __init__(
        self, signatures: SignatureVerifier, chains: ChainVerifier, offloader: Offloader
    ) -> None:
        self._signatures = signatures
        self._chains = chains
        self._offloader = offloader

    async def identify(self, request: Request) -> Identity:
        """
        @raise BadSignature: the header does not sign the body.
        @raise UntrustedCertificate: there is no header, or its certificate is
            not trusted.
        """
        header = _only_header(request, b"Mdm-Signature")
        body = request.body
        size = len(header) + len(body)
        verify = self._signatures.verify
        return await self._offloader.run(size, verify, header, body, self._chains)


class HeaderIdentity:
    """
    The certificate that a TLS proxy passes on in a header (C{--cert-header}).

    @param name: the header's name.
    @param proxies: where it may come from.
    """

    needs_body = False

    def __init__(self, name: str, chains: ChainVerifier, proxies: Networks) -> None:
        self._name = name
        self._chains = chains
        self._proxies = proxies

    async def identify(self, request: Request) -> Identity:
        """
        @raise UntrustedCertificate: there is no readable certificate, it is
            not trusted, or who sent it is not.
        """
        value = _only_header(request, self._name.encode("ascii"))
        peer = sender(request)
        if not self._proxies.has_peer(peer):
            shown = shown_host(peer)
            raise UntrustedCertificate(f"header {self._name} from untrusted peer {shown}")
        certificate = certificate_from_header(value)
        if certificate is None:
            raise UntrustedCertificate(f"no readable certificate in {self._name}")
        return self._chains.verify(certificate)


class TLSIdentity:
    """
    The certificate of the TLS session itself (C{--tls-client-ca}).
    """

    needs_body = False

    def __init__(self, chains: ChainVerifier) -> None:
        self._chains = chains

    async def identify(self, request: Request) -> Identity:
        """
        @raise UntrustedCertificate: the client gave no certificate, or one that
            is not trusted.
        """
        return self._chains.verify(_peer_certificate(request))


def sender(request: Request) -> IAddress:
    """
    @return: who has connected, whoever that says it speaks for: at a C{haproxy:}
        endpoint, anybody can begin with a line that names another address.
    """
    end: Any = request.channel.transport
    while isinstance(end, ProtocolWrapper):
        end = end.transport
    sender: IAddress = end.getPeer()
    return sender


def _peer_certificate(request: Request) -> bytes:
    """
    @return: the DER of the certificate in whose name the client spoke first.
    """
    tls = ISystemHandle(request.channel.transport).getHandle()
    certificate = None
    try:
        if isinstance(tls, Connection):
            certificate = tls.get_peer_certificate(as_cryptography=True)
    except UNUSABLE as error:
        raise UntrustedCertificate(f"unreadable certificate: {error}") from error
    if certificate is None:
        raise UntrustedCertificate("no client certificate in the TLS session")
    return certificate.public_bytes(Encoding.DER)


def _only_header(request: Request, name: bytes) -> bytes:
    values = request.requestHeaders.getRawHeaders(name, [])
    if not values:
        raise UntrustedCertificate(f"no {name.decode()} header")
    if len(values) > 1:
        raise BadSignature(f"more than one {name.decode()} header")
    return values[0]
