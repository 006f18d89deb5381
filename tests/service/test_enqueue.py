"""
Tests for L{nanomdm.service.enqueue}.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from nanomdm.errors import CommandConflict, Overloaded, StorageUnavailable
from nanomdm.interfaces import IPusher, PushResult
from nanomdm.mdm.command import Command, parse_command
from nanomdm.service.enqueue import CommandEnqueuer
from nanomdm.service.result import APIResult
from tests import samples
from tests.service.fakes import RecordingPusher

COMMAND = parse_command(samples.command("C1", "DeviceInformation", PIN="1234"))


class FakeStore:
    """
    The queue part of a storage.

    @ivar refusals: ids that can not take commands.
    @ivar error: what enqueueing fails with.
    @ivar queued: what it was called with.
    """

    def __init__(self) -> None:
        self.refusals: dict[str, str] = {}
        self.error: Exception | None = None
        self.queued: list[tuple[Command, list[str]]] = []

    def enqueue(self, command: Command, ids: Sequence[str]) -> Deferred[dict[str, str]]:
        """
        Queue a command.
        """
        self.queued.append((command, list(ids)))
        if self.error is not None:
            return fail(self.error)
        return succeed({id: why for id, why in self.refusals.items() if id in ids})


class EnqueuerTests(SynchronousTestCase):
    """
    Tests for L{CommandEnqueuer}.
    """

    def setUp(self) -> None:
        self.store = FakeStore()
        self.pusher = RecordingPusher()
        self.enqueuer = CommandEnqueuer(self.store, self.pusher)

    def enqueue(self, *ids: str, push: bool = True) -> APIResult:
        """
        Enqueue to some ids.
        """
        return self.successResultOf(
            Deferred.fromCoroutine(self.enqueuer.enqueue(COMMAND, ids, push))
        )

    def test_pusher(self) -> None:
        verifyObject(IPusher, self.pusher)

    def test_queuesAndPushes(self) -> None:
        result = self.enqueue("D2", "D1")
        self.assertEqual(self.store.queued, [(COMMAND, ["D2", "D1"])])
        self.assertEqual(self.pusher.pushed, [["D2", "D1"]])
        self.assertEqual(
            result.to_json(),
            {
                "status": {"D1": {"push_result": "apns-D1"}, "D2": {"push_result": "apns-D2"}},
                "command_uuid": "C1",
                "request_type": "DeviceInformation",
            },
        )
        self.assertEqual((result.errors, result.id_count), (0, 2))

    def test_pushesAfterQueueing(self) -> None:
        """
        A device that is woken must find the command.
        """
        stored: Deferred[dict[str, str]] = Deferred()
        self.store.enqueue = lambda command, ids: stored
        running = Deferred.fromCoroutine(self.enqueuer.enqueue(COMMAND, ["D1"], True))
        self.assertEqual(self.pusher.pushed, [])
        stored.callback({})
        self.successResultOf(running)
        self.assertEqual(self.pusher.pushed, [["D1"]])

    def test_pushOnlyToAccepted(self) -> None:
        self.store.refusals = {"D1": "unknown enrollment id", "D3": "enrollment is disabled"}
        result = self.enqueue("D1", "D2", "D3", "D4")
        self.assertEqual(self.pusher.pushed, [["D2", "D4"]])
        self.assertEqual(
            result.to_json()["status"],
            {
                "D1": {"command_error": "unknown enrollment id"},
                "D2": {"push_result": "apns-D2"},
                "D3": {"command_error": "enrollment is disabled"},
                "D4": {"push_result": "apns-D4"},
            },
        )
        self.assertEqual((result.errors, result.id_count), (2, 4))

    def test_noPushToNobody(self) -> None:
        self.store.refusals = {"D1": "unknown enrollment id"}
        result = self.enqueue("D1")
        self.assertEqual(self.pusher.pushed, [])
        self.assertEqual((result.errors, result.id_count), (1, 1))

    def test_withoutPush(self) -> None:
        self.store.refusals = {"D1": "unknown enrollment id"}
        result = self.enqueue("D1", "D2", push=False)
        self.assertEqual(self.pusher.pushed, [])
        self.assertEqual(
            result.to_json(),
            {
                "status": {"D1": {"command_error": "unknown enrollment id"}},
                "no_push": True,
                "command_uuid": "C1",
                "request_type": "DeviceInformation",
            },
        )

    def test_withoutPushNothingToSayOfIds(self) -> None:
        self.assertEqual(
            self.enqueue("D1", push=False).to_json(),
            {"no_push": True, "command_uuid": "C1", "request_type": "DeviceInformation"},
        )

    def test_pushErrors(self) -> None:
        self.pusher.results = {
            "D1": PushResult(error="expired"),
            "D2": PushResult(id="apns-2", error="BadDeviceToken"),
        }
        result = self.enqueue("D1", "D2", "D3")
        self.assertEqual(
            result.to_json()["status"],
            {
                "D1": {"push_error": "expired"},
                "D2": {"push_error": "BadDeviceToken", "push_result": "apns-2"},
                "D3": {"push_result": "apns-D3"},
            },
        )
        self.assertEqual((result.errors, result.id_count), (2, 3))

    def test_conflict(self) -> None:
        self.store.error = CommandConflict("command C1 exists already with other content")
        result = self.enqueue("D1", "D2")
        self.assertEqual(self.pusher.pushed, [])
        self.assertEqual(
            result.to_json(),
            {
                "command_error": "command C1 exists already with other content",
                "command_uuid": "C1",
                "request_type": "DeviceInformation",
            },
        )

    def test_storageFailure(self) -> None:
        self.store.error = StorageUnavailable("locked")
        self.failureResultOf(
            Deferred.fromCoroutine(self.enqueuer.enqueue(COMMAND, ["D1"], True)), StorageUnavailable
        )
        self.assertEqual(self.pusher.pushed, [])

    def test_nothingIsPushed(self) -> None:
        """
        The command is queued all the same, and what is wrong inside the server is
        not for clients.
        """
        for error, told in (
            (Overloaded("too many pushes wait"), "too many pushes wait"),
            (StorageUnavailable("secret"), "storage unavailable"),
            (RuntimeError("secret"), "internal error"),
        ):
            self.pusher.error = error
            with capturedLogs() as events:
                result = self.enqueue("D1", "D2")
            self.assertEqual(
                result.to_json(),
                {"push_error": told, "command_uuid": "C1", "request_type": "DeviceInformation"},
            )
            self.assertEqual((result.errors, result.id_count), (0, 2))
            # The client of an overloaded server can tell by itself.
            logged = [(event["log_level"].name, event["command_uuid"]) for event in events[1:]]
            failure = [] if isinstance(error, Overloaded) else [("error", "C1")]
            failure = [("critical", "C1")] if isinstance(error, RuntimeError) else failure
            self.assertEqual(logged, failure)
        self.assertEqual(self.pusher.pushed, [["D1", "D2"]] * 3)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_refusedAndNothingIsPushed(self) -> None:
        self.store.refusals = {"D1": "unknown enrollment id"}
        self.pusher.error = StorageUnavailable("away")
        result = self.enqueue("D1", "D2")
        self.assertEqual(
            result.to_json(),
            {
                "status": {"D1": {"command_error": "unknown enrollment id"}},
                "push_error": "storage unavailable",
                "command_uuid": "C1",
                "request_type": "DeviceInformation",
            },
        )

    def test_log(self) -> None:
        self.store.refusals = {"D1": "unknown enrollment id"}
        with capturedLogs() as events:
            self.enqueue("D1", "D2", "D3")
        [event] = events
        self.assertEqual(event["log_format"], "enqueued")
        self.assertEqual(
            [event[key] for key in ("command_uuid", "request_type", "accepted", "refused")],
            ["C1", "DeviceInformation", 2, 1],
        )
        self.assertNotIn("1234", repr(event))
