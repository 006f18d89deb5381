"""
The throwaway database servers that other tests run against.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pymysql
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests import servers
from tests.servers import ENGINES, Server, ServerError, base, galera, shared, unavailable

_ROOT = Path(__file__).parent.parent
_START = """
import sys, time
from tests.servers import ENGINES
server = ENGINES[sys.argv[1]]()
server.start()
print(server.pid, server.directory, flush=True)
time.sleep(600)
"""


def execute(server: Server, name: str, statement: str) -> list[Any]:
    """
    @return: what a statement selects from a database, nothing if it is no query.
    """
    with (
        closing(server.python_connection(name)) as connection,
        closing(connection.cursor()) as cursor,
    ):
        cursor.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []


def exists(pid: int) -> bool:
    """
    @return: whether there is a process of this id.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Starter(ProcessProtocol):
    """
    A process that starts a server, tells of it, and waits.

    @ivar started: fires with the first line that it prints.
    @ivar ended: fires when it is gone.
    """

    def __init__(self) -> None:
        self.started: Deferred[str] = Deferred()
        self.ended: Deferred[None] = Deferred()
        self._output = b""

    def outReceived(self, data: bytes) -> None:
        self._output += data
        if self._output.endswith(b"\n") and not self.started.called:
            self.started.callback(self._output.decode())

    def processEnded(self, reason: Failure) -> None:
        if not self.started.called:
            self.started.errback(reason)
        reason.trap(ProcessTerminated)
        self.ended.callback(None)


