"""
Tests for C{nanomdmctl migrate}: moving to another server.
"""

from __future__ import annotations

import base64
import json
import os
import plistlib
import sqlite3
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from click.testing import CliRunner, Result
from twisted.internet.threads import deferToThread
from twisted.web.server import Request

from nanomdm.ctl import main, sender
from nanomdm.mdm.checkin import parse_checkin
from nanomdm.sim.ca import ThrowawayCA
from nanomdm.storage.factory import prepare_storage
from nanomdm.storage.settings import StorageSettings
from tests import samples
from tests.http.case import KEY, RESULT, ServerCase, device
from tests.servers import shared, unavailable
from tests.storage import nanomdm_tables
from tests.web import WebServer, listen

_numbers = count()

#: What another server must have of a device and its users.
_WHAT_MATTERS = (
    "SELECT id, serial_number, authenticate, unlock_token, bootstrap_token_b64 FROM devices",
    "SELECT id, device_id, user_short_name, user_long_name, token_update FROM users",
    "SELECT id, device_id, user_id, type, topic, push_magic, token_hex, enabled FROM enrollments",
)


class MigrateCase(ServerCase):
    """
    Runs the command against servers in this process.
    """

    def setUp(self) -> None:
        self.state = Path(self.mktemp())
        # The pauses are real ones.
        self.patch(sender, "_PAUSES", (0.0, 0.0, 0.0))

    def file(self) -> StorageSettings:
        return StorageSettings(dsn=Path(self.mktemp()).absolute())

    def database(self, engine: str, kind: str, *tables: str) -> StorageSettings:
        server, name = shared(engine), f"migrate_{next(_numbers)}"
        self.addCleanup(server.drop_database, name)
        settings = StorageSettings(kind=kind, dsn=server.create_database(name))
        self.execute(server, name, *tables)
        return settings

    def execute(self, server: Any, name: str, *statements: Any) -> None:
        with closing(server.python_connection(name)) as connection:
            for statement in statements:
                with closing(connection.cursor()) as cursor:
                    cursor.execute(*([statement] if isinstance(statement, str) else statement))

    def filled(self, *ids: str, users: tuple[str, ...] = ()) -> StorageSettings:
        """
        A file with devices that are enrolled, and users of the first.
        """
        settings = self.file()
        prepare_storage(settings)
        with closing(sqlite3.connect(settings.dsn)) as connection:
            for id in ids:
                self.insert(connection, id)
            for user in users:
                self.insert_user(connection, ids[0], user)
            connection.commit()
        return settings

    def insert(self, connection: sqlite3.Connection, id: str) -> None:
        connection.execute(
            "INSERT INTO devices (id, authenticate, authenticate_at, token_update)"
            " VALUES (?, ?, CURRENT_TIMESTAMP, ?)",
            (id, samples.authenticate(id).decode(), samples.token_update(id).decode()),
        )
        self.insert_enrollment(connection, id, id, None)

    def insert_user(self, connection: sqlite3.Connection, device_id: str, user: str) -> None:
        message = samples.token_update(device_id, UserID=user).decode()
        id = f"{device_id}:{user}"
        connection.execute(
            "INSERT INTO users (id, device_id, token_update) VALUES (?, ?, ?)",
            (id, device_id, message),
        )
        self.insert_enrollment(connection, id, device_id, id)

    def insert_enrollment(
        self, connection: sqlite3.Connection, id: str, device_id: str, user_id: str | None
    ) -> None:
        connection.execute(
            "INSERT INTO enrollments"
            " (id, device_id, user_id, type, topic, push_magic, token_hex, last_seen_at)"
            " VALUES (?, ?, ?, 'x', 't', 'm', 'ab', CURRENT_TIMESTAMP)",
            (id, device_id, user_id),
        )

    def change(self, settings: StorageSettings, statement: str) -> None:
        with closing(sqlite3.connect(settings.dsn)) as connection:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute(statement)
            connection.commit()

    async def migrate(
        self, source: StorageSettings, *arguments: str, path: str = "/migration", **variables: str
    ) -> Result:
        """
        Migrate to who listens on C{port}.
        """
        environ = {name: None for name in os.environ if name.startswith("NANOMDM_")}
        environ |= {
            "NANOMDM_STORAGE": source.kind,
            "NANOMDM_STORAGE_DSN": str(source.dsn),
            "NANOMDM_API": KEY,
            **variables,
        }
        if "--url" not in arguments:
            arguments = ("--url", f"http://127.0.0.1:{self.port}{path}", *arguments)
        result: Result = await deferToThread(
            CliRunner().invoke, main, ["migrate", *arguments], env=environ
        )
        return result

    def assertPrinted(self, result: Result, *lines: str, code: int = 0) -> None:
        self.assertEqual((result.stdout.splitlines(), result.exit_code), ([*lines], code), result)

    def assertStopped(self, result: Result, text: str) -> None:
        """
        It ended with one line that says why.
        """
        *_, line = result.stderr.splitlines()
        self.assertIn(text, line)
        self.assertTrue(line.startswith("Error: "), line)
        self.assertEqual((result.stdout, result.exit_code), ("", 1))


