"""
How keys are compared: not by how long that takes, which no test can tell, but by what
is compared with what.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from nanomdm.http.api import keys as module
from tests.faults.process_case import basic
from tests.http.case import KEY, ServerCase

OTHER = "other-key"

#: Names and keys, and who they belong to.
CREDENTIALS = {
    ("nanomdm", KEY): True,
    ("nanomdm", KEY[:-1]): False,
    ("nanomdm", OTHER): False,
    ("nanomdm", ""): False,
    ("other", OTHER): True,
    ("other", "x" * 1000): False,
    ("nobody", KEY): False,
    ("nobody", OTHER): False,
    ("", ""): False,
}


class Watched(bytes):
    """
    A digest that can not be compared in any other way than L{hmac.compare_digest}.
    """

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared with ==")

    def __ne__(self, other: object) -> bool:
        raise AssertionError("compared with !=")

    def __iter__(self) -> Iterator[int]:
        raise AssertionError("compared byte by byte")

    __hash__ = bytes.__hash__


class ComparisonTests(ServerCase):
    """
    Each request with a name and a key is compared once, digest with digest, whoever
    asks.
    """

    def setUp(self) -> None:
        path = Path(self.mktemp())
        digest = hashlib.sha256(OTHER.encode()).hexdigest()
        path.write_text(f"other read {digest}\n")
        self.compared: list[tuple[bytes, bytes]] = []
        self.patch(module, "hmac", SimpleNamespace(compare_digest=self.compare))
        self.patch(module, "hashlib", SimpleNamespace(sha256=self.sha256))
        self.serve(api_key_file=path)

    def compare(self, first: bytes, second: bytes) -> bool:
        self.compared.append((bytes(first), bytes(second)))
        return hmac.compare_digest(first, second)

    def sha256(self, data: bytes = b"") -> SimpleNamespace:
        digest = Watched(hashlib.sha256(data).digest())
        return SimpleNamespace(digest=lambda: digest)

    async def test_comparisons(self) -> None:
        """
        What is compared has the same length always.  That of nobody is compared with
        nobody's.
        """
        expected = {"nanomdm": KEY.encode(), "other": OTHER.encode()}
        for (name, key), right in CREDENTIALS.items():
            self.compared.clear()
            [(header, value)] = basic(name, key)
            answer = await self.request("GET", "/v1/enrollments", headers={header: value})
            self.assertEqual(answer.code, 200 if right else 401, name)
            given, known = (
                hashlib.sha256(text).digest() for text in (key.encode(), expected.get(name, b""))
            )
            self.assertEqual(self.compared, [(given, known)], (name, key[:20]))

    async def test_knownByNobody(self) -> None:
        """
        The key that nobody has does not let nobody in.
        """
        [(header, value)] = basic("nobody", "")
        answer = await self.request("GET", "/v1/enrollments", headers={header: value})
        self.assertEqual(answer.code, 401)
        [(given, known)] = self.compared
        self.assertEqual(given, known)
