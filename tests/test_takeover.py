"""
Taking over the database of a site that ran NanoMDM, and giving it back.
"""

from __future__ import annotations

import hashlib
from contextlib import closing
from itertools import count
from typing import Any, ClassVar

from nanomdm.interfaces import DeadToken, PushTarget, StoredPushCertificate
from nanomdm.storage.settings import StorageSettings
from tests import samples
from tests.http.case import CHECKIN, ServerCase, device
from tests.servers import shared, unavailable
from tests.storage import nanomdm_tables as nanomdm

_numbers = count()

CERTIFICATE, KEY = "-----BEGIN CERTIFICATE-----", "-----BEGIN RSA PRIVATE KEY-----"

#: What NanoMDM asks for the next command, in other words.
_NEXT = """
    SELECT c.command_uuid
      FROM enrollment_queue q
     INNER JOIN commands c ON c.command_uuid = q.command_uuid
      LEFT JOIN command_results r ON r.id = q.id AND r.command_uuid = q.command_uuid
     WHERE q.id = %s AND q.active = TRUE AND (r.status IS NULL OR r.status = 'NotNow')
     ORDER BY q.priority DESC, q.created_at
     LIMIT 1
"""
_STRUCTURE = (
    """
    SELECT table_name, column_name, data_type, character_maximum_length, is_nullable,
           column_default
      FROM information_schema.columns WHERE table_schema = {schema}
    """,
    """
    SELECT table_name, constraint_name, constraint_type
      FROM information_schema.table_constraints WHERE table_schema = {schema}
    """,
    "SELECT table_name, view_definition FROM information_schema.views"
    " WHERE table_schema = {schema}",
)


def sha256(number: int) -> str:
    """
    The hash of a device's certificate, as NanoMDM keeps it.
    """
    return hashlib.sha256(device(number).der).hexdigest()


