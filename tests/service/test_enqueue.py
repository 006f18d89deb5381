"""
Tests for L{nanomdm.service.enqueue}.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from nanomdm.errors import CommandConflict, StorageUnavailable
from nanomdm.interfaces import IPusher, PushResult
from nanomdm.mdm.command import Command, parse_command
from nanomdm.service.enqueue import APIResult, CommandEnqueuer, UnavailablePusher
from tests import samples

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


@implementer(IPusher)
class RecordingPusher:
    """
    Notes whom it was to wake.

    @ivar results: what becomes of pushes, where not all is well.
    """

    def __init__(self) -> None:
        self.pushed: list[list[str]] = []
        self.results: dict[str, PushResult] = {}

    def push(self, ids: Sequence[str]) -> Deferred[Mapping[str, PushResult]]:
        """
        Note it.
        """
        self.pushed.append(list(ids))
        return succeed({id: self.results.get(id, PushResult(id=f"apns-{id}")) for id in ids})


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
        verifyObject(IPusher, UnavailablePusher())

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

    def test_unavailablePusher(self) -> None:
        self.enqueuer = CommandEnqueuer(self.store, UnavailablePusher())
        result = self.enqueue("D1", "D2")
        error = {"push_error": "this server can not send pushes"}
        self.assertEqual(result.to_json()["status"], {"D1": error, "D2": error})
        self.assertEqual((result.errors, result.id_count), (2, 2))

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


class APIResultTests(SynchronousTestCase):
    """
    Tests for L{APIResult}.
    """

    def test_order(self) -> None:
        """
        Members come as API clients know them, whatever was set first.
        """
        result = APIResult(
            request_type="T",
            command_uuid="C",
            command_error="ce",
            no_push=True,
            pushes={"c": PushResult(id="2", error="1"), "a": PushResult(id="x")},
            refused={"b": "3"},
            id_count=3,
        )
        self.assertEqual(
            json.dumps(result.to_json()),
            '{"status": {"a": {"push_result": "x"}, "b": {"command_error": "3"},'
            ' "c": {"push_error": "1", "push_result": "2"}},'
            ' "no_push": true, "command_error": "ce", "command_uuid": "C", "request_type": "T"}',
        )

    def test_emptyIsLeftOut(self) -> None:
        self.assertEqual(APIResult(id_count=5).to_json(), {})
        self.assertEqual(APIResult(command_error="why").to_json(), {"command_error": "why"})

    def test_counts(self) -> None:
        result = APIResult(
            id_count=5,
            pushes={"D1": PushResult(error="1"), "D3": PushResult(id="3")},
            refused={"D2": "2"},
        )
        self.assertEqual((result.errors, result.status_count), (2, 3))
