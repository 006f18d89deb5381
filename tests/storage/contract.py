"""
What every storage must do.  An engine's test case mixes this in and says how to
open a storage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from zope.interface.verify import verifyObject

from nanomdm.errors import CommandConflict, NotEnrolled
from nanomdm.interfaces import CertificateHolder, IStorage
from nanomdm.mdm.checkin import parse_checkin
from nanomdm.mdm.command import installs_mdm_profile, parse_command, parse_report
from nanomdm.mdm.enrollment import SHARED_IPAD_USER_ID
from tests import samples
from tests.storage.tables import query

PEM = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
HASH_A, HASH_B = "a" * 64, "b" * 64
DAY = 86400.0


class StorageContract:
    """
    Mixed into a test case of one engine.

    @ivar storage: set by L{setUp}.
    """

    storage: IStorage

    def open(self) -> IStorage:
        """
        Open an empty storage.
        """
        raise NotImplementedError

    def query(self, sql: str, *parameters: object) -> Deferred[list[tuple[object, ...]]]:
        """
        Look into the tables.  Statements use C{?} for parameters.
        """

        return query(self.storage, sql, *parameters)

    def setUp(self) -> None:
        self.storage = self.open()
        self.storage.start()
        self.addCleanup(self.storage.stop)

    # shorthands

    def authenticate(self, udid: str = "D1", **more: object) -> Deferred[bool]:
        message = parse_checkin(samples.authenticate(udid, **more))
        return self.storage.store_authenticate(message, PEM, installs_mdm_profile)

    def token_update(self, udid: str | None = "D1", **more: object) -> Deferred[int]:
        return self.storage.store_token_update(parse_checkin(samples.token_update(udid, **more)))

    async def enroll(self, *udids: str) -> None:
        for udid in udids or ("D1",):
            await self.authenticate(udid)
            await self.token_update(udid)

    def enqueue(self, uuid: str, *ids: str, raw: bytes | None = None) -> Deferred[dict[str, str]]:
        command = parse_command(raw or samples.command(uuid))
        return self.storage.enqueue(command, ids or ("D1",))

    async def next_uuid(self, enrollment_id: str = "D1") -> str | None:
        return self.uuid(await self.storage.next_command(enrollment_id))

    async def report(self, status: str, uuid: str, udid: str = "D1", **more: object) -> str | None:
        report = parse_report(samples.report(status, uuid, udid, **more))
        return self.uuid((await self.storage.store_report(report)).next_command)

    def uuid(self, raw: bytes | None) -> str | None:
        return None if raw is None else parse_command(raw).uuid

    async def deliveries(self, *uuids: str) -> list[str | None]:
        """
        Answer command after command and return the order they came in.
        """
        order = [await self.next_uuid()]
        while order[-1] is not None:
            order.append(await self.report("Acknowledged", order[-1]))
        return order[:-1]

    # the interface

    def test_interface(self) -> None:
        verifyObject(IStorage, self.storage)

    # check-ins

    async def test_authenticateStoresMessage(self) -> None:
        self.assertFalse(await self.authenticate(SerialNumber="C02X"))
        [(cert, serial, raw, at)] = await self.query(
            "SELECT identity_cert, serial_number, authenticate, authenticate_at FROM devices"
        )
        self.assertEqual((cert, serial), (PEM, "C02X"))
        self.assertEqual(raw.encode(), samples.authenticate(SerialNumber="C02X"))
        self.assertIsNotNone(at)

    async def test_authenticateWithoutSerialNumber(self) -> None:
        await self.authenticate(SerialNumber=None)
        self.assertEqual(await self.query("SELECT serial_number FROM devices"), [(None,)])

    async def test_enrollmentExistsFromTokenUpdateOn(self) -> None:
        await self.authenticate()
        self.assertEqual(await self.query("SELECT id FROM enrollments"), [])
        self.assertEqual(await self.token_update(), 1)
        [row] = await self.query(
            "SELECT id, device_id, user_id, type, topic, push_magic, token_hex, enabled,"
            " token_update_tally FROM enrollments"
        )
        self.assertEqual(
            row,
            (
                "D1",
                "D1",
                None,
                "Device",
                samples.TOPIC,
                samples.MAGIC,
                samples.TOKEN.hex(),
                True,
                1,
            ),
        )

    async def test_tokenUpdateNeedsAuthenticate(self) -> None:
        await self.assertFailure(self.token_update(), NotEnrolled)
        await self.assertFailure(self.token_update(UserID="U1"), NotEnrolled)
        self.assertEqual(await self.query("SELECT id FROM enrollments"), [])

    async def test_tallyCounts(self) -> None:
        await self.enroll()
        self.assertEqual(await self.token_update(Token=b"\x01"), 2)
        self.assertEqual(await self.token_update(PushMagic="new"), 3)
        self.assertEqual(
            await self.query("SELECT push_magic, token_hex FROM enrollments"),
            [("new", samples.TOKEN.hex())],
        )

    async def test_unlockTokenIsKept(self) -> None:
        await self.enroll()
        await self.token_update(UnlockToken=b"unlock\x00me")
        await self.token_update()
        await self.token_update(UnlockToken=b"")
        [(token, at)] = await self.query("SELECT unlock_token, unlock_token_at FROM devices")
        self.assertEqual(bytes(token), b"unlock\x00me")
        self.assertIsNotNone(at)

    async def test_userChannel(self) -> None:
        await self.enroll()
        tally = await self.token_update(UserID="U1", UserShortName="jo", UserLongName="Jo Doe")
        self.assertEqual(tally, 1)
        self.assertEqual(
            await self.query("SELECT id, device_id, user_short_name, user_long_name FROM users"),
            [("D1:U1", "D1", "jo", "Jo Doe")],
        )
        self.assertEqual(
            await self.query(
                "SELECT id, device_id, user_id, type FROM enrollments WHERE user_id IS NOT NULL"
            ),
            [("D1:U1", "D1", "D1:U1", "User")],
        )

    async def test_otherTypes(self) -> None:
        await self.enroll()
        await self.token_update(UserID=SHARED_IPAD_USER_ID, UserShortName="jo@example.com")
        byod = samples.checkin("Authenticate", None, EnrollmentID="E1")
        await self.storage.store_authenticate(parse_checkin(byod), PEM, installs_mdm_profile)
        await self.token_update(None, EnrollmentID="E1")
        await self.token_update(None, EnrollmentID="E1", EnrollmentUserID="V1")
        self.assertEqual(
            await self.query("SELECT id, type FROM enrollments ORDER BY id"),
            [
                ("D1", "Device"),
                ("D1:jo@example.com", "Shared iPad"),
                ("E1", "User Enrollment (Device)"),
                ("E1:V1", "User Enrollment"),
            ],
        )

    async def test_reenrollmentForgets(self) -> None:
        await self.enroll("D1", "D2")
        await self.token_update(UserID="U1")
        await self.token_update(UnlockToken=b"unlock")
        for udid in ("D1", "D2"):
            await self.storage.store_bootstrap_token(udid, b"boot")
        await self.enqueue("C1", "D1", "D1:U1", "D2")
        self.assertFalse(await self.authenticate())
        self.assertEqual(
            await self.query("SELECT bootstrap_token_b64, unlock_token FROM devices ORDER BY id"),
            [(None, None), ("Ym9vdA==", None)],
        )
        self.assertEqual(
            await self.query("SELECT id, enabled, token_update_tally FROM enrollments ORDER BY id"),
            [("D1", False, 0), ("D1:U1", False, 0), ("D2", True, 1)],
        )
        self.assertIsNone(await self.next_uuid("D1"))
        self.assertIsNone(await self.next_uuid("D1:U1"))
        self.assertEqual(await self.next_uuid("D2"), "C1")
        self.assertEqual(await self.token_update(), 1)
        self.assertIsNone(await self.next_uuid("D1"))

    async def test_renewalKeeps(self) -> None:
        await self.enroll()
        await self.token_update(UnlockToken=b"unlock")
        await self.storage.store_bootstrap_token("D1", b"boot")
        await self.enqueue("P1", raw=samples.install_mdm_profile("P1"))
        await self.enqueue("C1")
        self.assertTrue(await self.authenticate(SerialNumber="NEW"))
        [(serial, boot, unlock)] = await self.query(
            "SELECT serial_number, bootstrap_token_b64, unlock_token FROM devices"
        )
        self.assertEqual((serial, boot, bytes(unlock)), ("NEW", "Ym9vdA==", b"unlock"))
        self.assertEqual(
            await self.query("SELECT enabled, token_update_tally FROM enrollments"), [(True, 2)]
        )
        self.assertEqual(await self.deliveries(), ["P1", "C1"])

    async def test_renewalAfterNotNow(self) -> None:
        await self.enroll()
        await self.enqueue("P1", raw=samples.install_mdm_profile("P1"))
        await self.report("NotNow", "P1")
        self.assertTrue(await self.authenticate())

    async def test_answeredProfileIsNoRenewal(self) -> None:
        await self.enroll()
        await self.enqueue("P1", raw=samples.install_mdm_profile("P1"))
        await self.report("Acknowledged", "P1")
        self.assertFalse(await self.authenticate())

    async def test_disabledIsNoRenewal(self) -> None:
        await self.enroll()
        await self.enqueue("P1", raw=samples.install_mdm_profile("P1"))
        await self.storage.disable(parse_checkin(samples.checkin("CheckOut")).enrollment)
        self.assertFalse(await self.authenticate())

    async def test_otherProfileIsNoRenewal(self) -> None:
        await self.enroll()
        await self.enqueue("P1", raw=samples.command("P1", "InstallProfile", Payload=b"wifi"))
        self.assertFalse(await self.authenticate())

    async def test_disableDevice(self) -> None:
        await self.enroll("D1", "D2")
        await self.token_update(UserID="U1")
        await self.storage.disable(parse_checkin(samples.checkin("CheckOut")).enrollment)
        self.assertEqual(
            await self.query("SELECT id, enabled FROM enrollments ORDER BY id"),
            [("D1", False), ("D1:U1", False), ("D2", True)],
        )

    async def test_disableUserChannel(self) -> None:
        await self.enroll()
        await self.token_update(UserID="U1")
        message = parse_checkin(samples.checkin("CheckOut", UserID="U1"))
        await self.storage.disable(message.enrollment)
        self.assertEqual(
            await self.query("SELECT id, enabled FROM enrollments ORDER BY id"),
            [("D1", True), ("D1:U1", False)],
        )

    async def test_userAuthenticate(self) -> None:
        first = samples.checkin("UserAuthenticate", UserID="U1")
        await self.assertFailure(
            self.storage.store_user_authenticate(parse_checkin(first)), NotEnrolled
        )
        await self.enroll()
        second = samples.checkin("UserAuthenticate", UserID="U1", DigestResponse="abc")
        for message in (first, second):
            await self.storage.store_user_authenticate(parse_checkin(message))
        [(id, one, two)] = await self.query(
            "SELECT id, user_authenticate, user_authenticate_digest FROM users"
        )
        self.assertEqual((id, one.encode(), two.encode()), ("D1:U1", first, second))

    async def test_lastSeen(self) -> None:
        await self.enroll("D1", "D2")
        await self.query("UPDATE enrollments SET last_seen_at = '2001-01-01 00:00:00'")
        self.storage.touch("D1")
        self.storage.touch("nobody")
        await self.storage._write_seen()
        rows = await self.query(
            "SELECT id FROM enrollments WHERE last_seen_at > '2002-01-01 00:00:00'"
        )
        self.assertEqual(rows, [("D1",)])

    # bootstrap tokens

    async def test_bootstrapToken(self) -> None:
        self.assertIsNone(await self.storage.fetch_bootstrap_token("D1"))
        await self.assertFailure(self.storage.store_bootstrap_token("D1", b"boot"), NotEnrolled)
        await self.enroll()
        self.assertIsNone(await self.storage.fetch_bootstrap_token("D1"))
        await self.storage.store_bootstrap_token("D1", b"boot\x00\xff")
        await self.storage.store_bootstrap_token("D1", b"boot\x00\xff")
        self.assertEqual(await self.storage.fetch_bootstrap_token("D1"), b"boot\x00\xff")
        await self.storage.store_bootstrap_token("D1", None)
        self.assertIsNone(await self.storage.fetch_bootstrap_token("D1"))
        self.assertEqual(await self.query("SELECT bootstrap_token_at FROM devices"), [(None,)])

    # the queue

    async def test_verbatimCommand(self) -> None:
        await self.enroll()
        raw = samples.command("C1").replace(b"\t", b"  ") + "<!-- ümläut ✓ -->\r\n".encode()
        self.assertEqual(await self.enqueue("C1", raw=raw), {})
        self.assertEqual(await self.storage.next_command("D1"), raw)

    async def test_oneCommandForMany(self) -> None:
        """
        It is read once for all that ask at the same time, and others get their own.
        """
        await self.enroll("D1", "D2", "D3", "D4")
        await self.enqueue("C1", "D1", "D2", "D3")
        await self.enqueue("C2", "D4")
        # The first has a transaction of its own.
        ids = ("D1", "D2", "D3", "D4")
        answers = await gatherResults([self.storage.next_command(one) for one in ids])
        self.assertEqual([self.uuid(one) for one in answers], ["C1", "C1", "C1", "C2"])
        self.assertIs(answers[1], answers[2])

    async def test_queueOrder(self) -> None:
        await self.enroll()
        uuids = [f"C{n}" for n in (3, 1, 2, 9, 5)]
        await gatherResults([self.enqueue(uuid) for uuid in uuids])
        await self.query("UPDATE enrollment_queue SET created_at = '2026-01-01 00:00:00'")
        self.assertEqual(await self.deliveries(), uuids)

    async def test_olderAndHigherFirst(self) -> None:
        await self.enroll()
        for uuid in ("C1", "C2", "C3"):
            await self.enqueue(uuid)
        sql = "UPDATE enrollment_queue SET created_at = ?, priority = ? WHERE command_uuid = ?"
        await self.query(sql, "2026-01-03 00:00:00", 0, "C1")
        await self.query(sql, "2026-01-02 00:00:00", 0, "C2")
        await self.query(sql, "2026-01-04 00:00:00", 5, "C3")
        self.assertEqual(await self.deliveries(), ["C3", "C2", "C1"])

    async def test_idleRepeatsUnanswered(self) -> None:
        await self.enroll()
        await self.enqueue("C1")
        for _ in range(3):
            self.assertEqual(await self.next_uuid(), "C1")

    async def test_enqueueTellsBadIds(self) -> None:
        await self.enroll("D1", "D2")
        await self.storage.disable(parse_checkin(samples.checkin("CheckOut", "D2")).enrollment)
        refused = await self.enqueue("C1", "D1", "D2", "nobody", "D1:nobody")
        self.assertEqual(
            refused,
            {
                "D2": "enrollment is disabled",
                "nobody": "unknown enrollment id",
                "D1:nobody": "unknown enrollment id",
            },
        )
        self.assertEqual(await self.query("SELECT id FROM enrollment_queue"), [("D1",)])

    async def test_enqueueToNobodyStoresNothing(self) -> None:
        self.assertEqual(list(await self.enqueue("C1", "nobody")), ["nobody"])
        self.assertEqual(await self.query("SELECT command_uuid FROM commands"), [])

    async def test_enqueueAgain(self) -> None:
        await self.enroll("D1", "D2")
        await self.enqueue("C1", "D1")
        await self.report("Acknowledged", "C1")
        self.assertEqual(await self.enqueue("C1", "D1", "D2"), {})
        self.assertIsNone(await self.next_uuid("D1"))
        self.assertEqual(await self.next_uuid("D2"), "C1")

    async def test_enqueueClearedAgain(self) -> None:
        """
        What a re-enrollment cleared is delivered when somebody asks again.
        """
        await self.enroll()
        await self.enqueue("C1")
        await self.enroll()
        self.assertIsNone(await self.next_uuid())
        self.assertEqual(await self.enqueue("C1"), {})
        self.assertEqual(await self.next_uuid(), "C1")

    async def test_enqueueConflict(self) -> None:
        await self.enroll("D1", "D2")
        await self.enqueue("C1", "D1")
        other = samples.command("C1", "SecurityInfo")
        await self.assertFailure(self.enqueue("C1", "D2", raw=other), CommandConflict)
        self.assertIsNone(await self.next_uuid("D2"))
        self.assertEqual(await self.storage.next_command("D1"), samples.command("C1"))

    async def test_enqueueToVeryMany(self) -> None:
        await self.enroll()
        ids = ["D1", *(f"nobody{n}" for n in range(70_000))]
        refused = await self.enqueue("C1", *ids)
        self.assertEqual(len(refused), 70_000)
        self.assertEqual(await self.next_uuid(), "C1")

    # results

    async def test_answerStoredAndNext(self) -> None:
        await self.enroll()
        await self.enqueue("C1")
        await self.enqueue("C2")
        self.assertEqual(await self.report("Acknowledged", "C1", Extra="✓"), "C2")
        [row] = await self.query(
            "SELECT id, command_uuid, status, result, not_now_at, not_now_tally"
            " FROM command_results"
        )
        raw = samples.report("Acknowledged", "C1", Extra="✓").decode()
        self.assertEqual(row, ("D1", "C1", "Acknowledged", raw, None, 0))
        self.assertIsNone(await self.report("Error", "C2"))

    async def test_repeatedAnswer(self) -> None:
        await self.enroll()
        await self.enqueue("C1")
        for _ in range(2):
            self.assertIsNone(await self.report("Acknowledged", "C1"))
        self.assertEqual(
            await self.query("SELECT status FROM command_results"), [("Acknowledged",)]
        )

    async def test_notNow(self) -> None:
        await self.enroll()
        await self.enqueue("C1")
        await self.enqueue("C2")
        self.assertEqual(await self.report("NotNow", "C1"), "C2")
        self.assertIsNone(await self.report("NotNow", "C2"))
        self.assertEqual(await self.next_uuid(), "C1")
        self.assertIsNone(await self.report("NotNow", "C1"))
        [(status, tally, at)] = await self.query(
            "SELECT status, not_now_tally, not_now_at FROM command_results"
            " WHERE command_uuid = 'C1'"
        )
        self.assertEqual((status, tally), ("NotNow", 2))
        self.assertIsNotNone(at)

    async def test_notNowOfferedAfterAnotherAnswer(self) -> None:
        await self.enroll()
        await self.enqueue("C1")
        await self.enqueue("C2")
        await self.report("NotNow", "C1")
        self.assertEqual(await self.report("Acknowledged", "C2"), "C1")
        self.assertIsNone(await self.report("Acknowledged", "C1"))
        self.assertEqual(
            await self.query(
                "SELECT status, result FROM command_results WHERE command_uuid = 'C1'"
            ),
            [("Acknowledged", samples.report("Acknowledged", "C1").decode())],
        )

    async def test_lateNotNowChangesNothing(self) -> None:
        await self.enroll()
        await self.enqueue("C1")
        await self.report("Acknowledged", "C1")
        await self.report("NotNow", "C1")
        self.assertEqual(
            await self.query("SELECT status, not_now_tally FROM command_results"),
            [("Acknowledged", 0)],
        )
        self.assertIsNone(await self.next_uuid())

    async def test_unknownCommand(self) -> None:
        await self.enroll("D1", "D2")
        await self.enqueue("C1", "D1")
        for uuid, udid in (("other", "D1"), ("C1", "D2")):
            report = parse_report(samples.report("Acknowledged", uuid, udid))
            outcome = await self.storage.store_report(report)
            self.assertFalse(outcome.known)
        self.assertEqual(await self.query("SELECT * FROM command_results"), [])
        self.assertEqual(await self.report("Error", "other"), "C1")

    async def test_answerToClearedCommand(self) -> None:
        await self.enroll()
        await self.enqueue("C1")
        await self.enroll()
        self.assertIsNone(await self.report("Acknowledged", "C1"))
        self.assertEqual(
            await self.query("SELECT status FROM command_results"), [("Acknowledged",)]
        )

    async def test_largeResult(self) -> None:
        await self.enroll()
        await self.enqueue("C1")
        await self.report("Acknowledged", "C1", Big="x" * (15 << 20))
        [(size,)] = await self.query("SELECT length(result) FROM command_results")
        self.assertGreater(size, 15 << 20)

    async def test_manyDevicesAtOnce(self) -> None:
        udids = [f"D{n}" for n in range(50)]
        await self.enroll(*udids)
        for uuid in ("C1", "C2"):
            await self.enqueue(uuid, *udids)
        answers = await gatherResults(
            [Deferred.fromCoroutine(self.report("Acknowledged", "C1", udid)) for udid in udids]
        )
        self.assertEqual(set(answers), {"C2"})
        self.assertEqual(await self.query("SELECT count(*) FROM command_results"), [(50,)])

    # certificate associations

    def associate(
        self,
        id: str,
        sha256: str,
        first_only: bool = False,
        grace: float = DAY,
        twin: str | None = None,
    ) -> Deferred[Any]:
        return self.storage.associate(id, sha256, first_only, grace, twin)

    def backdate(self, when: str, sha256: str) -> Deferred[int]:
        """
        Make an association as old as C{when}.
        """
        return self.query(
            "UPDATE cert_auth_associations SET updated_at = ? WHERE sha256 = ?", when, sha256
        )

    async def test_association(self) -> None:
        self.assertFalse((await self.storage.association("D1", HASH_A)).associated)
        self.assertTrue((await self.associate("D1", HASH_A)).inserted)
        facts = await self.storage.association("D1", HASH_A)
        self.assertTrue(facts.associated)
        self.assertIsNone(facts.superseded_for)
        again = await self.associate("D1", HASH_A)
        self.assertTrue(again.associated)
        self.assertFalse(again.inserted)

    async def test_certificateOfAnother(self) -> None:
        await self.associate("D1", HASH_A)
        facts = await self.associate("D2", HASH_A)
        self.assertFalse(facts.inserted)
        self.assertEqual(facts.taken_by, "D1")
        self.assertFalse((await self.storage.association("D2", HASH_A)).associated)

    async def test_supersededCertificate(self) -> None:
        await self.associate("D1", HASH_A)
        self.assertTrue((await self.associate("D1", HASH_B)).inserted)
        facts = await self.storage.association("D1", HASH_A)
        self.assertTrue(facts.associated)
        self.assertGreaterEqual(facts.superseded_for, 0.0)
        self.assertLess(facts.superseded_for, 600.0)
        self.assertIsNone((await self.storage.association("D1", HASH_B)).superseded_for)

    async def test_supersededSince(self) -> None:
        await self.associate("D1", HASH_A)
        await self.associate("D1", HASH_B)
        await self.backdate("2026-01-01 00:00:00", HASH_A)
        await self.backdate("2026-01-02 00:00:00", HASH_B)
        facts = await self.storage.association("D1", HASH_A)
        self.assertGreater(facts.superseded_for, DAY)

    async def test_olderCertificateComesBack(self) -> None:
        await self.associate("D1", HASH_A)
        await self.associate("D1", HASH_B)
        await self.query(
            "UPDATE cert_auth_associations SET updated_at = '2026-01-01 00:00:00' WHERE sha256 = ?",
            HASH_A,
        )
        # Not by the way, and not after its grace.
        await self.associate("D1", HASH_A, first_only=True)
        await self.associate("D1", HASH_A, grace=0.0)
        self.assertIsNone((await self.storage.association("D1", HASH_B)).superseded_for)
        await self.backdate("2026-01-01 00:00:00", HASH_A)
        await self.backdate("2026-01-01 00:00:00", HASH_B)
        await self.associate("D1", HASH_A, grace=float("inf"))
        self.assertIsNone((await self.storage.association("D1", HASH_A)).superseded_for)
        self.assertIsNotNone((await self.storage.association("D1", HASH_B)).superseded_for)

    async def test_firstOnly(self) -> None:
        self.assertTrue((await self.associate("D1", HASH_A, first_only=True)).inserted)
        facts = await self.associate("D1", HASH_B, first_only=True)
        self.assertFalse(facts.inserted)
        self.assertTrue(facts.id_has_other)

    async def test_claimOfADeletedAssociation(self) -> None:
        """
        Who deletes an association by hand frees the certificate.
        """
        await self.associate("D1", HASH_A)
        await self.query("DELETE FROM cert_auth_associations WHERE id = 'D1'")
        self.assertTrue((await self.associate("D2", HASH_A)).inserted)

    async def test_twin(self) -> None:
        """
        A certificate that was shown with one hash is not free with its other.
        """
        await self.associate("D1", HASH_A, twin=HASH_B)
        for id in ("D1", "D2"):
            facts = await self.associate(id, HASH_B, twin=HASH_A)
            self.assertFalse(facts.inserted)
            self.assertEqual(facts.variant_of or facts.taken_by, "D1")
        self.assertTrue((await self.associate("D1", HASH_A, twin=HASH_B)).associated)

    async def test_twinsAtOnce(self) -> None:
        hashes = [(HASH_A, HASH_B), (HASH_B, HASH_A)] * 5
        results = await gatherResults(
            [self.associate(f"D{n}", one, twin=two) for n, (one, two) in enumerate(hashes)]
        )
        self.assertEqual([facts.inserted for facts in results].count(True), 1)

    async def test_enrollmentOfCertificate(self) -> None:
        find = self.storage.enrollment_of_certificate
        self.assertIsNone(await find(HASH_A))
        await self.associate("D1", HASH_A, twin="c" * 64)
        await self.associate("D2", HASH_B)
        self.assertEqual(await find(HASH_A), CertificateHolder("D1"))
        self.assertEqual(await find(HASH_B), CertificateHolder("D2"))
        # As with all requests but Authenticate, only the hash that was shown then.
        self.assertIsNone(await find("c" * 64))

    async def test_enrollmentOfSupersededCertificate(self) -> None:
        await self.associate("D1", HASH_A)
        await self.associate("D1", HASH_B)
        await self.backdate("2026-01-01 00:00:00", HASH_A)
        await self.backdate("2026-01-02 00:00:00", HASH_B)
        superseded = await self.storage.enrollment_of_certificate(HASH_A)
        self.assertEqual(superseded.device_id, "D1")
        self.assertGreater(superseded.superseded_for, DAY)
        newest = await self.storage.enrollment_of_certificate(HASH_B)
        self.assertEqual(newest, CertificateHolder("D1"))

    async def test_certificateOfSeveralEnrollments(self) -> None:
        """
        NanoMDM's tables may have that.
        """
        days = {"D1": "2026-01-01", "D2": "2026-01-03", "D3": "2026-01-02"}
        for id in days:
            await self.associate(id, id[1] * 64)
        await self.query("UPDATE cert_auth_associations SET sha256 = ?", HASH_A)
        for id, day in days.items():
            await self.query(
                "UPDATE cert_auth_associations SET updated_at = ? WHERE id = ?",
                f"{day} 00:00:00",
                id,
            )
        found = await self.storage.enrollment_of_certificate(HASH_A)
        self.assertEqual(found, CertificateHolder("D2"))

    async def test_enrollmentsOfCertificatesAtOnce(self) -> None:
        await self.associate("D1", HASH_A)
        await self.associate("D2", HASH_B)
        hashes = [HASH_A, HASH_B, "c" * 64, HASH_A] * 5
        found = await gatherResults(map(self.storage.enrollment_of_certificate, hashes))
        ids = [holder and holder.device_id for holder in found]
        self.assertEqual(ids, ["D1", "D2", None, "D1"] * 5)

    async def test_oneCertificateTwoDevicesAtOnce(self) -> None:
        ids: Sequence[str] = [f"D{n}" for n in range(20)]
        results = await gatherResults([self.associate(id, HASH_A) for id in ids])
        self.assertEqual([facts.inserted for facts in results].count(True), 1)
        self.assertEqual(await self.query("SELECT count(*) FROM cert_auth_associations"), [(1,)])
