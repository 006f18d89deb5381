"""
Property lists as JSON.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from nanomdm.errors import MessageError
from nanomdm.mdm.plainjson import plain_dictionary
from nanomdm.mdm.plist import MAX_DEPTH, MAX_VALUES
from tests import samples


def document(values: str) -> bytes:
    """
    A property list.
    """
    return f'<?xml version="1.0"?><plist><dict>{values}</dict></plist>'.encode()


class PlainDictionaryTests(SynchronousTestCase):
    """
    L{plain_dictionary}.
    """

    def converted(self, value: str) -> Any:
        """
        @return: a value, once it has been JSON.
        """
        plain = plain_dictionary(document(f"<key>x</key>{value}"))
        # Nothing that JSON does not have.
        return json.loads(json.dumps(plain, allow_nan=False))["x"]

    def test_values(self) -> None:
        for value, expected in (
            ("<string>&lt;\u00e4</string>", "<\u00e4"),
            ("<data>AP8=</data>", "AP8="),
            ("<data>\n\tAP\n8=\n</data>", "AP8="),
            ("<data/>", ""),
            ("<date>2026-11-20T10:00:00Z</date>", "2026-11-20T10:00:00Z"),
            ("<integer>18446744073709551615</integer>", 2**64 - 1),
            ("<integer>-1</integer>", -1),
            ("<real>0.1</real>", 0.1),
            ("<real>1e999</real>", "inf"),
            ("<real>-infinity</real>", "-inf"),
            ("<real>nan</real>", "nan"),
            ("<true/>", True),
            ("<false/>", False),
            ("<dict/>", {}),
            ("<array><dict><key>a</key><data>AA==</data></dict></array>", [{"a": "AA=="}]),
        ):
            self.assertEqual(self.converted(value), expected, value)
            self.assertIs(type(self.converted(value)), type(expected))

    def test_depth(self) -> None:
        depth = MAX_DEPTH - 1
        value = self.converted("<array>" * depth + "<true/>" + "</array>" * depth)
        for _ in range(depth):
            [value] = value
        self.assertIs(value, True)

    def test_large(self) -> None:
        """
        The list of applications of a busy Mac, as large as a result can be.
        """
        apps = [
            {"Identifier": f"com.example.{number}", "Version": "1.0", "IsValidated": True}
            for number in range(60_000)
        ]
        raw = samples.plist(InstalledApplicationList=apps)
        # A command could not have that many values.
        self.assertGreater(4 * len(apps), MAX_VALUES)
        self.assertEqual(plain_dictionary(raw), {"InstalledApplicationList": apps})

    def test_muchData(self) -> None:
        data = bytes(range(256)) * (11 << 12)
        plain = plain_dictionary(samples.plist(x=data))
        self.assertEqual(base64.b64decode(plain["x"]), data)

    def test_refused(self) -> None:
        for raw in (
            b"",
            document("<key>x</key>"),
            document("<key>x</key>" + "<array>" * 64 + "</array>" * 64),
            document("<key>x</key><array>" + "<true/>" * 1_000_000 + "</array>"),
        ):
            self.assertRaises(MessageError, plain_dictionary, raw)
