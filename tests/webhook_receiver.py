"""
A webhook receiver as a process of its own: C{python -m tests.webhook_receiver FILE PORT}.

It notes each event in a file, as a line of JSON that says whose it is and what the
message's C{Number} was, before it answers 200.
"""

from __future__ import annotations

import base64
import json
import os
import plistlib
import re
import sys

from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Receiver(Protocol):
    """
    Reads one request after the other.
    """

    file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def __init__(self) -> None:
        self._data = b""

    def dataReceived(self, data: bytes) -> None:
        """
        Take what is there completely.
        """
        self._data += data
        head, end, rest = self._data.partition(b"\r\n\r\n")
        while end:
            size = int(_LENGTH.search(head)[1])
            if len(rest) < size:
                return
            self._note(rest[:size])
            self._data = rest[size:]
            self.transport.write(_ANSWER)
            head, end, rest = self._data.partition(b"\r\n\r\n")

    def _note(self, body: bytes) -> None:
        details = json.loads(body).get("acknowledge_event")
        if details is not None:
            message = plistlib.loads(base64.b64decode(details["raw_payload"]))
            line = json.dumps([details["ids"]["id"], message["Number"]])
            os.write(self.file, f"{line}\n".encode())


port = reactor.listenTCP(int(sys.argv[2]), Factory.forProtocol(Receiver), interface="127.0.0.1")
print(port.getHost().port, flush=True)
reactor.run()
