"""
C{X-Hmac-Signature}: what servers that share a key prove their messages by.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final

HEADER: Final = b"X-Hmac-Signature"
"""
The header's name.
"""


def signature(key: bytes, body: bytes) -> bytes:
    """
    @return: the header's value: base64 of HMAC-SHA256 (RFC 2104).
    """
    return base64.b64encode(hmac.digest(key, body, hashlib.sha256))


def is_signature(given: bytes | None, key: bytes, body: bytes) -> bool:
    """
    @param given: the header's value, if there is one.
    @return: whether it is the signature of C{body}; found out in constant time.
    """
    return given is not None and hmac.compare_digest(given, signature(key, body))
