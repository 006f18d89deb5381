"""
Tests for C{/healthz} and C{/readyz}.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred, gatherResults
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.errors import StorageUnavailable
from nanomdm.http.api.guard import VersionEndpoint
from nanomdm.http.endpoint import Folder
from nanomdm.http.health import HealthEndpoint, Readiness, ReadyEndpoint, Status
from tests.http.case import Answer, ClientCase


class Pinged:
    """
    A storage that answers when the test says so.

    @ivar pings: what waits for its answer.
    @ivar count: how often it was asked.
    """

    def __init__(self) -> None:
        self.pings: list[Deferred[None]] = []
        self.count = 0

    def ping(self) -> Deferred[None]:
        self.count += 1
        self.pings.append(Deferred())
        return self.pings[-1]


class ReadinessTests(SynchronousTestCase):
    """
    L{Readiness}.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.storage = Pinged()
        self.readiness = Readiness(self.storage.ping, self.clock)

    def ask(self) -> Deferred[Status]:
        return Deferred.fromCoroutine(self.readiness.status())

    def assertStatus(self, status: Status, asked: Deferred[Status]) -> None:
        self.assertIs(self.successResultOf(asked), status)

    def test_ready(self) -> None:
        asked = self.ask()
        self.assertNoResult(asked)
        self.storage.pings.pop().callback(None)
        self.assertStatus(Status.READY, asked)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_failing(self) -> None:
        asked = self.ask()
        self.storage.pings.pop().errback(StorageUnavailable("away"))
        self.assertStatus(Status.NO_STORAGE, asked)

    def test_raising(self) -> None:
        """
        A queue that is full is an answer too.
        """

        def refuse() -> Deferred[None]:
            raise StorageUnavailable("full")

        readiness = Readiness(refuse, self.clock)
        self.assertStatus(Status.NO_STORAGE, Deferred.fromCoroutine(readiness.status()))

    def test_bug(self) -> None:
        asked = self.ask()
        self.storage.pings.pop().errback(ZeroDivisionError())
        self.assertStatus(Status.NO_STORAGE, asked)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_silent(self) -> None:
        asked = self.ask()
        self.clock.advance(1.9)
        self.assertNoResult(asked)
        self.clock.advance(0.1)
        self.assertStatus(Status.NO_STORAGE, asked)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_askedOnceForAll(self) -> None:
        """
        However many ask at the same time.
        """
        asked = [self.ask() for _ in range(100)]
        self.assertEqual(self.storage.count, 1)
        self.storage.pings.pop().callback(None)
        for one in asked:
            self.assertStatus(Status.READY, one)

    def test_remembered(self) -> None:
        """
        For a second, the bad news too.
        """
        for outcome, status in (
            (None, Status.READY),
            (Failure(StorageUnavailable("away")), Status.NO_STORAGE),
        ):
            count = self.storage.count
            asked = self.ask()
            self.storage.pings.pop().callback(outcome)
            for _ in range(9):
                self.assertStatus(status, self.ask())
                self.clock.advance(0.1)
            self.assertEqual(self.storage.count, count + 1)
            self.clock.advance(0.11)
            self.assertStatus(status, asked)

    def test_draining(self) -> None:
        """
        From then on, whoever is waiting, and whatever the storage says.
        """
        asked = self.ask()
        self.readiness.drain()
        self.assertStatus(Status.DRAINING, self.ask())
        self.storage.pings.pop().callback(None)
        self.assertStatus(Status.DRAINING, asked)
        self.clock.advance(5)
        self.assertStatus(Status.DRAINING, self.ask())
        self.assertEqual(self.storage.count, 1)


class EndpointTests(ClientCase):
    """
    Over HTTP.
    """

    def setUp(self) -> None:
        self.storage = Pinged()
        self.readiness = Readiness(self.storage.ping, reactor)
        root = Folder()
        root.putChild(b"healthz", HealthEndpoint())
        root.putChild(b"readyz", ReadyEndpoint(self.readiness))
        root.putChild(b"version", VersionEndpoint())
        self.listen(root)

    async def ready(self, outcome: object = None, method: str = "GET") -> Answer:
        """
        Ask, while the storage answers.
        """
        asked = ensureDeferred(self.request(method, "/readyz"))
        while not self.storage.pings:
            await ensureDeferred(self.request("GET", "/version"))
        self.storage.pings.pop().callback(outcome)
        return await asked

    def assertStatus(self, answer: Answer, code: int, status: str) -> None:
        self.assertEqual((answer.code, json.loads(answer.body)), (code, {"status": status}))
        self.assertEqual(answer.header("Content-Type"), "application/json")

    async def test_health(self) -> None:
        """
        It has nothing to do with the storage.
        """
        self.assertStatus(await self.request("GET", "/healthz"), 200, "ok")
        self.assertEqual(self.storage.count, 0)

    async def test_ready(self) -> None:
        self.assertStatus(await self.ready(), 200, "ready")

    async def test_noStorage(self) -> None:
        answer = await self.ready(Failure(StorageUnavailable("secret")))
        self.assertStatus(answer, 503, "storage unavailable")

    async def test_draining(self) -> None:
        self.readiness.drain()
        self.assertStatus(await self.request("GET", "/readyz"), 503, "draining")
        self.assertStatus(await self.request("GET", "/healthz"), 200, "ok")

    async def test_head(self) -> None:
        for answer in (await self.request("HEAD", "/healthz"), await self.ready(None, "HEAD")):
            self.assertEqual((answer.code, answer.body), (200, b""))
            self.assertGreater(int(answer.header("Content-Length")), 0)

    async def test_otherMethods(self) -> None:
        for path in ("/healthz", "/readyz"):
            answer = await self.request("POST", path, b"")
            self.assertEqual((answer.code, answer.header("Allow")), (405, "GET, HEAD"))
            self.assertEqual((await self.request("GET", f"{path}/x")).code, 404)

    async def levels(self, *asked: Any) -> list[LogLevel]:
        """
        @return: at which levels these requests are logged.
        """
        with capturedLogs() as events:
            await gatherResults([ensureDeferred(one) for one in asked])
        lines = [event for event in events if event["log_format"] == "request"]
        return [event["log_level"] for event in lines]

    async def test_quiet(self) -> None:
        """
        The log does not tell of all that is well.
        """
        debug, error = LogLevel.debug, LogLevel.error
        asked = [self.request("GET", "/healthz") for _ in range(2)]
        self.assertEqual(await self.levels(*asked), [debug, debug])
        self.readiness.drain()
        self.assertEqual(await self.levels(self.request("GET", "/readyz")), [error])
        self.assertEqual(await self.levels(self.request("GET", "/version")), [LogLevel.info])
