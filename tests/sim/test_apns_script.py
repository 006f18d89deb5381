"""
Tests for L{nanomdm.sim.apns_script} and L{nanomdm.sim.apns_request}.
"""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from nanomdm.sim.apns_request import LARGEST_PAYLOAD, check, device_token
from nanomdm.sim.apns_script import SUCCESS, Reset, Respond, Script, Stall

TOPIC = "com.apple.mgmt.External.1"
TOKEN = "0a" * 32
PAYLOAD = b'{"mdm":"magic"}'


class ScriptTests(SynchronousTestCase):
    """
    Which reply a token gets.
    """

    def setUp(self) -> None:
        self.script = Script()

    def test_noRule(self) -> None:
        self.script.set("ff", Stall())
        self.assertEqual(self.script.next("00"), SUCCESS)

    def test_order(self) -> None:
        """
        Replies are used up one after the other, and the last one stays.
        """
        self.script.set("ff", Respond(503), Respond(429), Stall())
        taken = [self.script.next("ff00") for _ in range(4)]
        self.assertEqual(taken, [Respond(503), Respond(429), Stall(), Stall()])

    def test_longestPrefix(self) -> None:
        self.script.set("f", Respond(1))
        self.script.set("fff", Respond(3))
        self.script.set("ff", Respond(2))
        self.script.set("", Respond(0))
        taken = [self.script.next(token) for token in ("f0", "ff0", "fff", "0")]
        self.assertEqual(taken, [Respond(1), Respond(2), Respond(3), Respond(0)])

    def test_replaced(self) -> None:
        """
        A rule can be replaced and removed.
        """
        self.script.set("ff", Stall())
        self.script.set("ff", Reset())
        self.assertEqual(self.script.next("ff"), Reset())
        self.script.set("ff")
        self.script.set("never set")
        self.assertEqual(self.script.next("ff"), SUCCESS)


class BodyTests(SynchronousTestCase):
    """
    The body of an answer.
    """

    def test_empty(self) -> None:
        self.assertEqual(Respond(200).body, b"")

    def test_reason(self) -> None:
        self.assertEqual(json.loads(Respond(400, "Why").body), {"reason": "Why"})

    def test_timestamp(self) -> None:
        """
        Apple's timestamps are milliseconds.
        """
        body = json.loads(Respond(410, "Unregistered", timestamp=1_700_000_000.25).body)
        self.assertEqual(body, {"reason": "Unregistered", "timestamp": 1_700_000_000_250})


class CheckTests(SynchronousTestCase):
    """
    What is wrong with a request.
    """

    def refusal(
        self, payload: bytes = PAYLOAD, topic: str | None = TOPIC, **changes: str | None
    ) -> tuple[int, str | None] | None:
        headers = {
            "method": "POST",
            "path": f"/3/device/{TOKEN}",
            "apns-topic": TOPIC,
            "apns-push-type": "mdm",
            **{name.replace("_", "-"): value for name, value in changes.items()},
        }
        for name in ("method", "path"):
            headers[f":{name}"] = headers.pop(name)
        given = {name: value for name, value in headers.items() if value is not None}
        refused = check(given, payload, topic)
        return (refused.status, refused.reason) if refused else None

    def test_right(self) -> None:
        self.assertIsNone(self.refusal())
        for changes in (
            {"apns_priority": "10"},
            {"apns_priority": "5"},
            {"apns_expiration": "0"},
            {"apns_expiration": "1790000000"},
            {"apns_id": "EC1BF194-B3B2-424A-89A9-5A918A6E6B5D"},
            {"path": "/3/device/" + "0123456789abcdef" * 4},
        ):
            self.assertIsNone(self.refusal(**changes), changes)

    def test_headers(self) -> None:
        for changes, status, reason in (
            ({"method": "PUT"}, 405, "MethodNotAllowed"),
            ({"path": f"/2/device/{TOKEN}"}, 404, "BadPath"),
            ({"path": "/3/device/"}, 400, "MissingDeviceToken"),
            ({"path": f"/3/device/{TOKEN.upper()}"}, 400, "BadDeviceToken"),
            ({"path": f"/3/device/{TOKEN}0"}, 400, "BadDeviceToken"),
            ({"path": f"/3/device/{TOKEN}?"}, 400, "BadDeviceToken"),
            ({"path": "/3/device/token"}, 400, "BadDeviceToken"),
            ({"apns_topic": None}, 400, "MissingTopic"),
            ({"apns_topic": ""}, 400, "MissingTopic"),
            ({"apns_topic": TOPIC + "1"}, 400, "TopicDisallowed"),
            ({"apns_push_type": None}, 400, "InvalidPushType"),
            ({"apns_push_type": "alert"}, 400, "InvalidPushType"),
            ({"apns_priority": "11"}, 400, "BadPriority"),
            ({"apns_expiration": "1790000000.5"}, 400, "BadExpirationDate"),
            ({"apns_expiration": ""}, 400, "BadExpirationDate"),
            ({"apns_id": "1"}, 400, "BadMessageId"),
        ):
            self.assertEqual(self.refusal(**changes), (status, reason), changes)

    def test_payload(self) -> None:
        for payload in (
            b"",
            b"{}",
            b'{"mdm":"magic"',
            b'["mdm"]',
            b'{"mdm":1}',
            b'{"mdm":""}',
            b'{"mdm":"magic","aps":{}}',
            b'{"mdm":"\xff"}',
        ):
            self.assertEqual(self.refusal(payload), (400, "PayloadEmpty"), payload)

    def test_payloadSize(self) -> None:
        for size, refused in ((0, None), (1, (413, "PayloadTooLarge"))):
            payload = b'{"mdm":"%s"}' % (b"m" * (LARGEST_PAYLOAD - 10 + size))
            self.assertEqual(len(payload), LARGEST_PAYLOAD + size)
            self.assertEqual(self.refusal(payload), refused)

    def test_noPushCertificate(self) -> None:
        self.assertEqual(self.refusal(topic=None), (403, "BadCertificate"))

    def test_deviceToken(self) -> None:
        self.assertEqual(device_token("/3/device/abc"), "abc")
        self.assertEqual(device_token("/version"), "")