class RoundTripTests(MigrateCase):
    """
    From a server on SQLite to one on PostgreSQL, and back.
    """

    timeout = 60
    skip = unavailable("postgresql")

    async def what_matters(self) -> list[list[tuple[Any, ...]]]:
        found = []
        for statement in _WHAT_MATTERS:
            rows = await self.query(f"{statement} ORDER BY 1")
            found.append([tuple(map(self.plain, row)) for row in rows])
        return found

    def plain(self, value: Any) -> Any:
        return int(value) if isinstance(value, bool) else value

    async def serve_and_fill(self, settings: StorageSettings) -> None:
        self.serve(storages=(settings,))
        await self.enroll("D1")
        await self.enroll("D2", device(2))
        for body in (
            samples.token_update(UnlockToken=b"\x00unlock"),
            # This one lacks it.
            samples.token_update(PushMagic="last"),
            samples.token_update(UserID="U1", UserShortName="jo", UserLongName="Jo Dœ"),
            samples.checkin("SetBootstrapToken", BootstrapToken=b"boot"),
        ):
            self.assertOK(await self.send(body))

    async def end(self) -> None:
        await self.daemon.stopService()
        del self.daemon

    async def test_roundTrip(self) -> None:
        first, second, third = self.file(), self.database("postgresql", "pgsql"), self.file()
        await self.serve_and_fill(first)
        expected = await self.what_matters()
        await self.end()
        for source, target in ((first, second), (second, third)):
            self.serve(storages=(target,), migration=True, retro=True)
            result = await self.migrate(source)
            self.assertPrinted(result, "Migrated: 2 devices and 1 users.")
            self.assertEqual(await self.what_matters(), expected)
            await self.go_on()
            await self.end()

    async def go_on(self) -> None:
        """
        Devices go on with the certificates that they have, nobody else does.
        """
        self.assertEqual((await self.enqueue("D1,D2,D1:U1")).code, 200)
        self.assertEqual(samples.uuid_of((await self.report("Idle")).body), "C1")
        self.assertRefused(await self.send(samples.report("Idle"), RESULT, device(3)))
        answer = await self.send(samples.report("Idle", udid="D2"), RESULT, device(2))
        self.assertEqual(samples.uuid_of(answer.body), "C1")
        answer = await self.report("Idle", UserID="U1")
        self.assertEqual(samples.uuid_of(answer.body), "C1")
        self.assertEqual(await self.storage.fetch_bootstrap_token("D1"), b"boot")


