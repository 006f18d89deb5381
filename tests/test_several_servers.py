"""
Two daemons on one database.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from itertools import count, cycle
from typing import Any, ClassVar

from twisted.internet.defer import Deferred, gatherResults

from nanomdm.sim.ca import DeviceIdentity
from nanomdm.sim.signing import sign_like_device
from nanomdm.storage.schema import pending
from tests import samples
from tests.http.case import CHECKIN, KEY, RESULT, ca, device
from tests.process import DaemonProcess
from tests.servers import shared, unavailable
from tests.test_daemon import DaemonCase

_numbers = count()

DEVICES = 10
ROUNDS = 4
COMMANDS = 5
CERTIFICATES = 20


@cache
def identity(number: int) -> DeviceIdentity:
    """
    One of many identities, which share a key: making those takes long.
    """
    return ca().issue(key=device(1).key)


class SeveralServersTests(DaemonCase):
    """
    Both start at the same moment, on an empty database.
    """

    engine: ClassVar[str]
    kind: ClassVar[str]
    timeout = 60

    async def start_both(self) -> None:
        """
        Start both.  The schema is made once.
        """
        self.server, self.name = shared(self.engine), f"several_{next(_numbers)}"
        dsn = self.server.create_database(self.name)
        self.addCleanup(self.server.drop_database, self.name)
        daemons = [self.start_on(dsn) for _ in range(2)]
        self.ports = await gatherResults([daemon.listening for daemon in daemons])
        with closing(self.server.python_connection(self.name)) as connection:
            self.assertEqual(pending(connection, self.kind), [])

    def start_on(self, dsn: str) -> DaemonProcess:
        daemon = DaemonProcess(
            *("--listen", "tcp:0:interface=127.0.0.1", "--ca", str(self.directory / "ca.pem")),
            NANOMDM_API=KEY,
            NANOMDM_STORAGE=self.kind,
            NANOMDM_STORAGE_DSN=dsn,
        )

        def stop() -> Deferred[int] | None:
            return None if daemon.ended.called else daemon.signal(signal.SIGKILL)

        self.addCleanup(stop)
        return daemon

    def put(self, port: int, body: bytes, content_type: str, who: DeviceIdentity) -> Deferred[Any]:
        """
        Send a message as a device.
        """
        headers = {
            "Mdm-Signature": sign_like_device(who, body).decode(),
            "Content-Type": content_type,
        }
        return self.http.put(f"http://127.0.0.1:{port}/mdm", body, headers=headers)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        with closing(self.server.python_connection(self.name)) as connection:
            cursor = connection.cursor()
            cursor.execute(statement)
            return list(cursor.fetchall())

    async def test_alternating(self) -> None:
        """
        Devices, and who enqueues for them, go to the other server with every
        request: each command comes once, in order, and never after it was answered.
        """
        await self.start_both()
        await gatherResults(
            [Deferred.fromCoroutine(self.live(number)) for number in range(DEVICES)]
        )
        each = ROUNDS * COMMANDS
        self.assertEqual(
            sorted(self.query("SELECT id, count(*) FROM command_results GROUP BY id")),
            [(f"D{number}", each) for number in range(DEVICES)],
        )

    async def live(self, number: int) -> None:
        """
        The life of a device.
        """
        udid, who = f"D{number}", identity(number)
        ports = cycle(self.ports if number % 2 else self.ports[::-1])

        async def send(body: bytes, content_type: str = RESULT) -> bytes:
            return await self.expect(self.put(next(ports), body, content_type, who))

        for body in (samples.authenticate(udid), samples.token_update(udid)):
            await send(body, CHECKIN)
        enqueued, answered = [], []
        uuids: Iterator[str] = (f"{udid}-{n}" for n in count())
        for _ in range(ROUNDS):
            for _ in range(COMMANDS):
                enqueued.append(next(uuids))
                await self.enqueue(next(ports), udid, enqueued[-1])
            command = await send(samples.report("Idle", udid=udid))
            while command:
                uuid = samples.uuid_of(command)
                self.assertNotIn(uuid, answered)
                if len(answered) % 3 == 0:
                    await send(samples.report("NotNow", uuid, udid))
                answered.append(uuid)
                command = await send(samples.report("Acknowledged", uuid, udid))
        self.assertEqual(answered, enqueued)

    async def test_one_certificate(self) -> None:
        """
        Of two devices that present one new certificate at the same moment to
        different servers exactly one gets it, and keeps it.
        """
        await self.start_both()
        winners = []
        for number in range(100, 100 + CERTIFICATES):
            who, udids = identity(number), (f"A{number}", f"B{number}")
            answers = await gatherResults(
                [
                    self.put(port, samples.authenticate(udid), CHECKIN, who)
                    for port, udid in zip(self.ports, udids, strict=True)
                ]
            )
            codes = [answer.code for answer in answers]
            self.assertEqual(sorted(codes), [200, 400])
            winners.append(udids[codes.index(200)])
            for port in self.ports:
                for udid, code in zip(udids, codes, strict=True):
                    answer = await self.put(port, samples.token_update(udid), CHECKIN, who)
                    self.assertEqual(answer.code, code)
        rows = self.query("SELECT id FROM cert_auth_associations")
        self.assertEqual(sorted(rows), sorted((udid,) for udid in winners))
        self.assertEqual(self.query("SELECT count(*) FROM devices"), [(CERTIFICATES,)])


class MariaDBTests(SeveralServersTests):
    """
    MariaDB.
    """

    engine, kind = "mariadb", "mysql"
    skip = unavailable("mariadb")


class MySQLTests(SeveralServersTests):
    """
    MySQL.
    """

    engine, kind = "mysql", "mysql"
    skip = unavailable("mysql")


class PostgreSQLTests(SeveralServersTests):
    """
    PostgreSQL.
    """

    engine, kind = "postgresql", "pgsql"
    skip = unavailable("postgresql")


del SeveralServersTests
