"""
Tests for the parsers of values that the tests of the configuration do not show.
"""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from nanomdm.errors import ConfigError
from nanomdm.values import choice, database_file, duration, limit


class DurationTests(SynchronousTestCase):
    """
    L{duration} and L{limit}.
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
