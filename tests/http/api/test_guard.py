"""
What all of the operators' API has in common, over HTTP.
"""

from __future__ import annotations

import base64
import hashlib
from collections import defaultdict
from pathlib import Path

from twisted.logger import capturedLogs

from nanomdm import __version__
from nanomdm.errors import Unknown
from tests import samples
from tests.http.api.fakes import ScriptedCase, basic, facts
from tests.http.case import CHECKIN, KEY, RESULT, ServerCase


class VersionTests(ServerCase):
    """
    C{/version}.
    """

    async def test_version(self) -> None:
        self.serve()
        answer = await self.request("GET", "/version")
        self.assertOK(answer, b'{\n\t"version": "%s"\n}\n' % __version__.encode())
        self.assertEqual(answer.header("Content-Type"), "application/json")

    async def test_apiOnly(self) -> None:
        self.serve(disable_mdm=True, ca=None)
        self.assertEqual((await self.request("GET", "/version")).code, 200)
        self.assertEqual((await self.send(samples.authenticate())).code, 404)
        self.assertEqual((await self.enqueue("D1")).code, 500)


class AuthenticationTests(ServerCase):
    """
    HTTP Basic.
    """

    async def attempt(self, authorization: str | list[str] | None) -> int:
        headers = {} if authorization is None else {"Authorization": authorization}
        answer = await self.request(
            "PUT", "/v1/enqueue/D1?nopush=1", samples.command("C1"), headers
        )
        if answer.code == 401:
            self.assertEqual(answer.body, b"Unauthorized\n")
            self.assertEqual(answer.header("WWW-Authenticate"), 'Basic realm="nanomdm"')
        return answer.code

    def basic(self, user: str, key: str) -> str:
        return "Basic " + base64.b64encode(f"{user}:{key}".encode()).decode()

    async def test_key(self) -> None:
        self.serve()
        await self.enroll()
        right = self.basic("nanomdm", KEY)
        self.assertEqual(await self.attempt(right), 200)
        self.assertEqual(await self.attempt(right.replace("Basic", "basic")), 200)
        for wrong in (
            None,
            "",
            "Basic",
            "Basic ?",
            right[:-4],
            right.replace("Basic", "Bearer"),
            self.basic("nanomdm", KEY + "x"),
            self.basic("nanomdm", ""),
            self.basic("admin", KEY),
            [right, right],
        ):
            self.assertEqual(await self.attempt(wrong), 401, wrong)

    async def test_keyOfOtherCharacters(self) -> None:
        self.serve(api="schlüssel:✓")
        await self.enroll()
        self.assertEqual(await self.attempt(self.basic("nanomdm", "schlüssel:✓")), 200)

    async def test_noAPI(self) -> None:
        self.serve(api=None)
        answer = await self.enqueue("D1")
        self.assertEqual((answer.code, answer.body), (404, b"404 page not found\n"))

    async def test_unknownPaths(self) -> None:
        self.serve()
        for path in ("/", "/v1", "/v1/", "/v2/enqueue/D1", "/mdm/x", "/version/", "//mdm"):
            self.assertEqual((await self.api("GET", path)).code, 404, path)


_ROLES = ("read", "enqueue", "admin")

#: Each endpoint and the first of the roles that can use it.
_ENDPOINTS = (
    ("GET", "/v1/enrollments", "read"),
    ("GET", "/v1/enrollments/D1", "read"),
    ("DELETE", "/v1/enrollments/D1", "admin"),
    ("DELETE", "/v1/enrollments/D1?purge=1", "admin"),
    ("GET", "/v1/enrollments/D1/queue", "read"),
    ("DELETE", "/v1/enrollments/D1/queue", "enqueue"),
    ("DELETE", "/v1/enrollments/D1/queue/C1", "enqueue"),
    ("PATCH", "/v1/enrollments/D1/queue/C1", "enqueue"),
    ("GET", "/v1/enrollments/D1/results", "read"),
    ("GET", "/v1/enrollments/D1/results/C1", "read"),
    ("GET", "/v1/enrollments/D1/bootstraptoken", "admin"),
    ("GET", "/v1/enrollments/D1/unlocktoken", "admin"),
    ("GET", "/v1/commands/C1", "read"),
    ("PUT", "/v1/enqueue/D1", "enqueue"),
    ("POST", "/v1/enqueue/D1", "enqueue"),
    ("GET", "/v1/push/D1", "enqueue"),
    ("PUT", "/v1/push/D1", "enqueue"),
    ("GET", "/v1/pushcert?topic=x", "read"),
    ("PUT", "/v1/pushcert", "admin"),
    ("POST", "/v1/escrowkeyunlock", "admin"),
    ("GET", "/v1/webhook/failed", "read"),
    ("POST", "/v1/webhook/retry", "admin"),
)


