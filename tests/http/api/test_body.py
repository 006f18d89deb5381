"""
Tests of bodies that are JSON.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from nanomdm.errors import MessageError
from nanomdm.http.api.body import json_body


class JSONBodyTests(SynchronousTestCase):
    """
    L{json_body}.
    """

    def assertRefused(self, body: bytes, reason: str, largest: int = 1 << 20) -> None:
        """
        It is not taken.
        """
        error = self.assertRaises(MessageError, json_body, body, largest)
        self.assertEqual(str(error), reason)

    def test_wholeNumbersAreIntegers(self) -> None:
        numbers = json_body(b"[10, 10.0, -1e2, 10.5, 1e400]", 100)
        self.assertEqual(numbers, [10, 10, -100, 10.5, float("inf")])
        self.assertEqual([type(one) for one in numbers], [int, int, int, float, float])

    def test_notJSON(self) -> None:
        for body in (b"", b"{", b"\xff", b"[" * 100_000, b"9" * 5000):
            self.assertRefused(body, "the body is not JSON")

    def test_tooLarge(self) -> None:
        self.assertEqual(json_body(b"[]", 2), [])
        self.assertRefused(b"[] ", "the body has more than 2 bytes", largest=2)
