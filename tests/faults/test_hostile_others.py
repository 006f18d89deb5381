"""
Other servers that answer with anything, and a database that somebody else has filled with
anything: devices and operators hear of an error, and the server goes on.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from twisted.internet import reactor

from nanomdm.sim.apns import SimulatedAPNs
from tests import samples
from tests.faults.process_case import basic, signed
from tests.faults.test_hostile_requests import CRLF, HostileCase
from tests.http.case import CHECKIN, KEY, RESULT, ca, device
from tests.http.raw_client import Received
from tests.web import RawServer, listen

OK = b"HTTP/1.1 200 OK\r\n"

#: What is no answer, or one that never becomes whole.
ANSWERS = (
    b"\xff" * 100_000,
    b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    b"HTTP/1.1 200\0 OK\r\n\r\n",
    b"HTTP/1.1 -1 No\r\n\r\n",
    b"HTTP/1.1 99999999999999999999 No\r\n\r\n",
    OK + b"Content-Length: -1\r\n\r\nabc",
    OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nabc",
    OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    OK + b"Content-Length: 10\r\n\r\nabc",
    OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
    OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"F" * 5000,
    OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    OK + b"X: " + b"a" * 1_000_000,
    OK + b"a: b\r\n" * 100_000,
    b"HTTP/1.1 100 Go on\r\n\r\n" * 100,
)

#: What is an answer, and more than a declaration or a token can be.
LARGE = OK + b"Content-Length: %d\r\n\r\n" % (17 << 20) + b"a" * (17 << 20)


class AnswerTests(HostileCase):
    """
    Servers for declarative management, for tokens, behind C{/authproxy}, and the receiver
    of the webhook.
    """

    async def ask_all(self) -> list[Received]:
        """
        @return: what a device gets that asks all of them.
        """
        answers = []
        for body in (
            samples.checkin("DeclarativeManagement", Endpoint="tokens"),
            samples.checkin("GetToken", TokenServiceType="com.example"),
        ):
            headers = [("Content-Type", CHECKIN), *signed(device(1), body)]
            answers.append(await self.ask("PUT", "/mdm", body, headers))
        return [*answers, await self.ask("GET", "/authproxy/x", b"", signed(device(1), b""))]

    async def test_answers(self) -> None:
        server = RawServer(b"", hang_up=True)
        url = f"http://127.0.0.1:{listen(self, server)}/"
        options = (f"--dm={url}", f"--token-url={url}", f"--auth-proxy-url={url}")
        await self.serve(*options, f"--webhook-url={url}")
        for server.answer in ANSWERS:
            declared, token, proxied = await self.ask_all()
            self.assertEqual((declared.code, token.code), (500, 500), server.answer[:99])
            # What breaks off in the middle is cut off here, too.
            self.assertTrue(not proxied.clean or proxied.code == 502, server.answer[:99])
        server.answer = LARGE
        declared, token, proxied = await self.ask_all()
        self.assertEqual((declared.code, token.code, proxied.code), (500, 500, 200))
        self.assertEqual(len(proxied.body), 17 << 20)
        self.assertIn(b"webhook event not delivered", self.daemon.output)
        await self.assertUnharmed()


#: Values for columns of text, that no server has written.
STRANGE: tuple[Any, ...] = ("", f"\0ü{CRLF}", "a" * 70_000, b"\xff\xfe", 2**62)

#: Whatever holds what a device or an operator gets to see, and what of it may be empty.
COLUMNS = {
    "devices": ("identity_cert", "authenticate", "bootstrap_token_b64"),
    "enrollments": ("type", "topic", "push_magic", "token_hex", "last_seen_at"),
    "commands": ("request_type", "command"),
    "command_results": ("status", "result"),
    "push_certs": ("cert_pem", "key_pem"),
}

#: What looks at all of that.
LOOKS = (
    *("/v1/enrollments", "/v1/enrollments/D1", "/v1/commands/C1", "/v1/enrollments/D1/queue"),
    *("/v1/enrollments/D1/results", "/v1/enrollments/D1/results/C0", "/v1/push/D1"),
    *(f"/v1/pushcert?topic={samples.TOPIC}", "/v1/enrollments/D1/bootstraptoken", "/metrics"),
)


class StoredTests(HostileCase):
    """
    A database that NanoMDM, or somebody with a client of it, has filled.
    """

    async def test_columns(self) -> None:
        self.apns = SimulatedAPNs(reactor, ca(), latency=0)
        await self.apns.start()
        self.addCleanup(self.apns.stop)
        trust = f"--apns-ca={self.directory / 'ca.pem'}"
        await self.serve("--api-secrets=1", f"--apns-url={self.apns.url}", trust, "--repush=0")
        await self.fill()
        before = await self.look()
        for table, columns in COLUMNS.items():
            for column in columns:
                for value in STRANGE:
                    await self.look_at(table, column, value)
        # With what was there before, all is as it was before.
        self.assertEqual(await self.look(), before)
        await self.assertUnharmed()

    async def fill(self) -> None:
        """
        Have something of everything.
        """
        push = ca().issue_push(samples.TOPIC)
        headers = basic("nanomdm", KEY)
        body = push.pem + push.key_pem
        self.assertEqual((await self.ask("PUT", "/v1/pushcert", body, headers)).code, 200)
        await self.enqueue(self.port, "D1", "C0")
        for body, content_type in (
            (samples.report("Acknowledged", "C0"), RESULT),
            (samples.checkin("SetBootstrapToken", BootstrapToken=b"token"), CHECKIN),
        ):
            await self.send(self.port, body, content_type)

    async def look(self) -> list[int]:
        """
        @return: what L{LOOKS} are answered.
        """
        key = basic("nanomdm", KEY)
        return [await self.code(target, "GET", target, b"", *key) for target in LOOKS]

    async def look_at(self, table: str, column: str, value: Any) -> None:
        """
        Put a value into a column, and look at it in every way that there is.
        """
        connection = sqlite3.connect(self.database)
        connection.execute("PRAGMA ignore_check_constraints = 1")
        kept = connection.execute(f"SELECT rowid, {column} FROM {table}").fetchall()
        try:
            with connection:
                if isinstance(value, bytes):
                    change = f"UPDATE {table} SET {column} = CAST(x'{value.hex()}' AS TEXT)"
                    connection.execute(change)
                else:
                    connection.execute(f"UPDATE {table} SET {column} = ?", (value,))
            self.assertLessEqual(set(await self.look()), {200, 404, 500}, (table, column))
            for body in (samples.report("Idle"), samples.checkin("GetBootstrapToken")):
                content_type = RESULT if b"Idle" in body else CHECKIN
                headers = [("Content-Type", content_type), *signed(device(1), body)]
                answer = await self.ask("PUT", "/mdm", body, headers)
                self.assertIn(answer.code, (200, 500), (table, column, str(value)[:50], answer))
        finally:
            with connection:
                connection.executemany(
                    f"UPDATE {table} SET {column} = ? WHERE rowid = ?",
                    [(old, rowid) for rowid, old in kept],
                )
            connection.close()
