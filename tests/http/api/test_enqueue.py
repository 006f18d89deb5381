"""
Enqueueing, over HTTP.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.internet.defer import fail
from twisted.logger import capturedLogs
from twisted.python.threadable import isInIOThread

from nanomdm.errors import NanoMDMError, Overloaded, StorageUnavailable, TooLarge
from nanomdm.http.api import many
from nanomdm.interfaces import PushResult
from tests import samples
from tests.http.case import ServerCase, device
from tests.service.fakes import RecordingPusher


class EnqueueTests(ServerCase):
    """
    C{/v1/enqueue/<ids>}.
    """

    def setUp(self) -> None:
        self.serve()

    def pusher(self) -> RecordingPusher:
        """
        Send pushes nowhere.
        """
        pusher = RecordingPusher()
        enqueuer = self.resource("v1").children[b"enqueue"]._enqueuer
        self.patch(enqueuer, "_pusher", pusher)
        return pusher

    async def test_queued(self) -> None:
        await self.enroll()
        answer = await self.enqueue("D1")
        self.assertOK(
            answer,
            b'{\n\t"no_push": true,\n\t"command_uuid": "C1",\n'
            b'\t"request_type": "DeviceInformation"\n}\n',
        )
        self.assertEqual(answer.header("Content-Type"), "application/json")

    async def test_methods(self) -> None:
        await self.enroll()
        for method, code in (("PUT", 200), ("POST", 200), ("GET", 405), ("DELETE", 405)):
            answer = await self.api(method, "/v1/enqueue/D1?nopush=1", samples.command("C1"))
            self.assertEqual(answer.code, code)
        self.assertEqual(answer.header("Allow"), "POST, PUT")

    async def test_pushes(self) -> None:
        """
        Those that took the command are woken.
        """
        await self.enroll()
        pusher = self.pusher()
        answer = await self.enqueue("D1,nobody", query="")
        self.assertEqual(answer.code, 207)
        self.assertEqual(
            answer.json,
            {
                "status": {
                    "D1": {"push_result": "apns-D1"},
                    "nobody": {"command_error": "unknown enrollment id"},
                },
                "command_uuid": "C1",
                "request_type": "DeviceInformation",
            },
        )
        self.assertEqual((pusher.pushed, pusher.forced), ([["D1"]], [False]))

    async def test_failedPush(self) -> None:
        await self.enroll()
        self.pusher().results["D1"] = PushResult(error="too late")
        answer = await self.enqueue("D1", query="")
        self.assertEqual(answer.code, 500)
        self.assertEqual(answer.json["status"], {"D1": {"push_error": "too late"}})
        self.assertOK(await self.report("Idle"), samples.command("C1"))

    async def test_nothingIsPushed(self) -> None:
        await self.enroll()
        self.pusher().error = StorageUnavailable("database: secret")
        answer = await self.enqueue("D1", query="")
        self.assertEqual(answer.code, 500)
        self.assertEqual(
            answer.body,
            b'{\n\t"push_error": "storage unavailable",\n\t"command_uuid": "C1",\n'
            b'\t"request_type": "DeviceInformation"\n}\n',
        )
        self.assertOK(await self.report("Idle"), samples.command("C1"))

    async def test_nopush(self) -> None:
        await self.enroll()
        self.pusher()
        for query, pushes in (
            ("", True),
            ("?nopush=", True),
            ("?nopush=0", True),
            ("?nopush=false", True),
            ("?nopush=FALSE", True),
            ("?nopush=1", False),
            ("?nopush=true", False),
            ("?nopush=yes", False),
        ):
            answer = await self.enqueue("D1", query=query)
            self.assertEqual("status" in answer.json, pushes, query)
            self.assertEqual(answer.json.get("no_push", False), not pushes, query)

    async def test_someFail(self) -> None:
        await self.enroll("D1", device(1))
        await self.enroll("D2", device(2))
        await self.send(samples.checkin("CheckOut", "D2"), identity=device(2))
        answer = await self.enqueue("nobody,D1,D2,nobody,D1")
        self.assertEqual(answer.code, 207)
        self.assertEqual(
            answer.json["status"],
            {
                "D2": {"command_error": "enrollment is disabled"},
                "nobody": {"command_error": "unknown enrollment id"},
            },
        )
        self.assertEqual(await self.query("SELECT id FROM enrollment_queue"), [("D1",)])

    async def test_allFail(self) -> None:
        with capturedLogs() as events:
            answer = await self.enqueue("nobody,nobody,none")
        self.assertEqual(answer.code, 500)
        [line] = [one for one in events if one["log_format"] == "request"]
        self.assertEqual(line["failed_ids"], 2)
        unknown = {"command_error": "unknown enrollment id"}
        self.assertEqual(answer.json["status"], {"nobody": unknown, "none": unknown})

    async def test_escapedIds(self) -> None:
        await self.enroll()
        shared = {"UserID": "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"}
        for name in ("jo@example.com", "a/b c", "ü"):
            self.assertOK(await self.send(samples.token_update(**shared, UserShortName=name)))
        for number, path in enumerate(
            (
                "D1:jo@example.com",
                "D1%3Ajo%40example.com",
                "D1,D1:jo@example.com",
                "D1%2CD1:jo%40example.com",
                "D1:a/b%20c",
                "D1:a%2Fb%20c",
                "D1:%C3%BC",
            )
        ):
            answer = await self.enqueue(path, f"C{number}")
            self.assertEqual(answer.code, 200, answer.body)

    async def test_badIds(self) -> None:
        for path in ("", ",", ",,", "%FF", "D1%00", "D1,%00"):
            answer = await self.enqueue(path)
            self.assertEqual(answer.code, 400, path)
            self.assertIn("enrollment id", answer.json["command_error"])
        self.assertEqual((await self.api("PUT", "/v1/enqueue", b"")).code, 400)

    async def test_badCommands(self) -> None:
        await self.enroll()
        for body, reason in (
            (b"", "the command is empty"),
            (b"garbage", "not an XML property list"),
            (samples.command(""), "CommandUUID is missing or empty"),
            (samples.command("C" * 128), "CommandUUID is longer than 127"),
            (samples.plist(CommandUUID="C1"), "Command is missing"),
            (samples.plist(CommandUUID="C1", Command={}), "RequestType is missing"),
            (samples.command("C1")[:-20], "not well-formed XML"),
        ):
            answer = await self.api("PUT", "/v1/enqueue/D1?nopush=1", body)
            self.assertEqual(answer.code, 400)
            self.assertEqual(list(answer.json), ["command_error"])
            self.assertIn(reason, answer.json["command_error"])
        self.assertEqual(await self.query("SELECT * FROM commands"), [])

    async def test_safeRetry(self) -> None:
        await self.enroll("D1", device(1))
        await self.enroll("D2", device(2))
        self.assertEqual((await self.enqueue("D1")).code, 200)
        await self.report("Acknowledged", "C1")
        self.assertEqual((await self.enqueue("D1,D2")).code, 200)
        self.assertOK(await self.report("Idle"))
        self.assertOK(
            await self.report("Idle", udid="D2", identity=device(2)), samples.command("C1")
        )

    async def test_conflict(self) -> None:
        await self.enroll()
        await self.enqueue("D1")
        answer = await self.api(
            "PUT", "/v1/enqueue/D1?nopush=1", samples.command("C1", "SecurityInfo")
        )
        self.assertEqual(answer.code, 409)
        self.assertIn("C1 exists already", answer.json["command_error"])
        self.assertOK(await self.report("Idle"), samples.command("C1"))

    async def test_refusals(self) -> None:
        """
        Every error has the form of a result; of what is the server's own the
        client learns nothing more.
        """
        await self.enroll()
        for error, code, reason, retry in (
            (StorageUnavailable("database: secret"), 500, "storage unavailable", None),
            (NanoMDMError("secret"), 500, "internal error", None),
            (RuntimeError("secret"), 500, "internal error", None),
            (TooLarge("it does not fit"), 413, "it does not fit", None),
            (Overloaded("too much at once", 7), 503, "too much at once", "7"),
        ):
            self.patch(self.storage, "enqueue", lambda command, ids, error=error: fail(error))
            answer = await self.enqueue("D1")
            self.assertEqual((answer.code, answer.json), (code, {"command_error": reason}))
            self.assertEqual(answer.header("Content-Type"), "application/json")
            self.assertEqual(answer.header("Retry-After"), retry)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    async def test_largeResultIsMadeElsewhere(self) -> None:
        """
        The reactor neither takes long lists of ids apart nor puts them together.
        """
        threads = set()

        def noting(original: Any, *args: Any) -> Any:
            threads.add((original.__name__, isInIOThread()))
            return original(*args)

        for function in (many.parse_ids, many._answer):
            self.patch(many, function.__name__, partial(noting, function))
        await self.enqueue("D1,D2")
        self.assertEqual(threads, {("parse_ids", True), ("_answer", True)})
        threads.clear()
        await self.enqueue(",".join(f"{number:036}" for number in range(1000)))
        self.assertEqual(threads, {("parse_ids", False), ("_answer", False)})

    async def test_longIdList(self) -> None:
        await self.enroll()
        ids = ",".join(f"{number:036}" for number in range(20_000))
        answer = await self.enqueue(f"D1,{ids}")
        self.assertEqual(answer.code, 207)
        self.assertEqual(len(answer.json["status"]), 20_000)

    async def test_largeCommand(self) -> None:
        await self.enroll()
        command = samples.command("C1", "InstallProfile", Payload=b"x" * (2 << 20))
        self.assertEqual((await self.api("PUT", "/v1/enqueue/D1?nopush=1", command)).code, 200)
        self.assertOK(await self.report("Idle"), command)

    async def test_goLikeJSON(self) -> None:
        answer = await self.enqueue("%3Ca%26b%3E%C3%BC")
        self.assertIn(rb'"\u003ca\u0026b\u003e' + "ü".encode(), answer.body)