class EngineTests:
    """
    The tests of one engine.
    """

    engine: str

    def start(self: Any, **arguments: Any) -> Server:
        """
        @return: a running server of this test alone.
        """
        server = ENGINES[self.engine](**arguments)
        self.addCleanup(server.close)
        server.start()
        return server

    def test_version(self: Any) -> None:
        """
        It is what its name says, and of a version that is supported.
        """
        version = shared(self.engine).version()
        print(f"{self.engine} {version}")
        found = version.removeprefix("PostgreSQL ").split()[0]
        numbers = tuple(int(part) for part in found.split("-")[0].split("."))
        self.assertEqual(self.engine == "mariadb", "MariaDB" in version)
        self.assertGreaterEqual(numbers, self.oldest)

    def test_shared(self: Any) -> None:
        """
        One server serves all tests of the process.
        """
        self.assertIs(shared(self.engine), shared(self.engine))

    def test_database(self: Any) -> None:
        """
        A database is made empty, and is gone when it was dropped, although somebody
        was still connected.
        """
        server = shared(self.engine)
        self.assertEqual(server.create_database("servers_one"), server.dsn("servers_one"))
        with closing(server.python_connection("servers_one")) as connection:
            connection.cursor().execute("CREATE TABLE t (a INT)")
            self.assertEqual(execute(server, "servers_one", "SELECT a FROM t"), [])
            server.drop_database("servers_one")
        with self.assertRaises(self.operational_error):
            server.python_connection("servers_one")
        server.drop_database("servers_one")

    def test_bad_name(self: Any) -> None:
        """
        No text can get into a statement as the name of a database.
        """
        self.assertRaises(ValueError, shared(self.engine).create_database, "a; DROP")
        self.assertRaises(ValueError, shared(self.engine).drop_database, "a; DROP")

    def test_password(self: Any) -> None:
        """
        The user with a password comes in with it, and not with another.
        """
        server = shared(self.engine)
        with closing(self.log_in(server, server.password)):
            pass
        with self.assertRaises(self.operational_error):
            self.log_in(server, "wrong")

    def test_durable(self: Any) -> None:
        """
        A commit waits for the disk, as figures about speed take for granted.
        """
        rows = execute(shared(self.engine), self.some_database, self.durability)
        self.assertEqual([tuple(map(str, row)) for row in rows], self.durable)

    def test_restart(self: Any) -> None:
        """
        A server that was stopped, or killed, comes back on its port with what was
        committed.  Until then nobody can log in.
        """
        server = self.start()
        port = server.port
        server.create_database("kept")
        execute(server, "kept", "CREATE TABLE t (a INT)")
        for number, end in enumerate((server.stop, server.kill)):
            pid = server.pid
            execute(server, "kept", f"INSERT INTO t VALUES ({number})")
            end()
            self.assertFalse(exists(pid))
            with self.assertRaises(self.operational_error):
                server.python_connection("kept")
            server.start()
            self.assertEqual(server.port, port)
        server.restart()
        rows = execute(server, "kept", "SELECT a FROM t ORDER BY a")
        self.assertEqual([row[0] for row in rows], [0, 1])

    def test_disconnect_clients(self: Any) -> None:
        """
        The sessions on a database are ended, those on another stay.
        """
        server = shared(self.engine)
        names = ("servers_cut", "servers_stays")
        for name in names:
            server.create_database(name)
            self.addCleanup(server.drop_database, name)
        connections = [server.python_connection(name) for name in names]
        self.addCleanup(connections[1].close)
        server.disconnect_clients("servers_cut")
        with self.assertRaises(self.operational_error):
            connections[0].cursor().execute("SELECT 1")
        connections[0].close()
        connections[1].cursor().execute("SELECT 1")

    def test_port_taken(self: Any) -> None:
        """
        When another process takes the port in the last moment, the server goes to
        another one.
        """
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            free = base.free_port()
            ports = iter([taken.getsockname()[1], free])
            self.patch(base, "free_port", lambda: next(ports))
            server = self.start()
        self.assertEqual(server.port, free)

    def test_does_not_start(self: Any) -> None:
        """
        A server that refuses its options is an error that has the server's words.
        """
        error = self.assertRaises(ServerError, self.start, options=["--no-such-option=1"])
        self.assertRegex(str(error), "no.such.option")

    def test_close(self: Any) -> None:
        """
        A closed server leaves neither a process nor a file.
        """
        server = self.start()
        self.assertTrue(exists(server.pid))
        self.assertTrue(server.directory.exists())
        server.close()
        self.assertFalse(exists(server.pid))
        self.assertFalse(server.directory.exists())

    async def test_killed_process(self: Any) -> None:
        """
        When the process that started a server is killed, the server and its
        directory go too.
        """
        starter = Starter()
        arguments = [sys.executable, "-c", _START, self.engine]
        environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
        process = reactor.spawnProcess(starter, sys.executable, arguments, env=environment)
        word, directory = (await starter.started).split()
        pid = int(word)
        self.assertTrue(exists(pid))
        self.assertTrue(Path(directory).exists())
        process.signalProcess(signal.SIGKILL.name[3:])
        await starter.ended
        for _ in range(600):
            if not exists(pid) and not Path(directory).exists():
                return
            await deferLater(reactor, 0.05)
        self.fail(f"process {pid} or {directory} is still there")


class MySQLProtocolTests(EngineTests):
    """
    What differs for both servers of MySQL's protocol.
    """

    operational_error = pymysql.err.OperationalError
    some_database = "mysql"
    durability = "SELECT @@innodb_flush_log_at_trx_commit, @@innodb_doublewrite"

    def log_in(self, server: Server, password: str) -> Any:
        """
        @return: a connection of the user with a password.
        """
        return pymysql.connect(
            host="127.0.0.1", port=server.port, user=server.user, password=password
        )


class MariaDBTests(MySQLProtocolTests, TestCase):
    """
    MariaDB.
    """

    engine = "mariadb"
    skip = unavailable(engine)
    timeout = 120
    oldest = (10, 6)
    durable = [("1", "1")]


class MySQLTests(MySQLProtocolTests, TestCase):
    """
    MySQL.
    """

    engine = "mysql"
    skip = unavailable(engine)
    timeout = 120
    oldest = (8, 0, 19)
    durable = [("1", "ON")]


