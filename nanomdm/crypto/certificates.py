"""
Parsing of certificates that come from anywhere.
"""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from nanomdm.crypto import ber

MAX_CERTIFICATE: Final = 16 << 10
"""
Bytes of a certificate; a longer one is refused.  A device's has one or two
thousand, and what reading one costs grows with its parts.
"""

CURVE_ORDERS: Final = {
    "secp256r1": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "secp384r1": int(
        "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"
        "C7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973",
        16,
    ),
    "secp521r1": int(
        "01FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"
        "FA51868783BF2F966B7FCC0148F709A5D03BB5C9B8899C47AEBB6FB71E91386409",
        16,
    ),
}
"""
The curves whose keys are accepted, and the order of each one's base point
(NIST SP 800-186 section 3.2.1).
"""

UNUSABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""
What C{cryptography} raises for a certificate, or a part of one, that it can not
read or use.  Some parts are read only when they are asked for.
"""


def parse_certificate(der: bytes) -> x509.Certificate:
    """
    Parse a certificate that C{der} consists of, with nothing after it.

    @param der: at most L{MAX_CERTIFICATE} bytes.
    @raise ValueError: there is something else in C{der}.
    """
    if len(der) > MAX_CERTIFICATE:
        raise ValueError(f"a certificate of more than {MAX_CERTIFICATE} bytes")
    try:
        return x509.load_der_x509_certificate(der)
    except UNUSABLE as error:
        raise ValueError(f"unreadable certificate: {error}") from error


def twin_of(certificate: x509.Certificate, der: bytes, issuer: x509.Certificate) -> bytes | None:
    """
    The one other DER in which a certificate verifies.  Its outer signature is
    not covered by any: with an ECDSA signature (r, s), (r, n - s) is right as
    well, n being the order of the curve (SEC 1 section 4.1.4).

    @param certificate: one whose signature has been verified.
    @param der: its DER.
    @param issuer: the certificate of who signed it.
    @return: DER, or L{None} when there is only C{der}.
    @raise ValueError: there may be other DERs that nobody can enumerate.
    """
    key = issuer.public_key()
    signature = certificate.signature
    if isinstance(key, rsa.RSAPublicKey):
        # RFC 8017 section 8.1.2 step 1; OpenSSL lets leading zeros of PSS be absent.
        if len(signature) != (key.key_size + 7) // 8:
            raise ValueError("the certificate's signature has not the length of the issuer's key")
        return None
    order = CURVE_ORDERS.get(key.curve.name) if isinstance(key, ec.EllipticCurvePublicKey) else None
    if order is None:
        raise ValueError("the issuer's key is neither RSA nor on an accepted curve")
    r, s = decode_dss_signature(signature)
    to_be_signed, algorithm, _ = ber.parse(der).children
    other = ber.encode(ber.BIT_STRING, b"\0" + encode_dss_signature(r, order - s))
    return ber.encode(ber.SEQUENCE, to_be_signed.encoded + algorithm.encoded + other)
