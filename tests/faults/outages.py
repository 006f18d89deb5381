"""
A database that fails while devices are busy, and what they and operators see of that.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from nanomdm.network import bounded
from tests.faults.figures import show
from tests.faults.load import AGAIN
from tests.faults.storages import UnderLoad
from tests.process import DaemonProcess

#: Devices and users.
ENROLLMENTS = 60

#: Seconds in which C{/healthz} and C{/readyz} must answer, whatever there is.
PROBE_PATIENCE = 5.0

#: Seconds within which each request must be answered, if not said otherwise.
BOUND = 20.0

#: Seconds after which all must be served again once the database is there.
RECOVERY = 15.0

#: MiB by which the daemon may grow while the database is away.
GROWTH = 64

Step = Callable[[], Coroutine[Any, Any, None]]


def in_thread(blocking: Callable[[], object]) -> Step:
    """
    @return: does in a thread what blocks.
    """

    async def step() -> None:
        await deferToThread(blocking)

    return step


async def nothing() -> None:
    """
    It is over by itself.
    """


class OutageCase(UnderLoad):
    """
    One daemon for all of a test.

    @cvar title: of the database, for the figures.
    """

    timeout = 240
    title: str
    daemon: DaemonProcess

    async def during(
        self, events: Coroutine[Any, Any, None], enrollments: int = ENROLLMENTS
    ) -> None:
        """
        Have a daemon serve while C{events} come to pass.  It may refuse requests with 500 or
        503, loses nothing that it acknowledged, and knows all its errors.
        """
        self.prepare(enrollments)
        self.load.place.tolerated = (500, 503)
        self.daemon = await self.serve()
        [self.port] = self.load.place.ports
        await self.load.enroll()
        await self.load.during(events)
        await self.settle()

    async def settle(self) -> None:
        """
        See that nothing is missing.
        """
        await self.load.finish()
        await self.look()
        await deferToThread(self.let_go)
        await self.told()
        for text in (b"unexpected error", b"Unhandled", b"Traceback"):
            self.assertNotIn(text, self.daemon.output)
        self.assertEqual(self.daemon.errors, b"")

    async def fault(
        self,
        what: str,
        begin: Step,
        end: Step = nothing,
        lasting: float = 0.5,
        away: bool = True,
        bound: float = BOUND,
        recovery: float = RECOVERY,
    ) -> None:
        """
        Let something happen to the database, and come to its end.

        @param lasting: seconds.
        @param away: whether the database can not be used meanwhile: then it must be noticed.
        @param bound: seconds within which each request must be answered.
        @param recovery: seconds after which all must be served again.
        """
        place = self.load.place
        place.patience = bound
        place.replies.clear()
        place.longest = 0
        memory = self.memory()
        await begin()
        if away:
            await self.wait_for(lambda: self.refusals > 0, bound)
            await self.until(503, bound)
        over = reactor.seconds() + lasting
        await self.wait_for(lambda: reactor.seconds() > over, bound)
        self.assertLess(self.memory() - memory, GROWTH)
        await end()
        ended = reactor.seconds()
        await self.recovered(recovery)
        self.show(what, reactor.seconds() - ended)

    def show(self, what: str, recovery: float) -> None:
        """
        Print a row of the table of figures.
        """
        place = self.load.place
        good, longest = place.replies[200], f"{place.longest:.1f}"
        show(self.title, what, good, self.refusals, longest, f"{recovery:.1f}")

    async def assertDoesNotBegin(self, database: str) -> None:
        """
        Where a database is missing at the start, that ends with one line.

        @param database: what the line says of it.
        """
        daemon = self.begin()
        daemon.listening.addErrback(lambda failure: None)
        self.assertEqual(await daemon.ended, 1)
        [line] = daemon.errors.decode().splitlines()
        self.assertIn("--storage-dsn: ", line)
        self.assertIn(database, line)

    async def recovered(self, bound: float) -> None:
        """
        Wait until everybody is served again.
        """
        accounts = self.load.ledger.accounts.values()
        before = [(account, len(account.acknowledged)) for account in accounts]
        await self.wait_for(
            lambda: all(len(account.acknowledged) > number for account, number in before), bound
        )
        await self.until(200, bound)

    async def until(self, status: int, bound: float) -> None:
        """
        Wait until C{/readyz} says so.
        """
        deadline = reactor.seconds() + bound
        while await self.probe("/readyz") != status:
            assert reactor.seconds() < deadline, f"/readyz never says {status}"
            await deferLater(reactor, AGAIN)

    async def wait_for(self, condition: Callable[[], bool], bound: float) -> None:
        """
        Wait for so many seconds at most.  Meanwhile the daemon always says that it is alive.
        """
        deadline = reactor.seconds() + bound
        while not condition():
            assert reactor.seconds() < deadline, f"in vain for {bound:g} seconds"
            self.assertEqual(await self.probe("/healthz"), 200)
            await deferLater(reactor, AGAIN)

    @property
    def refusals(self) -> int:
        """
        How many requests were refused since a fault began.
        """
        replies = self.load.place.replies
        return replies[500] + replies[503]

    async def probe(self, path: str) -> int:
        """
        @return: the status of C{/healthz} or C{/readyz}.
        """
        asked = Deferred.fromCoroutine(self.ask("GET", path))
        answer = await bounded(asked, reactor, PROBE_PATIENCE, TimeoutError)
        return answer.code

    def memory(self) -> float:
        """
        @return: what the daemon has of it, in MiB.
        """
        pages = int(Path(f"/proc/{self.daemon.transport.pid}/statm").read_text().split()[1])
        return pages / 256
