"""
A whole server with simulated devices, and operators who find out what is wrong and put
it right.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.web.client import Agent, HTTPConnectionPool

from nanomdm.sim.client import DeviceClient, SimulationError
from nanomdm.sim.device import SimulatedDevice
from tests import samples
from tests.http.api.fakes import basic
from tests.http.case import Answer, ServerCase, device


class OperatingTests(ServerCase):
    """
    The server trusts the operators C{read}, C{enqueue} and C{admin}, whose keys are their
    names.
    """

    timeout = 60

    def setUp(self) -> None:
        keys = Path(self.mktemp())
        names = ("read", "enqueue", "admin")
        digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in names}
        keys.write_text("".join(f"{name} {name} {digests[name]}\n" for name in names))
        self.serve(api_key_file=keys, api_secrets=True)

    def client(self, simulated: Any) -> DeviceClient:
        """
        Something that speaks to the server as a device or user.
        """
        pool = HTTPConnectionPool(reactor, persistent=False)
        http = HTTPClient(Agent(reactor, pool=pool))
        return DeviceClient(simulated, f"http://127.0.0.1:{self.port}", http)

    async def enrolled(self, simulated: Any) -> DeviceClient:
        """
        Enroll a device or user.
        """
        client = self.client(simulated)
        await client.enroll()
        return client

    async def call(
        self, role: str, method: str, path: str, body: bytes | None = None, accept: str = "*/*"
    ) -> Answer:
        """
        Send a request with a role's key.
        """
        headers = {"Authorization": basic(role, role), "Accept": accept}
        return await self.request(method, f"/v1{path}", body, headers)

    async def look(self, path: str) -> Any:
        """
        @return: what an operator who may only look gets.
        """
        answer = await self.call("read", "GET", path)
        self.assertEqual(answer.code, 200, answer.body)
        return answer.json

    async def assertAnswered(self, code: int, *call: Any) -> Any:
        """
        A call is answered with a status and JSON.
        """
        answer = await self.call(*call)
        self.assertEqual(answer.code, code, answer.body)
        return answer.json

    async def order(self, id: str, uuid: str, request_type: str = "DeviceInformation") -> None:
        """
        Queue a command.
        """
        path = f"/enqueue/{quote(id)}?nopush=1"
        command = samples.command(uuid, request_type, Queries=["OSVersion"])
        await self.assertAnswered(200, "enqueue", "PUT", path, command)

    async def test_stuckCommand(self) -> None:
        """
        A command that a device puts off for ever is found, and cancelled.
        """
        mac = SimulatedDevice.mac(device(1), Random(1))
        mac.not_now_for.add("SecurityInfo")
        client = await self.enrolled(mac)
        id = mac.enrollment_id
        await self.order(id, "C1", "SecurityInfo")
        await self.order(id, "C2")
        await self.order(id, "C3", "Nonsense")
        for _ in range(2):
            await client.connect()

        # Who has something that waits?
        [found] = (await self.look("/enrollments?pending=1"))["enrollments"]
        self.assertEqual((found["id"], found["queue_length"]), (id, 1))
        self.assertEqual(found["serial_number"], mac.serial_number)
        self.assertEqual(found["os_version"], mac.hardware.os_version)
        sha256 = hashlib.sha256(device(1).der).hexdigest()
        self.assertEqual(found["identity_certificate"]["sha256"], sha256)
        [waiting] = (await self.look(f"/enrollments/{id}/queue"))["commands"]
        self.assertEqual((waiting["command_uuid"], waiting["state"]), ("C1", "not_now"))
        self.assertGreaterEqual(waiting["not_now_count"], 2)
        [target] = (await self.look("/commands/C1"))["targets"]
        self.assertEqual((target["id"], target["state"]), (id, "not_now"))

        # The others have been answered, one of them with an error.
        results = (await self.look(f"/enrollments/{id}/results?since=1h"))["results"]
        statuses = {one["command_uuid"]: one["status"] for one in results}
        self.assertEqual(statuses["C2"], "Acknowledged")
        self.assertEqual(statuses["C1"], "NotNow")
        [failed] = (await self.look(f"/enrollments/{id}/results?request_type=Nonsense"))["results"]
        self.assertEqual(failed["command_uuid"], "C3")
        self.assertTrue(failed["errors"][0]["domain"])
        whole = await self.look(f"/enrollments/{id}/results/C2")
        self.assertIn("OSVersion", whole["result"]["QueryResponses"])
        raw = await self.call("read", "GET", "/commands/C2", None, "application/xml")
        self.assertTrue(raw.body.startswith(b"<?xml"))

        # It is too late for those; the stuck one can be cancelled, once.
        queue = f"/enrollments/{id}/queue"
        await self.assertAnswered(409, "enqueue", "DELETE", f"{queue}/C2")
        await self.assertAnswered(409, "enqueue", "PATCH", f"{queue}/C3", b'{"priority": 1}')
        cancelled = await self.assertAnswered(200, "enqueue", "DELETE", f"{queue}/C1")
        self.assertEqual(cancelled, {"id": id, "command_uuid": "C1", "cancelled": True})
        for uuid in ("C1", "never-queued"):
            await self.assertAnswered(404, "enqueue", "DELETE", f"{queue}/{uuid}")
        self.assertEqual(await self.look(queue), {"commands": []})
        self.assertEqual(await self.look("/enrollments?pending=1"), {"enrollments": []})
        [target] = (await self.look("/commands/C1"))["targets"]
        self.assertEqual(target["state"], "cleared")
        self.assertEqual(await client.connect(), [])

    async def test_priority(self) -> None:
        ipad = SimulatedDevice.ipad(device(1), Random(2))
        client = await self.enrolled(ipad)
        queue = f"/enrollments/{ipad.enrollment_id}/queue"
        for number in range(4):
            await self.order(ipad.enrollment_id, f"C{number}")
        for uuid, priority in (("C2", 127), ("C0", -128)):
            body = b'{"priority": %d}' % priority
            await self.assertAnswered(200, "enqueue", "PATCH", f"{queue}/{uuid}", body)
        # In pages of one.
        expected, listed, query = ["C2", "C1", "C3", "C0"], [], "?limit=1"
        while query:
            part = await self.look(queue + query)
            listed += [one["command_uuid"] for one in part["commands"]]
            query = f"?limit=1&cursor={quote(part['next_cursor'])}" if "next_cursor" in part else ""
        self.assertEqual(listed, expected)
        self.assertEqual([one.command_uuid for one in await client.connect()], expected)

    async def test_clear(self) -> None:
        mac = SimulatedDevice.mac(device(1), Random(3))
        client = await self.enrolled(mac)
        queue = f"/enrollments/{mac.enrollment_id}/queue"
        for number in range(3):
            await self.order(mac.enrollment_id, f"C{number}")
        await self.assertAnswered(400, "enqueue", "DELETE", f"{queue}?limit=1")
        cleared = await self.assertAnswered(200, "enqueue", "DELETE", queue)
        self.assertEqual(cleared, {"cleared": 3})
        cleared = await self.assertAnswered(200, "enqueue", "DELETE", queue)
        self.assertEqual(cleared, {"cleared": 0})
        self.assertEqual(await client.connect(), [])

    async def test_filters(self) -> None:
        """
        Devices and users are found by what is known of them.
        """
        mac = SimulatedDevice.mac(device(1), Random(4))
        ipad = SimulatedDevice.ipad(device(2), Random(5))
        user = mac.user("jo/doe@example.com", "jodoe", "Jo Doe", Random(6))
        for one in (mac, ipad, user):
            await self.enrolled(one)
        ids = {one.enrollment_id for one in (mac, ipad, user)}
        for query, expected in (
            ("", ids),
            ("limit=1000", ids),
            (f"serial={mac.serial_number}", {mac.enrollment_id, user.enrollment_id}),
            (f"id={quote(user.enrollment_id)}", {user.enrollment_id}),
            ("type=User", {user.enrollment_id}),
            ("type=Shared+iPad", set()),
            ("enabled=1", ids),
            ("enabled=0", set()),
            (f"topic={mac.topic}", ids),
            ("topic=com.apple.mgmt.other", set()),
            (f"user={quote('jo/doe@example.com', safe='')}", {user.enrollment_id}),
            ("user=jodoe", {user.enrollment_id}),
            ("user=doe", set()),
            ("seen_after=1h", ids),
            ("seen_before=1h", set()),
            ("seen_before=9999-12-31", ids),
            ("seen_after=9999-12-31", set()),
            ("seen_after=0001-01-01", ids),
            ("seen_before=36500d", set()),
            ("pending=1", set()),
            ("pending=0", ids),
        ):
            listed = (await self.look(f"/enrollments?{query}"))["enrollments"]
            self.assertEqual({one["id"] for one in listed}, expected, query)
        for query in ("cursor=x", "limit=0", "serail=x", "seen_before=soon"):
            await self.assertAnswered(400, "read", "GET", f"/enrollments?{query}")
        shown = await self.look(f"/enrollments/{quote(user.enrollment_id, safe='')}")
        self.assertEqual(shown["parent_id"], mac.enrollment_id)
        self.assertEqual(shown["model_name"], mac.hardware.model_name)
        shown = await self.look(f"/enrollments/{mac.enrollment_id}")
        self.assertEqual(shown["user_channels"], [user.enrollment_id])

    async def test_secrets(self) -> None:
        mac = SimulatedDevice.mac(device(1), Random(7))
        ipad = SimulatedDevice.ipad(device(2), Random(8))
        client = await self.enrolled(mac)
        await self.enrolled(ipad)
        await client.check_in(mac.set_bootstrap_token(b"token"))
        shown = await self.look(f"/enrollments/{mac.enrollment_id}")
        self.assertEqual((shown["bootstrap_token"], shown["unlock_token"]), (True, False))
        shown = await self.look(f"/enrollments/{ipad.enrollment_id}")
        self.assertEqual((shown["bootstrap_token"], shown["unlock_token"]), (False, True))
        for id, kind, code in (
            (mac.enrollment_id, "bootstraptoken", 200),
            (mac.enrollment_id, "unlocktoken", 404),
            (ipad.enrollment_id, "bootstraptoken", 404),
            (ipad.enrollment_id, "unlocktoken", 200),
            ("nobody", "unlocktoken", 404),
        ):
            path = f"/enrollments/{id}/{kind}"
            await self.assertAnswered(code, "admin", "GET", path)
            for role in ("read", "enqueue"):
                await self.assertAnswered(403, role, "GET", path)
        answer = await self.assertAnswered(
            200, "admin", "GET", f"/enrollments/{mac.enrollment_id}/bootstraptoken"
        )
        self.assertEqual(answer, {"id": mac.enrollment_id, "bootstrap_token": "dG9rZW4="})

    async def test_disabled(self) -> None:
        """
        Until the next C{TokenUpdate}.
        """
        mac = SimulatedDevice.mac(device(1), Random(9))
        client = await self.enrolled(mac)
        path = f"/enrollments/{mac.enrollment_id}"
        for role in ("read", "enqueue"):
            await self.assertAnswered(403, role, "DELETE", path)
        for _ in range(2):
            answer = await self.assertAnswered(200, "admin", "DELETE", path)
            self.assertEqual(answer, {"id": mac.enrollment_id, "disabled": True})
        self.assertIs((await self.look(path))["enabled"], False)
        await client.check_in(mac.token_update())
        self.assertIs((await self.look(path))["enabled"], True)

    async def test_purged(self) -> None:
        """
        The device is a stranger at once, and can enroll anew.
        """
        mac = SimulatedDevice.mac(device(1), Random(10))
        user = mac.user("jo", "jodoe", "Jo Doe", Random(11))
        client = await self.enrolled(mac)
        await self.enrolled(user)
        await self.order(mac.enrollment_id, "C1")
        path = f"/enrollments/{mac.enrollment_id}"
        answer = await self.assertAnswered(200, "admin", "DELETE", f"{path}?purge=1")
        ids = sorted([mac.enrollment_id, user.enrollment_id])
        self.assertEqual(answer, {"id": mac.enrollment_id, "purged": ids})
        self.assertEqual(await self.look("/enrollments"), {"enrollments": []})
        for call in (
            ("GET", path),
            ("DELETE", path),
            ("DELETE", f"{path}?purge=1"),
            ("GET", f"{path}/queue"),
            ("DELETE", f"{path}/queue"),
            ("GET", f"{path}/results"),
            ("GET", f"{path}/unlocktoken"),
        ):
            await self.assertAnswered(404, "admin", *call)
        # Its certificate is not believed from memory.
        for message in (client.report(mac.idle()), client.check_in(mac.token_update())):
            sent = Deferred.fromCoroutine(message)
            refused = await self.assertFailure(sent, SimulationError)
            self.assertEqual(refused.status, 400)
        await client.enroll()
        self.assertEqual((await self.look(path))["token_update_tally"], 1)
        self.assertEqual(await client.connect(), [])
