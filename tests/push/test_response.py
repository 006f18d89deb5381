"""
Tests for L{nanomdm.push.response}.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.push.notification import Answer
from nanomdm.push.response import MAX_BODY, Stream, parse_problem


class ProblemTests(SynchronousTestCase):
    """
    APNs' JSON.
    """

    def test_good(self) -> None:
        for body, reason, timestamp in (
            (b'{"reason":"BadTopic"}', "BadTopic", None),
            (b'{"reason":"Unregistered","timestamp":1000}', "Unregistered", 1.0),
            (b'{"timestamp":1454948015990, "more": [1]}', None, 1454948015.99),
        ):
            self.assertEqual(parse_problem(body), (reason, timestamp))

    def test_bad(self) -> None:
        """
        What is not as it should be is as if it was not there.
        """
        for body in (
            b"",
            b"{",
            b"\xff\xfe\x00",
            b"null",
            b'["reason"]',
            b'{"reason":null,"timestamp":null}',
            b'{"reason":1,"timestamp":"1"}',
            b'{"reason":["x"],"timestamp":true}',
            b'{"timestamp":1e999}',
            b'{"timestamp":NaN}',
            b'{"timestamp":-1}',
            b'{"timestamp":%d}' % 10**400,
            b"1" * 5000,
            b"[" * MAX_BODY,
        ):
            self.assertEqual(parse_problem(body), (None, None), body[:20])

    def test_long(self) -> None:
        self.assertEqual(parse_problem(b'{"reason":"%s"}' % (b"x" * 999)), ("x" * 200, None))


class StreamTests(SynchronousTestCase):
    """
    What a stream collects.
    """

    def test_headers(self) -> None:
        """
        Headers are taken as they are, if they are not too long.
        """
        stream = Stream(1, Deferred())
        self.assertIsNone(stream.answer())
        stream.headers(
            [
                (b":status", b"429"),
                (b"apns-id", b"\xff" + b"x" * 300),
                (b"retry-after", b"Fri, 31 Dec 1999 23:59:59 GMT"),
                (b"content-type", b"nothing"),
            ]
        )
        self.assertEqual(
            stream.answer(),
            Answer(
                429,
                "\N{REPLACEMENT CHARACTER}" + "x" * 199,
                None,
                None,
                "Fri, 31 Dec 1999 23:59:59 GMT",
            ),
        )

    def test_size(self) -> None:
        stream = Stream(1, Deferred())
        self.assertTrue(stream.data(bytes(MAX_BODY)))
        self.assertFalse(stream.data(b"x"))
