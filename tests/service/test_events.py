"""
Tests for L{nanomdm.service.events} together with the core: when events are made, and told
of.
"""

from __future__ import annotations

from datetime import UTC, datetime

from twisted.internet.defer import Deferred

from nanomdm.errors import AssociationRefused, Gone
from nanomdm.service.core import MDMService
from nanomdm.service.events import EventSource
from tests import samples
from tests.service.test_core import ALICE, MALLORY, ServiceCase
from tests.storage.tables import query

NOW = datetime(2026, 11, 20, 10, 0, 0, 123456, UTC)


class EventSourceTests(ServiceCase):
    """
    A service that makes events, without anybody who delivers them.
    """

    async def setUp(self) -> None:
        await super().setUp()
        self.told = 0
        self.make()

    def make(self, idle: bool = True) -> None:
        events = EventSource(self.written, lambda: NOW, idle)
        self.service = MDMService(self.storage, self.association, events=events)

    def written(self) -> None:
        self.told += 1

    async def topics(self) -> list[str]:
        rows = await query(self.storage, "SELECT topic FROM nanomdm_webhook_events ORDER BY number")
        return [topic for (topic,) in rows]

    async def test_told(self) -> None:
        """
        Once the event is in the storage, its deliverer is told.
        """
        for number, (send, topic) in enumerate(
            (
                (self.check_in(samples.authenticate()), "mdm.Authenticate"),
                (self.check_in(samples.token_update()), "mdm.TokenUpdate"),
                (self.report(samples.report("Idle")), "mdm.Connect"),
                (self.report(samples.report("Error", "unknown")), "mdm.Connect"),
                (self.check_in(samples.checkin("CheckOut")), "mdm.CheckOut"),
            ),
            1,
        ):
            await send
            self.assertEqual(self.told, number)
            topics = await self.topics()
            self.assertEqual((len(topics), topics[-1]), (number, topic))

    async def test_notTold(self) -> None:
        """
        There is nothing to tell of what was refused.
        """
        for body, who, error in (
            (samples.token_update(), MALLORY, AssociationRefused),
            (samples.checkin("UserAuthenticate", UserID="U1"), ALICE, Gone),
        ):
            await self.assertFailure(Deferred.fromCoroutine(self.check_in(body, who)), error)
        self.assertEqual((self.told, await self.topics()), (0, []))

    async def test_withoutIdle(self) -> None:
        """
        Idle reports are not told of if they need not be.
        """
        self.make(idle=False)
        await self.report(samples.report("Idle"))
        self.assertEqual((self.told, await self.topics()), (0, []))
        await self.report(samples.report("Acknowledged", "C1"))
        self.assertEqual((self.told, await self.topics()), (1, ["mdm.Connect"]))
