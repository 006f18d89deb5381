"""
Tests for L{nanomdm.push.delivery}.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.interfaces import PushResult
from nanomdm.push.delivery import Delivery, retry_after
from nanomdm.push.notification import Answer, ConnectionFailed, ConnectionLost
from tests.push.fakes import (
    GOAWAY,
    LOST,
    NOW,
    TOPIC,
    FakeConnection,
    FakeConnector,
    certificate,
    make_provider,
    notification,
)


class DeliveryCase(SynchronousTestCase):
    """
    A provider with one connection that is open, unless a test wants another.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.connector = FakeConnector()
        self.connector.at_once = 10
        self.provider = make_provider(self.connector, self.clock)
        self.random: Any = self.provider.random
        self.finished: list[Delivery] = []

    def start(self, number: int = 0) -> Delivery:
        """
        Start a push.
        """
        delivery = Delivery(
            notification(number), self.provider, lambda: self.finished.append(delivery)
        )
        delivery.start()
        return delivery

    @property
    def connection(self) -> FakeConnection:
        """
        The newest connection.
        """
        return self.connector.connections[-1]

    def ended(self, delivery: Delivery, **fields: Any) -> None:
        """
        Check the result, that it was told once, and that nothing is left.
        """
        self.assertEqual(delivery.result, PushResult(**fields))
        self.assertEqual(self.finished, [delivery])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertFalse(self.provider._line)
        self.assertEqual(self.provider.room._paused, 0)


class AnswerTests(DeliveryCase):
    """
    What an answer makes of a push.
    """

    def test_success(self) -> None:
        delivery = self.start()
        self.connection.answer()
        self.ended(delivery, id="id-00000000")
        self.assertIsNone(delivery.answer)

    def test_neverRetried(self) -> None:
        for status, reason in (
            *((400, "BadDeviceToken"), (400, "DeviceTokenNotForTopic"), (400, "BadTopic")),
            *((403, "BadCertificate"), (404, "BadPath"), (405, "MethodNotAllowed")),
            *((410, "Unregistered"), (413, "PayloadTooLarge")),
        ):
            self.setUp()
            delivery = self.start()
            self.connection.answer(status, reason=reason)
            error = f"APNs answered {status} {reason}"
            self.ended(delivery, error=error, status=status, reason=reason)
            assert delivery.answer is not None
            self.assertEqual(delivery.answer.status, status)

    def test_noReason(self) -> None:
        delivery = self.start()
        self.connection.answer(418)
        self.ended(delivery, error="APNs answered 418", status=418)

    def test_retried(self) -> None:
        for status in (429, 500, 502, 503, 504):
            self.setUp()
            delivery = self.start()
            self.connection.answer(status, reason="Later")
            self.assertEqual(self.connection.waiting, [])
            self.clock.advance(0.5)
            self.connection.answer()
            self.ended(delivery, id="id-00000000")

    def test_reset(self) -> None:
        delivery = self.start()
        self.connection.reset()
        self.clock.advance(0.5)
        self.connection.answer()
        self.ended(delivery, id="id-00000000")
        self.assertEqual(len(self.connector.connections), 1)

    def test_bug(self) -> None:
        delivery = self.start()
        self.connection.waiting.pop().done.errback(ZeroDivisionError())
        self.ended(delivery, error="internal error")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_sendRaises(self) -> None:
        """
        A connection that does not do as it says.
        """
        self.start()
        connection = self.connection
        connection.answer()
        connection.send = lambda notification: 1 // 0  # type: ignore[method-assign]
        self.finished.clear()
        delivery = self.start()
        self.ended(delivery, error="internal error")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class BackoffTests(DeliveryCase):
    """
    When a push is sent again.
    """

    def pauses(self) -> list[float]:
        """
        Answer 503 as long as the push is sent again.

        @return: the pauses before that.
        """
        pauses = []
        while True:
            self.connection.answer(503, reason="Shutdown")
            if self.finished:
                return pauses
            [pause] = [call for call in self.clock.getDelayedCalls() if "_again" in str(call)]
            pauses.append(pause.getTime() - self.clock.seconds())
            self.clock.advance(pauses[-1])

    def test_fiveTimes(self) -> None:
        delivery = self.start()
        self.assertEqual(self.pauses(), [0.5, 1, 2, 4, 8])
        self.assertEqual(len(self.connection.sent), 6)
        error = "APNs answered 503 Shutdown"
        self.ended(delivery, error=error, status=503, reason="Shutdown")

    def test_jitter(self) -> None:
        """
        Full, from half of the pause.
        """
        self.random.value = 0.0
        self.start()
        self.assertEqual(self.pauses(), [0.25, 0.5, 1, 2, 4])

    def test_beyondDeadline(self) -> None:
        """
        What would be sent again too late is not kept waiting.
        """
        delivery = self.start()
        self.clock.advance(29.6)
        self.connection.answer(500, reason="InternalServerError")
        error = "APNs answered 500 InternalServerError"
        self.ended(delivery, error=error, status=500, reason="InternalServerError")

    def test_retryAfter(self) -> None:
        delivery = self.start()
        self.connection.answer(429, retry_after="7")
        self.clock.advance(6.9)
        self.assertEqual(self.connection.waiting, [])
        self.clock.advance(0.1)
        self.connection.answer()
        self.ended(delivery, id="id-00000000")

    def test_retryAfterIsAMinimum(self) -> None:
        self.start()
        self.connection.answer(429, retry_after="0")
        self.clock.advance(0.4)
        self.assertEqual(self.connection.waiting, [])

    def test_retryAfterTooLate(self) -> None:
        for text in ("30", "Wed, 01 Jul 2026 13:00:00 GMT", "9" * 5000):
            self.setUp()
            delivery = self.start()
            self.connection.answer(503, retry_after=text, reason="ServiceUnavailable")
            error = "APNs answered 503 ServiceUnavailable"
            self.ended(delivery, error=error, status=503, reason="ServiceUnavailable")

    def test_parsesRetryAfter(self) -> None:
        for text, seconds in (
            *(("17", 17), (" 3 ", 3), ("999999999", 999999999), ("1" * 10, float("inf"))),
            *(("Wed, 01 Jul 2026 12:00:20 GMT", 20), ("Wed, 01 Jul 2026 11:59:00 GMT", 0)),
            *(("Wed, 01 Jul 2026 12:00:20 -0000", 20), ("soon", 0), ("", 0), ("-5", 0)),
            *(("1e3", 0), ("²", 0), ("Wed, 99 Jul 99999999999 12:00:20 GMT", 0)),
        ):
            self.assertEqual(retry_after(text, lambda: NOW), seconds, text)

    def test_roomInBackoff(self) -> None:
        """
        A push in backoff leaves its room to others, until it goes on.
        """
        self.start()
        room = self.provider.room
        room.taken = 20
        self.assertFalse(room.take())
        self.connection.answer(500)
        self.assertTrue(room.take())
        self.clock.advance(0.5)
        room.taken -= 1
        self.assertFalse(room.take())


