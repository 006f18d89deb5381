"""
Tests for L{nanomdm.push.streams}: their limit, their flow control, and how they
end alone.
"""

from __future__ import annotations

from typing import Any

from h2.errors import ErrorCodes
from hyperframe.frame import DataFrame, HeadersFrame, RstStreamFrame
from twisted.internet.defer import CancelledError, Deferred
from zope.interface import implementer

from nanomdm.push.connection import APNsConnection, IConnectionObserver
from nanomdm.push.notification import Answer, ConnectionLost, StreamReset
from tests.push.memory import ConnectionCase, notification


class ResetTests(ConnectionCase):
    """
    Streams that end alone.
    """

    def test_kinds(self) -> None:
        """
        A refused stream was not processed; all others have failed.
        """
        self.start()
        sent = self.send(4)
        for stream, code in ((1, 7), (3, 0), (5, 11), (7, 4711)):
            self.apns.http2.reset_stream(stream, code)
        self.apns.exchange()
        refused = self.assertFails(sent[0], ConnectionLost, "APNs refused the stream")
        self.assertEqual((refused.resend, refused.refused), (True, False))
        for position, name in ((1, "NO_ERROR"), (2, "ENHANCE_YOUR_CALM"), (3, "error 4711")):
            self.assertFails(sent[position], StreamReset, f"APNs reset the stream: {name}")
        self.assertEqual((self.connection.free, self.connection.open_streams), (100, 0))

    def test_afterTheAnswer(self) -> None:
        """
        A reset of a stream that is answered is none of our business, however long
        ago that was.
        """
        self.start()
        [sent] = self.send()
        self.apns.answer(1)
        self.apns.raw(RstStreamFrame(1))
        self.apns.exchange()
        self.assertEqual(self.successResultOf(sent), Answer(200))
        for turn in range(300):
            self.send()
            self.apns.answer(2 * turn + 3)
        self.apns.raw(RstStreamFrame(1))
        self.apns.exchange()
        self.assertTrue(self.connection.usable)

    def test_cancel(self) -> None:
        """
        Cancelling resets that stream alone; what comes for it later is ignored.
        """
        self.start(2)
        sent = self.send(2)
        self.apns.http2.send_headers(1, [(":status", "400")])
        self.apns.http2.send_data(1, b'{"reason":"BadTopic"}')
        sent[0].cancel()
        self.failureResultOf(sent[0], CancelledError)
        self.assertEqual((self.connection.free, self.connection.open_streams), (1, 1))
        self.apns.exchange()
        self.assertEqual(self.apns.requests[1].reset, ErrorCodes.CANCEL)
        self.apns.answer(3)
        self.apns.exchange()
        self.assertEqual(self.successResultOf(sent[1]), Answer(200))
        self.assertEqual(self.connection.free, 2)

    def test_lateAnswers(self) -> None:
        """
        Answers to what was cancelled do no harm, however late they are.
        """
        self.start()
        for sent in self.send(2):
            sent.cancel()
            self.failureResultOf(sent, CancelledError)
        self.apns.exchange()
        late = HeadersFrame(1, data=b"\x88", flags=["END_HEADERS"])
        self.apns.raw(late, DataFrame(1, data=bytes(100), flags=["END_STREAM"]))
        for turn in range(300):
            [sent] = self.send()
            self.apns.answer(2 * turn + 5)
            self.apns.exchange()
            self.successResultOf(sent)
        self.assertNotIn(3, self.connection._streams.http2.streams)
        late.stream_id = 3
        self.apns.raw(late, DataFrame(3, data=bytes(100), flags=["END_STREAM"]))
        self.apns.exchange()
        self.assertTrue(self.connection.usable)

    def test_cancelLate(self) -> None:
        """
        Cancelling after the answer does nothing.
        """
        self.start()
        sent: list[Deferred[Any]] = [each.addCallback(lambda _: Deferred()) for each in self.send()]
        self.apns.answer(1)
        self.apns.exchange()
        sent[0].cancel()
        self.failureResultOf(sent[0], CancelledError)
        self.apns.exchange()
        self.assertIsNone(self.apns.requests[1].reset)

    def test_cancelBeforeItIsWritten(self) -> None:
        self.start()
        sent = self.connection.send(notification())
        sent.cancel()
        self.failureResultOf(sent, CancelledError)
        self.apns.exchange()
        self.assertEqual(self.apns.requests[1].reset, ErrorCodes.CANCEL)
        self.assertEqual(self.connection.open_streams, 0)


