"""
Tests for L{nanomdm.push.connection}: opening it, and sending.
"""

from __future__ import annotations

from h2.errors import ErrorCodes
from h2.events import PingAckReceived
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionLost as TransportLost
from twisted.internet.interfaces import IHandshakeListener

from nanomdm.push.notification import Answer, ConnectionFailed, ConnectionLost, StreamReset
from tests.push.memory import AUTHORITY, TOPIC, ConnectionCase, notification


class OpeningTests(ConnectionCase):
    """
    Until the first notification can be sent.
    """

    def test_opensWithSettings(self) -> None:
        """
        Nothing can be sent until the peer's SETTINGS came, whatever else came.
        """
        self.assertTrue(IHandshakeListener.providedBy(self.connection))
        self.connection.makeConnection(self.transport)
        self.clock.advance(0)
        self.assertEqual(self.transport.take(), b"")
        self.connection.handshakeCompleted()
        self.clock.advance(0)
        self.assertTrue(self.transport.take().startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
        self.connection.dataReceived(b"\0\0\x08\x06\0\0\0\0\0" + bytes(8))  # PING
        self.assertNoResult(self.connection.opened)
        self.assertEqual((self.connection.usable, self.connection.limit), (False, 0))
        self.assertFails(
            self.connection.send(notification()), ConnectionLost, "the connection takes nothing now"
        )
        self.connection.dataReceived(b"\0\0\x06\x04\0\0\0\0\0" + b"\0\x03\0\0\0\x07")
        self.successResultOf(self.connection.opened)
        self.assertEqual((self.connection.usable, self.connection.limit), (True, 7))
        self.assertEqual((self.connection.free, self.connection.open_streams), (7, 0))

    def test_pushIsOff(self) -> None:
        """
        The peer must not open streams.
        """
        self.start()
        self.assertEqual(self.apns.http2.remote_settings.enable_push, 0)

    def test_noALPN(self) -> None:
        self.assertRefusesProtocol(None, "nothing")

    def test_otherALPN(self) -> None:
        self.assertRefusesProtocol(b"http/1.1", "http/1.1")

    def assertRefusesProtocol(self, spoken: bytes | None, told: str) -> None:
        self.transport.negotiatedProtocol = spoken
        self.connection.makeConnection(self.transport)
        self.connection.handshakeCompleted()
        problem = self.assertFails(
            self.connection.opened,
            ConnectionFailed,
            f"APNs does not speak HTTP/2 (ALPN gave {told})",
        )
        self.assertFalse(problem.refused)
        self.assertTrue(self.transport.aborted)
        self.assertIsNone(self.transport.producer)
        self.assertEqual(self.transport.take(), b"")
        self.assertGone()

    def test_notHTTP2AtAll(self) -> None:
        """
        What can not be a frame ends the attempt at once.
        """
        self.connection.makeConnection(self.transport)
        self.connection.handshakeCompleted()
        self.connection.dataReceived(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        self.assertFails(
            self.connection.opened,
            ConnectionFailed,
            "APNs broke the protocol: a frame of 4740180 bytes",
        )
        self.assertGone()

    def test_lostBefore(self) -> None:
        self.connection.makeConnection(self.transport)
        self.transport.lose(TransportLost("reset by peer"))
        self.assertFails(
            self.connection.opened, ConnectionFailed, "the connection broke: reset by peer"
        )
        self.assertGone()

    def test_silence(self) -> None:
        """
        A peer that never sends SETTINGS is given up in the end, if nobody else does
        so sooner.
        """
        self.connection.makeConnection(self.transport)
        self.connection.handshakeCompleted()
        self.clock.advance(60)
        self.clock.advance(9.9)
        self.assertNoResult(self.connection.opened)
        self.clock.advance(0.1)
        self.assertFails(self.connection.opened, ConnectionFailed, "APNs does not answer")
        self.assertGone()

    def test_handshakeAgain(self) -> None:
        """
        TLS may tell more than once that its handshake is complete.
        """
        self.start()
        self.connection.handshakeCompleted()
        self.clock.advance(0)
        self.assertEqual(self.transport.take(), b"")

    def test_goawayBefore(self) -> None:
        """
        A GOAWAY instead of SETTINGS, or right behind them.
        """
        for settings in (b"", b"\0\0\0\x04\0\0\0\0\0"):
            self.setUp()
            self.connection.makeConnection(self.transport)
            self.connection.handshakeCompleted()
            debug = bytes(8) + b'{"reason":"BadCertificate"}'
            goaway = len(debug).to_bytes(3, "big") + b"\x07\0\0\0\0\0" + debug
            self.connection.dataReceived(settings + goaway)
            problem = self.assertFails(
                self.connection.opened,
                ConnectionFailed,
                "APNs ended the connection: BadCertificate",
            )
            self.assertTrue(problem.refused)
            self.assertGone()

    def test_cancelled(self) -> None:
        """
        Whoever does not want to wait any longer leaves nothing behind.
        """
        self.connection.makeConnection(self.transport)
        self.connection.handshakeCompleted()
        self.connection.opened.cancel()
        self.failureResultOf(self.connection.opened, CancelledError)
        self.assertTrue(self.transport.aborted)
        self.assertGone()

    def test_cancelledBeforeThereIsATransport(self) -> None:
        self.connection.opened.cancel()
        self.failureResultOf(self.connection.opened, CancelledError)
        self.connection.makeConnection(self.transport)
        self.connection.handshakeCompleted()
        self.assertTrue(self.transport.aborted)
        self.assertIsNone(self.transport.producer)
        self.assertGone()

    def test_closedBefore(self) -> None:
        self.connection.makeConnection(self.transport)
        self.connection.handshakeCompleted()
        closed = self.connection.close()
        self.assertFails(self.connection.opened, ConnectionFailed, "closed before it was open")
        self.assertNoResult(closed)
        self.assertGone()
        self.successResultOf(closed)

    def test_closedWithoutTransport(self) -> None:
        self.successResultOf(self.connection.close())


class SendingTests(ConnectionCase):
    """
    Requests and their answers.
    """

    def test_request(self) -> None:
        """
        A request has just the headers that APNs wants, and what differs between
        pushes is not put into the table that both sides remember.
        """
        self.start()
        self.send(2)
        request = self.apns.requests[1]
        self.assertEqual(
            request.headers,
            {
                b":method": b"POST",
                b":scheme": b"https",
                b":authority": AUTHORITY.encode(),
                b":path": b"/3/device/" + b"0" * 64,
                b"apns-push-type": b"mdm",
                b"apns-topic": TOPIC.encode(),
                b"apns-expiration": b"1700000000",
                b"apns-priority": b"10",
                b"content-length": b"15",
            },
        )
        self.assertEqual((request.body, request.ended), (b'{"mdm":"magic"}', True))
        self.assertTrue(self.apns.requests[3].headers[b":path"].endswith(b"01"))
        remembered = {name for name, _ in self.apns.http2.decoder.header_table.dynamic_entries}
        self.assertEqual(
            remembered, {b":authority", b"apns-push-type", b"apns-topic", b"apns-priority"}
        )

    def test_success(self) -> None:
        self.start()
        [sent] = self.send()
        self.assertNoResult(sent)
        self.assertEqual((self.connection.open_streams, self.connection.free), (1, 99))
        self.apns.answer(1, apns_id="8E27")
        self.apns.exchange()
        self.assertEqual(self.successResultOf(sent), Answer(200, "8E27"))
        self.assertEqual((self.connection.open_streams, self.connection.free), (0, 100))

    def test_problem(self) -> None:
        """
        Everything that APNs tells of a failure is passed on; times in seconds.
        """
        self.start()
        sent = self.send(2)
        body = b'{"reason":"Unregistered","timestamp":1454948015990}'
        self.apns.answer(3, 410, body, apns_id="A", retry_after="17")
        self.apns.exchange()
        self.assertNoResult(sent[0])
        self.assertEqual(
            self.successResultOf(sent[1]), Answer(410, "A", "Unregistered", 1454948015.99, "17")
        )

    def test_problemWithoutJSON(self) -> None:
        self.start()
        [sent] = self.send()
        self.apns.answer(1, 502, b"<html>")
        self.apns.exchange()
        self.assertEqual(self.successResultOf(sent), Answer(502))

    def test_informational(self) -> None:
        """
        1xx responses and trailers change nothing.
        """
        self.start()
        [sent] = self.send()
        self.apns.http2.send_headers(1, [(":status", "103"), ("apns-id", "no")])
        self.apns.http2.send_headers(1, [(":status", "400"), ("apns-id", "yes")])
        self.apns.http2.send_data(1, b'{"reason":')
        self.apns.http2.send_data(1, b'"BadTopic"}')
        self.apns.http2.send_headers(1, [("apns-id", "no")], end_stream=True)
        self.apns.exchange()
        self.assertEqual(self.successResultOf(sent), Answer(400, "yes", "BadTopic"))

    def test_noStatus(self) -> None:
        """
        Without a status, or with one that is none, there is no answer, and the
        connection goes on.
        """
        for headers in ([("apns-id", "x")], [(":status", "2 0")], [(":status", "2000")]):
            self.setUp()
            self.start()
            [sent] = self.send()
            self.apns.http2.send_headers(1, headers, end_stream=True)
            self.apns.exchange()
            self.assertFails(sent, StreamReset, "APNs answered without a status")
            self.assertTrue(self.connection.usable)

    def test_piecemeal(self) -> None:
        """
        Bytes may come one by one.
        """
        self.apns.piece = 1
        self.start()
        sent = self.send(3)
        for stream in (3, 1):
            self.apns.answer(stream, 400, b'{"reason":"BadTopic"}', apns_id=f"id {stream}")
        self.apns.goaway()
        self.apns.exchange()
        for position, name in ((0, "id 1"), (1, "id 3")):
            answer = self.successResultOf(sent[position])
            self.assertEqual(answer, Answer(400, name, "BadTopic"))
        self.assertTrue(self.failureResultOf(sent[2], ConnectionLost).value.resend)

    def test_oneWriteForATurn(self) -> None:
        """
        What is sent in one turn of the reactor is written at once, and nothing is
        written without need.
        """
        self.start()
        self.transport.writes = 0
        self.send(50)
        self.assertEqual(self.transport.writes, 1)
        for stream in range(1, 101, 2):
            self.apns.answer(stream)
        self.apns.exchange()
        self.assertEqual(self.transport.writes, 1)

    def test_sendFromCallbacks(self) -> None:
        """
        Whoever gets an answer can send the next at once, even with one stream.
        """
        self.start(1)
        answers: list[Answer] = []

        def again(answer: Answer) -> None:
            answers.append(answer)
            self.assertEqual(self.connection.free, 1)
            if len(answers) < 5:
                self.connection.send(notification()).addCallback(again)
                self.assertEqual(self.connection.free, 0)

        self.connection.send(notification()).addCallback(again)
        for stream in (1, 3, 5, 7, 9):
            self.apns.exchange()
            self.apns.answer(stream, apns_id=str(stream))
        self.apns.exchange()
        self.assertEqual([answer.id for answer in answers], ["1", "3", "5", "7", "9"])
        self.assertEqual(self.connection.open_streams, 0)

    def test_hugeAnswer(self) -> None:
        """
        An answer has a size limit; the stream is reset, the connection goes on and
        its window never closes.
        """
        self.start()
        sent = self.send(4)
        for stream in (1, 3, 5):
            self.apns.http2.send_headers(stream, [(":status", "400")])
            self.apns.exchange()
            for _ in range(8):
                self.apns.http2.send_data(stream, bytes(8192))
                self.apns.exchange()
            self.assertNoResult(sent[stream // 2])
            self.apns.http2.send_data(stream, b"x", end_stream=stream == 5)
            self.apns.exchange()
            self.assertFails(sent[stream // 2], StreamReset, "APNs' answer is too long")
            reset = None if stream == 5 else ErrorCodes.CANCEL
            self.assertEqual(self.apns.requests[stream].reset, reset)
        self.apns.answer(7)
        self.apns.exchange()
        self.assertEqual(self.successResultOf(sent[3]), Answer(200))

    def test_longestAnswer(self) -> None:
        self.start()
        [sent] = self.send()
        body = b'{"reason":"' + b"x" * (65536 - 13) + b'"}'
        self.apns.http2.send_headers(1, [(":status", "400")])
        for start in range(0, len(body), 8192):
            self.apns.http2.send_data(1, body[start : start + 8192])
            self.apns.exchange()
        self.apns.http2.end_stream(1)
        self.apns.exchange()
        self.assertEqual(self.successResultOf(sent).reason, "x" * 200)

    def test_manyAnswers(self) -> None:
        """
        Far more streams than a connection has at once, and more bytes than its
        windows.
        """
        self.start(10)
        for turn in range(100):
            sent = self.send(10)
            for stream in range(20 * turn + 1, 20 * turn + 21, 2):
                self.apns.answer(stream, 400, b'{"reason":"%s"}' % (b"x" * 120))
            self.apns.exchange()
            for each in sent:
                self.assertEqual(self.successResultOf(each).status, 400)
        # Closed streams are swept up now and then.
        self.assertLess(len(self.connection._streams.http2.streams), 300)


class AnsweringTests(ConnectionCase):
    """
    What the peer asks for.
    """

    def test_ping(self) -> None:
        self.start()
        self.apns.http2.ping(b"12345678")
        self.apns.exchange()
        acks = [each for each in self.apns.events if isinstance(each, PingAckReceived)]
        self.assertEqual([each.ping_data for each in acks], [b"12345678"])
