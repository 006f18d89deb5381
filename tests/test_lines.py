"""
Tests for L{nanomdm.lines}: peers that do not take part in the end of a connection.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransportWithDisconnection
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.errors import OutboundError
from nanomdm.lines import GRACE, LineEndpoint, Lines


class FakeHTTP(Protocol):
    """
    As much of Twisted's client as matters.
    """

    state = "QUIESCENT"


class StubbornTransport(StringTransportWithDisconnection):
    """
    Is only closed when it is aborted.
    """

    def loseConnection(self) -> None:
        """
        The peer does not answer.
        """
        self.disconnecting = True

    def abortConnection(self) -> None:
        """
        It need not.
        """
        super().loseConnection()


class LineTests(SynchronousTestCase):
    """
    A connection and its end.
    """

    def setUp(self) -> None:
        self.memory = MemoryReactorClock()
        self.lines = Lines(self.memory)
        self.transport = StubbornTransport()
        endpoint = LineEndpoint(self, self.lines, 5.0)
        self.http = self.successResultOf(endpoint.connect(Factory.forProtocol(FakeHTTP)))
        self.assertTrue(endpoint.used)

    def connect(self, factory: Any) -> Any:
        """
        As an endpoint.
        """
        line = self.transport.protocol = factory.buildProtocol(None)
        line.makeConnection(self.transport)
        return succeed(line)

    def test_idle(self) -> None:
        self.http.transport.loseConnection()
        self.assertTrue(self.transport.disconnecting)
        self.memory.advance(GRACE - 0.1)
        # Saying it again puts nothing off.
        self.http.transport.loseConnection()
        self.assertTrue(self.transport.connected)
        self.memory.advance(0.1)
        self.assertFalse(self.transport.connected)
        self.assertEqual(self.memory.getDelayedCalls(), [])

    def test_orderly(self) -> None:
        self.http.transport.loseConnection()
        self.http.transport.loseConnection()
        self.transport.protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.memory.getDelayedCalls(), [])
        self.successResultOf(self.lines.abort())

    def test_inTheMiddle(self) -> None:
        self.http.state = "WAITING"
        self.http.transport.loseConnection()
        self.assertFalse(self.transport.connected)
        self.assertEqual(self.memory.getDelayedCalls(), [])

    def test_abort(self) -> None:
        self.patch(self.transport, "abortConnection", lambda: None)
        aborted = self.lines.abort()
        self.assertNoResult(aborted)
        self.transport.protocol.connectionLost(Failure(ConnectionDone()))
        self.successResultOf(aborted)
        self.successResultOf(self.lines.abort())


class ConnectTests(SynchronousTestCase):
    """
    A connection that does not come about.
    """

    def test_timeout(self) -> None:
        class Endpoint:
            def connect(self, factory: object) -> Deferred[Any]:
                return connecting

        clock, connecting = Clock(), Deferred()
        result = LineEndpoint(Endpoint(), Lines(clock), 5.0).connect(Factory())
        clock.advance(5)
        error = self.failureResultOf(result, OutboundError).value
        self.assertEqual(str(error), "not connected within 5 s")
