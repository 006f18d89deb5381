"""
Many simulated devices at a server: they enroll, connect when they are pushed to and
now and then by themselves, and answer what they are asked.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any, Final

from attrs import Factory, define, field, frozen
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredSemaphore
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from nanomdm.errors import NanoMDMError
from nanomdm.mdm.command import NOT_NOW
from nanomdm.sim.client import DeviceClient
from nanomdm.sim.device import SimulatedDevice

#: Seconds until a device that was busy connects again, about.
_NOT_NOW_PAUSE: Final = 10.0

#: Seconds before an attempt that failed is repeated: at first, and at most.
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0

#: Different errors that are counted each for itself.
_ERRORS: Final = 20

_log = Logger()


@define(eq=False)
class Member:
    """
    A device of the fleet.

    @ivar device: the device.
    @ivar enrolled: whether it has enrolled, in this run or in an earlier one.
    """

    device: SimulatedDevice
    enrolled: bool = False


@define
class Tally:
    """
    What has happened.

    @ivar enrolled: how many devices are enrolled.
    @ivar connects: how often one has connected and answered all that there was.
    @ivar failures: how often that, or an enrollment, failed.
    @ivar pushes: how many pushes were for one of the devices.
    @ivar answers: how many answers had which status.
    @ivar commands: how many answers there were to which request type.
    @ivar errors: how often something failed for which reason.
    """

    enrolled: int = 0
    connects: int = 0
    failures: int = 0
    pushes: int = 0
    answers: Counter[str] = Factory(Counter)
    commands: Counter[str] = Factory(Counter)
    errors: Counter[str] = Factory(Counter)

    def fail(self, text: str) -> None:
        """
        Count something that failed.
        """
        self.failures += 1
        if text in self.errors or len(self.errors) < _ERRORS:
            self.errors[text] += 1


@frozen(kw_only=True)
class Habits:
    """
    What the devices do.

    @ivar concurrency: how many speak to the server at once, at most.
    @ivar interval: seconds, about, after which a device connects that nobody pushed
        to; L{None} for never.
    @ivar not_now: in how many of a hundred connections a device is busy.
    """

    concurrency: int = 20
    interval: float | None = None
    not_now: float = 0.0


class Fleet:
    """
    The devices of one server.

    @param members: the devices; whether they have enrolled is noted there.
    @param base_url: the server's root.
    @param http: the client for all of them.
    @param clock: measures all times.
    @param random: decides who is busy, and when something is repeated.
    @ivar tally: what has happened so far.
    """

    def __init__(
        self,
        members: list[Member],
        base_url: str,
        http: HTTPClient,
        clock: IReactorTime,
        random: Random,
        habits: Habits,
    ) -> None:
        self.tally = Tally(enrolled=sum(member.enrolled for member in members))
        turns = DeferredSemaphore(habits.concurrency)
        shared = _Shared(base_url, http, clock, random, habits, turns, self.tally)
        self._lives = [_Life(member, shared) for member in members]
        self._by_token = {life.token: life for life in self._lives}
        self._under_way: list[Deferred[None]] = []

    def start(self) -> None:
        """
        Begin.
        """
        for life in self._lives:
            living = Deferred.fromCoroutine(life.live())
            living.addErrback(_ended)
            self._under_way.append(living)

    async def stop(self) -> None:
        """
        End; what is under way is given up.
        """
        under_way, self._under_way = self._under_way, []
        for living in under_way:
            living.cancel()
        await DeferredList(under_way)

    def ring(self, token: str, magic: str) -> None:
        """
        A push was sent.

        @param token: in hexadecimal.
        @param magic: the push magic; a device does not heed one with another.
        """
        life = self._by_token.get(token)
        if life is not None and life.magic == magic:
            self.tally.pushes += 1
            life.wake()


@frozen(eq=False)
class _Shared:
    """
    What all devices have in common.
    """

    base_url: str
    http: HTTPClient
    clock: IReactorTime
    random: Random
    habits: Habits
    turns: DeferredSemaphore
    tally: Tally

    def about(self, seconds: float) -> float:
        """
        @return: some time from half of C{seconds} to half as much again.
        """
        return seconds * self.random.uniform(0.5, 1.5)


@define(eq=False)
class _Life:
    """
    What one device does.
    """

    member: Member
    shared: _Shared
    _rung: bool = False
    _sleep: Deferred[None] | None = field(default=None, init=False)

    @property
    def token(self) -> str:
        return self.member.device.token.hex()

    @property
    def magic(self) -> str:
        return self.member.device.push_magic

    async def live(self) -> None:
        client = DeviceClient(
            self.member.device, self.shared.base_url, self.shared.http, clock=self.shared.clock
        )
        pause = _FIRST_PAUSE
        while True:
            try:
                busy = await self.shared.turns.run(self._turn, client)
            except NanoMDMError as error:
                self.shared.tally.fail(str(error))
                await self._wait(self.shared.about(pause))
                pause = min(pause * 2, _LONGEST_PAUSE)
            else:
                pause = _FIRST_PAUSE
                await self._wait(self._rest(busy))

    def _turn(self, client: DeviceClient) -> Deferred[bool]:
        return Deferred.fromCoroutine(self._speak(client))

    async def _speak(self, client: DeviceClient) -> bool:
        """
        @return: whether the device had no time for what it was asked.
        @raise NanoMDMError: the server does not answer, or not as it should.
        """
        self._rung = False
        tally, habits = self.shared.tally, self.shared.habits
        if not self.member.enrolled:
            await client.enroll()
            self.member.enrolled = True
            tally.enrolled += 1
        self.member.device.busy = self.shared.random.uniform(0, 100) < habits.not_now
        statuses = Counter[str]()
        for answered in await client.connect():
            statuses[answered.status] += 1
            tally.commands[answered.request_type] += 1
        tally.answers += statuses
        tally.connects += 1
        return NOT_NOW in statuses

    def _rest(self, busy: bool) -> float | None:
        """
        @return: seconds until the device connects by itself.
        """
        interval = self.shared.habits.interval
        if busy:
            interval = min(interval or _NOT_NOW_PAUSE, _NOT_NOW_PAUSE)
        return None if interval is None else self.shared.about(interval)

    def wake(self) -> None:
        """
        A push came.
        """
        self._rung = True
        self._end_sleep()

    async def _wait(self, seconds: float | None) -> None:
        """
        Sleep until a push, or for some time.
        """
        if self._rung:
            return
        alarm: IDelayedCall | None = None
        if seconds is not None:
            alarm = self.shared.clock.callLater(seconds, self._end_sleep)
        self._sleep = Deferred()
        try:
            await self._sleep
        finally:
            self._sleep = None
            if alarm is not None and alarm.active():
                alarm.cancel()

    def _end_sleep(self) -> None:
        sleep, self._sleep = self._sleep, None
        if sleep is not None:
            sleep.callback(None)


def _ended(failure: Failure) -> Any:
    if not failure.check(CancelledError):
        _log.failure("a simulated device ended", failure)
