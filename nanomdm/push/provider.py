"""
One topic's connections to APNs.

Pushes line up for a stream on any of them.  What is wrong with the topic as a
whole, such as a certificate that APNs refuses, fails its pushes fast: they do not
wait one by one for what can not succeed.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from random import Random
from typing import Final

from attrs import define
from twisted.internet.defer import Deferred, DeferredList, fail, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from nanomdm.crypto.pushcert import PushCertificate
from nanomdm.interfaces import PushResult
from nanomdm.push.backoff import Backoff
from nanomdm.push.connection import APNsConnection, IConnectionObserver
from nanomdm.push.credentials import Credentials
from nanomdm.push.endpoint import IConnector
from nanomdm.push.line import Line, Waiter
from nanomdm.push.notification import Answer, ConnectionFailed, ConnectionLost
from nanomdm.push.room import Room

#: What becomes of pushes that the end of the server ends.
STOPPING: Final = PushResult(error="the server is stopping")

#: Streams that a connection is taken to allow before there was any.
_FIRST_LIMIT: Final = 100

#: Pushes that are ready beyond what the streams take, so that none of these idles
#: until the next push has been prepared; never more than there are streams.
_READ_AHEAD: Final = 100


@define(eq=False)
class _Link:
    """
    A connection in use.

    @ivar credentials: what it was opened with.
    @ivar streams: how many pushes wait for their answer on it.
    @ivar answered: there ever was an answer.
    @ivar gone: fires when it is; L{None} while nobody closes it.
    """

    connection: APNsConnection
    credentials: Credentials
    streams: int = 0
    answered: bool = False
    gone: Deferred[None] | None = None


@implementer(IConnectionObserver)
class Provider:
    """
    One topic's connections: opened when first needed, and again when lost and
    needed.

    @param connections: how many there may be at once.
    @param now: the time of day, with a time zone.
    @param random: for jitter.
    @ivar room: places for pushes: as many as there are streams, and a few.
    """

    _log = Logger()

    def __init__(
        self,
        topic: str,
        connector: IConnector,
        clock: IReactorTime,
        *,
        connections: int,
        now: Callable[[], datetime],
        random: Random,
    ) -> None:
        self.topic = topic
        self.clock = clock
        self.now = now
        self.random = random
        self.room = Room(self._capacity)
        self._connector = connector
        self._most = connections
        self._credentials: Credentials | None = None
        self._links: dict[APNsConnection, _Link] = {}
        self._retired: set[_Link] = set()
        self._limit = _FIRST_LIMIT
        self._line = Line()
        self._pumping = False
        self._connecting = False
        self._attempt: Deferred[None] | None = None
        self._backoff = Backoff()
        self._timer: IDelayedCall | None = None
        self._stopping = False

    # What the service and the pushes use.

    def use(self, certificate: PushCertificate, stale_token: int) -> None:
        """
        Connect with this certificate from now on.  Connections with another one
        end once their streams have.

        @param stale_token: the certificate's version; nothing happens when it is
            in use.
        """
        used = self._credentials
        if self._stopping or (used is not None and used.stale_token == stale_token):
            return
        self._credentials = Credentials(certificate, stale_token, self.now)
        # It may have been for the old certificate that there was no connection.
        self._backoff.cut_short()
        for link in list(self._links.values()):
            self._retire(link)
        if self._attempt is not None:
            self._attempt.cancel()
        self._pump()

    def submit(self, waiter: Waiter, again: bool = False) -> None:
        """
        Send a push as soon as there is a stream.

        @param again: it was sent before, so it goes before others.
        """
        trouble = self._trouble()
        if trouble is not None:
            waiter.give_up(trouble)
            return
        self._line.add(waiter, again)
        self._pump()

    def withdraw(self, waiter: Waiter) -> None:
        """
        Do not send a push, if it was not sent yet.
        """
        self._line.withdraw(waiter)

    @property
    def obstacle(self) -> str | None:
        """
        Why there is no connection at present, as far as that is known.
        """
        return None if self._links or not self._backoff.failures else self._unreachable().error

    @property
    def load(self) -> tuple[int, int, int]:
        """
        How many connections there are, how many streams are open on them, and how
        many may be.
        """
        opened = sum([connection.open_streams for connection in self._links])
        return len(self._links), opened, sum([connection.limit for connection in self._links])

    def stop(self) -> Deferred[None]:
        """
        Give up who waits, and close the connections.

        @return: fires when they are gone.
        """
        self._stopping = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._attempt is not None:
            self._attempt.cancel()
        self._line.give_up(STOPPING)
        self.room.close()
        for link in list(self._links.values()):
            self._retire(link)
        gone = [self._close(link) for link in list(self._retired)]
        return DeferredList(gone).addCallback(lambda ignored: None)

    # What connections tell.

    def changed(self, connection: APNsConnection) -> None:
        """
        See L{IConnectionObserver}.
        """
        link = self._links.get(connection)
        if link is None:
            return
        if connection.usable:
            self._limit = connection.limit or self._limit
        else:
            self._lose(link)
        self._pump()
        self.room.changed()

    def _lose(self, link: _Link) -> None:
        self._retire(link)
        lost = link.connection.lost
        if lost is not None and lost.refused:
            self._refused(link.credentials, str(lost))
        elif not link.answered:
            self._failed(str(lost or "the connection takes nothing more"), self.clock.seconds())
        elif not self._links:
            # It worked until now, whatever came of attempts at another one.
            self._backoff = Backoff()

    def _retire(self, link: _Link) -> None:
        """
        Send nothing more over a connection; what is under way may end.
        """
        del self._links[link.connection]
        self._retired.add(link)
        if not link.streams:
            self._close(link)

    def _close(self, link: _Link) -> Deferred[None]:
        """
        @return: for one to wait for.
        """
        if link.gone is None:
            link.gone = link.connection.close()
            link.gone.addErrback(self._bug).addCallback(self._forget, link)
        return link.gone

    def _forget(self, ignored: None, link: _Link) -> None:
        self._retired.discard(link)

    # Sending.

    def _capacity(self) -> int:
        limit = sum([connection.limit for connection in self._links]) or self._limit
        return limit + min(limit, _READ_AHEAD)

    def _pump(self) -> None:
        """
        Send what can be sent.
        """
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._line and (link := self._free()):
                self._send(link, self._line.next())
        finally:
            self._pumping = False
        if self._line:
            self._ask_for_connection()

    def _free(self) -> _Link | None:
        for connection, link in self._links.items():
            if connection.free > 0:
                return link
        return None

    def _send(self, link: _Link, waiter: Waiter) -> None:
        link.streams += 1
        try:
            stream = link.connection.send(waiter.notification)
        except Exception:
            stream = fail()
        waiter.sent(stream)
        stream.addCallbacks(
            self._answered, self._ended, callbackArgs=(link, waiter), errbackArgs=(link, waiter)
        ).addErrback(self._bug)

    def _answered(self, answer: Answer, link: _Link, waiter: Waiter) -> None:
        if not link.answered:
            link.answered = True
            self._reached()
        if answer.status == 403:
            text = f"403 {answer.reason}" if answer.reason else "403"
            self._refused(link.credentials, text, answer)
        self._freed(link)
        waiter.answered(answer)
        self._pump()

    def _ended(self, failure: Failure, link: _Link, waiter: Waiter) -> None:
        error = failure.value
        if isinstance(error, ConnectionLost) and error.refused:
            self._refused(link.credentials, str(error))
        self._freed(link)
        waiter.lost(failure)
        self._pump()

    def _freed(self, link: _Link) -> None:
        link.streams -= 1
        if not link.streams and link in self._retired:
            self._close(link)

    # Connecting.

    def _ask_for_connection(self) -> None:
        # Streams end before it is told that their connection has.
        for link in [one for one in self._links.values() if not one.connection.usable]:
            self._lose(link)
        if not self._line or self._connecting or self._stopping:
            return
        if self._links and not self._used_up():
            return
        now = self.clock.seconds()
        if self._backoff.due(now):
            self._connect()
        elif not self._links:
            self._wait_for_attempt(now)

    def _used_up(self) -> bool:
        """
        Whether another connection is due.  One that only waits for its peer to
        read has streams left.
        """
        return len(self._links) < self._most and all(
            connection.open_streams >= connection.limit for connection in self._links
        )

    def _wait_for_attempt(self, now: float) -> None:
        if self._backoff.hopeless(now):
            self._line.give_up(self._unreachable())
            return
        if self._timer is not None and self._timer.active():
            if self._timer.getTime() <= self._backoff.next:
                return
            self._timer.cancel()
        self._timer = self.clock.callLater(self._backoff.next - now, self._pump)

    def _connect(self) -> None:
        credentials = self._credentials
        if credentials is None:
            return
        self._connecting = True
        arguments = (credentials, self.clock.seconds())
        attempt: Deferred[APNsConnection] = maybeDeferred(
            self._connector.connect, credentials.certificate
        )
        self._attempt = attempt.addCallbacks(
            self._opened, self._not_opened, callbackArgs=arguments, errbackArgs=arguments
        ).addErrback(self._bug)

    def _opened(self, connection: APNsConnection, credentials: Credentials, began: float) -> None:
        self._connecting = False
        link = self._links[connection] = _Link(connection, credentials)
        if self._stopping or credentials is not self._credentials:
            self._retire(link)
            self._pump()
            return
        self._log.info("connected to APNs", topic=self.topic, streams=connection.limit)
        connection.observer = self
        self.changed(connection)

    def _not_opened(self, failure: Failure, credentials: Credentials, began: float) -> None:
        self._connecting = False
        if credentials is self._credentials and not self._stopping:
            if not failure.check(ConnectionFailed):
                self._log.failure("connecting to APNs failed", failure, topic=self.topic)
            if getattr(failure.value, "refused", False):
                self._refused(credentials, failure.getErrorMessage())
            else:
                self._failed(failure.getErrorMessage(), began)
        self._pump()

    # What is wrong with the topic.

    def _trouble(self) -> PushResult | None:
        """
        Why a push need not even wait.
        """
        if self._stopping:
            return STOPPING
        now = self.clock.seconds()
        if self._credentials is not None and (trouble := self._credentials.trouble(now)):
            return trouble
        waits = self._links or self._connecting or self._backoff.due(now)
        return None if waits or not self._backoff.hopeless(now) else self._unreachable()

    def _unreachable(self) -> PushResult:
        return PushResult(error=f"APNs can not be reached: {self._backoff.reason}")

    def _failed(self, reason: str, since: float) -> None:
        if not self._backoff.failures:
            self._log.warn("APNs can not be reached", topic=self.topic, reason=reason)
        now = self.clock.seconds()
        self._backoff.failed(now, None if self._links else since, reason, self.random)

    def _reached(self) -> None:
        if self._backoff.failures:
            self._log.info("APNs can be reached again", topic=self.topic)
            self._backoff = Backoff()

    def _refused(self, credentials: Credentials, text: str, answer: Answer | None = None) -> None:
        if credentials is not self._credentials:
            return
        status, reason = (answer.status, answer.reason) if answer else (None, None)
        refusal = credentials.refuse(self.clock.seconds(), text, status, reason)
        if refusal is not None:
            self._line.give_up(refusal)

    def _bug(self, failure: Failure) -> None:
        self._log.failure("a connection to APNs was handled wrongly", failure, topic=self.topic)
