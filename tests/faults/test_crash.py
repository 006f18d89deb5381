"""
The daemon is killed again and again while devices and operators keep it busy: what it
said that it has, it has.

C{FAULTS_KILLS} says how often, for each database; C{make faults} says 50.
"""

from __future__ import annotations

import os
from random import Random

from twisted.internet import reactor
from twisted.internet.task import deferLater

from tests.faults.figures import show
from tests.faults.storages import OnServer, OnSQLite, UnderLoad
from tests.servers import unavailable

KILLS = int(os.environ.get("FAULTS_KILLS", "5"))
ENROLLMENTS = 200


class CrashTests(UnderLoad):
    """
    One daemon after the other on one database.
    """

    timeout = 120 + 20 * KILLS
    title: str

    async def test_kill(self) -> None:
        self.prepare(ENROLLMENTS)
        first = await self.serve()
        await self.load.enroll()
        await self.kill(first)
        await self.load.during(self.kills_and_recovery())
        await self.load.finish()
        await self.look()
        await self.told()
        ledger, replies = self.load.ledger, self.load.place.replies
        show(self.title, KILLS, replies.total(), len(ledger.commands), ledger.answers)

    async def kills_and_recovery(self) -> None:
        await self.kills()
        self.let_go()
        await self.serve()

    async def kills(self) -> None:
        """
        Let daemons live for a moment each.
        """
        random = Random(7)
        for number in range(KILLS):
            if number % 10 == 9:
                # This one does not even come to serve.
                daemon = self.begin()
                daemon.listening.addErrback(lambda failure: None)
            else:
                daemon = await self.serve()
            await deferLater(reactor, random.uniform(0.05, 1.2))
            await self.kill(daemon)
            self.assertNotIn(b"unexpected error", daemon.output)
            await self.look()


class SQLiteTests(OnSQLite, CrashTests):
    """
    SQLite.
    """

    title = "SQLite"


class MariaDBTests(OnServer, CrashTests):
    """
    MariaDB.
    """

    title = "MariaDB"
    engine, kind = "mariadb", "mysql"
    skip = unavailable("mariadb")


class PostgreSQLTests(OnServer, CrashTests):
    """
    PostgreSQL.
    """

    title = "PostgreSQL"
    engine, kind = "postgresql", "pgsql"
    skip = unavailable("postgresql")


del CrashTests
