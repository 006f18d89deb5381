"""
Pushes and push certificates, over HTTP.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import capturedLogs
from twisted.python.threadable import isInIOThread

from nanomdm.errors import (
    NanoMDMError,
    Overloaded,
    PushKeyUnreadable,
    StorageUnavailable,
    TooLarge,
)
from nanomdm.http.api import many
from nanomdm.http.api.keys import APIKeys
from nanomdm.http.api.push import PushCertEndpoint, PushEndpoint
from nanomdm.http.endpoint import Endpoint, Folder
from nanomdm.interfaces import PushResult, StoredPushCertificate
from nanomdm.sim.ca import DeviceIdentity
from tests.http.case import KEY, ClientCase, ServerCase, ca
from tests.samples import TOPIC
from tests.service.fakes import RecordingPusher

NOW = datetime(2026, 1, 7, 4, 4, 46, tzinfo=UTC)
END = datetime(2027, 1, 7, 4, 4, 46, tzinfo=UTC)
OTHER = "com.apple.mgmt.External.other"


@cache
def identity(topic: str, not_after: datetime) -> DeviceIdentity:
    """
    A push certificate and its key.
    """
    return ca().issue_push(topic, key=ca().key, not_before=NOW, not_after=not_after)


def pem(topic: str = TOPIC, not_after: datetime = END) -> bytes:
    """
    The same, as it is uploaded.
    """
    issued = identity(topic, not_after)
    return issued.pem + issued.key_pem


class FakePushStore:
    """
    Keeps push certificates.

    @ivar error: what everything fails with.
    """

    def __init__(self) -> None:
        self.certificates: dict[str, StoredPushCertificate] = {}
        self.error: Exception | None = None

    def store_push_certificate(
        self, topic: str, certificate_pem: str, key_pem: str
    ) -> Deferred[None]:
        """
        Store one.
        """
        if self.error is not None:
            return fail(self.error)
        self.certificates[topic] = StoredPushCertificate(topic, certificate_pem, key_pem, 0)
        return succeed(None)

    def push_certificate(self, topic: str) -> Deferred[StoredPushCertificate | None]:
        """
        Find one.
        """
        if self.error is not None:
            return fail(self.error)
        return succeed(self.certificates.get(topic))


class APICase(ClientCase):
    """
    A test case with one endpoint at C{/v1/x}.
    """

    def serve(self, name: bytes, endpoint: type[Endpoint], *parts: Any) -> None:
        """
        Make the endpoint from its parts, and serve it.
        """
        offloader = self.offloader()
        v1, root = Folder(), Folder()
        v1.putChild(name, endpoint(APIKeys(KEY), parts[0], offloader, *parts[1:]))
        root.putChild(b"v1", v1)
        self.listen(root)


class PushTests(APICase):
    """
    C{/v1/push/<ids>}.
    """

    def setUp(self) -> None:
        self.pusher = RecordingPusher()
        self.serve(b"push", PushEndpoint, self.pusher)

    async def test_pushed(self) -> None:
        for method in ("GET", "PUT"):
            answer = await self.api(method, "/v1/push/D2,D1,D2")
            self.assertOK(
                answer,
                b'{\n\t"status": {\n\t\t"D1": {\n\t\t\t"push_result": "apns-D1"\n\t\t},\n'
                b'\t\t"D2": {\n\t\t\t"push_result": "apns-D2"\n\t\t}\n\t}\n}\n',
            )
            self.assertEqual(answer.header("Content-Type"), "application/json")
        self.assertEqual(self.pusher.pushed, [["D2", "D1"]] * 2)

    async def test_someFail(self) -> None:
        self.pusher.results = {
            "D1": PushResult(id="X", error="APNs refused it", status=410, reason="Unregistered"),
            "nobody": PushResult(error="unknown enrollment id"),
        }
        answer = await self.api("PUT", "/v1/push/D1,nobody,D2")
        self.assertEqual(answer.code, 207)
        self.assertEqual(
            answer.json,
            {
                "status": {
                    "D1": {
                        "push_error": "APNs refused it",
                        "push_result": "X",
                        "push_status": 410,
                        "push_reason": "Unregistered",
                    },
                    "D2": {"push_result": "apns-D2"},
                    "nobody": {"push_error": "unknown enrollment id"},
                }
            },
        )

    async def test_allFail(self) -> None:
        self.pusher.results = {"D1": PushResult(error="unknown enrollment id")}
        answer = await self.api("GET", "/v1/push/D1,D1")
        self.assertEqual(answer.code, 500)
        self.assertEqual(answer.json, {"status": {"D1": {"push_error": "unknown enrollment id"}}})

    async def test_force(self) -> None:
        queries = ("", "?force=", "?force=0", "?force=False", "?force=1", "?force=yes")
        for query in queries:
            self.assertEqual((await self.api("GET", f"/v1/push/D1{query}")).code, 200)
        self.assertEqual(self.pusher.forced, [False] * 4 + [True] * 2)

    async def test_escapedIds(self) -> None:
        await self.api("GET", "/v1/push/D1%3Ajo%40example.com%2CD2:a/b%20c")
        self.assertEqual(self.pusher.pushed, [["D1:jo@example.com", "D2:a/b c"]])

    async def test_badIds(self) -> None:
        for path in ("", "/", "/,", "/%FF", "/D1%00"):
            answer = await self.api("GET", f"/v1/push{path}")
            self.assertEqual((answer.code, list(answer.json)), (400, ["push_error"]), path)
            self.assertIn("enrollment id", answer.json["push_error"])
        self.assertEqual(self.pusher.pushed, [])

    async def test_refusals(self) -> None:
        for error, code, reason, retry in (
            (StorageUnavailable("database: secret"), 500, "storage unavailable", None),
            (NanoMDMError("secret"), 500, "internal error", None),
            (RuntimeError("secret"), 500, "internal error", None),
            (Overloaded("too many pushes wait", 7), 503, "too many pushes wait", "7"),
        ):
            self.pusher.error = error
            answer = await self.api("PUT", "/v1/push/D1")
            self.assertEqual((answer.code, answer.json), (code, {"push_error": reason}))
            self.assertEqual(answer.header("Retry-After"), retry)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    async def test_operatorsOnly(self) -> None:
        self.assertEqual((await self.request("GET", "/v1/push/D1")).code, 401)
        for method in ("POST", "DELETE", "HEAD"):
            answer = await self.api(method, "/v1/push/D1")
            self.assertEqual((answer.code, answer.header("Allow")), (405, "GET, PUT"))
        self.assertEqual(self.pusher.pushed, [])

    async def test_manyIds(self) -> None:
        """
        As many as a request can name; nothing large is done on the reactor's
        thread.
        """
        threads = []
        answer = many._answer

        def noting(*args: Any) -> Any:
            threads.append(isInIOThread())
            return answer(*args)

        self.patch(many, "_answer", noting)
        ids = [f"{number:05x}" for number in range(170_000)]
        answered = await self.api("GET", "/v1/push/" + ",".join(ids))
        self.assertEqual(answered.code, 200)
        self.assertEqual(list(answered.json["status"]), ids)
        self.assertEqual(self.pusher.pushed, [ids])
        self.assertEqual(threads, [False])


class PushCertTests(APICase):
    """
    C{/v1/pushcert}.
    """

    def setUp(self) -> None:
        self.now = NOW
        self.store = FakePushStore()
        self.serve(b"pushcert", PushCertEndpoint, self.store, lambda: self.now)

    async def put(self, body: bytes) -> Any:
        """
        Upload.
        """
        return await self.api("PUT", "/v1/pushcert", body)

    async def look(self, topic: str = TOPIC) -> Any:
        """
        Ask for a topic's.
        """
        return await self.api("GET", f"/v1/pushcert?topic={topic}")

    async def test_stored(self) -> None:
        expected = b'{\n\t"topic": "%s",\n\t"not_after": "2027-01-07T04:04:46Z"\n}\n'
        answer = await self.put(pem())
        self.assertOK(answer, expected % TOPIC.encode())
        self.assertEqual(answer.header("Content-Type"), "application/json")
        stored = self.store.certificates[TOPIC]
        self.assertEqual(stored.certificate_pem.encode(), identity(TOPIC, END).pem)
        self.assertEqual(stored.key_pem.encode(), identity(TOPIC, END).key_pem)
        answer = await self.look()
        self.assertOK(answer, expected % TOPIC.encode())
        self.assertEqual(answer.header("Content-Type"), "application/json")

    async def test_severalTopics(self) -> None:
        await self.put(pem())
        self.assertEqual((await self.put(pem(OTHER))).json["topic"], OTHER)
        self.assertEqual((await self.look()).json["topic"], TOPIC)
        self.assertEqual((await self.look(OTHER)).json["topic"], OTHER)

    async def test_replaced(self) -> None:
        await self.put(pem())
        await self.put(pem(not_after=END + timedelta(days=365)))
        self.assertEqual((await self.look()).json["not_after"], "2028-01-07T04:04:46Z")

    async def test_expiry(self) -> None:
        for before, expected in (
            (timedelta(days=30), None),
            (timedelta(days=30, seconds=-1), 29),
            (timedelta(days=1), 1),
            (timedelta(hours=23), 0),
            (timedelta(), 0),
            (timedelta(seconds=-1), -1),
            (timedelta(days=-3), -3),
        ):
            self.now = END - before
            for answer in (await self.put(pem()), await self.look()):
                self.assertEqual(answer.code, 200)
                self.assertEqual(answer.json.get("expires_in_days"), expected, before)

    async def test_malformed(self) -> None:
        for body, reason in (
            (b"", "there is no certificate"),
            (identity(TOPIC, END).pem, "there is no private key"),
            (identity(TOPIC, END).pem + b"\xff\0" * 40_000, "more than 65535 bytes"),
        ):
            answer = await self.put(body)
            self.assertEqual((answer.code, list(answer.json)), (400, ["error"]))
            self.assertIn(reason, answer.json["error"])
        self.assertEqual(self.store.certificates, {})

    async def test_keyUnreadable(self) -> None:
        """
        The certificate is told of all the same, whatever stands before it.
        """
        told = {"topic": TOPIC, "not_after": "2027-01-07T04:04:46Z", "key_error": "no key 1a"}
        issued, other = (identity(topic, END).pem.decode() for topic in (TOPIC, OTHER))
        for certificate in (issued, other + issued, ca().pem.decode() + issued):
            self.store.error = PushKeyUnreadable("no key 1a", certificate)
            answer = await self.look()
            self.assertEqual((answer.code, answer.json), (200, told))
        self.now = END - timedelta(days=3)
        self.assertEqual((await self.look()).json, {**told, "expires_in_days": 3})
        for certificate in ("", other, "ü", ca().pem.decode()):
            self.store.error = PushKeyUnreadable("no key 1a", certificate)
            answer = await self.look()
            self.assertEqual((answer.code, list(answer.json)), (500, ["error"]))
            self.assertIn(f"the push certificate for {TOPIC} is unusable: ", answer.json["error"])

    async def test_topicsThatAreNot(self) -> None:
        await self.put(pem())
        for query in ("", "?topic", "?topic=", "?Topic=x", "?topic=%FF", "?topic=%00"):
            answer = await self.api("GET", f"/v1/pushcert{query}")
            self.assertEqual((answer.code, list(answer.json)), (400, ["error"]), query)
            self.assertIn("topic", answer.json["error"])
        for topic in (OTHER, TOPIC.upper(), quote("ü<"), "x" * 10_000):
            answer = await self.look(topic)
            self.assertEqual(answer.code, 404)
            self.assertEqual(answer.json, {"error": "there is no push certificate for this topic"})

    async def test_unusableInStorage(self) -> None:
        """
        Something else may have put it there.
        """
        issued = identity(TOPIC, END)
        for certificate, key in (
            ("", ""),
            (issued.pem.decode(), ""),
            ("ü", issued.key_pem.decode()),
            (issued.pem.decode(), "-----BEGIN RSA PRIVATE KEY-----\nAA\n"),
            (identity(OTHER, END).pem.decode(), issued.key_pem.decode()),
        ):
            self.store.store_push_certificate(TOPIC, certificate, key)
            answer = await self.look()
            self.assertEqual((answer.code, list(answer.json)), (500, ["error"]))
            self.assertIn(f"the push certificate for {TOPIC} is unusable: ", answer.json["error"])

    async def test_withoutLineEnds(self) -> None:
        issued = identity(TOPIC, END)
        self.store.store_push_certificate(
            TOPIC, issued.pem.decode().rstrip(), issued.key_pem.decode().rstrip()
        )
        self.assertEqual((await self.look()).json["topic"], TOPIC)

    async def test_storageAway(self) -> None:
        """
        Who only looks can ask again; what was to be stored may be there already.
        """
        self.store.error = StorageUnavailable("database: secret")
        for answer, code, retry in (
            (await self.put(pem()), 500, None),
            (await self.look(), 503, "1"),
        ):
            told = {"error": "storage unavailable"}
            self.assertEqual((answer.code, answer.json), (code, told))
            self.assertEqual(answer.header("Retry-After"), retry)

    async def test_refusals(self) -> None:
        for error, code, reason, retry in (
            (RuntimeError("secret"), 500, "internal error", None),
            (TooLarge("it does not fit"), 413, "it does not fit", None),
            (Overloaded("too much at once", 7), 503, "too much at once", "7"),
        ):
            self.store.error = error
            with capturedLogs() as events:
                for answer in (await self.put(pem()), await self.look()):
                    self.assertEqual((answer.code, answer.json), (code, {"error": reason}))
                    self.assertEqual(answer.header("Content-Type"), "application/json")
                    self.assertEqual(answer.header("Retry-After"), retry)
            self.assertNotIn("push certificate stored", [one["log_format"] for one in events])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)

    async def test_operatorsOnly(self) -> None:
        for method in ("GET", "PUT", "POST"):
            self.assertEqual((await self.request(method, "/v1/pushcert", pem())).code, 401)
        for method in ("POST", "DELETE", "HEAD"):
            answer = await self.api(method, f"/v1/pushcert?topic={TOPIC}")
            self.assertEqual((answer.code, answer.header("Allow")), (405, "GET, PUT"))
        self.assertEqual((await self.api("GET", "/v1/pushcert/x")).code, 404)
        self.assertEqual(self.store.certificates, {})

    async def test_log(self) -> None:
        with capturedLogs() as events:
            await self.put(pem())
        [event] = [one for one in events if one["log_format"] == "push certificate stored"]
        self.assertEqual((event["topic"], event["not_after"]), (TOPIC, "2027-01-07T04:04:46Z"))
        secret = identity(TOPIC, END).key_pem.decode().splitlines()[5]
        self.assertNotIn(secret, repr(events))


class WholeServerTests(ServerCase):
    """
    The endpoints as the server has them.
    """

    def setUp(self) -> None:
        self.serve()

    async def test_certificate(self) -> None:
        end = (datetime.now(UTC) + timedelta(days=10, hours=1)).replace(microsecond=0)
        expected = {
            "topic": TOPIC,
            "not_after": f"{end:%Y-%m-%dT%H:%M:%SZ}",
            "expires_in_days": 10,
        }
        answer = await self.api("GET", f"/v1/pushcert?topic={TOPIC}")
        self.assertEqual(answer.code, 404)
        answer = await self.api("PUT", "/v1/pushcert", pem(TOPIC, end))
        self.assertEqual((answer.code, answer.json), (200, expected))
        answer = await self.api("GET", f"/v1/pushcert?topic={TOPIC}")
        self.assertEqual((answer.code, answer.json), (200, expected))

    async def test_pushWithoutCertificate(self) -> None:
        await self.enroll()
        answer = await self.api("GET", "/v1/push/D1,nobody")
        self.assertEqual(answer.code, 500)
        self.assertEqual(
            answer.json["status"],
            {
                "D1": {"push_error": f"no push certificate for topic {TOPIC}"},
                "nobody": {"push_error": "unknown enrollment id"},
            },
        )
        self.assertEqual(
            (await self.enqueue("D1", query="")).json["status"],
            {"D1": {"push_error": f"no push certificate for topic {TOPIC}"}},
        )
