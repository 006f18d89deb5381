"""
Tests for several storages at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, gatherResults, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from nanomdm.errors import NotEnrolled, Overloaded, StorageError, StorageUnavailable
from nanomdm.interfaces import IStorage
from nanomdm.mdm.checkin import parse_checkin
from nanomdm.mdm.command import parse_command, parse_report
from nanomdm.storage import mirror
from nanomdm.storage.factory import open_storage
from nanomdm.storage.mirror import Follower, MirroredStorage
from nanomdm.storage.settings import StorageSettings
from tests import samples
from tests.servers import unavailable
from tests.storage.contract import HASH_A, HASH_B
from tests.storage.tables import query
from tests.storage.test_engines import EngineCase

_WRITES = (
    *("store_authenticate", "store_token_update", "store_user_authenticate", "disable"),
    *("store_bootstrap_token", "enqueue", "store_report", "associate"),
    *("store_migrated", "store_push_certificate"),
    *("cancel_command", "clear_queue", "set_priority"),
    *("disable_enrollment", "purge_enrollment"),
)
#: What the first storage alone is asked for.
_ALONE = (
    *("association", "enrollment_of_certificate", "fetch_bootstrap_token", "next_command"),
    *("push_certificate", "push_certificates", "push_targets", "bury_push_token"),
    *("forget_pushes", "push_again", "repeat_step"),
    *("record_event", "claim_events", "event_delivered", "event_postponed", "event_failed"),
    *("release_events", "event_backlog", "failed_events", "retry_events"),
    *("ping", "queue_summary", "list_enrollments", "enrollment", "list_queue", "command"),
    *("list_targets", "list_results", "result", "unlock_token", "encrypted"),
)
#: Those that write and take an event.
_TELLING = (
    *("store_authenticate", "store_token_update", "store_user_authenticate", "disable"),
    *("store_bootstrap_token", "store_report"),
)


class FakeStorage:
    """
    A storage whose methods fire when the test says so.

    @ivar calls: what was asked for, without L{touch}.
    @ivar events: the events that came with it.
    @ivar answer: when not L{None}, makes what every method returns.
    """

    def __init__(self, answer: Any = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.events: list[Any] = []
        self.seen: list[str] = []
        self.waiting: list[Deferred[Any]] = []
        self.answer = answer
        self.started = False
        self.stopped = 0
        self.stopping: Deferred[None] = succeed(None)
        for name in (*_WRITES, *_ALONE):
            setattr(self, name, self._method(name))

    def _method(self, name: str) -> Any:
        def method(*arguments: Any, event: Any = None) -> Deferred[Any]:
            self.calls.append((name, *arguments))
            self.events += [] if event is None else [event]
            if self.answer is not None:
                return self.answer()
            self.waiting.append(Deferred())
            return self.waiting[-1]

        return method

    def touch(self, enrollment_id: str) -> None:
        self.seen.append(enrollment_id)

    def start(self) -> None:
        self.started = True

    def stop(self) -> Deferred[None]:
        self.stopped += 1
        return self.stopping

    def fire(self, result: Any = None) -> None:
        """
        Answer everything that waits.
        """
        waiting, self.waiting = self.waiting, []
        for one in waiting:
            one.errback(result) if isinstance(result, Exception) else one.callback(result)

    @property
    def tokens(self) -> list[Any]:
        return [call[2] for call in self.calls]


def unreachable() -> Deferred[Any]:
    return fail(StorageUnavailable("gone"))


def plain(rows: list[tuple[Any, ...]]) -> list[str]:
    """
    Rows in one order, with numbers for truth values, as SQLite has them.
    """
    return sorted(
        repr([int(value) if isinstance(value, bool) else value for value in row]) for row in rows
    )


class MirrorTests(SynchronousTestCase):
    """
    The first storage answers at once, the second when it is told to.
    """

    LIMIT = 1000

    def setUp(self) -> None:
        self.clock = Clock()
        self.first = FakeStorage(lambda: succeed("answer"))
        self.other = FakeStorage()
        self.follower = Follower(self.other, "other", self.clock, self.LIMIT)
        self.storage = MirroredStorage(self.first, [self.follower])

    def write(self, number: int) -> Any:
        """
        Any write, with a number by which to know it.
        """
        return self.successResultOf(self.storage.store_bootstrap_token("D1", number))

    def messages(self, events: Any) -> list[str]:
        return [event["log_format"] for event in events]

    def test_interface(self) -> None:
        verifyObject(IStorage, self.storage)

    def test_every_write(self) -> None:
        """
        Each write reaches both storages with the same arguments; reads, and what
        pushes leave behind, the first alone.
        """
        self.other.answer = lambda: succeed("other")
        arguments = {
            "store_authenticate": ("message", "PEM", "renews"),
            "store_bootstrap_token": ("D1", b"token"),
            "enqueue": ("command", ["D1"]),
            "associate": ("D1", HASH_A, True, 1.0, None),
            "store_push_certificate": ("topic", "CERT", "KEY"),
            "cancel_command": ("D1", "C1"),
            "set_priority": ("D1", "C1", 5),
        }
        for name in _WRITES:
            given = arguments.get(name, (name,))
            result = getattr(self.storage, name)(*given)
            self.assertEqual(self.successResultOf(result), "answer")
        self.assertEqual([call[0] for call in self.first.calls], list(_WRITES))
        self.assertEqual(self.other.calls, self.first.calls)
        for name in _ALONE:
            getattr(self.storage, name)("D1")
        self.assertEqual([call[0] for call in self.first.calls[-len(_ALONE) :]], list(_ALONE))
        self.assertEqual(len(self.other.calls), len(_WRITES))
        self.storage.touch("D1")
        self.assertEqual((self.first.seen, self.other.seen), (["D1"], ["D1"]))

    def test_events(self) -> None:
        """
        The first storage alone has them, whatever is written to the others.
        """
        self.other.answer = lambda: succeed("other")
        arguments = {
            "store_authenticate": ("message", "PEM", "renews"),
            "store_bootstrap_token": ("D1", b"token"),
        }
        for name in _TELLING:
            given = arguments.get(name, (name,))
            result = getattr(self.storage, name)(*given, event=f"event of {name}")
            self.assertEqual(self.successResultOf(result), "answer")
        for name in ("next_command", "fetch_bootstrap_token"):
            getattr(self.storage, name)("D1", event=name)
        self.assertEqual(
            self.first.events,
            [*(f"event of {name}" for name in _TELLING), "next_command", "fetch_bootstrap_token"],
        )
        self.assertEqual([call[0] for call in self.other.calls], list(_TELLING))
        self.assertEqual(self.other.events, [])

    def test_only_what_the_first_has_done(self) -> None:
        """
        What fails on the first fails, and is not written to the others.
        """
        self.first.answer = lambda: fail(NotEnrolled("never"))
        self.failureResultOf(self.storage.store_token_update("message"), NotEnrolled)

        def overloaded() -> Deferred[Any]:
            raise Overloaded("full")

        self.first.answer = overloaded
        self.failureResultOf(self.storage.store_token_update("message"), Overloaded)
        self.assertEqual(self.other.calls, [])

    def test_order(self) -> None:
        """
        Writes wait until those before them are done.
        """
        for number in range(4):
            self.assertEqual(self.write(number), "answer")
        self.assertEqual(self.other.tokens, [0])
        self.other.fire()
        self.assertEqual(self.other.tokens, [0, 1, 2, 3])

    def test_keeps_its_place(self) -> None:
        """
        What a storage may run beside its other writes waits for all before it, and all
        after it wait for it.
        """
        for name, arguments in (
            ("enqueue", ("command", ["D1"] * 100_000)),
            ("clear_queue", ("D1",)),
            ("purge_enrollment", ("D1",)),
        ):
            before = len(self.other.calls)
            self.write(0)
            for number in (1, 2):
                self.write(number)
            getattr(self.storage, name)(*arguments)
            for number in (3, 4):
                self.write(number)
            seen = []
            while self.other.waiting:
                seen.append(len(self.other.calls) - before)
                self.other.fire()
            self.assertEqual(seen, [1, 3, 4, 6], name)
        self.assertEqual(self.other.calls, self.first.calls)

    def test_gathered(self) -> None:
        """
        Other changes of operators go along with what else is written.
        """
        self.write(0)
        self.storage.cancel_command("D1", "C1")
        self.storage.set_priority("D1", "C2", 1)
        self.storage.disable_enrollment("D1")
        self.other.fire()
        self.assertEqual(len(self.other.waiting), 3)
        self.assertEqual(self.other.calls, self.first.calls)

    def test_failing(self) -> None:
        """
        A write that a follower refuses is logged, and the next one follows.
        """
        self.write(0)
        with capturedLogs() as events:
            self.other.fire(StorageError("no such row"))
        [event] = events
        self.assertEqual(
            (event["storage"], event["write"], event["error"]),
            ("other", "store_bootstrap_token", "no such row"),
        )
        self.write(1)
        self.assertEqual(self.other.tokens, [0, 1])

    def test_raising(self) -> None:
        """
        A follower that fails before it begins does not stop the others.
        """

        def broken() -> Deferred[Any]:
            raise ValueError("bug")

        self.other.answer = broken
        with capturedLogs() as events:
            for number in range(3):
                self.assertEqual(self.write(number), "answer")
        self.assertEqual(self.messages(events), ["storage does not follow"] * 3)
        self.assertEqual(self.other.tokens, [0, 1, 2])

    def test_unreachable(self) -> None:
        """
        Writes wait for a follower that is away, and are done in order, from the
        first that failed on, when it is back.  It is said once.
        """
        for number in range(4):
            self.write(number)
        with capturedLogs() as events:
            self.other.fire()
            one, *more = self.other.waiting
            self.other.waiting = []
            one.callback(None)
            for waiting in more:
                waiting.errback(StorageUnavailable("gone"))
            self.write(4)
            self.other.answer = unreachable
            self.clock.advance(10.0)
            self.clock.advance(10.0)
            self.assertEqual(self.messages(events), ["storage does not follow"])
            self.other.calls.clear()
            self.other.answer = lambda: succeed(None)
            self.clock.advance(10.0)
        self.assertEqual(self.other.tokens, [2, 3, 4])
        self.assertEqual(self.messages(events)[1:], ["storage can be reached again"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_never_taken(self) -> None:
        """
        A write that makes a follower unavailable again and again does not keep it
        from the rest for ever.
        """
        self.patch(mirror, "_ATTEMPTS", 3)
        self.other.answer = unreachable
        with capturedLogs() as events:
            self.write(0)
            self.write(1)
            for _ in range(2):
                self.clock.advance(10.0)
            self.other.answer = lambda: succeed(None)
            self.write(2)
        self.assertEqual(self.other.tokens, [0, 0, 1, 0, 1, 2])
        [gone] = [e for e in events if e["log_format"] == "storage does not take writes"]
        self.assertEqual(gone["lost"], 2)

    def test_overflow(self) -> None:
        """
        A follower that does not keep up loses writes: that is logged once, and
        once more when it follows again, with their number.
        """
        with capturedLogs() as events:
            for number in range(self.LIMIT + 4):
                self.write(number)
            self.assertEqual(
                self.messages(events), ["storage can not follow, writes are lost to it"]
            )
            while self.other.waiting:
                self.other.fire()
        self.assertEqual(events[1]["log_format"], "storage follows again")
        self.assertEqual(events[1]["lost"], 3)
        self.assertEqual(len(events), 2)
        self.assertEqual(self.other.tokens, list(range(self.LIMIT + 1)))
        self.write(-1)
        self.assertEqual(self.other.tokens[-1], -1)

    def test_start_and_stop(self) -> None:
        self.storage.start()
        self.assertTrue(self.first.started and self.other.started)
        self.successResultOf(self.storage.stop())
        self.assertEqual((self.first.stopped, self.other.stopped), (1, 1))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_waits(self) -> None:
        """
        The first is closed at once, a follower when it has caught up.
        """
        for number in range(3):
            self.write(number)
        stopped = self.storage.stop()
        self.assertEqual((self.first.stopped, self.other.stopped), (1, 0))
        self.other.fire()
        self.assertNoResult(stopped)
        self.other.fire()
        self.successResultOf(stopped)
        self.assertEqual((self.other.tokens, self.other.stopped), ([0, 1, 2], 1))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_does_not_wait_for_ever(self) -> None:
        """
        After the deadline the rest is given up, however many followers hang.
        """
        third = FakeStorage()
        third.stopping = Deferred()
        self.storage = MirroredStorage(
            self.first, [self.follower, Follower(third, "third", self.clock)]
        )
        for number in range(3):
            self.write(number)
        third.fire()
        third.fire()
        stopped = self.storage.stop()
        self.clock.advance(19.9)
        self.assertNoResult(stopped)
        with capturedLogs() as events:
            self.clock.advance(0.2)
        self.successResultOf(stopped)
        self.assertEqual(self.messages(events), ["storage did not catch up before the end"] * 2)
        # What was under way may still end; nothing comes after it.
        self.other.fire()
        self.assertEqual((self.other.tokens, self.other.stopped), ([0], 1))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_while_unreachable(self) -> None:
        """
        A follower that is away gets one last attempt.
        """
        self.other.answer = unreachable
        self.write(0)
        self.write(1)
        with capturedLogs() as events:
            self.successResultOf(self.storage.stop())
        self.assertEqual(self.messages(events), ["storage did not catch up before the end"])
        self.assertEqual(events[0]["lost"], 2)
        self.assertEqual(self.other.stopped, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_fails(self) -> None:
        """
        A follower that can not be closed is logged; a first storage that can not
        be closed fails, after the followers are closed.
        """
        self.other.stopping = fail(StorageError("can not close"))
        with capturedLogs() as events:
            self.successResultOf(self.storage.stop())
        self.assertEqual(events[0]["error"], "can not close")
        self.first.stopping = fail(StorageError("nor this"))
        self.failureResultOf(self.storage.stop(), StorageError)
        self.assertEqual(self.other.stopped, 2)

    def test_boundInBytes(self) -> None:
        """
        What waits for one that is away does not fill the memory; small writes still find
        room.
        """
        reports = [
            parse_report(samples.report("Acknowledged", f"C{number}", Data="x" * size))
            for number, size in enumerate((0, 2000, 2000, 500, 2000))
        ]
        limit = sum(len(report.raw) for report in reports[1:3]) + len(reports[3].raw)
        self.follower = Follower(self.other, "other", self.clock, limit_bytes=limit)
        self.storage = MirroredStorage(self.first, [self.follower])
        with capturedLogs() as events:
            for report in reports:
                self.successResultOf(self.storage.store_report(report))
        self.assertEqual(self.messages(events), ["storage can not follow, writes are lost to it"])
        for _ in reports[:4]:
            self.other.fire()
        written = [report.command_uuid for _, report in self.other.calls]
        self.assertEqual(written, ["C0", "C1", "C2", "C3"])
        # And there is room again.
        self.successResultOf(self.storage.store_report(reports[4]))
        self.assertEqual(len(self.other.calls), 5)


class RealTests(EngineCase):
    """
    A database file first, PostgreSQL second.
    """

    engine, kind = "postgresql", "pgsql"
    skip = unavailable(engine)

    TABLES = {
        "devices": "id, identity_cert, serial_number, unlock_token, authenticate, token_update,"
        " bootstrap_token_b64",
        "users": "id, device_id, user_short_name, token_update, user_authenticate",
        "enrollments": "id, device_id, user_id, type, topic, push_magic, token_hex, enabled,"
        " token_update_tally",
        "commands": "command_uuid, request_type, command",
        "command_results": "id, command_uuid, status, result, not_now_tally",
        "enrollment_queue": "id, command_uuid, active, priority",
        "push_certs": "topic, cert_pem, key_pem, stale_token",
        "cert_auth_associations": "id, sha256",
        "nanomdm_cert_owners": "sha256, id",
    }

    def setUp(self) -> None:
        path = Path(self.mktemp())
        target = self.settings()
        self.storage = open_storage([StorageSettings(dsn=path), target], reactor)
        self.empty()
        self.addCleanup(lambda: self.stopped or self.storage.stop())
        self.stopped = False
        self.storage.start()

    async def test_same_rows(self) -> None:
        """
        After all kinds of writes both hold the same, once the server has stopped;
        a large enqueueing comes after the enrollments and before the answers.
        """
        storage = self.storage
        udids = [f"D{number}" for number in range(1200)]

        def authenticate(udid: str) -> Deferred[bool]:
            message = parse_checkin(samples.authenticate(udid))
            return storage.store_authenticate(message, "PEM", lambda command: False)

        def token_update(udid: str, **more: Any) -> Deferred[int]:
            return storage.store_token_update(parse_checkin(samples.token_update(udid, **more)))

        await gatherResults([authenticate(udid) for udid in udids])
        await gatherResults([token_update(udid) for udid in udids])
        await token_update("D1", UserID="U1", UserShortName="jo", UnlockToken=None)
        await token_update("D2", UnlockToken=b"unlock")
        message = samples.checkin("UserAuthenticate", UserID="U1")
        await storage.store_user_authenticate(parse_checkin(message))
        await storage.store_bootstrap_token("D1", b"token")
        await storage.disable(parse_checkin(samples.checkin("CheckOut", "D3")).enrollment)
        for uuid in ("C1", "C2"):
            await storage.enqueue(parse_command(samples.command(uuid)), udids)
        await gatherResults(
            [
                storage.store_report(parse_report(samples.report(status, "C1", f"D{number}")))
                for number, status in enumerate(["Acknowledged", "NotNow", "Error"] * 50)
            ]
        )
        await authenticate("D4")
        await storage.associate("D1", HASH_A, False, 60.0, None)
        await storage.associate("D9", HASH_B, False, 60.0, None)
        await storage.cancel_command("D200", "C1")
        await storage.set_priority("D201", "C2", 5)
        self.assertEqual(await storage.clear_queue("D202"), 2)
        await storage.disable_enrollment("D203")
        self.assertEqual(await storage.purge_enrollment("D9"), ["D9"])
        for pem in ("OLD", "NEW"):
            await storage.store_push_certificate(samples.TOPIC, pem, "KEY")
        first, other = storage._first, storage._followers[0].storage
        await storage._followers[0]._caught_up()
        for table, columns in self.TABLES.items():
            statement = f"SELECT {columns} FROM {table}"
            one, two = [plain(await query(side, statement)) for side in (first, other)]
            self.assertEqual(one, two, table)
            self.assertGreater(len(one), 0, table)
        self.stopped = True
        await storage.stop()
