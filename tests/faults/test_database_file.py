"""
The database is a file, and somebody else has it locked, its disk is full or broken; and the
disk of a database server is full.  See L{tests.faults.test_database}.
"""

from __future__ import annotations

import resource

from twisted.internet.defer import Deferred

from tests.faults.outages import OutageCase, in_thread
from tests.faults.small_disk import SmallDisk
from tests.faults.storages import OnServer, OnSQLite
from tests.servers import ENGINES, Server, unavailable

#: Characters of a command of which some need new room on the disk.
LARGE = 500_000

#: Seconds that a request may take while the database is locked: it waits for the
#: transaction before its own, and for that one, which is tried again for 15 seconds.
LOCKED = 2 * 15.0 + 2.0


class FullDiskTests(OutageCase):
    """
    What holds for every database.

    @cvar room: MiB of the disk.
    """

    room: int

    async def test_full(self) -> None:
        """
        The disk is full, until somebody makes room.
        """
        self.disk = SmallDisk(self, self.room)
        await self.during(self.full())

    async def full(self) -> None:
        await self.fault("disk full", self.fill, self.free)

    async def fill(self) -> None:
        """
        Leave no room, and need some.
        """
        self.disk.fill()
        members = self.load.members[:1]
        large = [self.load.enqueue(f"L{n}", members, Payload="x" * LARGE) for n in range(8)]
        self.large = [Deferred.fromCoroutine(one) for one in large]

    async def free(self) -> None:
        self.disk.free()
        await self.bring_back()
        for one in self.large:
            await one

    async def bring_back(self) -> None:
        """
        Start again what a full disk may have ended.
        """


class SQLiteTests(OnSQLite, FullDiskTests):
    """
    A file.
    """

    title, room = "SQLite", 16

    def setUp(self) -> None:
        super().setUp()
        self.disk: SmallDisk | None = None

    def storage(self) -> dict[str, str]:
        """
        See L{OnSQLite.storage}.
        """
        if self.disk is not None:
            self.database = self.disk.path / "test.db"
        return super().storage()

    async def test_refusing(self) -> None:
        """
        Somebody else writes for a while, or the disk does not take anything.
        """
        await self.during(self.refusing())

    async def refusing(self) -> None:
        await self.fault("locked", self.lock, self.unlock, bound=LOCKED)
        await self.fault("write errors", self.forbid, self.allow)

    async def lock(self) -> None:
        self.locking = self.connection()
        self.locking.execute("BEGIN IMMEDIATE")

    async def unlock(self) -> None:
        self.locking.close()

    async def forbid(self) -> None:
        """
        Make writes to files fail.
        """
        self.limit(0)

    async def allow(self) -> None:
        self.limit(resource.RLIM_INFINITY)

    def limit(self, size: int) -> None:
        """
        @param size: of files, in bytes, from which on nothing is written to them.
        """
        limits = (size, resource.RLIM_INFINITY)
        resource.prlimit(self.daemon.transport.pid, resource.RLIMIT_FSIZE, limits)


class ServerTests(OnServer, FullDiskTests):
    """
    What holds for every server.

    @cvar server_options: so that it needs little room.
    """

    room = 400
    server_options: tuple[str, ...] = ()

    def find(self, engine: str) -> Server:
        """
        A server on the small disk.
        """
        server = ENGINES[engine](home=self.disk.path, options=self.server_options)
        self.addCleanup(server.close)
        server.start()
        return server

    async def bring_back(self) -> None:
        """
        See L{FullDiskTests.bring_back}.
        """
        await in_thread(self.server.ensure)()


class MariaDBTests(ServerTests):
    """
    MariaDB.
    """

    title, engine, kind = "MariaDB", "mariadb", "mysql"
    skip = unavailable("mariadb")
    server_options = ("--innodb-log-file-size=8M",)


class PostgreSQLTests(ServerTests):
    """
    PostgreSQL.
    """

    title, engine, kind = "PostgreSQL", "postgresql", "pgsql"
    skip = unavailable("postgresql")


del FullDiskTests, ServerTests
