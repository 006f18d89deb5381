"""
Tests for L{nanomdm.crypto.vault}.
"""

from __future__ import annotations

import base64
import json

from attrs import evolve
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.crypto.secretkeys import new_key, parse_secret_keys
from nanomdm.crypto.vault import MARKER, Place, Vault, key_id
from nanomdm.errors import SecretUnreadable

KEY, OTHER = new_key(), new_key()
[ID] = parse_secret_keys(KEY).keys
PLACE = Place("token of D1", "devices", "token", ("D1",))


class VaultTests(SynchronousTestCase):
    """
    L{Vault}.
    """

    def setUp(self) -> None:
        self.vault = Vault(parse_secret_keys(KEY))

    def seal(self, secret: bytes) -> str:
        sealed = self.vault.seal(secret, PLACE)
        assert sealed is not None
        return sealed

    def refused(self, sealed: str, place: Place = PLACE) -> str:
        """
        @return: why something can not be decrypted.
        """
        return str(self.assertRaises(SecretUnreadable, self.vault.open, sealed, place))

    def test_format(self) -> None:
        """
        What is written can be read by whoever knows the format.
        """
        sealed = self.seal(b"secret")
        marker, version, id, encoded = sealed.split(":")
        self.assertEqual((f"{marker}:", version, id), (MARKER, "v1", ID))
        data = base64.b64decode(encoded + "=" * (-len(encoded) % 4))
        bound = json.dumps(["nanomdm-secret:v1:", "devices", "token", "D1"]).encode()
        cipher = AESGCM(base64.b64decode(KEY))
        self.assertEqual(cipher.decrypt(data[:12], data[12:], bound), b"secret")
        self.assertEqual(key_id(sealed), ID)
        self.assertEqual(key_id(sealed[:40]), ID)
        self.assertEqual(key_id(sealed[:20]), "unknown")

    @given(st.binary(max_size=200))
    def test_anything(self, secret: bytes) -> None:
        """
        It comes back, and what is stored is no base64 to anybody.
        """
        vault = Vault(parse_secret_keys(KEY))
        sealed = vault.seal(secret, PLACE)
        self.assertEqual(vault.open(sealed, PLACE), secret)
        self.assertRaises(ValueError, base64.b64decode, sealed)

    def test_neverTheSame(self) -> None:
        self.assertEqual(len({self.seal(b"secret") for _ in range(100)}), 100)

    def test_keysAreReplaced(self) -> None:
        old = self.seal(b"secret")
        self.vault.use(parse_secret_keys(f"{OTHER},{KEY}"))
        self.assertEqual(self.vault.open(old, PLACE), b"secret")
        new = self.seal(b"secret")
        self.vault.use(parse_secret_keys(f"plain,{OTHER}"))
        self.assertIsNone(self.vault.seal(b"secret", PLACE))
        self.assertEqual(self.vault.open(new, PLACE), b"secret")
        self.assertEqual(
            self.refused(old),
            f"the token of D1 is encrypted with key {ID}, which is not in"
            " --secret-key-file (or NANOMDM_SECRET_KEYS)",
        )

    def test_noKeys(self) -> None:
        self.assertEqual((Vault().current, Vault().is_empty), (None, True))
        self.assertIsNone(Vault().seal(b"secret", PLACE))

    def test_bound(self) -> None:
        """
        To each part of the place.
        """
        sealed = self.seal(b"secret")
        for other in (
            evolve(PLACE, table="users"),
            evolve(PLACE, column="other"),
            evolve(PLACE, row=("D2",)),
            evolve(PLACE, row=("D1", "")),
            evolve(PLACE, column="token", row=()),
        ):
            reason = f"the token of D1, encrypted with key {ID}, was changed or belongs elsewhere"
            self.assertEqual(self.refused(sealed, other), reason)

    def test_changed(self) -> None:
        """
        Whichever character it is.
        """
        sealed = self.seal(b"secret")
        for place, old in enumerate(sealed[:-1]):
            new = "1" if old != "1" else "2"
            self.refused(f"{sealed[:place]}{new}{sealed[place + 1 :]}")
        for text in (sealed[:-1], sealed[:-2], sealed + "A", sealed[:-20], sealed + "\n"):
            self.refused(text)
        for text in (f"{MARKER}v1:{ID}:", f"{MARKER}v1:{ID}:A", f"{MARKER}v1:{ID}:" + "A" * 16):
            self.assertIn("was changed", self.refused(text))
        for text in (MARKER, f"{MARKER}v2:{ID}:AAAA", f"{MARKER}v1:xyz:AAAA"):
            self.assertIn("in a form that is not known", self.refused(text))
