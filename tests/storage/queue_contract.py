"""
What every storage must do for operators who look at queues and answers, and change queues.
Mixed into a test case beside L{tests.storage.contract.StorageContract}, whose shorthands
it uses.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, gatherResults

from nanomdm.errors import AlreadyAnswered, MessageError, Unknown
from nanomdm.interfaces import CommandTarget, IStorage, Page, ResultFilter
from nanomdm.storage import commands
from tests import samples

LONG_AGO = "2001-01-01 00:00:00"
ALL = Page(1000)
ANY = ResultFilter()


def cursor(*key: Any) -> str:
    """
    A cursor as somebody makes it who has seen some.
    """
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


#: Cursors that no list gives out.
GARBAGE = (
    *("", "!", "x", "ééé", "AAAA", "e30", "bnVsbA", "\0", cursor(), cursor([], {}), "W" * 4000),
    *(cursor(None), cursor(1), cursor(True), cursor("a\0"), cursor("\ud800"), cursor("x" * 256)),
    cursor(*"abcdefgh"),
)
TIMES = ("", "now", "2026-02-30 00:00:00", "2026-01-01", "2026-01-01 00:00:00.1234567", 1, None)
GARBAGE_FOR_QUEUES = (
    *(cursor(0, time, 0, "C1") for time in TIMES),
    *(cursor(number, LONG_AGO, 0, "C1") for number in (2**63, -(10**30), "0", 0.5, True, None)),
    *(cursor(0, LONG_AGO, number, "C1") for number in (2**63, "0", 1e400)),
    *(cursor(0, LONG_AGO, 0, uuid) for uuid in (0, None, "\0", "\udfff")),
)
GARBAGE_FOR_ANSWERS = (
    *(cursor(time, "C1") for time in TIMES),
    *(cursor(LONG_AGO, uuid) for uuid in (0, None, "\0", "\udfff")),
)


class QueueInspectionContract:
    """
    Queues, commands with those they were queued for, and answers.
    """

    storage: IStorage

    # shorthands

    async def pages(
        self, ask: Callable[[Page], Deferred[Any]], limit: int, each: Any = None
    ) -> list[Any]:
        """
        @param each: is called after each page.
        @return: all of a list, looked at in pages.
        """
        found: list[Any] = []
        page = Page(limit)
        while True:
            listing = await ask(page)
            found += listing.items
            if listing.cursor is None:
                self.assertLessEqual(len(listing.items), limit)
                return found
            self.assertEqual(len(listing.items), limit)
            self.assertLess(len(found), 1000, "it does not get on")
            page = evolve(page, cursor=listing.cursor)
            if each is not None:
                await each()

    def queue(self, page: Page = ALL, id: str = "D1") -> Deferred[Any]:
        return self.storage.list_queue(id, page)

    async def queued(self, id: str = "D1", limit: int = 1000) -> list[str]:
        """
        @return: UUIDs in an enrollment's queue.
        """
        found = await self.pages(lambda page: self.queue(page, id), limit)
        return [one.command_uuid for one in found]

    async def answered(self, which: ResultFilter = ANY, limit: int = 1000) -> list[str]:
        """
        @return: UUIDs of what D1 answered.
        """
        found = await self.pages(lambda page: self.storage.list_results("D1", which, page), limit)
        return [one.command_uuid for one in found]

    async def enqueue_all(self, *uuids: str) -> None:
        await gatherResults([self.enqueue(uuid) for uuid in uuids])

    async def answer_all(self, *uuids: str, status: str = "Acknowledged") -> None:
        await self.enqueue_all(*uuids)
        for uuid in uuids:
            await self.report(status, uuid)

    async def now(self) -> int:
        dialect = self.storage._database._engine.dialect
        [(seconds,)] = await self.query(f"SELECT {dialect.unix_now}")
        return seconds

    async def refusal(self, call: Deferred[Any], error: type[Exception]) -> str:
        return str(await self.assertFailure(call, error))

    # what is outstanding

    async def test_queueFacts(self) -> None:
        """
        When commands were enqueued, and which were answered C{NotNow}: first when, and how
        often.
        """
        await self.enroll()
        before = await self.now()
        await self.enqueue("C1")
        await self.enqueue("C2", raw=samples.command("C2", "SecurityInfo"))
        for _ in range(3):
            await self.report("NotNow", "C2")
        one, two = (await self.queue()).items
        after = await self.now()
        self.assertEqual((one.command_uuid, one.request_type), ("C1", "DeviceInformation"))
        self.assertEqual((one.priority, one.not_now_at, one.not_now_count), (0, None, 0))
        self.assertEqual((two.command_uuid, two.request_type), ("C2", "SecurityInfo"))
        self.assertEqual(two.not_now_count, 3)
        for time in (one.queued_at, two.queued_at, two.not_now_at):
            self.assertIsInstance(time, float)
            self.assertTrue(before <= time < after + 1, (before, time, after))
        await self.query("UPDATE command_results SET not_now_at = ?", LONG_AGO)
        [_, two] = (await self.queue()).items
        self.assertLess(two.not_now_at, before - 10**8)

    async def test_queueIsInDeliveryOrder(self) -> None:
        await self.enroll()
        uuids = ["C3", "C1", "C9", "C2", "C7", "C8"]
        await self.enqueue_all(*uuids)
        sql = "UPDATE enrollment_queue SET created_at = ?, priority = ? WHERE command_uuid = ?"
        for day, priority, uuid in ((3, 0, "C3"), (2, 0, "C1"), (9, 5, "C9"), (3, 0, "C2")):
            await self.query(sql, f"2026-01-0{day} 00:00:00", priority, uuid)
        for day, uuid in ((1, "C7"), (2, "C8")):
            await self.query(sql, f"2026-01-0{day} 00:00:00", -5, uuid)
        expected = ["C9", "C1", "C3", "C2", "C7", "C8"]
        for limit in (1, 2, 4, 5, 6, 7):
            self.assertEqual(await self.queued(limit=limit), expected)
        self.assertEqual(await self.deliveries(), expected)
        self.assertEqual(await self.queued(), [])

    async def test_queueOfTheSameTime(self) -> None:
        """
        Many commands of one second, in the order in which they came; those that another
        server wrote have no number, and come by UUID.
        """
        await self.enroll()
        uuids = [f"C{number * 77 % 250:03}" for number in range(250)]
        await self.enqueue_all(*uuids)
        await self.query("UPDATE enrollment_queue SET created_at = ?", LONG_AGO)
        self.assertEqual(await self.queued(limit=7), uuids)
        await self.query("UPDATE enrollment_queue SET nanomdm_seq = 0")
        self.assertEqual(await self.queued(limit=7), sorted(uuids))
        self.assertEqual(await self.next_uuid(), "C000")

    async def test_queueOfFractions(self) -> None:
        """
        Where times have fractions of seconds, the pages meet between them.
        """
        await self.enroll()
        uuids = [f"C{number}" for number in range(10)]
        await self.enqueue_all(*uuids)
        for number, uuid in enumerate(uuids):
            await self.query(
                "UPDATE enrollment_queue SET created_at = ? WHERE command_uuid = ?",
                *(f"2026-01-01 00:00:00.{9 - number}00", uuid),
            )
        at_once = await self.queued()
        self.assertEqual(sorted(at_once), uuids)
        for limit in (1, 3):
            self.assertEqual(await self.queued(limit=limit), at_once)

    async def test_queueWithAnswers(self) -> None:
        """
        Only what is outstanding is there, also where another server left what was answered
        active.
        """
        await self.enroll()
        await self.enqueue_all("C1", "C2", "C3", "C4")
        await self.report("Acknowledged", "C1")
        await self.report("NotNow", "C2")
        await self.report("Error", "C3")
        await self.query("UPDATE enrollment_queue SET active = TRUE WHERE command_uuid <> 'C4'")
        await self.query("UPDATE enrollment_queue SET active = FALSE WHERE command_uuid = 'C4'")
        self.assertEqual(await self.queued(), ["C2"])

    async def test_queueThatChangesMeanwhile(self) -> None:
        """
        The command that a page ended with may be answered or gone when the next one is
        asked for.
        """
        await self.enroll()
        uuids = [f"C{number}" for number in range(9)]
        await self.enqueue_all(*uuids)
        ends = iter(
            [
                lambda: self.storage.cancel_command("D1", "C2"),
                lambda: self.query("DELETE FROM enrollment_queue WHERE command_uuid = 'C5'"),
            ]
        )
        found = await self.pages(self.queue, 3, lambda: next(ends)())
        self.assertEqual([one.command_uuid for one in found], uuids)
        self.assertEqual(len(await self.queued()), 7)

    async def test_queuesOfOthers(self) -> None:
        await self.enroll("D1", "D2")
        await self.enqueue("C1", "D2")
        await self.enqueue("C2", "D1", "D2")
        self.assertEqual(await self.queued("D1"), ["C2"])
        self.assertEqual(await self.queued("D2"), ["C1", "C2"])
        self.assertIn("nobody", await self.refusal(self.queue(id="nobody"), Unknown))

    # garbage

    async def assertNoCursors(self, ask: Any, cursors: Sequence[str]) -> None:
        for garbage in cursors:
            error = await self.refusal(ask(Page(5, garbage)), MessageError)
            self.assertIn("cursor", error)

    async def test_garbageCursors(self) -> None:
        """
        Nothing that somebody makes up, or has from another list, gets to the database.
        """
        await self.enroll()
        await self.enqueue_all("C1", "C2", "C3")
        await self.answer_all("C4", "C5")
        queue = (await self.queue(Page(1))).cursor
        targets, answers = cursor("D1"), (await self.results(Page(1))).cursor
        self.assertTrue(queue and answers)
        await self.assertNoCursors(self.queue, (*GARBAGE, *GARBAGE_FOR_QUEUES, targets, answers))
        await self.assertNoCursors(
            self.results, (*GARBAGE, *GARBAGE_FOR_ANSWERS, queue, targets, cursor(LONG_AGO))
        )
        await self.assertNoCursors(
            lambda page: self.storage.list_targets("C1", page), (*GARBAGE, queue, answers)
        )

    async def test_strangeCursors(self) -> None:
        """
        Keys of rows that there can not be are before or after all that there are.
        """
        await self.enroll()
        await self.answer_all("C1")
        await self.enqueue("C2")
        first, last = "0001-01-01 00:00:00", "9999-12-31 23:59:59.999999"
        most = 2**63 - 1
        for key, expected in (
            ((most, last, most, "x" * 255), ["C2"]),
            ((-most, first, -most, ""), []),
            ((0, first, most, "%s ? \\ '\" ✓"), ["C2"]),
            ((0, last, 0, ""), []),
        ):
            listing = await self.queue(Page(5, cursor(*key)))
            self.assertEqual([one.command_uuid for one in listing.items], expected, key)
        for time, expected in ((first, []), (last, ["C1"])):
            listing = await self.results(Page(5, cursor(time, "'✓")))
            self.assertEqual([one.command_uuid for one in listing.items], expected, time)
        for id, expected in (("", ["D1"]), ("zzz' ✓", [])):
            listing = await self.storage.list_targets("C1", Page(5, cursor(id)))
            self.assertEqual([one.id for one in listing.items], expected)

    def results(self, page: Page) -> Deferred[Any]:
        return self.storage.list_results("D1", ANY, page)

    # changes

    async def test_cancel(self) -> None:
        await self.enroll("D1", "D2")
        await self.enqueue("C1", "D1", "D2")
        await self.enqueue("C2", "D1")
        await self.query("UPDATE enrollment_queue SET updated_at = ?", LONG_AGO)
        self.assertIsNone(await self.storage.cancel_command("D1", "C1"))
        self.assertEqual(await self.queued(), ["C2"])
        self.assertEqual(await self.queued("D2"), ["C1"])
        self.assertEqual(await self.next_uuid(), "C2")
        changed = await self.query(
            "SELECT id, command_uuid FROM enrollment_queue WHERE updated_at > '2002-01-01 00:00:00'"
        )
        self.assertEqual(changed, [("D1", "C1")])

    async def test_cancelNotNow(self) -> None:
        await self.enroll()
        await self.enqueue("C1")
        await self.report("NotNow", "C1")
        await self.storage.cancel_command("D1", "C1")
        self.assertIsNone(await self.next_uuid())

    async def test_refusedChanges(self) -> None:
        """
        What is answered, cancelled or unknown can not be changed, and the text says which.
        """
        await self.enroll("D1", "D2")
        await self.enqueue_all("C1", "C2", "C3")
        await self.report("Acknowledged", "C1")
        await self.storage.cancel_command("D1", "C2")
        await self.storage.cancel_command("D1", "C3")
        await self.report("Error", "C3")
        for change in (
            self.storage.cancel_command,
            lambda id, uuid: self.storage.set_priority(id, uuid, 7),
        ):
            for uuid in ("C1", "C3"):
                text = await self.refusal(change("D1", uuid), AlreadyAnswered)
                self.assertIn(f"{uuid} was answered by D1 already", text)
            text = await self.refusal(change("D1", "C2"), Unknown)
            self.assertIn("C2 was taken out of the queue of D1 already", text)
            for id, uuid in (("D1", "nothing"), ("D2", "C1")):
                text = await self.refusal(change(id, uuid), Unknown)
                self.assertIn(f"{uuid} is not in the queue of {id}", text)
            text = await self.refusal(change("nobody", "C1"), Unknown)
            self.assertIn("no enrollment nobody", text)
        self.assertEqual(
            await self.query("SELECT priority FROM enrollment_queue"), [(0,), (0,), (0,)]
        )

    async def test_changesOfWhatWasLeftActive(self) -> None:
        """
        Another server leaves what was answered in the queue.
        """
        await self.enroll()
        await self.enqueue("C1")
        await self.report("Acknowledged", "C1")
        await self.query("UPDATE enrollment_queue SET active = TRUE")
        await self.refusal(self.storage.cancel_command("D1", "C1"), AlreadyAnswered)
        self.assertEqual(await self.storage.clear_queue("D1"), 0)

    async def test_lateAnswer(self) -> None:
        """
        A device that had a command before it was cancelled answers still.
        """
        await self.enroll()
        await self.enqueue_all("C1", "C2")
        await self.storage.cancel_command("D1", "C1")
        await self.storage.cancel_command("D1", "C2")
        await self.report("NotNow", "C2")
        self.assertIsNone(await self.report("Acknowledged", "C1"))
        self.assertEqual((await self.storage.result("D1", "C1")).status, "Acknowledged")
        self.assertEqual((await self.storage.result("D1", "C2")).status, "NotNow")
        self.assertEqual(await self.queued(), [])

    async def test_cancelledAgainWanted(self) -> None:
        """
        Who enqueues what was cancelled gets it delivered; and it can be cancelled again.
        """
        await self.enroll()
        await self.enqueue("C1")
        for _ in range(2):
            await self.storage.cancel_command("D1", "C1")
            self.assertIsNone(await self.next_uuid())
            self.assertEqual(await self.enqueue("C1"), {})
            self.assertEqual(await self.next_uuid(), "C1")

    async def test_changesAtOnce(self) -> None:
        """
        Calls that are gathered succeed and fail each by itself.
        """
        await self.enroll("D1", "D2")
        uuids = [f"C{number}" for number in range(20)]
        await gatherResults([self.enqueue(uuid, "D1", "D2") for uuid in uuids])
        await self.report("Acknowledged", "C3", "D2")
        calls = [
            self.storage.cancel_command(id, uuid)
            for uuid in reversed(uuids)
            for id in ("D2", "nobody", "D1", "D1")
        ]
        results = [await call.addErrback(lambda failure: failure.type) for call in calls]
        self.assertEqual(results.count(None), 39)
        self.assertEqual(results.count(AlreadyAnswered), 1)
        self.assertEqual(results.count(Unknown), 40)
        self.assertEqual(results[16 * 4], AlreadyAnswered)
        self.assertEqual(await self.queued("D1") + await self.queued("D2"), [])

    async def test_clear(self) -> None:
        await self.enroll("D1", "D2")
        uuids = ("C1", "C2", "C3", "C4")
        await gatherResults([self.enqueue(uuid, "D1", "D2") for uuid in uuids])
        await self.report("Acknowledged", "C1")
        await self.report("NotNow", "C2")
        await self.storage.cancel_command("D1", "C4")
        await self.query("UPDATE enrollment_queue SET updated_at = ?", LONG_AGO)
        self.assertEqual(await self.storage.clear_queue("D1"), 2)
        self.assertEqual(await self.storage.clear_queue("D1"), 0)
        self.assertIsNone(await self.next_uuid())
        self.assertEqual(await self.queued("D2"), ["C1", "C2", "C3", "C4"])
        changed = await self.query(
            "SELECT id, command_uuid FROM enrollment_queue"
            " WHERE updated_at > '2002-01-01 00:00:00' ORDER BY command_uuid"
        )
        self.assertEqual(changed, [("D1", "C2"), ("D1", "C3")])
        text = await self.refusal(self.storage.clear_queue("nobody"), Unknown)
        self.assertIn("no enrollment nobody", text)

    async def test_priority(self) -> None:
        await self.enroll("D1", "D2")
        for uuid in ("C1", "C2", "C3"):
            await self.enqueue(uuid, "D1", "D2")
        await self.report("NotNow", "C3")
        await self.query("UPDATE enrollment_queue SET updated_at = ?", LONG_AGO)
        for uuid, priority in (("C3", 127), ("C1", -128), ("C3", 127)):
            await self.storage.set_priority("D1", uuid, priority)
        found = [(one.command_uuid, one.priority) for one in (await self.queue()).items]
        self.assertEqual(found, [("C3", 127), ("C2", 0), ("C1", -128)])
        self.assertEqual(await self.next_uuid(), "C3")
        self.assertEqual(await self.queued("D2"), ["C1", "C2", "C3"])
        [(changed,)] = await self.query(
            "SELECT count(*) FROM enrollment_queue WHERE updated_at > '2002-01-01 00:00:00'"
        )
        self.assertEqual(changed, 2)

    # commands

    async def test_command(self) -> None:
        await self.enroll()
        raw = samples.command("C1", "SecurityInfo", Text="✓")
        before = await self.now()
        await self.enqueue("C1", raw=raw)
        found = await self.storage.command("C1")
        self.assertEqual(
            (found.command_uuid, found.request_type, found.raw), ("C1", "SecurityInfo", raw)
        )
        self.assertTrue(before <= found.created_at < await self.now() + 1)
        self.assertIn("no command C2", await self.refusal(self.storage.command("C2"), Unknown))

    async def test_targets(self) -> None:
        """
        What each enrollment has made of a command.
        """
        ids = ("D1", "D2", "D3", "D4", "D5")
        await self.enroll(*ids)
        before = await self.now()
        await self.enqueue("C1", *ids)
        await self.enqueue("C2", "D1")
        for status in ("NotNow", "NotNow", "Error"):
            await self.report(status, "C1", "D2")
        await self.report("NotNow", "C1", "D3")
        await self.storage.cancel_command("D4", "C1")
        await self.storage.set_priority("D5", "C1", 9)
        found = (await self.storage.list_targets("C1", ALL)).items
        after = await self.now()
        for one in found:
            for time in (one.queued_at, one.answered_at):
                if time is not None:
                    self.assertTrue(before <= time < after + 1, one)
        self.assertEqual([one.answered_at is None for one in found], [1, 0, 0, 1, 1])
        facts = [evolve(one, queued_at=0.0, answered_at=None) for one in found]
        nothing = CommandTarget(
            id="D1",
            active=True,
            priority=0,
            queued_at=0.0,
            status=None,
            answered_at=None,
            not_now_count=0,
        )
        self.assertEqual(
            facts,
            [
                nothing,
                evolve(nothing, id="D2", active=False, status="Error", not_now_count=2),
                evolve(nothing, id="D3", status="NotNow", not_now_count=1),
                evolve(nothing, id="D4", active=False),
                evolve(nothing, id="D5", priority=9),
            ],
        )
        self.assertEqual((await self.storage.list_targets("nothing", ALL)).items, [])

    async def test_manyTargets(self) -> None:
        ids = [f"{letter}{number}" for letter in "aB-é" for number in range(5)]
        await self.enroll(*ids)
        await self.enqueue("C1", *ids)
        await self.enqueue("C2", *ids[::3])
        sql = "SELECT id FROM enrollment_queue WHERE command_uuid = ? ORDER BY id"
        for uuid in ("C1", "C2"):
            expected = [id for (id,) in await self.query(sql, uuid)]
            for limit in (1, 3, 20, 100):
                found = await self.pages(
                    lambda page, uuid=uuid: self.storage.list_targets(uuid, page), limit
                )
                self.assertEqual([one.id for one in found], expected)

    # answers

    async def test_answer(self) -> None:
        await self.enroll("D1", "D2")
        before = await self.now()
        await self.enqueue_all("C1", "C2")
        self.assertIn(
            "D1 has not answered a command C1",
            await self.refusal(self.storage.result("D1", "C1"), Unknown),
        )
        for text in ("one", "✓"):
            await self.report("NotNow", "C1", Text=text)
        found = await self.storage.result("D1", "C1")
        self.assertEqual((found.status, found.not_now_count), ("NotNow", 2))
        self.assertEqual(found.raw, samples.report("NotNow", "C1", Text="✓"))
        await self.query("UPDATE command_results SET not_now_at = ?", LONG_AGO)
        await self.report("Acknowledged", "C1", Big="x" * 100_000)
        found = await self.storage.result("D1", "C1")
        self.assertEqual(found.raw, samples.report("Acknowledged", "C1", Big="x" * 100_000))
        self.assertEqual((found.status, found.not_now_count), ("Acknowledged", 2))
        self.assertTrue(before <= found.answered_at < await self.now() + 1)
        self.assertLess(found.not_now_at, before - 10**8)
        for id, uuid, text in (
            ("D2", "C1", "D2 has not answered a command C1"),
            ("D1", "C2", "D1 has not answered a command C2"),
            ("nobody", "C1", "no enrollment nobody"),
        ):
            self.assertIn(text, await self.refusal(self.storage.result(id, uuid), Unknown))

    async def test_answersNewestFirst(self) -> None:
        await self.enroll("D1", "D2")
        uuids = [f"C{number:02}" for number in range(25)]
        await self.answer_all(*uuids)
        await self.enqueue("C05", "D2")
        await self.report("Acknowledged", "C05", "D2")
        await self.enqueue("waiting")
        await self.query("UPDATE command_results SET updated_at = ?", LONG_AGO)
        self.assertEqual(await self.answered(limit=4), uuids[::-1])
        for day, uuid in ((3, "C07"), (4, "C11"), (2, "C24")):
            await self.query(
                "UPDATE command_results SET updated_at = ? WHERE command_uuid = ?",
                *(f"2026-01-0{day} 00:00:00", uuid),
            )
        first = ["C11", "C07", "C24"]
        expected = first + [uuid for uuid in reversed(uuids) if uuid not in first]
        for limit in (1, 2, 3, 24, 25):
            self.assertEqual(await self.answered(limit=limit), expected)
        text = await self.refusal(self.storage.list_results("nobody", ANY, ALL), Unknown)
        self.assertIn("no enrollment nobody", text)

    async def test_answersThatChangeMeanwhile(self) -> None:
        await self.enroll()
        uuids = [f"C{number}" for number in range(9)]
        await self.answer_all(*uuids)
        await self.query("UPDATE command_results SET updated_at = ?", LONG_AGO)
        ends = iter(["C6", "C3"])

        def delete() -> Deferred[Any]:
            return self.query("DELETE FROM command_results WHERE command_uuid = ?", next(ends))

        found = await self.pages(self.results, 3, delete)
        self.assertEqual([one.command_uuid for one in found], uuids[::-1])

    async def test_filteredAnswers(self) -> None:
        await self.enroll()
        for number in range(12):
            kind = ("SecurityInfo", "DeviceInformation")[number % 2]
            await self.enqueue(f"C{number:02}", raw=samples.command(f"C{number:02}", kind))
            await self.report(("Error", "Acknowledged", "NotNow")[number % 3], f"C{number:02}")
        await self.query("UPDATE command_results SET updated_at = ?", LONG_AGO)
        for uuid in ("C02", "C03"):
            # So it follows, and is of now.
            await self.query(
                "UPDATE command_results SET updated_at = CURRENT_TIMESTAMP WHERE command_uuid = ?",
                uuid,
            )
        for which, expected in (
            (ResultFilter(status="Error"), "03 09 06 00"),
            (ResultFilter(status="NotNow"), "02 11 08 05"),
            (ResultFilter(request_type="SecurityInfo"), "02 10 08 06 04 00"),
            (ResultFilter(request_type="SecurityInfo", status="Error"), "06 00"),
            (ResultFilter(since=100_000.0), "03 02"),
            (ResultFilter(since=1e12), "03 02 11 10 09 08 07 06 05 04 01 00"),
            (ResultFilter(since=1e5, status="Error", request_type="DeviceInformation"), "03"),
            (ResultFilter(since=1e5, request_type="SecurityInfo", status="Error"), ""),
            (ResultFilter(status="nothing"), ""),
        ):
            uuids = [f"C{number}" for number in expected.split()]
            for limit in (1, 3, 100):
                self.assertEqual(await self.answered(which, limit), uuids, which)

    async def test_answersOfErrors(self) -> None:
        """
        Lists have what tells of errors, unless it is long, and nothing else.
        """
        await self.enroll()
        for uuid, status in (
            *(("C1", "Error"), ("C2", "CommandFormatError"), ("C3", "Acknowledged")),
            *(("C4", "NotNow"), ("C5", "Error"), ("C6", "Error")),
        ):
            await self.answer_all(uuid, status=status)
        for uuid, length in (("C5", 65536), ("C6", 65537)):
            await self.query(
                "UPDATE command_results SET result = ? WHERE command_uuid = ?",
                *("<?xml".ljust(length, "x"), uuid),
            )
        found = {one.command_uuid: one for one in (await self.results(ALL)).items}
        self.assertEqual(found["C1"].raw, samples.report("Error", "C1"))
        self.assertEqual(found["C2"].raw, samples.report("CommandFormatError", "C2"))
        self.assertEqual(len(found["C5"].raw), 65536)
        self.assertEqual([found[uuid].raw for uuid in ("C3", "C4", "C6")], [None] * 3)
        self.assertEqual(found["C4"].not_now_count, 1)
        self.assertIsNotNone(found["C4"].not_now_at)
        self.assertEqual((found["C1"].not_now_count, found["C1"].not_now_at), (0, None))
        self.assertEqual(found["C1"].request_type, "DeviceInformation")

    async def test_answersThatAreNotKept(self) -> None:
        """
        Where answered commands are deleted, they are not there any more.
        """
        self.storage._store_report = commands.store_and_delete
        await self.enroll("D1", "D2")
        await self.enqueue("C1", "D1", "D2")
        await self.report("NotNow", "C1")
        self.assertEqual(await self.answered(), ["C1"])
        await self.report("Acknowledged", "C1")
        self.assertEqual((await self.queued(), await self.answered()), ([], []))
        targets = (await self.storage.list_targets("C1", ALL)).items
        self.assertEqual([one.id for one in targets], ["D2"])
        for call in (
            self.storage.cancel_command("D1", "C1"),
            self.storage.set_priority("D1", "C1", 1),
            self.storage.result("D1", "C1"),
        ):
            await self.assertFailure(call, Unknown)
        self.assertEqual(await self.storage.clear_queue("D1"), 0)
        self.assertEqual((await self.storage.command("C1")).command_uuid, "C1")
        # A late answer to a cancelled one leaves nothing either.
        await self.storage.cancel_command("D2", "C1")
        await self.report("Acknowledged", "C1", "D2")
        self.assertEqual((await self.storage.list_targets("C1", ALL)).items, [])
