"""
Tests for L{nanomdm.push.connection}: how it ends.
"""

from __future__ import annotations

from typing import Any

from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, PingAckReceived
from hyperframe.frame import DataFrame, HeadersFrame
from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.error import ConnectionLost as TransportLost
from zope.interface import implementer

from nanomdm.push.connection import APNsConnection, IConnectionObserver
from nanomdm.push.notification import Answer, ConnectionLost
from tests.push.memory import ConnectionCase, notification


class GoawayTests(ConnectionCase):
    """
    The peer says goodbye.
    """

    def test_unanswered(self) -> None:
        """
        Everything unanswered is to be sent again elsewhere, and the connection is
        over.
        """
        self.start()
        sent = self.send(3)
        self.apns.goaway()
        self.apns.exchange()
        for each in sent:
            problem = self.assertFails(each, ConnectionLost, "APNs ended the connection: NO_ERROR")
            self.assertEqual((problem.resend, problem.refused), (True, False))
        self.assertEqual(str(self.connection.lost), "APNs ended the connection: NO_ERROR")
        self.assertEqual(self.observer.seen, [(0, 0, False)])
        self.assertFalse(self.transport.aborted)
        self.assertGone()

    def test_eachItsOwnError(self) -> None:
        self.start()
        first, second = self.send(2)
        self.apns.goaway()
        self.apns.exchange()
        self.assertIsNot(
            self.failureResultOf(first, ConnectionLost).value,
            self.failureResultOf(second, ConnectionLost).value,
        )

    def test_answersBefore(self) -> None:
        """
        Answers that came before it in the same piece count; what follows it does
        not take them away.
        """
        self.start()
        sent = self.send(3)
        self.apns.answer(3, 400, b'{"reason":"BadTopic"}')
        self.apns.answer(1)
        self.apns.goaway(reason="Shutdown")
        self.apns.raw(HeadersFrame(5, data=b"\x88", flags=["END_HEADERS", "END_STREAM"]))
        self.apns.exchange()
        self.assertEqual(self.successResultOf(sent[0]), Answer(200))
        self.assertEqual(self.successResultOf(sent[1]), Answer(400, None, "BadTopic"))
        problem = self.assertFails(sent[2], ConnectionLost, "APNs ended the connection: Shutdown")
        self.assertTrue(problem.resend)
        self.assertGone()

    def test_certificate(self) -> None:
        """
        A reason about the certificate is told, and sending again does not help.
        """
        self.start()
        [sent] = self.send()
        self.apns.goaway(reason="BadCertificateEnvironment")
        self.apns.exchange()
        problem = self.assertFails(
            sent, ConnectionLost, "APNs ended the connection: BadCertificateEnvironment"
        )
        self.assertEqual((problem.resend, problem.refused), (False, True))
        self.assertTrue(self.connection.lost and self.connection.lost.refused)

    def test_calm(self) -> None:
        """
        To be told to calm down is no invitation to send everything again at once.
        """
        self.start()
        [sent] = self.send()
        self.apns.goaway(ErrorCodes.ENHANCE_YOUR_CALM)
        self.apns.exchange()
        problem = self.assertFails(
            sent, ConnectionLost, "APNs ended the connection: ENHANCE_YOUR_CALM"
        )
        self.assertFalse(problem.resend)

    def test_dataAfterwards(self) -> None:
        """
        Whatever a peer sends after its goodbye, while the transport closes, is
        ignored.
        """
        self.start()
        self.transport.stays = True
        self.apns.goaway()
        self.apns.exchange()
        self.connection.dataReceived(b"nonsense" * 10)
        self.connection.pauseProducing()
        self.connection.resumeProducing()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.advance(5)
        self.assertTrue(self.transport.aborted)
        self.assertGone()

    def test_callbacks(self) -> None:
        """
        Those who are told can cancel others, send and close; everybody is told
        once.
        """
        self.start()
        sent = self.send(4)
        told: list[Any] = []
        closed: list[Deferred[None]] = []

        def first(failure: Any) -> None:
            told.append(failure.value.resend)
            sent[1].cancel()
            closed.append(self.connection.close())
            self.assertFails(
                self.connection.send(notification()),
                ConnectionLost,
                "the connection takes nothing now",
            )

        sent[0].addErrback(first)
        self.apns.goaway()
        self.apns.exchange()
        self.assertEqual(told, [True])
        self.failureResultOf(sent[1], CancelledError)
        self.failureResultOf(sent[2], ConnectionLost)
        self.failureResultOf(sent[3], ConnectionLost)
        self.assertGone()
        self.successResultOf(closed[0])


