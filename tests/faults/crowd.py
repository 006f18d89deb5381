"""
Clients by the thousand, over plain sockets, and a look at what they do to a process.

Everything here blocks and belongs into a thread.
"""

from __future__ import annotations

import os
import selectors
import socket
import ssl
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from attrs import frozen

# Each address of a client has so many ports, and some are still in use by connections
# that have ended.
_PER_ADDRESS = 10_000
# Choose the port when connecting, when more are free.  Python knows it from 3.12 on.
_BIND_ADDRESS_NO_PORT = 24
# A socket that is closed while it is being repaired says nothing to its other end.
_REPAIR = 19
_TICK = os.sysconf("SC_CLK_TCK")


@frozen
class Usage:
    """
    What a process takes.

    @ivar memory: resident bytes.
    @ivar files: that are open.
    @ivar seconds: of processor time so far.
    """

    memory: int
    files: int
    seconds: float


def usage(pid: int) -> Usage:
    """
    @return: what a process takes at this moment.
    """
    process = Path(f"/proc/{pid}")
    resident = int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    # Behind the name, which may have blanks.
    numbers = (process / "stat").read_text().rpartition(")")[2].split()
    seconds = (int(numbers[11]) + int(numbers[12])) / _TICK
    return Usage(resident, len(os.listdir(process / "fd")), seconds)


def connect(port: int, count: int, first: int = 0) -> list[socket.socket]:
    """
    Open connections.

    @param first: how many there are already, whose ports are taken.
    """
    return [_connected(port, number) for number in range(first, first + count)]


def _connected(port: int, number: int) -> socket.socket:
    one = socket.socket()
    one.settimeout(30)
    one.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
    one.bind((f"127.0.{1 + number // _PER_ADDRESS}.1", 0))
    one.connect(("127.0.0.1", port))
    return one


def secured(one: socket.socket, context: ssl.SSLContext) -> socket.socket:
    """
    Shake hands.
    """
    return context.wrap_socket(one, server_hostname="localhost")


def vanish(sockets: Iterable[socket.socket]) -> None:
    """
    Be gone without a word, as a machine that loses its power.  Where the system does not
    allow that, there is only silence.
    """
    for one in sockets:
        with suppress(PermissionError):
            one.setsockopt(socket.IPPROTO_TCP, _REPAIR, 1)
            one.close()


def trickle(
    sockets: Sequence[socket.socket], texts: Sequence[bytes], pause: float, seconds: float
) -> list[Reply]:
    """
    Send one byte on each connection, again and again, until the server has ended all.

    @param texts: what to send on each, none of them to its end.
    @param pause: seconds between two bytes.
    @param seconds: after which it is too late for the server.
    """
    told = dict.fromkeys(sockets, Reply(b"", "open"))
    deadline = time.monotonic() + seconds
    for position in range(min(map(len, texts)) - 1):
        for one, text in zip(sockets, texts, strict=True):
            if told[one].ending == "open":
                told[one] = _one_more(one, told[one].data, text[position : position + 1])
        left = any(reply.ending == "open" for reply in told.values())
        if not left or time.monotonic() > deadline:
            break
        time.sleep(pause)
    return list(told.values())


def _one_more(one: socket.socket, data: bytes, byte: bytes) -> Reply:
    one.setblocking(False)
    with suppress(BlockingIOError):
        part, ending = _part(one)
        return Reply(data + part, ending)
    with suppress(ConnectionError):
        one.send(byte)
    return Reply(data, "open")


def close(sockets: Iterable[socket.socket]) -> None:
    """
    Go away.
    """
    for one in sockets:
        one.close()


@frozen
class Reply:
    """
    What the server said to one client.

    @ivar data: all of it.
    @ivar ending: how the connection ended: C{closed}, C{reset}, or C{open} if it did not.
    """

    data: bytes
    ending: str

    @property
    def code(self) -> int:
        """
        The HTTP status; 0 without an answer.
        """
        return int(self.data[9:12]) if self.data.startswith(b"HTTP/1.1 ") else 0

    def has(self, header: bytes) -> bool:
        """
        Whether there is a line of the head.
        """
        return header in self.data.partition(b"\r\n\r\n")[0].split(b"\r\n")


def codes(replies: Iterable[Reply]) -> dict[int, int]:
    """
    @return: how often each status is there.
    """
    return dict(Counter(reply.code for reply in replies))


def replies(
    sockets: Sequence[socket.socket],
    seconds: float,
    whole: bool = False,
    enough: int | None = None,
) -> list[Reply]:
    """
    Read until each connection has ended.

    @param seconds: for all of it.
    @param whole: one whole answer from each connection is enough; it has a length.
    @param enough: so many connections that have ended are enough.
    """
    most = 0 if enough is None else len(sockets) - enough
    data: dict[socket.socket, bytes] = dict.fromkeys(sockets, b"")
    endings = dict.fromkeys(sockets, "open")
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for one in sockets:
            one.setblocking(False)
            selector.register(one, selectors.EVENT_READ)
        while len(selector.get_map()) > most and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                one = key.fileobj
                assert isinstance(one, socket.socket)
                part, ending = _part(one)
                data[one] += part
                if ending != "open" or (whole and _is_whole(data[one])):
                    endings[one] = ending
                    selector.unregister(one)
    return [Reply(data[one], endings[one]) for one in sockets]


def _part(one: socket.socket) -> tuple[bytes, str]:
    try:
        part = one.recv(1 << 16)
    except ssl.SSLWantReadError:
        return b"", "open"
    except ConnectionError:
        return b"", "reset"
    return part, "open" if part else "closed"


def _is_whole(data: bytes) -> bool:
    head, separator, body = data.partition(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return bool(separator) and len(body) >= int(length or 0)


def ask(sockets: Sequence[socket.socket], requests: Sequence[bytes], seconds: float) -> list[Reply]:
    """
    Send one request on each connection, which stays open.

    @return: the answers.
    """
    for one, request in zip(sockets, requests, strict=True):
        one.setblocking(True)
        one.sendall(request)
    return replies(sockets, seconds, whole=True)


def ask_anew(
    port: int, requests: Sequence[bytes], seconds: float, context: ssl.SSLContext | None = None
) -> list[Reply]:
    """
    Send requests at once, each on a connection of its own.

    @param context: speak TLS.
    """
    sockets: list[socket.socket] = []
    try:
        for _ in requests:
            [one] = connect(port, 1)
            sockets.append(one if context is None else secured(one, context))
        return ask(sockets, requests, seconds)
    finally:
        close(sockets)
