"""
Tests for what the site takes from clients: memory, time, connections.
"""

from __future__ import annotations

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.http.endpoint import Folder
from nanomdm.http.limits import UNCOUNTED, Budget, Share
from nanomdm.http.response import Response
from nanomdm.http.site import Site
from tests.http.memory import SiteCase, Transport

HEAD = b"PUT /slow?key=secret HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
SMALL = b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"
SLOW = (408, b"Request Time-out")
BUSY = (503, b"Service Unavailable")


class ShareTests(SynchronousTestCase):
    """
    Tests for L{Share}.
    """

    def test_smallIsNotCounted(self) -> None:
        budget = Budget(0)
        share = Share(budget)
        self.assertTrue(share.reach(UNCOUNTED))
        self.assertFalse(share.reach(UNCOUNTED + 1))
        self.assertEqual((share.size, budget.used), (UNCOUNTED, 0))
        share.release()
        self.assertEqual((share.size, budget.used), (0, 0))

    def test_shared(self) -> None:
        budget = Budget(100)
        first, second = Share(budget), Share(budget)
        self.assertTrue(first.reach(UNCOUNTED + 10))
        self.assertTrue(first.reach(UNCOUNTED + 60))
        self.assertFalse(second.reach(UNCOUNTED + 41))
        self.assertTrue(second.reach(UNCOUNTED + 40))
        self.assertEqual(budget.used, 100)
        first.release()
        self.assertEqual(budget.used, 40)
        second.release()
        second.release()
        self.assertEqual(budget.used, 0)


class MemoryTests(SiteCase):
    """
    The budget for all requests together.
    """

    max_body_size = 100_000

    def setUp(self) -> None:
        super().setUp()
        self.site.budget = Budget(50_000)

    def fill(self) -> Transport:
        """
        Use up nearly all of the budget with a body that does not end.
        """
        transport = self.connect()
        self.send(transport, HEAD % 66_000, b"x" * 65_000)
        self.assertEqual(transport.value(), b"")
        return transport

    def test_default(self) -> None:
        self.assertEqual(Site(Folder(), self.clock, 1000).budget.total, 256 << 20)
        self.assertEqual(Site(Folder(), self.clock, 1 << 30).budget.total, 2 << 30)

    def test_announcedIsNotReserved(self) -> None:
        """
        A length costs a client nothing, so it must not cost others anything.
        """
        for _ in range(3):
            self.send(self.connect(), HEAD % 100_000)
        self.assertEqual(self.site.budget.used, 0)

    def test_full(self) -> None:
        """
        What does not fit is refused, and its bytes are given back.
        """
        self.fill()
        used = self.site.budget.used
        other = self.connect()
        with capturedLogs() as events:
            answer = self.send(other, HEAD % 30_000, b"x" * 20_000)
        self.assertRefused(answer, *BUSY)
        self.assertLogged(
            events,
            code=503,
            method="PUT",
            path="/slow",
            error="too many large requests at once",
        )
        self.assertEqual(self.site.budget.used, used)
        self.send(other, b"x" * 10_000)
        self.assertEqual((self.site.budget.used, self.endpoint.bodies), (used, []))

    def test_chunked(self) -> None:
        """
        Nothing of a refused body counts, though more of it is in the same segment.
        """
        self.fill()
        used = self.site.budget.used
        other = self.connect()
        chunk = b"1000\r\n" + b"x" * 0x1000 + b"\r\n"
        head = b"PUT /slow HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.assertRefused(self.send(other, head + chunk * 20 + b"0\r\n\r\n"), *BUSY)
        self.assertEqual((self.site.budget.used, self.endpoint.bodies), (used, []))

    def test_smallIsServed(self) -> None:
        """
        Nobody can keep the others from small requests.
        """
        self.fill()
        other = self.connect()
        self.send(other, HEAD % 10_000, b"x" * 10_000)
        self.answer()
        self.assertTrue(other.value().startswith(b"HTTP/1.1 200 "))

    def test_head(self) -> None:
        """
        Lines count, complete or not.
        """
        self.fill()
        line = b"X-Padding: " + b"x" * 10_000
        answer = self.send(self.connect(), SMALL[:-2] + line + b"\r\n", line, line)
        self.assertRefused(answer, *BUSY)

    def test_wholeHead(self) -> None:
        self.fill()
        answer = self.send(self.connect(), SMALL[:-2] + b"X: " + b"x" * 30_000 + b"\r\n\r\n")
        self.assertRefused(answer, *BUSY)
        self.assertEqual(self.endpoint.bodies, [])

    def test_givenBackAfterwards(self) -> None:
        transport = self.fill()
        self.send(transport, b"x" * 1000)
        self.assertGreater(self.site.budget.used, 49_000)
        self.answer()
        self.assertEqual(self.site.budget.used, 0)

    def test_givenBackWhenTheClientGoes(self) -> None:
        self.fill().closed()
        self.assertEqual(self.site.budget.used, 0)
        self.assertClean()

    def test_heldWhileWorkedOn(self) -> None:
        """
        The body is in memory until the answer is known, whether or not anybody
        waits for it.
        """
        transport = self.connect()
        self.send(transport, HEAD % 50_000, b"x" * 50_000)
        used = self.site.budget.used
        transport.closed()
        self.assertEqual(self.site.budget.used, used)
        self.answer()
        self.assertEqual(self.site.budget.used, 0)
        self.assertClean()


