"""
C{/v1/commands}, over HTTP.
"""

from __future__ import annotations

import base64
import plistlib
from datetime import datetime
from typing import Any

from twisted.python.threadable import isInIOThread

from nanomdm.errors import MessageError, Unknown
from nanomdm.http.api import commands
from nanomdm.interfaces import CommandTarget, Listing, Page, StoredCommand
from tests import samples
from tests.http.api.fakes import SECONDS, ScriptedCase, basic
from tests.http.case import KEY, Answer


def stored(raw: bytes) -> StoredCommand:
    """
    A command that was enqueued a minute ago.
    """
    return StoredCommand(
        command_uuid="C1", request_type="DeviceInformation", raw=raw, created_at=SECONDS - 60
    )


def target(id: str, status: str | None = None, active: bool = True, **more: Any) -> CommandTarget:
    """
    An enrollment that it was queued for.
    """
    known: dict[str, Any] = {
        "priority": 0,
        "queued_at": SECONDS - 60,
        "answered_at": None if status is None else SECONDS - 30,
        "not_now_count": 0,
    }
    return CommandTarget(id=id, status=status, active=active, **{**known, **more})


class CommandTests(ScriptedCase):
    """
    C{GET /v1/commands/<uuid>}.
    """

    def setUp(self) -> None:
        super().setUp()
        self.store.answers["command"] = stored(samples.command("C1", Queries=["OSVersion"]))
        self.store.answers["list_targets"] = Listing([])

    async def accepting(self, accept: str | list[str]) -> Answer:
        """
        Ask for it in a form.
        """
        headers = {"Authorization": basic("nanomdm", KEY), "Accept": accept}
        return await self.request("GET", "/v1/commands/C1", None, headers)

    async def shown(self, raw: bytes) -> Any:
        """
        @return: the answer about such a command.
        """
        self.store.answers["command"] = stored(raw)
        answer = await self.api("GET", "/v1/commands/C1")
        self.assertEqual(answer.code, 200)
        return answer.json

    async def test_command(self) -> None:
        answer = await self.api("GET", "/v1/commands/C%2F1?limit=7&cursor=x")
        self.assertEqual(answer.code, 200)
        self.assertEqual(
            answer.json,
            {
                "command_uuid": "C1",
                "request_type": "DeviceInformation",
                "created_at": "2026-11-20T09:59:00Z",
                "command": {"RequestType": "DeviceInformation", "Queries": ["OSVersion"]},
                "targets": [],
            },
        )
        self.assertEqual(
            self.store.asked, [("command", "C/1"), ("list_targets", "C/1", Page(7, "x"))]
        )

    async def test_targets(self) -> None:
        self.store.answers["list_targets"] = Listing(
            [
                target("D1", priority=-3),
                target("D2", "NotNow", not_now_count=2),
                target("D3", "Acknowledged", not_now_count=1),
                target("D4", "Error", active=False),
                target("D5", active=False),
                target("D6", "NotNow", active=False, not_now_count=1),
                target("D7", "SomethingNew"),
            ],
            "more",
        )
        answer = await self.api("GET", "/v1/commands/C1")
        queued = {"priority": 0, "queued_at": "2026-11-20T09:59:00Z"}
        answered = {**queued, "answered_at": "2026-11-20T09:59:30Z"}
        self.assertEqual(answer.json["next_cursor"], "more")
        self.assertEqual(
            answer.json["targets"],
            [
                {"id": "D1", "state": "waiting", **queued, "priority": -3},
                {
                    "id": "D2",
                    "state": "not_now",
                    "status": "NotNow",
                    **answered,
                    "not_now_count": 2,
                },
                {
                    "id": "D3",
                    "state": "answered",
                    "status": "Acknowledged",
                    **answered,
                    "not_now_count": 1,
                },
                {"id": "D4", "state": "answered", "status": "Error", **answered},
                {"id": "D5", "state": "cleared", **queued},
                {
                    "id": "D6",
                    "state": "cleared",
                    "status": "NotNow",
                    **answered,
                    "not_now_count": 1,
                },
                {"id": "D7", "state": "answered", "status": "SomethingNew", **answered},
            ],
        )

    async def test_values(self) -> None:
        """
        All that a property list can hold has a form in JSON.
        """
        inner = {
            "RequestType": "X",
            "Data": b"\0\xff" * 30,
            "Date": datetime(2026, 11, 20, 10),
            "Integer": -(2**63),
            "Real": 1.5,
            "Infinite": [float("inf"), float("-inf"), float("nan")],
            "Yes": True,
            "No": False,
            "Empty": [{}, [], "", b""],
            "Text": "<\u00e4&\U0001f600",
        }
        shown = await self.shown(samples.plist(CommandUUID="C1", Command=inner))
        self.assertEqual(
            shown["command"],
            {
                **inner,
                "Data": base64.b64encode(b"\0\xff" * 30).decode(),
                "Date": "2026-11-20T10:00:00Z",
                "Infinite": ["inf", "-inf", "nan"],
                "Empty": [{}, [], "", ""],
            },
        )

    async def test_unreadable(self) -> None:
        """
        Another server may have stored what this one would not.
        """
        for raw, reason in (
            (b"", "does not begin with <?xml"),
            (plistlib.dumps({"Command": {}}, fmt=plistlib.FMT_BINARY), "binary"),
            (samples.command("C1")[:-20], "well-formed"),
        ):
            shown = await self.shown(raw)
            self.assertNotIn("command", shown)
            self.assertIn(reason, shown["unreadable"])
            self.assertEqual(shown["targets"], [])
        for raw in (samples.plist(CommandUUID="C1"), samples.plist(Command=1)):
            shown = await self.shown(raw)
            self.assertEqual(shown["unreadable"], "Command is missing or not a dictionary")

    async def test_raw(self) -> None:
        raw = samples.command("C1", Queries=["OSVersion"])
        for accept in (
            *("application/xml", "text/xml", "application/x-plist", "APPLICATION/XML"),
            *("application/x-apple-aspen-mdm", "text/*", "text/xml, application/json;q=0.9"),
            "application/json;q=0.5, */*;q=0.6",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "application/json ; q=0, */*",
            ["application/json;q=0.1", "text/xml;q=0.2"],
            "text/xml;charset=utf-8;q=1",
        ):
            self.store.asked.clear()
            answer = await self.accepting(accept)
            self.assertEqual((answer.code, answer.body), (200, raw), accept)
            self.assertEqual(answer.header("Content-Type"), "text/xml; charset=utf-8")
            # Nothing that a device puts into it does anything in a browser.
            self.assertIn("sandbox", answer.header("Content-Security-Policy"))
            self.assertEqual(answer.header("X-Content-Type-Options"), "nosniff")
            self.assertEqual(self.store.asked, [("command", "C1")])

    async def test_json(self) -> None:
        for accept in (
            *("", "*/*", "application/json", "application/*", "text/html", "x", ";", ";q=1"),
            *("application/xml, application/json", "text/xml;q=0.5, application/json;q=0.6"),
            *("text/xml;q=0", "text/xml;q=0.9, */*", "text/xml;q=x", "text/xml;q=-1"),
            *("text/xml;q=nan", "text/xml;q=\u00e4", "text/xml;q=1;q=2, text/xml;q=0"),
            "x" * 4096 + ",text/xml",
        ):
            answer = await self.accepting(accept)
            self.assertEqual(answer.header("Content-Type"), "application/json", accept)
            self.assertEqual(answer.json["command_uuid"], "C1")

    async def test_large(self) -> None:
        """
        Nothing large is read on the reactor's thread.
        """
        sizes = []
        work = commands._whole

        def noting(command: StoredCommand, targets: Listing[CommandTarget]) -> Any:
            sizes.append(isInIOThread())
            return work(command, targets)

        self.patch(commands, "_whole", noting)
        await self.shown(samples.command("C1"))
        await self.shown(samples.command("C1", Queries=["x"] * 1000))
        self.store.answers["list_targets"] = Listing([target("D1")] * 100)
        await self.shown(samples.command("C1"))
        self.assertEqual(sizes, [True, False, False])

    async def test_refused(self) -> None:
        await self.assertBad("GET", "/v1/commands/C1?x=1", "unknown parameter 'x'")
        await self.assertBad("GET", "/v1/commands/C1?limit=0", "limit")
        await self.assertBad("GET", "/v1/commands/%FF", "command_uuid: not UTF-8")
        self.store.answers["command"] = Unknown("there is no command C1")
        answer = await self.api("GET", "/v1/commands/C1")
        self.assertEqual((answer.code, answer.json), (404, {"error": "there is no command C1"}))
        self.store.answers["command"] = stored(b"")
        self.store.answers["list_targets"] = MessageError("the cursor is none")
        answer = await self.api("GET", "/v1/commands/C1")
        self.assertEqual((answer.code, answer.json), (400, {"error": "the cursor is none"}))

    async def test_paths(self) -> None:
        for path in ("", "/", "/C1/", "/C1/x", "//C1"):
            answer = await self.api("GET", f"/v1/commands{path}")
            self.assertEqual((answer.code, answer.body), (404, b"404 page not found\n"), path)

    async def test_operatorsOnly(self) -> None:
        self.assertEqual((await self.request("GET", "/v1/commands/C1")).code, 401)
        for method in ("DELETE", "POST", "PUT", "HEAD"):
            answer = await self.api(method, "/v1/commands/C1")
            self.assertEqual((answer.code, answer.header("Allow")), (405, "GET"))
        self.assertEqual(self.store.asked, [])
