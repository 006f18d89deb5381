"""
A daemon on a real database, and devices that keep it busy.
"""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Callable
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
from tests.servers import Server, shared
from tests.web import WebServer, listen

_numbers = count()


class UnderLoad(ProcessCase):
    """
    Starts daemons on one database, with a webhook.

    @ivar load: the devices.
    @ivar environment: what a daemon is told of its database,
    @ivar options: and how.
    """

    options: tuple[str, ...] = ()
    load: Load
    environment: dict[str, str]

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

    def prepare(self, enrollments: int) -> None:
        """
        Make a database, devices, and who takes the webhook's events.
        """
        self.environment = self.storage()
        self.simulate(enrollments)

    def simulate(self, enrollments: int) -> None:
        """
        Make devices, and who takes the webhook's events.
        """
        self.load = Load(enrollments, Random(1))
        self.addCleanup(self.load.close)
        receiver = WebServer()
        receiver.body = self._note
        self.webhook = f"http://127.0.0.1:{listen(self, receiver)}/"

    def begin(self, **environment: str) -> DaemonProcess:
        """
        Start a daemon.

        @param environment: as L{environment}, if that is not the same for all.
        """
        daemon = DaemonProcess(
            *("--listen", "tcp:0:interface=127.0.0.1", "--ca", str(self.directory / "ca.pem")),
            *("--cert-header", CERTIFICATE, "--webhook-url", self.webhook, *self.options),
            NANOMDM_API=KEY,
            **(environment or self.environment),
        )
        self.addCleanup(self.kill, daemon)
        return daemon

    async def kill(self, daemon: DaemonProcess) -> None:
        """
        End a daemon as a crash does.
        """
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

    async def look(self) -> None:
        """
        See that everything is there.
        """
        self.assertEqual(await deferToThread(self._lost, self.load.ledger.snapshot()), [])

    def _lost(self, kept: Any) -> list[str]:
        with closing(self.connection()) as connection:
            return lost(kept, connection)

    def let_go(self) -> None:
        """
        Let the minute pass for which the webhook's events are left to whom had them in hand.
        """
        with closing(self.connection()) as connection:
            connection.cursor().execute("UPDATE nanomdm_webhook_streams SET due = due - 60")

    def _note(self, event: bytes) -> bytes:
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


class OnSQLite(UnderLoad):
    """
    On a file.
    """

    def storage(self) -> dict[str, str]:
        """
        See L{UnderLoad.storage}.
        """
        return {"NANOMDM_STORAGE_DSN": str(self.database)}

    def connection(self) -> Any:
        """
        See L{UnderLoad.connection}.
        """
        return sqlite3.connect(self.database, isolation_level=None)


class OnServer(UnderLoad):
    """
    On a database server.

    @cvar find: gives the server of an engine.
    @ivar name: of the database.
    """

    engine: str
    kind: str
    find: Callable[[str], Server] = staticmethod(shared)

    def storage(self) -> dict[str, str]:
        """
        See L{UnderLoad.storage}.
        """
        self.server, self.name = self.find(self.engine), f"faults_{next(_numbers)}"
        dsn = self.server.create_database(self.name)
        self.addCleanup(self.server.drop_database, self.name)
        # A test may fail while it does not run.
        self.addCleanup(self.server.ensure)
        return {"NANOMDM_STORAGE": self.kind, "NANOMDM_STORAGE_DSN": dsn}

    def connection(self) -> Any:
        """
        See L{UnderLoad.connection}.
        """
        return self.server.python_connection(self.name)
