"""
How simulated devices of another process hear of their pushes: the simulated APNs
tells everybody who listens on a port of this machine.

The port is in the file C{apns.json} of the directory that both use.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from twisted.application.internet import ClientService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IPushProducer,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from nanomdm.errors import NanoMDMError
from nanomdm.private import replace
from nanomdm.sim.apns import SeenPush

_HOST: Final = "127.0.0.1"

#: Pushes that wait for a listener that does not read; with more it has to connect
#: again.
_WAITING: Final = 100_000


class NoFeed(NanoMDMError):
    """
    There is nobody to hear of pushes from.
    """


def feed_file(directory: Path) -> Path:
    """
    @return: where the port is.
    """
    return directory / "apns.json"


class PushFeed(Factory):
    """
    Tells of pushes, in lines of JSON.

    @param reactor: listens.
    @param directory: where the file is to be.
    """

    noisy = False

    def __init__(self, reactor: Any, directory: Path) -> None:
        self._reactor = reactor
        self._file = feed_file(directory)
        self._listeners: set[_Listener] = set()
        self._port: IListeningPort | None = None

    async def start(self) -> None:
        """
        Listen on any free port, and write the file.
        """
        self._port = port = self._reactor.listenTCP(0, self, interface=_HOST)
        replace(self._file, json.dumps({"feed": port.getHost().port}).encode())

    async def stop(self) -> None:
        """
        Remove the file, and listen no more.
        """
        self._file.unlink(missing_ok=True)
        if self._port is not None:
            await maybeDeferred(self._port.stopListening)
        for listener in list(self._listeners):
            listener.abort()

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        """
        Somebody wants to listen.
        """
        return _Listener(self._listeners)

    def publish(self, push: SeenPush) -> None:
        """
        Tell of a push that APNs took.
        """
        try:
            magic = json.loads(push.payload).get("mdm")
        except (ValueError, AttributeError):
            return
        line = json.dumps({"token": push.token, "magic": magic}).encode() + b"\n"
        for listener in list(self._listeners):
            listener.tell(line)


@implementer(IPushProducer)
class _Listener(Protocol):
    """
    Somebody who listens.

    @param listeners: all of them.
    """

    transport: Any

    def __init__(self, listeners: set[_Listener]) -> None:
        self._listeners = listeners
        self._waiting: list[bytes] = []
        self._paused = False

    def connectionMade(self) -> None:
        self._listeners.add(self)
        self.transport.registerProducer(self, True)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._listeners.discard(self)

    def tell(self, line: bytes) -> None:
        if not self._paused:
            self.transport.write(line)
        elif len(self._waiting) < _WAITING:
            self._waiting.append(line)
        else:
            self.abort()

    def abort(self) -> None:
        self.transport.abortConnection()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        lines, self._waiting = self._waiting, []
        self.transport.writeSequence(lines)

    def stopProducing(self) -> None:
        """
        See L{connectionLost}.
        """


class PushListener:
    """
    Hears of pushes, and connects again whenever that ends.

    @param reactor: connects.
    @param directory: where the file is.
    @param ring: called with the token, in hexadecimal, and the push magic of each push.
    """

    def __init__(self, reactor: Any, directory: Path, ring: Callable[[str, str], None]) -> None:
        self._reactor = reactor
        self._directory = directory
        self._ring = ring
        self._service: ClientService | None = None

    async def start(self) -> None:
        """
        Listen.

        @raise NoFeed: there is no simulated APNs in the directory.
        """
        endpoint = _FeedEndpoint(self._reactor, self._directory)
        factory = Factory.forProtocol(lambda: _Lines(self._ring))
        factory.noisy = False
        service = ClientService(endpoint, factory, clock=self._reactor)
        service.startService()
        try:
            await service.whenConnected(failAfterFailures=1)
        except Exception:
            # The service is in the middle of telling so.
            await deferLater(self._reactor, 0)
            await maybeDeferred(service.stopService)
            raise NoFeed(f"{self._directory}: no simulated APNs runs there") from None
        self._service = service

    async def stop(self) -> None:
        """
        Listen no more.
        """
        service, self._service = self._service, None
        if service is not None:
            await maybeDeferred(service.stopService)


@implementer(IStreamClientEndpoint)
class _FeedEndpoint:
    """
    Leads to the port that the file says: a simulated APNs that was started again has
    another one.
    """

    def __init__(self, reactor: Any, directory: Path) -> None:
        self._reactor = reactor
        self._directory = directory

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        return maybeDeferred(self._endpoint).addCallback(
            lambda endpoint: endpoint.connect(protocolFactory)
        )

    def _endpoint(self) -> TCP4ClientEndpoint:
        port = json.loads(feed_file(self._directory).read_bytes())["feed"]
        return TCP4ClientEndpoint(self._reactor, _HOST, port, timeout=5)


class _Lines(LineOnlyReceiver):
    """
    The listening side.
    """

    delimiter = b"\n"

    def __init__(self, ring: Callable[[str, str], None]) -> None:
        self._ring = ring

    def lineReceived(self, line: bytes) -> None:
        push = json.loads(line)
        self._ring(push["token"], push["magic"])