class TimeTests(SiteCase):
    """
    Deadlines.
    """

    max_body_size = 10_000_000

    def pass_time(self, seconds: int) -> None:
        self.clock.pump([1] * seconds)

    def test_slowHead(self) -> None:
        """
        The time runs from the first byte, however many follow.
        """
        transport = self.connect()
        self.pass_time(50)
        self.send(transport, b"GET /slow?key=secret HTTP/1.1\r\n")
        for _ in range(40):
            self.send(transport, b"x")
            with capturedLogs() as events:
                self.pass_time(1)
            if events:
                break
        self.assertRefused(transport.value(), *SLOW)
        self.assertLogged(
            events, code=408, method="GET", path="/slow", error="the request arrived too slowly"
        )
        self.assertEqual(int(self.clock.seconds()), 80)
        self.pass_time(10)
        self.assertTrue(transport.aborted)
        self.assertClean()

    def test_slowBody(self) -> None:
        transport = self.connect()
        self.send(transport, HEAD % 1000)
        for _ in range(60):
            self.assertEqual(transport.value(), b"")
            self.pass_time(1)
            self.send(transport, b"x")
        self.pass_time(5)
        self.assertRefused(transport.value(), *SLOW)
        transport.closed()
        self.assertClean()

    def test_bodyAtTheSlowestRate(self) -> None:
        transport = self.connect()
        self.send(transport, HEAD % 3_000_000)
        for _ in range(300):
            self.send(transport, b"x" * 10_000)
            self.pass_time(1)
        self.assertEqual(transport.value(), b"")
        self.assertEqual([len(body) for body in self.endpoint.bodies], [3_000_000])

    def test_bodyThatStops(self) -> None:
        """
        What came fast gives no time to hold the memory for nothing.
        """
        transport = self.connect()
        self.send(transport, HEAD % 9_000_000, b"x" * 8_000_000)
        self.pass_time(55)
        self.assertEqual(transport.value(), b"")
        self.pass_time(10)
        self.assertRefused(transport.value(), *SLOW)
        self.assertEqual(self.site.budget.used, 0)

    def test_timeOfEachRequest(self) -> None:
        """
        Every request on a connection has its own time.
        """
        transport = self.connect()
        for _ in range(5):
            self.send(transport, SMALL[:20])
            self.pass_time(24)
            self.send(transport, SMALL[20:])
            self.pass_time(100)
            self.answer()
            self.pass_time(50)
        self.assertEqual(transport.value().count(b"HTTP/1.1 200 OK"), 5)
        self.assertTrue(transport.connected)

    def test_answerTakesItsTime(self) -> None:
        transport = self.connect()
        self.send(transport, SMALL)
        self.pass_time(1000)
        self.answer()
        self.assertTrue(transport.value().startswith(b"HTTP/1.1 200 "))
        transport.closed()
        self.assertClean()

    def test_answersNobodyReads(self) -> None:
        """
        Requests that come at once are answered as their answers are read: otherwise
        one connection could fill the memory with them.
        """
        transport = self.connect()
        channel = transport.protocol
        self.send(transport, SMALL * 3)
        channel.pauseProducing()
        self.answer()
        self.assertEqual(
            (transport.value().count(b"HTTP/1.1 200 "), self.endpoint.waiting), (1, [])
        )
        for answers in (2, 3):
            channel.resumeProducing()
            self.assertEqual(len(self.endpoint.waiting), 1)
            self.answer()
            self.assertEqual(transport.value().count(b"HTTP/1.1 200 "), answers)
        # One that is never read ends the connection, as an idle one.
        self.send(transport, SMALL * 2)
        channel.pauseProducing()
        self.answer()
        transport.closed = lambda: None  # type: ignore[method-assign]
        self.pass_time(65)
        self.assertTrue(transport.disconnecting)
        self.assertEqual(self.endpoint.waiting, [])

    def test_answerNobodyReads(self) -> None:
        """
        A connection whose last answer is not read ends too.
        """
        transport = self.connect()
        transport.closed = lambda: None  # type: ignore[method-assign]
        self.send(transport, b"GET /slow HTTP/1.0\r\n\r\n")
        self.answer()
        self.assertTrue(transport.disconnecting)
        self.pass_time(65)
        self.assertTrue(transport.aborted)

    def test_idleConnectionThatStays(self) -> None:
        transport = self.connect()
        transport.closed = lambda: None  # type: ignore[method-assign]
        self.pass_time(65)
        self.assertTrue(transport.disconnecting)
        self.assertFalse(transport.aborted)
        self.pass_time(20)
        self.assertTrue(transport.aborted)

    def test_oneTimer(self) -> None:
        """
        However many connections there are; and none without any.
        """
        self.assertClean()
        transports = [self.connect() for _ in range(3)]
        self.send(transports[0], SMALL)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        for transport in transports:
            transport.closed()
        self.answer()
        self.assertClean()


