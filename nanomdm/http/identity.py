"""
Where a request's device identity comes from.
"""

from __future__ import annotations

from typing import Protocol

from nanomdm.crypto.chain import ChainVerifier
from nanomdm.crypto.cms import SignatureVerifier
from nanomdm.crypto.header import certificate_from_header
from nanomdm.crypto.identity import Identity
from nanomdm.errors import BadSignature, UntrustedCertificate
from nanomdm.http.offload import Offloader
from nanomdm.http.request import Request


class IdentitySource(Protocol):
    """
    Finds out who sent a request.
    """

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
    """

    def __init__(self, name: str, chains: ChainVerifier) -> None:
        self._name = name.encode("ascii")
        self._chains = chains

    async def identify(self, request: Request) -> Identity:
        """
        @raise UntrustedCertificate: there is no readable certificate, or it is
            not trusted.
        """
        certificate = certificate_from_header(_only_header(request, self._name))
        if certificate is None:
            raise UntrustedCertificate(f"no readable certificate in {self._name.decode()}")
        return self._chains.verify(certificate)


def _only_header(request: Request, name: bytes) -> bytes:
    values = request.requestHeaders.getRawHeaders(name, [])
    if not values:
        raise UntrustedCertificate(f"no {name.decode()} header")
    if len(values) > 1:
        raise BadSignature(f"more than one {name.decode()} header")
    return values[0]
