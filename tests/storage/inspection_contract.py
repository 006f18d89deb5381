"""
What operators see of enrollments on every storage, and how they end them.  Mixed into a
test case beside L{tests.storage.contract.StorageContract}, whose shorthands it uses.
"""

from __future__ import annotations

import time
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from nanomdm.errors import MessageError, NotEnrolled, Unknown
from nanomdm.interfaces import (
    DeadToken,
    EnrollmentFacts,
    EnrollmentFilter,
    IStorage,
    Listing,
    Page,
)
from nanomdm.mdm.checkin import parse_checkin
from nanomdm.mdm.enrollment import SHARED_IPAD_USER_ID
from nanomdm.storage.cursors import cursor_of
from tests import samples
from tests.storage.contract import HASH_A, HASH_B, PEM

LONG_AGO = "2001-01-01 00:00:00"
DAY = 86400.0
GONE = DeadToken(410, "Unregistered")
OTHER_TOPIC = "com.apple.mgmt.External.other"
#: Ids hold anything but control characters.
ODD = ("%", "_x", "a'b", 'a"b', "a/b", "back\\slash", "é😀", "?", "{values}", "a b", "a+b@c")

#: Tables with rows of enrollments, and of devices.
_TABLES = (
    *("enrollments", "users", "enrollment_queue", "command_results"),
    *("nanomdm_pushes", "nanomdm_dead_tokens"),
    *("devices", "cert_auth_associations", "nanomdm_cert_owners"),
)


