"""
A client's kept connection over which one request after the other goes.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class Lost(Exception):
    """
    The connection ended before the answer was there.
    """


class Reply(NamedTuple):
    """
    What was answered: the HTTP status, the head with all headers, and the body.
    """

    code: int
    head: bytes
    body: bytes


class Line(Protocol):
    """
    @ivar lost: nothing goes over it any more.
    """

    def __init__(self) -> None:
        self._data = b""
        self._answer: Deferred[Reply] | None = None
        self.lost = False

    @classmethod
    def connect(cls, port: int) -> Deferred[Line]:
        """
        Connect to a port on this machine.
        """
        return connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), cls())

    def ask(self, request: bytes) -> Deferred[Reply]:
        """
        @param request: all of it.
        @return: fires with the answer, or fails with L{Lost}.
        """
        answer = self._answer = Deferred()
        if self.lost:
            self._fail()
        else:
            self.transport.write(request)
        return answer

    def hang_up(self) -> None:
        """
        Close the connection.
        """
        self.lost = True
        self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        if not end:
            return
        length = _LENGTH.search(head + b"\r\n")
        assert length is not None, head
        if len(body) == int(length[1]):
            self._data = b""
            self.lost = b"\r\nconnection: close" in head.lower()
            answer, self._answer = self._answer, None
            assert answer is not None, head
            answer.callback(Reply(int(head.split(b" ", 2)[1]), head, body))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True
        self._fail()

    def _fail(self) -> None:
        if self._answer is not None:
            answer, self._answer = self._answer, None
            answer.errback(Lost())


def put(path: str, body: bytes, headers: list[tuple[str, str]], method: str = "PUT") -> bytes:
    """
    @return: a request for L{Line.ask}.
    """
    own = [("Host", "mdm.example.com"), ("Content-Length", str(len(body)))]
    lines = "".join(f"{name}: {value}\r\n" for name, value in [*own, *headers])
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body