class NanoMDMTests(MigrateCase):
    """
    From the databases that NanoMDM makes, which nobody else writes to.
    """

    def fill(self, engine: str, name: str) -> None:
        one = samples.authenticate("S-D").decode(), samples.token_update("S-D").decode()
        user = samples.token_update("S-D", UserID="U").decode()
        self.execute(
            shared(engine),
            name,
            *nanomdm_tables.rows("S"),
            ("UPDATE devices SET authenticate = %s, token_update = %s", one),
            ("UPDATE users SET token_update = %s", (user,)),
        )

    async def arrive(self, source: StorageSettings) -> None:
        self.serve(migration=True, retro=True)
        self.assertPrinted(await self.migrate(source), "Migrated: 1 devices and 1 users.")
        self.assertEqual(
            await self.query("SELECT id, enabled FROM enrollments ORDER BY 1"),
            [("S-D", 1), ("S-D:U", 1)],
        )
        self.assertEqual(await self.query("SELECT unlock_token FROM devices"), [(b"\x00\xff",)])

    def tables(self, engine: str, name: str) -> list[str]:
        with (
            closing(shared(engine).python_connection(name)) as connection,
            closing(connection.cursor()) as cursor,
        ):
            cursor.execute("SELECT table_name FROM information_schema.tables ORDER BY 1")
            return [row[0] for row in cursor.fetchall()]

    async def migrate_from(
        self, engine: str, kind: str, tables: tuple[str, ...], *older: str
    ) -> None:
        source = self.database(engine, kind, *tables)
        name = str(source.dsn).rpartition("/")[2]
        self.execute(shared(engine), name, *older)
        if older:
            # Their rows are of the newest revision otherwise.
            self.patch(nanomdm_tables, "_insert", _insert_older)
        self.fill(engine, name)
        before = self.tables(engine, name)
        await self.arrive(source)
        self.assertEqual(self.tables(engine, name), before)

    async def test_mysql(self) -> None:
        await self.migrate_from("mysql", "mysql", nanomdm_tables.MYSQL)

    async def test_olderMySQL(self) -> None:
        await self.migrate_from(
            *("mysql", "mysql", nanomdm_tables.MYSQL),
            *nanomdm_tables.MYSQL_OLDER,
            *nanomdm_tables.OLDER,
        )

    async def test_postgresql(self) -> None:
        await self.migrate_from("postgresql", "pgsql", nanomdm_tables.PGSQL)

    async def test_olderPostgreSQL(self) -> None:
        await self.migrate_from("postgresql", "pgsql", nanomdm_tables.PGSQL, *nanomdm_tables.OLDER)

    test_mysql.skip = test_olderMySQL.skip = unavailable("mysql")
    test_postgresql.skip = test_olderPostgreSQL.skip = unavailable("postgresql")


def _insert_older(table: str, parameters: tuple[object, ...]) -> tuple[str, tuple[object, ...]]:
    marks = ", ".join(["%s"] * len(parameters))
    columns = nanomdm_tables.COLUMNS[table]
    return f"INSERT INTO {table} ({columns}) VALUES ({marks})", parameters


class Endpoint(WebServer):
    """
    A migration endpoint that says what a test wants.

    @ivar answers: for messages with these ids, what is said in turn; then 200.
    """

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[str, list[int]] = {}
        self.body = b""

    def render(self, request: Request) -> bytes | int:
        id = parse_checkin(request.content.read()).enrollment.id
        request.content.seek(0)
        answers = self.answers.get(id, [])
        self.status = answers.pop(0) if answers else 200
        return super().render(request)

    @property
    def got(self) -> list[str]:
        """
        The ids and kinds of the messages that came.
        """
        messages = [parse_checkin(asked.body) for asked in self.asked]
        return [f"{message.enrollment.id} {message.message_type}" for message in messages]


class EndpointCase(MigrateCase):
    """
    Against an endpoint that does as it is told.
    """

    def setUp(self) -> None:
        super().setUp()
        self.endpoint = Endpoint()
        self.port = listen(self, self.endpoint)