class LossTests(DeliveryCase):
    """
    Connections that end.
    """

    def test_resend(self) -> None:
        """
        Sent once more at once, before others.
        """
        delivery = self.start()
        self.connector.connections[0].answer()
        self.ended(delivery, id="id-00000000")
        self.finished.clear()
        delivery = self.start()
        self.connector.connections[0].lose(GOAWAY)
        self.assertEqual(len(self.connector.connections), 2)
        self.assertEqual(self.connection.sent, ["00000000"])
        self.connection.answer()
        self.ended(delivery, id="id-00000000")

    def test_resendOnce(self) -> None:
        """
        From the second time on it is a retry.
        """
        delivery = self.start()
        self.connection.lose(GOAWAY)
        self.clock.advance(0.5)
        self.assertEqual(len(self.connector.connections), 2)
        self.connection.answer(500)
        self.clock.advance(0.5)
        self.connection.lose(GOAWAY)
        self.clock.advance(0.9)
        self.assertEqual(len(self.connector.connections), 2)
        self.clock.advance(0.1)
        self.connection.answer()
        self.ended(delivery, id="id-00000000")

    def test_loss(self) -> None:
        delivery = self.start()
        self.connection.lose()
        self.clock.advance(0.5)
        self.assertEqual(len(self.connector.connections), 2)
        self.connection.answer()
        self.ended(delivery, id="id-00000000")

    def test_lossAgainAndAgain(self) -> None:
        """
        Five retries, and what was wrong the last time.
        """
        delivery = self.start()
        for number in range(6):
            self.assertIsNone(delivery.result)
            self.start(1)
            # With this answer it is not the connection that fails.
            self.connection.waiting.pop().done.callback(Answer(200))
            self.connection.lose(ConnectionLost(f"the connection broke {number}"))
            self.clock.advance(0.5 * 2**number)
        self.assertEqual(delivery.result, PushResult(error="the connection broke 5"))

    def test_refused(self) -> None:
        delivery = self.start()
        self.connection.lose(ConnectionLost("alert: certificate revoked", refused=True))
        refused = f"APNs refuses the push certificate of topic {TOPIC}"
        self.ended(delivery, error=f"{refused}: alert: certificate revoked")
        self.assertEqual(len(self.connector.connections), 1)

    def test_refusedWhenItWasReplaced(self) -> None:
        """
        Another certificate may do.
        """
        delivery = self.start()
        self.provider.use(certificate(until=NOW + timedelta(days=465)), 1)
        self.connection.lose(ConnectionLost("alert: certificate revoked", refused=True))
        self.assertEqual(len(self.connector.connections), 2)
        self.connection.answer()
        self.ended(delivery, id="id-00000000")


