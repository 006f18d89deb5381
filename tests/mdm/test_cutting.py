"""
Tests for L{nanomdm.mdm.cutting}.
"""

from __future__ import annotations

import plistlib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.errors import MessageError
from nanomdm.mdm.cutting import without_member
from nanomdm.mdm.plist import parse
from tests import samples

HEAD = b'<?xml version="1.0" encoding="latin-1"?>\n'
VALUES = st.text("ab<&é]", max_size=3) | st.binary(max_size=5) | st.integers(0, 9)
MEMBERS = st.dictionaries(st.text("ab<&é", min_size=1, max_size=3), VALUES, max_size=4)


class WithoutMemberTests(SynchronousTestCase):
    """
    L{without_member}.
    """

    def test_captured(self) -> None:
        """
        What real devices send.
        """
        message = samples.captured("TokenUpdate.1.plist")
        members = parse(message)
        for key in members:
            cut = without_member(message, key)
            self.assertEqual(parse(cut), {k: v for k, v in members.items() if k != key})
        self.assertEqual(without_member(message, "Nothing"), message)

    def test_byteForByte(self) -> None:
        """
        Nothing else changes, not even what nobody reads.
        """
        begin = (
            HEAD + b"<!-- <key>K</key> --><plist><dict>\r\n <key>A</key><string>\xc3\xa9</string>"
        )
        end = b"\n<key>B</key><dict><key>K</key><data>YQ==</data></dict></dict></plist>\n<!-- K -->"
        for member in (
            b"<key>K</key><data>YQ==</data>",
            b"<key>K</key>\n\t<data\n>\nYQ==\n</data >",
            b"<key >&#75;</key><!-- <data>x</data> --><data>YQ==</data>",
            b"<key><![CDATA[K]]></key><string><![CDATA[</string>]]></string>",
            b"<key>K</key><dict><key>K</key><dict><key>C</key><true/></dict></dict>",
            b"<key>K</key><true/>",
            b"<key>K</key><dict/>",
            b"<key>K</key><dict><true/></dict>",
            b"<key>K</key><string>/></string>",
            b"<key>K</key><data x='/'></data>",
            b"<key>K</key><data/>",
        ):
            for after in (end, b"</dict></plist>"):
                self.assertEqual(without_member(begin + member + after, "K"), begin + after)

    def test_withoutTheOutermostElement(self) -> None:
        self.assertEqual(
            without_member(HEAD + b"<dict><key>K</key><data>YQ==</data></dict>", "K"),
            HEAD + b"<dict></dict>",
        )

    @given(MEMBERS, MEMBERS, VALUES)
    def test_anything(
        self, before: dict[str, object], after: dict[str, object], it: object
    ) -> None:
        document = plistlib.dumps({**before, "Key": it, **after}, sort_keys=False)
        found = plistlib.loads(without_member(document, "Key"))
        self.assertEqual(found, {**before, **after})

    def test_noXML(self) -> None:
        self.assertRaises(MessageError, without_member, b"<?xml", "K")
