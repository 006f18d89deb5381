"""
Tests for L{nanomdm.crypto.ber}.
"""

from __future__ import annotations

from asn1crypto import parser
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.crypto import ber
from nanomdm.crypto.ber import BERError
from tests.crypto import build


class ParseTests(SynchronousTestCase):
    """
    What is read, and what is refused.
    """

    def test_primitive(self) -> None:
        element = ber.parse(b"\x04\x03abc")
        self.assertEqual(element.tag, ber.OCTET_STRING)
        self.assertEqual(element.content, b"abc")
        self.assertEqual(element.encoded, b"\x04\x03abc")

    def test_definite_children(self) -> None:
        element = ber.parse(b"\x30\x06\x02\x01\x05\x04\x01z")
        self.assertEqual([child.content for child in element.children], [b"\x05", b"z"])

    def test_indefinite_children(self) -> None:
        data = b"\x30\x80\x30\x80\x02\x01\x05\0\0\x04\x01z\0\0"
        inner, text = ber.parse(data).children
        self.assertEqual(inner.encoded, b"\x30\x80\x02\x01\x05\0\0")
        self.assertEqual(inner.content, b"\x02\x01\x05")
        self.assertEqual(text.content, b"z")

    def test_longer_length_than_needed(self) -> None:
        """
        BER allows it, and some clients reserve four octets for a length.
        """
        self.assertEqual(ber.parse(b"\x04\x84\0\0\0\x01x").content, b"x")

    def assertRefused(self, data: bytes, why: str) -> None:
        error = self.assertRaises(BERError, self.readWhole, data)
        self.assertIn(why, str(error))

    def readWhole(self, data: bytes) -> bytes:
        return ber.to_der(ber.parse(data))

    def test_refused(self) -> None:
        for data, why in [
            (b"", "truncated"),
            (b"\x30", "truncated"),
            (b"\x04\x02a", "truncated"),
            (b"\x04\x82\x01", "impossible length"),
            (b"\x04\x85\0\0\0\0\x01x", "impossible length"),
            (b"\x04\xff", "impossible length"),
            (b"\x04\x84\xff\xff\xff\xff", "truncated"),
            (b"\x04\x80\0\0", "primitive element of indefinite length"),
            (b"\x1f\x01\0", "unexpected tag"),
            (b"\0\0", "unexpected tag"),
            (b"\x30\x02\0\0", "unexpected tag"),
            (b"\x30\x80", "truncated"),
            (b"\x30\x80\0", "truncated"),
            (b"\x30\x80\x02\x01\x05", "truncated"),
            (b"\x30\x03\x04\x02a", "truncated"),
            (b"\x04\0x", "1 bytes too many"),
            (b"\x30\x80\0\0\0\0", "2 bytes too many"),
        ]:
            self.assertRefused(data, why)

    def test_end_mark_outside_of_parent(self) -> None:
        """
        An element of indefinite length may not take its end from behind its
        parent's.
        """
        self.assertRefused(b"\x30\x80\x30\x02\x30\x80\0\0", "truncated")
        self.assertRefused(b"\x30\x06\x30\x03\x30\x80\0\0", "truncated")

    def test_no_children_in_primitive(self) -> None:
        element = ber.parse(b"\x04\x02\x05\0")
        self.assertRaises(BERError, getattr, element, "children")


class BoundsTests(SynchronousTestCase):
    """
    Hostile structures end early.
    """

    def test_deepest(self) -> None:
        data = b"\x30\x80" * (ber.MAX_DEPTH + 1) + b"\0\0" * (ber.MAX_DEPTH + 1)
        self.assertEqual(ber.parse(data).encoded, data)

    def test_deep_indefinite(self) -> None:
        data = b"\x30\x80" * (ber.MAX_DEPTH + 2) + b"\0\0" * (ber.MAX_DEPTH + 2)
        self.assertIn("nested", str(self.assertRaises(BERError, ber.parse, data)))
        self.assertRaises(BERError, ber.parse, b"\x30\x80" * 500_000)

    def test_deep_definite(self) -> None:
        data = b"\x05\0"
        for _ in range(ber.MAX_DEPTH + 2):
            data = ber.encode(ber.SEQUENCE, data)
        element = ber.parse(data)
        self.assertIn("nested", str(self.assertRaises(BERError, ber.to_der, element)))

    def test_many_elements(self) -> None:
        most = b"\x05\0" * (ber.MAX_ELEMENTS - 1)
        self.assertEqual(len(ber.parse(b"\x30\x80" + most + b"\0\0").children), len(most) // 2)
        more = most + b"\x05\0"
        self.assertRaises(BERError, ber.parse, b"\x30\x80" + more + b"\0\0")
        element = ber.parse(ber.encode(ber.SEQUENCE, more))
        self.assertRaises(BERError, getattr, element, "children")

    def test_elements_are_read_once(self) -> None:
        """
        Asking for the same children again costs nothing of the allowance.
        """
        element = ber.parse(ber.encode(ber.SEQUENCE, b"\x05\0" * 1000))
        first = element.children
        for _ in range(10):
            self.assertIs(element.children, first)


class EncodeTests(SynchronousTestCase):
    """
    Writing DER.
    """

    def test_lengths(self) -> None:
        for size in (0, 1, 127, 128, 255, 256, 65535, 65536):
            encoded = ber.encode(ber.OCTET_STRING, bytes(size))
            self.assertEqual(encoded, parser.emit(0, 0, 4, bytes(size)))
            self.assertEqual(ber.parse(encoded).content, bytes(size))

    def test_round_trip(self) -> None:
        """
        DER of every generated form comes back from its indefinite spelling.
        """
        for kind in ("rsa", "p256"):
            der = build.signed(build.identity(kind))
            self.assertEqual(ber.to_der(ber.parse(build.to_ber(der))), der)

    def test_set_is_sorted(self) -> None:
        element = ber.parse(b"\x31\x80\x04\x01b\x04\x01a\0\0")
        self.assertEqual(ber.to_der(element), b"\x31\x06\x04\x01a\x04\x01b")

    def test_sequence_is_not_sorted(self) -> None:
        element = ber.parse(b"\x30\x80\x04\x01b\x04\x01a\0\0")
        self.assertEqual(ber.to_der(element), b"\x30\x06\x04\x01b\x04\x01a")

    def test_other_tag(self) -> None:
        element = ber.parse(b"\xa0\x80\x04\x01b\x04\x01a\0\0")
        self.assertEqual(ber.to_der(element, ber.SET), b"\x31\x06\x04\x01a\x04\x01b")


class DifferentialTests(SynchronousTestCase):
    """
    Agreement with C{asn1crypto}.
    """

    def compare(self, element: ber.Element, data: bytes) -> None:
        _, constructed, _, _, content, _ = parser.parse(data)
        self.assertEqual((element.encoded, element.content), (data, content))
        if constructed:
            parts = build.split(content)
            self.assertEqual(len(element.children), len(parts))
            for child, part in zip(element.children, parts, strict=True):
                self.compare(child, part)

    def test_every_element(self) -> None:
        der = build.signed(build.identity())
        for data in (der, build.to_ber(der)):
            self.compare(ber.parse(data), data)
