"""
Tests for how commands are told for whom they are.
"""

from __future__ import annotations

import json
from typing import Any

from tests import samples
from tests.ctl.case import CtlCase
from tests.http.case import device
from tests.web import WebServer, listen


class TargetsCase(CtlCase):
    """
    A server with two devices, of which one has a user, and one that is disabled.
    """

    async def fill(self) -> None:
        self.serve()
        await self.enroll("D1")
        self.assertOK(await self.send(samples.token_update(UserID="U1", UserShortName="jo")))
        for number in (2, 3):
            await self.enroll(f"D{number}", device(number))
        self.assertOK(await self.send(samples.checkin("CheckOut", "D3"), identity=device(3)))

    async def cleared(self, *arguments: str, **options: Any) -> list[str]:
        """
        @return: the enrollments that the command was for.
        """
        printed = await self.printed("queue", "clear", "--json", *arguments, **options)
        return list(json.loads(printed)["status"])

    async def usage(self, *arguments: str, **options: Any) -> str:
        """
        @return: what is wrong with how the command was called.
        """
        return await self.refused("queue", "clear", *arguments, code=2, **options)


class ChoiceTests(TargetsCase):
    """
    Who is meant.
    """

    async def test_ids(self) -> None:
        """
        Each once, in the order in which they are named.
        """
        await self.fill()
        found = await self.cleared("--id", "D2", "--id", "D1:U1, D1,D2,,")
        self.assertEqual(found, ["D2", "D1:U1", "D1"])

    async def test_serial(self) -> None:
        """
        The device, not its users.
        """
        await self.fill()
        self.assertEqual(await self.cleared("--serial", "C02D1"), ["D1"])
        self.assertEqual(await self.cleared("--serial", "C02D3"), ["D3"])

    async def test_serialOfOneEnrolledDifferently(self) -> None:
        await self.fill()
        body = samples.authenticate("D4", SerialNumber="C02D3")
        for message in (body, samples.token_update("D4")):
            self.assertOK(await self.send(message, identity=device(4)))
        self.assertEqual(await self.cleared("--serial", "C02D3"), ["D4"])

    async def test_unknownSerial(self) -> None:
        await self.fill()
        line = await self.refused("queue", "clear", "--serial", "C02D1", "--serial", "X")
        self.assertEqual(line, "Error: --serial: no device has the serial number X")

    async def test_file(self) -> None:
        await self.fill()
        path = self.home / "ids"
        path.write_bytes("\ufeffD1\r\n# all\n\n  D2\tDevice\tyes\nD1\n".encode())
        self.assertEqual(await self.cleared("--file", str(path)), ["D1", "D2"])

    async def test_standardInput(self) -> None:
        await self.fill()
        listed = await self.printed("enrollments", "list", "--enabled")
        self.assertEqual(await self.cleared("--file", "-", input=listed), ["D1", "D1:U1", "D2"])

    async def test_union(self) -> None:
        await self.fill()
        found = await self.cleared(
            *("--serial", "C02D2", "--file", "-", "--id", "D1"), input="D1:U1\nD1\n"
        )
        self.assertEqual(found, ["D1", "D1:U1", "D2"])

    async def test_all(self) -> None:
        await self.fill()
        self.assertEqual(await self.cleared("--all", "--yes"), ["D1", "D1:U1", "D2"])
        self.assertEqual(await self.cleared("--all", "--yes", "--type", "User"), ["D1:U1"])
        topic = ("--topic", samples.TOPIC)
        self.assertEqual(
            await self.cleared("--all", "--yes", "--type", "Device", *topic), ["D1", "D2"]
        )
        self.assertEqual(await self.cleared("--all", "--yes", "--topic", "none"), [])


class AskTests(TargetsCase):
    """
    Whether all are meant.
    """

    async def answer(self, given: bytes) -> tuple[int, str]:
        await self.fill()
        process = self.spawn("queue", "clear", "--all", terminal=True)
        await process.printed(b"Really for all 3 enrollments? [y/N]: ")
        process.transport.write(given)
        return await process.ended, process.output.decode()

    async def test_yes(self) -> None:
        status, output = await self.answer(b"y\n")
        self.assertIn("Cleared: 3, failed: 0", output)
        self.assertEqual(status, 0)

    async def test_no(self) -> None:
        status, output = await self.answer(b"\n")
        self.assertIn("Aborted!", output)
        self.assertNotIn("Cleared", output)
        self.assertEqual(status, 1)


class UsageTests(TargetsCase):
    """
    Options that name nobody, or do not go together; the server is not asked.
    """

    def setUp(self) -> None:
        super().setUp()
        self.web = WebServer()
        self.port = listen(self, self.web)

    async def usage(self, *arguments: str, **options: Any) -> str:
        line = await super().usage(*arguments, **options)
        self.assertEqual(self.web.asked, [])
        return line

    async def test_nobody(self) -> None:
        self.assertIn("Give --id, --serial, --file or --all", await self.usage())
        self.assertIn("There is not a single id", await self.usage("--id", ","))

    async def test_allAndSome(self) -> None:
        for more in (("--id", "D1"), ("--serial", "S"), ("--file", "-")):
            line = await self.usage("--all", "--yes", *more)
            self.assertIn("there must be no --id, --serial or --file with it", line)

    async def test_allWithoutYes(self) -> None:
        self.assertEqual(await self.usage("--all"), "Error: --all: needs --yes")

    async def test_filtersOfSome(self) -> None:
        for more in (("--type", "User"), ("--topic", "T")):
            self.assertIn("are for --all only", await self.usage("--id", "D1", *more))

    async def test_files(self) -> None:
        for content, problem in (
            (b"D1\nD2,D3\n", "line 2 is not an id"),
            (b"D\x1b[1m\n", "line 1 is not an id"),
            (b"D1\n\xff\n", "is not UTF-8"),
        ):
            path = self.home / "ids"
            path.write_bytes(content)
            line = await self.usage("--file", str(path))
            self.assertEqual(line, f"Error: --file: {path}: {problem}")

    async def test_noFile(self) -> None:
        line = await self.usage("--file", "nowhere")
        self.assertIn("'nowhere': No such file or directory", line)
