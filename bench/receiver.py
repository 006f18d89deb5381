"""
A webhook receiver that does as little as it can, on a free port: answers 200, or never
with C{mute}.
"""

from __future__ import annotations

import re
import sys

from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol

LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
MUTE = sys.argv[1:] == ["mute"]


class Receiver(Protocol):
    """
    Reads one request after the other.
    """

    def __init__(self) -> None:
        self._head = b""
        self._left = 0

    def dataReceived(self, data: bytes) -> None:
        """
        Count the bytes of bodies only.
        """
        while data and not MUTE:
            if not self._left:
                head, end, data = (self._head + data).partition(b"\r\n\r\n")
                self._head = b"" if end else head
                if not end:
                    return
                match = LENGTH.search(head)
                self._left = int(match[1]) if match else 0
            taken = min(self._left, len(data))
            self._left -= taken
            data = data[taken:]
            if not self._left:
                self.transport.write(ANSWER)


port = reactor.listenTCP(0, Factory.forProtocol(Receiver), interface="127.0.0.1")
print(port.getHost().port, flush=True)
reactor.run()
