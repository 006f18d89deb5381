"""
What every storage must do for pushes.  Mixed into a test case beside
L{tests.storage.contract.StorageContract}, whose shorthands it uses.
"""

from __future__ import annotations

from typing import Any

from attrs import evolve
from twisted.internet.defer import gatherResults

from nanomdm.interfaces import (
    DeadToken,
    IStorage,
    ListedPushCertificate,
    PushAgain,
    PushTarget,
    StoredPushCertificate,
)
from nanomdm.mdm.checkin import parse_checkin
from nanomdm.storage import repush
from nanomdm.storage.pushes import STEPS
from nanomdm.storage.transaction import Transaction
from tests import samples

LONG_AGO = "2001-01-01 00:00:00"
GONE = DeadToken(410, "Unregistered")
DAY = 86400.0


class PushContract:
    """
    Push certificates, whom to push to, and again.
    """

    storage: IStorage

    # shorthands

    @property
    def unix_now(self) -> str:
        return self.storage._database._engine.dialect.unix_now

    async def target(self, id: str = "D1") -> PushTarget:
        return (await self.storage.push_targets([id], False))[id]

    async def check_out(self, udid: str = "D1", **more: object) -> None:
        message = samples.checkin("CheckOut", udid, **more)
        await self.storage.disable(parse_checkin(message).enrollment)

    async def schedule(self) -> list[Any]:
        """
        @return: ids in the schedule, with steps.
        """
        return await self.query("SELECT id, step FROM nanomdm_pushes ORDER BY id")

    async def waiting(self, *ids: str, ago: int = 100) -> None:
        """
        Enroll, enqueue, push, and let time go by in which nobody connects.  All are
        due at once, C{30 - ago} seconds from now.
        """
        ids = ids or ("D1",)
        await self.enroll(*ids)
        await self.enqueue("C1", *ids)
        await self.storage.push_targets(ids, True)
        await self.query("UPDATE enrollments SET last_seen_at = ?", LONG_AGO)
        await self.query("UPDATE nanomdm_pushes SET due = pushed + 30")
        await self.later(ago)

    async def later(self, seconds: int = 100_000) -> None:
        """
        Let time go by, for the schedule.
        """
        await self.query(
            "UPDATE nanomdm_pushes SET pushed = pushed - ?, due = due - ?", seconds, seconds
        )

    async def again(self, server: str = "one", limit: int = 100) -> list[str]:
        return [one.id for one in await self.storage.push_again(server, limit)]

    # certificates

    async def test_pushCertificate(self) -> None:
        self.assertIsNone(await self.storage.push_certificate("com.a"))
        for number in range(3):
            await self.storage.store_push_certificate("com.a", f"CERT{number}", f"KEY{number}")
            self.assertEqual(
                await self.storage.push_certificate("com.a"),
                StoredPushCertificate("com.a", f"CERT{number}", f"KEY{number}", number),
            )
        self.assertIsNone(await self.storage.push_certificate("com.b"))

    async def test_pushCertificates(self) -> None:
        self.assertEqual(await self.storage.push_certificates(), [])
        await gatherResults(
            [self.storage.store_push_certificate(topic, topic.upper(), "KEY") for topic in "bca"]
        )
        one, two = await gatherResults([self.storage.push_certificates() for _ in range(2)])
        self.assertEqual(one, [ListedPushCertificate(topic, topic.upper()) for topic in "abc"])
        self.assertEqual(two, one)

    async def test_replacedCertificateOfNanoMDM(self) -> None:
        await self.query(
            "INSERT INTO push_certs (topic, cert_pem, key_pem, stale_token) VALUES (?, ?, ?, ?)",
            *("com.a", "CERT", "KEY", 7),
        )
        await self.storage.store_push_certificate("com.a", "NEW", "KEY")
        found = await self.storage.push_certificate("com.a")
        self.assertEqual((found.certificate_pem, found.stale_token), ("NEW", 8))

    async def test_certificatesAtOnce(self) -> None:
        calls = [self.storage.store_push_certificate("com.a", f"{n}", "KEY") for n in range(10)]
        await gatherResults(calls)
        self.assertEqual((await self.storage.push_certificate("com.a")).stale_token, 9)

    # targets

    async def test_targets(self) -> None:
        """
        Device and user channels, with what their topic's certificate is.
        """
        await self.enroll("D1", "D2")
        await self.token_update(UserID="U1", PushMagic="m2", Token=b"\x01", Topic="com.b")
        await self.check_out("D2")
        await self.storage.store_push_certificate(samples.TOPIC, "CERT", "KEY")
        self.assertEqual(
            await self.storage.push_targets(["D1:U1", "D2", "nobody", "D1", "D1"], False),
            {
                "D1": PushTarget(
                    "D1", samples.TOPIC, samples.TOKEN.hex(), samples.MAGIC, True, 1, 0
                ),
                "D2": PushTarget(
                    "D2", samples.TOPIC, samples.TOKEN.hex(), samples.MAGIC, False, 0, 0
                ),
                "D1:U1": PushTarget("D1:U1", "com.b", "01", "m2", True, 1, None),
            },
        )
        await self.storage.store_push_certificate(samples.TOPIC, "NEW", "KEY")
        self.assertEqual((await self.target()).stale_token, 1)
        self.assertEqual(await self.schedule(), [])

    async def test_targetsOfManyCalls(self) -> None:
        """
        Calls that are gathered get what each asked for.
        """
        await self.enroll("D1", "D2")
        asked = [[], ["D1"], ["nobody"], ["D2", "D1"], ["D1"], ["d1"]]
        for schedule in (False, True):
            found = await gatherResults([self.storage.push_targets(ids, schedule) for ids in asked])
            self.assertEqual(
                [list(one) for one in found], [[], ["D1"], [], ["D2", "D1"], ["D1"], []]
            )
        self.assertEqual(await self.schedule(), [("D1", 0), ("D2", 0)])

    async def test_targetsOfVeryMany(self) -> None:
        udids = [f"D{number}" for number in range(150)]
        await gatherResults([self.authenticate(udid) for udid in udids])
        await gatherResults([self.token_update(udid) for udid in udids])
        ids = [*udids, *(f"nobody{number}" for number in range(5000))]
        for schedule in (False, True):
            self.assertEqual(list(await self.storage.push_targets(ids, schedule)), udids)
        self.assertEqual([id for id, _ in await self.schedule()], sorted(udids))
        [(dues, low, high)] = await self.query(
            "SELECT count(DISTINCT due), min(due - pushed), max(due - pushed) FROM nanomdm_pushes"
        )
        self.assertGreater(dues, 3)
        self.assertTrue(24 <= low < high <= 36, (low, high))

    async def test_scheduled(self) -> None:
        """
        Who can be pushed to is in the schedule, from its beginning each time.
        """
        await self.enroll("D1", "D2", "D3")
        await self.check_out("D2")
        await self.storage.bury_push_token(await self.target("D3"), GONE, 0.0)
        ids = ["D1", "D2", "D3", "nobody"]
        self.assertEqual(len(await self.storage.push_targets(ids, True)), 3)
        self.assertEqual(await self.schedule(), [("D1", 0)])
        await self.later()
        await self.query("UPDATE nanomdm_pushes SET step = 3")
        await self.storage.push_targets(ids, True)
        [(id, step, ago, wait)] = await self.query(
            f"SELECT id, step, {self.unix_now} - pushed, due - pushed FROM nanomdm_pushes"
        )
        self.assertEqual((id, step), ("D1", 0))
        self.assertTrue(0 <= ago < 1000 and 24 <= wait <= 36, (ago, wait))

    async def test_unixNow(self) -> None:
        """
        The same seconds that the process counts.
        """
        [(now,)] = await self.query(f"SELECT {self.unix_now}")
        self.assertIsInstance(now, int)
        self.assertLess(abs(now - self.clock_seconds()), 1000)

    def clock_seconds(self) -> float:
        return self.storage._clock.seconds()

    async def test_forgetPushes(self) -> None:
        await self.enroll("D1", "D2", "D3")
        await self.storage.push_targets(["D1", "D2", "D3"], True)
        await gatherResults(
            [self.storage.forget_pushes(ids) for ids in (["D1", "nobody"], ["D1", "D3"], [])]
        )
        self.assertEqual(await self.schedule(), [("D2", 0)])

    # dead tokens

    async def test_bury(self) -> None:
        await self.enroll("D1", "D2")
        await self.storage.push_targets(["D1", "D2"], True)
        target = await self.target()
        self.assertTrue(await self.storage.bury_push_token(target, GONE, 0.0))
        self.assertEqual(await self.target(), evolve(target, dead=GONE))
        self.assertIsNone((await self.target("D2")).dead)
        self.assertEqual(await self.schedule(), [("D2", 0)])
        # Later it is known better, or found to be older than it was thought.
        other = DeadToken(400, "BadDeviceToken" * 20)
        self.assertTrue(await self.storage.bury_push_token(target, other, 0.0))
        self.assertTrue(await self.storage.bury_push_token(target, GONE, DAY))
        dead = (await self.target()).dead
        self.assertEqual((dead.status, dead.reason), (400, other.reason[:127]))

    async def test_tokenUpdateRevives(self) -> None:
        await self.enroll("D1", "D2")
        for udid in ("D1", "D2"):
            await self.storage.bury_push_token(await self.target(udid), GONE, 0.0)
        await self.token_update()
        self.assertIsNone((await self.target()).dead)
        self.assertEqual((await self.target("D2")).dead, GONE)
        # Enrolling again leads to the same token and tally.
        await self.enroll("D2")
        self.assertEqual((await self.target("D2")).tally, 1)
        self.assertIsNone((await self.target("D2")).dead)

    async def test_tokenUpdateThroughNanoMDM(self) -> None:
        """
        What only changes the enrollment's row revives the token.
        """
        for change in ("token_update_tally = token_update_tally + 1", "token_hex = 'ef'"):
            await self.enroll()
            target = await self.target()
            self.assertTrue(await self.storage.bury_push_token(target, GONE, 0.0))
            await self.query(f"UPDATE enrollments SET {change}")
            self.assertIsNone((await self.target()).dead, change)
            self.assertFalse(await self.storage.bury_push_token(target, GONE, 0.0), change)
            self.assertIsNone((await self.target()).dead, change)

    async def test_buryAnOldToken(self) -> None:
        """
        A token that was looked up before a C{TokenUpdate} is not the present one.
        """
        await self.enroll()
        await self.storage.push_targets(["D1"], True)
        target = await self.target()
        await self.token_update()
        self.assertFalse(await self.storage.bury_push_token(target, GONE, 0.0))
        self.assertIsNone((await self.target()).dead)
        nobody = evolve(target, id="nobody")
        self.assertFalse(await self.storage.bury_push_token(nobody, GONE, 0.0))
        self.assertEqual(await self.schedule(), [("D1", 0)])

    async def test_buryOnlyWhatWasFoundDeadSince(self) -> None:
        """
        APNs may have found it dead before the C{TokenUpdate} that brought it again:
        the one of its own channel counts.
        """
        await self.enroll()
        await self.token_update(UserID="U1")
        for id, table in (("D1", "devices"), ("D1:U1", "users")):
            target = await self.target(id)
            await self.query("UPDATE devices SET token_update_at = ?", LONG_AGO)
            await self.query("UPDATE users SET token_update_at = ?", LONG_AGO)
            await self.query(f"UPDATE {table} SET token_update_at = CURRENT_TIMESTAMP")
            self.assertFalse(await self.storage.bury_push_token(target, GONE, DAY), id)
            self.assertIsNone((await self.target(id)).dead)
            await self.query(f"UPDATE {table} SET token_update_at = ?", LONG_AGO)
            self.assertTrue(await self.storage.bury_push_token(target, GONE, DAY), id)
            self.assertEqual((await self.target(id)).dead, GONE)

    async def test_buryWithoutTime(self) -> None:
        """
        Where no time is known, the token itself decides.
        """
        await self.enroll()
        await self.query("UPDATE devices SET token_update_at = NULL")
        self.assertTrue(await self.storage.bury_push_token(await self.target(), GONE, DAY))

    # again

    async def test_pushAgainOnSchedule(self) -> None:
        """
        After each push the next one is due in that step's time, give or take a
        fifth; the last step stays.
        """
        await self.waiting()
        for step in (0, 1, 2, 3, 4, 4):
            following = min(step + 1, 4)
            found = await self.storage.push_again("one", 100)
            self.assertEqual(found, [PushAgain("D1", step)])
            self.assertEqual(await self.again(), [])
            [(now, wait, ago)] = await self.query(
                f"SELECT step, due - pushed, {self.unix_now} - pushed FROM nanomdm_pushes"
            )
            self.assertEqual(now, following)
            self.assertTrue(0.8 * STEPS[now] <= wait <= 1.2 * STEPS[now], (step, wait))
            self.assertTrue(0 <= ago < 1000)
            await self.later(1 + wait)
        self.assertEqual(STEPS, (30, 120, 480, 1800, 86400))

    async def test_nextStepsAreJittered(self) -> None:
        ids = [f"D{number}" for number in range(40)]
        await self.waiting(*ids)
        self.assertEqual(sorted(await self.again()), sorted(ids))
        [(dues,)] = await self.query("SELECT count(DISTINCT due - pushed) FROM nanomdm_pushes")
        self.assertGreater(dues, 3)

    async def test_repeatStep(self) -> None:
        """
        The step comes again, within half an hour; but not if the schedule has begun
        anew meanwhile.
        """
        await self.waiting("D0", "D3", "D4", "again")
        for id, step in (("D3", 3), ("D4", 4)):
            await self.query("UPDATE nanomdm_pushes SET step = ? WHERE id = ?", step, id)
        due = await self.storage.push_again("one", 10)
        self.assertEqual(len(due), 4)
        await self.storage.push_targets(["again"], True)
        await self.storage.repeat_step(due)
        self.assertEqual(await self.schedule(), [("D0", 0), ("D3", 3), ("D4", 4), ("again", 0)])
        waits = dict(await self.query("SELECT id, due - pushed FROM nanomdm_pushes"))
        for id, seconds in (("D0", 120), ("D3", 1800), ("D4", 1800), ("again", 30)):
            self.assertTrue(0.75 * seconds <= waits[id] <= 1.25 * seconds, (id, waits[id]))

    async def test_notDueYet(self) -> None:
        await self.waiting(ago=1)
        self.assertEqual(await self.again(), [])
        self.assertEqual(await self.schedule(), [("D1", 0)])

    async def test_nothingOutstanding(self) -> None:
        """
        Answered, cleared, or never enqueued: done.
        """
        await self.waiting("D1", "D2", "D3", "D4")
        await self.report("Acknowledged", "C1", "D1")
        await self.query("UPDATE enrollment_queue SET active = FALSE WHERE id = 'D2'")
        await self.query("DELETE FROM enrollment_queue WHERE id = 'D3'")
        self.assertEqual(await self.again(), ["D4"])
        self.assertEqual(await self.schedule(), [("D4", 1)])

    async def test_answeredRowsOfNanoMDM(self) -> None:
        """
        Rows that are answered and still active are not outstanding.
        """
        await self.waiting()
        await self.report("Acknowledged", "C1")
        await self.query("UPDATE enrollment_queue SET active = TRUE")
        self.assertEqual(await self.again(), [])
        self.assertEqual(await self.schedule(), [])

    async def test_goneDisabledDead(self) -> None:
        await self.waiting("D1", "D2", "D3", "D4")
        await self.query("UPDATE nanomdm_pushes SET id = 'gone' WHERE id = 'D1'")
        await self.check_out("D2")
        await self.storage.bury_push_token(await self.target("D3"), GONE, 0.0)
        await self.query(
            "INSERT INTO nanomdm_pushes (id, pushed, due)"
            f" VALUES ('D3', {self.unix_now} - 100, {self.unix_now} - 70)"
        )
        self.assertEqual(await self.again(), ["D4"])
        self.assertEqual(await self.schedule(), [("D4", 1)])

    async def test_connectedSince(self) -> None:
        """
        Who connected after the push is not pushed to again; C{last_seen_at} is
        written later than that, so a moment does not count.
        """
        await self.waiting("D1", "D2", "D3")
        await self.query("UPDATE enrollments SET last_seen_at = CURRENT_TIMESTAMP WHERE id <> 'D3'")
        pushed = f"UPDATE nanomdm_pushes SET pushed = {self.unix_now} - ? WHERE id = ?"
        await self.query(pushed, 10, "D1")
        await self.query(pushed, 1, "D2")
        self.assertEqual(await self.again(), ["D2", "D3"])
        self.assertEqual(await self.schedule(), [("D2", 1), ("D3", 1)])

    async def test_userChannel_pushAgain(self) -> None:
        await self.enroll()
        await self.token_update(UserID="U1")
        await self.enqueue("C1", "D1:U1")
        await self.storage.push_targets(["D1", "D1:U1"], True)
        await self.query("UPDATE enrollments SET last_seen_at = ?", LONG_AGO)
        await self.later(100)
        self.assertEqual(await self.again(), ["D1:U1"])

    async def test_notNowOfLate(self) -> None:
        """
        Nobody is woken for what it can not do now; it is looked at again later, in
        the same step, and pushed to once the answer is an hour old.
        """
        await self.waiting()
        await self.report("NotNow", "C1")
        self.assertEqual(await self.again(), [])
        [(step, wait)] = await self.query(f"SELECT step, due - {self.unix_now} FROM nanomdm_pushes")
        self.assertEqual(step, 0)
        self.assertTrue(0 < wait <= 900, wait)
        await self.later(901)
        self.assertEqual(await self.again(), [])
        await self.query("UPDATE command_results SET updated_at = ?", LONG_AGO)
        await self.later(901)
        self.assertEqual(await self.storage.push_again("one", 9), [PushAgain("D1", 0)])

    async def test_notNowAndMore(self) -> None:
        """
        Another command that waits is worth it.
        """
        await self.waiting()
        await self.enqueue("C2")
        await self.report("NotNow", "C1")
        self.assertEqual(await self.again(), ["D1"])

    async def test_limitOfEachStep(self) -> None:
        """
        The longest due come first; what is done does not count.
        """
        ids = [f"D{number}" for number in range(10)]
        await self.waiting(*ids)
        for number, id in enumerate(ids):
            await self.query(
                "UPDATE nanomdm_pushes SET due = ?, step = ? WHERE id = ?", number, number % 2, id
            )
        for id in ("D0", "D1", "D4"):
            await self.report("Acknowledged", "C1", id)
        self.assertEqual(
            await self.storage.push_again("one", 2),
            [PushAgain("D2", 0), PushAgain("D3", 1), PushAgain("D5", 1), PushAgain("D6", 0)],
        )
        self.assertEqual(await self.again("one", 0), [])
        self.assertEqual(await self.again("one", 2), ["D7", "D8", "D9"])
        self.assertEqual(
            [id for id, _ in await self.schedule()], [f"D{n}" for n in (2, 3, 5, 6, 7, 8, 9)]
        )

    async def test_lookedAt(self) -> None:
        """
        So many rows of each step are looked at and no more, however many are due.
        """
        self.patch(repush, "_LOOKED_AT", 3)
        await self.waiting(*"ABCDE")
        await self.query("UPDATE nanomdm_pushes SET due = 1 WHERE id IN ('C', 'D', 'E')")
        for id in "CD":
            await self.report("Acknowledged", "C1", id)
        self.assertEqual(await self.again(limit=10), ["E"])
        self.assertEqual(sorted(await self.again(limit=10)), ["A", "B"])

    async def test_begunAnewMeanwhile(self) -> None:
        """
        A row that another server begins anew between the look and the change is
        left as that server wrote it.
        """
        await self.waiting("D1", "D2", "D3")
        await self.report("Acknowledged", "C1", "D2")
        await self.report("NotNow", "C1", "D3")
        states, now = repush._states, self.unix_now

        def and_then(transaction: Transaction, ids: Any) -> Any:
            found = states(transaction, ids)
            transaction.execute(f"UPDATE nanomdm_pushes SET pushed = {now}, due = {now} + 30")
            return found

        self.patch(repush, "_states", and_then)
        self.assertEqual(await self.again(), ["D1"])
        rows = await self.query("SELECT id, step, due - pushed FROM nanomdm_pushes ORDER BY id")
        self.assertEqual(rows, [("D1", 0, 30), ("D2", 0, 30), ("D3", 0, 30)])

    # one server at a time

    async def test_lease(self) -> None:
        """
        As long as one server has it, no other finds any; then another may.
        """
        await self.waiting("D1", "D2")
        self.assertEqual(await self.again("one", 1), ["D1"])
        self.assertEqual(await self.again("two", 1), [])
        self.assertEqual(await self.again("one", 1), ["D2"])
        [(name, holder, left)] = await self.query(
            f"SELECT name, holder, expires - {self.unix_now} FROM nanomdm_leases"
        )
        self.assertEqual((name, holder), ("repush", "one"))
        self.assertTrue(0 < left <= 60, left)
        await self.later()
        await self.query(f"UPDATE nanomdm_leases SET expires = {self.unix_now}")
        self.assertEqual(sorted(await self.again("two")), ["D1", "D2"])
        await self.later()
        self.assertEqual(await self.again("one"), [])

    async def test_leaseIsKept(self) -> None:
        """
        Using it makes it last longer.
        """
        await self.again()
        await self.query(f"UPDATE nanomdm_leases SET expires = {self.unix_now} + 5")
        await self.again()
        [(left,)] = await self.query(f"SELECT expires - {self.unix_now} FROM nanomdm_leases")
        self.assertGreater(left, 6)

    def open_second(self) -> IStorage | None:
        """
        Open another storage on the same database, as another server does.
        """
        return None

    async def test_twoServers(self) -> None:
        """
        Each enrollment is found once, whatever the servers are called.
        """
        second = self.open_second()
        if second is None:
            return
        self.addCleanup(second.stop)
        ids = [f"D{number}" for number in range(30)]
        for names in (("one", "two"), ("one", "one")):
            await self.waiting(*ids)
            await self.query("DELETE FROM nanomdm_leases")
            storages = list(zip((self.storage, second), names, strict=True)) * 5
            found = await gatherResults(
                [storage.push_again(name, 100) for storage, name in storages]
            )
            self.assertEqual(sorted(one.id for some in found for one in some), sorted(ids))

    async def test_pushesWhileOthersAreFound(self) -> None:
        """
        Two servers at work on the same rows never fail each other.
        """
        second = self.open_second()
        if second is None:
            return
        self.addCleanup(second.stop)
        ids = [f"D{number}" for number in range(120)]
        await self.waiting(*ids)
        running: list[Any] = []
        for _ in range(5):
            running.append(self.storage.push_again("one", 50))
            running.append(second.push_targets(ids[::-1], True))
            running.append(self.storage.push_targets(ids, True))
            running.append(second.forget_pushes(ids[::3]))
        await gatherResults(running)
