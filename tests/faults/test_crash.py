"""
The daemon is killed again and again while devices and operators keep it busy: what it
said that it has, it has.

C{FAULTS_KILLS} says how often, for each database; C{make faults} says 50.
"""

from __future__ import annotations

import os
import signal
import sqlite3
from contextlib import closing
from itertools import count
from random import Random
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tests.faults.ledger import lost
from tests.faults.load import Load
from tests.faults.process_case import CERTIFICATE, ProcessCase
from tests.http.case import KEY
from tests.process import DaemonProcess
from tests.servers import shared, unavailable
from tests.web import WebServer, listen

KILLS = int(os.environ.get("FAULTS_KILLS", "5"))
ENROLLMENTS = 200

_numbers = count()


class CrashTests(ProcessCase):
    """
    One daemon after the other on one database.
    """

    timeout = 120 + 20 * KILLS

    def storage(self) -> dict[str, str]:
        """
        @return: the environment variables that say where an empty database is.
        """
        raise NotImplementedError

    def connection(self) -> Any:
        """
        @return: a connection to it.
        """
        raise NotImplementedError

    def begin(self) -> DaemonProcess:
        """
        Start a daemon.
        """
        daemon = DaemonProcess(
            *("--listen", "tcp:0:interface=127.0.0.1", "--ca", str(self.directory / "ca.pem")),
            *("--cert-header", CERTIFICATE, "--webhook-url", self.webhook),
            NANOMDM_API=KEY,
            **self.environment,
        )
        self.addCleanup(self.kill, daemon)
        return daemon

    async def kill(self, daemon: DaemonProcess) -> None:
        if not daemon.ended.called:
            self.load.place.ports = []
            await daemon.signal(signal.SIGKILL)

    async def serve(self) -> DaemonProcess:
        """
        Start a daemon, and tell the devices once it serves.
        """
        daemon = self.begin()
        self.load.place.ports = [await daemon.listening]
        return daemon

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

    async def look(self) -> None:
        """
        See that everything is there.
        """
        self.assertEqual(await deferToThread(self._lost, self.load.ledger.snapshot()), [])

    def _lost(self, kept: Any) -> list[str]:
        with closing(self.connection()) as connection:
            return lost(kept, connection)

    async def test_kill(self) -> None:
        self.environment = self.storage()
        self.load = Load(ENROLLMENTS, Random(1))
        self.addCleanup(self.load.close)
        receiver = WebServer()
        receiver.body = self.note
        self.webhook = f"http://127.0.0.1:{listen(self, receiver)}/"
        first = await self.serve()
        await self.load.enroll()
        await self.kill(first)
        await self.load.during(self.kills_and_recovery())
        await self.load.finish()
        await self.look()
        await self.told()
        answers = sum(len(account.ended) for account in self.load.ledger.accounts.values())
        print(f"{KILLS} kills: {answers} answers, {self.load.place.replies}")

    async def kills_and_recovery(self) -> None:
        await self.kills()
        with closing(self.connection()) as connection:
            # The minute for which what a dead server had in hand is left to it.
            connection.cursor().execute("UPDATE nanomdm_webhook_streams SET due = due - 60")
        await self.serve()

    def note(self, event: bytes) -> bytes:
        """
        The webhook.
        """
        self.load.ledger.tell(event)
        return b""

    async def told(self) -> None:
        """
        Wait until the webhook has told of everything.
        """
        accounts = self.load.ledger.accounts.values()
        while any(account.untold for account in accounts):
            await deferLater(reactor, 0.1)
        self.load.ledger.assertTold()


class SQLiteTests(CrashTests):
    """
    SQLite.
    """

    def storage(self) -> dict[str, str]:
        """
        See L{CrashTests.storage}.
        """
        return {"NANOMDM_STORAGE_DSN": str(self.database)}

    def connection(self) -> Any:
        """
        See L{CrashTests.connection}.
        """
        return sqlite3.connect(self.database, isolation_level=None)


class _ServerTests(CrashTests):
    engine: str
    kind: str

    def storage(self) -> dict[str, str]:
        """
        See L{CrashTests.storage}.
        """
        self.server, self.name = shared(self.engine), f"crash_{next(_numbers)}"
        dsn = self.server.create_database(self.name)
        self.addCleanup(self.server.drop_database, self.name)
        return {"NANOMDM_STORAGE": self.kind, "NANOMDM_STORAGE_DSN": dsn}

    def connection(self) -> Any:
        """
        See L{CrashTests.connection}.
        """
        return self.server.python_connection(self.name)


class MariaDBTests(_ServerTests):
    """
    MariaDB.
    """

    engine, kind = "mariadb", "mysql"
    skip = unavailable("mariadb")


class PostgreSQLTests(_ServerTests):
    """
    PostgreSQL.
    """

    engine, kind = "postgresql", "pgsql"
    skip = unavailable("postgresql")


del CrashTests, _ServerTests
