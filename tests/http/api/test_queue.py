"""
C{/v1/enrollments/<id>/queue}, over HTTP.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.logger import capturedLogs
from twisted.python.threadable import isInIOThread

from nanomdm.errors import AlreadyAnswered, MessageError, Unknown
from nanomdm.http.api import queue
from nanomdm.interfaces import Listing, OutstandingCommand, Page
from tests.http.api.fakes import SECONDS, ScriptedCase


def outstanding(uuid: str = "C1", **more: Any) -> OutstandingCommand:
    """
    A command that was queued a minute ago.
    """
    known: dict[str, Any] = {
        "request_type": "DeviceInformation",
        "priority": 0,
        "queued_at": SECONDS - 60,
        "not_now_at": None,
        "not_now_count": 0,
    }
    return OutstandingCommand(command_uuid=uuid, **{**known, **more})


class QueueTests(ScriptedCase):
    """
    The queue as a whole.
    """

    async def test_list(self) -> None:
        self.store.answers["list_queue"] = Listing(
            [
                outstanding(priority=5),
                outstanding("C2", not_now_at=SECONDS - 30.5, not_now_count=3),
                # By the clock of the database, which is ahead.
                outstanding("C3", queued_at=SECONDS + 0.5),
            ],
            "more",
        )
        answer = await self.api("GET", "/v1/enrollments/D1:a%2Fb/queue?limit=3&cursor=x")
        self.assertEqual(answer.code, 200)
        self.assertEqual(self.store.asked, [("list_queue", "D1:a/b", Page(3, "x"))])
        common = {"request_type": "DeviceInformation", "priority": 0}
        self.assertEqual(
            answer.json,
            {
                "commands": [
                    {
                        "command_uuid": "C1",
                        **common,
                        "priority": 5,
                        "queued_at": "2026-11-20T09:59:00Z",
                        "age_seconds": 60,
                        "state": "waiting",
                    },
                    {
                        "command_uuid": "C2",
                        **common,
                        "queued_at": "2026-11-20T09:59:00Z",
                        "age_seconds": 60,
                        "state": "not_now",
                        "not_now_count": 3,
                        "not_now_at": "2026-11-20T09:59:29Z",
                    },
                    {
                        "command_uuid": "C3",
                        **common,
                        "queued_at": "2026-11-20T10:00:00Z",
                        "age_seconds": 0,
                        "state": "waiting",
                    },
                ],
                "next_cursor": "more",
            },
        )

    async def test_empty(self) -> None:
        self.store.answers["list_queue"] = Listing([])
        answer = await self.api("GET", "/v1/enrollments/D1/queue")
        self.assertOK(answer, b'{\n\t"commands": []\n}\n')

    async def test_large(self) -> None:
        threads = []

        def noting(work: Any, *arguments: Any) -> Any:
            threads.append(isInIOThread())
            return work(*arguments)

        self.patch(queue, "_described", partial(noting, queue._described))
        self.store.answers["list_queue"] = Listing([outstanding()] * 1000)
        answer = await self.api("GET", "/v1/enrollments/D1/queue?limit=1000")
        self.assertEqual(len(answer.json["commands"]), 1000)
        self.assertEqual(set(threads), {False})

    async def test_clear(self) -> None:
        self.store.answers["clear_queue"] = 3
        with capturedLogs() as events:
            answer = await self.api("DELETE", "/v1/enrollments/D1/queue")
        self.assertOK(answer, b'{\n\t"cleared": 3\n}\n')
        self.assertEqual(self.store.asked, [("clear_queue", "D1")])
        [event] = [one for one in events if one["log_format"] == "queue cleared"]
        self.assertEqual((event["operator"], event["id"], event["count"]), ("nanomdm", "D1", 3))
        self.store.answers["clear_queue"] = 0
        answer = await self.api("DELETE", "/v1/enrollments/D1/queue")
        self.assertEqual(answer.json, {"cleared": 0})

    async def test_refused(self) -> None:
        await self.assertBad("GET", "/v1/enrollments/D1/queue?state=x", "parameter 'state'")
        await self.assertBad("GET", "/v1/enrollments/D1/queue?limit=0", "limit")
        await self.assertBad("GET", "/v1/enrollments/%FF/queue", "id: not UTF-8")
        # Whoever thinks that this can be filtered does not clear everything.
        for query in ("request_type=X", "limit=1", "x"):
            await self.assertBad("DELETE", f"/v1/enrollments/D1/queue?{query}", "unknown parameter")
        self.store.answers["list_queue"] = MessageError("the cursor is none")
        self.assertEqual((await self.api("GET", "/v1/enrollments/D1/queue")).code, 400)
        self.store.answers["list_queue"] = Unknown("there is no enrollment D1")
        self.store.answers["clear_queue"] = Unknown("there is no enrollment D1")
        for method in ("GET", "DELETE"):
            answer = await self.api(method, "/v1/enrollments/D1/queue")
            self.assertEqual(answer.code, 404)
            self.assertEqual(answer.json, {"error": "there is no enrollment D1"})

    async def test_operatorsOnly(self) -> None:
        for path, allow in (("", "DELETE, GET"), ("/C1", "DELETE, PATCH")):
            path = f"/v1/enrollments/D1/queue{path}"
            self.assertEqual((await self.request("DELETE", path)).code, 401)
            for method in ("POST", "PUT", "HEAD"):
                answer = await self.api(method, path)
                self.assertEqual((answer.code, answer.header("Allow")), (405, allow))
        self.assertEqual((await self.api("GET", path)).code, 405)
        self.assertEqual(self.store.asked, [])


class CommandTests(ScriptedCase):
    """
    One command in a queue.
    """

    path = "/v1/enrollments/D1:jo/queue/C%2F1"

    async def test_cancel(self) -> None:
        self.store.answers["cancel_command"] = None
        with capturedLogs() as events:
            answer = await self.api("DELETE", self.path)
        self.assertOK(
            answer,
            b'{\n\t"id": "D1:jo",\n\t"command_uuid": "C/1",\n\t"cancelled": true\n}\n',
        )
        self.assertEqual(self.store.asked, [("cancel_command", "D1:jo", "C/1")])
        [event] = [one for one in events if one["log_format"] == "command cancelled"]
        named = (event["operator"], event["id"], event["command_uuid"])
        self.assertEqual(named, ("nanomdm", "D1:jo", "C/1"))
        [event] = [one for one in events if one["log_format"] == "request"]
        named = (event["operator"], event["id"], event["command_uuid"])
        self.assertEqual(named, ("nanomdm", "D1:jo", "C/1"))

    async def test_priority(self) -> None:
        self.store.answers["set_priority"] = None
        for priority in (-128, -1, 0, 1, 127):
            self.store.asked.clear()
            with capturedLogs() as events:
                answer = await self.api("PATCH", self.path, b'{"priority": %d}' % priority)
            self.assertEqual(answer.code, 200)
            named = {"id": "D1:jo", "command_uuid": "C/1", "priority": priority}
            self.assertEqual(answer.json, named)
            self.assertEqual(self.store.asked, [("set_priority", "D1:jo", "C/1", priority)])
            [event] = [one for one in events if one["log_format"] == "priority changed"]
            self.assertEqual({name: event[name] for name in named}, named)
            self.assertEqual(event["operator"], "nanomdm")

    async def test_badPriority(self) -> None:
        for body, reason in (
            (b"", "the body is not JSON"),
            (b"\xff", "the body is not JSON"),
            (b"{", "the body is not JSON"),
            (b"[" * 1000, "the body is not JSON"),
            (b"9" * 1000, "is not"),
            (b'{"priority": 1}' + b" " * 1024, "more than 1024 bytes"),
            (b"1", '{"priority": ...}'),
            (b"[]", '{"priority": ...}'),
            (b"{}", '{"priority": ...}'),
            (b'{"Priority": 1}', '{"priority": ...}'),
            (b'{"priority": 1, "x": 1}', '{"priority": ...}'),
            *(
                (b'{"priority": %s}' % value, "a number from -128 to 127")
                for value in (b"-129", b"128", b"1.5", b'"1"', b"true", b"null", b"NaN", b"[1]")
            ),
        ):
            await self.assertBad("PATCH", self.path, reason, body)

    async def test_refused(self) -> None:
        body = b'{"priority": 1}'
        for method in ("DELETE", "PATCH"):
            await self.assertBad(method, f"{self.path}?x=1", "unknown parameter 'x'", body)
            path = "/v1/enrollments/D1/queue/%00"
            await self.assertBad(method, path, "command_uuid: there is a NUL", body)
        for error, code in ((Unknown("it is not there"), 404), (AlreadyAnswered("too late"), 409)):
            self.store.answers["cancel_command"] = error
            self.store.answers["set_priority"] = error
            for method in ("DELETE", "PATCH"):
                with capturedLogs() as events:
                    answer = await self.api(method, self.path, body)
                self.assertEqual((answer.code, answer.json), (code, {"error": str(error)}))
                texts = [one["log_format"] for one in events]
                self.assertNotIn("command cancelled", texts)
                self.assertNotIn("priority changed", texts)