class RoleTests(ScriptedCase):
    """
    Which key is good for what.
    """

    async def test_matrix(self) -> None:
        self.store.answers = defaultdict(lambda: Unknown("there is nothing"))
        for method, path, needed in _ENDPOINTS:
            for role in _ROLES:
                self.store.asked.clear()
                answer = await self.ask_as(role, method, path)
                if _ROLES.index(role) >= _ROLES.index(needed):
                    self.assertNotIn(answer.code, (401, 403, 405), (method, path, role))
                    continue
                self.assertEqual(answer.code, 403, (method, path, role))
                reason = f"the key {role} has the role {role}, this takes {needed}"
                self.assertIn(reason, answer.json.values())
                self.assertEqual(self.store.asked, [])

    async def test_wrongKey(self) -> None:
        for method, path, _ in _ENDPOINTS:
            for authorization in (basic("read", "x"), basic("nobody", ""), basic("admin", KEY)):
                headers = {"Authorization": authorization}
                answer = await self.request(method, path, None, headers)
                self.assertEqual((answer.code, answer.body), (401, b"Unauthorized\n"), path)
        self.assertEqual(self.store.asked, [])

    async def test_refusedInLog(self) -> None:
        """
        The log alone says what is wrong with a key, and has nothing of what was sent.
        """
        attempts = (None, basic("nobody-s3cret", "s3cret"), basic("read", "s3cret"))
        with capturedLogs() as events:
            for one in attempts:
                headers = {} if one is None else {"Authorization": one}
                answer = await self.request("GET", "/v1/enrollments/D1", None, headers)
                self.assertEqual((answer.code, answer.body), (401, b"Unauthorized\n"))
        lines = [one for one in events if one["log_format"] == "request"]
        self.assertEqual(
            [(one["error"], one.get("operator")) for one in lines],
            [("no API key", None), ("unknown API user", None), ("wrong API key", "read")],
        )
        self.assertNotIn("s3cret", repr(events))

    async def test_log(self) -> None:
        """
        Each request's line says whose key it came with.
        """
        self.store.answers["enrollment"] = facts()
        with capturedLogs() as events:
            await self.ask_as("read", "GET", "/v1/enrollments/D1")
            await self.ask_as("read", "DELETE", "/v1/enrollments/D1")
            await self.ask_as("read", "PUT", "/v1/enrollments/D1")
            await self.ask_as("nobody", "GET", "/v1/enrollments/D1")
        lines = [one for one in events if one["log_format"] == "request"]
        self.assertEqual(
            [(one["code"], one.get("operator")) for one in lines],
            [(200, "read"), (403, "read"), (405, "read"), (401, None)],
        )
        self.assertIn("takes admin", lines[1]["error"])


class FileOfKeysTests(ServerCase):
    """
    C{--api-key-file}.
    """

    def serve_with(self, *roles: str, api: str | None = KEY, checkin: bool = False) -> None:
        """
        Start a server with a key for each role, which is its name.
        """
        path = Path(self.mktemp())
        digests = {role: hashlib.sha256(role.encode()).hexdigest() for role in roles}
        path.write_text("".join(f"{role} {role} {digests[role]}\n" for role in roles))
        self.serve(api=api, api_key_file=path, checkin=checkin)

    async def code(self, user: str, key: str, method: str, path: str) -> int:
        """
        @return: the status of an answer.
        """
        headers = {"Authorization": basic(user, key)}
        return (await self.request(method, path, None, headers)).code

    async def test_both(self) -> None:
        self.serve_with("read")
        self.assertEqual(await self.code("nanomdm", KEY, "GET", "/v1/webhook/failed"), 200)
        self.assertEqual(await self.code("read", "read", "GET", "/v1/webhook/failed"), 200)
        self.assertEqual(await self.code("read", "read", "POST", "/v1/webhook/retry"), 403)
        self.assertEqual(await self.code("read", KEY, "GET", "/v1/webhook/failed"), 401)

    async def test_fileOnly(self) -> None:
        self.serve_with("enqueue", api=None)
        self.assertEqual(await self.code("enqueue", "enqueue", "GET", "/v1/webhook/failed"), 200)
        self.assertEqual(await self.code("nanomdm", KEY, "GET", "/v1/webhook/failed"), 401)

    async def test_whatIsInCommands(self) -> None:
        """
        The role read sees commands as they were queued, with the tokens that are in them.
        """
        self.serve_with("read")
        await self.enroll()
        clear = samples.command("C1", "ClearPasscode", UnlockToken=b"queued")
        await self.api("PUT", "/v1/enqueue/D1?nopush=1", clear)
        headers = {"Authorization": basic("read", "read")}
        answer = await self.request("GET", "/v1/commands/C1", None, headers)
        shown = answer.json["command"]["UnlockToken"]
        self.assertEqual(shown, base64.b64encode(b"queued").decode())

    async def test_devices(self) -> None:
        """
        A device never hears of operators: not 401, not 403, whatever it sends.
        """
        self.serve_with("read", checkin=True)
        credentials: list[dict[str, str]] = [
            {},
            {"Authorization": basic("read", "read")},
            {"Authorization": basic("read", "wrong")},
            {"Authorization": "Basic ?"},
        ]
        for path in ("/mdm", "/checkin"):
            for method in ("GET", "PUT", "POST", "DELETE", "PATCH"):
                for content_type in (CHECKIN, RESULT, "application/json"):
                    for headers in credentials:
                        sent = {**headers, "Content-Type": content_type}
                        answer = await self.request(method, path, b"x", sent)
                        self.assertEqual((answer.code, answer.body), (400, b"Bad Request\n"))
            # There is nothing below.
            answer = await self.request("GET", f"{path}/v1/enrollments", None, credentials[1])
            self.assertEqual(answer.code, 404)
