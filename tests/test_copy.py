"""
Tests for C{nanomdmctl copy}: moving to another database.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from datetime import datetime
from itertools import count, pairwise
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.ctl import main
from nanomdm.mdm.checkin import parse_checkin
from nanomdm.mdm.command import parse_command, parse_report
from nanomdm.storage import copying
from nanomdm.storage.copying import TABLES
from nanomdm.storage.factory import engine_of, open_storage, prepare_storage
from nanomdm.storage.settings import StorageSettings
from nanomdm.storage.sql import SQLStorage
from tests import samples
from tests.http.case import RESULT, ServerCase, device
from tests.servers import shared, unavailable
from tests.storage.tables import query

_numbers = count()


def plain(value: Any) -> Any:
    """
    A value as every engine can keep it: times in whole seconds.
    """
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str) and value[4:5] == value[7:8] == "-" and value[10:11] == " ":
        value = datetime.fromisoformat(value)
    return value.replace(microsecond=0) if isinstance(value, datetime) else value


class CopyCase:
    """
    Runs the command.
    """

    def ctl(self, *arguments: str, **variables: str) -> Result:
        environ = {name: None for name in os.environ if name.startswith("NANOMDM_")}
        return CliRunner().invoke(main, ["copy", *arguments], env={**environ, **variables})

    def copy(self, source: StorageSettings, target: StorageSettings) -> str:
        """
        @return: what it printed.
        """
        result = self.ctl(
            *("--from-storage", source.kind, "--to-storage", target.kind),
            NANOMDM_FROM_DSN=str(source.dsn),
            NANOMDM_TO_DSN=str(target.dsn),
        )
        self.assertEqual((result.stderr, result.exit_code), ("", 0), result.stdout)
        return result.stdout

    def file(self) -> StorageSettings:
        return StorageSettings(dsn=Path(self.mktemp()).absolute())

    def database(self, engine: str, kind: str) -> StorageSettings:
        server, name = shared(engine), f"copy_{next(_numbers)}"
        self.addCleanup(server.drop_database, name)
        return StorageSettings(kind=kind, dsn=server.create_database(name))

    def contents(self, settings: StorageSettings) -> dict[str, list[Any]]:
        """
        @return: the rows of each table.
        """
        with closing(engine_of(settings, settings.dsn).connect(autocommit=True)) as connection:
            cursor = connection.cursor()
            found = {}
            for table in TABLES:
                columns = ", ".join(column.name for column in table.columns)
                cursor.execute(f"SELECT {columns} FROM {table.name}")
                found[table.name] = sorted(
                    (tuple(map(plain, row)) for row in cursor.fetchall()), key=repr
                )
            return found

    def open(self, settings: StorageSettings) -> SQLStorage:
        storage = open_storage([settings], reactor)
        self.addCleanup(storage.stop)
        return storage


class FilledCase(CopyCase, ServerCase):
    """
    Has something to move.
    """

    async def fill(self, settings: StorageSettings) -> None:
        """
        Use everything that there are columns for.
        """
        self.serve(storages=(settings,))
        await self.enroll()
        storage = self.storage
        for message in (
            samples.token_update(UserID="U1", UserShortName="jo", UserLongName="Jo Dœ"),
            samples.token_update(UnlockToken=b"\x00\xff'\\"),
        ):
            await storage.store_token_update(parse_checkin(message))
        for more in ({}, {"DigestResponse": "abc"}):
            message = samples.checkin("UserAuthenticate", UserID="U1", **more)
            await storage.store_user_authenticate(parse_checkin(message))
        await storage.store_bootstrap_token("D1", b"boot")
        for number in range(5):
            command = parse_command(samples.command(f"C{number}", Text="100 % ✓ ?"))
            await storage.enqueue(command, ["D1", "D1:U1"])
        for status, uuid in (("Acknowledged", "C0"), ("NotNow", "C1")):
            await storage.store_report(parse_report(samples.report(status, uuid)))
        await self.query("UPDATE enrollment_queue SET priority = 5 WHERE command_uuid = 'C4'")
        await self.query(
            "UPDATE enrollment_queue SET created_at = '2026-01-01 00:00:00'"
            " WHERE command_uuid <> 'C4'"
        )
        await self.query(
            "INSERT INTO push_certs (topic, cert_pem, key_pem, stale_token)"
            " VALUES ('com.a', 'CERT', 'KEY', 3)"
        )
        await self.daemon.stopService()
        del self.daemon

    async def go_on(self, settings: StorageSettings) -> None:
        """
        The device is known, and gets what waits for it in the old order, then
        what is new.
        """
        self.serve(storages=(settings,))
        await self.enqueue("D1", "A-new-one")
        answer = await self.report("Idle")
        order = []
        while answer.body:
            order.append(samples.uuid_of(answer.body))
            answer = await self.report("Acknowledged", order[-1])
        self.assertEqual(order, ["C4", "C1", "C2", "C3", "A-new-one"])
        self.assertEqual(await self.storage.fetch_bootstrap_token("D1"), b"boot")
        refused = await self.send(samples.report("Idle"), RESULT, device(2))
        self.assertRefused(refused)


class MoveTests(FilledCase):
    """
    From a file to PostgreSQL, to MariaDB, and back into a file.
    """

    timeout = 60
    skip = unavailable("postgresql") or unavailable("mariadb")

    async def test_round_trip(self) -> None:
        """
        The same rows everywhere, and the device goes on at the last one.
        """
        self.patch(copying, "PAGE", 2)
        first, last = self.file(), self.file()
        await self.fill(first)
        expected = self.contents(first)
        self.assertEqual([name for name, rows in expected.items() if not rows], [])
        ways = [
            first,
            self.database("postgresql", "pgsql"),
            self.database("mariadb", "mysql"),
            last,
        ]
        for source, target in pairwise(ways):
            printed = self.copy(source, target)
            self.assertEqual(self.contents(target), expected)
            self.assertIn("enrollment_queue: 10 rows copied, 0 were there\n", printed)
            total = sum(map(len, expected.values()))
            self.assertTrue(printed.endswith(f"The target has all {total} rows of the source.\n"))
        await self.go_on(ways[1])

    async def test_numbers_go_on(self) -> None:
        """
        What is queued on the target comes after all that was copied.
        """
        source = self.file()
        await self.fill(source)
        with closing(sqlite3.connect(source.dsn)) as connection:
            connection.execute("UPDATE cert_auth_associations SET nanomdm_seq = 500")
            connection.commit()
        for target in (
            self.database("postgresql", "pgsql"),
            self.database("mariadb", "mysql"),
            self.file(),
        ):
            for _ in range(2):
                self.copy(source, target)
            storage = self.open(target)
            await storage.enqueue(parse_command(samples.command("C9")), ["D1"])
            [(number,)] = await query(
                storage, "SELECT nanomdm_seq FROM enrollment_queue WHERE command_uuid = 'C9'"
            )
            self.assertEqual(number, 501)


class ServerTimeTests(CopyCase, SynchronousTestCase):
    """
    Servers whose times are not UTC's.
    """

    def test_zones(self) -> None:
        """
        A moment stays the same moment.
        """
        source = self.file()
        prepare_storage(source)
        with closing(sqlite3.connect(source.dsn)) as connection:
            connection.execute(
                "INSERT INTO commands (command_uuid, request_type, command, created_at)"
                " VALUES ('C1', 'A', '<?xml', '2026-07-01 12:00:00.750')"
            )
            connection.commit()
        server = shared("postgresql")
        target = self.database("postgresql", "pgsql")
        name = str(target.dsn).rpartition("/")[2]
        with closing(server.administer()) as connection:
            connection.autocommit = True
            connection.execute(f"ALTER DATABASE {name} SET timezone = 'Asia/Tokyo'")
        self.copy(source, target)
        with closing(server.python_connection(name)) as connection:
            [(created,)] = connection.execute("SELECT created_at FROM commands").fetchall()
        self.assertEqual(created.isoformat(), "2026-07-01T21:00:00.750000")
        back = self.file()
        self.copy(target, back)
        with closing(sqlite3.connect(back.dsn)) as connection:
            [(created,)] = connection.execute("SELECT created_at FROM commands").fetchall()
        self.assertEqual(created, "2026-07-01 12:00:00.750")

    test_zones.skip = unavailable("postgresql")


class FileTests(CopyCase, SynchronousTestCase):
    """
    What needs no server.
    """

    def filled(self, *uuids: str) -> StorageSettings:
        """
        A file with some commands.
        """
        settings = self.file()
        prepare_storage(settings)
        self.insert(settings, *uuids)
        return settings

    def insert(self, settings: StorageSettings, *uuids: str, request_type: str = "A") -> None:
        with closing(sqlite3.connect(settings.dsn)) as connection:
            connection.executemany(
                "INSERT INTO commands (command_uuid, request_type, command)"
                f" VALUES (?, '{request_type}', '<?xml')",
                [(uuid,) for uuid in uuids],
            )
            connection.commit()

    def assertRefused(self, text: str, *arguments: str, **variables: str) -> None:
        result = self.ctl(*arguments, **variables)
        [line] = result.stderr.splitlines()
        self.assertIn(text, line)
        self.assertEqual(result.exit_code, 1)

    def test_again(self) -> None:
        """
        What is there stays, what is missing comes.
        """
        source, target = self.filled("C1", "C2", "C3"), self.filled()
        self.insert(target, "C2", "C9", request_type="B")
        self.assertIn("commands: 2 rows copied, 1 were there\n", self.copy(source, target))
        self.assertIn("commands: 0 rows copied, 3 were there\n", self.copy(source, target))
        types = [(row[0], row[1]) for row in self.contents(target)["commands"]]
        self.assertEqual(types, [("C1", "A"), ("C2", "B"), ("C3", "A"), ("C9", "B")])

    def test_empty(self) -> None:
        printed = self.copy(self.filled(), self.file())
        self.assertIn("devices: 0 rows copied, 0 were there\n", printed)
        self.assertTrue(printed.endswith("The target has all 0 rows of the source.\n"))

    def test_progress(self) -> None:
        self.patch(copying, "PAGE", 2)
        self.patch(__import__("nanomdm.ctl.copy", fromlist=["x"]), "_PROGRESS", 3)
        source = self.filled(*(f"C{number}" for number in range(8)))
        result = self.ctl(
            *("--from-storage", "sqlite", "--from-dsn", str(source.dsn)),
            *("--to-storage", "sqlite", "--to-dsn", self.mktemp()),
        )
        self.assertEqual(
            result.stderr.splitlines(), ["commands: 4 rows ...", "commands: 6 rows ..."]
        )

    def test_secret_file(self) -> None:
        target = self.file()
        self.copy(self.filled("C1"), target)
        self.assertEqual(os.stat(target.dsn).st_mode & 0o777, 0o600)

    def test_refused(self) -> None:
        """
        One line says which of the two is wrong, and how; nothing is made.
        """
        missing, good = self.mktemp(), str(self.filled("C1").dsn)
        sqlite = ("--from-storage", "sqlite", "--to-storage", "sqlite")
        self.assertRefused(
            "--from-dsn: unable to open", *sqlite, "--from-dsn", missing, "--to-dsn", missing + "2"
        )
        self.assertFalse(os.path.exists(missing) or os.path.exists(missing + "2"))
        empty = self.mktemp()
        Path(empty).touch()
        self.assertRefused(
            "--from-dsn: the database lacks: schema version 1, schema version 2, schema version 3,"
            " schema version 4",
            *(*sqlite, "--from-dsn", empty, "--to-dsn", missing),
        )
        self.assertRefused(
            "--to-dsn: names the source itself", *sqlite, "--from-dsn", good, "--to-dsn", good
        )
        self.assertRefused(
            "does not exist", *sqlite, "--from-dsn", good, "--to-dsn", f"{missing}/sub/db"
        )

    def test_password_stays_secret(self) -> None:
        good = str(self.filled("C1").dsn)
        result = self.ctl(
            *("--from-storage", "sqlite", "--from-dsn", good, "--to-storage", "mysql"),
            NANOMDM_TO_DSN="mysql://u:sesam@127.0.0.1:1/db",
        )
        self.assertEqual(result.exit_code, 1)
        self.assertIn("--to-dsn: ", result.stderr)
        self.assertNotIn("sesam", result.stderr + result.stdout)

    def test_row_that_the_target_refuses(self) -> None:
        """
        The table and the reason are told.
        """
        source, target = self.filled("C1"), self.filled()
        with closing(sqlite3.connect(target.dsn)) as connection:
            connection.execute(
                "CREATE TRIGGER refuse BEFORE INSERT ON commands BEGIN SELECT RAISE(IGNORE); END"
            )
        arguments = ("--from-storage", "sqlite", "--to-storage", "sqlite")
        self.assertRefused(
            "stopped: commands: the target does not take all rows",
            *(*arguments, "--from-dsn", str(source.dsn), "--to-dsn", str(target.dsn)),
        )
