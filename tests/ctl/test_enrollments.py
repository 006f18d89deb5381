"""
Tests for C{nanomdmctl enrollments}.
"""

from __future__ import annotations

import json
from typing import Any

from nanomdm.ctl.enrollments import _hints
from tests import samples
from tests.ctl.case import CtlCase
from tests.http.case import ca, device


class EnrollmentsCase(CtlCase):
    """
    A server with a device that has a user, and one that is disabled.
    """

    async def fill(self) -> None:
        self.serve()
        push = ca().issue_push(samples.TOPIC, key=ca().key)
        stored = await self.api("PUT", "/v1/pushcert", push.pem + push.key_pem)
        self.assertEqual(stored.code, 200)
        more = {"Model": "MacBookPro1,1", "OSVersion": "15.1", "DeviceName": "Jo's \x9bMac"}
        self.assertOK(await self.send(samples.authenticate(**more)))
        self.assertOK(await self.send(samples.token_update()))
        self.assertOK(await self.send(samples.token_update(UserID="U1", UserShortName="jo")))
        await self.enroll("D2", device(2))
        self.assertOK(await self.send(samples.checkin("CheckOut", "D2"), identity=device(2)))

    async def listed(self, *arguments: str) -> list[str]:
        """
        @return: the ids.
        """
        printed = await self.printed("enrollments", "list", *arguments)
        return [line.partition("\t")[0] for line in printed.splitlines()]


