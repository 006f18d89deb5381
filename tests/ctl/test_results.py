"""
Tests for C{nanomdmctl results}.
"""

from __future__ import annotations

import json

from tests import samples
from tests.ctl.case import CtlCase
from tests.http.case import RESULT


class ResultsCase(CtlCase):
    """
    A server with a device that answered two commands.
    """

    async def fill(self) -> bytes:
        """
        @return: the second answer.
        """
        self.serve()
        await self.enroll()
        chain = [{"ErrorCode": 12, "ErrorDomain": "Dom", "LocalizedDescription": "no \x9b way"}]
        await self.enqueue("D1", "C1")
        self.assertOK(await self.report("Error", "C1", ErrorChain=chain))
        command = samples.command("C2", "ProfileList")
        await self.api("PUT", "/v1/enqueue/D1?nopush=1", command)
        body = samples.report("Acknowledged", "C2", Data=b"\0\1", ProfileList=[{"A": "b"}])
        self.assertOK(await self.send(body, RESULT))
        return body


class ListTests(ResultsCase):
    """
    Several answers.
    """

    async def test_lines(self) -> None:
        await self.fill()
        lines = (await self.printed("results", "D1")).splitlines()
        rows = {line.split("\t")[0]: line.split("\t") for line in lines}
        self.assertEqual(rows["C1"][1:3], ["DeviceInformation", "Error"])
        self.assertEqual(rows["C1"][5], "Dom 12 no \\u009b way")
        self.assertEqual(rows["C2"][1:3] + rows["C2"][5:], ["ProfileList", "Acknowledged", ""])

    async def test_filters(self) -> None:
        await self.fill()
        for arguments, uuids in (
            (["--request-type", "ProfileList"], ["C2"]),
            (["--status", "Error"], ["C1"]),
            (["--since", "1h", "--status", "Acknowledged"], ["C2"]),
        ):
            printed = await self.printed("results", "D1", "--json", *arguments)
            self.assertEqual([item["command_uuid"] for item in json.loads(printed)], uuids)
        printed = await self.printed("results", "D1", "--json", "--limit", "1")
        self.assertEqual(len(json.loads(printed)), 1)

    async def test_nothing(self) -> None:
        await self.fill()
        result = await self.ctl("results", "D1", "--status", "NotNow")
        self.assertEqual((result.stdout, result.stderr), ("", "No answer.\n"))
        self.assertIn("HTTP 404", await self.refused("results", "D9"))


class OneTests(ResultsCase):
    """
    One answer.
    """

    async def test_json(self) -> None:
        await self.fill()
        printed = json.loads(await self.printed("results", "D1", "C2", "--json"))
        self.assertEqual(printed["result"]["ProfileList"], [{"A": "b"}])
        self.assertEqual(printed["result"]["Data"], "AAE=")

    async def test_lines(self) -> None:
        await self.fill()
        lines = (await self.printed("results", "D1", "C2")).splitlines()
        self.assertIn("status\tAcknowledged", lines)
        self.assertIn('result.ProfileList\t{"A": "b"}', lines)

    async def test_raw(self) -> None:
        body = await self.fill()
        self.assertEqual((await self.printed("results", "D1", "C2", "--raw")).encode(), body)

    async def test_unknown(self) -> None:
        await self.fill()
        self.assertIn("HTTP 404", await self.refused("results", "D1", "C9"))

    async def test_usage(self) -> None:
        self.port = 1
        for arguments in (
            ["D1", "--raw"],
            ["D1", "C1", "--raw", "--json"],
            ["D1", "C1", "--status", "Error"],
            ["D1", "C1", "--since", "1h"],
            ["D1", "C1", "--limit", "1"],
            ["D1", "C1", "--request-type", "X"],
        ):
            await self.refused("results", *arguments, code=2)
