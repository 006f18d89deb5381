"""
Pushes to any number of enrollments, bounded by the streams that there are.

A call goes through its ids in chunks.  A chunk's targets are looked up while the
one before is being started, and for each topic a L{Cooperator} starts pushes as
long as the topic has room; so there is something to remember for what is under
way, and of all others only the result.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from random import Random
from typing import Final, TypeVar

from twisted.internet.defer import Deferred, DeferredList, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Cooperator, SchedulerStopped
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from nanomdm.errors import (
    MessageError,
    NanoMDMError,
    NotConfigured,
    Overloaded,
    SecretUnreadable,
    StorageError,
    internal,
)
from nanomdm.interfaces import IPusher, IPushStore, PushResult, PushTarget
from nanomdm.metrics.pushes import FAILED, NO_CERTIFICATE, UNTRIED, PushMetrics
from nanomdm.push.aftermath import Aftermath, is_about_token
from nanomdm.push.call import Call
from nanomdm.push.delivery import Delivery
from nanomdm.push.endpoint import IConnector
from nanomdm.push.notification import Notification, mdm_payload
from nanomdm.push.provider import STOPPING, Provider
from nanomdm.push.topics import Topics

R = TypeVar("R")

#: Calls that may be under way at once.
_CALLS: Final = 1000

#: Ids whose targets are looked up together.
_CHUNK: Final = 500

#: Seconds for which starting pushes may keep the reactor.
_SLICE: Final = 0.01

_HEX: Final = re.compile(r"(?:[0-9a-f]{2})+")

_UNKNOWN: Final = PushResult(error="unknown enrollment id")
_DISABLED: Final = PushResult(error="enrollment is disabled")
_NOT_HEX: Final = PushResult(error="the push token is not hexadecimal")

#: What makes two pushes the same.
_Key = tuple[str, str, str]


class _Push:
    """
    A push under way, and the calls that wait for it.
    """

    __slots__ = ("began", "calls", "delivery", "provider", "target")

    def __init__(self, target: PushTarget, provider: Provider, call: Call) -> None:
        self.target = target
        self.provider = provider
        self.calls = [call]
        self.began = provider.clock.seconds()
        self.delivery: Delivery


@implementer(IPusher)
class PushService:
    """
    Wakes enrollments through APNs.

    @param connector: connects to APNs.
    @param expiration: seconds for which APNs keeps a push to a device that is off.
    @param connections: how many connections a topic may have.
    @param schedule: whether the storage notes who was pushed to, for further
        pushes.
    @param now: the time of day, with a time zone.
    @param random: for jitter.
    @param metrics: counts pushes.
    """

    _log = Logger()

    def __init__(
        self,
        store: IPushStore,
        connector: IConnector,
        clock: IReactorTime,
        *,
        expiration: int,
        connections: int,
        schedule: bool,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        random: Random | None = None,
        metrics: PushMetrics | None = None,
    ) -> None:
        jitter = random or Random()

        def create(topic: str) -> Provider:
            return Provider(
                topic, connector, clock, connections=connections, now=now, random=jitter
            )

        self._store = store
        self._clock = clock
        self._expiration = expiration
        self._schedule = schedule
        self._now = now
        self._topics = Topics(store, clock, create)
        self._aftermath = Aftermath(store, now)
        self._cooperator = Cooperator(
            terminationPredicateFactory=self._slice,
            scheduler=lambda work: clock.callLater(0, work),
        )
        self._under_way: dict[_Key, _Push] = {}
        self._calls: set[Call] = set()
        self._stopping = False
        self._metrics = metrics or PushMetrics()
        self._metrics.watch(lambda: self._topics.providers, lambda: len(self._under_way))

    def push(
        self, ids: Sequence[str], force: bool = False, again: bool = False
    ) -> Deferred[Mapping[str, PushResult]]:
        """
        See L{IPusher.push}.  Fails with L{Overloaded} when there are too many
        calls.
        """
        if self._stopping or not ids:
            return succeed(dict.fromkeys(ids, STOPPING))
        if len(self._calls) >= _CALLS:
            return fail(Overloaded("too many requests wait for pushes"))
        call = Call(tuple(dict.fromkeys(ids)), force, self._schedule and not again, self._clock)
        self._calls.add(call)
        call.work = Deferred.fromCoroutine(self._work(call)).addErrback(call.fail)
        # A call keeps its place until all its ids have their results.
        call.results.addBoth(self._ended, call)
        return call.results

    def stop(self) -> Deferred[None]:
        """
        End everything: what has no result yet gets L{STOPPING}.

        @return: fires when connections are closed and nothing is being written.
        """
        self._stopping = True
        self._cooperator.stop()
        # First, so that the streams that become free get no more pushes.
        closed = self._topics.stop()
        for push in list(self._under_way.values()):
            if push.delivery.result is None:
                push.delivery.give_up(STOPPING)
            else:
                # Only the storage keeps it.
                self._tell(push)
        calls = list(self._calls)
        for call in calls:
            call.end(STOPPING)
        return Deferred.fromCoroutine(self._stopped(closed, calls))

    async def _stopped(self, closed: Deferred[None], calls: Sequence[Call]) -> None:
        await closed
        await DeferredList([call.work for call in calls])
        await self._aftermath.finished()

    def _ended(self, results: R, call: Call) -> R:
        self._calls.discard(call)
        return results

    def _slice(self) -> Callable[[], bool]:
        seconds = self._clock.seconds
        end = seconds() + _SLICE
        return lambda: seconds() >= end

    # From a call to its pushes

    async def _work(self, call: Call) -> None:
        """
        Start the pushes of a call.

        @raise NanoMDMError: the first targets can not be looked up, so nothing was
            pushed.
        """
        looking = self._look_up(call, 0)
        for begin in range(0, len(call.ids), _CHUNK):
            targets = await looking
            if self._stopping:
                return
            if isinstance(targets, Exception) and not begin:
                raise targets
            looking = self._look_up(call, begin + _CHUNK)
            ids = call.ids[begin : begin + _CHUNK]
            if isinstance(targets, Exception):
                self._fail(call, ids, targets)
            else:
                await self._start_all(call, ids, targets)

    def _look_up(self, call: Call, begin: int) -> Deferred[dict[str, PushTarget] | Exception]:
        """
        @return: the targets of a chunk; an exception, too, as its result.
        """
        ids = call.ids[begin : begin + _CHUNK]
        if not ids:
            return succeed({})
        return Deferred.fromCoroutine(self._targets(ids, call.schedule))

    async def _targets(
        self, ids: Sequence[str], schedule: bool
    ) -> dict[str, PushTarget] | Exception:
        try:
            targets: dict[str, PushTarget] = await self._store.push_targets(ids, schedule)
        except Exception as error:
            return error
        return targets

    async def _start_all(
        self, call: Call, ids: Sequence[str], targets: Mapping[str, PushTarget]
    ) -> None:
        topics: dict[tuple[str, int | None], list[PushTarget]] = {}
        for id in ids:
            target = targets.get(id)
            problem = _problem(target, call.force)
            if target is None or problem is not None:
                self._metrics.not_begun(UNTRIED)
                call.answer(id, problem or _UNKNOWN)
            else:
                topics.setdefault((target.topic, target.stale_token), []).append(target)
        await DeferredList(
            [
                Deferred.fromCoroutine(self._start_topic(call, topic, stale_token, some))
                for (topic, stale_token), some in topics.items()
            ]
        )

    async def _start_topic(
        self, call: Call, topic: str, stale_token: int | None, targets: Sequence[PushTarget]
    ) -> None:
        try:
            provider = await self._topics.provider(topic, stale_token)
            starting = self._starting(call, provider, targets)
            await self._cooperator.cooperate(starting).whenDone()
        except SchedulerStopped:
            # All have their results.
            return
        except Exception as error:
            self._fail(call, [target.id for target in targets], error)

    def _fail(self, call: Call, ids: Sequence[str], error: Exception) -> None:
        text = str(error)
        if not isinstance(error, NanoMDMError):
            self._log.failure("pushing failed", Failure(error))
            text = "internal error"
        elif isinstance(error, StorageError):
            # What a database says is for the log alone.
            self._log.error("push targets not looked up", ids=len(ids), error=text)
            text = internal(error)
        unconfigured = isinstance(error, NotConfigured | MessageError | SecretUnreadable)
        self._metrics.not_begun(NO_CERTIFICATE if unconfigured else FAILED, len(ids))
        for id in ids:
            call.answer(id, PushResult(error=text))

    def _starting(
        self, call: Call, provider: Provider, targets: Sequence[PushTarget]
    ) -> Iterator[Deferred[None] | None]:
        """
        Start one push at each step, waiting for room when there is none.
        """
        for target in targets:
            if self._joined(call, target):
                continue
            if not provider.room.take():
                yield provider.room.wait()
                if self._joined(call, target):
                    provider.room.leave()
                    continue
            self._start(call, provider, target)
            yield None

    def _joined(self, call: Call, target: PushTarget) -> bool:
        """
        Wait for a push that is under way, rather than send the same again.

        APNs may have delivered it already, and the device may have connected
        before what this call is for was there.  Then nothing comes of this call,
        but the storage has noted it: the device has something outstanding and did
        not connect since, so it is pushed to again soon.
        """
        push = self._under_way.get(_key(target))
        if push is None:
            return False
        push.calls.append(call)
        return True

    # From a push to its calls

    def _start(self, call: Call, provider: Provider, target: PushTarget) -> None:
        notification = Notification(
            target.token_hex.lower(),
            target.topic,
            mdm_payload(target.push_magic),
            # Of 0, APNs makes one attempt and stores nothing.
            int(self._now().timestamp()) + self._expiration if self._expiration else 0,
        )
        push = self._under_way[_key(target)] = _Push(target, provider, call)
        push.delivery = Delivery(notification, provider, partial(self._finished, push))
        push.delivery.start()

    def _finished(self, push: _Push) -> None:
        answer = push.delivery.answer
        if answer is None or not is_about_token(answer):
            self._tell(push)
            return
        # Told afterwards, so that who pushes again then finds it noted; and the
        # push keeps its room, so that a slow storage slows this down.
        noted = self._aftermath.note(push.target, answer)
        noted.addCallback(lambda ignored: self._tell(push)).addErrback(self._bug)

    def _tell(self, push: _Push) -> None:
        if self._under_way.pop(_key(push.target), None) is None:
            # The end came while the storage had it.
            return
        push.provider.room.leave()
        result = push.delivery.result
        assert result is not None
        seconds = self._clock.seconds() - push.began
        self._metrics.ended(result.status, result.reason, result.error is not None, seconds)
        for call in push.calls:
            call.answer(push.target.id, result)

    def _bug(self, failure: Failure) -> None:
        self._log.failure("a push was not told of", failure)


def _key(target: PushTarget) -> _Key:
    """
    @return: what makes two pushes the same: not the id alone, for a token may have
        been replaced in between.
    """
    return target.id, target.token_hex, target.push_magic


def _problem(target: PushTarget | None, force: bool) -> PushResult | None:
    """
    @return: why an enrollment is not pushed to, if so.
    """
    if target is None:
        return _UNKNOWN
    if not target.enabled:
        return _DISABLED
    dead = target.dead
    if dead is not None and not force:
        error = f"the push token is dead: APNs answered {dead.status} {dead.reason}"
        return PushResult(error=error, status=dead.status, reason=dead.reason)
    return None if _HEX.fullmatch(target.token_hex.lower()) else _NOT_HEX
