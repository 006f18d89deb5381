"""
The webhook, through real sockets: what its receiver is told, and when.
"""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater
from twisted.logger import capturedLogs
from twisted.web.server import Request

from nanomdm.crypto.mac import signature
from nanomdm.errors import StorageError
from nanomdm.http.api.keys import APIKeys
from nanomdm.http.api.webhook import RetryEndpoint
from nanomdm.http.endpoint import Folder
from nanomdm.service import webhook as delivering
from nanomdm.service.tokens import token_files
from nanomdm.storage import webhook as stored
from nanomdm.storage.settings import StorageSettings
from tests import samples
from tests.http.case import KEY, RESULT, Answer, ClientCase, ServerCase, ca, device
from tests.web import WebServer, listen


class EventReceiver(WebServer):
    """
    Notes the events that it takes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []
        self._awaited: tuple[int, Deferred[list[dict[str, Any]]]] | None = None

    def render(self, request: Request) -> bytes | int:
        """
        See L{WebServer}.
        """
        answer = super().render(request)
        if self.status < 300:
            self.events.append(json.loads(self.asked[-1].body))
        self._tell()
        return answer

    def took(self, count: int) -> Deferred[list[dict[str, Any]]]:
        """
        @return: fires with all events, once there are so many.
        """
        self._awaited = count, Deferred()
        awaited = self._awaited[1]
        self._tell()
        return awaited

    def _tell(self) -> None:
        if self._awaited is not None and len(self.events) >= self._awaited[0]:
            (_, awaited), self._awaited = self._awaited, None
            awaited.callback(self.events)


class WebhookCase(ServerCase):
    """
    A server with a receiver.
    """

    timeout = 30

    async def serve_with(self, **settings: Any) -> None:
        """
        Start both.
        """
        self.receiver = EventReceiver()
        self.url = f"http://127.0.0.1:{listen(self, self.receiver)}/hook?a=b"
        self.serve(**{"webhook_url": self.url, **settings})

    async def told(self, count: int) -> list[dict[str, Any]]:
        """
        @return: all events, which are so many, without what differs each time.
        """
        events = await self.receiver.took(count)
        self.assertEqual(len(events), count)
        for event in events:
            self.assertRegex(event.pop("event_id"), r"\A[0-9a-f]{16}\Z")
            created_at = event.pop("created_at")
            self.assertRegex(created_at, r"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\Z")
            age = datetime.now(UTC) - datetime.fromisoformat(created_at)
            self.assertTrue(timedelta(0) <= age < timedelta(seconds=30))
        return events

    async def waiting(self) -> int:
        """
        @return: how many events are in the storage.
        """
        [(count,)] = await self.query("SELECT count(*) FROM nanomdm_webhook_events")
        return int(count)

    async def failed(self, query: str = "") -> Answer:
        """
        List what was given up.
        """
        return await self.api("GET", f"/v1/webhook/failed{query}")

    async def all_failed(self, count: int) -> Answer:
        """
        @return: the list, once there are so many on it and none waits.
        """
        while True:
            answer = await self.failed()
            if answer.json["backlog"] == {"waiting": 0, "failed": count}:
                return answer


def checked_in(topic: str, body: bytes, **more: Any) -> dict[str, Any]:
    """
    What the receiver is told of a check-in.
    """
    ids = more.pop("ids", {"id": "D1", "type": "Device"})
    raw = base64.b64encode(body).decode()
    return {
        "topic": f"mdm.{topic}",
        "checkin_event": {"udid": "D1", "raw_payload": raw, "ids": ids, **more},
    }


def connected(body: bytes, status: str, **more: Any) -> dict[str, Any]:
    """
    What the receiver is told of a command report.
    """
    details = {
        "udid": "D1",
        "status": status,
        "raw_payload": base64.b64encode(body).decode(),
        "ids": {"id": "D1", "type": "Device"},
        **more,
    }
    return {"topic": "mdm.Connect", "acknowledge_event": details}


class ToldTests(WebhookCase):
    """
    What the receiver is told.
    """

    async def test_checkins(self) -> None:
        """
        Every message, in order, member for member.
        """
        token = Path(self.mktemp())
        token.write_bytes(b"token")
        other = WebServer()
        dm = f"http://127.0.0.1:{listen(self, other)}/"
        await self.serve_with(token=token_files(f"com.apple.maid={token}"), dm=dm, ua_zl_dc=True)
        expected = []
        for tally, body in enumerate(
            (samples.authenticate(), samples.token_update(), samples.token_update())
        ):
            self.assertEqual((await self.send(body)).code, 200)
            topic = "TokenUpdate" if tally else "Authenticate"
            more = {"token_update_tally": tally} if tally else {}
            expected.append(checked_in(topic, body, **more))
        for topic, members in (
            ("SetBootstrapToken", {"BootstrapToken": b"token"}),
            ("GetBootstrapToken", {}),
            ("DeclarativeManagement", {"Endpoint": "tokens"}),
            ("GetToken", {"TokenServiceType": "com.apple.maid"}),
            ("CheckOut", {}),
        ):
            body = samples.checkin(topic, **members)
            self.assertEqual((await self.send(body)).code, 200, topic)
            expected.append(checked_in(topic, body))
        self.assertEqual(await self.told(8), expected)
        await self.all_failed(0)

    async def test_users(self) -> None:
        await self.serve_with(ua_zl_dc=True, webhook_idle=False)
        await self.enroll()
        await self.told(2)
        for shape, id, kind in (
            ({"UserID": "U1"}, "D1:U1", "User"),
            (
                {"UserID": "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", "UserShortName": "u"},
                "D1:u",
                "Shared iPad",
            ),
        ):
            self.receiver.events.clear()
            ids = {"id": id, "type": kind, "parent_id": "D1"}
            body = samples.checkin("UserAuthenticate", **shape)
            self.assertEqual((await self.send(body)).code, 200)
            update = samples.token_update(**shape)
            self.assertOK(await self.send(update))
            self.assertEqual(
                await self.told(2),
                [
                    checked_in("UserAuthenticate", body, ids=ids),
                    checked_in("TokenUpdate", update, ids=ids, token_update_tally=1),
                ],
            )

    async def test_userEnrollment(self) -> None:
        """
        There is no C{udid} but an C{enrollment_id}.
        """
        await self.serve_with()
        body = samples.plist(
            MessageType="Authenticate", Topic=samples.TOPIC, EnrollmentID="E1", SerialNumber=None
        )
        self.assertOK(await self.send(body))
        update = samples.token_update(None, EnrollmentID="E1")
        self.assertOK(await self.send(update))
        user = samples.token_update(None, EnrollmentID="E1", EnrollmentUserID="U1")
        self.assertOK(await self.send(user))
        device, tally = {"id": "E1", "type": "User Enrollment (Device)"}, {"token_update_tally": 1}
        expected = [
            checked_in("Authenticate", body, ids=device, enrollment_id="E1"),
            checked_in("TokenUpdate", update, ids=device, enrollment_id="E1", **tally),
            checked_in(
                "TokenUpdate",
                user,
                ids={"id": "E1:U1", "type": "User Enrollment", "parent_id": "E1"},
                enrollment_id="E1",
                **tally,
            ),
        ]
        for event in expected:
            del event["checkin_event"]["udid"]
        events = await self.told(3)
        # Different enrollments have no order among them.
        self.assertEqual(sorted(events, key=str), sorted(expected, key=str))

    async def test_bothIds(self) -> None:
        """
        Whoever sends both goes by the UDID, and the receiver is told both.
        """
        await self.serve_with()
        body = samples.authenticate(EnrollmentID="E1")
        self.assertOK(await self.send(body))
        self.assertEqual(await self.told(1), [checked_in("Authenticate", body, enrollment_id="E1")])

    async def test_reports(self) -> None:
        await self.serve_with()
        await self.enroll()
        await self.enqueue("D1", "C1")
        idle = samples.report("Idle")
        not_now = samples.report("NotNow", "C1")
        done = samples.report("Acknowledged", "C1", Result="\u00e4")
        unknown = samples.report("Error", "never-queued")
        for body in (idle, not_now, done, unknown):
            self.assertEqual((await self.send(body, RESULT)).code, 200)
        self.assertEqual(
            (await self.told(6))[2:],
            [
                connected(idle, "Idle"),
                connected(not_now, "NotNow", command_uuid="C1"),
                connected(done, "Acknowledged", command_uuid="C1"),
                connected(unknown, "Error", command_uuid="never-queued"),
            ],
        )

    async def test_withoutIdle(self) -> None:
        await self.serve_with(webhook_idle=False)
        await self.enroll()
        await self.enqueue("D1", "C1")
        self.assertEqual((await self.report("Idle")).body, samples.command("C1"))
        done = samples.report("Acknowledged", "C1")
        self.assertOK(await self.send(done, RESULT))
        self.assertEqual(
            (await self.told(3))[2:], [connected(done, "Acknowledged", command_uuid="C1")]
        )

    async def test_urlParameters(self) -> None:
        await self.serve_with()
        body = samples.authenticate()
        path = "/mdm?a=1&b=x%20y%C3%A4&a=2&empty=&bad=%FF"
        self.assertOK(await self.send(body, path=path))
        params = {"a": "1", "b": "x y\u00e4", "empty": "", "bad": "\ufffd"}
        self.assertEqual(await self.told(1), [checked_in("Authenticate", body, url_params=params)])

    async def test_tooManyParameters(self) -> None:
        await self.serve_with()
        names = "&".join(f"p{number}=1" for number in range(200))
        path = f"/mdm?long={'%C3%A4' * 5000}&{names}"
        self.assertOK(await self.send(samples.authenticate(), path=path))
        [event] = await self.told(1)
        params = event["checkin_event"]["url_params"]
        self.assertEqual(len(params), 100)
        self.assertEqual(params["long"], "\u00e4" * 1000)

    async def test_request(self) -> None:
        """
        What the request to the receiver looks like.  The event has the trace id that the
        log shows.
        """
        await self.serve_with(webhook_hmac_key="k\u00e9y")
        with capturedLogs() as logs:
            self.assertOK(await self.send(samples.authenticate()))
        await self.receiver.took(1)
        [asked] = self.receiver.asked
        self.assertEqual((asked.method, asked.uri), ("POST", "/hook?a=b"))
        self.assertEqual(asked.header("Content-Type"), "application/json; charset=utf-8")
        expected = signature("k\u00e9y".encode(), asked.body).decode()
        self.assertEqual(asked.header("X-Hmac-Signature"), expected)
        [trace_id] = [event["trace_id"] for event in logs if "trace_id" in event]
        self.assertEqual(self.receiver.events[0]["event_id"], trace_id)
        self.assertTrue(asked.body.startswith(b'{"topic": "mdm.Authenticate", "event_id": "'))
        # Compiled from what the log has to know.
        self.assertRegex(asked.body, delivering._HEAD)

    async def test_unsigned(self) -> None:
        await self.serve_with()
        self.assertOK(await self.send(samples.authenticate()))
        await self.receiver.took(1)
        self.assertIsNone(self.receiver.asked[0].header("X-Hmac-Signature"))

    async def test_large(self) -> None:
        """
        What is large is signed elsewhere.
        """
        await self.serve_with(webhook_hmac_key="key")
        await self.enroll()
        body = samples.report("Acknowledged", "C1", Result="x" * 3_000_000)
        self.assertOK(await self.send(body, RESULT))
        events = await self.told(3)
        self.assertEqual(events[2], connected(body, "Acknowledged", command_uuid="C1"))
        asked = self.receiver.asked[2]
        self.assertEqual(asked.header("X-Hmac-Signature"), signature(b"key", asked.body).decode())


class NotToldTests(WebhookCase):
    """
    What the receiver is not told.
    """

    async def test_refused(self) -> None:
        """
        Messages that were not accepted.
        """
        await self.serve_with()
        await self.enroll()
        stranger = device(2)
        self.assertRefused(await self.send(samples.token_update(), identity=stranger))
        self.assertRefused(await self.report("Idle", identity=stranger))
        self.assertRefused(await self.send(samples.token_update("D2"), identity=stranger))
        answer = await self.send(samples.checkin("UserAuthenticate", UserID="U1"))
        self.assertEqual(answer.code, 410)
        answer = await self.send(samples.checkin("DeclarativeManagement", Endpoint="tokens"))
        self.assertEqual(answer.code, 500)
        unknown = samples.checkin("GetToken", TokenServiceType="com.example")
        self.assertRefused(await self.send(unknown))
        events = await self.told(2)
        self.assertEqual([e["topic"] for e in events], ["mdm.Authenticate", "mdm.TokenUpdate"])
        await self.all_failed(0)
        self.assertEqual(len(self.receiver.asked), 2)

    async def test_migrated(self) -> None:
        await self.serve_with(migration=True, retro=True)
        self.assertOK(await self.api("PUT", "/migration", samples.authenticate()))
        self.assertEqual(await self.query("SELECT id FROM devices"), [("D1",)])
        self.assertEqual(await self.waiting(), 0)

    async def test_noReceiver(self) -> None:
        """
        Without a receiver there are no events.
        """
        self.serve()
        await self.enroll()
        self.assertOK(await self.report("Idle"))
        self.assertEqual(await self.waiting(), 0)

    async def test_notWritten(self) -> None:
        """
        A request whose event can not be written has not happened.
        """
        await self.serve_with()
        await self.enroll()
        await self.told(2)
        await self.enqueue("D1", "C1")

        def fail(*arguments: Any) -> None:
            raise StorageError("the events are full")

        self.patch(stored, "_write", fail)
        self.assertEqual((await self.report("Acknowledged", "C1")).code, 500)
        self.assertEqual((await self.report("Idle")).code, 500)
        self.assertEqual(await self.query("SELECT status FROM command_results"), [])


class DeliveryTests(WebhookCase):
    """
    Receivers that make trouble.
    """

    async def test_failsFirst(self) -> None:
        """
        Whatever is no success is tried again, and what comes behind waits for it.
        """
        await self.serve_with()
        self.receiver.status = 302
        self.receiver.headers = {"Location": "/elsewhere"}
        self.assertOK(await self.send(samples.authenticate()))
        await self.receiver.arrived()
        # Let it answer.
        await deferLater(reactor, 0)
        self.receiver.status = 204
        self.receiver.body = b""
        self.assertOK(await self.send(samples.token_update()))
        events = await self.told(2)
        self.assertEqual([e["topic"] for e in events], ["mdm.Authenticate", "mdm.TokenUpdate"])
        self.assertEqual({asked.uri for asked in self.receiver.asked}, {"/hook?a=b"})
        bodies = [json.loads(asked.body)["topic"] for asked in self.receiver.asked]
        self.assertEqual(bodies, ["mdm.Authenticate", "mdm.Authenticate", "mdm.TokenUpdate"])

    async def test_largeAnswer(self) -> None:
        """
        Its status counts.
        """
        await self.serve_with()
        self.receiver.body = b"x" * 1_000_000
        await self.enroll()
        await self.all_failed(0)
        self.assertEqual(len(self.receiver.asked), 2)

    async def test_muteReceiver(self) -> None:
        """
        Devices do not notice.
        """
        await self.serve_with()
        self.receiver.mute = True
        await self.enroll()
        await self.receiver.arrived()
        self.assertOK(await self.report("Idle"))
        self.assertEqual(await self.waiting(), 3)
        # At the stop, too, nobody waits for it for long.
        self.patch(delivering, "_GRACE", 0.01)
        await self.daemon.stopService()

    async def test_stop(self) -> None:
        """
        What is under way at a stop ends, and the next server goes on behind it at once.
        """
        path = Path(self.mktemp())
        storages = (StorageSettings(kind="sqlite", dsn=path.absolute()),)
        await self.serve_with(storages=storages)
        self.receiver.mute = True
        await self.enroll()
        await self.receiver.arrived()
        stopped = self.daemon.stopService()
        self.assertNoResult(stopped)
        self.receiver.unmute()
        await stopped
        self.assertEqual(len(self.receiver.asked), 1)
        self.serve(storages=storages, webhook_url=self.url)
        events = await self.told(2)
        self.assertEqual([e["topic"] for e in events], ["mdm.Authenticate", "mdm.TokenUpdate"])

    async def https(self, **settings: Any) -> None:
        self.receiver = EventReceiver()
        server = ca().issue_server("localhost")
        port = listen(self, self.receiver, server)
        self.serve(webhook_url=f"https://localhost:{port}/", **settings)
        self.assertOK(await self.send(samples.authenticate()))

    async def test_ca(self) -> None:
        root = Path(self.mktemp())
        root.write_bytes(ca().pem)
        await self.https(webhook_ca=root)
        await self.told(1)

    async def test_untrusted(self) -> None:
        """
        Without its root in C{--webhook-ca} no receiver is trusted.
        """
        await self.https(webhook_max_age=0)
        [event] = (await self.all_failed(1)).json["events"]
        self.assertIn("certificate is not accepted", event["reason"])
        self.assertEqual(self.receiver.asked, [])


class RetryTests(ClientCase):
    """
    What the API and who delivers have to do with each other.
    """

    async def test_wake(self) -> None:
        """
        Nobody waits for the next look into the storage.
        """
        done: list[object] = []

        def retry_events(numbers: Any) -> Deferred[int]:
            done.append(numbers)
            return succeed(2)

        self.patch(self, "retry_events", retry_events)
        root = Folder()
        root.putChild(b"retry", RetryEndpoint(APIKeys(KEY), self, lambda: done.append("woken")))
        self.listen(root)
        answer = await self.api("POST", "/retry", b'{"numbers": [7, 3]}')
        self.assertEqual((answer.code, answer.json), (200, {"retried": 2}))
        self.assertEqual(done, [[7, 3], "woken"])

    retry_events: Any = None


class GivenUpTests(WebhookCase):
    """
    Events that were given up, and the API for them.
    """

    async def test_listed(self) -> None:
        await self.serve_with(webhook_max_age=0)
        self.receiver.status = 500
        with capturedLogs() as logs:
            self.assertOK(await self.send(samples.authenticate()))
            answer = await self.all_failed(1)
        self.assertEqual(answer.code, 200)
        [event] = answer.json["events"]
        place = re.match("http://([^/]+)/", self.url)[1]
        for name in ("created", "failed"):
            self.assertRegex(event.pop(name), r"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")
        self.assertEqual(
            event,
            {
                "number": event["number"],
                "event_id": json.loads(self.receiver.asked[0].body)["event_id"],
                "topic": "mdm.Authenticate",
                "id": "D1",
                "attempts": 1,
                "reason": f"{place}: answered 500",
            },
        )
        self.assertNotIn("next_cursor", answer.json)
        [line] = [log for log in logs if log["log_format"] == "webhook event given up"]
        self.assertEqual((line["id"], line["topic"]), ("D1", "mdm.Authenticate"))
        self.assertEqual(line["event_id"], event["event_id"])

    async def test_retry(self) -> None:
        """
        They can be delivered again: some, or all.
        """
        await self.serve_with(webhook_max_age=0)
        self.receiver.status = 500
        await self.enroll()
        self.assertOK(await self.report("Idle"))
        numbers = [event["number"] for event in (await self.all_failed(3)).json["events"]]
        self.receiver.status = 200
        some = {"numbers": [numbers[1], 10**18]}
        answer = await self.api("POST", "/v1/webhook/retry", json.dumps(some).encode())
        self.assertEqual((answer.code, answer.json), (200, {"retried": 1}))
        answer = await self.api("POST", "/v1/webhook/retry", b'{"all": true}')
        self.assertEqual((answer.code, answer.json), (200, {"retried": 2}))
        topics = [event["topic"] for event in await self.told(3)]
        self.assertEqual(topics, ["mdm.TokenUpdate", "mdm.Authenticate", "mdm.Connect"])
        await self.all_failed(0)

    async def test_pages(self) -> None:
        await self.serve_with(webhook_max_age=0)
        self.receiver.status = 500
        await self.enroll()
        self.assertOK(await self.report("Idle"))
        whole = (await self.all_failed(3)).json["events"]
        first = (await self.failed("?limit=2")).json
        self.assertEqual(first["events"], whole[:2])
        rest = (await self.failed(f"?limit=2&cursor={first['next_cursor']}")).json
        self.assertEqual(rest["events"], whole[2:])
        self.assertNotIn("next_cursor", rest)
        exactly = (await self.failed("?limit=3&cursor=0")).json
        self.assertEqual(exactly["events"], whole)
        self.assertNotIn("next_cursor", exactly)

    async def test_backlog(self) -> None:
        await self.serve_with()
        self.receiver.mute = True
        await self.enroll()
        self.assertOK(await self.report("Idle"))
        backlog = (await self.failed()).json["backlog"]
        oldest = backlog.pop("oldest_seconds")
        self.assertEqual(backlog, {"waiting": 3, "failed": 0})
        self.assertTrue(0 <= oldest < 30)
        self.receiver.unmute()
        await self.told(3)

    async def test_refused(self) -> None:
        self.serve()
        for query in (
            *("limit=0", "limit=1001", "limit=x", f"limit={'9' * 5000}"),
            *("cursor=-1", f"cursor={2**63}"),
        ):
            answer = await self.failed(f"?{query}")
            self.assertEqual(answer.code, 400, query)
            self.assertIn("is not a number from", answer.json["error"])
        for body in (
            *(b"", b"[]", b"{}", b"null", b'{"all": false}', b'{"all": 1}', b'{"all": "true"}'),
            *(b'{"numbers": 1}', b'{"numbers": ["1"]}', b'{"numbers": [true]}'),
            *(b'{"numbers": [-1]}', b'{"numbers": [1.5]}', b'{"numbers": [9223372036854775808]}'),
            *(
                b'{"numbers": [1], "all": true}',
                b"[" * 100_000,
                b'{"numbers": []}' + b" " * 300_000,
            ),
            *(b"\xff", b'{"numbers": [' + b"9" * 10_000 + b"]}"),
        ):
            answer = await self.api("POST", "/v1/webhook/retry", body)
            self.assertEqual(answer.code, 400, body[:50])
            self.assertEqual(list(answer.json), ["error"])
        answer = await self.api("POST", "/v1/webhook/retry", b'{"numbers": []}')
        self.assertEqual((answer.code, answer.json), (200, {"retried": 0}))

    async def test_guarded(self) -> None:
        self.serve()
        for method, path in (("GET", "failed"), ("POST", "retry")):
            self.assertEqual((await self.request(method, f"/v1/webhook/{path}")).code, 401)
            self.assertEqual((await self.api("PUT", f"/v1/webhook/{path}")).code, 405)
        self.assertEqual((await self.api("GET", "/v1/webhook")).code, 404)
