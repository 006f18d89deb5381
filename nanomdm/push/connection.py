"""
One connection to APNs.
"""

from __future__ import annotations

from typing import Final

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import (
    IDelayedCall,
    IHandshakeListener,
    IPushProducer,
    IReactorTime,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

from nanomdm.push.alarm import Alarm
from nanomdm.push.loss import describe_loss
from nanomdm.push.notification import Answer, ConnectionFailed, ConnectionLost, Notification
from nanomdm.push.streams import Streams

_log = Logger()

#: Bytes kept for a peer that does not read.  Only a peer that goes on asking
#: without reading the answers makes them so many.
MAX_HELD: Final = 1 << 16

#: Seconds of silence after which a PING is sent, on a connection without streams.
IDLE_QUIET: Final = 60.0

#: The same, with streams open.
BUSY_QUIET: Final = 10.0

#: Seconds in which anything must come after a PING.
PING_TIME: Final = 10.0

#: Seconds for which the peer may leave unread what is sent.
PAUSE_TIME: Final = 10.0

#: Seconds that the open streams have to end once the connection is to be closed.
CLOSE_TIME: Final = 5.0

#: Seconds in which the transport must be gone after it was told to.
GONE_TIME: Final = 5.0


class IConnectionObserver(Interface):
    """
    Whoever gives a connection its notifications.
    """

    def changed(connection: APNsConnection) -> None:
        """
        C{limit}, C{free} or C{usable} may have changed.  The changes of one turn of
        the reactor make one call.  It may send.
        """


@implementer(IHandshakeListener, IPushProducer)
class APNsConnection(Protocol):
    """
    Sends notifications over HTTP/2 (RFC 9113).  Its transport must be TLS that
    offered C{h2} by ALPN.

    @param clock: measures all times.
    @param authority: the server's name, with the port unless it is 443.
    @ivar opened: fires once notifications can be sent, that is when the peer's
        SETTINGS came; fails with L{ConnectionFailed}.  Cancelling it ends the
        connection.
    @ivar observer: told of changes, once it is set.
    @ivar lost: why the connection ended; L{None} as long as it did not.
    """

    def __init__(self, clock: IReactorTime, authority: str) -> None:
        self.observer: IConnectionObserver | None = None
        self.lost: ConnectionLost | None = None
        self.opened: Deferred[None] = Deferred(self._give_up)
        self._opening: Deferred[None] | None = self.opened
        self._clock = clock
        self._alarm = Alarm(clock)
        self._streams = Streams(authority, self._change)
        self._started = False
        self._closing = False
        # Who waits for the transport to be gone; nobody can once it is.
        self._closers: list[Deferred[None]] | None = []
        self._paused = False
        self._held = b""
        self._changed = False
        self._flush_call: IDelayedCall | None = None

    @property
    def usable(self) -> bool:
        """
        Whether notifications can be sent, now or when others are answered.
        """
        return self._opening is None and not self._closing and self.lost is None

    @property
    def limit(self) -> int:
        """
        How many streams may be open at once; 0 when the connection is not usable.
        """
        return self._streams.limit or 0 if self.usable else 0

    @property
    def open_streams(self) -> int:
        """
        How many notifications wait for their answer.
        """
        return len(self._streams)

    @property
    def free(self) -> int:
        """
        How many notifications can be sent right now.
        """
        return 0 if self._paused else max(0, self.limit - len(self._streams))

    def send(self, notification: Notification) -> Deferred[Answer]:
        """
        Send a notification, if there is one L{free}.  Cancelling resets its stream
        alone.

        @return: fails with L{ConnectionLost} or
            L{StreamReset<nanomdm.push.notification.StreamReset>}.
        """
        if not self.free:
            return fail(ConnectionLost("the connection takes nothing now", resend=True))
        answer = self._streams.open(notification)
        if len(self._streams) == 1:
            self._alarm.set(self._ping, BUSY_QUIET)
        if self._streams.exhausted:
            self.close()
        self._schedule()
        return answer

    def close(self) -> Deferred[None]:
        """
        Send nothing new, let what is under way end for at most L{CLOSE_TIME},
        then disconnect.

        @return: fires when the transport is gone.
        """
        if self._closers is None or not self.connected:
            return succeed(None)
        gone: Deferred[None] = Deferred()
        self._closers.append(gone)
        if self._opening is not None:
            self._end(ConnectionLost("closed before it was open"), abort=True)
        elif self.usable:
            self._closing = True
            self._alarm.set(self._leave, CLOSE_TIME)
            self._change()
        return gone

    # IHandshakeListener and IProtocol

    def connectionMade(self) -> None:
        """
        There is a transport, which nobody may want any more.
        """
        if self.lost is not None:
            self._abort()

    def handshakeCompleted(self) -> None:
        """
        TLS is there: begin to speak HTTP/2.
        """
        assert self.transport is not None
        if self._started or self.lost is not None:
            return
        self._started = True
        spoken = self.transport.negotiatedProtocol  # type: ignore[attr-defined]
        if spoken != b"h2":
            gave = "nothing" if spoken is None else spoken.decode("ascii", "replace")
            text = f"APNs does not speak HTTP/2 (ALPN gave {gave})"
            self._end(ConnectionLost(text), abort=True)
            return
        self.transport.registerProducer(self, True)  # type: ignore[attr-defined]
        self._alarm.set(self._ping, IDLE_QUIET)
        self._streams.http2.initiate_connection()
        self._schedule()

    def dataReceived(self, data: bytes) -> None:
        """
        Pass on what the peer sent, up to what ends the connection.
        """
        if self.lost is not None:
            return
        loss = self._streams.receive(data)
        if loss is not None:
            self._end(loss)
            return
        self._alarm.clear(self._silent)
        self._alarm.set(self._ping, BUSY_QUIET if self._streams else IDLE_QUIET)
        self._schedule()
        if self._opening is not None and self._streams.limit is not None:
            opening, self._opening = self._opening, None
            opening.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        The transport is gone: everything that is open fails.
        """
        closers, self._closers = self._closers, None
        self._end(describe_loss(reason))
        self._alarm.stop()
        for gone in closers or ():
            gone.callback(None)

    # IPushProducer

    def pauseProducing(self) -> None:
        """
        The peer reads too slowly: hold back what is to be sent.
        """
        if not self._paused:
            self._paused = True
            self._alarm.set(self._unread, PAUSE_TIME)

    def resumeProducing(self) -> None:
        """
        The peer reads again.
        """
        self._paused = False
        self._alarm.clear(self._unread)
        self._change()

    def stopProducing(self) -> None:
        """
        The transport is about to go; L{connectionLost} does the rest.
        """

    # Sending

    def _change(self) -> None:
        self._changed = True
        self._schedule()

    def _schedule(self) -> None:
        if self._flush_call is None and self.lost is None:
            self._flush_call = self._clock.callLater(0, self._flush)

    def _flush(self) -> None:
        """
        Once in a turn of the reactor, after all that happened in it: tell the
        observer, and write what it and others sent.
        """
        self._flush_call = None
        if self._changed:
            self._tell()
        self._streams.unblock()
        if self._closing and not self._streams:
            self._leave()
        if self.lost is None:
            self._write(self._held + self._streams.http2.data_to_send())

    def _tell(self) -> None:
        self._changed = False
        if self.observer is not None:
            try:
                self.observer.changed(self)
            except Exception:
                _log.failure("the observer of a push connection failed")

    def _write(self, data: bytes) -> None:
        assert self.transport is not None
        if not self._paused:
            self._held = b""
            if data:
                self.transport.write(data)
        elif len(data) <= MAX_HELD:
            self._held = data
        else:
            self._end(ConnectionLost("APNs asks and does not read"), abort=True)

    # Deadlines

    def _ping(self) -> None:
        self._streams.http2.ping(bytes(8))
        self._alarm.set(self._silent, PING_TIME)
        self._schedule()

    def _silent(self) -> None:
        self._end(ConnectionLost("APNs does not answer"), abort=True)

    def _unread(self) -> None:
        self._end(ConnectionLost("APNs does not read"), abort=True)

    def _abort(self) -> None:
        assert self.transport is not None
        self.transport.abortConnection()  # type: ignore[attr-defined]

    # The end

    def _give_up(self, opened: Deferred[None]) -> None:
        self._opening = None
        self._end(ConnectionLost("given up"), abort=True)

    def _leave(self) -> None:
        self._streams.http2.close_connection()
        self._end(ConnectionLost("this server closed the connection"))

    def _end(self, loss: ConnectionLost, abort: bool = False) -> None:
        """
        Fail everything that is open, tell the observer, and get rid of the
        transport if it is still there.

        @param abort: do not wait until the peer has read everything.
        """
        if self.lost is not None:
            return
        self.lost = loss
        self._alarm.stop()
        if self._flush_call is not None:
            self._flush_call.cancel()
            self._flush_call = None
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.errback(ConnectionFailed(str(loss), loss.refused))
        self._streams.fail(loss)
        self._tell()
        if self._closers is None or not self.connected:
            return
        if abort:
            self._abort()
        else:
            self._disconnect()

    def _disconnect(self) -> None:
        """
        Let the peer read what is written, for a while.
        """
        assert self.transport is not None
        self._alarm.set(self._abort, GONE_TIME)
        self.transport.write(self._held + self._streams.http2.data_to_send())
        self.transport.unregisterProducer()  # type: ignore[attr-defined]
        self.transport.loseConnection()