class SendingTests(EndpointCase):
    """
    What is sent.
    """

    async def test_requests(self) -> None:
        """
        As NanoMDM's own tool sends them.
        """
        result = await self.migrate(self.filled("D1"), path="/sub/migration?a=b")
        self.assertPrinted(result, "Migrated: 1 devices and 0 users.")
        for asked, body in zip(
            self.endpoint.asked,
            (samples.authenticate("D1"), samples.token_update("D1")),
            strict=True,
        ):
            self.assertEqual((asked.method, asked.uri), ("PUT", "/sub/migration?a=b"))
            self.assertEqual(asked.body, body)
            credentials = base64.b64encode(f"nanomdm:{KEY}".encode()).decode()
            self.assertEqual(asked.header("Authorization"), f"Basic {credentials}")
        self.assertEqual(len({asked.peer_port for asked in self.endpoint.asked}), 1)

    async def test_order(self) -> None:
        """
        Many devices at once, and each before its users.
        """
        ids = [f"D{number}" for number in range(500)]
        result = await self.migrate(self.filled(*ids, users=("U1", "U2")), "--parallel", "4")
        self.assertPrinted(result, "Migrated: 500 devices and 2 users.")
        got = self.endpoint.got
        self.assertEqual(len(got), 1002)
        for id in ids:
            self.assertLess(got.index(f"{id} Authenticate"), got.index(f"{id} TokenUpdate"))
        for user in ("U1", "U2"):
            self.assertLess(got.index("D0 TokenUpdate"), got.index(f"D0:{user} TokenUpdate"))

    async def test_tokens(self) -> None:
        source = self.filled("D1")
        self.change(
            source, "UPDATE devices SET unlock_token = x'0001', bootstrap_token_b64 = 'Ym9vdA=='"
        )
        self.assertEqual((await self.migrate(source)).exit_code, 0)
        bodies = [plistlib.loads(asked.body) for asked in self.endpoint.asked]
        self.assertEqual(bodies[1]["UnlockToken"], b"\x00\x01")
        self.assertEqual(
            bodies[2],
            {"MessageType": "SetBootstrapToken", "UDID": "D1", "BootstrapToken": b"boot"},
        )

    async def test_notEnabled(self) -> None:
        """
        Who checked out stays behind, unless that is not wanted.
        """
        source = self.filled("D1", "D2", users=("U1", "U2"))
        self.change(source, "UPDATE enrollments SET enabled = FALSE WHERE id IN ('D2', 'D1:U2')")
        self.change(
            source,
            "INSERT INTO devices (id, authenticate, authenticate_at) VALUES ('D3', '<', 0)",
        )
        self.assertPrinted(
            await self.migrate(source),
            "Migrated: 1 devices and 1 users.",
            "Not enrolled: 2 devices and 1 users.",
        )
        self.assertEqual(
            self.endpoint.got, ["D1 Authenticate", "D1 TokenUpdate", "D1:U1 TokenUpdate"]
        )
        self.assertPrinted(
            await self.migrate(source, "--disabled"),
            "Migrated: 2 devices and 2 users.",
            "Not enrolled: 1 devices and 0 users.",
        )
        self.assertIn("D2 TokenUpdate", self.endpoint.got)
        self.assertIn("D1:U2 TokenUpdate", self.endpoint.got)

    async def test_usersOfDisabledDevice(self) -> None:
        source = self.filled("D1", users=("U1",))
        self.change(source, "UPDATE enrollments SET enabled = FALSE WHERE id = 'D1'")
        self.assertPrinted(
            await self.migrate(source),
            "Migrated: 0 devices and 0 users.",
            "Not enrolled: 1 devices and 1 users.",
        )
        self.assertEqual(self.endpoint.got, [])

    async def test_tls(self) -> None:
        """
        Over https whose CA is given, and not without it.
        """
        web = ThrowawayCA.create()
        self.port = listen(self, self.endpoint, web.issue_server("localhost"))
        trusted = Path(self.mktemp())
        trusted.write_bytes(web.pem)
        url = ("--url", f"https://localhost:{self.port}/migration")
        self.assertStopped(
            await self.migrate(self.filled("D1"), *url), "/migration: its certificate: "
        )
        self.assertEqual(self.endpoint.got, [])
        result = await self.migrate(self.filled("D1"), *url, "--ca", str(trusted))
        self.assertPrinted(result, "Migrated: 1 devices and 0 users.")
        wrong = ("--url", f"https://127.0.0.1:{self.port}/migration")
        result = await self.migrate(self.filled("D1"), *wrong, "--ca", str(trusted))
        self.assertStopped(result, "its certificate: ")


