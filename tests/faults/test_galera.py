"""
A Galera cluster of three nodes with a server on each: devices go from one to the other,
nodes die and come back, and what a server said that it has, it has.
"""

from __future__ import annotations

import re
from contextlib import closing
from itertools import count
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tests.faults.figures import show
from tests.faults.ledger import lost
from tests.faults.storages import UnderLoad
from tests.servers import galera

ENROLLMENTS = 60

_numbers = count()
_RELEASE = "UPDATE nanomdm_webhook_streams SET due = due - 60"
_REPEATED = re.compile(rb'msg="transaction repeated" attempt=(\d+)')


async def pause(seconds: float) -> None:
    """
    Wait.
    """
    await deferLater(reactor, seconds)


class GaleraTests(UnderLoad):
    """
    A cluster under load.
    """

    skip = galera.unavailable()
    timeout = 180

    options = ("--debug",)

    async def serve_all(self) -> None:
        """
        Start a server on each node, all at the same moment, and have devices enroll.
        """
        self.cluster = await deferToThread(galera.shared)
        self.nodes, self.name = self.cluster.nodes, f"galera_{next(_numbers)}"
        dsns = self.cluster.create_database(self.name)
        self.addCleanup(self.cluster.drop_database, self.name)
        self.addCleanup(deferToThread, self.cluster.mend)
        self.simulate(ENROLLMENTS)
        self.load.place.restless = True
        self.daemons = [
            self.begin(NANOMDM_STORAGE="mysql", NANOMDM_STORAGE_DSN=dsn) for dsn in dsns
        ]
        self.ports = await gatherResults([daemon.listening for daemon in self.daemons])
        self.load.place.ports = self.ports
        await self.load.enroll()

    async def finish(self) -> None:
        """
        See that nothing is lost.
        """
        await self.load.finish()
        await deferToThread(self.let_go)
        for node in self.nodes:
            found = await deferToThread(self._lost_at, node, self.load.ledger.snapshot())
            self.assertEqual(found, [])
        await self.told()
        for daemon in self.daemons:
            self.assertNotIn(b"unexpected error", daemon.output)
            self.assertFalse(daemon.ended.called)

    def let_go(self) -> None:
        """
        See L{UnderLoad.let_go}.
        """
        with closing(self.nodes[0].python_connection(self.name)) as connection:
            while True:
                try:
                    connection.cursor().execute(_RELEASE)
                    return
                except connection.OperationalError:
                    # A server on another node was faster.
                    continue

    def _lost_at(self, node: galera.Node, kept: Any) -> list[str]:
        with closing(node.python_connection(self.name)) as connection:
            connection.cursor().execute("SET SESSION wsrep_sync_wait = 1")
            return lost(kept, connection)

    async def die(self, number: int) -> None:
        """
        Kill a node.
        """
        await deferToThread(self.nodes[number].kill)
        await self.ready(number, False)

    async def ready(self, number: int, ready: bool = True) -> None:
        """
        Wait until the server of a node says that it can serve, or that it can not.
        """
        self.port = self.ports[number]
        while (await self.ask("GET", "/readyz")).code != (200 if ready else 503):
            await pause(0.1)

    async def answers(self, after: int) -> None:
        """
        Wait for so many more good answers.
        """
        replies = self.load.place.replies
        enough = replies[200] + after
        while replies[200] < enough:
            await pause(0.1)

    async def refusals(self) -> None:
        """
        See that nobody gets a good answer.
        """
        replies = self.load.place.replies
        good, bad = replies[200], replies[500] + replies[503]
        while replies[500] + replies[503] < bad + 200:
            await pause(0.1)
        self.assertEqual(replies[200], good)

    def repeated(self) -> list[int]:
        """
        @return: of each repetition of a transaction, which one it was.
        """
        outputs = [daemon.output for daemon in self.daemons]
        return [int(attempt) for output in outputs for attempt in _REPEATED.findall(output)]

    def report(self, what: str) -> None:
        """
        Print figures.
        """
        place, ledger, attempts = self.load.place, self.load.ledger, self.repeated()
        good, bad = place.replies[200], place.replies[500] + place.replies[503]
        commands, longest = len(ledger.commands), f"{place.longest:.1f}"
        repeated = f"{len(attempts)} (up to {max(attempts, default=0)})"
        show("Galera", what, good, bad, commands, ledger.answers, longest, repeated)

    async def test_all_nodes(self) -> None:
        """
        All nodes are written to at once: transactions that conflict are repeated, and
        nobody is refused for that.
        """
        await self.serve_all()
        await self.load.during(pause(5))
        await self.finish()
        self.report("three nodes")
        self.assertGreater(len(self.repeated()), 0)

    async def test_node_dies(self) -> None:
        """
        A node is killed and comes back, once for what it missed, once for everything.
        """
        await self.serve_all()
        self.load.place.tolerated = (500, 503)
        await self.load.during(self.deaths())
        await self.finish()
        self.report("a node died twice")

    async def deaths(self) -> None:
        """
        Kill one node after the other.
        """
        for number, transfer in ((1, b"IST"), (2, b"SST")):
            node = self.nodes[number]
            await pause(0.5)
            await self.die(number)
            # The others go on.
            await self.answers(after=200)
            if transfer == b"SST":
                node.forget()
            log = node.directory / "log"
            before = log.stat().st_size
            await deferToThread(node.start)
            self.assertIn(b"rsync " + transfer + b" completed on joiner", log.read_bytes()[before:])
            await self.ready(number)

    async def test_no_quorum(self) -> None:
        """
        Two of three nodes die: the third one may not go on alone, and says so.  When the
        others are back, everything goes on.
        """
        await self.serve_all()
        self.load.place.tolerated = (500, 503)
        await self.load.during(self.loss_of_quorum())
        await self.finish()
        self.report("two of three nodes died")

    async def loss_of_quorum(self) -> None:
        """
        Kill two nodes, and start them again.
        """
        await pause(0.5)
        for number in (1, 2):
            await self.die(number)
        await self.ready(0, False)
        await self.refusals()
        await gatherResults([deferToThread(self.nodes[number].start) for number in (1, 2)])
        for number in range(3):
            await self.ready(number)
        await self.answers(after=200)