class LossTests(ConnectionCase):
    """
    The transport goes, or must.
    """

    def test_closed(self) -> None:
        self.assertLoses(ConnectionDone(), "APNs closed the connection")

    def test_broken(self) -> None:
        self.assertLoses(TransportLost("x\ny"), "the connection broke: x y")

    def test_refused(self) -> None:
        """
        In TLS 1.3 the certificate may be refused after the connection is open.
        """
        alert = SSL.Error([("SSL routines", "", "ssl/tls alert certificate expired")])
        problem = self.assertLoses(
            alert,
            "APNs ended TLS: ssl/tls alert certificate expired",
        )
        self.assertTrue(problem.refused)

    def assertLoses(self, reason: Exception, text: str) -> ConnectionLost:
        self.start()
        sent = self.send(2)
        self.transport.lose(reason)
        self.assertFails(sent[0], ConnectionLost, text)
        self.assertEqual(self.observer.seen, [(0, 0, False)])
        self.assertGone()
        problem: ConnectionLost = self.assertFails(sent[1], ConnectionLost, text)
        self.assertFalse(problem.resend)
        return problem

    def test_beforeItIsWritten(self) -> None:
        self.start()
        sent = self.connection.send(notification())
        self.transport.lose(ConnectionDone())
        self.failureResultOf(sent, ConnectionLost)
        self.assertGone()

    def test_protocolError(self) -> None:
        """
        A peer that breaks the protocol is told so; what it sent before counts.
        """
        self.start()
        sent = self.send(2)
        self.apns.answer(1)
        self.apns.raw(DataFrame(3, data=b"too early"))
        self.apns.exchange()
        self.assertEqual(self.successResultOf(sent[0]), Answer(200))
        problem = self.assertFails(
            sent[1], ConnectionLost, "APNs broke the protocol: cannot receive data before headers"
        )
        self.assertEqual((problem.resend, problem.refused), (False, False))
        goodbye = self.apns.events[-1]
        assert isinstance(goodbye, ConnectionTerminated)
        self.assertEqual(goodbye.error_code, ErrorCodes.PROTOCOL_ERROR)
        self.assertFalse(self.transport.aborted)
        self.assertGone()

    def test_hugeFrame(self) -> None:
        """
        A frame that is longer than agreed is not waited for.
        """
        self.start()
        self.connection.dataReceived(b"\x00\x40\x01\x00\x00\x00\x00\x00\x01")
        self.apns.exchange()
        goodbye = self.apns.events[-1]
        assert isinstance(goodbye, ConnectionTerminated)
        self.assertEqual(goodbye.error_code, ErrorCodes.FRAME_SIZE_ERROR)
        self.assertGone()

    def test_doesNotReadTheGoodbye(self) -> None:
        """
        A peer that does not read keeps the transport for a short while only.
        """
        self.start()
        self.transport.stays = True
        # A PING is nearly due, but is of no use any more.
        self.clock.advance(58)
        self.connection.dataReceived(b"\xff" * 9)
        self.clock.advance(4.9)
        self.assertFalse(self.transport.aborted)
        self.clock.advance(0.1)
        self.assertTrue(self.transport.aborted)
        self.assertGone()


