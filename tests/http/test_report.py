"""
Command reports, and the log lines of requests, over HTTP.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.logger import LogLevel, capturedLogs

from nanomdm.sim.signing import sign_like_device
from tests import samples
from tests.http.case import RESULT, ServerCase, device
from tests.http.test_site import Collecting


class ReportTests(ServerCase):
    """
    Command reports.
    """

    def setUp(self) -> None:
        self.serve()

    async def queue(self, *uuids: str) -> None:
        await self.enroll()
        for uuid in uuids:
            self.assertEqual((await self.enqueue("D1", uuid)).code, 200)

    async def test_nothingToDo(self) -> None:
        await self.enroll()
        self.assertOK(await self.report("Idle"))

    async def test_verbatim(self) -> None:
        await self.enroll()
        raw = samples.command("C1").replace(b"\t", b" ") + b"\n<!-- as it came -->\n"
        await self.api("PUT", "/v1/enqueue/D1?nopush=1", raw)
        self.assertOK(await self.report("Idle"), raw)

    async def test_circle(self) -> None:
        await self.queue("C1", "C2")
        self.assertOK(await self.report("Idle"), samples.command("C1"))
        self.assertOK(await self.report("Acknowledged", "C1"), samples.command("C2"))
        self.assertOK(await self.report("Error", "C2"))
        self.assertOK(await self.report("Idle"))
        self.assertEqual(
            await self.query("SELECT command_uuid, status FROM command_results ORDER BY 1"),
            [("C1", "Acknowledged"), ("C2", "Error")],
        )

    async def test_notNow(self) -> None:
        await self.queue("C1", "C2")
        self.assertOK(await self.report("NotNow", "C1"), samples.command("C2"))
        self.assertOK(await self.report("NotNow", "C2"))
        self.assertOK(await self.report("Idle"), samples.command("C1"))
        self.assertOK(await self.report("Acknowledged", "C1"), samples.command("C2"))

    async def test_commandFormatError(self) -> None:
        await self.queue("C1")
        self.assertOK(await self.report("CommandFormatError", "C1"))
        self.assertOK(await self.report("Idle"))

    async def test_repeated(self) -> None:
        await self.queue("C1", "C2")
        for _ in range(2):
            self.assertOK(await self.report("Acknowledged", "C1"), samples.command("C2"))

    async def test_neverQueued(self) -> None:
        await self.queue("C1")
        self.assertOK(await self.report("Acknowledged", "other"), samples.command("C1"))
        self.assertEqual(await self.query("SELECT * FROM command_results"), [])

    async def test_largeResult(self) -> None:
        await self.queue("C1", "C2")
        answer = await self.report("Acknowledged", "C1", Big="x" * (15 << 20))
        self.assertOK(answer, samples.command("C2"))

    async def test_resultLargerThanItsColumn(self) -> None:
        """
        Nothing of it is stored.  SQLite is told to take as little as other
        databases may.
        """
        await self.queue("C1")

        def limit(transaction: Any, batch: Any) -> list[int]:
            connection = transaction._cursor.connection
            return [connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100_000)]

        await self.storage._database.write(limit, None)
        answer = await self.report("Acknowledged", "C1", Big="x" * 100_000)
        self.assertEqual((answer.code, answer.body), (413, b"Request Entity Too Large\n"))
        self.assertEqual(await self.query("SELECT * FROM command_results"), [])
        self.assertOK(await self.report("Idle"), samples.command("C1"))

    def noting_storage(self) -> Deferred[None]:
        """
        @return: fires when a report is stored.
        """
        stored: Deferred[None] = Deferred()
        original = self.storage.store_report

        def store(*arguments: Any, **more: Any) -> Deferred[Any]:
            done = original(*arguments, **more)
            return done.addCallback(lambda outcome: stored.callback(None) or outcome)

        self.patch(self.storage, "store_report", store)
        return stored

    def holding_until_gone(self) -> Deferred[None]:
        """
        Hold the next request before its signature is checked until its
        connection is lost.

        @return: fires when the request is there.
        """
        arrived: Deferred[None] = Deferred()
        gone: Deferred[None] = Deferred()
        offloader = self.resource("mdm")._identities._offloader
        site = self.site
        run, original = offloader.run, site.disconnected

        async def running(*args: Any) -> Any:
            if not arrived.called:
                arrived.callback(None)
                await gone
            return await run(*args)

        def disconnected(channel: Any) -> None:
            original(channel)
            gone.callback(None)

        self.patch(offloader, "run", running)
        self.patch(site, "disconnected", disconnected)
        return arrived

    async def test_clientGoesAway(self) -> None:
        """
        A large report whose client is gone once it is sent is stored all the same.
        """
        await self.queue("C1")
        body = samples.report("Acknowledged", "C1", Big="x" * 1_000_000)
        stored = self.noting_storage()
        arrived = self.holding_until_gone()
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port)
        client = await connectProtocol(endpoint, Collecting())
        client.transport.write(
            b"PUT /mdm HTTP/1.1\r\nMdm-Signature: %s\r\nContent-Length: %d\r\n\r\n"
            % (sign_like_device(device(1), body), len(body))
        )
        client.transport.write(body)
        await arrived
        client.transport.abortConnection()
        await client.closed
        await stored
        [(result,)] = await self.query("SELECT result FROM command_results")
        self.assertEqual(len(result), len(body))
        self.assertEqual(self.flushLoggedErrors(), [])

    async def test_malformed(self) -> None:
        await self.queue("C1")
        for body in (
            samples.plist(UDID="D1"),
            samples.report(""),
            samples.report("Acknowledged"),
            samples.report("Idle", udid=None),
            samples.report("Acknowledged", "C" * 128),
        ):
            self.assertRefused(await self.send(body, RESULT))
        self.assertOK(await self.report("Idle"), samples.command("C1"))

    async def test_lastSeen(self) -> None:
        await self.enroll()
        await self.query("UPDATE enrollments SET last_seen_at = '2001-01-01 00:00:00'")
        await self.report("Idle")
        await self.storage._write_seen()
        [(seen,)] = await self.query("SELECT last_seen_at FROM enrollments")
        self.assertGreater(seen, "2026")


class LogTests(ServerCase):
    """
    The line that each request gets.
    """

    def setUp(self) -> None:
        self.serve()

    async def line(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        with capturedLogs() as events:
            await self.send(*args, **kwargs)
        [line] = [event for event in events if event["log_format"] == "request"]
        return line

    def assertFields(self, line: dict[str, Any], **expected: Any) -> None:
        for name, value in expected.items():
            self.assertEqual(line.get(name), value, name)

    async def test_checkin(self) -> None:
        line = await self.line(samples.authenticate())
        self.assertFields(
            line, id="D1", type="Device", message_type="Authenticate", code=200, path="/mdm"
        )
        line = await self.line(samples.token_update(UserID="U1"))
        self.assertFields(line, id="D1:U1", type="User", message_type="TokenUpdate", code=200)

    async def test_report(self) -> None:
        await self.enroll()
        await self.enqueue("D1")
        line = await self.line(samples.report("Idle"), RESULT)
        self.assertFields(line, id="D1", type="Device", status="Idle", command_uuid=None)
        line = await self.line(samples.report("Error", "C1"), RESULT)
        self.assertFields(line, id="D1", type="Device", status="Error", command_uuid="C1")

    async def test_enqueue(self) -> None:
        await self.enroll()
        with capturedLogs() as events:
            await self.enqueue("D1")
        [line] = [event for event in events if event["log_format"] == "request"]
        self.assertFields(
            line, command_uuid="C1", request_type="DeviceInformation", path="/v1/enqueue/D1"
        )

    async def test_refusedAssociation(self) -> None:
        """
        It names the id, the hash and the reason.
        """
        await self.enroll("D1", device(1))
        await self.enroll("D2", device(2))
        line = await self.line(samples.report("Idle"), RESULT, device(2))
        self.assertFields(line, id="D1", code=400, status="Idle", log_level=LogLevel.warn)
        [(sha256,)] = await self.query("SELECT sha256 FROM cert_auth_associations WHERE id = 'D2'")
        self.assertEqual(
            line["error"],
            f"certificate {sha256} may not speak for D1: it is associated with D2",
        )
