"""
What every storage must do for the webhook.  Mixed into a test case beside
L{tests.storage.contract.StorageContract} and L{tests.storage.push_contract.PushContract},
whose shorthands it uses.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from itertools import count
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from nanomdm.errors import LeaseLost, NotEnrolled, StorageUnavailable
from nanomdm.interfaces import Backlog, IStorage, QueuedEvent
from nanomdm.mdm.checkin import parse_checkin
from nanomdm.mdm.command import installs_mdm_profile, parse_report
from nanomdm.mdm.enrollment import Enrollment, EnrollmentType
from nanomdm.mdm.event import CONNECT, Event, body
from nanomdm.storage import commands, webhook, webhook_failed
from nanomdm.storage.pool import Pool
from nanomdm.storage.transaction import Transaction
from tests import samples
from tests.storage.contract import PEM

NOW = datetime(2026, 11, 20, 10, 0, 0, 123456, UTC)
LEASE = 60.0
#: The largest request of a device that is accepted.
LARGEST = 15 * 2**20


def event(name: str, id: str = "D1", raw: bytes = b"<plist/>", topic: str = CONNECT) -> Event:
    """
    An event with a name of its own.
    """
    return Event(name, topic, NOW, Enrollment(id, EnrollmentType.DEVICE), raw)


def name_of(queued: QueuedEvent) -> str:
    """
    @return: the name of an event, as the receiver sees it.
    """
    name: str = json.loads(queued.body)["event_id"]
    return name


class EventContract:
    """
    Writing events, and handing them out.
    """

    storage: IStorage

    # shorthands

    async def record(self, id: str, *names: str) -> None:
        for name in names:
            await self.storage.record_event(event(name, id))

    async def claim(self, server: str = "one", streams: int = 16) -> list[QueuedEvent]:
        return await self.storage.claim_events(server, streams, LEASE)

    async def claim_one(self, server: str = "one") -> QueuedEvent:
        [queued] = await self.claim(server)
        return queued

    async def written(self) -> list[Any]:
        """
        @return: topics and names of the events that wait, in their order.
        """
        return await self.query(
            "SELECT topic, event_id FROM nanomdm_webhook_events ORDER BY number"
        )

    async def streams(self) -> list[Any]:
        """
        @return: enrollments with events, and who has them in hand.
        """
        return await self.query(
            "SELECT enrollment_id, holder FROM nanomdm_webhook_streams ORDER BY enrollment_id"
        )

    async def expire(self) -> None:
        """
        Let so much time go by that all leases and delays end.
        """
        await self.query("UPDATE nanomdm_webhook_streams SET due = due - 1000000")

    async def left(self) -> int:
        """
        @return: seconds until the one enrollment is due.
        """
        [(left,)] = await self.query(f"SELECT due - {self.unix_now} FROM nanomdm_webhook_streams")
        return left

    async def names(self, server: str = "one") -> dict[str, list[str]]:
        """
        Deliver everything.

        @return: the names of the events of each enrollment, as they came.
        """
        found: dict[str, list[str]] = {}
        for first in await self.claim(server, 1000):
            queued: QueuedEvent | None = first
            while queued is not None:
                self.assertEqual(queued.enrollment_id, first.enrollment_id)
                found.setdefault(queued.enrollment_id, []).append(name_of(queued))
                queued = await self.storage.event_delivered(server, queued)
        return found

    async def assertNothingLeft(self) -> None:
        self.assertEqual((await self.written(), await self.streams()), ([], []))

    async def assertLost(self, queued: QueuedEvent, server: str = "one") -> None:
        """
        Nothing that is done with an event counts.
        """
        tables = "nanomdm_webhook_events", "nanomdm_webhook_streams", "nanomdm_webhook_failed"
        before = [sorted(await self.query(f"SELECT * FROM {table}")) for table in tables]
        for call in (
            self.storage.event_delivered(server, queued),
            self.storage.event_postponed(server, queued, 1.0),
            self.storage.event_failed(server, queued, "why"),
        ):
            await self.assertFailure(call, LeaseLost)
        after = [sorted(await self.query(f"SELECT * FROM {table}")) for table in tables]
        self.assertEqual(after, before)

    # written with what they tell

    async def accepted(self) -> list[tuple[str, Callable[..., Awaitable[Any]], tuple[Any, ...]]]:
        """
        @return: calls that succeed, one after the other: topics, methods, arguments.
        """
        storage = self.storage
        user = parse_checkin(samples.token_update(UserID="U1"))
        await self.enroll()
        await self.enqueue("C1")
        login = parse_checkin(samples.checkin("UserAuthenticate", UserID="U1"))
        out = parse_checkin(samples.checkin("CheckOut")).enrollment
        report = parse_report(samples.report("Acknowledged", "C1"))
        enroll = (parse_checkin(samples.authenticate()), PEM, installs_mdm_profile)
        return [
            ("SetBootstrapToken", storage.store_bootstrap_token, ("D1", b"boot")),
            ("GetBootstrapToken", storage.fetch_bootstrap_token, ("D1",)),
            ("UserAuthenticate", storage.store_user_authenticate, (login,)),
            ("TokenUpdate", storage.store_token_update, (user,)),
            ("Connect", storage.next_command, ("D1",)),
            ("Connect", storage.store_report, (report,)),
            ("CheckOut", storage.disable, (out,)),
            ("Authenticate", storage.store_authenticate, enroll),
        ]

    async def test_writtenWithTheirRequests(self) -> None:
        """
        Each call does the same, and returns the same, as without an event.
        """
        names, results = [], []
        for topic, method, arguments in await self.accepted():
            names.append(f"{len(names)}-{topic}")
            told = event(names[-1], topic=f"mdm.{topic}")
            results.append(await method(*arguments, event=told))
        self.assertEqual(results[:4], [None, b"boot", None, 1])
        self.assertEqual(results[4], samples.command("C1"))
        self.assertEqual((results[5].known, results[5].next_command), (True, None))
        self.assertEqual(results[6:], [None, False])
        self.assertEqual(
            await self.query("SELECT status FROM command_results"), [("Acknowledged",)]
        )
        self.assertEqual(
            await self.query("SELECT id, enabled FROM enrollments ORDER BY id"),
            [("D1", False), ("D1:U1", False)],
        )
        self.assertEqual(
            await self.written(), [(f"mdm.{name.partition('-')[2]}", name) for name in names]
        )
        self.assertEqual(await self.names(), {"D1": names})

    async def test_withoutEvents(self) -> None:
        for _, method, arguments in await self.accepted():
            await method(*arguments)
        await self.assertNothingLeft()

    async def test_body(self) -> None:
        """
        What is delivered is what the event says of itself; only a C{TokenUpdate}
        tells how many there were.
        """
        await self.enroll()
        message = parse_checkin(samples.token_update())
        told = [event(f"E{n}", raw=b"<plist/>" * n, topic="mdm.TokenUpdate") for n in (1, 2)]
        for one in told:
            await self.storage.store_token_update(message, event=one)
        told.append(event("E3"))
        await self.storage.next_command("D1", event=told[2])
        bodies = []
        queued: QueuedEvent | None = await self.claim_one()
        while queued is not None:
            bodies.append(queued.body)
            queued = await self.storage.event_delivered("one", queued)
        self.assertEqual(
            bodies,
            [body(one.head(tally), one.raw) for one, tally in zip(told, (2, 3, None), strict=True)],
        )

    async def test_largeAnswer(self) -> None:
        """
        The largest answer of a device that is allowed comes through whole, first and
        when it is retried, with an engine's default settings.
        """
        await self.enroll()
        await self.enqueue("C1")
        answer = samples.report("Acknowledged", "C1")
        head, end = answer.split(b"</dict>")
        line = b"\t" + b"QUJD" * 19 + b"\n"
        data = line * ((LARGEST - len(answer) - 50) // len(line))
        raw = b"%b<key>P</key><data>%b</data></dict>%b" % (head, data, end)
        self.assertTrue(LARGEST - 128 < len(raw) <= LARGEST, len(raw))
        told = event("E1", raw=raw)
        await self.storage.store_report(parse_report(raw), event=told)
        [(length,)] = await self.query("SELECT LENGTH(result) FROM command_results")
        self.assertEqual(length, len(raw))
        wanted = hashlib.sha256(body(told.head(), raw)).hexdigest()
        for _ in range(2):
            queued = await self.claim_one()
            # Not compared as such: a failure would print them.
            self.assertEqual(hashlib.sha256(queued.body).hexdigest(), wanted)
            await self.storage.event_failed("one", queued, "why")
            await self.storage.retry_events(None)

    async def test_anyText(self) -> None:
        """
        What engines quote, end lines with or might normalize comes through.
        """
        odd = "\\'\"`%s{}?:x \r\n\r\n \t\N{SNOWMAN}e\u0301\U0001f600\x7f\u0085 "
        told = event("E1", raw=odd.encode(), topic=odd)
        await self.storage.record_event(told)
        self.assertEqual((await self.claim_one()).body, body(told.head(), told.raw))

    async def test_refusedRequestsTellNothing(self) -> None:
        """
        Those that are gathered with them do.
        """
        await self.authenticate("D2")
        user = parse_checkin(samples.checkin("UserAuthenticate", UserID="U1"))
        storage = self.storage

        def calls(udid: str) -> list[Deferred[Any]]:
            message = parse_checkin(samples.token_update(udid))
            return [
                storage.store_token_update(message, event=event(f"T-{udid}", udid)),
                storage.store_bootstrap_token(udid, b"boot", event=event(f"B-{udid}", udid)),
            ]

        refused, accepted = [], []
        for _ in range(3):
            refused += calls("D1")
            accepted += calls("D2")
        refused.append(storage.store_user_authenticate(user, event=event("U", "D1:U1")))
        for call in refused:
            await self.assertFailure(call, NotEnrolled)
        self.assertEqual(await gatherResults(accepted), [1, None, 2, None, 3, None])
        self.assertEqual(await self.streams(), [("D2", "")])
        self.assertEqual(await self.names(), {"D2": ["T-D2", "B-D2"] * 3})

    async def test_rolledBackTogether(self) -> None:
        """
        An event that can not be written undoes what it tells.
        """

        class Broken(Event):
            def head(self, tally: int | None = None) -> str:
                raise ValueError("broken")

        await self.enroll("D1", "D2")
        await self.enqueue("C1", "D1", "D2")
        broken = Broken("E1", CONNECT, NOW, Enrollment("D1", EnrollmentType.DEVICE), b"")
        bad, good = (
            self.storage.store_report(
                parse_report(samples.report("Acknowledged", "C1", told.enrollment.id)), event=told
            )
            for told in (broken, event("E2", "D2"))
        )
        await self.assertFailure(bad, Exception)
        self.assertTrue((await good).known)
        self.assertEqual(await self.query("SELECT id FROM command_results"), [("D2",)])
        self.assertEqual(await self.names(), {"D2": ["E2"]})

    async def test_failedCommit(self) -> None:
        """
        What is not committed tells nothing.
        """
        await self.enroll()
        await self.enqueue("C1")

        def fail(pool: Pool, connection: Any) -> None:
            raise StorageUnavailable("no commit")

        patched = self.patch(Pool, "_commit", fail)
        report = parse_report(samples.report("Acknowledged", "C1"))
        for call in (
            self.storage.store_report(report, event=event("E1")),
            self.storage.next_command("D1", event=event("E2")),
            self.storage.record_event(event("E3")),
        ):
            await self.assertFailure(call, StorageUnavailable)
        patched.restore()
        await self.assertNothingLeft()
        self.assertEqual(await self.next_uuid(), "C1")

    # order

    async def test_order(self) -> None:
        """
        As they were written, for each enrollment, however they were gathered.
        """
        ids = ["D2", "D1", "d1", "D1:U1"]
        wanted: dict[str, list[str]] = {id: [] for id in ids}
        calls = []
        for number in range(200):
            id = ids[number * number % 7 % len(ids)]
            wanted[id].append(f"E{number}")
            told = event(f"E{number}", id)
            if number % 3:
                calls.append(self.storage.record_event(told))
            else:
                calls.append(self.storage.next_command(id, event=told))
        await gatherResults(calls)
        self.assertEqual(await self.names(), {id: names for id, names in wanted.items() if names})
        await self.assertNothingLeft()

    async def test_lockedAtOnce(self) -> None:
        """
        A transaction locks all its enrollments in one go, by id, whatever else it
        does: else two servers could wait for each other.
        """
        await self.enroll()
        await self.enqueue("C1")
        locked = []

        def insert_missing(transaction: Transaction, *arguments: Any, **more: Any) -> None:
            locked.append([row[0] for row in arguments[3]])
            original(transaction, *arguments, **more)

        original = Transaction.insert_missing
        self.patch(Transaction, "insert_missing", insert_missing)
        report = parse_report(samples.report("Acknowledged", "C1"))
        await gatherResults(
            [
                self.storage.record_event(event("E1", "D9")),
                self.storage.next_command("D4", event=event("E2", "D4")),
                self.storage.store_report(report, event=event("E3", "D1")),
                self.storage.next_command("D2", event=event("E4", "D2")),
                self.storage.record_event(event("E5", "D4")),
                self.storage.record_event(event("E6", "C9")),
            ]
        )
        events = [ids for ids in locked if ids]
        self.assertEqual(events, [["C9", "D1", "D2", "D4", "D9"]])
        names = sorted(name for _, name in await self.written())
        self.assertEqual(names, [f"E{n}" for n in range(1, 7)])

    def test_gatheredAsOthers(self) -> None:
        """
        Calls of one kind are of one kind with an event, too.
        """
        for more in ({}, {"tallies": True}):
            one, two = (webhook.recorded(commands.next_command, **more) for _ in range(2))
            self.assertIs(one, two)

    async def test_veryMany(self) -> None:
        """
        More enrollments than one statement can name.
        """
        await gatherResults(
            [self.storage.record_event(event(f"E{number}", f"D{number}")) for number in range(3000)]
        )
        claimed = await self.claim(streams=5000)
        self.assertEqual(len({queued.enrollment_id for queued in claimed}), 3000)
        await gatherResults([self.storage.event_delivered("one", queued) for queued in claimed])
        await self.assertNothingLeft()

    async def test_numbersRise(self) -> None:
        """
        No number comes back, not even when nothing is left.
        """
        numbers = []
        for name in ("E1", "E2", "E3"):
            await self.record("D1", name)
            queued = await self.claim_one()
            numbers.append(queued.number)
            await self.storage.event_delivered("one", queued)
            await self.assertNothingLeft()
        self.assertEqual(len(set(numbers)), 3)
        self.assertEqual(sorted(numbers), numbers)

    # in one server's hands

    async def test_claim(self) -> None:
        """
        The first event of each enrollment, in one hand only.
        """
        await self.record("D1", "E1", "E2")
        await self.record("D2", "E3")
        claimed = await self.claim()
        self.assertEqual(sorted(map(name_of, claimed)), ["E1", "E3"])
        for queued in claimed:
            self.assertTrue(0 <= queued.age < 1000, queued)
            self.assertEqual(queued.attempts, 0)
        for server in ("one", "two"):
            self.assertEqual(await self.claim(server), [])
        self.assertEqual(await self.streams(), [("D1", "one"), ("D2", "one")])

    async def test_eventsOfWhatIsInHand(self) -> None:
        """
        They come after the one that is under way.
        """
        await self.record("D1", "E1")
        queued = await self.claim_one()
        await self.record("D1", "E2")
        self.assertEqual(await self.claim("two"), [])
        following = await self.storage.event_delivered("one", queued)
        self.assertEqual((name_of(following), following.attempts), ("E2", 0))
        self.assertEqual(await self.claim("two"), [])
        self.assertIsNone(await self.storage.event_delivered("one", following))
        await self.assertNothingLeft()
        await self.record("D1", "E3")
        self.assertEqual(await self.names("two"), {"D1": ["E3"]})

    async def test_someAtATime(self) -> None:
        """
        Those first that are due for longest.
        """
        ids = [f"D{number}" for number in range(5)]
        for due, id in enumerate(ids):
            await self.record(id, f"E-{id}")
            await self.query(
                "UPDATE nanomdm_webhook_streams SET due = ? WHERE enrollment_id = ?", 9 - due, id
            )
        found = []
        for _ in range(3):
            found.append([queued.enrollment_id for queued in await self.claim(streams=2)])
        self.assertEqual(found, [["D4", "D3"], ["D2", "D1"], ["D0"]])

    async def test_age(self) -> None:
        await self.record("D1", "E1")
        await self.query("UPDATE nanomdm_webhook_events SET created = created - 5000")
        queued = await self.claim_one()
        self.assertTrue(5000 <= queued.age < 6000, queued.age)

    async def test_eventLease(self) -> None:
        """
        It lasts as long as was wished, at least, and begins again with each event.
        """
        await self.record("D1", "E1", "E2")
        queued = await self.claim_one()
        self.assertTrue(LEASE <= await self.left() <= LEASE + 1)
        await self.query(f"UPDATE nanomdm_webhook_streams SET due = {self.unix_now} + 5")
        self.assertEqual(await self.claim("two"), [])
        await self.storage.event_delivered("one", queued)
        self.assertTrue(LEASE <= await self.left() <= LEASE + 1)

    async def test_eventLeaseEnds(self) -> None:
        """
        Another server delivers the event again, and what the first one says later
        does not count.
        """
        await self.record("D1", "E1", "E2")
        queued = await self.claim_one("one")
        await self.expire()
        again = await self.claim_one("two")
        self.assertEqual((again.number, again.body), (queued.number, queued.body))
        await self.assertLost(queued)
        following = await self.storage.event_delivered("two", again)
        await self.assertLost(queued)
        await self.assertLost(following)
        self.assertIsNone(await self.storage.event_delivered("two", following))
        await self.assertLost(following)

    async def test_lateButNotTooLate(self) -> None:
        """
        Nobody else took it: it counts.
        """
        await self.record("D1", "E1")
        queued = await self.claim_one()
        await self.expire()
        self.assertIsNone(await self.storage.event_delivered("one", queued))
        await self.assertNothingLeft()

    async def test_twice(self) -> None:
        """
        A server that has an event twice, since its lease ended, finishes it once.
        """
        await self.record("D1", "E1", "E2")
        first = await self.claim_one()
        await self.expire()
        second = await self.claim_one()
        one, two = (self.storage.event_delivered("one", queued) for queued in (first, second))
        self.assertEqual(name_of(await one), "E2")
        await self.assertFailure(two, LeaseLost)
        await self.assertLost(first)
        self.assertEqual(await self.written(), [(CONNECT, "E2")])

    async def test_gathered(self) -> None:
        """
        Each gets its own answer.
        """
        for id in ("D3", "D1", "D2"):
            await self.record(id, f"E-{id}", f"F-{id}")
        held = {queued.enrollment_id: queued for queued in await self.claim()}
        await self.query(
            "UPDATE nanomdm_webhook_streams SET holder = 'x' WHERE enrollment_id = 'D1'"
        )
        calls = {id: self.storage.event_delivered("one", held[id]) for id in ("D2", "D1", "D3")}
        await self.assertFailure(calls["D1"], LeaseLost)
        self.assertEqual([name_of(await calls[id]) for id in ("D2", "D3")], ["F-D2", "F-D3"])
        self.assertEqual(
            sorted(await self.written()),
            [(CONNECT, name) for name in ("E-D1", "F-D1", "F-D2", "F-D3")],
        )

    async def test_release(self) -> None:
        """
        What one server has in hand, and not what is postponed or another's.
        """
        for id in ("D1", "D2", "D3", "D4"):
            await self.record(id, f"E-{id}")
        one = await self.claim("one", 3)
        [two] = await self.claim("two")
        await self.storage.event_postponed("one", one[0], 1000.0)
        await self.storage.release_events("one")
        await self.assertLost(one[1])
        again = await self.claim("three")
        self.assertEqual(
            sorted(queued.enrollment_id for queued in again),
            sorted(queued.enrollment_id for queued in one[1:]),
        )
        self.assertEqual([queued.attempts for queued in again], [0, 0])
        self.assertIsNone(await self.storage.event_delivered("two", two))

    async def test_strayStream(self) -> None:
        """
        An enrollment that has no events does no harm, and goes.
        """
        await self.record("D1", "E1")
        await self.record("D2", "E2")
        await self.query("DELETE FROM nanomdm_webhook_events WHERE enrollment_id = 'D1'")
        self.assertEqual(await self.names(), {"D2": ["E2"]})
        await self.assertNothingLeft()

    # failures

    async def test_postponed(self) -> None:
        """
        The enrollment waits, with all its events, and no other does.
        """
        await self.record("D1", "E1", "E2")
        await self.record("D2", "E3")
        for attempts in range(3):
            claimed = {queued.enrollment_id: queued for queued in await self.claim()}
            self.assertEqual(claimed["D1"].attempts, attempts)
            self.assertEqual("D2" in claimed, attempts == 0)
            await self.storage.event_postponed("one", claimed["D1"], 99.5)
            self.assertEqual(await self.claim("two"), [])
            await self.query(
                "UPDATE nanomdm_webhook_streams SET due = due - 101 WHERE enrollment_id = 'D1'"
            )
        await self.record("D1", "E4")
        queued = await self.claim_one("two")
        self.assertEqual((name_of(queued), queued.attempts), ("E1", 3))
        following = await self.storage.event_delivered("two", queued)
        self.assertEqual((name_of(following), following.attempts), ("E2", 0))
        await self.storage.event_postponed("two", following, 0.0)
        self.assertEqual((await self.claim_one("one")).attempts, 1)

    async def test_delay(self) -> None:
        await self.record("D1", "E1")
        await self.storage.event_postponed("one", await self.claim_one(), 99.5)
        self.assertTrue(99 <= await self.left() <= 100)
        self.assertEqual(await self.streams(), [("D1", "")])

    async def test_postponedCountsOnce(self) -> None:
        await self.record("D1", "E1")
        queued = await self.claim_one()
        await self.storage.event_postponed("one", queued, 0.0)
        await self.assertLost(queued)
        self.assertEqual((await self.claim_one()).attempts, 1)

    async def fail_all(self, *reasons: str) -> None:
        """
        Give up all events that are there, for these reasons in turn.
        """
        texts = iter(reasons)
        for first in await self.claim(streams=1000):
            queued: QueuedEvent | None = first
            while queued is not None:
                queued = await self.storage.event_failed("one", queued, next(texts, "why"))

    async def test_failed(self) -> None:
        """
        It is kept apart, and the next one comes.
        """
        await self.record("D1", "E1", "E2")
        await self.storage.event_postponed("one", await self.claim_one(), 0.0)
        queued = await self.claim_one()
        following = await self.storage.event_failed("one", queued, "503\0no\udc80\n" + "x" * 999)
        self.assertEqual((name_of(following), following.attempts), ("E2", 0))
        self.assertEqual(await self.streams(), [("D1", "one")])
        [failed] = await self.storage.failed_events(10, 0)
        self.assertEqual(
            (failed.number, failed.event_id, failed.topic, failed.enrollment_id),
            (queued.number, "E1", CONNECT, "D1"),
        )
        self.assertEqual((failed.attempts, len(failed.reason)), (2, 255))
        self.assertTrue(failed.reason.startswith("503 no  xxx"), failed.reason)
        [(now,)] = await self.query(f"SELECT {self.unix_now}")
        self.assertTrue(0 <= failed.failed_at - failed.created <= now - failed.created < 1000)
        self.assertIsNone(await self.storage.event_failed("one", following, ""))
        await self.assertNothingLeft()

    async def test_failedEvents(self) -> None:
        """
        In pages.
        """
        self.assertEqual(await self.storage.failed_events(10, 0), [])
        await self.record("D1", *(f"E{number}" for number in range(5)))
        await self.fail_all(*"abcde")
        pages, after = [], 0
        while page := await self.storage.failed_events(2, after):
            pages.append([(one.event_id, one.reason) for one in page])
            after = page[-1].number
        self.assertEqual(
            pages, [[("E0", "a"), ("E1", "b")], [("E2", "c"), ("E3", "d")], [("E4", "e")]]
        )

    async def test_retry(self) -> None:
        """
        They go behind what waits, in the order that they had, as if they were new.
        """
        await self.record("D1", "E1", "E2", "E3")
        await self.record("D2", "E4")
        await self.query("UPDATE nanomdm_webhook_events SET created = created - 5000")
        await self.fail_all()
        await self.record("D1", "E5")
        one, two, three, four = sorted(
            await self.storage.failed_events(10, 0), key=lambda failed: failed.event_id
        )
        self.assertTrue(5000 <= one.failed_at - one.created < 6000, one)
        self.assertEqual(await self.storage.retry_events([three.number, one.number, 10**9]), 2)
        self.assertEqual(await self.storage.retry_events([three.number, one.number]), 0)
        self.assertEqual(await self.storage.retry_events([]), 0)
        self.assertEqual(await self.storage.failed_events(10, 0), [two, four])
        queued = await self.claim_one()
        self.assertEqual(name_of(queued), "E5")
        queued = await self.storage.event_delivered("one", queued)
        self.assertEqual((name_of(queued), queued.attempts), ("E1", 0))
        self.assertLess(queued.age, 1000)
        self.assertEqual(await self.storage.retry_events([four.number]), 1)
        self.assertEqual(await self.names("two"), {"D2": ["E4"]})
        queued = await self.storage.event_delivered("one", queued)
        self.assertEqual(name_of(queued), "E3")
        self.assertIsNone(await self.storage.event_delivered("one", queued))

    async def test_retriedBody(self) -> None:
        told = event("E1", raw=b"<plist>1</plist>", topic="mdm.TokenUpdate")
        await self.storage.record_event(told)
        await self.fail_all()
        await self.storage.retry_events(None)
        self.assertEqual((await self.claim_one()).body, body(told.head(), told.raw))
        [(topic, name)] = await self.written()
        self.assertEqual((topic, name), (told.topic, "E1"))

    async def test_retryAll(self) -> None:
        """
        In many short transactions.
        """
        self.patch(webhook_failed, "PIECE", 3)
        self.assertEqual(await self.storage.retry_events(None), 0)
        wanted = {id: [f"{id}-{number}" for number in range(5)] for id in ("D2", "D1")}
        for id, names in wanted.items():
            await self.record(id, *names)
        await self.fail_all()
        self.assertEqual(await self.storage.retry_events(None), 10)
        self.assertEqual(await self.storage.failed_events(10, 0), [])
        self.assertEqual(await self.names(), wanted)
        await self.assertNothingLeft()

    async def test_retrySome(self) -> None:
        """
        Each once and in their order, however they are named.
        """
        self.patch(webhook_failed, "PIECE", 2)
        await self.record("D1", *(f"E{number}" for number in range(5)))
        await self.fail_all()
        numbers = [failed.number for failed in await self.storage.failed_events(10, 0)]
        self.assertEqual(await self.storage.retry_events([*numbers[::-1], *numbers]), 5)
        self.assertEqual(await self.names(), {"D1": [f"E{number}" for number in range(5)]})

    async def test_retriedWhileInHand(self) -> None:
        await self.record("D1", "E1", "E2")
        queued = await self.storage.event_failed("one", await self.claim_one(), "why")
        self.assertEqual(await self.storage.retry_events(None), 1)
        self.assertEqual(await self.claim("two"), [])
        self.assertEqual(name_of(await self.storage.event_delivered("one", queued)), "E1")

    # how many

    async def test_backlog(self) -> None:
        self.assertEqual(await self.storage.event_backlog(), Backlog(0, None, 0))
        await self.record("D2", "E1")
        await self.record("D1", "E2", "E3")
        await self.query(
            "UPDATE nanomdm_webhook_events SET created = created - 5000 WHERE event_id = 'E1'"
        )
        # Asked at once, they may still be answered in two seconds.
        for one in await gatherResults([self.storage.event_backlog() for _ in range(2)]):
            self.assertEqual((one.waiting, one.failed), (3, 0))
            self.assertTrue(5000 <= one.oldest < 6000, one)
        await self.fail_all()
        self.assertEqual(await self.storage.event_backlog(), Backlog(0, None, 3))

    # several servers

    ENROLLMENTS = 12
    EACH = 25

    async def test_twoServersAtWork(self) -> None:
        """
        Devices talk to either server, both deliver, and a third one dies again and
        again with what it has in hand: every event comes, in order.
        """
        second = self.open_second()
        if second is None:
            return
        self.addCleanup(second.stop)
        storages = (self.storage, second)
        delivered: dict[str, list[int]] = {f"D{n}": [] for n in range(self.ENROLLMENTS)}
        writing = [True]

        async def live(id: str) -> None:
            for number in range(self.EACH):
                storage = storages[(number + len(id)) % 2]
                await storage.next_command(id, event=event(str(number), id))

        async def deliver(storage: IStorage, server: str) -> None:
            for turn in count():
                claimed = await storage.claim_events(server, 4, LEASE)
                if not claimed and not writing:
                    return
                await gatherResults(
                    [
                        Deferred.fromCoroutine(follow(storage, server, queued, turn))
                        for queued in claimed
                    ]
                )

        async def follow(storage: IStorage, server: str, first: QueuedEvent, turn: int) -> None:
            queued: QueuedEvent | None = first
            while queued is not None:
                if (queued.number + turn) % 7 == 0:
                    await storage.event_postponed(server, queued, 0.0)
                    return
                delivered[queued.enrollment_id].append(int(name_of(queued)))
                queued = await storage.event_delivered(server, queued)

        async def die() -> None:
            while writing:
                for queued in await second.claim_events("dead", 1, LEASE):
                    delivered[queued.enrollment_id].append(int(name_of(queued)))
                    await second._database.write_alone(end_lease, queued.enrollment_id)

        def end_lease(transaction: Transaction, ids: Sequence[str]) -> list[None]:
            statement = "UPDATE nanomdm_webhook_streams SET due = 0 WHERE enrollment_id = ?"
            transaction.execute_many(statement, [(id,) for id in ids])
            return [None] * len(ids)

        async def write() -> None:
            await gatherResults([Deferred.fromCoroutine(live(id)) for id in delivered])
            writing.clear()

        servers = [deliver(self.storage, "one"), deliver(second, "two"), die(), write()]
        await gatherResults([Deferred.fromCoroutine(server) for server in servers])
        await self.expire()
        await deliver(self.storage, "one")
        for id, numbers in delivered.items():
            self.assertEqual(list(dict.fromkeys(numbers)), list(range(self.EACH)), id)
        await self.assertNothingLeft()

    async def test_claimedAtOnce(self) -> None:
        """
        Two servers that look at the same moment never get the same.
        """
        second = self.open_second()
        if second is None:
            return
        self.addCleanup(second.stop)
        for number in range(30):
            await self.record(f"D{number}", f"E{number}")
        calls = []
        for number in range(10):
            storage, server = ((self.storage, "one"), (second, "two"))[number % 2]
            calls.append(storage.claim_events(server, 4, LEASE))
        found = [queued.number for claimed in await gatherResults(calls) for queued in claimed]
        self.assertEqual((len(found), len(set(found))), (30, 30))
