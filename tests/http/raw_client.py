"""
An HTTP client that shows every byte and can stop reading.
"""

from __future__ import annotations

from typing import Any

from attrs import frozen
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure


@frozen
class Received:
    """
    What came over a connection.

    @ivar status: the status line.
    @ivar headers: names in lower case and values.
    @ivar body: all behind the headers, chunks and all.
    @ivar clean: the connection was closed, not reset.
    """

    status: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    clean: bool

    @property
    def code(self) -> int:
        """
        The HTTP status.
        """
        return int(self.status.split(b" ")[1])

    def values(self, name: bytes) -> list[bytes]:
        """
        The values of a header.
        """
        return [value for one, value in self.headers if one == name.lower()]

    @property
    def dechunked(self) -> bytes:
        """
        The body without its chunks, of which the last one must be there.
        """
        body, rest = b"", self.body
        while True:
            size, _, rest = rest.partition(b"\r\n")
            length = int(size, 16)
            if not length:
                assert rest == b"\r\n", rest
                return body
            body, rest = body + rest[:length], rest[length + 2 :]


class RawClient(Protocol):
    """
    @ivar data: what came, unless L{keep} is switched off.
    @ivar size: how much came.
    @ivar keep: collect it.
    @ivar ended: fires with all of it when the connection has ended.
    """

    transport: Any

    def __init__(self) -> None:
        self.data = b""
        self.size = 0
        self.keep = True
        self.ended: Deferred[Received] = Deferred()
        self._awaited: tuple[int, Deferred[None]] | None = None

    @classmethod
    def connect(cls, port: int) -> Deferred[RawClient]:
        """
        Connect to a port on this machine.
        """
        return connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), cls())

    def dataReceived(self, data: bytes) -> None:
        self.size += len(data)
        if self.keep:
            self.data += data
        if self._awaited is not None and self.size >= self._awaited[0]:
            (_, arrived), self._awaited = self._awaited, None
            arrived.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        head, _, body = self.data.partition(b"\r\n\r\n")
        status, *lines = head.split(b"\r\n")
        headers = [line.partition(b":") for line in lines]
        named = [(name.lower(), value.strip()) for name, _, value in headers]
        clean = reason.check(ConnectionDone) is not None
        self.ended.callback(Received(status, named, body, clean))

    def arrived(self, size: int) -> Deferred[None]:
        """
        @return: fires when there are so many bytes.
        """
        arrived: Deferred[None] = Deferred()
        if self.size >= size:
            arrived.callback(None)
        else:
            self._awaited = (size, arrived)
        return arrived

    def pause(self) -> None:
        """
        Read nothing more.
        """
        self.transport.pauseProducing()

    def resume(self) -> None:
        """
        Read again.
        """
        self.transport.resumeProducing()

    def abort(self) -> None:
        """
        Go away.
        """
        self.transport.abortConnection()
