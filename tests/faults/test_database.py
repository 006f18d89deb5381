"""
A database server fails in all the ways it can while devices are busy: their requests are
refused soon, nothing that was acknowledged is lost, and the daemon recovers by itself.

Each fault prints a row: database, fault, requests answered and refused, the seconds that
the slowest took, and the seconds until everybody was served again once it was over::

    trial tests.faults.test_database | grep '^|'
"""

from __future__ import annotations

import contextlib
import signal
from random import Random
from typing import Any

import pymysql
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tests.faults.load import AGAIN
from tests.faults.outages import OutageCase, in_thread
from tests.faults.storages import OnServer
from tests.servers import stoppable, unavailable
from tests.tcpproxy import Cut, Proxy

#: Sessions and connections that are ended one by one.
ENDED = 12

#: Seconds that a request may take when each round trip takes half a second: it waits for
#: the transaction under way, and then for its own.
SLOW = 40.0

#: Seconds that it may take besides waiting for an answer that never comes: for a ping and
#: two attempts to connect that are not answered either.
SILENCE = 3.0 + 2 * 5.0 + 2.0

#: Seconds within which the daemon ends while the database is away.
END = 50.0


class ServerTests(OnServer, OutageCase):
    """
    What holds for every server.

    @cvar read_only: statements that let nobody write, and that end this.
    @cvar sessions_read_only: the same for sessions that begin meanwhile, for all their life.
    @cvar roomy: a statement that allows connections again.
    @cvar sessions: a statement that lists the sessions on a database.
    @cvar end_session: and one that ends one.
    @cvar open_parameters: of a DSN, so that a proxy can read what is said.
    @cvar commit: what drivers send to commit.
    @cvar answer_timeout: seconds after which a server that says nothing is given up.
    """

    find = staticmethod(stoppable)
    read_only: tuple[str, ...]
    writable: tuple[str, ...]
    sessions_read_only: str
    sessions_writable: str
    roomy: str
    sessions: str
    end_session: str
    open_parameters: str
    commit: bytes
    answer_timeout: float
    proxy: Proxy | None = None

    def storage(self) -> dict[str, str]:
        """
        See L{OnServer.storage}.  The user is nobody to whom limits do not apply.
        """
        environment = super().storage()
        dsn = self.server.owned_dsn(self.name)
        if self.proxy is not None:
            dsn = dsn.replace(f":{self.server.port}/", f":{self.proxy.port}/")
            dsn += self.open_parameters
        return {**environment, "NANOMDM_STORAGE_DSN": dsn}

    async def test_server(self) -> None:
        """
        It is away, and then it refuses this and that.
        """
        await self.during(self.troubles())
        await self.ends_and_starts()

    async def troubles(self) -> None:
        await self.away()
        await self.refusing()

    async def away(self) -> None:
        """
        Stopped, killed, and restarted again and again.
        """
        start = in_thread(self.server.start)
        await self.fault("stopped", in_thread(self.server.stop), start)
        await self.fault("killed", in_thread(self.server.kill), start)
        await self.fault("restarted 3 times", self.restarts, away=False)

    async def end(self) -> None:
        """
        SIGTERM ends the daemon, whatever the database does.
        """
        asked = reactor.seconds()
        self.assertEqual(await self.daemon.signal(signal.SIGTERM), -signal.SIGTERM)
        self.assertLess(reactor.seconds() - asked, END)

    async def restarts(self) -> None:
        for _ in range(3):
            await deferToThread(self.server.restart)
            await deferLater(reactor, 0.3)

    async def ends_and_starts(self) -> None:
        """
        The end while there is no database, and a start.
        """
        await deferToThread(self.server.stop)
        await self.end()
        await self.assertDoesNotBegin(self.name)
        await deferToThread(self.server.start)

    async def refusing(self) -> None:
        """
        It may only be read, has no room for more connections, ends sessions, keeps a lock.
        """
        await self.refusing_all()
        await self.fault("sessions ended", self.end_sessions, away=False)
        await self.fault("row locked", in_thread(self.lock), in_thread(self.unlock), 6, away=False)

    async def refusing_all(self) -> None:
        # If it fails in between.
        self.addCleanup(self.server.execute, *self.writable, self.sessions_writable, self.roomy)
        read_only, writable = self.statements(*self.read_only), self.statements(*self.writable)
        await self.fault("read-only", read_only, writable)
        await self.fault("demoted", self.demote, self.statements(self.sessions_writable))
        await self.fault("too many connections", in_thread(self.crowd), in_thread(self.leave))

    def statements(self, *statements: str) -> Any:
        """
        @return: executes them as an administrator.
        """
        return in_thread(lambda: self.server.execute(*statements))

    async def demote(self) -> None:
        """
        What was a primary can only be read, and connections to it stay that way.
        """
        await deferToThread(self.server.execute, self.sessions_read_only)
        await deferToThread(self.server.disconnect_clients, self.name)

    def crowd(self) -> None:
        """
        Let nobody connect any more.
        """
        raise NotImplementedError

    def leave(self) -> None:
        """
        Let them again.
        """
        raise NotImplementedError

    async def end_sessions(self) -> None:
        random = Random(3)
        for _ in range(ENDED):
            await deferToThread(self.end_one, random)
            await deferLater(reactor, random.uniform(0, 0.3))

    def end_one(self, random: Random) -> None:
        with contextlib.closing(self.server.administer()) as connection:
            cursor = connection.cursor()
            cursor.execute(self.sessions.format(self.name))
            if found := cursor.fetchall():
                cursor.execute(self.end_session.format(*random.choice(found)))

    def lock(self) -> None:
        self.locking = self.connection()
        cursor = self.locking.cursor()
        cursor.execute("BEGIN")
        cursor.execute("SELECT id FROM enrollments WHERE id = 'D0' FOR UPDATE")

    def unlock(self) -> None:
        self.locking.close()


