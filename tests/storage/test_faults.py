"""
Storage on real servers that deadlock, vanish, come back or say nothing.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList, ensureDeferred, gatherResults
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from nanomdm.errors import StorageError, StorageUnavailable
from nanomdm.mdm.checkin import parse_checkin
from nanomdm.mdm.command import installs_mdm_profile
from nanomdm.storage import mysql, pgsql
from nanomdm.storage.database import Database
from nanomdm.storage.engine import Engine, PoolLimits
from nanomdm.storage.enrollments import token_update
from nanomdm.storage.factory import engine_of, open_prepared, open_storage
from nanomdm.storage.settings import StorageOptions, StorageSettings
from nanomdm.storage.sql import SQLStorage
from nanomdm.storage.sqlite import SQLiteEngine
from nanomdm.storage.transaction import Transaction
from tests import samples
from tests.http.case import RESULT, ServerCase
from tests.servers import shared, stoppable, unavailable
from tests.storage.tables import query
from tests.storage.test_engines import EngineCase
from tests.tcpproxy import Cut, Proxy

_WAIT = 30
_TOUCH = "UPDATE devices SET serial_number = ? WHERE id = ?"
_TOKEN_UPDATE = parse_checkin(samples.token_update("D1"))


class Operation:
    """
    An operation that stores a token update, and does something before that the first time.

    @ivar runs: how often it ran.
    """

    def __init__(self, first: Callable[[Transaction], object]) -> None:
        self._first = first
        self.runs = 0

    def __call__(self, transaction: Transaction, arguments: Sequence[Any]) -> list[Any]:
        self.runs += 1
        if self.runs == 1:
            self._first(transaction)
        return list(token_update(transaction, [_TOKEN_UPDATE] * len(arguments)))


class StorageCase(TestCase):
    """
    Helpers for any storage with a device D1, whose tally of token updates is 1.
    """

    storage: SQLStorage

    async def enroll(self, *udids: str) -> None:
        for udid in udids:
            message = parse_checkin(samples.authenticate(udid))
            await self.storage.store_authenticate(message, "", installs_mdm_profile)
            await self.storage.store_token_update(parse_checkin(samples.token_update(udid)))

    def opened(self, storage: SQLStorage | None = None) -> Database:
        return (storage or self.storage)._database

    def forget_failures(self, storage: SQLStorage | None = None) -> None:
        """
        Let the moments pass for which a database is not tried again.
        """
        for pool in self.opened(storage)._pools:
            pool._failure = None
            pool._renewed -= _WAIT

    def write(self, operation: Any, storage: SQLStorage | None = None) -> Deferred[Any]:
        return self.opened(storage).write(operation, None)

    async def tally(self) -> int:
        statement = "SELECT token_update_tally FROM enrollments WHERE id = 'D1'"
        [(tally,)] = await query(self.storage, statement)
        return tally

    async def assertUnavailable(self, call: Deferred[Any]) -> None:
        await self.assertFailure(call, StorageUnavailable)

    async def assertPoisonedFailsAlone(self) -> None:
        """
        A member of a batch breaks the transaction, in the database or before.
        """

        def poison(transaction: Transaction, arguments: object) -> None:
            transaction.execute("UPDATE enrollments SET topic = 'poisoned'")
            transaction.execute(
                "INSERT INTO enrollment_queue (id, command_uuid) VALUES (?, ?)", "xy"
            )

        def bug(transaction: Transaction, arguments: object) -> None:
            transaction.execute("UPDATE enrollments SET topic = 'poisoned'")
            raise ZeroDivisionError

        update = Operation(lambda transaction: None)
        calls = [self.write(op) for op in (update, poison, update, bug, update)]
        results = await DeferredList(calls, consumeErrors=True)
        self.assertEqual([result for success, result in results if success], [2, 3, 4])
        for number in (1, 3):
            self.assertIs(results[number][1].type, StorageError)
        topics = await query(self.storage, "SELECT DISTINCT topic FROM enrollments")
        self.assertEqual((topics, await self.tally()), ([(samples.TOPIC,)], 4))


class SQLiteTests(StorageCase):
    """
    A file.
    """

    async def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute()
        self.storage = open_storage([StorageSettings(kind="sqlite", dsn=self.path)], reactor)
        self.addCleanup(self.storage.stop)
        await self.enroll("D1")

    def other(self) -> sqlite3.Connection:
        """
        @return: a connection of somebody else.
        """
        other = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(other.close)
        return other

    async def test_busy(self) -> None:
        await query(self.storage, "PRAGMA busy_timeout = 1")
        other = self.other()
        other.execute("BEGIN IMMEDIATE")
        back_off, waited = Database._back_off, []

        async def release(self: Database, attempt: int, error: Exception) -> None:
            waited.append(str(error))
            if attempt == 3:
                other.execute("ROLLBACK")
            await back_off(self, attempt, error)

        self.patch(Database, "_back_off", release)
        self.assertEqual(await self.storage.store_token_update(_TOKEN_UPDATE), 2)
        self.assertEqual(waited, ["database is locked"] * 3)

    async def test_full(self) -> None:
        """
        And there is room again.
        """
        await query(self.storage, "PRAGMA max_page_count = 1")
        big = parse_checkin(samples.token_update("D1", Big="x" * 100_000))
        await self.assertUnavailable(self.storage.store_token_update(big))
        await self.assertUnavailable(self.storage.ping())
        await query(self.storage, "PRAGMA max_page_count = 1000000")
        self.assertEqual(await self.storage.store_token_update(big), 2)
        await self.storage.ping()

    async def test_readOnly(self) -> None:
        """
        As a file is that can not be opened for writing; later it can.
        """
        connect, refused = SQLiteEngine.connect, True

        def for_reading(engine: SQLiteEngine, autocommit: bool = False) -> sqlite3.Connection:
            return connect(engine, autocommit or refused)

        self.patch(SQLiteEngine, "connect", for_reading)
        for pool in self.opened()._pools:
            pool.renew()
        await self.assertUnavailable(self.storage.store_token_update(_TOKEN_UPDATE))
        self.assertIsNone(await self.storage.next_command("D1"))
        refused = False
        self.forget_failures()
        self.assertEqual(await self.storage.store_token_update(_TOKEN_UPDATE), 2)

    async def test_poisonedMember(self) -> None:
        await self.assertPoisonedFailsAlone()

    async def test_interrupted(self) -> None:
        """
        A statement that does not end does not keep the daemon from ending.
        """
        endless = (
            "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n"
        )
        started: Deferred[None] = Deferred()

        def forever(transaction: Transaction, arguments: object) -> None:
            reactor.callFromThread(started.callback, None)
            transaction.rows(endless)

        call = self.write(forever)
        await started
        await self.opened().close(deadline=0.1)
        self.failureResultOf(call, StorageUnavailable)


class ServerFaults(EngineCase, StorageCase):
    """
    What every server's storage withstands.
    """

    async def setUp(self) -> None:
        self.server = shared(self.engine)
        self.storage = open_storage([self.settings()], reactor)
        self.addCleanup(self.storage.stop)
        self.empty()
        await self.enroll("D1")

    def other(self) -> Any:
        """
        @return: a connection of somebody else, in a transaction.
        """
        connection = self.server.python_connection("contract")
        self.addCleanup(connection.close)
        cursor = connection.cursor()
        self.addCleanup(cursor.execute, "ROLLBACK")
        cursor.execute("BEGIN")
        return cursor

    async def behind_proxy(self) -> SQLStorage:
        """
        @return: one more storage, which comes through L{proxy}.
        """
        self.proxy = Proxy(self.server.port)
        self.proxy.listen()
        self.addCleanup(self.proxy.refuse)
        storage = open_prepared(self.proxied(), reactor)
        self.addCleanup(storage.stop)
        return storage

    def proxied(self) -> StorageSettings:
        dsn = self.server.dsn("contract").replace(f":{self.server.port}/", f":{self.proxy.port}/")
        # One connection for each pool, so that a test knows which one is used.
        return self.settings(dsn + self.open_parameters, pool_size=1)

    async def warm(self, storage: SQLStorage) -> None:
        """
        Have the gathered calls' connections.
        """
        await storage.next_command("D1")
        await query(storage, "SELECT 1")

    def kill_all(self) -> None:
        """
        End all sessions, as an administrator does.
        """
        self.server.disconnect_clients("contract")

    async def fill_pool(self, storage: SQLStorage) -> None:
        """
        Have as many connections as there can be.
        """
        barrier = threading.Barrier(5)

        def meet(transaction: Transaction, arguments: object) -> list[None]:
            barrier.wait(_WAIT)
            transaction.row("SELECT 1")
            return [None]

        opened = self.opened(storage)
        calls = [opened.write_alone(meet, None) for _ in range(4)]
        await gatherResults([*calls, opened.write(meet, None)])
        await storage.next_command("D1")

    # deadlocks

    async def test_deadlock(self) -> None:
        """
        A real one, of which the storage is the victim.
        """
        others = ["D2", *(f"E{number}" for number in range(9))]
        await self.enroll(*others)
        other, locked, released = self.other(), threading.Event(), threading.Event()
        self.prefer(other)

        def lock(transaction: Transaction) -> None:
            transaction.execute(_TOUCH, ("ours", "D1"))
            locked.set()
            assert released.wait(_WAIT)
            transaction.execute(_TOUCH, ("ours", "D2"))

        def cross() -> None:
            # The server lets those win who have changed most.
            for udid in others:
                other.execute(f"UPDATE devices SET serial_number = 'theirs' WHERE id = '{udid}'")
            assert locked.wait(_WAIT)
            released.set()
            other.execute("UPDATE devices SET serial_number = 'theirs' WHERE id = 'D1'")
            other.execute("COMMIT")

        operation = Operation(lock)
        tally, _ = await gatherResults([self.write(operation), deferToThread(cross)])
        self.assertEqual((tally, operation.runs), (2, 2))
        serials = await query(self.storage, "SELECT DISTINCT serial_number FROM devices")
        self.assertEqual(serials, [("theirs",)])

    def prefer(self, other: Any) -> None:
        """
        Make somebody else win deadlocks, where this can be set.
        """

    async def test_lockTimeout(self) -> None:
        other = self.other()
        other.execute("UPDATE devices SET serial_number = 'theirs' WHERE id = 'D1'")

        def wait(transaction: Transaction) -> None:
            transaction.execute(self.short_lock_wait)
            try:
                transaction.execute(_TOUCH, ("ours", "D1"))
            finally:
                other.execute("ROLLBACK")

        operation = Operation(wait)
        self.assertEqual(await self.write(operation), 2)
        self.assertEqual(operation.runs, 2)

    # lost connections

    async def test_killedBetweenCalls(self) -> None:
        """
        No request is lost, whichever of the dead connections it finds.
        """
        await self.fill_pool(self.storage)
        self.kill_all()
        for number in range(8):
            self.assertEqual(await self.storage.store_token_update(_TOKEN_UPDATE), 2 + number)
            self.assertIsNone(await self.storage.next_command("D1"))

    async def test_killedInTransaction(self) -> None:
        def die(transaction: Transaction) -> None:
            token_update(transaction, [_TOKEN_UPDATE])
            self.kill_all()
            transaction.row("SELECT 1")

        operation = Operation(die)
        self.assertEqual(await self.write(operation), 2)
        self.assertEqual((operation.runs, await self.tally()), (2, 2))

    async def test_killedBeforeCommit(self) -> None:
        """
        The connection is dead when the commit is sent, so nobody can know.
        """
        operation = Operation(lambda transaction: None)

        def die(transaction: Transaction, arguments: Sequence[Any]) -> list[Any]:
            results = operation(transaction, arguments)
            self.kill_all()
            return results

        await self.assertUnavailable(self.write(die))
        self.assertEqual((operation.runs, await self.tally()), (1, 1))

    async def test_cutAtCommit(self) -> None:
        """
        On its way there or back: neither way is it executed twice.
        """
        storage = await self.behind_proxy()
        await self.warm(storage)
        for forward, tally in ((False, 1), (True, 2)):
            operation = Operation(lambda transaction: None)
            self.proxy.cut = Cut(self.commit, forward)
            await self.assertUnavailable(self.write(operation, storage))
            self.assertIsNone(self.proxy.cut)
            self.assertEqual((operation.runs, await self.tally()), (1, tally))
            await self.warm(storage)

    async def test_replaced(self) -> None:
        """
        Connections that idled or lived too long are replaced, others stay.
        """
        for limits, stays in (
            (PoolLimits(), True),
            (PoolLimits(ping_after=0), True),
            (PoolLimits(max_idle_time=0), False),
            (PoolLimits(max_lifetime=0), False),
        ):
            opened = Database(reactor, self.make_engine(), limits)
            ids = [await opened.write(self.connection_id, None) for _ in range(3)]
            await opened.close()
            self.assertEqual(len(set(ids)), 1 if stays else 3, limits)

    def connection_id(self, transaction: Transaction, arguments: object) -> list[int]:
        return [transaction.row(f"SELECT {self.own_id}")[0]]

    def make_engine(self, dsn: str | None = None) -> Engine:
        settings = self.settings(dsn)
        return engine_of(settings, settings.dsn)

    async def test_silentWhileIdle(self) -> None:
        """
        A connection whose other side vanished without a word costs no request.
        """
        self.patch(self.module, "_PING_TIMEOUT", 0.2)
        self.patch(self.module, "_ANSWER_TIMEOUT", 600)
        storage = await self.behind_proxy()
        for pool in self.opened(storage)._pools:
            pool._limits = PoolLimits(ping_after=0)
        await self.warm(storage)
        self.proxy.freeze()
        self.assertEqual(await storage.store_token_update(_TOKEN_UPDATE), 2)
        self.assertIsNone(await storage.next_command("D1"))

    # down and back

    async def test_refused(self) -> None:
        """
        Down, then back again.
        """
        storage = await self.behind_proxy()
        await self.warm(storage)
        await self.proxy.refuse()
        calls = [storage.store_token_update(_TOKEN_UPDATE) for _ in range(300)]
        calls += [storage.next_command("D1") for _ in range(300)]
        for call in calls:
            await self.assertUnavailable(call)
        self.assertEqual(await self.tally(), 1)
        self.proxy.listen()
        self.forget_failures(storage)
        self.assertEqual(await storage.store_token_update(_TOKEN_UPDATE), 2)
        self.assertIsNone(await storage.next_command("D1"))

    async def test_demoted(self) -> None:
        """
        Sessions that may not write, for all their life, are given up once others may.
        """
        await self.fill_pool(self.storage)
        self.server.execute(self.sessions_read_only)
        self.addCleanup(self.server.execute, self.sessions_writable)
        self.kill_all()
        await self.assertUnavailable(self.storage.store_token_update(_TOKEN_UPDATE))
        self.assertIsNone(await self.storage.next_command("D1"))
        self.server.execute(self.sessions_writable)
        self.forget_failures()
        for number in range(8):
            self.assertEqual(await self.storage.store_token_update(_TOKEN_UPDATE), 2 + number)

    async def test_silentServer(self) -> None:
        """
        It accepts and never answers: all who wait fail after one timeout.
        """
        self.patch(self.module, "_CONNECT_TIMEOUT", 1)
        self.patch(self.module, "_ANSWER_TIMEOUT", 600)
        storage = await self.behind_proxy()
        self.proxy.silent = True
        calls = [storage.store_token_update(_TOKEN_UPDATE) for _ in range(1000)]
        for call in calls:
            await self.assertUnavailable(call)
        self.assertEqual(self.proxy.accepted, 1)
        self.proxy.silent = False
        self.forget_failures(storage)
        self.assertEqual(await storage.store_token_update(_TOKEN_UPDATE), 2)

    async def test_silentInTransaction(self) -> None:
        """
        Who got no answer in time does not ask again.
        """
        self.patch(self.module, "_ANSWER_TIMEOUT", 0.3)
        storage = await self.behind_proxy()
        await self.warm(storage)

        def silence(transaction: Transaction) -> None:
            token_update(transaction, [_TOKEN_UPDATE])
            self.proxy.freeze()

        operation = Operation(silence)
        await self.assertUnavailable(self.write(operation, storage))
        self.assertEqual((operation.runs, await self.tally()), (1, 1))
        self.assertEqual(await storage.store_token_update(_TOKEN_UPDATE), 2)

    async def test_wrongLogin(self) -> None:
        """
        Neither a wrong password nor a missing database is a bug, and no text tells secrets.
        """
        good = self.server.password_dsn("contract")
        secret = good.partition("@127")[0].rpartition(":")[2]
        for dsn in (
            good.replace(secret, "hunter2"),
            self.server.dsn("missing"),
            self.server.dsn("contract").replace(f":{self.server.port}/", ":1/"),
        ):
            opened = Database(reactor, self.make_engine(dsn), PoolLimits())
            call = opened.write(self.connection_id, None)
            error = await self.assertFailure(call, StorageUnavailable)
            self.assertNotIn("hunter2", str(error))
            await opened.close()

    async def test_restart(self) -> None:
        """
        The server is restarted between two calls, crashes, and is away for a while.
        """
        server = stoppable(self.engine)
        dsn = server.create_database(f"restart_{self.engine}")
        self.addCleanup(server.drop_database, f"restart_{self.engine}")
        self.storage = open_storage([self.settings(dsn)], reactor)
        self.addCleanup(self.storage.stop)
        await self.enroll("D1")
        await self.fill_pool(self.storage)
        server.restart()
        for number in range(5):
            self.assertEqual(await self.storage.store_token_update(_TOKEN_UPDATE), 2 + number)
            self.assertIsNone(await self.storage.next_command("D1"))
        server.kill()
        try:
            await self.assertUnavailable(self.storage.store_token_update(_TOKEN_UPDATE))
            await self.assertUnavailable(self.storage.next_command("D1"))
        finally:
            server.start()
        self.forget_failures(self.storage)
        self.assertEqual(await self.storage.store_token_update(_TOKEN_UPDATE), 7)
        self.assertIsNone(await self.storage.next_command("D1"))

    # batches and the end

    async def test_poisonedMember(self) -> None:
        await self.assertPoisonedFailsAlone()

    async def test_interrupted(self) -> None:
        """
        A statement that does not end does not keep the daemon from ending, and nothing is
        left behind.
        """
        threads, files = set(threading.enumerate()), self.sockets()
        opened = Database(reactor, self.make_engine(), PoolLimits(3))
        started: Deferred[None] = Deferred()

        def forever(transaction: Transaction, arguments: object) -> None:
            reactor.callFromThread(started.callback, None)
            transaction.rows(self.endless)

        await opened.read(self.connection_id, None)
        calls = [opened.write(forever, None), opened.write(self.connection_id, None)]
        await started
        await opened.close(deadline=0.1)
        for call in calls:
            self.failureResultOf(call, StorageUnavailable)
        self.assertEqual(set(threading.enumerate()) - threads, set())
        self.assertEqual(self.sockets(), files)

    def sockets(self) -> int:
        """
        @return: how many sockets this process has.
        """
        names = [os.path.realpath(entry) for entry in Path("/proc/self/fd").iterdir()]
        return sum("socket:" in name for name in names)


class MySQLFaults(ServerFaults):
    """
    What MariaDB and MySQL share.
    """

    kind = "mysql"
    module = mysql
    # The proxy reads what is said.
    open_parameters = "?tls=false"
    # And not any statement that has the word.
    commit = b"\x03COMMIT"
    own_id = "CONNECTION_ID()"
    endless = "SELECT SLEEP(1000)"
    short_lock_wait = "SET SESSION innodb_lock_wait_timeout = 1"


class MariaDBTests(MySQLFaults):
    """
    MariaDB.
    """

    engine = "mariadb"
    skip = unavailable("mariadb")
    sessions_read_only = "SET GLOBAL tx_read_only = 1"
    sessions_writable = "SET GLOBAL tx_read_only = 0"


class MySQLTests(MySQLFaults):
    """
    MySQL.
    """

    engine = "mysql"
    skip = unavailable("mysql")
    sessions_read_only = "SET GLOBAL transaction_read_only = 1"
    sessions_writable = "SET GLOBAL transaction_read_only = 0"


class PostgreSQLTests(ServerFaults):
    """
    PostgreSQL.
    """

    engine, kind = "postgresql", "pgsql"
    module = pgsql
    open_parameters = "?sslmode=disable"
    commit = b"COMMIT"
    own_id = "pg_backend_pid()"
    endless = "SELECT pg_sleep(1000)"
    short_lock_wait = "SET LOCAL lock_timeout = 20"
    sessions_read_only = "ALTER DATABASE contract SET default_transaction_read_only = on"
    sessions_writable = "ALTER DATABASE contract RESET default_transaction_read_only"
    skip = unavailable("postgresql")

    def prefer(self, other: Any) -> None:
        """
        Who finds a deadlock ends itself.
        """
        other.execute("SET LOCAL deadlock_timeout = '30s'")

    async def test_serializationFailure(self) -> None:
        other = self.other()

        def conflict(transaction: Transaction) -> None:
            transaction.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
            transaction.row("SELECT serial_number FROM devices WHERE id = 'D1'")
            other.execute("UPDATE devices SET serial_number = 'theirs' WHERE id = 'D1'")
            other.execute("COMMIT")

        operation = Operation(conflict)
        self.assertEqual(await self.write(operation), 2)
        self.assertEqual(operation.runs, 2)

    async def test_statementTimeout(self) -> None:
        def slow(transaction: Transaction) -> None:
            transaction.execute("SET LOCAL statement_timeout = 10")
            transaction.rows(self.endless)

        operation = Operation(slow)
        await self.assertUnavailable(self.write(operation))
        self.assertEqual(operation.runs, 1)

    async def test_readOnly(self) -> None:
        operation = Operation(lambda transaction: transaction.execute("SET TRANSACTION READ ONLY"))
        self.assertEqual(await self.write(operation), 2)
        self.assertEqual(operation.runs, 2)


class DaemonTests(ServerCase):
    """
    What devices see of it.
    """

    skip = unavailable("postgresql")

    def serve_postgres(self) -> None:
        """
        Start a server on a database server that may be stopped.
        """
        self.server = stoppable("postgresql")
        dsn = self.server.create_database("daemon")
        self.addCleanup(self.server.drop_database, "daemon")
        options = StorageOptions(pool_size=2)
        self.serve(storages=(StorageSettings(kind="pgsql", dsn=dsn, options=options),))

    async def test_downAndBack(self) -> None:
        self.serve_postgres()
        await self.enroll()
        self.assertOK(await self.report("Idle"))
        self.server.stop()
        try:
            answers = await gatherResults([ensureDeferred(self.report("Idle")) for _ in range(5)])
            self.assertEqual([answer.code for answer in answers], [500] * 5)
            self.assertEqual((await self.report("Acknowledged", "C1")).code, 500)
        finally:
            self.server.start()
        for pool in self.storage._database._pools:
            pool._failure = None
        self.assertOK(await self.report("Idle"))
        self.assertEqual((await self.enqueue("D1")).code, 200)

    async def test_full(self) -> None:
        """
        Who does not find room in the queue is told to come again.
        """
        self.serve_postgres()
        await self.enroll()
        reads = self.storage._database._batchers[1]
        self.patch(reads, "_max_waiting", 0)
        answer = await self.send(samples.report("Idle"), RESULT)
        self.assertEqual((answer.code, answer.header("Retry-After")), (503, "1"))
        self.patch(reads, "_max_waiting", 1)
        self.assertOK(await self.report("Idle"))


del MySQLFaults, ServerFaults
