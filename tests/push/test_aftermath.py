"""
Tests for L{nanomdm.push.aftermath}.
"""

from __future__ import annotations

from typing import Any

from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.errors import Overloaded, StorageUnavailable
from nanomdm.interfaces import DeadToken
from nanomdm.push.aftermath import Aftermath, is_about_token
from nanomdm.push.notification import Answer
from tests.push.fakes import NOW, Buried, FakeStore, target

DEAD = Answer(410, reason="Unregistered", timestamp=NOW.timestamp() - 60)
UNDATED = Answer(410, reason="ExpiredToken")
BAD = Answer(400, reason="BadDeviceToken")


class AftermathTests(SynchronousTestCase):
    """
    What is written, and when.
    """

    def setUp(self) -> None:
        self.store = FakeStore()
        self.aftermath = Aftermath(self.store, lambda: NOW)

    def test_aboutTokens(self) -> None:
        for status, reason, expected in (
            *((410, None, True), (410, "Unregistered", True), (400, "BadDeviceToken", True)),
            *((400, "DeviceTokenNotForTopic", True), (400, "BadTopic", False)),
            *((400, None, False), (403, "Forbidden", False), (503, "BadDeviceToken", False)),
        ):
            self.assertEqual(is_about_token(Answer(status, reason=reason)), expected, reason)

    def test_buries(self) -> None:
        for answer, reason, ago in (
            (DEAD, "Unregistered", 60),
            (Answer(410, reason="ExpiredToken", timestamp=0.0), "ExpiredToken", NOW.timestamp()),
            (Answer(410, timestamp=NOW.timestamp() + 9), "Unregistered", 0),
        ):
            self.store.buried.clear()
            self.successResultOf(self.aftermath.note(target("a"), answer))
            self.assertEqual(self.store.buried, [Buried("a", DeadToken(410, reason), ago)])
        self.assertEqual(self.store.forgotten, [])

    def test_forgets(self) -> None:
        for answer in (BAD, UNDATED, Answer(400, reason="DeviceTokenNotForTopic")):
            self.successResultOf(self.aftermath.note(target("a"), answer))
        self.assertEqual(self.store.forgotten, [["a"]] * 3)
        self.assertEqual(self.store.buried, [])

    def test_forgetsTogether(self) -> None:
        """
        What comes while some are being forgotten is gathered.
        """
        self.store.hold.add("forget_pushes")
        noted = [self.aftermath.note(target(f"{number}"), BAD) for number in range(602)]
        self.assertEqual(self.store.forgotten, [["0"]])
        self.store.release("forget_pushes")
        self.successResultOf(noted[0])
        self.assertEqual([len(ids) for ids in self.store.forgotten], [1, 500])
        self.assertNoResult(noted[1])
        finished = self.aftermath.finished()
        self.store.release("forget_pushes")
        self.assertNoResult(finished)
        self.assertEqual([len(ids) for ids in self.store.forgotten], [1, 500, 101])
        self.store.release("forget_pushes")
        for each in noted:
            self.successResultOf(each)
        self.successResultOf(finished)
        self.aftermath.note(target("again"), BAD)
        self.assertEqual(self.store.forgotten[-1], ["again"])

    def test_finished(self) -> None:
        self.successResultOf(self.aftermath.finished())
        self.store.hold.add("bury_push_token")
        noted = [self.aftermath.note(target(id), DEAD) for id in "ab"]
        finished = self.aftermath.finished()
        self.store.release("bury_push_token")
        self.successResultOf(noted[0])
        self.assertNoResult(noted[1])
        self.assertNoResult(finished)
        self.store.release("bury_push_token")
        self.successResultOf(finished)
        self.assertEqual(self.aftermath._writing, set())

    def test_storageFails(self) -> None:
        """
        Complained of, and that is all.
        """
        errors: list[Any] = [Overloaded("full"), Failure(StorageUnavailable("away"))]
        for error in errors:
            for method, answer in (("bury_push_token", DEAD), ("forget_pushes", BAD)):
                self.store.errors = {method: error}
                with capturedLogs() as logs:
                    for _ in range(2):
                        self.successResultOf(self.aftermath.note(target("a"), answer))
                self.assertEqual(len(logs), 2)
                self.assertIn(logs[0]["error"], ("full", "away"))
        self.successResultOf(self.aftermath.finished())
