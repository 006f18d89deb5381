"""
Devices that come from another server: C{/migration}.
"""

from __future__ import annotations

from contextlib import closing
from itertools import count
from typing import ClassVar

from twisted.logger import capturedLogs

from nanomdm.storage.settings import StorageSettings
from tests import samples
from tests.http.case import RESULT, Answer, ServerCase, device
from tests.servers import shared, unavailable
from tests.storage import nanomdm_tables

_numbers = count()

#: The tables that a refused message must not change.
_TABLES = ("devices", "users", "enrollments", "enrollment_queue", "cert_auth_associations")


class MigrationCase(ServerCase):
    """
    A server that takes devices over.
    """

    def setUp(self) -> None:
        self.serve(migration=True, retro=True, storages=(self.settings(),))

    def settings(self) -> StorageSettings:
        return StorageSettings(kind="inmem")

    async def bring(self, body: bytes, method: str = "PUT") -> Answer:
        return await self.api(method, "/migration", body)

    async def move(self, *bodies: bytes) -> None:
        for body in bodies:
            self.assertOK(await self.bring(body))

    async def contents(self) -> list[object]:
        return [await self.query(f"SELECT * FROM {table} ORDER BY 1") for table in _TABLES]

    def assertError(self, answer: Answer, code: int, text: str) -> None:
        self.assertEqual((answer.code, answer.json), (code, {"error": text}))

    async def assertLeftAlone(self, body: bytes) -> None:
        """
        The message is accepted and changes nothing.
        """
        before = await self.contents()
        with capturedLogs() as logs:
            self.assertOK(await self.bring(body))
        [stored] = [event["stored"] for event in logs if "stored" in event]
        self.assertFalse(stored)
        self.assertEqual(await self.contents(), before)


class ArrivalTests(MigrationCase):
    """
    A device that this server does not know.
    """

    async def test_arrives(self) -> None:
        """
        What other servers' tools send makes an enrollment, without certificate; the
        device's own first request adds that.
        """
        await self.move(
            samples.authenticate(),
            samples.token_update(UnlockToken=b"unlock"),
            samples.checkin("SetBootstrapToken", BootstrapToken=b"boot"),
            samples.token_update(UserID="U1", UserShortName="jo"),
        )
        self.assertEqual(
            await self.query(
                "SELECT id, identity_cert, serial_number, unlock_token, bootstrap_token_b64"
                " FROM devices"
            ),
            [("D1", None, "C02D1", b"unlock", "Ym9vdA==")],
        )
        [(authenticate, token_update)] = await self.query(
            "SELECT authenticate, token_update FROM devices"
        )
        self.assertEqual(authenticate.encode(), samples.authenticate())
        self.assertEqual(token_update.encode(), samples.token_update(UnlockToken=b"unlock"))
        self.assertEqual(
            await self.query("SELECT id, enabled, token_update_tally FROM enrollments ORDER BY 1"),
            [("D1", 1, 1), ("D1:U1", 1, 1)],
        )
        self.assertEqual(await self.query("SELECT id FROM cert_auth_associations"), [])
        self.assertEqual((await self.enqueue("D1,D1:U1")).code, 200)
        answer = await self.report("Idle")
        self.assertEqual(samples.uuid_of(answer.body), "C1")
        self.assertEqual(await self.query("SELECT id FROM cert_auth_associations"), [("D1",)])
        self.assertRefused(await self.send(samples.report("Idle"), RESULT, device(2)))

    async def test_otherMessages(self) -> None:
        """
        Everything that is there to be kept.
        """
        await self.move(
            samples.authenticate(),
            samples.token_update(),
            samples.checkin("UserAuthenticate", UserID="U1"),
            samples.checkin("CheckOut"),
        )
        self.assertEqual(await self.query("SELECT id FROM users"), [("D1:U1",)])
        self.assertEqual(await self.query("SELECT enabled FROM enrollments"), [(0,)])

    async def test_nothingToKeep(self) -> None:
        """
        What asks for something is not answered: that would hand out tokens.
        """
        await self.move(
            samples.authenticate(),
            samples.token_update(),
            samples.checkin("SetBootstrapToken", BootstrapToken=b"boot"),
        )
        for name, more in (
            ("GetBootstrapToken", {}),
            ("GetToken", {"TokenServiceType": "com.apple.maid"}),
            ("DeclarativeManagement", {"Endpoint": "tokens"}),
        ):
            answer = await self.bring(samples.checkin(name, **more))
            self.assertError(answer, 400, f"{name} holds nothing to migrate")

    async def test_malformed(self) -> None:
        for body in (b"", b"x", samples.report("Idle"), samples.plist(MessageType="Authenticate")):
            answer = await self.bring(body)
            self.assertEqual((answer.code, list(answer.json)), (400, ["error"]), body)

    async def test_withoutAuthenticate(self) -> None:
        for body in (
            samples.token_update(),
            samples.token_update(UserID="U1"),
            samples.checkin("SetBootstrapToken", BootstrapToken=b"boot"),
            samples.checkin("UserAuthenticate", UserID="U1"),
        ):
            self.assertError(await self.bring(body), 400, "D1 never sent an Authenticate")

    async def test_methods(self) -> None:
        self.assertOK(await self.bring(samples.authenticate(), "POST"))
        for method in ("GET", "DELETE"):
            answer = await self.bring(samples.authenticate("D2"), method)
            self.assertEqual((answer.code, answer.header("Allow")), (405, "POST, PUT"))
        self.assertEqual(await self.query("SELECT id FROM devices"), [("D1",)])

    async def test_largeMessage(self) -> None:
        """
        Read in another thread.
        """
        await self.move(samples.authenticate(Extra="x" * 100_000))

    async def test_logged(self) -> None:
        with capturedLogs() as logs:
            await self.move(samples.authenticate())
        [event] = [event for event in logs if event.get("log_format") == "request"]
        self.assertEqual(
            [event[name] for name in ("path", "code", "id", "type", "message_type", "stored")],
            ["/migration", 200, "D1", "Device", "Authenticate", True],
        )