class EnrollmentInspectionContract:
    """
    Lists of enrollments, and their end.
    """

    storage: IStorage

    # shorthands

    def listed(
        self, limit: int = 100, cursor: str | None = None, **which: Any
    ) -> Deferred[Listing[EnrollmentFacts]]:
        return self.storage.list_enrollments(EnrollmentFilter(**which), Page(limit, cursor))

    async def paged(self, limit: int, **which: Any) -> list[str]:
        """
        @return: the ids of a whole list, page by page.
        """
        page = await self.listed(limit, **which)
        found = [one.id for one in page.items]
        while page.cursor is not None:
            self.assertEqual(len(page.items), limit)
            self.assertLess(len(found), 1000)
            page = await self.listed(limit, page.cursor, **which)
            self.assertTrue(page.items)
            found += [one.id for one in page.items]
        return found

    async def ids(self, **which: Any) -> list[str]:
        """
        @return: the ids of a whole list, sorted; pages of any size have the same.
        """
        whole = await self.paged(1000, **which)
        for limit in (1, 2, 3):
            self.assertEqual(await self.paged(limit, **which), whole, (limit, which))
        return sorted(whole)

    async def several(self) -> None:
        """
        Three devices, of which two have one serial number, and three users.
        """
        await self.enroll("D1", "D2")
        await self.authenticate("D3", SerialNumber="C02D1")
        await self.token_update("D3", Topic=OTHER_TOPIC)
        await self.token_update("D1", UserID="U1", UserShortName="jo")
        await self.token_update("D2", UserID="U1", UserShortName="al")
        await self.token_update("D2", UserID="jo")
        await self.storage.disable_enrollment("D2:U1")

    def sight(self, id: str, when: str) -> Deferred[Any]:
        return self.query("UPDATE enrollments SET last_seen_at = ? WHERE id = ?", when, id)

    async def rows_of(self, *ids: str) -> dict[str, int]:
        """
        @return: how many rows name these ids, in tables that have such.
        """
        counts = {}
        for table in _TABLES:
            sql = f"SELECT count(*) FROM {table} WHERE id IN ({', '.join('?' * len(ids))})"
            [(counts[table],)] = await self.query(sql, *ids)
        return {table: count for table, count in counts.items() if count}

    async def fails(self, error: type[Exception], call: Deferred[Any]) -> str:
        """
        @return: what a failure says.
        """
        return str(await self.assertFailure(call, error))

    # one enrollment

    async def test_device_facts(self) -> None:
        before = time.time() - 2
        await self.enroll()
        await self.token_update(UnlockToken=b"unlock")
        await self.storage.store_bootstrap_token("D1", b"boot")
        await self.token_update(UserID="U2")
        await self.token_update(UserID="U1")
        await self.enqueue("C1", "D1", "D1:U1")
        facts = await self.storage.enrollment("D1")
        for when in (facts.last_seen_at, facts.enrolled_at):
            self.assertTrue(before <= when <= time.time() + 1, when)
        self.assertEqual(
            facts,
            EnrollmentFacts(
                id="D1",
                type="Device",
                device_id="D1",
                children=["D1:U1", "D1:U2"],
                serial_number="C02D1",
                user_short_name=None,
                user_long_name=None,
                topic=samples.TOPIC,
                enabled=True,
                token_update_tally=2,
                last_seen_at=facts.last_seen_at,
                enrolled_at=facts.enrolled_at,
                identity_pem=PEM,
                authenticate=samples.authenticate().decode(),
                bootstrap_token=True,
                unlock_token=True,
                dead=None,
                queue_length=1,
            ),
        )
        self.assertNotIn("CERTIFICATE", repr(facts))

    async def test_longAuthenticate(self) -> None:
        """
        A device decides how long its own is, but not how much memory a list takes.
        """
        for length, told in ((60_000, True), (70_000, False)):
            await self.authenticate(DeviceName="x" * length)
            await self.token_update()
            facts = await self.storage.enrollment("D1")
            self.assertEqual((facts.authenticate is not None, facts.serial_number), (told, "C02D1"))

    async def test_user_facts(self) -> None:
        """
        The serial number and the C{Authenticate} are the device's, as only that sent
        them; the certificate is told with the device alone.
        """
        await self.enroll()
        await self.token_update(UserID="U1", UserShortName="jo", UserLongName="Jo Doe")
        facts = await self.storage.enrollment("D1:U1")
        self.assertEqual((facts.device_id, facts.type, facts.children), ("D1", "User", []))
        self.assertEqual((facts.user_short_name, facts.user_long_name), ("jo", "Jo Doe"))
        self.assertEqual(facts.serial_number, "C02D1")
        self.assertEqual(facts.authenticate.encode(), samples.authenticate())
        self.assertIsNone(facts.identity_pem)
        self.assertEqual((facts.bootstrap_token, facts.unlock_token), (False, False))

    async def test_facts_times(self) -> None:
        """
        A device enrolled when it authenticated last, a user when the channel came; the
        same at every look.
        """
        await self.enroll()
        await self.token_update(UserID="U1")
        await self.sight("D1", LONG_AGO)
        await self.query("UPDATE devices SET authenticate_at = '2002-01-01 00:00:00'")
        await self.query("UPDATE enrollments SET created_at = '2003-01-01 00:00:00'")
        device = await self.storage.enrollment("D1")
        user = await self.storage.enrollment("D1:U1")
        for when, seconds in (
            (device.last_seen_at, 978307200),
            (device.enrolled_at, 1009843200),
            (user.enrolled_at, 1041379200),
        ):
            # Wherever the database is, and exactly so many seconds from there.
            self.assertEqual((when - seconds) % 900, 0, when)
            self.assertTrue(abs(when - seconds) <= DAY, when)
        self.assertEqual(await self.storage.enrollment("D1"), device)

    async def test_deadToken_facts(self) -> None:
        await self.enroll()
        await self.storage.bury_push_token(await self.target(), GONE, 0.0)
        self.assertEqual((await self.storage.enrollment("D1")).dead, GONE)
        await self.token_update()
        self.assertIsNone((await self.storage.enrollment("D1")).dead)

    async def test_queueLength(self) -> None:
        """
        Answered and cleared commands do not count, C{NotNow} ones do; be they active or
        not.
        """
        await self.enroll("D1", "D2")
        for uuid in ("C1", "C2", "C3", "C4"):
            await self.enqueue(uuid, "D1", "D2")
        await self.report("NotNow", "C1")
        await self.report("Acknowledged", "C2")
        await self.query("UPDATE enrollment_queue SET active = FALSE WHERE command_uuid = 'C3'")
        await self.query("UPDATE enrollment_queue SET active = TRUE WHERE command_uuid = 'C2'")
        self.assertEqual((await self.storage.enrollment("D1")).queue_length, 2)
        self.assertEqual((await self.storage.enrollment("D2")).queue_length, 3)

    async def test_manyUsers_facts(self) -> None:
        """
        However many there are, all are told.
        """
        await self.enroll()
        users = [f"{'x' * 200}{number:04}" for number in range(400)]
        await gatherResults([self.token_update(UserID=user) for user in users])
        children = (await self.storage.enrollment("D1")).children
        self.assertEqual(children, [f"D1:{user}" for user in users])

    async def test_unknownEnrollment(self) -> None:
        """
        One that has only authenticated is none yet.
        """
        await self.authenticate()
        for id in ("D1", "", "nobody"):
            self.assertEqual(
                await self.fails(Unknown, self.storage.enrollment(id)),
                f"there is no enrollment {id}",
            )

    async def test_unlockToken(self) -> None:
        await self.enroll()
        self.assertIsNone(await self.storage.unlock_token("D1"))
        self.assertIsNone(await self.storage.unlock_token("nobody"))
        await self.token_update(UnlockToken=b"unlock\x00me")
        self.assertEqual(await self.storage.unlock_token("D1"), b"unlock\x00me")

    # lists

    async def test_all(self) -> None:
        self.assertEqual(await self.listed(), Listing([]))
        await self.several()
        everybody = ["D1", "D1:U1", "D2", "D2:U1", "D2:jo", "D3"]
        self.assertEqual(await self.ids(), everybody)
        for one in (await self.listed()).items:
            self.assertEqual(one, await self.storage.enrollment(one.id))

    async def test_filters(self) -> None:
        await self.several()
        await self.token_update("D1", UserID=SHARED_IPAD_USER_ID, UserShortName="al")
        users = ["D1:U1", "D2:U1", "D2:jo"]
        for which, expected in (
            ({"id": "D2:jo"}, ["D2:jo"]),
            ({"id": "D2:j"}, []),
            ({"serial": "C02D1"}, ["D1", "D1:U1", "D1:al", "D3"]),
            ({"serial": "C02"}, []),
            ({"type": "Device"}, ["D1", "D2", "D3"]),
            ({"type": "User"}, users),
            ({"type": "Shared iPad"}, ["D1:al"]),
            ({"type": "User Enrollment"}, []),
            ({"enabled": False}, ["D2:U1"]),
            ({"enabled": True}, ["D1", "D1:U1", "D1:al", "D2", "D2:jo", "D3"]),
            ({"topic": OTHER_TOPIC}, ["D3"]),
            ({"topic": "no.topic"}, []),
            ({"user": "jo"}, ["D1:U1", "D2:jo"]),
            ({"user": "U1"}, ["D1:U1", "D2:U1"]),
            ({"user": "al"}, ["D1:al", "D2:U1"]),
            ({"user": "D1"}, []),
            ({"user": "%"}, []),
            ({"type": "User", "enabled": True}, ["D1:U1", "D2:jo"]),
            ({"type": "User", "enabled": True, "topic": OTHER_TOPIC}, []),
            ({"serial": "C02D1", "user": "jo", "enabled": True}, ["D1:U1"]),
            ({"serial": "C02D1", "topic": OTHER_TOPIC}, ["D3"]),
            ({"id": "D1", "user": "jo"}, []),
            ({"id": "D1", "serial": "C02D1", "type": "Device"}, ["D1"]),
        ):
            self.assertEqual(await self.ids(**which), expected, which)

    async def test_seen(self) -> None:
        await self.several()
        now = time.time()
        for id in ("D1", "D2:jo"):
            await self.sight(id, LONG_AGO)
        others = ["D1:U1", "D2", "D2:U1", "D3"]
        for which, expected in (
            ({"seen_before": DAY}, ["D1", "D2:jo"]),
            ({"seen_after": DAY}, others),
            ({"seen_before": -DAY}, ["D1", "D2:jo", *others]),
            ({"seen_after": -DAY}, []),
            ({"seen_before": now - 978307200 + 2 * DAY}, []),
            ({"seen_after": now - 978307200 + 2.5 * DAY}, ["D1", "D2:jo", *others]),
            ({"seen_before": DAY, "seen_after": 1e9}, ["D1", "D2:jo"]),
            ({"seen_before": 1e300}, []),
            ({"seen_after": 1e300}, ["D1", "D2:jo", *others]),
            ({"seen_after": -1e300}, []),
            ({"seen_before": DAY, "type": "Device"}, ["D1"]),
            ({"seen_after": DAY, "enabled": True, "topic": samples.TOPIC}, ["D1:U1", "D2"]),
            ({"seen_before": DAY, "user": "jo"}, ["D2:jo"]),
        ):
            self.assertEqual(await self.ids(**which), sorted(expected), which)

    async def test_pending(self) -> None:
        """
        Those with an outstanding command, whatever is answered or cleared beside it.
        """
        await self.several()
        ids = ["D1", "D1:U1", "D2", "D2:jo", "D3"]
        for uuid in ("C1", "C2"):
            await self.enqueue(uuid, *ids)
        self.assertEqual(await self.ids(pending=True), ids)
        await self.report("NotNow", "C1", "D1")
        await self.report("Acknowledged", "C2", "D1")
        await self.report("Error", "C1", "D2")
        await self.report("Acknowledged", "C2", "D2")
        await self.query("UPDATE enrollment_queue SET active = FALSE WHERE id = 'D1:U1'")
        # As NanoMDM leaves them.
        await self.query("UPDATE enrollment_queue SET active = TRUE WHERE id = 'D2'")
        for which, expected in (
            ({}, ["D1", "D2:jo", "D3"]),
            ({"type": "Device"}, ["D1", "D3"]),
            ({"type": "Device", "topic": OTHER_TOPIC}, ["D3"]),
            ({"enabled": False}, []),
            ({"user": "jo"}, ["D2:jo"]),
            ({"serial": "C02D1"}, ["D1", "D3"]),
            ({"id": "D2"}, []),
            ({"id": "D1"}, ["D1"]),
            ({"seen_after": DAY}, ["D1", "D2:jo", "D3"]),
            ({"seen_before": DAY}, []),
        ):
            self.assertEqual(await self.ids(pending=True, **which), expected, which)

    async def test_odd(self) -> None:
        """
        Ids, users and serial numbers with characters that mean something elsewhere.
        """
        for number, text in enumerate(ODD):
            await self.authenticate(f"D{text}", SerialNumber=f"{number}{text}")
            await self.token_update(f"D{text}")
            await self.token_update(f"D{text}", UserID=f"{number}:{text}")
        everybody = [f"D{text}" for text in ODD]
        everybody += [f"D{text}:{number}:{text}" for number, text in enumerate(ODD)]
        self.assertEqual(await self.ids(), sorted(everybody))
        for number, text in enumerate(ODD):
            user = f"D{text}:{number}:{text}"
            self.assertEqual(await self.ids(user=f"{number}:{text}"), [user])
            self.assertEqual(await self.ids(serial=f"{number}{text}"), [f"D{text}", user])
            self.assertEqual((await self.storage.enrollment(f"D{text}")).children, [user])
            self.assertEqual((await self.storage.enrollment(user)).children, [])

    async def test_changesBetweenPages(self) -> None:
        """
        What stays comes once, whatever comes and goes meanwhile.
        """
        stay = [f"D{number}5" for number in range(10, 30)]
        await self.enroll(*stay, *(f"D{number}0" for number in range(10, 30)))
        found: list[str] = []
        page = await self.listed(3)
        for number in range(10, 40):
            found += [one.id for one in page.items]
            if page.cursor is None:
                break
            await self.storage.purge_enrollment(f"D{number}0") if number < 30 else None
            await self.enroll(f"D{39 - number}7")
            page = await self.listed(3, page.cursor)
        self.assertEqual(len(set(found)), len(found))
        self.assertEqual([id for id in found if id.endswith("5")], await self.in_order(stay))

    async def in_order(self, ids: list[str]) -> list[str]:
        """
        @return: as the database sorts them.
        """
        marks = ", ".join("?" * len(ids))
        sql = f"SELECT id FROM enrollments WHERE id IN ({marks}) ORDER BY id"
        return [id for (id,) in await self.query(sql, *ids)]

    async def test_goneCursor(self) -> None:
        """
        The enrollment that a page ended with may be gone.
        """
        await self.enroll("D1", "D2", "D3")
        page = await self.listed(2)
        await self.storage.purge_enrollment("D2")
        page = await self.listed(2, page.cursor)
        self.assertEqual([one.id for one in page.items], ["D3"])

    async def test_noCursor(self) -> None:
        for cursor in ("", "D1", "%", "é", cursor_of(1), cursor_of("a", "b"), cursor_of("\0")):
            said = await self.fails(MessageError, self.listed(10, cursor))
            self.assertEqual(said, "the cursor is not one that this list gave out")

    # disabling

    async def test_disableDevice(self) -> None:
        """
        As with a C{CheckOut}: users along with it, tallies begin anew, queues stay.
        """
        await self.several()
        await self.enqueue("C1", "D2", "D2:jo")
        await self.storage.disable_enrollment("D2")
        self.assertEqual(await self.ids(enabled=False), ["D2", "D2:U1", "D2:jo"])
        for one in (await self.listed(enabled=False)).items:
            self.assertEqual(one.token_update_tally, 0)
        self.assertEqual(await self.ids(pending=True), ["D2", "D2:jo"])
        self.assertEqual(await self.token_update("D2"), 1)
        self.assertEqual(await self.ids(enabled=False), ["D2:U1", "D2:jo"])

    async def test_disableUser(self) -> None:
        await self.several()
        await self.storage.disable_enrollment("D1:U1")
        self.assertEqual(await self.ids(enabled=False), ["D1:U1", "D2:U1"])

    async def test_disableUnknown(self) -> None:
        await self.authenticate()
        said = await self.fails(Unknown, self.storage.disable_enrollment("D1"))
        self.assertEqual(said, "there is no enrollment D1")

    # purging

    async def everything(self, *udids: str) -> None:
        """
        Devices with rows in every table, each with users C{U1} and C{U2}.
        """
        await self.enroll(*udids)
        for udid in udids:
            await self.token_update(udid, UserID="U1")
            await self.token_update(udid, UserID="U2")
        ids = [f"{udid}{user}" for udid in udids for user in ("", ":U1", ":U2")]
        for uuid in ("C1", "C2", "C3"):
            await self.enqueue(uuid, *ids)
        for id in ids:
            user = {"UserID": id[-2:]} if ":" in id else {}
            await self.report("Acknowledged", "C1", id.partition(":")[0], **user)
            await self.report("NotNow", "C2", id.partition(":")[0], **user)
        await self.storage.push_targets(ids, True)
        for number, udid in enumerate(udids):
            await self.storage.associate(udid, f"{number:02}{HASH_A[2:]}", False, DAY)
            await self.storage.associate(udid, f"{number:02}{HASH_B[2:]}", True, DAY)
            await self.storage.bury_push_token(await self.target(udid), GONE, 0.0)
            await self.storage.push_targets([udid], True)

    async def test_purgeDevice(self) -> None:
        """
        Nothing is left of it, and all of the others.
        """
        await self.everything("D1", "D2")
        one = ["D1", "D1:U1", "D1:U2"], ["D2", "D2:U1", "D2:U2"]
        kept = await self.rows_of(*one[1])
        self.assertEqual(await self.rows_of(*one[0]), kept)
        self.assertEqual(len(kept), len(_TABLES))
        self.assertEqual(await self.storage.purge_enrollment("D1"), one[0])
        self.assertEqual(await self.rows_of(*one[0]), {})
        self.assertEqual(await self.rows_of(*one[1]), kept)
        # Upkeep deletes what nobody has to answer.
        self.assertEqual(await self.query("SELECT count(*) FROM commands"), [(3,)])
        said = await self.fails(Unknown, self.storage.purge_enrollment("D1"))
        self.assertEqual(said, "there is no enrollment D1")

    async def test_purgeUser(self) -> None:
        """
        The device and its other users stay.
        """
        await self.everything("D1")
        kept = await self.rows_of("D1", "D1:U2")
        self.assertEqual(await self.storage.purge_enrollment("D1:U1"), ["D1:U1"])
        self.assertEqual(await self.rows_of("D1:U1"), {})
        self.assertEqual(await self.rows_of("D1", "D1:U2"), kept)
        self.assertEqual((await self.storage.enrollment("D1")).children, ["D1:U2"])
        self.assertEqual(await self.token_update(UserID="U1"), 1)

    async def test_purgeUnfinished(self) -> None:
        """
        A device that has only authenticated, and a user who has.
        """
        await self.authenticate()
        message = parse_checkin(samples.checkin("UserAuthenticate", UserID="U1"))
        await self.storage.store_user_authenticate(message)
        self.assertEqual(await self.storage.purge_enrollment("D1:U1"), ["D1:U1"])
        await self.storage.store_user_authenticate(message)
        self.assertEqual(await self.storage.purge_enrollment("D1"), ["D1", "D1:U1"])
        self.assertEqual(await self.rows_of("D1", "D1:U1"), {})

    async def test_purgeUnknown(self) -> None:
        await self.enroll()
        for id in ("nobody", "", "D1:U1", "D"):
            await self.fails(Unknown, self.storage.purge_enrollment(id))
        self.assertEqual(await self.ids(), ["D1"])

    async def test_enrollAnewAfterPurge(self) -> None:
        """
        The device begins like any other: its certificate is free, its queue empty, its
        tally one; but nothing goes before it authenticates.
        """
        await self.everything("D1")
        await self.storage.purge_enrollment("D1")
        await self.assertFailure(self.token_update(), NotEnrolled)
        self.assertIsNone(await self.next_uuid())
        self.assertIsNone(await self.report("Acknowledged", "C3"))
        self.assertEqual(await self.rows_of("D1"), {})
        facts = await self.storage.association("D1", f"00{HASH_A[2:]}")
        self.assertEqual((facts.associated, facts.id_has_other), (False, False))
        facts = await self.storage.associate("D9", f"00{HASH_B[2:]}", False, DAY)
        self.assertTrue(facts.inserted)
        facts = await self.storage.associate("D1", f"00{HASH_A[2:]}", True, DAY)
        self.assertTrue(facts.inserted)
        self.assertFalse(await self.authenticate())
        self.assertEqual(await self.token_update(), 1)
        facts = await self.storage.enrollment("D1")
        self.assertEqual((facts.queue_length, facts.dead, facts.children), (0, None, []))
        await self.enqueue("C1")
        self.assertEqual(await self.next_uuid(), "C1")

    async def test_purgeKeepsEvents(self) -> None:
        """
        What the webhook is to be told of an enrollment is told.
        """
        await self.enroll()
        await self.record("D1", "E1")
        await self.storage.purge_enrollment("D1")
        self.assertEqual(await self.names(), {"D1": ["E1"]})

    async def test_purgeWhileDevicesAreAtWork(self) -> None:
        """
        Nobody fails, and nothing is left over.
        """
        udids = [f"D{number}" for number in range(12)]
        await self.everything(*udids)
        running: list[Deferred[Any]] = []
        for udid in udids:
            running += [
                self.ignoring(NotEnrolled, self.token_update(udid)),
                Deferred.fromCoroutine(self.report("Acknowledged", "C2", udid)),
                self.storage.purge_enrollment(udid),
                Deferred.fromCoroutine(self.report("Acknowledged", "C3", udid)),
                self.ignoring(NotEnrolled, self.token_update(udid, UserID="U1")),
                self.enqueue("C4", udid, f"{udid}:U2"),
                self.storage.push_targets([udid, f"{udid}:U1"], True),
            ]
        await gatherResults(running)
        for udid in udids:
            await self.fails(Unknown, self.storage.enrollment(udid))
        self.assertEqual(await self.ids(), [])
        for table in ("devices", "users", "enrollment_queue", "command_results"):
            self.assertEqual(await self.query(f"SELECT count(*) FROM {table}"), [(0,)], table)

    def ignoring(self, error: type[Exception], call: Deferred[Any]) -> Deferred[Any]:
        return call.addErrback(lambda failure: failure.trap(error))
