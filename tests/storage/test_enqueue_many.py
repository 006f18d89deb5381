"""
One command for very many enrollments.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, ClassVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, deferLater
from twisted.trial.unittest import TestCase

from nanomdm.mdm.command import parse_command
from nanomdm.storage.factory import open_storage
from nanomdm.storage.settings import StorageSettings
from nanomdm.storage.sql import SQLStorage
from nanomdm.storage.transaction import Transaction
from tests import samples
from tests.servers import unavailable
from tests.storage.tables import query
from tests.storage.test_engines import EngineCase

COUNT = 100_000

_DIGIT = "(SELECT 0 AS d UNION ALL " + " UNION ALL ".join(f"SELECT {n}" for n in range(1, 10)) + ")"
_NUMBERS = " CROSS JOIN ".join(f"{_DIGIT} AS {name}" for name in "abcde")
#: D00000 to D99999.
_FILL = (
    f"""
    INSERT INTO devices (id, authenticate, authenticate_at)
    SELECT concat('D', a.d, b.d, c.d, d.d, e.d), 'raw', CURRENT_TIMESTAMP FROM {_NUMBERS}
    """,
    """
    INSERT INTO enrollments (id, device_id, type, topic, push_magic, token_hex, last_seen_at)
    SELECT id, id, 'Device', 'topic', 'magic', 'abcd', CURRENT_TIMESTAMP FROM devices
    """,
    "UPDATE enrollments SET enabled = FALSE WHERE id IN ('D07777', 'D17777')",
)


class EnqueueTests:
    """
    What holds on every engine.
    """

    name: ClassVar[str]
    timeout = 120

    def open(self) -> SQLStorage:
        raise NotImplementedError

    def concat(self, statement: str) -> str:
        return statement

    async def watch(self, storage: SQLStorage, running: Deferred[Any]) -> set[int]:
        """
        @return: how many rows of the queue others saw until C{running} fired.
        """

        def look(transaction: Transaction, batch: object) -> list[int]:
            return [transaction.row("SELECT count(*) FROM enrollment_queue")[0]]

        seen = set()
        while not running.called:
            seen.add(await storage._database.read(look, None))
            await deferLater(reactor, 0.1)
        return seen

    async def test_many(self) -> None:
        """
        All good ids get it, each bad one is told, in one transaction, while the
        reactor goes on.
        """
        storage = self.open()
        storage.start()
        self.addCleanup(storage.stop)
        for statement in _FILL:
            await query(storage, self.concat(statement))
        ids = [f"D{number:05}" for number in range(COUNT)]
        unknown = [f"X{number}" for number in range(100)]
        disabled = dict.fromkeys(("D07777", "D17777"), "enrollment is disabled")
        pauses = Pauses()
        begun = time.monotonic()
        enqueueing = storage.enqueue(parse_command(samples.command("C1")), ids + unknown)
        enqueueing.addBoth(lambda result: (result, time.monotonic() - begun, pauses.stop()))
        seen = await self.watch(storage, enqueueing)
        refused, taken, pause = await enqueueing
        print(f"{self.name}: {COUNT} ids in {taken:.2f} s, reactor paused {pause:.0f} ms")
        self.assertEqual(refused, {**disabled, **dict.fromkeys(unknown, "unknown enrollment id")})
        queued = COUNT - len(disabled)
        self.assertEqual(seen - {queued}, {0})
        rows = await query(
            storage, "SELECT count(*), count(DISTINCT nanomdm_seq) FROM enrollment_queue"
        )
        self.assertEqual(rows, [(queued, 1)])
        self.assertEqual(samples.uuid_of(await storage.next_command("D99999")), "C1")
        self.assertIsNone(await storage.next_command("D07777"))


class Pauses:
    """
    Watches how long the reactor does not come round.
    """

    def __init__(self) -> None:
        self._longest = 0.0
        self._last = time.monotonic()
        self._ticks = LoopingCall(self._tick)
        self._ticks.start(0.002)

    def _tick(self) -> None:
        now = time.monotonic()
        self._longest = max(self._longest, now - self._last)
        self._last = now

    def stop(self) -> float:
        """
        @return: the longest time, in milliseconds.
        """
        self._ticks.stop()
        return self._longest * 1000


class SQLiteTests(EnqueueTests, TestCase):
    """
    A database file.
    """

    name = "sqlite"

    def open(self) -> SQLStorage:
        return open_storage([StorageSettings(dsn=Path(self.mktemp()))], reactor)

    def concat(self, statement: str) -> str:
        return statement.replace(
            "concat('D', a.d, b.d, c.d, d.d, e.d)", "'D' || a.d || b.d || c.d || d.d || e.d"
        )


class ServerTests(EnqueueTests, EngineCase):
    """
    A server.
    """

    @property
    def name(self) -> str:
        return self.engine

    def open(self) -> SQLStorage:
        return open_storage([self.settings(self.database())], reactor)


class MariaDBTests(ServerTests):
    """
    MariaDB.
    """

    engine, kind = "mariadb", "mysql"
    skip = unavailable("mariadb")


class MySQLTests(ServerTests):
    """
    MySQL.
    """

    engine, kind = "mysql", "mysql"
    skip = unavailable("mysql")


class PostgreSQLTests(ServerTests):
    """
    PostgreSQL.
    """

    engine, kind = "postgresql", "pgsql"
    skip = unavailable("postgresql")


del ServerTests
