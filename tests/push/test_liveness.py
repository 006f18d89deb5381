"""
Tests for L{nanomdm.push.connection}: peers that are silent or do not
read.
"""

from __future__ import annotations

from h2.events import PingReceived
from hyperframe.frame import PingFrame
from twisted.internet.error import ConnectionDone

from nanomdm.push.notification import ConnectionLost
from tests.push.memory import ConnectionCase, notification


class SilenceTests(ConnectionCase):
    """
    A peer that says nothing.
    """

    def pings(self) -> int:
        """
        How many PINGs arrived.
        """
        self.clock.advance(0)
        data = self.transport.take()
        if data:
            self.apns._receive(data)
        return sum(isinstance(each, PingReceived) for each in self.apns.events)

    def test_idle(self) -> None:
        """
        An idle connection is tried once a minute.
        """
        self.start()
        for minute in range(1, 4):
            self.clock.advance(59.9)
            self.assertEqual(self.pings(), minute - 1)
            self.clock.advance(0.1)
            self.assertEqual(self.pings(), minute)
            self.apns.exchange()
        self.assertTrue(self.connection.usable)

    def test_idleSilence(self) -> None:
        self.start()
        self.clock.advance(60)
        self.clock.advance(9.9)
        self.assertTrue(self.connection.usable)
        self.clock.advance(0.1)
        self.assertEqual(str(self.connection.lost), "APNs does not answer")
        self.assertTrue(self.transport.aborted)
        self.assertGone()

    def test_stall(self) -> None:
        """
        With streams open, silence is noticed much sooner.
        """
        self.start()
        self.clock.advance(30)
        sent = self.send(2)
        self.clock.advance(9.9)
        self.assertEqual(self.pings(), 0)
        self.clock.advance(0.1)
        self.assertEqual(self.pings(), 1)
        self.clock.advance(9.9)
        self.assertNoResult(sent[0])
        self.clock.advance(0.1)
        for each in sent:
            self.assertFails(each, ConnectionLost, "APNs does not answer")
        self.assertTrue(self.transport.aborted)
        self.assertGone()

    def test_slow(self) -> None:
        """
        A peer that answers PINGs may take its time with the rest.
        """
        self.start()
        [sent] = self.send()
        for count in range(1, 10):
            self.clock.advance(10)
            self.assertEqual(self.pings(), count)
            self.clock.advance(9)
            self.apns.exchange()
        self.apns.answer(1)
        self.apns.exchange()
        self.successResultOf(sent)
        self.clock.advance(59)
        self.assertEqual(self.pings(), 9)

    def test_anythingCounts(self) -> None:
        """
        Any data shows that the peer lives, a PING's answer or not.
        """
        self.start()
        sent = self.send(2)
        self.clock.advance(10)
        self.clock.advance(9)
        self.apns.answer(1)
        self.apns.deliver()
        self.clock.advance(9)
        self.successResultOf(sent[0])
        self.assertNoResult(sent[1])
        self.assertTrue(self.connection.usable)

    def test_oneTimer(self) -> None:
        """
        There is one timer, however many streams there are.
        """
        self.start()
        self.send(100)
        self.connection.pauseProducing()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)


class UnreadTests(ConnectionCase):
    """
    A peer that stops reading.
    """

    def test_paused(self) -> None:
        """
        Nothing is written meanwhile, nothing can be sent, and then all goes on.
        """
        self.start()
        sent = self.connection.send(notification())
        self.connection.pauseProducing()
        self.assertEqual((self.connection.free, self.connection.limit), (0, 100))
        self.assertTrue(self.connection.usable)
        self.failureResultOf(self.connection.send(notification()), ConnectionLost)
        self.apns.http2.ping(b"12345678")
        self.apns.exchange()
        self.assertEqual(self.apns.requests, {})
        self.clock.advance(9.9)
        self.observer.seen.clear()
        self.connection.resumeProducing()
        self.apns.exchange()
        self.assertEqual(self.observer.seen, [(100, 99, True)])
        self.apns.answer(1)
        self.apns.exchange()
        self.successResultOf(sent)
        self.clock.advance(9)
        self.assertTrue(self.connection.usable)

    def test_forTooLong(self) -> None:
        self.start()
        [sent] = self.send()
        self.connection.pauseProducing()
        self.clock.advance(9)
        # Being told twice does not begin it anew, nor does the peer's talking.
        self.connection.pauseProducing()
        self.apns.http2.ping(b"12345678")
        self.apns.deliver()
        self.clock.advance(1)
        self.assertFails(sent, ConnectionLost, "APNs does not read")
        self.assertTrue(self.transport.aborted)
        self.assertGone()

    def test_pausedByAWrite(self) -> None:
        """
        The transport may pause from within a write.
        """
        self.start()
        written = self.transport.write

        def write(data: bytes) -> None:
            written(data)
            self.connection.pauseProducing()

        self.transport.write = write  # type: ignore[method-assign]
        self.send(2)
        self.assertEqual(len(self.apns.requests), 2)
        self.assertEqual(self.connection.free, 0)
        self.connection.resumeProducing()
        self.assertEqual(self.connection.free, 98)

    def test_flood(self) -> None:
        """
        A peer that asks on and on without reading does not fill the memory.
        """
        self.start()
        [sent] = self.send()
        self.connection.pauseProducing()
        ping = PingFrame(0, opaque_data=bytes(8)).serialize()
        for _ in range(38):
            self.connection.dataReceived(ping * 100)
            self.clock.advance(0)
        self.assertTrue(self.connection.usable)
        self.connection.dataReceived(ping * 100)
        self.clock.advance(0)
        self.assertFails(sent, ConnectionLost, "APNs asks and does not read")
        self.assertTrue(self.transport.aborted)
        self.assertGone()

    def test_floodThatIsRead(self) -> None:
        """
        As long as it reads the answers, a peer may ask.
        """
        self.start()
        ping = PingFrame(0, opaque_data=bytes(8)).serialize()
        for _ in range(50):
            self.connection.dataReceived(ping * 100)
            self.clock.advance(0)
            self.assertEqual(len(self.transport.take()), 1700)
        self.assertTrue(self.connection.usable)

    def test_lostWhilePaused(self) -> None:
        self.start()
        [sent] = self.send()
        self.connection.pauseProducing()
        self.connection.stopProducing()
        self.transport.lose(ConnectionDone())
        self.failureResultOf(sent, ConnectionLost)
        self.assertGone()
