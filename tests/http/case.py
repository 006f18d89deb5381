"""
A whole server in the test's process, spoken to over real HTTP.
"""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import treq
from attrs import frozen
from twisted.internet import reactor
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.resource import Resource

from nanomdm.config import Settings
from nanomdm.http.offload import Offloader
from nanomdm.http.site import Site
from nanomdm.push.address import APNsURL
from nanomdm.sim.ca import DeviceIdentity, ThrowawayCA
from nanomdm.sim.signing import sign_like_device, sign_modern
from nanomdm.storage.settings import StorageSettings
from nanomdm.tap import build
from tests import samples
from tests.leaks import KEY, write_log
from tests.storage.tables import query

CHECKIN = "application/x-apple-aspen-mdm-checkin"
RESULT = "application/x-apple-aspen-mdm"


@cache
def ca() -> ThrowawayCA:
    """
    The CA that the tests' servers trust.
    """
    return ThrowawayCA.create(not_before=datetime.now(UTC) - timedelta(days=90))


@cache
def device(number: int = 1) -> DeviceIdentity:
    """
    One of several device identities; their keys take long to make.
    """
    return ca().issue()


@frozen
class Answer:
    """
    What came back.
    """

    code: int
    body: bytes
    headers: Any

    @property
    def json(self) -> Any:
        """
        The body, which must be JSON.
        """
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        """
        A header's value.
        """
        values = self.headers.getRawHeaders(name)
        return values[0] if values else None


class ClientCase(TestCase):
    """
    A test case with an HTTP client.

    @ivar port: whom it speaks to, on 127.0.0.1.
    """

    port: int

    def listen(self, root: Resource) -> None:
        """
        Serve a resource tree.
        """
        site = Site(root, reactor, 1 << 20)
        port = reactor.listenTCP(0, site, interface="127.0.0.1")
        self.addCleanup(site.drain, 10)
        self.addCleanup(port.stopListening)
        self.port = port.getHost().port

    def offloader(self) -> Offloader:
        """
        @return: one that has no threads any more after the test.
        """
        offloader = Offloader(reactor)
        offloader.start()
        self.addCleanup(offloader.stop)
        return offloader

    async def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, Any] | None = None,
    ) -> Answer:
        """
        Send a request as it is.
        """
        pool = HTTPConnectionPool(reactor, persistent=False)
        response = await treq.client.HTTPClient(Agent(reactor, pool=pool)).request(
            method, f"http://127.0.0.1:{self.port}{path}", data=body, headers=headers, timeout=30
        )
        return Answer(response.code, await response.content(), response.headers)

    async def api(self, method: str, path: str, body: bytes | None = None) -> Answer:
        """
        Send a request as an operator.
        """
        credentials = base64.b64encode(f"nanomdm:{KEY}".encode()).decode()
        return await self.request(method, path, body, {"Authorization": f"Basic {credentials}"})

    def assertOK(self, answer: Answer, body: bytes = b"") -> None:
        """
        The answer is 200 with C{body}.
        """
        self.assertEqual((answer.code, answer.body), (200, body))


class ServerCase(ClientCase):
    """
    A test case with a server.
    """

    def serve(self, **settings: Any) -> None:
        """
        Start a server.  It trusts L{ca}, has the API, keeps its data in memory
        and reaches no push service, unless C{settings} say something else.
        """
        trusted = Path(self.mktemp())
        trusted.write_bytes(ca().pem)
        defaults = {
            "listen": "tcp:0:interface=127.0.0.1",
            "api": KEY,
            "ca": trusted,
            "storages": (StorageSettings(kind="inmem"),),
            # Nobody is there: no push leaves this machine.
            "apns_url": APNsURL("127.0.0.1", 9),
            "apns_proxy": "none",
        }
        write_log()
        self.daemon = build(Settings(**{**defaults, **settings}), reactor)
        self.daemon.privilegedStartService()
        self.daemon.startService()
        self.addCleanup(self.daemon.stopService)
        parts = self.daemon.parts
        self.site, self.storage = parts.main.site, parts.storage
        self.port = parts.main.port.getHost().port

    def resource(self, name: str) -> Any:
        """
        What is at the top of the resource tree under a name.
        """
        return self.site.resource.children[name.encode()]

    async def enqueue(self, ids: str, uuid: str = "C1", query: str = "?nopush=1") -> Answer:
        """
        Enqueue a sample command.
        """
        return await self.api("PUT", f"/v1/enqueue/{ids}{query}", samples.command(uuid))

    async def send(
        self,
        body: bytes,
        content_type: str = CHECKIN,
        identity: DeviceIdentity | None = None,
        path: str = "/mdm",
        modern: bool = False,
    ) -> Answer:
        """
        Send a message as a device: signed by L{device}C{(1)} or C{identity}.
        """
        sign = sign_modern if modern else sign_like_device
        headers = {
            "Mdm-Signature": sign(identity or device(1), body).decode(),
            "Content-Type": content_type,
        }
        return await self.request("PUT", path, body, headers)

    async def report(
        self, *args: Any, identity: DeviceIdentity | None = None, **more: Any
    ) -> Answer:
        """
        Send a command report as a device.
        """
        return await self.send(samples.report(*args, **more), RESULT, identity)

    async def enroll(self, udid: str = "D1", identity: DeviceIdentity | None = None) -> None:
        """
        Enroll a device.
        """
        for body in (samples.authenticate(udid), samples.token_update(udid)):
            self.assertOK(await self.send(body, identity=identity))

    def query(self, sql: str, *parameters: object) -> Any:
        """
        Look into the storage's tables.
        """

        return query(self.storage, sql, *parameters)

    def assertRefused(self, answer: Answer) -> None:
        """
        The answer is the one refusal that devices get.
        """
        self.assertEqual((answer.code, answer.body), (400, b"Bad Request\n"))
