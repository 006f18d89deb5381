"""
TLS of connections that the server opens: a trusted certificate with the right name on
the other side, and a push certificate on this one where that is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL.crypto import X509
from OpenSSL.SSL import (
    VERIFY_FAIL_IF_NO_PEER_CERT,
    VERIFY_PEER,
    Connection,
    Error,
    X509VerificationCodes,
)
from service_identity.cryptography import (
    verify_certificate_hostname,
    verify_certificate_ip_address,
)
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import (
    CertificateOptions,
    TLSVersion,
    platformTrust,
    trustRootFromCertificates,
)
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from nanomdm.crypto.certificates import UNUSABLE
from nanomdm.crypto.pushcert import PushCertificate
from nanomdm.errors import NanoMDMError

_NO_ISSUER: Final = "has no trusted issuer"
_SELF_SIGNED: Final = "is self-signed and not trusted"
_REASONS: Final = {
    X509VerificationCodes.ERR_CERT_HAS_EXPIRED: "has expired",
    X509VerificationCodes.ERR_CERT_NOT_YET_VALID: "is not valid yet",
    X509VerificationCodes.ERR_DEPTH_ZERO_SELF_SIGNED_CERT: _SELF_SIGNED,
    X509VerificationCodes.ERR_SELF_SIGNED_CERT_IN_CHAIN: _SELF_SIGNED,
    X509VerificationCodes.ERR_UNABLE_TO_GET_ISSUER_CERT: _NO_ISSUER,
    X509VerificationCodes.ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY: _NO_ISSUER,
    X509VerificationCodes.ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE: _NO_ISSUER,
    X509VerificationCodes.ERR_INVALID_PURPOSE: "is not meant for servers",
}


class CertificateUnusable(NanoMDMError):
    """
    The certificate for this side, or its key, is of no use.
    """


@implementer(IOpenSSLClientConnectionCreator)
class ClientTLS:
    """
    The TLS side of one connection.

    Twisted's C{optionsForClientTLS} takes a certificate without any name for one
    with the right name, and does not tell why it refuses another; so the
    verification is done here, with C{service_identity} too.

    @param host: the server's name or address.
    @param options: from L{client_options}.
    @ivar refused: why the server's certificate is not accepted, if that happened.
    """

    def __init__(self, host: str, options: CertificateOptions) -> None:
        self._host = host
        self._options = options
        self.refused: str | None = None

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> Connection:
        """
        @return: an OpenSSL connection that names the server it wants (SNI; an address
            is no name, RFC 6066 section 3) and verifies it.
        """
        connection = self._options.clientConnectionForTLS(tlsProtocol)
        if not _is_address(self._host):
            connection.set_tlsext_host_name(self._host.encode())
        connection.set_verify(VERIFY_PEER | VERIFY_FAIL_IF_NO_PEER_CERT, self._verify)
        return connection

    def _verify(
        self, connection: Connection, certificate: X509, error: int, depth: int, ok: int
    ) -> bool:
        """
        OpenSSL asks this about each certificate of the chain, the server's own last.
        """
        if not ok:
            which = "it" if depth == 0 else "an issuer of it"
            self.refused = f"{which} {_REASONS.get(error, f'has error {error} of OpenSSL')}"
        elif depth == 0:
            self.refused = self._wrong_name(certificate)
        return self.refused is None

    def _wrong_name(self, certificate: X509) -> str | None:
        verify = (
            verify_certificate_ip_address
            if _is_address(self._host)
            else verify_certificate_hostname
        )
        try:
            verify(certificate.to_cryptography(), self._host)
        except Exception:
            # Whatever is wrong with its names: OpenSSL calls this and could not pass
            # an error on.
            return f"it is not for {self._host}"
        return None


def client_options(
    roots: Sequence[x509.Certificate],
    *,
    system: bool,
    certificate: PushCertificate | None = None,
    protocols: Sequence[bytes] = (),
) -> CertificateOptions:
    """
    What all connections of a client have in common: TLS 1.2 or newer.  To make it
    takes some milliseconds.

    @param roots: what servers' certificates must chain to.
    @param system: take the system's roots too.
    @param certificate: this side's, which is sent with its intermediates.
    @param protocols: for ALPN.
    @raise CertificateUnusable: OpenSSL does not take the certificate or the key.
    """
    try:
        options = CertificateOptions(
            **_own(certificate),
            trustRoot=platformTrust() if system else trustRootFromCertificates([]),
            acceptableProtocols=list(protocols) or None,
            raiseMinimumTo=TLSVersion.TLSv1_2,
        )
        # Otherwise OpenSSL would see the certificate only when somebody is connected.
        context = options.getContext()
    except UNUSABLE:
        raise CertificateUnusable("the push certificate or its key can not be read") from None
    except Error as error:
        raise CertificateUnusable(
            f"OpenSSL refuses the push certificate: {openssl_words(error)}"
        ) from None
    store = context.get_cert_store()
    assert store is not None
    for root in roots:
        store.add_cert(X509.from_cryptography(root))
    return options


def openssl_words(error: Error) -> str:
    """
    @return: what OpenSSL says of an error.
    """
    queue = error.args[0] if error.args else None
    return str(queue[-1][-1]) if queue else "no reason given"


def _own(certificate: PushCertificate | None) -> dict[str, Any]:
    if certificate is None:
        return {}
    leaf, *intermediates = x509.load_pem_x509_certificates(certificate.certificate_pem.encode())
    # Twisted's annotations ask for types that pyOpenSSL has deprecated.
    return {
        "certificate": leaf,
        "extraCertChain": intermediates,
        # Checking an RSA key takes 28 ms and more; this one has signed before, see
        # parse_push_certificate.
        "privateKey": load_pem_private_key(
            certificate.key_pem.encode(), None, unsafe_skip_rsa_key_validation=True
        ),
    }


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