class TroubleTests(EndpointCase):
    """
    What does not get through.
    """

    async def test_failed(self) -> None:
        """
        The others do; the next run tries those that failed, and only those.
        """
        self.endpoint.answers = {"D2": [400], "D4:U": [409]}
        self.endpoint.body = lambda body: json.dumps({"error": "too\tbad"}).encode()
        source = self.filled("D1", "D2", "D3")
        with closing(sqlite3.connect(source.dsn)) as connection:
            self.insert(connection, "D4")
            self.insert_user(connection, "D2", "U")
            self.insert_user(connection, "D4", "U")
            connection.commit()
        self.assertPrinted(
            await self.migrate(source, "--state", str(self.state)),
            "Migrated: 2 devices and 0 users.",
            "Failed: 2 devices:",
            "  D2: Authenticate: HTTP 400: too\\tbad",
            "  D4:U: TokenUpdate: HTTP 409: too\\tbad",
            code=1,
        )
        self.assertNotIn("D2:U TokenUpdate", self.endpoint.got)
        del self.endpoint.asked[:]
        self.assertPrinted(
            await self.migrate(source, "--state", str(self.state)),
            "Migrated: 2 devices and 2 users.",
        )
        self.assertEqual(
            sorted(self.endpoint.got),
            [
                *("D2 Authenticate", "D2 TokenUpdate", "D2:U TokenUpdate"),
                *("D4 Authenticate", "D4 TokenUpdate", "D4:U TokenUpdate"),
            ],
        )
        self.assertFalse(self.state.exists())

    async def test_failedAndGone(self) -> None:
        """
        Nobody waits for a device that checked out meanwhile.
        """
        self.endpoint.answers = {"D1": [400]}
        source = self.filled("D1")
        result = await self.migrate(source, "--state", str(self.state))
        self.assertEqual(result.exit_code, 1)
        self.change(source, "UPDATE enrollments SET enabled = FALSE")
        self.assertPrinted(
            await self.migrate(source, "--state", str(self.state)),
            "Migrated: 0 devices and 0 users.",
            "Not enrolled: 1 devices and 0 users.",
        )

    async def test_passing(self) -> None:
        """
        A server that is busy is asked again.
        """
        self.endpoint.answers = {"D1": [500, 503, 200, 429]}
        self.assertPrinted(
            await self.migrate(self.filled("D1")), "Migrated: 1 devices and 0 users."
        )
        self.assertEqual(self.endpoint.got, [*["D1 Authenticate"] * 3, *["D1 TokenUpdate"] * 2])

    async def test_notPassing(self) -> None:
        self.endpoint.answers = {"D1": [500] * 9}
        self.endpoint.body = b"Internal Server Error\n"
        self.assertPrinted(
            await self.migrate(self.filled("D1", "D2")),
            "Migrated: 1 devices and 0 users.",
            "Failed: 1 devices:",
            "  D1: Authenticate: HTTP 500: Internal Server Error",
            code=1,
        )
        self.assertEqual(self.endpoint.got.count("D1 Authenticate"), 3)

    async def test_retryAfter(self) -> None:
        """
        It is asked again when it wants to be.
        """
        waits: list[float] = []
        carrier = sender.Sender(urlsplit("http://127.0.0.1/x"), "key", None)
        self.patch(carrier._stopped, "wait", waits.append)
        answers = [
            sender._Attempt(sender.Refused("busy"), passing=True, pause=7),
            sender._Attempt(),
        ]
        carrier._attempt = lambda body: answers.pop(0)
        carrier.send(b"")
        self.assertEqual(waits, [0, 7])

    async def test_notAPropertyList(self) -> None:
        """
        A message that can not be completed does not stop the others.
        """
        source = self.filled("D1", "D2")
        self.change(
            source, "UPDATE devices SET unlock_token = x'00', token_update = 'y' WHERE id = 'D1'"
        )
        result = await self.migrate(source)
        self.assertEqual(result.stdout.splitlines()[0], "Migrated: 1 devices and 0 users.")
        self.assertIn("\n  D1: what is kept is no property list: ", result.stdout)
        self.assertEqual(result.exit_code, 1)

    async def test_hopeless(self) -> None:
        """
        What every device would be told ends it at once.
        """
        ids = [f"D{number}" for number in range(100)]
        for status, text in (
            (401, "HTTP 401: the API key is wrong"),
            (404, "HTTP 404: there is no migration endpoint (the server needs --migration)"),
            (302, "HTTP 302: it sends us elsewhere"),
        ):
            self.endpoint.answers = {id: [status] for id in ids}
            del self.endpoint.asked[:]
            self.assertStopped(await self.migrate(self.filled(*ids)), text)
            self.assertLess(len(self.endpoint.asked), 50)

    async def test_nobodyListens(self) -> None:
        result = await self.migrate(
            self.filled("D1"), "--url", "http://127.0.0.1:9/migration", "--state", str(self.state)
        )
        self.assertStopped(
            result,
            "stopped: http://127.0.0.1:9/migration: Connection refused;"
            " run it again with the same --state to go on",
        )

    async def test_wrongKeyOfThisServer(self) -> None:
        self.serve(migration=True)
        result = await self.migrate(self.filled("D1"), NANOMDM_API="sesame")
        self.assertStopped(result, "HTTP 401: the API key is wrong")
        self.assertNotIn("sesame", result.output)

    async def test_deviceThatIsHere(self) -> None:
        """
        This server says why it keeps what it has.
        """
        self.serve(migration=True)
        await self.enroll()
        source = self.filled("D1")
        self.change(source, "UPDATE devices SET authenticate = replace(authenticate, 'C02', 'X')")
        self.assertPrinted(
            await self.migrate(source),
            "Migrated: 0 devices and 0 users.",
            "Failed: 1 devices:",
            "  D1: Authenticate: HTTP 409: D1 has enrolled at this server itself",
            code=1,
        )


