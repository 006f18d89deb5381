"""
Tests for C{nanomdmctl apikey}.
"""

from __future__ import annotations

import json

from nanomdm.http.api.keys import read_api_keys
from tests.ctl.case import CtlCase


class APIKeyTests(CtlCase):
    """
    New keys.
    """

    def settings(self) -> dict[str, str]:
        """
        No server is needed.
        """
        return {}

    async def made(self, *arguments: str) -> tuple[str, str]:
        """
        @return: a key and its line.
        """
        printed = json.loads(await self.printed("apikey", *arguments, "--json"))
        self.assertEqual(list(printed), ["key", "line"])
        return printed["key"], printed["line"]

    async def test_usable(self) -> None:
        """
        A server that has the line lets the key in.
        """
        path = self.home / "keys"
        lines = []
        for role in ("read", "enqueue", "admin"):
            key, line = await self.made(f"jo.{role}", "--role", role)
            self.assertRegex(key, r"^[A-Za-z0-9_-]{43}$")
            self.assertNotIn(key, line)
            lines.append(f"{line}\n")
        path.write_text("".join(lines))
        found = read_api_keys(path)
        self.assertEqual(
            [(one.operator.name, one.operator.role.word) for one in found],
            [("jo.read", "read"), ("jo.enqueue", "enqueue"), ("jo.admin", "admin")],
        )
        self.serve(api_key_file=path)
        server = ("--server", f"http://127.0.0.1:{self.port}", "--user", "jo.admin")
        result = await self.ctl("enrollments", "list", *server, "--key", key)
        self.assertEqual((result.stderr, result.exit_code), ("No enrollment matches.\n", 0))

    async def test_neverTheSame(self) -> None:
        first, _ = await self.made("jo", "--role", "read")
        second, _ = await self.made("jo", "--role", "read")
        self.assertNotEqual(first, second)

    async def test_lines(self) -> None:
        printed = await self.printed("apikey", "jo", "--role", "read")
        self.assertRegex(printed, r"\Akey\t\S{43}\nline\tjo read [0-9a-f]{64}\n\Z")

    async def test_usage(self) -> None:
        for arguments in (
            ("jo",),
            ("jo", "--role", "king"),
            ("nanomdm", "--role", "read"),
            ("a b", "--role", "read"),
            ("", "--role", "read"),
            ("x" * 65, "--role", "read"),
            ("jo\n", "--role", "read"),
        ):
            await self.refused("apikey", *arguments, code=2)

    async def test_tooLittle(self) -> None:
        """
        Not every key may do everything.
        """
        path = self.home / "keys"
        key, line = await self.made("jo", "--role", "read")
        path.write_text(line)
        self.serve(api_key_file=path)
        who = ("--server", f"http://127.0.0.1:{self.port}", "--user", "jo", "--key", key)
        result = await self.ctl("enrollments", "rm", "D1", "--yes", *who)
        text = "HTTP 403: the key jo has the role read, this takes admin"
        self.assertEqual(result.stderr, f"Stopped after 0 of 1: {text}\n")
        self.assertEqual(result.exit_code, 1)
