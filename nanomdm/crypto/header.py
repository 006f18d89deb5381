"""
A client's certificate in a header that a TLS end in front of this server set.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from nanomdm.crypto.certificates import MAX_CERTIFICATE, parse_certificate
from nanomdm.crypto.encoding import decode_base64

MAX_VALUE: Final = 32 << 10
"""
Bytes of a header's value that are looked at: the largest certificate that is
accepted fits, escaped in the ways of proxies.
"""

_PEM = re.compile(
    rb"\s*-----BEGIN CERTIFICATE-----\r?\n([^-]+)-----END CERTIFICATE-----\s*",
)
# PEM has blanks in its first line, so that line tells how blanks were escaped.
_FORM_ESCAPED = b"-----BEGIN+CERTIFICATE-----"


def certificate_from_header(value: bytes) -> bytes | None:
    """
    Read the certificate in a header of one of two forms:

      - RFC 9440 C{Client-Cert}: the DER as base64 between two colons;
      - PEM, percent-encoded, as nginx has it in C{$ssl_client_escaped_cert}.
        Blanks may be C{%20} or C{+}; where they are C{%20}, a C{+} is a digit
        of the base64, whether it is escaped or not.

    @param value: the header's value, at most L{MAX_VALUE} bytes.
    @return: the DER of exactly one certificate that can be parsed, or L{None}
        when the value is anything else.
    """
    value = value.strip()
    if len(value) > MAX_VALUE:
        return None
    try:
        der = decode_base64(_base64_in(value), MAX_CERTIFICATE)
        parse_certificate(der)
    except ValueError:
        return None
    return der


def _base64_in(value: bytes) -> bytes:
    """
    @raise ValueError: C{value} has neither form.
    """
    if value.startswith(b":"):
        if len(value) < 2 or not value.endswith(b":"):
            raise ValueError("no closing colon")
        return value[1:-1]
    if _FORM_ESCAPED in value:
        value = value.replace(b"+", b" ")
    match = _PEM.fullmatch(unquote_to_bytes(value))
    if match is None:
        raise ValueError("neither a byte sequence nor escaped PEM")
    return match[1]
