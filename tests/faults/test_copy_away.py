"""
A second storage, which gets the same writes, is away for a while: nobody notices, and it
catches up.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tests.faults.ledger import lost
from tests.faults.outages import OutageCase, in_thread
from tests.faults.storages import OnSQLite
from tests.servers import stoppable, unavailable

#: Seconds in which the copy has everything: it is tried every ten.
CAUGHT_UP = 30.0


class CopyTests(OnSQLite, OutageCase):
    """
    A file that answers, and a server that follows.
    """

    title = "SQLite, with a copy"
    skip = unavailable("postgresql")

    def storage(self) -> dict[str, str]:
        """
        See L{OnSQLite.storage}.
        """
        self.server = stoppable("postgresql")
        copy = self.server.create_database("copy_away")
        self.addCleanup(self.server.drop_database, "copy_away")
        self.addCleanup(self.server.ensure)
        self.options = ("--storage=sqlite", f"--storage-dsn={self.database}")
        self.options += ("--storage=pgsql", f"--storage-dsn={copy}")
        return {}

    async def test_away(self) -> None:
        await self.during(self.away())
        self.assertEqual(self.refusals, 0)
        deadline = reactor.seconds() + CAUGHT_UP
        kept = self.load.ledger.snapshot()
        while missing := await deferToThread(self.missing, kept):
            assert reactor.seconds() < deadline, missing
            await deferLater(reactor, 0.5)
        for text in (b"storage does not follow", b"storage can be reached again"):
            self.assertIn(text, self.daemon.output)
        await in_thread(self.server.stop)()
        await self.assertDoesNotBegin("copy_away")

    async def away(self) -> None:
        stop, start = in_thread(self.server.stop), in_thread(self.server.start)
        await self.fault("copy stopped", stop, start, 2, away=False)

    def missing(self, kept: Any) -> list[str]:
        """
        @return: what the copy lacks.
        """
        with closing(self.server.python_connection("copy_away")) as connection:
            return lost(kept, connection)