class AnswerTests(SiteCase):
    """
    Answers that nobody reads are in memory, too.
    """

    def setUp(self) -> None:
        super().setUp()
        self.site.budget = Budget(50_000)

    def answer_unread(self, size: int) -> Transport:
        """
        Let the endpoint answer a client that does not read.
        """
        transport = self.connect()
        self.send(transport, SMALL)
        transport.protocol.pauseProducing()
        self.endpoint.waiting.pop(0).callback(Response(200, b"x" * size))
        return transport

    def assertAnswered(self, transport: Transport, code: int) -> None:
        self.assertTrue(transport.value().startswith(b"HTTP/1.1 %d " % code))

    def test_unread(self) -> None:
        """
        They count until they are read; who asks for what does not fit is told to come
        back.
        """
        first = self.answer_unread(40_000)
        self.assertAnswered(first, 200)
        self.assertEqual(self.site.budget.used, 40_000 - UNCOUNTED)
        with capturedLogs() as events:
            second = self.answer_unread(50_000)
        self.assertAnswered(second, 503)
        self.assertIn(b"\r\nRetry-After: 5\r\n", second.value())
        self.assertLogged(events, code=503, error="too many large answers are being read")
        first.protocol.resumeProducing()
        self.assertEqual(self.site.budget.used, 0)
        self.assertAnswered(self.answer_unread(50_000), 200)

    def test_clientsThatGo(self) -> None:
        self.answer_unread(60_000).closed()
        self.assertEqual(self.site.budget.used, 0)

    def test_read(self) -> None:
        """
        What went into the socket at once costs nothing.
        """
        transport = self.connect()
        for _ in range(2):
            self.send(transport, SMALL)
            self.endpoint.waiting.pop(0).callback(Response(200, b"x" * 60_000))
            self.assertEqual(self.site.budget.used, 0)
        self.assertEqual(transport.value().count(b"HTTP/1.1 200 "), 2)

    def test_last(self) -> None:
        """
        The connection ends with the answer, and the memory is given back then.
        """
        transport = self.connect()
        transport.closed = lambda: None  # type: ignore[method-assign]
        self.send(transport, SMALL[:-2] + b"Connection: close\r\n\r\n")
        self.endpoint.waiting.pop(0).callback(Response(200, b"x" * 60_000))
        self.assertEqual(self.site.budget.used, 60_000 - UNCOUNTED)
        del transport.closed
        transport.closed()
        self.assertEqual(self.site.budget.used, 0)

    def test_largerThanAllMemory(self) -> None:
        """
        Such an answer is possible, but no other at the same time.
        """
        huge = self.answer_unread(100_000)
        self.assertAnswered(huge, 200)
        self.assertAnswered(self.answer_unread(20_000), 503)
        self.assertAnswered(self.answer_unread(10_000), 200)
        huge.closed()
        self.assertEqual(self.site.budget.used, 0)
        self.answer_unread(20_000)
        self.assertAnswered(self.answer_unread(100_000), 503)


