"""
Tests for L{nanomdm.mdm.event}.
"""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from nanomdm.mdm.enrollment import Enrollment, EnrollmentType
from nanomdm.mdm.event import CONNECT, Event, body

NOW = datetime(2026, 11, 20, 10, 0, 0, 123456, UTC)
DEVICE = Enrollment("D1", EnrollmentType.DEVICE)
USER = Enrollment("E1:jo", EnrollmentType.USER_ENROLLMENT, "E1")


class EventTests(SynchronousTestCase):
    """
    Tests for L{Event.head} and L{body}.
    """

    def told(self, event: Event, tally: int | None = None) -> Any:
        text = body(event.head(tally), event.raw)
        self.assertTrue(text.isascii())
        return json.loads(text)

    def test_tokenUpdate(self) -> None:
        event = Event(
            *("0a1b", "mdm.TokenUpdate", NOW, DEVICE, b"<plist/>"), url_params={"a": "1"}, udid="D1"
        )
        self.assertEqual(
            self.told(event, 1),
            {
                "topic": "mdm.TokenUpdate",
                "event_id": "0a1b",
                "created_at": "2026-11-20T10:00:00.123456Z",
                "checkin_event": {
                    "udid": "D1",
                    "url_params": {"a": "1"},
                    "raw_payload": "PHBsaXN0Lz4=",
                    "token_update_tally": 1,
                    "ids": {"id": "D1", "type": "Device"},
                },
            },
        )

    def test_connect(self) -> None:
        event = Event(
            *("0a1b", CONNECT, NOW, USER, b"<plist/>"),
            enrollment_id="E1",
            status="Acknowledged",
            command_uuid="C1",
        )
        self.assertEqual(
            self.told(event),
            {
                "topic": "mdm.Connect",
                "event_id": "0a1b",
                "created_at": "2026-11-20T10:00:00.123456Z",
                "acknowledge_event": {
                    "enrollment_id": "E1",
                    "status": "Acknowledged",
                    "command_uuid": "C1",
                    "raw_payload": "PHBsaXN0Lz4=",
                    "ids": {"id": "E1:jo", "type": "User Enrollment", "parent_id": "E1"},
                },
            },
        )

    def test_idle(self) -> None:
        """
        There is no command that it is about.
        """
        event = Event("1", CONNECT, NOW, DEVICE, b"x", udid="D1", status="Idle", command_uuid="")
        self.assertEqual(
            self.told(event)["acknowledge_event"],
            {
                "udid": "D1",
                "status": "Idle",
                "raw_payload": "eA==",
                "ids": {"id": "D1", "type": "Device"},
            },
        )

    def test_tallyOfZero(self) -> None:
        event = Event("1", "mdm.TokenUpdate", NOW, DEVICE, b"x")
        self.assertEqual(self.told(event, 0)["checkin_event"]["token_update_tally"], 0)
        self.assertNotIn("token_update_tally", self.told(event)["checkin_event"])

    def test_createdAt(self) -> None:
        """
        Always with microseconds, and of UTC.
        """
        berlin = timezone(timedelta(hours=1))
        for when, text in (
            (NOW.replace(microsecond=0), "2026-11-20T10:00:00.000000Z"),
            (datetime(2026, 1, 1, 0, 30, 0, 5, berlin), "2025-12-31T23:30:00.000005Z"),
        ):
            event = Event("1", CONNECT, when, DEVICE, b"x")
            self.assertEqual(self.told(event)["created_at"], text)

    def test_anyText(self) -> None:
        """
        What is no ASCII, or no text at all, comes through.
        """
        odd = 'Zoë \N{SNOWMAN}\0\udc80"'
        event = Event("1", CONNECT, NOW, DEVICE, bytes(range(256)), {odd: odd}, udid=odd)
        head = event.head()
        self.assertNotIn("raw_payload", head)
        details = self.told(event)["acknowledge_event"]
        self.assertEqual((details["udid"], details["url_params"]), (odd, {odd: odd}))
        self.assertEqual(base64.b64decode(details["raw_payload"]), bytes(range(256)))

    def test_forged(self) -> None:
        """
        Nothing that a device sends gets out of where it belongs.
        """
        for odd in ('"}}', '", "raw_payload": "eA=="}}', "}}", "\\", '\\"}}', "%s{}{head}"):
            event = Event(
                *("1", CONNECT, NOW, Enrollment(odd, EnrollmentType.DEVICE), b"x" + odd.encode()),
                url_params={odd: odd, "raw_payload": odd},
                status=odd,
            )
            told = self.told(event)
            self.assertEqual(
                told.pop("acknowledge_event"),
                {
                    "url_params": {odd: odd, "raw_payload": odd},
                    "status": odd,
                    "raw_payload": base64.b64encode(event.raw).decode(),
                    "ids": {"id": odd, "type": "Device"},
                },
            )
            self.assertEqual(sorted(told), ["created_at", "event_id", "topic"])

    def test_bytes(self) -> None:
        """
        The message is the last that is told, nothing else stands twice.
        """
        event = Event("1", CONNECT, NOW, DEVICE, b"x")
        self.assertEqual(
            body(event.head(), event.raw),
            b'{"topic": "mdm.Connect", "event_id": "1",'
            b' "created_at": "2026-11-20T10:00:00.123456Z", "acknowledge_event":'
            b' {"ids": {"id": "D1", "type": "Device"}, "raw_payload": "eA=="}}',
        )

    def test_repr(self) -> None:
        """
        It tells no secrets.
        """
        event = Event("1", CONNECT, NOW, DEVICE, b"secret", {"key": "secret"})
        self.assertNotIn("secret", repr(event))
