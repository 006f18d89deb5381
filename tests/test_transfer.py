"""
Tests for C{nanomdmctl export} and C{nanomdmctl import}.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.ctl import main, transfer
from nanomdm.mdm.command import parse_command
from nanomdm.storage import copying, export, importing
from nanomdm.storage.copying import TABLES
from nanomdm.storage.factory import prepare_storage
from nanomdm.storage.settings import StorageSettings
from tests import samples
from tests.servers import shared, unavailable
from tests.storage.tables import query
from tests.test_copy import CopyCase, FilledCase


class TransferCase(CopyCase):
    """
    Runs the commands.
    """

    def transfer(self, command: str, file: str, settings: StorageSettings) -> Result:
        environ = {name: None for name in os.environ if name.startswith("NANOMDM_")}
        environ |= {"NANOMDM_STORAGE": settings.kind, "NANOMDM_STORAGE_DSN": str(settings.dsn)}
        return CliRunner().invoke(main, [command, file], env=environ)

    def export(self, source: StorageSettings, file: str | None = None) -> str:
        """
        @return: the file.
        """
        file = file or self.mktemp()
        result = self.transfer("export", file, source)
        self.assertEqual((result.stdout, result.exit_code), ("", 0), result.stderr)
        return file

    def load(self, file: str, target: StorageSettings) -> list[str]:
        """
        @return: what importing printed.
        """
        result = self.transfer("import", file, target)
        self.assertEqual((result.stderr, result.exit_code), ("", 0), result.stdout)
        return result.stdout.splitlines()

    def lines(self, file: str) -> list[Any]:
        return [json.loads(line) for line in Path(file).read_bytes().splitlines()]


class RoundTripTests(TransferCase, FilledCase):
    """
    Between all kinds of databases.
    """

    timeout = 90
    skip = unavailable("postgresql") or unavailable("mariadb") or unavailable("mysql")

    async def test_round_trip(self) -> None:
        """
        The same rows everywhere, and the device goes on at the last one.
        """
        self.patch(copying, "PAGE", 2)
        self.patch(importing, "PAGE", 2)
        first, last = self.file(), self.file()
        await self.fill(first)
        expected = self.contents(first)
        self.assertEqual([name for name, rows in expected.items() if not rows], [])
        ways = [
            *(first, self.database("postgresql", "pgsql"), self.database("mariadb", "mysql")),
            *(self.database("mysql", "mysql"), last),
        ]
        files = []
        for source, target in pairwise(ways):
            files.append(self.export(source))
            printed = self.load(files[-1], target)
            self.assertEqual(self.contents(target), expected)
            self.assertIn("enrollment_queue: 10 rows imported, 0 were there", printed)
            total = sum(map(len, expected.values()))
            self.assertEqual(printed[-1], f"The target has all {total} rows of the file.")
        await self.go_on(last)
        # PostgreSQL's file has SQLite's times, to the millisecond; MySQL's has not.
        self.assertEqual(self.rows(files[0]), self.rows(files[1]))
        self.assertEqual(self.rows(files[2]), self.rows(files[3]))
        self.assertNotEqual(self.rows(files[1]), self.rows(files[2]))

    def rows(self, file: str) -> list[str]:
        return sorted(json.dumps(line) for line in self.lines(file)[1:-1])

    async def test_again(self) -> None:
        """
        Rows that are there stay.
        """
        source, target = self.file(), self.database("postgresql", "pgsql")
        await self.fill(source)
        file = self.export(source)
        self.load(file, target)
        before = self.contents(target)
        printed = self.load(file, target)
        self.assertIn("devices: 0 rows imported, 1 were there", printed)
        self.assertEqual(self.contents(target), before)

    async def test_numbersGoOn(self) -> None:
        """
        What is queued on the target comes after all that was imported.
        """
        source = self.file()
        await self.fill(source)
        with closing(sqlite3.connect(source.dsn)) as connection:
            connection.execute("UPDATE enrollment_queue SET nanomdm_seq = 500")
            connection.commit()
        file = self.export(source)
        for target in (self.database("postgresql", "pgsql"), self.file()):
            self.load(file, target)
            storage = self.open(target)
            await storage.enqueue(parse_command(samples.command("C9")), ["D1"])
            [(number,)] = await query(
                storage, "SELECT nanomdm_seq FROM enrollment_queue WHERE command_uuid = 'C9'"
            )
            self.assertEqual(number, 501)


class ZoneTests(TransferCase, SynchronousTestCase):
    """
    A server whose clock is put back once a year.
    """

    skip = unavailable("postgresql")

    def test_hourThatThereIsTwice(self) -> None:
        """
        A time in it may come back as another; that does not stop anything.
        """
        source = self.file()
        prepare_storage(source)
        with closing(sqlite3.connect(source.dsn)) as connection:
            connection.executemany(
                "INSERT INTO commands (command_uuid, request_type, command, created_at)"
                " VALUES (?, 'A', '<?xml', ?)",
                [(f"C{hour}", f"2025-10-26 {hour:02}:30:00") for hour in range(4)],
            )
            connection.commit()
        target, server = self.database("postgresql", "pgsql"), shared("postgresql")
        name = str(target.dsn).rpartition("/")[2]
        with closing(server.administer()) as connection:
            connection.autocommit = True
            connection.execute(f"ALTER DATABASE {name} SET timezone = 'Europe/Berlin'")
        self.load(self.export(source), target)
        back = self.file()
        self.load(self.export(target), back)
        self.assertEqual(len(self.contents(back)["commands"]), 4)


class FileTests(TransferCase, SynchronousTestCase):
    """
    The file, and what is wrong with it.
    """

    def setUp(self) -> None:
        self.source = self.file()
        prepare_storage(self.source)
        with closing(sqlite3.connect(self.source.dsn)) as connection:
            connection.execute(
                "INSERT INTO devices (id, serial_number, unlock_token, authenticate,"
                " authenticate_at, created_at, updated_at) VALUES ('D1', 'S1', x'00ff', '<a>\n✓',"
                " '2026-01-02 03:04:05.678', '2026-01-02 03:04:05', '2026-01-02 03:04:05')"
            )
            connection.execute(
                "INSERT INTO enrollments (id, device_id, type, topic, push_magic, token_hex,"
                " last_seen_at) VALUES ('D1', 'D1', 'Device', 't', 'm', 'ab', CURRENT_TIMESTAMP)"
            )
            connection.executemany(
                "INSERT INTO commands (command_uuid, request_type, command) VALUES (?, 'A', ?)",
                [(f"C{number}", f"<?xml {number}") for number in range(3)],
            )
            connection.commit()

    def test_format(self) -> None:
        """
        What is written for those who read such files with other programs.
        """
        file = self.export(self.source)
        header, device, *_, end = self.lines(file)
        self.assertEqual(
            (header["format"], header["version"], header["storage"]),
            ("nanomdm export", 1, "sqlite"),
        )
        self.assertRegex(header["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")
        self.assertEqual(device["table"], "devices")
        self.assertEqual(
            device["row"],
            {
                "id": "D1",
                "identity_cert": None,
                "serial_number": "S1",
                "unlock_token": {"base64": "AP8="},
                "unlock_token_at": None,
                "authenticate": "<a>\n✓",
                "authenticate_at": "2026-01-02T03:04:05.678000Z",
                "token_update": None,
                "token_update_at": None,
                "bootstrap_token_b64": None,
                "bootstrap_token_at": None,
                "created_at": "2026-01-02T03:04:05.000000Z",
                "updated_at": "2026-01-02T03:04:05.000000Z",
            },
        )
        self.assertIs(self.lines(file)[2]["row"]["enabled"], True)
        raw = Path(file).read_bytes().splitlines(keepends=True)
        self.assertEqual(
            end["end"]["devices"], {"rows": 1, "sha256": hashlib.sha256(raw[1]).hexdigest()}
        )
        self.assertEqual(
            end["end"]["commands"],
            {"rows": 3, "sha256": hashlib.sha256(b"".join(raw[3:6])).hexdigest()},
        )
        self.assertEqual(list(end["end"]), [table.name for table in TABLES])

    def test_secretFile(self) -> None:
        """
        Nobody else can read it, and it replaces an older one when it is whole.
        """
        file = self.mktemp()
        for path in (file, f"{file}.part"):
            Path(path).write_text("old")
            os.chmod(path, 0o644)
        self.export(self.source, file)
        self.assertEqual(os.stat(file).st_mode & 0o777, 0o600)
        self.assertFalse(os.path.exists(f"{file}.part"))

    def test_noHalfFile(self) -> None:
        """
        What fails leaves the older file.
        """
        file = self.mktemp()
        Path(file).write_text("old")

        def fail(*arguments: object) -> None:
            raise OSError(28, "No space left on device")

        self.patch(transfer.exporting, "row_line", fail)
        result = self.transfer("export", file, self.source)
        self.assertEqual(result.stderr, f"Error: {file}: No space left on device\n")
        self.assertEqual(result.exit_code, 1)
        self.assertEqual(Path(file).read_text(), "old")
        self.assertFalse(os.path.exists(f"{file}.part"))

    def test_noDirectory(self) -> None:
        file = f"{self.mktemp()}/x"
        result = self.transfer("export", file, self.source)
        self.assertEqual(result.stderr, f"Error: {file}: No such file or directory\n")

    def test_compressed(self) -> None:
        file = self.export(self.source, f"{self.mktemp()}.gz")
        self.assertEqual(os.stat(file).st_mode & 0o777, 0o600)
        with gzip.open(file) as lines:
            self.assertIn(b"nanomdm export", lines.readline())
        target = self.file()
        self.assertIn("commands: 3 rows imported, 0 were there", self.load(file, target))
        self.assertEqual(self.contents(target), self.contents(self.source))

    def test_standardOutput(self) -> None:
        result = self.transfer("export", "-", self.source)
        file = self.mktemp()
        Path(file).write_bytes(result.stdout_bytes)
        self.assertIn("devices: 1 rows\n", result.stderr)
        self.assertTrue(result.stderr.endswith("Exported 5 rows.\n"))
        target = self.file()
        self.load(file, target)
        self.assertEqual(self.contents(target), self.contents(self.source))

    def test_progress(self) -> None:
        self.patch(transfer, "_PROGRESS", 2)
        self.patch(copying, "PAGE", 1)
        result = self.transfer("export", self.mktemp(), self.source)
        self.assertIn("commands: 2 rows ...\n", result.stderr)
        self.assertNotIn("commands: 3 rows ...\n", result.stderr)

    def test_empty(self) -> None:
        source, target = self.file(), self.file()
        prepare_storage(source)
        printed = self.load(self.export(source), target)
        self.assertEqual(printed, ["The target has all 0 rows of the file."])

    def test_partlyThere(self) -> None:
        target = self.file()
        prepare_storage(target)
        with closing(sqlite3.connect(target.dsn)) as connection:
            connection.executemany(
                "INSERT INTO commands (command_uuid, request_type, command)"
                " VALUES (?, 'B', '<?xml')",
                [("C1",), ("C9",)],
            )
            connection.commit()
        printed = self.load(self.export(self.source), target)
        self.assertIn("commands: 2 rows imported, 1 were there", printed)
        types = [row[:2] for row in self.contents(target)["commands"]]
        self.assertEqual(types, [("C0", "A"), ("C1", "B"), ("C2", "A"), ("C9", "B")])

    # damage

    def assertRefused(self, text: str, change: Callable[[bytes], bytes], name: str = "") -> None:
        """
        A file that was changed is refused with this text; nothing is written, the
        target is not even made.
        """
        file = self.export(self.source, self.mktemp() + name)
        content = Path(file).read_bytes()
        changed = change(content)
        self.assertNotEqual(changed, content)
        Path(file).write_bytes(changed)
        target = self.file()
        result = self.transfer("import", file, target)
        self.assertEqual((result.stdout, result.exit_code), ("", 1))
        self.assertEqual(result.stderr, f"Error: {file}: {text}\n")
        self.assertFalse(Path(target.dsn).exists())

    def replaced(self, old: bytes, new: bytes) -> Callable[[bytes], bytes]:
        return lambda content: content.replace(old, new, 1)

    def test_truncated(self) -> None:
        """
        Wherever it ends.
        """
        size = len(Path(self.export(self.source)).read_bytes())
        for end in (0, 10, 300, size // 2, size - 2):
            file = self.export(self.source)
            content = Path(file).read_bytes()[:end]
            Path(file).write_bytes(content)
            target = self.file()
            result = self.transfer("import", file, target)
            line = content.count(b"\n") + 1
            self.assertEqual(
                result.stderr, f"Error: {file}: line {line}: the file ends here, too early\n"
            )
            self.assertFalse(Path(target.dsn).exists())
        self.assertRefused(
            "line 6: the file ends here, too early",
            lambda content: b"".join(content.splitlines(keepends=True)[:-1]),
        )

    def test_truncatedCompressed(self) -> None:
        """
        Even if only the end of the compression is missing.
        """
        for cut in (1, 8, 100):
            file = self.export(self.source, f"{self.mktemp()}.gz")
            Path(file).write_bytes(Path(file).read_bytes()[:-cut])
            target = self.file()
            result = self.transfer("import", file, target)
            self.assertRegex(
                result.stderr, r": line \d: can not be read: Compressed file ended .*\n\Z"
            )
            self.assertFalse(Path(target.dsn).exists())

    def test_notCompressed(self) -> None:
        self.assertRefused(
            "line 1: can not be read: Not a gzipped file (b'{}')",
            lambda content: b"{}\n",
            ".gz",
        )

    def test_tampered(self) -> None:
        for text, change in (
            (
                "line 7: the rows of commands (lines 4 to 6) are not those exported",
                self.replaced(b"<?xml 1", b"<?xml 7"),
            ),
            (
                "line 7: the rows of devices (lines 2 to 2) are not those exported",
                self.replaced(b"AP8=", b"AP4="),
            ),
            (
                "line 6: the rows of commands (lines 4 to 5) are not those exported",
                lambda content: b"".join(
                    line for line in content.splitlines(keepends=True) if b'"C1"' not in line
                ),
            ),
            (
                "line 7: the rows of push_certs are not those exported",
                self.replaced(b'"push_certs":{"rows":0', b'"push_certs":{"rows":1'),
            ),
        ):
            self.assertRefused(text, change)

    def test_malformed(self) -> None:
        for text, change in (
            ("line 2: is not JSON", self.replaced(b'"row":', b'"row"')),
            ("line 2: is not JSON", self.replaced(b"S1", b"\xff")),
            ("line 3: is no row of a known table", self.replaced(b'"enrollments"', b'"photos"')),
            ("line 2: the columns are not those of devices", self.replaced(b'"id"', b'"ID"')),
            ("line 2: id is no value for its column", self.replaced(b'"id":"D1"', b'"id":1')),
            ("line 2: id is no value for its column", self.replaced(b'"id":"D1"', b'"id":null')),
            (
                "line 2: unlock_token is no value for its column",
                self.replaced(b'{"base64":"AP8="}', b'"AP8="'),
            ),
            (
                "line 2: authenticate_at is no value for its column",
                self.replaced(b"2026-01-02T03:04:05.678000Z", b"yesterday"),
            ),
            (
                "line 2: authenticate_at is no value for its column",
                self.replaced(b"2026-01-02T03:04:05.678000Z", b"2026-01-02T03:04:05.678000"),
            ),
            (
                "line 2: authenticate_at is no value for its column",
                self.replaced(b"2026-01-02T03:04:05.678000Z", b"0001-01-01T00:00:00+01:00"),
            ),
            (
                "line 2: id is no value for its column",
                self.replaced(b'"id":"D1"', b'"id":"\\ud800"'),
            ),
            ("line 3: enabled is no value for its column", self.replaced(b":true", b":1")),
            (
                "line 3: a row of devices among those of enrollments",
                lambda content: _swapped(content, 1, 2),
            ),
            ("line 8: there is more behind the end", lambda content: content + b"{}\n"),
            ("line 4: is not an object", lambda content: _inserted(content, 3, b"[]\n")),
            (
                "line 7: does not say what is in the file",
                self.replaced(b'{"end":{', b'{"end":[],"x":{'),
            ),
            (
                "line 7: the rows of devices (lines 2 to 2) are not those exported",
                self.replaced(b'{"end":{"devices"', b'{"end":{"photos"'),
            ),
        ):
            self.assertRefused(text, change)

    def test_endlessLine(self) -> None:
        """
        A line is not read for longer than any row could be.
        """
        self.patch(export, "_LONGEST", 100)
        content = io.BytesIO(b"{" + b" " * 1000)
        refused = self.assertRaises(export.Damaged, list, export.read(content))
        self.assertEqual(str(refused), "line 1: has more than 100 bytes")
        self.assertEqual(content.tell(), 100)

    def test_otherFile(self) -> None:
        for content, text in (
            (b"{}\n", "line 1: this is no export of nanomdm"),
            (b"SQLite format 3\0\n", "line 1: is not JSON"),
            (b"[]\n", "line 1: is not an object"),
        ):
            self.assertRefused(text, lambda _, content=content: content)

    def test_otherVersion(self) -> None:
        self.assertRefused(
            "line 1: format version 2; this program reads 1",
            self.replaced(b'"version":1', b'"version":2'),
        )

    # targets

    def test_notKept(self) -> None:
        """
        The target is read again.
        """
        target = self.file()
        prepare_storage(target)
        with closing(sqlite3.connect(target.dsn)) as connection:
            connection.execute(
                "CREATE TRIGGER spoil AFTER INSERT ON commands WHEN NEW.command_uuid = 'C1'"
                " BEGIN UPDATE commands SET request_type = 'Z' WHERE command_uuid = 'C1'; END"
            )
        result = self.transfer("import", self.export(self.source), target)
        self.assertEqual(
            result.stderr,
            "Error: stopped: commands: the target has not kept all rows as they are\n",
        )
        self.assertEqual(result.exit_code, 1)

    def test_changedMeanwhile(self) -> None:
        """
        Between the check and the writing.
        """
        file, target = self.export(self.source), self.file()
        prepare = transfer.prepare_storage

        def meanwhile(settings: StorageSettings) -> None:
            prepare(settings)
            content = Path(file).read_bytes()
            Path(file).write_bytes(content.replace(b"<?xml 1", b"<?xml 7"))

        self.patch(transfer, "prepare_storage", meanwhile)
        result = self.transfer("import", file, target)
        self.assertEqual(
            result.stderr,
            "Error: stopped: line 7: the rows of commands (lines 4 to 6) are not those exported\n",
        )

    def test_databases(self) -> None:
        missing = self.file()
        result = self.transfer("export", self.mktemp(), missing)
        self.assertIn("Error: --storage-dsn: unable to open", result.stderr)
        self.assertFalse(Path(missing.dsn).exists())
        nowhere = StorageSettings(dsn=Path("/does/not/exist/db"))
        result = self.transfer("import", self.export(self.source), nowhere)
        self.assertIn("Error: --storage-dsn: /does/not/exist/db: ", result.stderr)
        result = self.transfer("import", self.mktemp(), self.file())
        self.assertEqual(result.exit_code, 2)


def _swapped(content: bytes, one: int, other: int) -> bytes:
    lines = content.splitlines(keepends=True)
    lines[one], lines[other] = lines[other], lines[one]
    return b"".join(lines)


def _inserted(content: bytes, place: int, line: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    return b"".join([*lines[:place], line, *lines[place:]])
