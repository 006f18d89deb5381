"""
Tests for L{nanomdm.crypto.mac}.
"""

from __future__ import annotations

import base64

from twisted.trial.unittest import SynchronousTestCase

from nanomdm.crypto.mac import is_signature, signature

# RFC 4231 section 4.3.
KEY, BODY = b"Jefe", b"what do ya want for nothing?"
SIGNATURE = base64.b64encode(
    bytes.fromhex("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")
)


class MACTests(SynchronousTestCase):
    """
    C{X-Hmac-Signature}.
    """

    def test_signature(self) -> None:
        self.assertEqual(signature(KEY, BODY), SIGNATURE)
        self.assertEqual(signature(b"", b""), b"thNnmggU2ex3L5XXeMNfxf8Wl8STcVZTxscSFEKSxa0=")

    def test_verified(self) -> None:
        self.assertTrue(is_signature(SIGNATURE, KEY, BODY))
        for given in (None, b"", SIGNATURE[:-1], SIGNATURE.lower(), b"\xff" * 44):
            self.assertFalse(is_signature(given, KEY, BODY))
        self.assertFalse(is_signature(SIGNATURE, b"other", BODY))
        self.assertFalse(is_signature(SIGNATURE, KEY, BODY + b"\n"))