class PostgreSQLTests(EngineTests, TestCase):
    """
    PostgreSQL.
    """

    engine = "postgresql"
    skip = unavailable(engine)
    timeout = 120
    oldest = (13,)
    operational_error = psycopg.OperationalError
    some_database = "postgres"
    durability = (
        "SELECT current_setting('fsync'), current_setting('synchronous_commit'),"
        " current_setting('full_page_writes')"
    )
    durable = [("on", "on", "on")]

    def log_in(self, server: Server, password: str) -> Any:
        """
        @return: a connection of the user with a password.
        """
        return psycopg.connect(
            host="127.0.0.1",
            port=server.port,
            user=server.user,
            password=password,
            dbname="postgres",
        )

    def test_password_dsn(self) -> None:
        """
        The DSN of the user with a password is one that the driver understands.
        """
        psycopg.connect(shared(self.engine).password_dsn("postgres")).close()


class Absent(Server):
    """
    A server whose program no machine has.
    """

    engine = "absent"

    @classmethod
    def missing(cls) -> str | None:
        return "no absentd on this machine"


class Leaving(Server):
    """
    A server that starts a process in a group of its own, which starts another one and goes.
    """

    engine = "leaving"
    accounts = ()

    @classmethod
    def missing(cls) -> str | None:
        return None

    def initialize(self) -> None:
        """
        There is nothing to fill.
        """

    def command(self) -> list[str]:
        script = "setsid sh -c 'sleep 600 & echo $! > left.new; mv left.new left'; sleep 600"
        return ["sh", "-c", script]

    def administer(self) -> Any:
        return (self.directory / "left").open()


class LeavingTests(SynchronousTestCase):
    """
    Servers leave processes behind, as the ones that Galera nodes copy data with.
    """

    def test_killed(self) -> None:
        """
        They are killed with the server.
        """
        server = Leaving()
        self.addCleanup(server.close)
        server.start()
        pid = int((server.directory / "left").read_text())
        self.assertTrue(exists(pid))
        server.kill()
        self.assertFalse(exists(pid))

    def test_closed(self) -> None:
        """
        They are killed at the end.
        """
        server = Leaving()
        self.addCleanup(server.close)
        server.start()
        pid = int((server.directory / "left").read_text())
        server.close()
        self.assertFalse(exists(pid))


class ClusterTests(SynchronousTestCase):
    """
    Nodes that replicate.
    """

    skip = galera.unavailable()
    timeout = 120

    def test_close(self) -> None:
        """
        A closed cluster leaves neither a process nor a file.
        """
        cluster = galera.Cluster(2)
        self.addCleanup(cluster.close)
        cluster.start()
        self.assertEqual({node.status("wsrep_cluster_size") for node in cluster.nodes}, {"2"})
        for dsn, node in zip(cluster.create_database("servers_all"), cluster.nodes, strict=True):
            self.assertIn(str(node.port), dsn)
            self.assertEqual(execute(node, "servers_all", "SHOW TABLES"), [])
        cluster.close()
        for node in cluster.nodes:
            self.assertFalse(exists(node.pid))
            self.assertFalse(node.directory.exists())


class UnavailableTests(SynchronousTestCase):
    """
    An engine that the machine does not have.
    """

    def setUp(self) -> None:
        self.patch(servers, "ENGINES", {"absent": Absent})

    def test_skipped(self) -> None:
        """
        Its tests are skipped, with the reason.
        """
        environment = {k: v for k, v in os.environ.items() if k != "NANOMDM_REQUIRE_ENGINES"}
        self.patch(os, "environ", environment)
        self.assertEqual(unavailable("absent"), "no absentd on this machine")

    def test_required(self) -> None:
        """
        Where all engines are required its tests run, and fail with the reason.
        """
        self.patch(os, "environ", {**os.environ, "NANOMDM_REQUIRE_ENGINES": "1"})
        self.assertIsNone(unavailable("absent"))
        error = self.assertRaises(ServerError, shared, "absent")
        self.assertEqual(str(error), "no absentd on this machine")