class ConnectionsTests(SiteCase):
    """
    The limit on connections.
    """

    def setUp(self) -> None:
        super().setUp()
        self.site = Site(self.site.resource, self.clock, 10, max_connections=2, max_refused=3)

    def test_tooMany(self) -> None:
        """
        Who comes too late is told when he asks, and what else he says is thrown away.
        """
        first, second, third = (self.connect() for _ in range(3))
        self.assertEqual(third.value(), b"")
        self.assertRefused(self.send(third, SMALL[:1]), *BUSY)
        self.assertTrue(third.half_closed)
        self.assertEqual(self.send(third, SMALL[1:]), third.value())
        self.assertEqual((self.endpoint.bodies, self.site.connections), ([], 3))
        third.closed()
        first.closed()
        fourth = self.connect()
        for transport in (second, fourth):
            self.send(transport, SMALL)
            self.answer()
            self.assertTrue(transport.value().startswith(b"HTTP/1.1 200 "))

    def test_farTooMany(self) -> None:
        """
        Of those that only wait for a refusal, the oldest one ends, and has the answer.
        """
        transports = [self.connect() for _ in range(5)]
        self.send(transports[2], SMALL)
        self.assertTrue(all(one.connected for one in transports))
        transports += [self.connect(), self.connect()]
        connected = [one.connected for one in transports]
        self.assertEqual(connected, [True, True, False, False, True, True, True])
        for ended in transports[2:4]:
            self.assertRefused(ended.value(), *BUSY)
            self.assertFalse(ended.aborted)
        self.assertEqual(self.site.connections, 5)

    def test_refusedOnesEnd(self) -> None:
        """
        Also those that ask nothing or read nothing.
        """
        transports = [self.connect() for _ in range(4)]
        self.send(transports[3], SMALL)
        self.clock.pump([5, 5])
        self.assertEqual([one.connected for one in transports], [True, True, False, False])
        for ended in transports[2:]:
            self.assertRefused(ended.value(), *BUSY)

    def test_log(self) -> None:
        """
        One line tells of all, within a few seconds.
        """
        transports = [self.connect() for _ in range(4)]
        with capturedLogs() as events:
            self.clock.pump([5, 5])
            self.connect()
            for transport in transports:
                transport.closed()
            self.site.drain(30)
        told = [(one["log_format"], one["refused"], one["most"]) for one in events]
        self.assertEqual(told, [("too many connections", count, 2) for count in (2, 1)])
        self.assertTrue(all("--max-connections" in one["do"] for one in events))

    def test_drain(self) -> None:
        """
        Nobody waits for those that are not served.
        """
        transports = [self.connect() for _ in range(4)]
        for transport in transports[:2]:
            transport.closed()
        drained = self.site.drain(30)
        self.successResultOf(drained)
        self.assertClean()
