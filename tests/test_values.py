"""
Tests for the parsers of values that the tests of the configuration do not show.
"""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from nanomdm.errors import ConfigError
from nanomdm.values import (
    choice,
    database_file,
    duration,
    http_directory,
    http_url,
    limit,
    whole_seconds,
)


class DurationTests(SynchronousTestCase):
    """
    L{duration}, L{limit} and L{whole_seconds}.
    """

    def test_units(self) -> None:
        for text, seconds in (
            ("0", 0),
            ("0s", 0),
            ("30s", 30),
            ("3m", 180),
            ("1h", 3600),
            ("2d", 172800),
            ("1h30m", 5400),
            ("1d12h", 129600),
            ("1.5h", 5400),
            ("250ms", 0.25),
            ("36500d", 36500 * 86400),
        ):
            self.assertEqual(duration(text), seconds)
        for text in ("1us", "1µs", "1μs", "1000ns"):
            self.assertAlmostEqual(duration(text), 1e-6, places=12)

    def test_wrong(self) -> None:
        for text in (
            "",
            "1",
            "s",
            "1 s",
            "-1s",
            "+1s",
            "1S",
            "1w",
            ".5s",
            "1.s",
            "1e3s",
            "1s,",
            "٣s",
        ):
            error = self.assertRaises(ConfigError, duration, text)
            self.assertEqual(str(error), f"{text!r} is not a duration such as 30s, 3m or 1h30m")
        error = self.assertRaises(ConfigError, duration, "36501d")
        self.assertEqual(str(error), "'36501d' is longer than a century")

    def test_limit(self) -> None:
        parse = limit("1m")
        for text, expected in (("0", None), ("none", None), ("0h", None), ("60s", 60)):
            self.assertEqual(parse(text), expected)
        for text in ("59s", "1ns", "None", ""):
            self.assertRaises(ConfigError, parse, text)

    def test_wholeSeconds(self) -> None:
        parse = whole_seconds("1h")
        for text, expected in (("0", 0), ("0s", 0), ("1ms", 1), ("1500ms", 2), ("60m", 3600)):
            self.assertEqual(parse(text), expected)
        self.assertIsInstance(parse("1m"), int)
        for text in ("60m1ms", "2h", "none", ""):
            self.assertRaises(ConfigError, parse, text)


class DatabaseFileTests(SynchronousTestCase):
    """
    L{database_file}.
    """

    def test_paths(self) -> None:
        for text in ("x.db", "/var/lib/a@b/x.db", "a:b", "x (1).db", "password.db", "a=b"):
            self.assertEqual(database_file(text), Path(text).absolute())

    def test_addresses_of_servers(self) -> None:
        """
        A file of that name would show the password to everybody who lists it.
        """
        for text in (
            "mysql://u:sesam@h/db",
            "postgres://u:sesam@h/db",
            "u:sesam@tcp(h)/db",
            "u:sesam@unix(/x)/db",
            "u:sesam@/db",
            "host=h password=sesam",
            "host=h password = sesam",
        ):
            error = self.assertRaises(ConfigError, database_file, text)
            self.assertNotIn("sesam", str(error))


class ChoiceTests(SynchronousTestCase):
    """
    L{choice}.
    """

    def test_values_are_listed(self) -> None:
        for values, listed in (
            (("a",), "a"),
            (("a", "b"), "a or b"),
            (("a", "b", "c"), "a, b or c"),
        ):
            self.assertEqual(choice(*values)("a"), "a")
            error = self.assertRaises(ConfigError, choice(*values), "x")
            self.assertEqual(str(error), f"'x' is not {listed}")


class URLTests(SynchronousTestCase):
    """
    L{http_url} and L{http_directory}.
    """

    def test_urls(self) -> None:
        for text, url in (
            ("http://host", "http://host/"),
            ("HTTP://Host:80", "http://host/"),
            ("https://host:443/a", "https://host/a"),
            ("http://host?a=b", "http://host/?a=b"),
            ("https://192.0.2.1:8443/a/b?c=d&e", "https://192.0.2.1:8443/a/b?c=d&e"),
            ("http://[2001:DB8::1]:9000/", "http://[2001:db8::1]:9000/"),
            ("http://host/a%2Fb/../c//d/", "http://host/a%2Fb/../c//d/"),
            ("http://host/ü b?ü b", "http://host/%C3%BC%20b?%C3%BC%20b"),
        ):
            self.assertEqual(http_url(text), url)

    def test_directories(self) -> None:
        for text, url in (
            ("http://host", "http://host/"),
            ("http://host/a", "http://host/a/"),
            ("http://host/a/b//", "http://host/a/b/"),
        ):
            self.assertEqual(http_directory(text), url)

    def test_noDirectory(self) -> None:
        self.assertRaises(ConfigError, http_directory, "http://host/?a=b")
        self.assertRaises(ConfigError, http_directory, "host")

    def test_wrong(self) -> None:
        for text in (
            "",
            "host",
            "host:80/secret",
            "//host/secret",
            "ftp://host/secret",
            "http://",
            "http:///secret",
            "http://user@host/secret",
            "http://user:secret@host/",
            "http://host/#secret",
            "http://host:0/secret",
            "http://host:99999/secret",
            "http://host:port/secret",
            "http://1.2.3/secret",
            "http://a b/secret",
            "http://[::1/secret",
            "http://bücher/secret",
            "http://host/\nsecret",
            "http://host/\udc80secret",
        ):
            for parse in (http_url, http_directory):
                error = self.assertRaises(ConfigError, parse, text)
                self.assertNotIn("secret", str(error))