class TakeoverTests(ServerCase):
    """
    A database that was made and filled by hand as NanoMDM does it.
    """

    engine: ClassVar[str]
    kind: ClassVar[str]
    tables: ClassVar[tuple[str, ...]]
    indexes: ClassVar[str]
    schema: ClassVar[str]
    upsert: ClassVar[str]
    again: ClassVar[str]

    def setUp(self) -> None:
        self.server, self.name = shared(self.engine), f"takeover_{next(_numbers)}"
        self.dsn = self.server.create_database(self.name)
        self.addCleanup(self.server.drop_database, self.name)
        self.connection = self.server.python_connection(self.name)
        self.addCleanup(self.connection.close)
        for statement in self.tables:
            self.sql(statement)
        self.fill()
        self.before = self.structure()

    def sql(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        with closing(self.connection.cursor()) as cursor:
            cursor.execute(statement, parameters or None)
            return [tuple(row) for row in cursor.fetchall()] if cursor.description else []

    def insert(self, table: str, **values: object) -> None:
        marks = ", ".join(["%s"] * len(values))
        names = ", ".join(values)
        self.sql(f"INSERT INTO {table} ({names}) VALUES ({marks})", *values.values())

    def fill(self) -> None:
        """
        Devices D1, with a user, and D2.  D1 has commands of several days: answered
        ones that are still active, one that it did not want yet, one that was
        cleared, and new ones.
        """
        then = "2026-02-03 04:05:06"
        for number in (1, 2):
            udid = f"D{number}"
            self.insert(
                "devices",
                id=udid,
                identity_cert=device(number).pem.decode(),
                serial_number=f"C02{udid}",
                unlock_token=b"unlock",
                unlock_token_at=then,
                authenticate=samples.authenticate(udid).decode(),
                authenticate_at=then,
                token_update=samples.token_update(udid).decode(),
                token_update_at=then,
                bootstrap_token_b64="Ym9vdA==",
                bootstrap_token_at=then,
            )
            self.insert("cert_auth_associations", id=udid, sha256=sha256(number))
            self.enrollment(udid, udid, None, "Device", then)
        user = samples.token_update(UserID="U1").decode()
        self.insert("users", id="D1:U1", device_id="D1", user_short_name="jo", token_update=user)
        self.enrollment("D1:U1", "D1", "D1:U1", "User", then)
        for day in range(1, 7):
            self.queue(f"C{day}", ("D1", "D1:U1"), f"2026-02-0{day} 00:00:00")
        self.sql("UPDATE enrollment_queue SET priority = 3 WHERE command_uuid = 'C6'")
        self.sql("UPDATE enrollment_queue SET active = FALSE WHERE command_uuid = 'C3'")
        for uuid, status in (("C1", "Acknowledged"), ("C2", "Error"), ("C4", "NotNow")):
            result = samples.report(status, uuid).decode()
            self.insert("command_results", id="D1", command_uuid=uuid, status=status, result=result)
        self.sql(
            "UPDATE command_results SET not_now_at = CURRENT_TIMESTAMP, not_now_tally = 1"
            " WHERE status = 'NotNow'"
        )
        self.insert(
            "push_certs", topic=samples.TOPIC, cert_pem=CERTIFICATE, key_pem=KEY, stale_token=7
        )

    def enrollment(self, id: str, device_id: str, user: str | None, type: str, seen: str) -> None:
        self.insert(
            "enrollments",
            id=id,
            device_id=device_id,
            user_id=user,
            type=type,
            topic=samples.TOPIC,
            push_magic="magic",
            token_hex="abcd",
            last_seen_at=seen,
            token_update_tally=4,
        )

    def queue(self, uuid: str, ids: tuple[str, ...], when: str | None = None) -> None:
        """
        Enqueue as NanoMDM does.
        """
        command = samples.command(uuid).decode()
        self.insert(
            "commands", command_uuid=uuid, request_type="DeviceInformation", command=command
        )
        marks = ", ".join(["(%s, %s)"] * len(ids))
        pairs = [part for id in ids for part in (id, uuid)]
        self.sql(f"INSERT INTO enrollment_queue (id, command_uuid) VALUES {marks}", *pairs)
        if when is not None:
            self.sql(
                "UPDATE enrollment_queue SET created_at = %s WHERE command_uuid = %s", when, uuid
            )

    def store(self, id: str, uuid: str, status: str) -> None:
        """
        Store a result as NanoMDM does.
        """
        result = samples.report(status, uuid, id).decode()
        self.sql(
            "INSERT INTO command_results (id, command_uuid, status, result, not_now_tally)"
            f" VALUES (%s, %s, %s, %s, 0) {self.upsert}",
            *(id, uuid, status, result),
        )

    def next(self, id: str) -> str | None:
        """
        @return: what NanoMDM would send.
        """
        rows = self.sql(_NEXT, id)
        return rows[0][0] if rows else None

    def structure(self) -> set[tuple[Any, ...]]:
        found: set[tuple[Any, ...]] = set()
        for statement in (*_STRUCTURE, self.indexes):
            found |= set(self.sql(statement.format(schema=self.schema)))
        return found

    def take_over(self) -> None:
        self.serve(storages=(StorageSettings(kind=self.kind, dsn=self.dsn),))

    async def idle(self) -> str | None:
        return self.uuid(await self.report("Idle"))

    async def answer(self, status: str, uuid: str) -> str | None:
        return self.uuid(await self.report(status, uuid))

    def uuid(self, answer: Any) -> str | None:
        self.assertEqual(answer.code, 200, answer.body)
        return samples.uuid_of(answer.body) if answer.body else None

    async def test_goes_on(self) -> None:
        """
        A device goes on without enrolling again: it gets what waits for it, in
        order, and what it answers is stored.
        """
        self.take_over()
        order = [await self.idle()]
        while order[-1] is not None:
            order.append(await self.answer("Acknowledged", order[-1]))
        self.assertEqual(order, ["C6", "C4", "C5", None])
        self.assertEqual(
            sorted(self.sql("SELECT command_uuid, status FROM command_results WHERE id = 'D1'")),
            [(uuid, "Error" if uuid == "C2" else "Acknowledged") for uuid in ("C1", "C2")]
            + [(uuid, "Acknowledged") for uuid in ("C4", "C5", "C6")],
        )
        user = await self.storage.next_command("D1:U1")
        self.assertEqual(samples.uuid_of(user), "C6")
        self.assertOK(await self.send(samples.token_update()))
        [(tally,)] = self.sql("SELECT token_update_tally FROM enrollments WHERE id = 'D1'")
        self.assertEqual(tally, 5)
        self.assertEqual(await self.storage.fetch_bootstrap_token("D1"), b"boot")
        self.assertEqual((await self.enqueue("D1,D2", "C7")).code, 200)
        self.assertEqual(await self.idle(), "C7")

    async def test_associations(self) -> None:
        """
        Certificates belong to whom they belonged.
        """
        self.take_over()
        self.assertRefused(await self.report("Idle", identity=device(2)))
        self.assertRefused(await self.send(samples.authenticate("D3"), identity=device(2)))
        self.assertRefused(await self.report("Idle", udid="D1", identity=device(3)))
        self.assertEqual((await self.report("Idle", udid="D2", identity=device(2))).code, 200)

    async def test_upkeep(self) -> None:
        """
        Answered rows leave the active ones; nothing else changes.
        """
        self.take_over()
        await self.storage._upkeep.tidy()
        active = "SELECT command_uuid FROM enrollment_queue WHERE id = 'D1' AND active = TRUE"
        self.assertEqual(sorted(self.sql(active)), [("C4",), ("C5",), ("C6",)])
        self.assertEqual(self.sql("SELECT count(*) FROM enrollment_queue"), [(12,)])
        self.assertEqual(self.sql("SELECT count(*) FROM command_results"), [(3,)])
        self.assertEqual(await self.idle(), "C6")

    async def test_push_certificates(self) -> None:
        """
        They are there, and each sees that the other replaced one.
        """
        self.take_over()
        found = await self.storage.push_certificate(samples.TOPIC)
        self.assertEqual(found, StoredPushCertificate(samples.TOPIC, CERTIFICATE, KEY, 7))
        await self.storage.store_push_certificate(samples.TOPIC, f"{CERTIFICATE}2", f"{KEY}2")
        rows = self.sql("SELECT topic, cert_pem, key_pem, stale_token FROM push_certs")
        self.assertEqual(rows, [(samples.TOPIC, f"{CERTIFICATE}2", f"{KEY}2", 8)])
        theirs = f"{CERTIFICATE}3"
        self.sql("UPDATE push_certs SET cert_pem = %s, stale_token = stale_token + 1", theirs)
        found = await self.storage.push_certificate(samples.TOPIC)
        self.assertEqual((found.certificate_pem, found.stale_token), (theirs, 9))

    async def test_pushes(self) -> None:
        """
        Enrollments can be pushed to, and a dead token is one until either server
        stores a C{TokenUpdate}.
        """
        self.take_over()
        ids = ["D1", "D1:U1"]
        found = await self.storage.push_targets(ids, True)
        self.assertEqual(
            found,
            {id: PushTarget(id, samples.TOPIC, "abcd", "magic", True, 4, 7) for id in ids},
        )
        self.sql("UPDATE nanomdm_pushes SET pushed = 1, due = 2")
        self.sql("UPDATE enrollments SET last_seen_at = '1970-01-01 00:00:01'")
        again = await self.storage.push_again("one", 9)
        self.assertEqual([one.id for one in again], ids)
        gone = DeadToken(410, "Unregistered")
        for id in ids:
            self.assertTrue(await self.storage.bury_push_token(found[id], gone, 3600.0))
            self.assertEqual((await self.storage.push_targets([id], True))[id].dead, gone)
            self.sql(
                "UPDATE enrollments SET token_update_tally = token_update_tally + 1 WHERE id = %s",
                id,
            )
            self.assertIsNone((await self.storage.push_targets([id], True))[id].dead)

    async def test_back(self) -> None:
        """
        NanoMDM goes on beside this server, or after it: everything that it had is
        there unchanged, its statements work, and each sees what the other did.
        """
        self.take_over()
        self.assertEqual(self.before - self.structure(), set())
        self.assertEqual(await self.answer("Acknowledged", "C6"), "C4")
        self.assertEqual(self.next("D1"), "C4")
        self.assertEqual((await self.enqueue("D1", "C7")).code, 200)
        self.queue("N1", ("D1", "D2"))
        for status in ("NotNow", "NotNow", "Acknowledged"):
            self.store("D1", "C4", status)
        self.assertEqual(self.next("D1"), "C5")
        self.assertEqual(await self.idle(), "C5")
        self.assertEqual(await self.answer("NotNow", "C5"), self.first_of("C7", "N1"))
        for uuid in ("C5", "C7"):
            await self.answer("Acknowledged", uuid)
        self.assertEqual((self.next("D1"), await self.idle()), ("N1", "N1"))
        self.store("D1", "N1", "Error")
        self.assertEqual((self.next("D1"), await self.idle()), (None, None))
        self.assertEqual(self.next("D2"), "N1")

    def first_of(self, *uuids: str) -> str:
        """
        Which of two commands comes first: within a second, NanoMDM's.
        """
        rows = self.sql(
            "SELECT command_uuid FROM enrollment_queue WHERE id = 'D1' AND command_uuid IN (%s, %s)"
            " ORDER BY created_at, nanomdm_seq",
            *uuids,
        )
        return str(rows[0][0])

    async def test_associations_of_nanomdm(self) -> None:
        """
        A certificate that NanoMDM associates is honoured, also as the newest one of
        its device, and nobody else can have it.
        """
        self.take_over()
        statement = f"INSERT INTO cert_auth_associations (id, sha256) VALUES (%s, %s) {self.again}"
        for _ in range(2):
            self.sql(statement, "D3", sha256(3))
        self.assertRefused(await self.send(samples.authenticate("D4"), identity=device(3)))
        await self.enroll("D3", device(3))
        self.assertOK(await self.send(samples.token_update("D3"), CHECKIN, device(3)))


class MySQLProtocolTests(TakeoverTests):
    """
    What MariaDB and MySQL have in common.
    """

    kind = "mysql"
    tables = nanomdm.MYSQL
    schema = "DATABASE()"
    indexes = """
        SELECT table_name, index_name, seq_in_index, column_name
          FROM information_schema.statistics WHERE table_schema = {schema}
    """
    upsert = (
        "ON DUPLICATE KEY UPDATE status = VALUES(status), result = VALUES(result),"
        " not_now_tally = not_now_tally + 1"
    )
    again = "ON DUPLICATE KEY UPDATE updated_at = CURRENT_TIMESTAMP"


class MariaDBTests(MySQLProtocolTests):
    """
    MariaDB.
    """

    engine = "mariadb"
    skip = unavailable("mariadb")


class MySQLTests(MySQLProtocolTests):
    """
    MySQL.
    """

    engine = "mysql"
    skip = unavailable("mysql")


class PostgreSQLTests(TakeoverTests):
    """
    PostgreSQL.
    """

    engine, kind = "postgresql", "pgsql"
    skip = unavailable("postgresql")
    tables = nanomdm.PGSQL
    schema = "'public'"
    indexes = "SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = {schema}"
    upsert = (
        "ON CONFLICT (id, command_uuid) DO UPDATE SET status = EXCLUDED.status,"
        " result = EXCLUDED.result, not_now_tally = command_results.not_now_tally + 1"
    )
    again = "ON CONFLICT (id, sha256) DO UPDATE SET updated_at = CURRENT_TIMESTAMP"


del TakeoverTests, MySQLProtocolTests
