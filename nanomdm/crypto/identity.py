"""
The proven identity behind a request.
"""

from __future__ import annotations

import hashlib
import ssl

from attrs import frozen


@frozen
class Identity:
    """
    A certificate that signed a request (or came from a trusted TLS end) and
    chains to a trusted root.

    @ivar der: the certificate's DER.
    @ivar sha256: SHA-256 of C{der}, 64 lower-case hex digits: the key of a
        certificate association.
    @ivar expired: the certificate is past its end but within
        C{--expired-identity-grace}; it counts only where it is associated
        already.
    @ivar twin: the C{sha256} of the only other DER in which this certificate
        verifies, or L{None} when there is none.  Anybody can compute the other
        DER of a certificate that its issuer signed with ECDSA, so both hashes
        must be taken for one certificate.
    """

    der: bytes
    sha256: str
    expired: bool = False
    twin: str | None = None

    @classmethod
    def from_der(cls, der: bytes, expired: bool = False, twin: bytes | None = None) -> Identity:
        """
        @param der: the certificate's DER.
        @param twin: its other DER.
        """
        other = None if twin is None else hashlib.sha256(twin).hexdigest()
        return cls(der, hashlib.sha256(der).hexdigest(), expired, other)

    @property
    def pem(self) -> str:
        """
        The certificate as PEM, for C{devices.identity_cert}.
        """
        return ssl.DER_cert_to_PEM_cert(self.der)