class OperatorTests(ServerCase):
    """
    Who may bring devices, and when.
    """

    async def test_key(self) -> None:
        self.serve(migration=True)
        answer = await self.request("PUT", "/migration", samples.authenticate())
        self.assertEqual((answer.code, answer.body), (401, b"Unauthorized\n"))
        self.assertEqual(await self.query("SELECT id FROM devices"), [])

    async def test_deviceIdentityDoesNotCount(self) -> None:
        self.serve(migration=True)
        self.assertEqual((await self.send(samples.authenticate(), path="/migration")).code, 401)

    async def test_switchedOff(self) -> None:
        self.serve()
        self.assertEqual((await self.api("PUT", "/migration", samples.authenticate())).code, 404)

    async def test_withoutDevices(self) -> None:
        """
        A server that has the API only takes them too.
        """
        self.serve(migration=True, disable_mdm=True, ca=None)
        self.assertOK(await self.api("PUT", "/migration", samples.authenticate()))

    async def test_withoutRetro(self) -> None:
        """
        Nobody can speak for a device that came.
        """
        self.serve(migration=True)
        for body in (samples.authenticate(), samples.token_update()):
            self.assertOK(await self.api("PUT", "/migration", body))
        self.assertRefused(await self.report("Idle"))


class AgainTests(MigrationCase):
    """
    Migrations that are run again, and devices that went on meanwhile.
    """

    async def arrive(self) -> None:
        await self.move(
            samples.authenticate(),
            samples.token_update(),
            samples.checkin("SetBootstrapToken", BootstrapToken=b"boot"),
            samples.token_update(UserID="U1"),
        )

    async def test_same(self) -> None:
        """
        The queue of a device that did not connect yet stays.
        """
        await self.arrive()
        self.assertEqual((await self.enqueue("D1,D1:U1")).code, 200)
        await self.assertLeftAlone(samples.authenticate())
        await self.arrive()
        self.assertEqual(
            await self.query("SELECT id, active FROM enrollment_queue ORDER BY 1"),
            [("D1", 1), ("D1:U1", 1)],
        )
        self.assertEqual(await self.query("SELECT enabled FROM enrollments"), [(1,), (1,)])

    async def test_newer(self) -> None:
        """
        As long as a device was not here, the other server knows better.
        """
        await self.arrive()
        await self.move(samples.authenticate(SerialNumber="NEW"))
        self.assertEqual(await self.query("SELECT DISTINCT enabled FROM enrollments"), [(0,)])
        await self.move(samples.token_update(PushMagic="newer"))
        self.assertEqual(await self.query("SELECT serial_number FROM devices"), [("NEW",)])
        self.assertEqual(
            await self.query("SELECT push_magic, enabled FROM enrollments WHERE id = 'D1'"),
            [("newer", 1)],
        )

    async def test_deviceWasHere(self) -> None:
        """
        What a device says itself is not replaced by what it said before.
        """
        await self.arrive()
        for body in (
            samples.token_update(Token=b"\x01", PushMagic="own"),
            samples.token_update(UserID="U1", PushMagic="own"),
            samples.checkin("SetBootstrapToken", BootstrapToken=b"own"),
        ):
            self.assertOK(await self.send(body))
        for body in (
            samples.authenticate(),
            samples.token_update(),
            samples.token_update(UserID="U1"),
            samples.checkin("SetBootstrapToken", BootstrapToken=b"boot"),
        ):
            await self.assertLeftAlone(body)

    async def test_whatDidNotArrive(self) -> None:
        """
        The migration stopped in the middle of a device, which then was here.
        """
        await self.move(samples.authenticate(), samples.token_update())
        self.assertOK(await self.report("Idle"))
        await self.arrive()
        self.assertEqual(
            await self.query("SELECT id, enabled FROM enrollments ORDER BY 1"),
            [("D1", 1), ("D1:U1", 1)],
        )
        self.assertEqual(await self.storage.fetch_bootstrap_token("D1"), b"boot")

    async def test_enrolledHere(self) -> None:
        """
        A device that enrolled here is not thrown out.
        """
        await self.enroll()
        self.assertEqual((await self.enqueue("D1")).code, 200)
        before = await self.contents()
        answer = await self.bring(samples.authenticate(SerialNumber="OLD"))
        self.assertError(answer, 409, "D1 has enrolled at this server itself")
        await self.assertLeftAlone(samples.token_update(PushMagic="old"))
        self.assertEqual(await self.contents(), before)

    async def test_leftAndComesBack(self) -> None:
        """
        A device that checked out here and enrolled elsewhere since.
        """
        await self.enroll()
        self.assertOK(await self.send(samples.checkin("CheckOut")))
        await self.move(samples.authenticate(), samples.token_update(PushMagic="new"))
        self.assertEqual(
            await self.query("SELECT push_magic, enabled FROM enrollments"), [("new", 1)]
        )
        self.assertEqual(await self.query("SELECT identity_cert FROM devices"), [(None,)])

    async def test_profileThatWaits(self) -> None:
        """
        A new Authenticate from elsewhere is no renewal here.
        """
        await self.arrive()
        waiting = samples.install_mdm_profile("P1")
        await self.api("PUT", "/v1/enqueue/D1?nopush=1", waiting)
        await self.move(samples.authenticate(SerialNumber="NEW"))
        self.assertEqual(await self.query("SELECT active FROM enrollment_queue"), [(0,)])


