"""
Tests for L{nanomdm.sim.fleet}, with a real server.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import Agent, HTTPConnectionPool

from nanomdm.sim.ca import ThrowawayCA
from nanomdm.sim.device import SimulatedDevice
from nanomdm.sim.fleet import Fleet, Habits, Member, Tally
from tests.http.case import ServerCase, ca, device


class Time(Clock):
    """
    Passes when a test says so, and tells who sleeps.
    """

    def __init__(self) -> None:
        super().__init__()
        self._awaited: tuple[int, Deferred[None]] | None = None

    def callLater(self, when: float, what: Callable[..., object], *args: Any, **kw: Any) -> Any:
        call = super().callLater(when, what, *args, **kw)
        if self._awaited is not None and len(self.sleepers()) == self._awaited[0]:
            (_, awaited), self._awaited = self._awaited, None
            reactor.callLater(0, awaited.callback, None)
        return call

    def sleepers(self) -> list[IDelayedCall]:
        return [call for call in self.getDelayedCalls() if call.func.__name__ == "_end_sleep"]

    def asleep(self, count: int) -> Deferred[None]:
        """
        @return: fires when one more device goes to sleep, and then as many do.
        """
        self._awaited = (count, Deferred())
        return self._awaited[1]


class FleetTests(ServerCase):
    """
    Some devices, which share a key.
    """

    timeout = 60

    def setUp(self) -> None:
        self.time = Time()
        self.members: list[Member] = []

    def fleet(self, count: int = 1, port: int | None = None, **habits: Any) -> Fleet:
        for number in range(count):
            identity = ca().issue(key=device(1).key)
            self.members.append(Member(SimulatedDevice.mac(identity, Random(number))))
        return self.fleet_of(self.members, port, **habits)

    def fleet_of(self, members: list[Member], port: int | None = None, **habits: Any) -> Fleet:
        http = HTTPClient(Agent(reactor, pool=HTTPConnectionPool(reactor, persistent=False)))
        url = f"http://127.0.0.1:{port or self.port}"
        plan = Habits(**{"interval": 1000.0, **habits})
        fleet = Fleet(members, url, http, self.time, Random(0), plan)
        self.addCleanup(self.end, fleet)
        return fleet

    async def end(self, fleet: Fleet) -> None:
        await fleet.stop()
        self.assertEqual(self.time.getDelayedCalls(), [])

    async def start(self, fleet: Fleet) -> Tally:
        asleep = self.time.asleep(len(self.members))
        fleet.start()
        await asleep
        return fleet.tally

    async def command(self, uuid: str = "C1") -> None:
        answer = await self.enqueue(self.members[0].device.enrollment_id, uuid)
        self.assertEqual(answer.code, 200)

    def ring(self, fleet: Fleet, magic: str | None = None) -> None:
        one = self.members[0].device
        fleet.ring(one.token.hex(), magic or one.push_magic)

    async def test_enroll(self) -> None:
        self.serve()
        tally = await self.start(self.fleet(5, concurrency=2))
        self.assertEqual((tally.enrolled, tally.connects, tally.failures), (5, 5, 0))
        [[count]] = await self.query("SELECT COUNT(*) FROM enrollments WHERE enabled")
        self.assertEqual(count, 5)
        self.assertTrue(all(member.enrolled for member in self.members))

    async def test_enrolledBefore(self) -> None:
        """
        Who has enrolled in an earlier run connects only.
        """
        self.serve()
        await self.start(fleet := self.fleet())
        await fleet.stop()
        again = self.fleet_of(self.members)
        self.assertEqual(again.tally.enrolled, 1)
        tally = await self.start(again)
        self.assertEqual((tally.enrolled, tally.connects, tally.failures), (1, 1, 0))
        [[count]] = await self.query("SELECT token_update_tally FROM enrollments")
        self.assertEqual(count, 1)

    async def test_push(self) -> None:
        self.serve()
        tally = await self.start(fleet := self.fleet(2))
        await self.command()
        asleep = self.time.asleep(2)
        self.ring(fleet)
        await asleep
        self.assertEqual((tally.pushes, tally.connects), (1, 3))
        # It asks for nothing.
        self.assertEqual(dict(tally.answers), {"CommandFormatError": 1})
        self.assertEqual(dict(tally.commands), {"DeviceInformation": 1})

    async def test_pushWhileAwake(self) -> None:
        """
        The device connects once more.
        """
        self.serve()
        tally = await self.start(fleet := self.fleet())
        asleep = self.time.asleep(1)
        self.ring(fleet)
        self.ring(fleet)
        await asleep
        self.assertEqual((tally.pushes, tally.connects), (2, 3))

    async def test_foreignPush(self) -> None:
        """
        Neither another push magic nor another token wakes a device.
        """
        self.serve()
        tally = await self.start(fleet := self.fleet())
        self.ring(fleet, "other")
        fleet.ring("00", self.members[0].device.push_magic)
        self.assertEqual((tally.pushes, len(self.time.sleepers())), (0, 1))

    async def test_interval(self) -> None:
        self.serve()
        tally = await self.start(self.fleet())
        [sleeper] = self.time.sleepers()
        self.assertTrue(500 <= sleeper.getTime() <= 1500)
        asleep = self.time.asleep(1)
        self.time.advance(1500)
        await asleep
        self.assertEqual(tally.connects, 2)

    async def test_busy(self) -> None:
        """
        A device that put a command off connects again soon, but not one that was asked
        nothing.
        """
        self.serve()
        tally = await self.start(fleet := self.fleet(not_now=100))
        [sleeper] = self.time.sleepers()
        self.assertTrue(sleeper.getTime() >= 500)
        await self.command()
        asleep = self.time.asleep(1)
        self.ring(fleet)
        await asleep
        self.assertEqual(dict(tally.answers), {"NotNow": 1})
        [sleeper] = self.time.sleepers()
        self.assertTrue(sleeper.getTime() <= 15)

    async def test_nobodyThere(self) -> None:
        """
        It is tried again, each time later.
        """
        tally = await self.start(self.fleet(port=9))
        [first] = self.time.sleepers()
        self.assertTrue(0.5 <= first.getTime() <= 1.5)
        for seconds in (2, 4, 8, 16, 32, 60, 60):
            before = self.time.seconds()
            asleep = self.time.asleep(1)
            self.time.advance(100)
            await asleep
            [sleeper] = self.time.sleepers()
            pause = sleeper.getTime() - before - 100
            self.assertTrue(seconds / 2 <= pause <= seconds * 1.5, pause)
        self.assertEqual((tally.enrolled, tally.failures), (0, 8))
        [(text, count)] = tally.errors.items()
        self.assertIn("refused", text)
        self.assertEqual(count, 8)

    async def test_refused(self) -> None:
        """
        The server does not know the CA.
        """
        self.serve(ca=self.other_ca())
        tally = await self.start(self.fleet())
        self.assertEqual((tally.enrolled, tally.failures), (0, 1))
        self.assertIn("answered 400", next(iter(tally.errors)))

    def other_ca(self) -> Path:
        path = Path(self.mktemp())
        path.write_bytes(ThrowawayCA.create(key=device(1).key).pem)
        return path

    async def test_stopWhileSpeaking(self) -> None:
        """
        Nothing is left of requests under way, nor of those that wait for their turn.
        """
        self.serve()
        fleet = self.fleet(3, concurrency=1)
        fleet.start()
        self.assertEqual(len(self.time.getDelayedCalls()), 1)
        await fleet.stop()
        self.assertEqual((fleet.tally.connects, fleet.tally.failures), (0, 0))


class TallyTests(SynchronousTestCase):
    """
    Counting failures.
    """

    def test_errors(self) -> None:
        tally = Tally()
        for number in range(30):
            tally.fail(str(number))
        tally.fail("0")
        self.assertEqual((tally.failures, len(tally.errors), tally.errors["0"]), (31, 20, 2))
