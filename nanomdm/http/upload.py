"""
A request's body on its way through, for endpoints that do not need it as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface import implementer

if TYPE_CHECKING:
    from nanomdm.http.channel import Channel


@implementer(IBodyProducer)
class Upload:
    """
    Nothing of it is read before somebody asks for it, nor faster than it is taken, but
    for what comes along with the headers.

    @param channel: where it comes from.
    @param length: its C{Content-Length}; L{None} if it is chunked.
    @param continues: the client waits for C{100 Continue}.
    @ivar complete: all of it has arrived.
    @ivar size: bytes so far.
    @ivar moved: called whenever some was passed on.
    """

    def __init__(self, channel: Channel, length: int | None, continues: bool) -> None:
        self.length = UNKNOWN_LENGTH if length is None else length
        self.complete = False
        self.size = 0
        self.moved: Callable[[], None] = lambda: None
        self._channel = channel
        self._continues = continues
        self._early: list[bytes] = []
        self._consumer: IConsumer | None = None
        self._stopped = False
        self._done: Deferred[None] = Deferred()
        channel.hold_body()

    def write(self, data: bytes) -> None:
        """
        A part has arrived.
        """
        self.size += len(data)
        if not data:
            # In chunks, that would be the end.
            return
        if self._consumer is not None:
            self.moved()
            self._consumer.write(data)
        elif not self._stopped:
            self._early.append(data)

    def finish(self) -> None:
        """
        All of it has arrived.
        """
        self.complete = True
        self._channel.let_body_come()
        if self._consumer is not None:
            self._end()

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """
        See L{IBodyProducer}.
        """
        self._consumer = consumer
        early, self._early = b"".join(self._early), []
        if early:
            consumer.write(early)
        if self.complete:
            self._end()
        else:
            if self._continues:
                self._channel.send_continue()
            self._channel.let_body_come()
        return self._done

    def _end(self) -> None:
        self._consumer = None
        self._done.callback(None)

    def pauseProducing(self) -> None:
        """
        See L{IPushProducer<twisted.internet.interfaces.IPushProducer>}.
        """
        if not self.complete:
            self._channel.hold_body()

    def resumeProducing(self) -> None:
        """
        See L{IPushProducer<twisted.internet.interfaces.IPushProducer>}.
        """
        self.moved()
        if not self.complete:
            self._channel.let_body_come()

    def stopProducing(self) -> None:
        """
        Nobody takes the rest.
        """
        self._stopped = True
        self._consumer = None