class OnServer(AgainTests):
    """
    The same on a database server.
    """

    engine: ClassVar[str]
    kind: ClassVar[str]
    tables: ClassVar[tuple[str, ...]] = ()

    def settings(self) -> StorageSettings:
        server, name = shared(self.engine), f"migration_{next(_numbers)}"
        dsn = server.create_database(name)
        self.addCleanup(server.drop_database, name)
        with closing(server.python_connection(name)) as connection:
            for statement in self.tables:
                with closing(connection.cursor()) as cursor:
                    cursor.execute(statement)
        return StorageSettings(kind=self.kind, dsn=dsn)


class MariaDBTests(OnServer):
    """
    MariaDB.
    """

    engine = "mariadb"
    kind = "mysql"
    skip = unavailable("mariadb")


class MySQLTests(OnServer):
    """
    NanoMDM's own tables on MySQL.
    """

    engine = "mysql"
    kind = "mysql"
    tables = nanomdm_tables.MYSQL
    skip = unavailable("mysql")

    async def test_otherSpelling(self) -> None:
        """
        The collation takes two devices for one: the second does not get in.
        """
        await self.arrive()
        for body in (samples.authenticate("d1"), samples.token_update("d1", PushMagic="x")):
            answer = await self.bring(body)
            self.assertError(answer, 409, "the database can not tell d1 from D1")
        self.assertEqual(await self.query("SELECT id FROM devices"), [("D1",)])


class PostgreSQLTests(OnServer):
    """
    PostgreSQL.
    """

    engine = "postgresql"
    kind = "pgsql"
    skip = unavailable("postgresql")


del OnServer
