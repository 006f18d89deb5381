"""
What queries say.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import parse_qs

from nanomdm.errors import MessageError
from nanomdm.http.api.query import age, number, only, page, truth, words
from nanomdm.interfaces import Page
from tests.http.api.fakes import NOW


def request(query: str) -> Any:
    """
    A request with a query, as Twisted reads it.
    """
    raw = query.encode()
    uri = b"/x?" + raw if query else b"/x"
    return SimpleNamespace(uri=uri, args=parse_qs(raw, 1))


class QueryTests(SynchronousTestCase):
    """
    The functions for queries.
    """

    def assertBad(self, reason: str, read: Any, *arguments: Any) -> None:
        """
        Reading fails.
        """
        error = self.assertRaises(MessageError, read, *arguments)
        self.assertIn(reason, str(error))

    def test_only(self) -> None:
        for query in ("", "&", "a=1", "b=1&a=2", "a=1;b=%3D%26", "a=a=b", "a=?b", "%61=1"):
            only(request(query), "a", "b")
        only(request(""))
        for query, reason in (
            ("c=1", "unknown parameter 'c' in the query; known: a, b"),
            ("c", "unknown parameter 'c'"),
            ("a=1&c=", "unknown parameter 'c'"),
            ("a=1&c=\u00e4&b=", "unknown parameter 'c'"),
            ("a+=1", "unknown parameter 'a '"),
            ("%00=1", "unknown parameter '\\x00'"),
            ("a[]=1", "unknown parameter 'a[]'"),
            ("=1", "unknown parameter ''"),
            ("a", "a has no value"),
            ("a=", "a has no value"),
            ("b=1&a=&a=1", "a has no value"),
            ("a=1&b=1&a=1", "a is there twice"),
            ("a=1;%61=2", "a is there twice"),
        ):
            self.assertBad(reason, only, request(query), "a", "b")
        self.assertBad("unknown parameter 'a' in the query; known: none", only, request("a=1"))
        error = self.assertRaises(MessageError, only, request("x" * 10_000))
        self.assertLess(len(str(error)), 200)

    def test_words(self) -> None:
        for query, expected in (
            *(("", None), ("a", None), ("a=", None), ("a=+", " "), ("a=%C3%A4", "\u00e4")),
            *(("A=1", None), ("a=1&a=2", "1")),
        ):
            self.assertEqual(words(request(query), "a"), expected)
        self.assertBad("a: not UTF-8", words, request("a=%FF"), "a")
        self.assertBad("a: there is a NUL", words, request("a=%00"), "a")

    def test_truth(self) -> None:
        for query, expected in (
            *(("", None), ("a=1", True), ("a=true", True), ("a=True", True)),
            *(("a=0", False), ("a=false", False), ("a=FALSE", False)),
        ):
            self.assertIs(truth(request(query), "a"), expected)
        for value in ("yes", "2", "01", "on", "%C3%A4"):
            self.assertBad("a is none of 1, true, 0, false", truth, request(f"a={value}"), "a")

    def test_number(self) -> None:
        self.assertEqual(number(request(""), "a", 7, 9), 7)
        self.assertEqual(number(request("a=1"), "a", 7, 9), 1)
        self.assertEqual(number(request("a=9"), "a", 7, 9), 9)
        self.assertEqual(number(request("a=0"), "a", 0, 9), 0)
        for value in ("0", "10", "-1", "1.0", "x", "%D9%A1", "9" * 5000):
            self.assertBad(
                "a is not a number from 1 to 9", number, request(f"a={value}"), "a", 7, 9
            )

    def test_page(self) -> None:
        self.assertEqual(page(request("")), Page(100))
        self.assertEqual(page(request("limit=1000&cursor=a%20b")), Page(1000, "a b"))
        self.assertBad("limit is not a number from 1 to 1000", page, request("limit=1001"))

    def test_age(self) -> None:
        self.assertIsNone(age(request(""), "a", NOW))
        self.assertEqual(age(request("a=2026-11-20T09:00:00Z"), "a", NOW), 3600)
        self.assertEqual(age(request("a=2h"), "a", NOW), 7200)
        self.assertBad("a: 'x' is no time such as", age, request("a=x"), "a", NOW)