class ListTests(EnrollmentsCase):
    """
    C{enrollments list}.
    """

    async def test_lines(self) -> None:
        await self.fill()
        await self.enqueue("D1")
        first, user, second = (await self.printed("enrollments", "list")).splitlines()
        *columns, seen, queue = first.split("\t")
        self.assertEqual(columns, ["D1", "Device", "yes", "C02D1", "", "MacBookPro1,1", "15.1"])
        self.assertRegex(seen, r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        self.assertEqual(queue, "1")
        self.assertEqual(user.split("\t")[:5], ["D1:U1", "User", "yes", "C02D1", "jo"])
        self.assertEqual(second.split("\t")[:4], ["D2", "Device", "no", "C02D2"])

    async def test_filters(self) -> None:
        await self.fill()
        await self.enqueue("D1")
        for arguments, ids in (
            (["--serial", "C02D2"], ["D2"]),
            (["--id", "D1"], ["D1"]),
            (["--type", "User"], ["D1:U1"]),
            (["--enabled"], ["D1", "D1:U1"]),
            (["--disabled"], ["D2"]),
            (["--of-user", "jo"], ["D1:U1"]),
            (["--topic", samples.TOPIC], ["D1", "D1:U1", "D2"]),
            (["--pending"], ["D1"]),
            (["--seen-after", "1h"], ["D1", "D1:U1", "D2"]),
            (["--limit", "2"], ["D1", "D1:U1"]),
            (["--enabled", "--type", "Device"], ["D1"]),
        ):
            self.assertEqual(await self.listed(*arguments), ids, arguments)

    async def test_nothing(self) -> None:
        await self.fill()
        for more in (["--seen-before", "1h"], ["--topic", "none"]):
            result = await self.ctl("enrollments", "list", *more)
            self.assertEqual((result.stdout, result.stderr), ("", "No enrollment matches.\n"))
            self.assertEqual(result.exit_code, 0)

    async def test_mistakes(self) -> None:
        await self.fill()
        line = await self.refused("enrollments", "list", "--seen-before", "soon")
        self.assertRegex(line, r"^Error: HTTP 400: seen_before: ")
        for arguments in (["--type", "Toaster"], ["--limit", "0"]):
            line = await self.refused("enrollments", "list", *arguments, code=2)
            self.assertIn(arguments[0], line)

    async def test_json(self) -> None:
        await self.fill()
        found = json.loads(await self.printed("enrollments", "list", "--json"))
        self.assertEqual([item["id"] for item in found], ["D1", "D1:U1", "D2"])
        self.assertEqual(found[0]["device_name"], "Jo's \x9bMac")

    async def test_terminal(self) -> None:
        await self.fill()
        process = self.spawn("enrollments", "list", terminal=True)
        self.assertEqual(await process.ended, 0)
        output = process.output.decode()
        self.assertIn("Serial number", output)
        self.assertIn("C02D2", output)


class ShowTests(EnrollmentsCase):
    """
    C{enrollments show}.
    """

    async def test_lines(self) -> None:
        await self.fill()
        lines = (await self.printed("enrollments", "show", "D1")).splitlines()
        for line in ("id\tD1", "device_name\tJo's \\u009bMac", "push_token.state\tvalid"):
            self.assertIn(line, lines)
        self.assertNotIn("hints", "".join(lines))

    async def test_hints(self) -> None:
        """
        Of a device that is not enabled, and one that said NotNow.
        """
        await self.fill()
        shown = json.loads(await self.printed("enrollments", "show", "D2", "--json"))
        self.assertEqual(
            shown["hints"],
            ["not enabled: it gets no commands until it enrolls again or renews its push token"],
        )
        await self.enqueue("D1")
        await self.report("NotNow", "C1")
        printed = await self.printed("enrollments", "show", "D1")
        self.assertIn("hints\tDeviceInformation C1: the device said NotNow (so often: 1)", printed)

    async def test_noPushCertificate(self) -> None:
        """
        That is why nothing wakes a device, before all that may be.
        """
        await self.fill()
        self.assertOK(await self.send(samples.token_update(Topic="com.example.other")))
        shown = json.loads(await self.printed("enrollments", "show", "D1", "--json"))
        self.assertEqual(
            shown["hints"],
            ["no push wakes it: there is no push certificate for this topic"],
        )

    async def test_unknown(self) -> None:
        await self.fill()
        line = await self.refused("enrollments", "show", "D9")
        self.assertRegex(line, "^Error: HTTP 404: .*D9")

    def test_allHints(self) -> None:
        """
        All that can be wrong.
        """
        facts: dict[str, Any] = {
            "enabled": True,
            "push_token": {"state": "dead", "status": 410, "reason": "Unregistered"},
            "identity_certificate": {"not_after": "2026-01-01T00:00:00Z"},
            "last_seen_at": "2026-01-05T00:00:00Z",
        }
        push = {"topic": "T", "not_after": "2026-01-01T00:00:00Z"}
        command = {"request_type": "DeviceLock", "command_uuid": "C1", "state": "waiting"}
        waiting = [
            {**command, "queued_at": "2026-01-04T00:00:00Z"},
            {**command, "queued_at": "2026-01-06T00:00:00Z"},
        ]
        self.assertEqual(
            list(_hints(facts, push, waiting, "2026-01-02T00:00:00Z")),
            [
                "no push wakes it: the push certificate of its topic has expired",
                "its push token is dead (410 Unregistered): no push wakes it until it sends"
                " another",
                "its identity certificate has expired: it may be refused",
                "not seen since a command was queued: it may be off or offline",
            ],
        )
        facts["identity_certificate"] = {"error": "unreadable"}
        facts["push_token"] = {"state": "valid"}
        for fine in ({}, {"not_after": "2026-01-03T00:00:00Z"}):
            self.assertEqual(list(_hints(facts, fine, waiting[:1], "2026-01-02T00:00:00Z")), [])


class RemoveTests(EnrollmentsCase):
    """
    C{enrollments rm}.
    """

    async def test_disable(self) -> None:
        await self.fill()
        printed = await self.printed("enrollments", "rm", "D1", "D1", "--yes")
        self.assertEqual(printed, "Disabled: 1, failed: 0\n")
        self.assertEqual(await self.listed("--disabled"), ["D1", "D1:U1", "D2"])

    async def test_purge(self) -> None:
        await self.fill()
        printed = await self.printed("enrollments", "rm", "D1", "--purge", "--yes", "--json")
        self.assertEqual(json.loads(printed)["status"]["D1"]["purged"], ["D1", "D1:U1"])
        self.assertEqual(await self.listed(), ["D2"])

    async def test_unknown(self) -> None:
        """
        The others are removed all the same.
        """
        await self.fill()
        result = await self.ctl("enrollments", "rm", "D9", "D2", "--purge", "--yes")
        self.assertRegex(result.stderr, r"\AD9: HTTP 404: .*\n\Z")
        self.assertEqual((result.stdout, result.exit_code), ("Deleted: 1, failed: 1\n", 1))
        self.assertEqual(await self.listed(), ["D1", "D1:U1"])

    async def test_withoutYes(self) -> None:
        await self.fill()
        self.assertEqual(
            await self.refused("enrollments", "rm", "D1", code=2), "Error: needs --yes"
        )
        self.assertEqual(await self.listed("--enabled"), ["D1", "D1:U1"])

    async def test_asked(self) -> None:
        await self.fill()
        for given, text, left in (
            (b"n\n", b"Aborted!", ["D2"]),
            (b"y\n", b"Deleted: 1, failed: 0", []),
        ):
            process = self.spawn("enrollments", "rm", "D2", "--purge", terminal=True)
            await process.printed(b"Delete D2? [y/N]: ")
            process.transport.write(given)
            await process.ended
            self.assertIn(text, process.output)
            found = await self.query("SELECT id FROM enrollments WHERE NOT enabled")
            self.assertEqual([id for [id] in found], left)
