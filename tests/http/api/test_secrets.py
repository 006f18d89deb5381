"""
C{/v1/enrollments/<id>/bootstraptoken} and C{/v1/enrollments/<id>/unlocktoken}, over HTTP.
"""

from __future__ import annotations

import base64
from typing import Any

from twisted.logger import LogLevel, capturedLogs

from nanomdm.errors import StorageUnavailable, Unknown
from tests.http.api.fakes import ScriptedCase, facts

TOKEN = b"\0secret\xff" * 40

#: The paths, the kinds of secret, and the storage's methods.
KINDS = (
    ("bootstraptoken", "bootstrap_token", "fetch_bootstrap_token"),
    ("unlocktoken", "unlock_token", "unlock_token"),
)


def audited(events: Any) -> list[dict[str, Any]]:
    """
    @return: what the log says of secrets.
    """
    return [one for one in events if one["log_format"].startswith("secret ")]


class SecretTests(ScriptedCase):
    """
    A server that shows secrets.
    """

    def setUp(self) -> None:
        super().setUp()
        self.store.answers["enrollment"] = facts()
        for _, _, method in KINDS:
            self.store.answers[method] = TOKEN

    async def test_shown(self) -> None:
        encoded = base64.b64encode(TOKEN).decode()
        for path, kind, method in KINDS:
            self.store.asked.clear()
            with capturedLogs() as events:
                answer = await self.api("GET", f"/v1/enrollments/D1/{path}")
            self.assertEqual((answer.code, answer.json), (200, {"id": "D1", kind: encoded}))
            self.assertEqual(answer.header("Cache-Control"), "no-store")
            self.assertEqual(self.store.asked, [("enrollment", "D1"), (method, "D1")])
            [event] = audited(events)
            self.assertEqual(event["log_format"], "secret read")
            self.assertEqual(event["log_level"], LogLevel.warn)
            self.assertEqual((event["operator"], event["id"]), ("nanomdm", "D1"))
            self.assertEqual((event["kind"], event["ip"]), (kind, "127.0.0.1"))
            [request] = [one for one in events if one["log_format"] == "request"]
            self.assertEqual(event["trace_id"], request["trace_id"])
            for secret in (encoded, repr(TOKEN)):
                self.assertNotIn(secret[:20], repr(events))

    async def test_none(self) -> None:
        for path, kind, method in KINDS:
            self.store.answers[method] = None
            with capturedLogs() as events:
                answer = await self.api("GET", f"/v1/enrollments/D1/{path}")
            self.assertEqual((answer.code, answer.json), (404, {"error": f"D1 has no {kind}"}))
            self.assertEqual(audited(events), [])

    async def test_userChannel(self) -> None:
        self.store.answers["enrollment"] = facts("D1:jo", device_id="D1")
        for path, kind, _ in KINDS:
            answer = await self.api("GET", f"/v1/enrollments/D1:jo/{path}")
            self.assertEqual(answer.code, 400)
            self.assertEqual(
                answer.json, {"error": f"the {kind} belongs to the device channel, D1"}
            )
        self.assertEqual([call[0] for call in self.store.asked], ["enrollment"] * 2)

    async def test_roles(self) -> None:
        for path, kind, _ in KINDS:
            for role in ("read", "enqueue"):
                with capturedLogs() as events:
                    answer = await self.ask_as(role, "GET", f"/v1/enrollments/D1%FF/{path}")
                reason = f"the key {role} has the role {role}, this takes admin"
                self.assertEqual((answer.code, answer.json), (403, {"error": reason}))
                [event] = audited(events)
                self.assertEqual(event["log_format"], "secret refused")
                self.assertEqual(event["log_level"], LogLevel.warn)
                self.assertEqual((event["operator"], event["id"]), (role, "D1\\xff"))
                self.assertEqual((event["kind"], event["ip"]), (kind, "127.0.0.1"))
                self.assertEqual(event["error"], reason)
        self.assertEqual(self.store.asked, [])
        answer = await self.ask_as("admin", "GET", f"/v1/enrollments/D1/{path}")
        self.assertEqual(answer.code, 200)

    async def test_refused(self) -> None:
        for path, _, method in KINDS:
            path = f"/v1/enrollments/D1/{path}"
            await self.assertBad("GET", f"{path}?x=1", "unknown parameter 'x'")
            with capturedLogs() as events:
                self.assertEqual((await self.request("GET", path)).code, 401)
                for wrong in ("DELETE", "PUT", "HEAD"):
                    answer = await self.api(wrong, path)
                    self.assertEqual((answer.code, answer.header("Allow")), (405, "GET"))
            self.assertEqual(audited(events), [])
            self.store.answers[method] = StorageUnavailable("database: secret")
            with capturedLogs() as events:
                self.assertEqual((await self.api("GET", path)).code, 503)
            self.assertEqual(audited(events), [])
            self.store.answers["enrollment"] = Unknown("there is no enrollment D1")
            answer = await self.api("GET", path)
            self.assertEqual(answer.code, 404)
            self.assertEqual(answer.json, {"error": "there is no enrollment D1"})
            self.store.answers["enrollment"] = facts()


class NoSecretsTests(ScriptedCase):
    """
    A server that does not.
    """

    secrets = False

    async def test_refused(self) -> None:
        for path, kind, _ in KINDS:
            for operator in ("admin", "read"):
                with capturedLogs() as events:
                    answer = await self.ask_as(operator, "GET", f"/v1/enrollments/D1/{path}")
                self.assertEqual((answer.code, list(answer.json)), (403, ["error"]))
                [event] = audited(events)
                named = (event["log_format"], event["operator"], event["id"], event["kind"])
                self.assertEqual(named, ("secret refused", operator, "D1", kind))
                if operator == "admin":
                    self.assertIn("--api-secrets", answer.json["error"])
        self.assertEqual(self.store.asked, [])
