"""
Tests for L{nanomdm.crypto.secretkeys}.
"""

from __future__ import annotations

import base64
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from nanomdm.crypto.secretkeys import Keyring, new_key, parse_secret_keys, read_secret_keys
from nanomdm.errors import ConfigError

ONE, TWO = new_key(), new_key()


class ReadingTests(SynchronousTestCase):
    """
    Files of keys, and lists of them.
    """

    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def read(self, text: str | bytes) -> Keyring:
        self.path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_secret_keys(self.path)

    def assertRefused(self, reason: str, text: str | bytes) -> None:
        error = self.assertRaises(ConfigError, self.read, text)
        self.assertEqual(str(error), f"--secret-key-file: {self.path}: {reason}")

    def test_keys(self) -> None:
        """
        The first is the one that encrypts.
        """
        for text in (f"{ONE}\n{TWO}", f"\ufeff# new\n\n  {ONE}\t\r\n # old\n{TWO}\n"):
            found = self.read(text)
            self.assertEqual(found, parse_secret_keys(f"{ONE}, {TWO}"))
            self.assertEqual(len(found.keys), 2)
            self.assertEqual(found.current, parse_secret_keys(ONE).current)

    def test_plain(self) -> None:
        """
        Keys that only decrypt.
        """
        found = self.read(f"plain\n{ONE}\n")
        self.assertEqual((found.current, len(found.keys)), (None, 1))

    def test_ids(self) -> None:
        """
        A key's id is always the same, and shows nothing of it.
        """
        key = base64.b64encode(bytes(range(32))).decode()
        self.assertEqual(list(parse_secret_keys(key).keys), ["c514c3a2f5348a79"])
        self.assertNotIn(ONE, repr(parse_secret_keys(ONE)))
        self.assertNotEqual(*(list(parse_secret_keys(one).keys) for one in (ONE, TWO)))

    def test_refused(self) -> None:
        """
        The line is named, and no part of a key.
        """
        [id] = parse_secret_keys(ONE).keys
        short = base64.b64encode(b"x" * 16).decode()
        for reason, text in (
            ("line 2: is not base64", f"{ONE}\n{TWO[:-1]}\n"),
            ("line 1: is not base64", f"name {ONE}\n"),
            ("line 1: is not base64", "é\n"),
            ("line 3: has 16 bytes, not 32", f"# c\n{ONE}\n{short}\n"),
            (f"line 2: the key {id} is there already", f"{ONE}\n{ONE}\n"),
            ("line 2: plain can only be the first", f"{ONE}\nplain\n"),
            ("is not UTF-8", b"\xff"),
            ("more than 1048576 bytes", "#" * (1 << 20) + "\n"),
        ):
            self.assertRefused(reason, text)
        for text in ("", "# none\n", "plain\n"):
            self.assertRefused("there is no key (nanomdmctl secrets key makes one)", text)

    def test_unreadable(self) -> None:
        error = self.assertRaises(ConfigError, read_secret_keys, self.path)
        reason = f"--secret-key-file: {self.path}: No such file or directory"
        self.assertEqual(str(error), reason)

    def test_list(self) -> None:
        for reason, text in (
            ("key 2: has 0 bytes, not 32", f"{ONE},"),
            ("key 1: is not base64", "secret"),
            ("holds a control character", f"{ONE}\n{TWO}"),
        ):
            error = self.assertRaises(ConfigError, parse_secret_keys, text)
            self.assertEqual(str(error), reason)
