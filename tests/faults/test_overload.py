"""
More of everything than the server can take: what is beyond gets 503 and C{Retry-After},
the memory stays within its bounds, and soon afterwards everybody is served as before.

C{FAULTS_CONNECTIONS=10000} makes L{ConnectionsTests} do it with the limit that a server has
if nothing is said of it.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing

from nanomdm.http.limits import BUDGET
from tests import samples
from tests.faults.crowd import ask, close, codes, connect, replies
from tests.faults.overload_case import (
    MIB,
    OverloadCase,
    bound,
    device_request,
    operator_request,
    request,
)
from tests.http.case import CHECKIN
from tests.process import DaemonProcess

#: Connections that the server serves at once.
LIMIT = int(os.environ.get("FAULTS_CONNECTIONS", "300"))

#: Seconds after which a queue in front of the database is closed, and some.
_PATIENCE = 10.5


class ConnectionsTests(OverloadCase):
    """
    Ten times as many connections as are served.
    """

    timeout = 300

    async def test_connections(self) -> None:
        """
        Who comes late is told so, without an exception; who was there first is served.
        """
        await self.serve("--max-connections", str(LIMIT))
        served = await self.occupied(LIMIT)
        told = await self.thread(self.flood, 9 * LIMIT)
        self.assertRefused(told)
        self.assertEqual({reply.ending for reply in told}, {"closed"})
        answers = await self.thread(ask, served[: self.devices], self.round, 10.0)
        self.assertEqual(codes(answers), {200: self.devices})
        peak = self.usage().memory
        self.assertLess(peak - self.before.memory, bound(LIMIT))
        await self.logged(b'msg="too many connections" refused=')
        close(served)
        await self.assertRecovers(refused=len(told), peak=f"{peak // MIB} MiB")


class TLSTests(OverloadCase):
    """
    The same with TLS.
    """

    async def test_tooMany(self) -> None:
        """
        Who comes too late and shakes hands is told to come back.
        """
        await self.serve(*self.tls(), "--max-connections", "100")
        served = self.opened(await self.thread(self.secure, 100))
        for _ in range(3):
            self.assertRefused(await self.at_once(self.round * 5))
        close(served)
        await self.assertRecovers()


class WaitingTests(OverloadCase):
    """
    More requests at once than a part of the server lets wait.
    """

    #: Ids of one call that queues a command, in a head that is accepted.
    ids = 1500

    async def test_databaseThatIsBlocked(self) -> None:
        """
        Devices wait for the database, but not for long, and in no growing queue; those
        that need no more than to read are served.
        """
        await self.serve()
        writes = [
            device_request(number, samples.token_update(f"DEVICE-{number}"), CHECKIN)
            for number in range(self.devices)
        ]
        blocker = sqlite3.connect(self.database, isolation_level=None)
        self.addCleanup(blocker.close)
        blocker.execute("BEGIN IMMEDIATE")
        many = self.opened(await self.thread(connect, self.port, 300))
        asked = [writes[number % self.devices] for number in range(300)]
        first = self.thread(ask, many, asked, 60.0)
        await self.assertServed()
        # The queue's oldest call has waited for so long that nobody joins it.
        await self.thread(time.sleep, _PATIENCE)
        self.assertRefused(await self.at_once(writes))
        await self.assertServed()
        blocker.execute("ROLLBACK")
        answered = codes(await first)
        # The first transaction may have been given up, with the call that was in it.
        self.assertLessEqual(set(answered), {200, 500, 503})
        self.assertGreater(answered[200], 200)
        self.assertEqual(codes(await self.at_once(writes)), {200: self.devices})
        close(many)
        await self.assertRecovers(answers=answered)

    async def test_enqueue(self) -> None:
        """
        Calls for thousands of ids each: some are worked on, a hundred wait, the others
        come back later.
        """
        await self.serve()
        ids = ",".join(f"{number:036}" for number in range(self.ids))
        target = f"/v1/enqueue/{ids}?nopush=1"
        calls = [operator_request("PUT", target, samples.command(f"C{n}")) for n in range(150)]
        answers = self.at_once(calls)
        await self.assertServed()
        told = await answers
        late = [reply for reply in told if reply.code == 503]
        self.assertEqual(len(told) - len(late), codes(told)[500])
        self.assertGreaterEqual(len(late), 20)
        self.assertRefused(late)
        self.assertLess(self.usage().memory - self.before.memory, 256 * MIB)
        await self.assertRecovers(refused=len(late), worked=len(told) - len(late))

    async def test_looks(self) -> None:
        """
        Long lists for many operators at once.
        """
        await self.serve()
        self.fill()
        calls = [operator_request("GET", "/v1/enrollments?limit=1000")] * 300
        answers = self.at_once(calls)
        await self.assertServed()
        told = await answers
        late = [reply for reply in told if reply.code == 503]
        self.assertEqual(codes(told), {200: 300 - len(late), 503: len(late)})
        self.assertRefused(late)
        self.assertLess(self.usage().memory - self.before.memory, 256 * MIB)
        await self.assertRecovers(refused=len(late), worked=len(told) - len(late))

    def fill(self) -> None:
        """
        Make long lists possible.
        """
        with closing(sqlite3.connect(self.database)) as connection, connection:
            for table, column in (("devices", "id"), ("enrollments", "id")):
                copy(connection, table, column)


class BodyTests(OverloadCase):
    """
    Many large bodies.
    """

    async def test_largeBodies(self) -> None:
        """
        They take what is set apart for them, and no more, whenever they come; small
        requests are served meanwhile.
        """
        await self.serve("--max-body-size", str(MIB))
        part = request("PUT", "/mdm", [], b"x" * MIB)[:-1]
        for _ in range(2):
            sockets = self.opened(await self.thread(connect, self.port, 800))
            await self.thread(send_all, sockets, part)
            await self.assertServed()
            told = await self.thread(replies, sockets, 20.0, False, 500)
            refused = [reply for reply in told if reply.ending != "open"]
            self.assertGreaterEqual(len(refused), 500)
            self.assertRefused(refused)
            peak = self.usage().memory
            # Buffers grow by an eighth at a time, and there are holes between them.
            self.assertLess(peak - self.before.memory, 2 * BUDGET + bound(800))
            close(sockets)
            await self.assertRecovers(refused=len(refused), peak=f"{peak // MIB} MiB")


class FilesTests(OverloadCase):
    """
    Few open files.
    """

    class program(DaemonProcess):
        prefix = ("prlimit", "--nofile=1024:1024")

    async def test_fewFiles(self) -> None:
        """
        Fewer connections are served, and the others are told so.
        """
        await self.serve()
        await self.logged(b"too few files can be open for --max-connections")
        await self.logged(b"LimitNOFILE")
        served = await self.occupied(640)
        told = await self.thread(self.flood, 9 * 640)
        self.assertRefused(told)
        self.assertLess(self.usage().files, 1024)
        close(served)
        await self.assertRecovers(refused=len(told))
        self.assertFalse(b"EMFILE" in self.daemon.output)

    async def test_noFiles(self) -> None:
        """
        If there are none nevertheless, nobody is served that is not yet there, but that
        takes no processor time, and ends.
        """
        await self.serve()
        served = self.opened(await self.thread(connect, self.port, self.devices))
        await self.thread(ask, served, self.round, 10.0)
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (self.usage().files, 1024))
        others = self.opened(await self.thread(connect, self.port, 100))
        await self.thread(replies, others, 5.0)
        began = self.usage().seconds
        await self.thread(time.sleep, 1.0)
        self.assertLess(self.usage().seconds - began, 0.5)
        answers = await self.thread(ask, served, self.round, 10.0)
        self.assertEqual(codes(answers), {200: self.devices})
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (1024, 1024))
        close([*served, *others])
        await self.assertRecovers()


class RaisedTests(OverloadCase):
    """
    The limit that most systems begin with.
    """

    class program(DaemonProcess):
        prefix = ("prlimit", "--nofile=128:4096")

    async def test_raised(self) -> None:
        """
        The server takes what it may have.
        """
        await self.serve("--max-connections", "1000")
        served = self.opened(await self.thread(connect, self.port, 1000))
        asked = [self.round[number % self.devices] for number in range(1000)]
        self.assertEqual(codes(await self.thread(ask, served, asked, 30.0)), {200: 1000})
        self.assertFalse(b"too few files" in self.daemon.output)
        close(served)
        await self.assertRecovers()


def send_all(sockets: Sequence[socket.socket], data: bytes) -> None:
    """
    Send the same on all connections; those that the server ends take no more.
    """
    for one in sockets:
        with contextlib.suppress(ConnectionError):
            one.sendall(data)


def copy(connection: sqlite3.Connection, table: str, column: str) -> None:
    """
    Have hundreds more of one row.
    """
    found = connection.execute(f"SELECT * FROM {table} LIMIT 1")
    names = [one[0] for one in found.description]
    [row] = found.fetchall()
    values = dict(zip(names, row, strict=True))
    sql = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
    for number in range(400):
        values[column] = f"COPY-{number}"
        if "device_id" in values:
            values["device_id"] = values[column]
        connection.execute(sql, list(values.values()))