class NetworkTests(ServerTests):
    """
    What holds for every server behind a network that fails.
    """

    async def test_network(self) -> None:
        """
        Connections are cut, also in the middle of a commit, are slow, and say nothing.
        """
        self.proxy = Proxy(stoppable(self.engine).port)
        self.proxy.listen()
        self.addCleanup(self.proxy.refuse)
        await self.during(self.network())
        await self.freeze()
        await self.end()

    async def network(self) -> None:
        await self.fault("cut one by one", self.cut_connections, away=False)
        await self.fault("cut at commits", self.cut_commits, away=False)
        await self.fault(
            "500 ms more", self.slow_down, self.speed_up, 8, away=False, bound=SLOW, recovery=SLOW
        )
        bounds = {"bound": self.answer_timeout + SILENCE, "recovery": self.answer_timeout + SILENCE}
        await self.fault("silent", self.freeze, self.thaw, **bounds)

    async def cut_connections(self) -> None:
        random = Random(3)
        for _ in range(ENDED):
            self.proxy.cut_one(random)
            await deferLater(reactor, random.uniform(0, 0.3))

    async def cut_commits(self) -> None:
        for number in range(ENDED):
            self.proxy.cut = Cut(self.commit, forward=number % 2 == 0)
            while self.proxy.cut is not None:
                await deferLater(reactor, AGAIN)

    async def slow_down(self) -> None:
        self.proxy.delay = 0.25

    async def speed_up(self) -> None:
        self.proxy.delay = 0

    async def freeze(self) -> None:
        """
        As when a cable is pulled: connections are there, and nothing comes on them.
        """
        self.proxy.silent = True
        self.proxy.freeze()

    async def thaw(self) -> None:
        self.proxy.silent = False


class MySQLProtocolTests(ServerTests):
    """
    What MariaDB and MySQL have in common.
    """

    kind = "mysql"
    read_only = ("SET GLOBAL read_only = 1",)
    writable = ("SET GLOBAL read_only = 0",)
    sessions = "SELECT id FROM information_schema.processlist WHERE db = '{}'"
    end_session = "KILL {}"
    open_parameters = "?tls=false&readTimeout=3s"
    answer_timeout = 3.0
    commit = b"\x03COMMIT"
    roomy = "SET GLOBAL max_connections = 200"

    def crowd(self) -> None:
        """
        See L{ServerTests.crowd}.
        """
        self.server.execute("SET GLOBAL max_connections = 10")
        self.others = [self.server.administer()]
        cursor = self.others[0].cursor()
        while cursor.execute(self.sessions.format(self.name)) or len(self.others) < 10:
            for (session,) in cursor.fetchall():
                with contextlib.suppress(pymysql.err.OperationalError):
                    cursor.execute(self.end_session.format(session))
            with contextlib.suppress(pymysql.err.OperationalError):
                self.others.append(self.server.python_connection("mysql"))

    def leave(self) -> None:
        """
        See L{ServerTests.leave}.
        """
        for other in self.others:
            other.close()
        self.server.execute(self.roomy)


class MariaDBTests(MySQLProtocolTests, NetworkTests):
    """
    MariaDB.
    """

    title, engine = "MariaDB", "mariadb"
    skip = unavailable("mariadb")
    sessions_read_only = "SET GLOBAL tx_read_only = 1"
    sessions_writable = "SET GLOBAL tx_read_only = 0"


class MySQLTests(MySQLProtocolTests):
    """
    MySQL, with which most is as with MariaDB.
    """

    title, engine = "MySQL", "mysql"
    skip = unavailable("mysql")
    sessions_read_only = "SET GLOBAL transaction_read_only = 1"
    sessions_writable = "SET GLOBAL transaction_read_only = 0"

    async def troubles(self) -> None:
        """
        What depends on the server's words.
        """
        await self.refusing_all()

    async def ends_and_starts(self) -> None:
        """
        This does not.
        """


class PostgreSQLTests(NetworkTests):
    """
    PostgreSQL.
    """

    title, engine, kind = "PostgreSQL", "postgresql", "pgsql"
    skip = unavailable("postgresql")
    read_only = (
        "ALTER SYSTEM SET default_transaction_read_only = on",
        "SELECT pg_reload_conf()",
    )
    writable = ("ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")
    sessions_read_only = "ALTER ROLE owner SET default_transaction_read_only = on"
    sessions_writable = "ALTER ROLE owner RESET default_transaction_read_only"
    sessions = "SELECT pid FROM pg_stat_activity WHERE datname = '{}'"
    end_session = "SELECT pg_terminate_backend({})"
    open_parameters = "?sslmode=disable&options=-c%20statement_timeout%3D3s"
    commit = b"COMMIT"
    roomy = "ALTER ROLE owner CONNECTION LIMIT -1"
    answer_timeout = 8.0

    def crowd(self) -> None:
        """
        See L{ServerTests.crowd}.
        """
        self.server.execute("ALTER ROLE owner CONNECTION LIMIT 0")
        self.server.disconnect_clients(self.name)

    def leave(self) -> None:
        """
        See L{ServerTests.leave}.
        """
        self.server.execute(self.roomy)


del NetworkTests, ServerTests, MySQLProtocolTests