class DeadlineTests(DeliveryCase):
    """
    30 seconds, whatever happens.
    """

    def test_noAnswer(self) -> None:
        delivery = self.start()
        self.clock.advance(29.9)
        self.assertEqual(self.finished, [])
        self.clock.advance(0.1)
        self.assertEqual(self.connection.cancelled, ["00000000"])
        self.ended(delivery, error="no answer from APNs within 30 seconds")

    def test_onlyItsStream(self) -> None:
        delivery = self.start(1)
        self.clock.advance(15)
        other = self.start(2)
        self.clock.advance(15)
        self.assertEqual(self.connection.cancelled, ["00000001"])
        self.assertEqual(self.finished, [delivery])
        self.connection.answer()
        self.assertEqual(other.result, PushResult(id="id-00000002"))

    def test_lastReason(self) -> None:
        delivery = self.start()
        self.connection.answer(503, reason="Shutdown")
        self.clock.advance(0.5)
        self.clock.advance(29.5)
        self.ended(
            delivery,
            error="no answer from APNs within 30 seconds: APNs answered 503 Shutdown",
            status=503,
            reason="Shutdown",
        )

    def test_withoutConnection(self) -> None:
        self.connector.at_once = None
        delivery = self.start()
        self.clock.advance(1)
        self.connector.fail(ConnectionFailed("host:443: connection refused"))
        self.clock.advance(0.5)
        self.clock.advance(28.5)
        self.assertEqual(len(self.connector.attempts), 1)
        assert delivery.result is not None
        self.assertEqual(
            delivery.result.error,
            "no answer from APNs within 30 seconds:"
            " APNs can not be reached: host:443: connection refused",
        )
        self.assertFalse(self.provider._line)

    def test_withoutStream(self) -> None:
        """
        All streams are used up by pushes that are not answered.
        """
        self.connector.at_once = 1
        self.start(1)
        self.clock.advance(1)
        delivery = self.start(2)
        self.connection.paused = True
        self.clock.advance(29)
        self.clock.advance(1)
        assert delivery.result is not None
        self.assertEqual(delivery.result.error, "no answer from APNs within 30 seconds")
        self.connection.paused = False
        self.connection.changed()
        self.assertEqual(self.connection.sent, ["00000001"])


class GiveUpTests(DeliveryCase):
    """
    The end from outside, at each place.
    """

    def give_up(self, delivery: Delivery) -> None:
        """
        Give up, twice.
        """
        delivery.give_up(PushResult(error="enough"))
        delivery.give_up(PushResult(error="more than enough"))
        self.ended(delivery, error="enough")

    def test_waiting(self) -> None:
        self.connector.at_once = None
        self.give_up(self.start())

    def test_sent(self) -> None:
        self.give_up(self.start())
        self.assertEqual(self.connection.cancelled, ["00000000"])

    def test_inBackoff(self) -> None:
        delivery = self.start()
        self.connection.answer(503)
        self.give_up(delivery)

    def test_afterwards(self) -> None:
        delivery = self.start()
        self.connection.answer()
        delivery.give_up(PushResult(error="enough"))
        self.ended(delivery, id="id-00000000")

    def test_lossAfterwards(self) -> None:
        self.assertEqual(str(LOST), "the connection broke")
        delivery = self.start()
        self.give_up(delivery)
        self.connection.lose()
        self.ended(delivery, error="enough")