class InterruptionTests(EndpointCase):
    """
    Going on where an earlier run ended.
    """

    def setUp(self) -> None:
        super().setUp()
        self.ids = [f"D{number:03}" for number in range(300)]
        self.source = self.filled(*self.ids)

    async def run_again(self) -> None:
        """
        Everything that is left comes, and little that was there.
        """
        state = json.loads(self.state.read_text())
        self.assertTrue("D040" < state["after"] < "D150", state)
        del self.endpoint.asked[:]
        result = await self.migrate(self.source, "--state", str(self.state))
        rest = [id for id in self.ids if id > state["after"]]
        self.assertPrinted(result, f"Migrated: {len(rest)} devices and 0 users.")
        expected = [f"{id} {kind}" for id in rest for kind in ("Authenticate", "TokenUpdate")]
        self.assertEqual(sorted(self.endpoint.got), expected)
        self.assertFalse(self.state.exists())

    async def test_serverGoes(self) -> None:
        self.endpoint.answers = {"D150": [401]}
        result = await self.migrate(self.source, "--state", str(self.state))
        self.assertStopped(result, "HTTP 401: the API key is wrong; run it again with the same")
        got = {line.split()[0] for line in self.endpoint.got}
        after = json.loads(self.state.read_text())["after"]
        self.assertEqual([id for id in self.ids if id <= after and id not in got], [])
        self.assertEqual(after, "D149")
        await self.run_again()

    async def test_interrupted(self) -> None:
        """
        Ctrl-C while devices are on their way.
        """
        send = sender.Sender.send

        def interrupted(carrier: sender.Sender, body: bytes) -> None:
            if b"<string>D100<" in body:
                raise KeyboardInterrupt
            send(carrier, body)

        patch = self.patch(sender.Sender, "send", interrupted)
        result = await self.migrate(self.source, "--state", str(self.state))
        self.assertEqual(result.exit_code, 1)
        self.assertIn("Aborted!", result.stderr)
        patch.restore()
        await self.run_again()

    async def test_ofAnotherMigration(self) -> None:
        self.state.write_text(
            json.dumps({"source": "here", "target": "there", "after": "D1", "failed": {}})
        )
        result = await self.migrate(self.source, "--state", str(self.state))
        self.assertStopped(result, "--state: ")
        self.assertStopped(result, "is of a migration from here to there")

    async def test_noState(self) -> None:
        for content in ("", "[]", '{"source": 1}'):
            self.state.write_text(content)
            result = await self.migrate(self.source, "--state", str(self.state))
            self.assertStopped(result, "can not be read")
        self.assertEqual(self.endpoint.got, [])

    async def test_stateThatCanNotBeWritten(self) -> None:
        """
        It is said before anything is sent.
        """
        result = await self.migrate(self.source, "--state", f"{self.mktemp()}/state")
        self.assertStopped(result, "--state: No such file or directory")
        self.assertEqual(self.endpoint.got, [])


class UsageTests(EndpointCase):
    """
    Command lines that make no sense.
    """

    async def test_usage(self) -> None:
        for arguments in (
            ("--url", "ftp://x/migration"),
            ("--url", "https:///migration"),
            ("--url", "https://x:99999/migration"),
            ("--url", "https://u:p@x/migration"),
            ("--url", "https://x"),
            ("--url", "https://x/a b"),
            ("--parallel", "0"),
            ("--ca", "/does/not/exist"),
        ):
            result = await self.migrate(self.filled("D1"), *arguments)
            self.assertEqual((result.exit_code, result.stdout), (2, ""), arguments)
            self.assertIn(arguments[0], result.stderr)

    async def test_noKey(self) -> None:
        """
        It is asked for.
        """
        result = await self.migrate(self.filled("D1"), NANOMDM_API="")
        self.assertIn("API key of the other server", result.stdout)
        self.assertEqual((result.exit_code, self.endpoint.got), (1, []))

    async def test_noDatabase(self) -> None:
        missing = self.file()
        self.assertStopped(await self.migrate(missing), "--storage-dsn: unable to open")
        self.assertFalse(Path(missing.dsn).exists())
        with closing(sqlite3.connect(missing.dsn)) as connection:
            connection.execute("CREATE TABLE photos (id INTEGER)")
        self.assertStopped(await self.migrate(missing), "no such table: devices")
