"""
A fleet as a process of its own: runs until it is told to stop, shows how it is
getting on, and keeps its devices.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.ssl import Certificate, platformTrust, trustRootFromCertificates
from twisted.internet.task import LoopingCall, deferLater, react
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool

from nanomdm.sim.feed import NoFeed, PushListener
from nanomdm.sim.fleet import Fleet, Habits, Tally
from nanomdm.sim.fleet_members import FleetMembers

#: Seconds between two lines on a terminal, and between two times that devices are kept.
_SHOWN: Final = 0.5
_KEPT: Final = 10.0

#: Seconds that a connection is kept for another request; servers close theirs later.
_IDLE: Final = 2


@frozen(kw_only=True)
class Run:
    """
    One run of a fleet.

    @ivar url: the server's root.
    @ivar members: the devices.
    @ivar habits: what they do.
    @ivar roots: what an C{https} server must chain to; those of the system when there
        are none.
    @ivar pushes: the directory of the simulated APNs to hear of pushes from, if any.
    @ivar state: the directory where devices are kept, if they are.
    @ivar seconds: until it ends; L{None} for never.
    @ivar show: is called with how it is getting on.
    """

    url: str
    members: FleetMembers
    habits: Habits
    roots: Sequence[x509.Certificate] = ()
    pushes: Path | None = None
    state: Path | None = None
    seconds: float | None = None
    show: Callable[[Tally], None]


def run_fleet(run: Run) -> Tally:
    """
    Run a fleet in this process, until the time is over or a signal comes.  It can be
    done once.

    @return: what has happened.
    @raise NoFeed: there is nobody to hear of pushes from.
    @raise OSError: devices can not be kept.
    """
    outcome: list[Tally | Exception] = []

    async def begin(reactor: Any) -> None:
        try:
            outcome.append(await _run(reactor, run))
        except (NoFeed, OSError) as error:
            outcome.append(error)

    try:
        react(begin)
    except SystemExit:
        # With something unexpected, which is on standard error then.
        if not outcome:
            raise
    result = outcome[-1]
    if isinstance(result, Exception):
        raise result
    return result


async def _run(reactor: Any, run: Run) -> Tally:
    # Signals are handled properly only once the reactor runs.
    await deferLater(reactor, 0)
    pool = HTTPConnectionPool(reactor)
    pool.maxPersistentPerHost = run.habits.concurrency
    pool.cachedConnectionTimeout = _IDLE
    http = HTTPClient(Agent(reactor, contextFactory=_trust(run.roots), pool=pool))
    fleet = Fleet(run.members.active, run.url, http, reactor, Random(), run.habits)
    over = _end(reactor, run.seconds)
    try:
        await _live(reactor, run, fleet, over.wanted)
        await pool.closeCachedConnections()
        if run.state is not None:
            run.members.save(run.state)
    finally:
        over.done.callback(None)
    return fleet.tally


async def _live(reactor: Any, run: Run, fleet: Fleet, until: Deferred[None]) -> None:
    listener = None if run.pushes is None else PushListener(reactor, run.pushes, fleet.ring)
    if listener is not None:
        await listener.start()
    fleet.start()
    loops = [_every(_SHOWN, lambda: run.show(fleet.tally))]
    if run.state is not None:
        loops.append(_every(_KEPT, _Keeper(run.members, fleet.tally, run.state).save))
    await until
    for loop in loops:
        if loop.running:
            loop.stop()
    if listener is not None:
        await listener.stop()
    await fleet.stop()


@frozen(eq=False)
class _Over:
    """
    The end of a run.

    @ivar wanted: fires when somebody wants it.
    @ivar done: to be fired when everything is cleaned up.
    """

    wanted: Deferred[None]
    done: Deferred[None]


def _end(reactor: Any, seconds: float | None) -> _Over:
    over = _Over(Deferred(), Deferred())
    alarm = None

    def want() -> None:
        if not over.wanted.called:
            over.wanted.callback(None)

    def stop() -> Deferred[None]:
        if alarm is not None and alarm.active():
            alarm.cancel()
        want()
        return over.done

    if seconds is not None:
        alarm = reactor.callLater(seconds, want)
    reactor.addSystemEventTrigger("before", "shutdown", stop)
    signal.signal(signal.SIGHUP, lambda *_: reactor.callFromThread(reactor.stop))
    return over


class _Keeper:
    """
    Keeps devices when some have enrolled since the last time.
    """

    def __init__(self, members: FleetMembers, tally: Tally, directory: Path) -> None:
        self._members = members
        self._tally = tally
        self._directory = directory
        self._saved = -1

    def save(self) -> None:
        if self._saved != self._tally.enrolled:
            self._saved = self._tally.enrolled
            self._members.save(self._directory)


def _every(seconds: float, work: Callable[[], None]) -> LoopingCall:
    loop = LoopingCall(work)
    loop.start(seconds).addErrback(_failed)
    return loop


def _failed(failure: Any) -> None:
    print(failure.getErrorMessage(), file=sys.stderr)


def _trust(roots: Sequence[x509.Certificate]) -> BrowserLikePolicyForHTTPS:
    if not roots:
        return BrowserLikePolicyForHTTPS(platformTrust())
    return BrowserLikePolicyForHTTPS(
        trustRootFromCertificates(
            [Certificate.loadPEM(root.public_bytes(Encoding.PEM)) for root in roots]
        )
    )
