"""
Parsing of certificates that come from anywhere.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

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

    @raise ValueError: there is something else in C{der}.
    """
    try:
        return x509.load_der_x509_certificate(der)
    except UNUSABLE as error:
        raise ValueError(f"unreadable certificate: {error}") from error