class LimitTests(ConnectionCase):
    """
    MAX_CONCURRENT_STREAMS, and what the observer hears.
    """

    def test_unlimited(self) -> None:
        """
        Without a word from the peer there is a limit too.
        """
        self.start(None)
        self.assertEqual((self.connection.limit, self.connection.free), (1000, 1000))

    def test_capped(self) -> None:
        self.start(100_000)
        self.assertEqual(self.connection.limit, 1000)

    def test_zero(self) -> None:
        """
        A limit of 0 is one too, and may change.
        """
        self.start(0)
        self.assertEqual(
            (self.connection.limit, self.connection.free, self.connection.usable), (0, 0, True)
        )
        problem = self.assertFails(
            self.connection.send(notification()), ConnectionLost, "the connection takes nothing now"
        )
        self.assertTrue(problem.resend)
        self.apns.settings(MAX_CONCURRENT_STREAMS=1)
        self.apns.exchange()
        self.assertEqual(self.observer.seen[-1], (1, 1, True))
        [sent] = self.send()
        self.apns.answer(1)
        self.apns.exchange()
        self.successResultOf(sent)

    def test_full(self) -> None:
        """
        As many as allowed can be sent, and not one more.
        """
        self.start(3)
        self.send(3)
        self.assertEqual((self.connection.free, self.connection.open_streams), (0, 3))
        self.failureResultOf(self.connection.send(notification()), ConnectionLost)
        self.apns.exchange()
        self.assertEqual(sorted(self.apns.requests), [1, 3, 5])

    def test_lowered(self) -> None:
        """
        A limit below what is open lets that end, and nothing new begin.
        """
        self.start(4)
        sent = self.send(4)
        self.observer.seen.clear()
        self.apns.settings(MAX_CONCURRENT_STREAMS=2)
        for stream in (1, 3, 5):
            self.apns.exchange()
            self.apns.answer(stream)
        self.apns.exchange()
        self.assertEqual(
            self.observer.seen, [(2, 0, True), (2, 0, True), (2, 0, True), (2, 1, True)]
        )
        for each in sent[:3]:
            self.successResultOf(each)
        self.send()
        self.assertEqual(self.connection.free, 0)

    def test_observerSends(self) -> None:
        """
        The observer may send when it is told, which is once for all that came at
        once, and that is written in the same turn.
        """
        self.start(5)
        self.send(5)
        sent: list[Deferred[Answer]] = []

        @implementer(IConnectionObserver)
        class Sender:
            def changed(self, connection: APNsConnection) -> None:
                sent.extend(connection.send(notification()) for _ in range(connection.free))

        self.connection.observer = Sender()
        self.transport.writes = 0
        for stream in (1, 3, 5):
            self.apns.answer(stream)
        self.apns.exchange()
        self.assertEqual((len(sent), self.transport.writes), (3, 1))
        self.assertTrue(self.apns.requests[15].ended)

    def test_observerFails(self) -> None:
        """
        An observer that fails is logged, and harms nobody.
        """
        self.start(1)
        [sent] = self.send()

        @implementer(IConnectionObserver)
        class Failing:
            def changed(self, connection: APNsConnection) -> None:
                raise RuntimeError("observer")

        self.connection.observer = Failing()
        self.apns.answer(1)
        self.apns.exchange()
        self.successResultOf(sent)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.apns.goaway()
        self.apns.exchange()
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertGone()

    def test_lastStream(self) -> None:
        """
        When the streams' numbers are used up, the connection retires in time.
        """
        self.start()
        self.connection._streams.http2.highest_outbound_stream_id = 2**31 - 5
        first = self.connection.send(notification())
        self.assertTrue(self.connection.usable)
        last = self.connection.send(notification())
        self.assertEqual((self.connection.usable, self.connection.free), (False, 0))
        self.apns.exchange()
        for stream in (2**31 - 3, 2**31 - 1):
            self.apns.answer(stream)
        self.apns.exchange()
        self.assertEqual(self.successResultOf(first), Answer(200))
        self.assertEqual(self.successResultOf(last), Answer(200))
        self.assertGone()