class ClosingTests(ConnectionCase):
    """
    This side ends the connection.
    """

    def test_idle(self) -> None:
        """
        Without streams it goes at once, with a GOAWAY.
        """
        self.start()
        first, second = self.connection.close(), self.connection.close()
        self.assertFalse(self.connection.usable)
        self.assertNoResult(first)
        self.apns.exchange()
        goodbye = self.apns.events[-1]
        assert isinstance(goodbye, ConnectionTerminated)
        self.assertEqual(goodbye.error_code, ErrorCodes.NO_ERROR)
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertEqual(self.observer.seen[-1], (0, 0, False))
        self.assertFalse(self.transport.aborted)
        self.assertGone()

    def test_openStreams(self) -> None:
        """
        What is under way may end; nothing new begins.
        """
        self.start()
        sent = self.send(2)
        closed = self.connection.close()
        self.failureResultOf(self.connection.send(notification()), ConnectionLost)
        self.apns.exchange()
        self.assertEqual(self.observer.seen, [(0, 0, False)])
        self.apns.answer(1)
        self.apns.exchange()
        self.successResultOf(sent[0])
        self.assertNoResult(closed)
        self.clock.advance(4.9)
        self.apns.answer(3)
        self.apns.exchange()
        self.successResultOf(sent[1])
        self.successResultOf(closed)
        self.assertGone()

    def test_tooSlow(self) -> None:
        """
        What does not end in time fails.
        """
        self.start()
        [sent] = self.send()
        closed = self.connection.close()
        self.clock.advance(4.9)
        self.assertNoResult(sent)
        # To be asked again gives no more time.
        self.connection.close()
        self.clock.advance(0.1)
        self.assertFails(sent, ConnectionLost, "this server closed the connection")
        self.apns.exchange()
        self.assertIsInstance(self.apns.events[-1], ConnectionTerminated)
        self.successResultOf(closed)
        self.assertGone()

    def test_doesNotGo(self) -> None:
        """
        A transport that does not go is aborted.
        """
        self.start()
        self.transport.stays = True
        closed = self.connection.close()
        self.clock.advance(0)
        self.clock.advance(4.9)
        self.assertNoResult(closed)
        self.assertFalse(self.transport.aborted)
        self.clock.advance(0.1)
        self.assertTrue(self.transport.aborted)
        self.assertGone()
        self.successResultOf(closed)

    def test_paused(self) -> None:
        """
        What was held back is written before the end.
        """
        self.start()
        [sent] = self.send()
        self.connection.pauseProducing()
        self.apns.http2.ping(b"12345678")
        self.apns.deliver()
        self.clock.advance(0)
        self.connection.close()
        sent.cancel()
        self.failureResultOf(sent, CancelledError)
        self.apns.exchange()
        self.assertEqual(self.apns.requests[1].reset, ErrorCodes.CANCEL)
        self.assertTrue(any(isinstance(each, PingAckReceived) for each in self.apns.events))
        self.assertIsInstance(self.apns.events[-1], ConnectionTerminated)
        self.assertGone()

    def test_lostMeanwhile(self) -> None:
        self.start()
        [sent] = self.send()
        closed = self.connection.close()
        self.transport.lose(ConnectionDone())
        self.failureResultOf(sent, ConnectionLost)
        self.successResultOf(closed)
        self.assertGone()

    def test_goawayMeanwhile(self) -> None:
        """
        What the peer will not answer any more is to be sent elsewhere.
        """
        self.start()
        [sent] = self.send()
        closed = self.connection.close()
        self.apns.goaway()
        self.apns.exchange()
        self.assertTrue(self.failureResultOf(sent, ConnectionLost).value.resend)
        self.successResultOf(closed)
        self.assertGone()

    def test_fromCallbacks(self) -> None:
        """
        An answer's callback and the observer can close, too.
        """
        self.start()
        first, second = self.send(2)
        closed: list[Deferred[None]] = []
        first.addCallback(lambda _: closed.append(self.connection.close()))

        @implementer(IConnectionObserver)
        class Closing:
            def changed(self, connection: APNsConnection) -> None:
                closed.append(connection.close())

        self.connection.observer = Closing()
        self.apns.answer(1)
        self.apns.answer(3)
        self.apns.exchange()
        self.successResultOf(second)
        self.assertGreater(len(closed), 1)
        for each in closed:
            self.successResultOf(each)
        self.assertGone()
