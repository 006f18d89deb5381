"""
Databases that NanoMDM made on MySQL, where ids compare without regard to case; and
races between two servers for one id.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from typing import Any, ClassVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from nanomdm.errors import AlreadyAnswered, Unknown
from nanomdm.interfaces import DeadToken, EnrollmentFilter, Page, PushAgain, ResultFilter
from nanomdm.mdm.checkin import parse_checkin
from nanomdm.mdm.command import installs_mdm_profile, parse_command, parse_report
from nanomdm.storage import repush, transaction
from nanomdm.storage.database import Database
from nanomdm.storage.factory import open_storage
from nanomdm.storage.sql import SQLStorage
from tests import samples
from tests.servers import shared, unavailable
from tests.storage import nanomdm_tables
from tests.storage.contract import HASH_A, HASH_B, PEM
from tests.storage.event_contract import event, name_of
from tests.storage.filling import fill_queue
from tests.storage.tables import query
from tests.storage.test_engines import EngineCase


class CollationTests(EngineCase):
    """
    On a database with NanoMDM's tables and a collation that ignores case.
    """

    explain = "EXPLAIN"

    def setUp(self) -> None:
        dsn = self.database()
        self.name = dsn.rpartition("/")[2]
        with closing(shared(self.engine).python_connection(self.name)) as connection:
            cursor = connection.cursor()
            cursor.execute(f"ALTER DATABASE {self.name} COLLATE utf8mb4_general_ci")
            for statement in nanomdm_tables.MYSQL:
                cursor.execute(statement)
            connection.commit()
        self.storage = open_storage([self.settings(dsn)], reactor)
        self.addCleanup(self.storage.stop)

    async def enroll(self, udid: str) -> None:
        message = parse_checkin(samples.authenticate(udid))
        await self.storage.store_authenticate(message, PEM, installs_mdm_profile)
        await self.storage.store_token_update(parse_checkin(samples.token_update(udid)))

    async def test_answerToARowInOtherLetters(self) -> None:
        """
        Its result is stored, and the command is not delivered again.
        """
        await self.enroll("ABC")
        await self.storage.enqueue(parse_command(samples.command("C1")), ["ABC"])
        await query(self.storage, "SET foreign_key_checks = 0")
        await query(self.storage, "UPDATE enrollment_queue SET id = 'abc'")
        self.assertEqual(await self.storage.next_command("ABC"), samples.command("C1"))
        report = parse_report(samples.report("Acknowledged", "C1", "ABC"))
        outcome = await self.storage.store_report(report)
        self.assertEqual((outcome.known, outcome.next_command), (True, None))
        self.assertIsNone(await self.storage.next_command("ABC"))

    async def test_messagesInOtherLetters(self) -> None:
        """
        They are the enrollment's that the database takes them for.
        """
        await self.enroll("ABC")
        update = parse_checkin(samples.token_update("abc"))
        self.assertEqual(await self.storage.store_token_update(update), 2)
        await self.storage.store_bootstrap_token("abc", b"token")
        for id in ("ABC", "abc"):
            self.assertEqual(await self.storage.fetch_bootstrap_token(id), b"token")
        profile = parse_command(samples.install_mdm_profile("C1"))
        await self.storage.enqueue(profile, ["ABC"])
        message = parse_checkin(samples.authenticate("abc"))
        self.assertTrue(await self.storage.store_authenticate(message, PEM, installs_mdm_profile))
        self.assertEqual(await self.storage.fetch_bootstrap_token("ABC"), b"token")

    async def test_pushes(self) -> None:
        """
        An id in other letters is unknown, and what is there works as anywhere.
        """
        await self.enroll("ABC")
        await self.storage.enqueue(parse_command(samples.command("C1")), ["ABC"])
        for schedule in (False, True):
            self.assertEqual(await self.storage.push_targets(["abc"], schedule), {})
        self.assertEqual(await query(self.storage, "SELECT id FROM nanomdm_pushes"), [])
        found = await self.storage.push_targets(["ABC", "abc"], True)
        self.assertEqual(list(found), ["ABC"])
        await query(self.storage, "UPDATE enrollments SET last_seen_at = '2001-01-01 00:00:00'")
        await query(self.storage, "UPDATE nanomdm_pushes SET due = 1")
        self.assertEqual(await self.storage.push_again("one", 9), [PushAgain("ABC", 0)])
        dead = DeadToken(410, "Unregistered")
        self.assertTrue(await self.storage.bury_push_token(found["ABC"], dead, 0.0))
        found = await self.storage.push_targets(["ABC"], True)
        self.assertEqual(found["ABC"].dead, dead)

    async def test_pushAgainUsesTheIndexes(self) -> None:
        """
        Also where the enrollments compare in another way than this server's tables.
        """
        with closing(shared(self.engine).python_connection(self.name)) as connection:
            fill_queue(connection, self.kind, devices=200, answered=10, outstanding=5)
        statement = repush.states_statement(self.storage._database._engine.dialect)
        plan = await query(
            self.storage, f"{self.explain} {statement.format(values='?, ?')}", "Q1", "Q2"
        )
        text = "\n".join(" ".join(map(str, row)) for row in plan)
        self.assertRegex(text, r"\be\b.*\brange PRIMARY\b")
        looks = re.findall(r"\bq\b.*\bref\b.* nanomdm_queue_next .*Using index", text)
        self.assertEqual(len(looks), 2, text)

    async def test_lists(self) -> None:
        """
        What is asked for in other letters is unknown, and stays; dead tokens, which
        stand in a table with another collation, are found.
        """
        for udid in ("ABC", "abd", "ABE"):
            await self.enroll(udid)
        user = samples.token_update("ABC", UserID="Jo")
        await self.storage.store_token_update(parse_checkin(user))
        await self.storage.enqueue(parse_command(samples.command("C1")), ["ABC", "abd"])
        dead = DeadToken(410, "Unregistered")
        targets = await self.storage.push_targets(["ABC"], False)
        await self.storage.bury_push_token(targets["ABC"], dead, 0.0)
        facts = await self.storage.enrollment("ABC")
        self.assertEqual((facts.dead, facts.children, facts.queue_length), (dead, ["ABC:Jo"], 1))
        for which, expected in (
            (EnrollmentFilter(), ["ABC", "ABC:Jo", "abd", "ABE"]),
            (EnrollmentFilter(pending=True), ["ABC", "abd"]),
            (EnrollmentFilter(user="Jo"), ["ABC:Jo"]),
            (EnrollmentFilter(serial="C02ABE"), ["ABE"]),
            (EnrollmentFilter(id="ABC"), ["ABC"]),
            (EnrollmentFilter(id="abc"), []),
        ):
            self.assertEqual(await self.listed(which), expected, which)
        storage = self.storage
        for id in ("abc", "ABC:jo", "ABD"):
            for ask in (storage.enrollment, storage.disable_enrollment, storage.purge_enrollment):
                await self.assertFailure(ask(id), Unknown)
        self.assertEqual(await storage.purge_enrollment("ABC"), ["ABC", "ABC:Jo"])
        for table in ("devices", "users", "enrollments", "enrollment_queue", "nanomdm_dead_tokens"):
            rows = await query(storage, f"SELECT id FROM {table} WHERE id LIKE ?", "ABC%")
            self.assertEqual(rows, [], table)

    async def listed(self, which: EnrollmentFilter) -> list[str]:
        """
        @return: ids, one page each.
        """
        found: list[str] = []
        part = await self.storage.list_enrollments(which, Page(1))
        found += [one.id for one in part.items]
        while part.cursor is not None:
            part = await self.storage.list_enrollments(which, Page(1, part.cursor))
            found += [one.id for one in part.items]
        return found

    async def test_events(self) -> None:
        """
        Ids in other letters are those of other enrollments.
        """
        ids = ["ABC", "abc", "ABC:jo", "ABC:Jo"]
        for name in ("1", "2"):
            for id in ids:
                await self.storage.record_event(event(f"{id}-{name}", id))
        claimed = await self.storage.claim_events("one", 16, 60.0)
        self.assertEqual({queued.enrollment_id for queued in claimed}, set(ids))
        for queued in claimed:
            self.assertEqual(name_of(queued), f"{queued.enrollment_id}-1")
            following = await self.storage.event_delivered("one", queued)
            self.assertEqual(name_of(following), f"{queued.enrollment_id}-2")
            self.assertIsNone(await self.storage.event_failed("one", following, "why"))
        self.assertEqual(await self.storage.retry_events(None), 4)
        again = await self.storage.claim_events("two", 16, 60.0)
        self.assertEqual(sorted(map(name_of, again)), sorted(f"{id}-2" for id in ids))

    async def test_inspection(self) -> None:
        """
        What is told is spelled as enrollments and commands are; who asks in other letters
        gets nothing, and changes nothing.
        """
        await self.enroll("ABC")
        for uuid in ("Ca", "CB", "Cc"):
            await self.storage.enqueue(parse_command(samples.command(uuid)), ["ABC"])
        await query(self.storage, "SET foreign_key_checks = 0")
        await query(
            self.storage,
            "UPDATE enrollment_queue SET id = 'abc', command_uuid = LOWER(command_uuid),"
            " nanomdm_seq = 0, created_at = '2026-01-01 00:00:00'",
        )
        page, found = Page(1), []
        while page.cursor is not None or not found:
            listing = await self.storage.list_queue("ABC", page)
            found += [one.command_uuid for one in listing.items]
            page = Page(1, listing.cursor)
        self.assertEqual(found, ["Ca", "CB", "Cc"])
        report = parse_report(samples.report("Error", "CB", "ABC"))
        await self.storage.store_report(report)
        await query(self.storage, "UPDATE command_results SET id = 'abC', command_uuid = 'cb'")
        listing = await self.storage.list_results("ABC", ResultFilter(), Page(5))
        self.assertEqual(
            [(one.command_uuid, one.raw) for one in listing.items], [("CB", report.raw)]
        )
        self.assertEqual((await self.storage.result("ABC", "CB")).command_uuid, "CB")
        [target] = (await self.storage.list_targets("CB", Page(5))).items
        self.assertEqual((target.id, target.status), ("ABC", "Error"))
        self.assertEqual((await self.storage.list_targets("cb", Page(5))).items, [])
        for call in (
            *(self.storage.command("cb"), self.storage.result("ABC", "cb")),
            *(self.storage.result("abc", "CB"), self.storage.list_queue("abc", Page(5))),
            *(self.storage.list_results("abc", ResultFilter(), Page(5)),),
            *(self.storage.cancel_command("abc", "Ca"), self.storage.cancel_command("ABC", "ca")),
            *(self.storage.set_priority("ABC", "ca", 5), self.storage.clear_queue("abc")),
        ):
            await self.assertFailure(call, Unknown)
        await self.storage.cancel_command("ABC", "Ca")
        await self.assertFailure(self.storage.cancel_command("ABC", "CB"), AlreadyAnswered)
        self.assertEqual(await self.storage.clear_queue("ABC"), 1)

    async def test_idInOtherLetters(self) -> None:
        """
        No certificate may speak for an id that the database takes for another.
        """
        for first_only in (False, True):
            self.assertTrue((await self.storage.associate("D1", HASH_A, False, 0.0)) is not None)
            facts = await self.storage.associate("d1", HASH_B, first_only, 0.0)
            self.assertEqual((facts.inserted, facts.spelled), (False, "D1"))
        await self.enroll("ABC")
        facts = await self.storage.associate("abc", HASH_B, True, 0.0)
        self.assertEqual((facts.inserted, facts.spelled), (False, "ABC"))


class MariaDBCollationTests(CollationTests):
    """
    MariaDB.
    """

    engine, kind = "mariadb", "mysql"
    skip = unavailable("mariadb")


class MySQLCollationTests(CollationTests):
    """
    MySQL.
    """

    engine, kind = "mysql", "mysql"
    explain = "EXPLAIN FORMAT=TRADITIONAL"
    skip = unavailable("mysql")


class TwoServersTests(EngineCase):
    """
    Two storages on one database, as two servers have them.
    """

    async def associate(self, *calls: tuple[str, str, bool]) -> list[Any]:
        """
        Let two servers associate at the same moment, many times.
        """
        storages = [open_storage([self.settings()], reactor) for _ in range(2)]
        for storage in storages:
            self.addCleanup(storage.stop)
        self.empty()
        running: list[Deferred[Any]] = []
        for round in range(20):
            for storage, (device_id, sha256, first_only) in zip(storages, calls, strict=True):
                pair = f"{device_id}{round}", f"{sha256[:60]}{round:04}"
                running.append(storage.associate(*pair, first_only, 60.0))
        results = await gatherResults(running)
        self.storage: SQLStorage = storages[0]
        return results

    async def test_oneIdTwoCertificates(self) -> None:
        """
        Only the first counts where an id may take only one.
        """
        await self.associate(("D", HASH_A, True), ("D", HASH_B, True))
        rows = await query(
            self.storage, "SELECT id, count(*) FROM cert_auth_associations GROUP BY id"
        )
        self.assertEqual({count for _, count in rows}, {1})
        self.assertEqual(len(rows), 20)

    async def test_oneIdOneCertificate(self) -> None:
        """
        Being shown the same twice is no error.
        """
        results = await self.associate(("D", HASH_A, False), ("D", HASH_A, False))
        self.assertTrue(all(facts.inserted or facts.associated for facts in results))


class PushOrderTests(EngineCase):
    """
    Two storages whose database sorts in another way than Python, and whose statements
    are about few ids each, so that there are many.
    """

    # InnoDB may repeat what deletes and inserts the same rows at once: its locks are
    # those of gaps, too.  It notices at once.
    repeats = True
    tables: ClassVar[Sequence[str]]
    note: ClassVar[Sequence[str]]

    async def setUp(self) -> None:
        self.patch(transaction, "_CHUNK", 4)
        dsn = self.database()
        with closing(shared(self.engine).python_connection(dsn.rpartition("/")[2])) as connection:
            for statement in self.tables:
                connection.cursor().execute(statement)
            connection.commit()
        self.storages = [open_storage([self.settings(dsn)], reactor) for _ in range(2)]
        for storage in self.storages:
            self.addCleanup(storage.stop)
        # Without regard to case they come in another order.
        self.ids = [f"{number:02}{letter}" for number in range(32) for letter in "aBcD"]
        await gatherResults([Deferred.fromCoroutine(self.enroll(id)) for id in self.ids])

    async def enroll(self, udid: str) -> None:
        message = parse_checkin(samples.authenticate(udid))
        await self.storages[0].store_authenticate(message, PEM, installs_mdm_profile)
        await self.storages[0].store_token_update(parse_checkin(samples.token_update(udid)))

    def repeated(self) -> list[str]:
        """
        @return: why transactions will have been repeated.
        """
        original, reasons = Database._back_off, []

        def back_off(database: Database, attempt: int, error: Exception) -> Any:
            reasons.append(str(error))
            return original(database, attempt, error)

        self.patch(Database, "_back_off", back_off)
        return reasons

    async def written(self) -> list[str]:
        """
        @return: ids in the order in which they were written into the schedule.
        """
        rows = await query(self.storages[0], "SELECT id FROM written ORDER BY number")
        return [id for (id,) in rows]

    async def test_order(self) -> None:
        """
        Rows are written, and so locked, in Python's order: whatever
        chunks they come in, no two servers wait for each other.
        """
        for statement in self.note:
            await query(self.storages[0], statement)
        await self.storages[0].push_targets(self.ids, True)
        self.assertEqual(await self.written(), sorted(self.ids))
        self.assertNotEqual(sorted(self.ids), sorted(self.ids, key=str.lower))

    async def test_schedule(self) -> None:
        """
        Two servers push to the same enrollments, named in different orders.
        """
        one, two = self.storages
        repeated = self.repeated()
        wanted, running = [], []
        for turn in range(60):
            for storage, ids in ((one, self.ids), (two, self.ids[::-1])):
                some = ids[turn % 16 :: turn % 3 + 1]
                wanted.append(set(some))
                running.append(storage.push_targets(some, True))
        self.assertEqual([set(targets) for targets in await gatherResults(running)], wanted)
        [(count,)] = await query(one, "SELECT count(*) FROM nanomdm_pushes")
        self.assertEqual((count, repeated), (128, []))

    async def test_everything(self) -> None:
        """
        Pushes, further pushes and ends of both, with rows that lie the other way round.
        """
        self.patch(transaction, "_CHUNK", 32)
        one, two = self.storages
        await one.enqueue(parse_command(samples.command("C1")), self.ids[::2])
        await query(one, "UPDATE enrollments SET last_seen_at = '2001-01-01 00:00:00'")
        targets = await one.push_targets(self.ids[-8:], False)
        dead = DeadToken(410, "Unregistered")
        repeated = self.repeated()
        for _ in range(8):
            await query(one, "DELETE FROM nanomdm_pushes")
            await query(
                one,
                "INSERT INTO nanomdm_pushes (id, pushed, due)"
                " SELECT id, 1, 1 FROM enrollments ORDER BY id DESC",
            )
            running: list[Deferred[Any]] = [
                one.push_again("one", 100),
                two.push_targets(self.ids, True),
                one.forget_pushes(self.ids[::3]),
                one.push_targets(self.ids[::-1], True),
                *(two.bury_push_token(targets[id], dead, 0.0) for id in self.ids[-8:]),
            ]
            await gatherResults(running)
        if not self.repeats:
            self.assertEqual(repeated, [])


class MariaDBPushOrderTests(PushOrderTests):
    """
    MariaDB.
    """

    engine, kind = "mariadb", "mysql"
    tables = ("ALTER DATABASE COLLATE utf8mb4_general_ci", *nanomdm_tables.MYSQL)
    note = (
        "CREATE TABLE written (number INTEGER PRIMARY KEY AUTO_INCREMENT, id VARCHAR(255))",
        "CREATE TRIGGER note AFTER INSERT ON nanomdm_pushes FOR EACH ROW"
        " INSERT INTO written (id) VALUES (NEW.id)",
    )
    skip = unavailable("mariadb")


class MySQLPushOrderTests(PushOrderTests):
    """
    MySQL.
    """

    engine, kind = "mysql", "mysql"
    tables = MariaDBPushOrderTests.tables
    note = MariaDBPushOrderTests.note
    skip = unavailable("mysql")


class PostgreSQLPushOrderTests(PushOrderTests):
    """
    PostgreSQL.
    """

    engine, kind = "postgresql", "pgsql"
    repeats = False
    tables = (
        *nanomdm_tables.PGSQL,
        'ALTER TABLE enrollments ALTER COLUMN id TYPE VARCHAR(255) COLLATE "und-x-icu"',
    )
    # Where the rows are tells when they came.
    note = ("CREATE VIEW written AS SELECT id, ctid AS number FROM nanomdm_pushes",)
    skip = unavailable("postgresql")


class MariaDBTwoServersTests(TwoServersTests):
    """
    MariaDB.
    """

    engine, kind = "mariadb", "mysql"
    skip = unavailable("mariadb")


class MySQLTwoServersTests(TwoServersTests):
    """
    MySQL.
    """

    engine, kind = "mysql", "mysql"
    skip = unavailable("mysql")


class PostgreSQLTwoServersTests(TwoServersTests):
    """
    PostgreSQL.
    """

    engine, kind = "postgresql", "pgsql"
    skip = unavailable("postgresql")


del CollationTests, PushOrderTests, TwoServersTests