class FlowControlTests(ConnectionCase):
    """
    Bodies that do not fit into a window or a frame.
    """

    payload = bytes(range(100))

    def assertArrives(self, sent: list[Deferred[Answer]]) -> None:
        for position, each in enumerate(sent):
            request = self.apns.requests[2 * position + 1]
            self.assertEqual((request.body, request.ended), (self.payload, True))
            self.apns.answer(2 * position + 1)
            self.apns.exchange()
            self.assertEqual(self.successResultOf(each), Answer(200))
        self.assertEqual(self.connection.open_streams, 0)

    def test_closedWindow(self) -> None:
        """
        A body waits for its stream's window.
        """
        self.start(INITIAL_WINDOW_SIZE=0)
        self.apns.reading = False
        sent = self.send(2, self.payload)
        self.assertEqual((self.apns.requests[1].body, self.apns.requests[1].ended), (b"", False))
        self.apns.http2.increment_flow_control_window(30, 1)
        self.apns.exchange()
        self.assertEqual(self.apns.requests[1].body, self.payload[:30])
        self.assertEqual(self.apns.requests[3].body, b"")
        for stream in (3, 1):
            self.apns.http2.increment_flow_control_window(100, stream)
            self.apns.exchange()
        self.assertArrives(sent)

    def test_tinyWindow(self) -> None:
        """
        A body goes byte by byte if it must.
        """
        self.start(INITIAL_WINDOW_SIZE=1)
        self.apns.reading = False
        sent = self.send(3, self.payload)
        for _ in self.payload:
            for stream in (1, 3, 5):
                if not self.apns.requests[stream].ended:
                    self.apns.http2.increment_flow_control_window(1, stream)
            self.apns.exchange()
        self.assertArrives(sent)

    def test_raisedWindow(self) -> None:
        """
        SETTINGS open the windows of streams that wait.
        """
        self.start(INITIAL_WINDOW_SIZE=0)
        sent = self.send(2, self.payload)
        self.apns.settings(INITIAL_WINDOW_SIZE=65535)
        self.apns.exchange()
        self.assertArrives(sent)

    def test_negativeWindow(self) -> None:
        """
        SETTINGS can take more away than is left.
        """
        self.start(INITIAL_WINDOW_SIZE=60)
        self.apns.reading = False
        sent = self.send(1, self.payload)
        self.assertEqual(len(self.apns.requests[1].body), 60)
        self.apns.settings(INITIAL_WINDOW_SIZE=0)
        self.apns.exchange()
        self.apns.http2.increment_flow_control_window(59, 1)
        self.apns.exchange()
        self.assertEqual(len(self.apns.requests[1].body), 60)
        self.apns.http2.increment_flow_control_window(41, 1)
        self.apns.exchange()
        self.assertArrives(sent)

    def test_connectionWindow(self) -> None:
        """
        All streams share a window too; who came first is served first.
        """
        self.start(1000)
        self.apns.reading = False
        sent = self.send(660, self.payload)
        complete = [number for number, each in self.apns.requests.items() if each.ended]
        self.assertEqual(complete, list(range(1, 2 * 655, 2)))
        self.assertEqual(len(self.apns.requests[1311].body), 35)
        self.apns.http2.increment_flow_control_window(1000)
        self.apns.exchange()
        self.assertArrives(sent)

    def test_frameSize(self) -> None:
        """
        No frame is longer than the peer takes.
        """
        self.payload = bytes(40_000)
        self.start()
        sent = self.send(1, self.payload)
        self.assertArrives(sent)

    def test_emptyBody(self) -> None:
        """
        Nothing needs no window.
        """
        self.payload = b""
        self.start(INITIAL_WINDOW_SIZE=0)
        self.assertArrives(self.send(1, b""))

    def test_cancelledWhileItWaits(self) -> None:
        self.start(INITIAL_WINDOW_SIZE=0)
        sent = self.send(2, self.payload)
        sent[0].cancel()
        self.failureResultOf(sent[0], CancelledError)
        self.apns.settings(INITIAL_WINDOW_SIZE=65535)
        self.apns.exchange()
        self.assertEqual(self.apns.requests[1].reset, ErrorCodes.CANCEL)
        self.assertEqual(self.apns.requests[1].body, b"")
        self.assertEqual(self.apns.requests[3].body, self.payload)

    def test_answeredWhileItWaits(self) -> None:
        """
        An answer before the request was complete counts; the rest is not sent.
        """
        self.start(INITIAL_WINDOW_SIZE=10)
        self.apns.reading = False
        [sent] = self.send(1, self.payload)
        self.apns.answer(1, 413, b'{"reason":"PayloadTooLarge"}')
        self.apns.raw(RstStreamFrame(1))
        self.apns.exchange()
        self.assertEqual(self.successResultOf(sent), Answer(413, None, "PayloadTooLarge"))
        self.assertEqual(self.connection.open_streams, 0)
        self.assertEqual(self.apns.requests[1].reset, ErrorCodes.CANCEL)
        self.assertTrue(self.connection.usable)

    def test_windowTooLarge(self) -> None:
        """
        A peer that overflows one stream's window loses that stream.
        """
        self.start()
        [sent] = self.send(1, self.payload)
        frame = b"\0\0\x04\x08\0\0\0\0\x01" + (2**31 - 1).to_bytes(4, "big")
        self.connection.dataReceived(frame)
        self.assertFails(sent, StreamReset, "APNs reset the stream: FLOW_CONTROL_ERROR")
        self.apns.exchange()
        self.assertTrue(self.connection.usable)
