"""
Requests that a proxy in front may read in another way than the server: where they end,
whom they are for, how many there are.

Each is refused with a 400 and the end of its connection, or there is one way only to
read it.  What else is refused before a resource sees it, is in
L{tests.http.test_parsing}.
"""

from __future__ import annotations

import re

from nanomdm.http.endpoint import Endpoint, Folder
from nanomdm.http.request import Request
from nanomdm.http.response import Response
from tests.http.case import ClientCase
from tests.http.memory import SiteCase
from tests.http.raw_client import RawClient, Received

HEAD = b"PUT /slow HTTP/1.1\r\nHost: a\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
GET = b"GET /slow HTTP/1.1\r\nHost: a\r\n"
LAST = b"0\r\n\r\n"

#: What follows each request: whether it is seen tells where that ended.
NEXT = b"GET /slow?next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

#: Behind a body's framing, the request line and headers of a request that is hidden.
HIDDEN = b"GET /slow?hidden HTTP/1.1\r\nHost: a\r\n\r\n"

LENGTHS = (
    HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n" + LAST,
    HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + LAST,
    HEAD + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    HEAD + b"Content-Length: 0\r\ncontent-length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    HEAD + b"Content-Length: 3, 3\r\n\r\nabc",
    HEAD + b"Content-Length:\r\n\r\n",
    HEAD + b"Content-Length: 3,\r\n\r\nabc",
    HEAD + b"Content-Length: ,3\r\n\r\nabc",
    HEAD + b"Content-Length: 3;q=1\r\n\r\nabc",
    HEAD + b"Content-Length: 3\x0c\r\n\r\nabc",
    HEAD + b"Content-Length: 3\xa0\r\n\r\nabc",
    HEAD + b'Content-Length: "3"\r\n\r\nabc',
    HEAD + b"Content-Length: +3\r\n\r\nabc",
    HEAD + b"Content-Length: -3\r\n\r\nabc",
    HEAD + b"Content-Length: 0x3\r\n\r\nabc",
    HEAD + b"Content-Length: 1_0\r\n\r\n0123456789",
    HEAD + b"Content-Length: 3.0\r\n\r\nabc",
    HEAD + b"Content-Length: 3 3\r\n\r\nabc",
    HEAD + b"Content-Length: \x0b3\r\n\r\nabc",
    HEAD + b"Content-Length: \xb3\r\n\r\nabc",
    # The same as 3, where 64 bits are all that is looked at.
    HEAD + b"Content-Length: 18446744073709551619\r\n\r\nabc",
    # More digits than Python makes a number of.
    HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nabc",
    HEAD + b"Content-Length : 3\r\n\r\nabc",
    HEAD + b"Content-Length: 1\r\n 0\r\n\r\n0123456789",
    HEAD + b"Content-Length:\r\n\t3\r\n\r\nabc",
)

ENCODINGS = (
    HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + LAST,
    HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + LAST,
    HEAD + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n" + LAST,
    HEAD + b"Transfer-Encoding: identity\r\nContent-Length: 3\r\n\r\nabc",
    HEAD + b"Content-Length: 3\r\nTransfer-Encoding: identity\r\n\r\nabc",
    HEAD + b"Transfer-Encoding: identity\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n" + LAST,
    HEAD + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + LAST,
    HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + LAST,
    HEAD + b"Transfer-Encoding: chunked;q=1\r\n\r\n" + LAST,
    HEAD + b"Transfer-Encoding: chunked,\r\n\r\n" + LAST,
    HEAD + b"Transfer-Encoding: ,chunked\r\n\r\n" + LAST,
    HEAD + b"Transfer-Encoding: chunked identity\r\n\r\n" + LAST,
    HEAD + b"Transfer-Encoding: chunked\x0b\r\n\r\n" + LAST,
    HEAD + b"Transfer-Encoding: \xa0chunked\r\n\r\n" + LAST,
    HEAD + b"Transfer-Encoding: chun\xc3\xb1ked\r\n\r\n" + LAST,
    HEAD + b"Transfer-Encoding: chunKed\0\r\n\r\n" + LAST,
    HEAD + b"Transfer-Encoding\x0b: chunked\r\n\r\n" + LAST,
    HEAD + b"\x00Transfer-Encoding: chunked\r\n\r\n" + LAST,
    HEAD + b"Transfer-Encoding: xchunked\r\n\r\n" + LAST,
    HEAD + b"Transfer-Encoding: chunkedx\r\n\r\n" + LAST,
    HEAD + b'Transfer-Encoding: "chunked"\r\n\r\n' + LAST,
    HEAD + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + LAST,
    HEAD + b"Transfer-Encoding:\r\n\r\n" + LAST,
    HEAD + b"Transfer-Encoding : chunked\r\n\r\n" + LAST,
    HEAD + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + LAST,
    HEAD + b"Transfer-Encoding: chunked\r\n \r\n\r\n" + LAST,
    b"PUT /slow HTTP/1.1\r\n Transfer-Encoding: chunked\r\nHost: a\r\n\r\n" + LAST,
)

CHUNKS = tuple(
    CHUNKED + body
    for body in (
        b"3\nabc\n0\n\n",
        b"3\r\nabc\n0\r\n\r\n",
        b"3\r\nabc0\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"3;a\nb\r\nabc\r\n0\r\n\r\n",
        b"3;a\rb\r\nabc\r\n0\r\n\r\n",
        b"3;a\0b\r\nabc\r\n0\r\n\r\n",
        b'3;a="\r\n"\r\nabc\r\n0\r\n\r\n',
        b"3\r\n\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabc\r\n\r\n0\r\n\r\n",
        b"3\r\nabc\r\n0x0\r\n\r\n",
        b"3\r\nabc\r\n0 ;a\r\n\r\n",
        b"\xb3\r\nabc\r\n0\r\n\r\n",
        b"3 \r\nabc\r\n0\r\n\r\n",
        b" 3\r\nabc\r\n0\r\n\r\n",
        b"-3\r\nabc\r\n0\r\n\r\n",
        b"+3\r\nabc\r\n0\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"0_3\r\nabc\r\n0\r\n\r\n",
        b"g\r\nabc\r\n0\r\n\r\n",
        b"\r\nabc\r\n0\r\n\r\n",
        b";a=b\r\nabc\r\n0\r\n\r\n",
        b"0" * 2000 + b"3\r\nabc\r\n0\r\n\r\n",
        # To whom a line feed ends a line, the body ends here.
        b"0\r\n\n" + HIDDEN,
        b"0\r\nX: y\n\r\n" + HIDDEN,
        b"0\r\nX: y\rz\r\n\r\n",
        b"0\r\nX: \0\r\n\r\n",
        b"0\r\nX : y\r\n\r\n",
        b"0\r\nX: y\r\n z\r\n\r\n",
        b"0\r\n" + HIDDEN,
    )
)

LINES = (
    b"PUT /slow HTTP/1.1\nHost: a\n\n\r\n",
    b"GET /slow\rHTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /slow HTTP/1.1\r\nHost: a\nContent-Length: 3\r\n\r\n",
    HEAD + b"X: y\nContent-Length: 3\r\n\r\n",
    HEAD + b"X: y\rContent-Length: 3\r\n\r\n",
    HEAD + b"X: y\r\n\n\r\n",
    HEAD + b"X: a\0b\r\n\r\n",
    HEAD + b"X\0: a\r\n\r\n",
    HEAD + b"X Y: a\r\n\r\n",
    HEAD + b"X\t: a\r\n\r\n",
    HEAD + b"\xff: a\r\n\r\n",
    HEAD + b": a\r\n\r\n",
    HEAD + b"nothing\r\n\r\n",
    GET + b"Host: a\r\n\r\n",
    GET + b"host: b\r\n\r\n",
    b"GET /slow HTTP/1.1\r\nHost:\r\n a\r\n\r\n",
    b"GET /slow HTTP/1.1\r\n Host: a\r\n\r\n",
    b"GET  /slow HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /slow  HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /slow HTTP/1.1 \r\nHost: a\r\n\r\n",
    b" GET /slow HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET\t/slow\tHTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /slow\x0b HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /slow\0 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET\0 /slow HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\r\n\r\nGET /slow HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /slow\r\n\r\n",
    b"GET slow HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http:/slow HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET ftp://a/slow HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http:///slow HTTP/1.1\r\nHost: a\r\n\r\n",
    b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /slow HTTP/1.1\x0b\r\nHost: a\r\n\r\n",
    b"GET /slow HTTP/1.01\r\nHost: a\r\n\r\n",
    b"GET /slow HTTP/+1.1\r\nHost: a\r\n\r\n",
    b"GET /slow HTTP/\xb1.1\r\nHost: a\r\n\r\n",
    b"GET /slow\xc2\xa0HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /slow HTTP/0.9\r\nHost: a\r\n\r\n",
    b"GET /slow HTTP/1.2\r\nHost: a\r\n\r\n",
    b"GET /slow HTTP/2.0\r\nHost: a\r\n\r\n",
    b"GET /slow HTTP/11\r\nHost: a\r\n\r\n",
    b"GET /slow http/1.1\r\nHost: a\r\n\r\n",
    b"GET /slow Http/1.1\r\nHost: a\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)

#: Chunks that no body may have, however much of them comes.
HUGE = (b"F" * 100, b"10000000000000003", b"100000003", b"FFFFFFFFFFFFFFFF", b"110000;a=b")

#: What can be read in one way only, and the bodies.
PLAIN = (
    (HEAD + b"Content-Length: 3\r\n\r\nabc", b"abc"),
    (HEAD + b"Content-Length:3 \t\r\n\r\nabc", b"abc"),
    (HEAD + b"Content-Length: 0003\r\n\r\nabc", b"abc"),
    # With another name, it is another header.
    (HEAD + b"Content_Length: 3\r\nTransfer_Encoding: chunked\r\n\r\n", b""),
    (HEAD + b"X: y\r\n Content-Length: 3\r\n\r\n", b""),
    (HEAD + b"X: y\r\n\tTransfer-Encoding: chunked\r\n\r\n", b""),
    (CHUNKED + b"3\r\nabc\r\n" + LAST, b"abc"),
    (CHUNKED + b"03\r\nabc\r\n000\r\n\r\n", b"abc"),
    (CHUNKED + b'A;a=b;c="d e"\r\n0123456789\r\n0;x\r\n\r\n', b"0123456789"),
    (HEAD + b"transfer-encoding: \tCHUNKED\r\n\r\n1\r\na\r\n" + LAST, b"a"),
    # Trailers are for nobody here.
    (CHUNKED + b"1\r\na\r\n0\r\nContent-Length: 99\r\nTransfer-Encoding: x\r\n\r\n", b"a"),
    (b"\r\n" + HEAD + b"\r\n", b""),
    # The whole server is one host.
    (b"GET http://other/slow HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    (b"GET /slow HTTP/1.1\r\n\r\n", b""),
    # What looks like a request, in a body.
    (GET + b"Content-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN, HIDDEN),
    (CHUNKED + b"%x\r\n" % len(HIDDEN) + HIDDEN + b"\r\n" + LAST, HIDDEN),
    # Nothing is upgraded.
    (GET + b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n", b""),
)

#: The client says that nothing follows.
CLOSING = (
    GET + b"Connection: close\r\n\r\n",
    GET + b"Connection: CLOSE , x\r\n\r\n",
    GET + b"Connection: x,close\r\n\r\n",
    GET + b"Connection: x\r\nConnection: close\r\n\r\n",
    b"GET /slow HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"PUT /slow HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n" + LAST,
)

REFUSED = (*LENGTHS, *ENCODINGS, *CHUNKS, *LINES)

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")


class Noting(Endpoint):
    """
    @ivar seen: queries and bodies of what it was asked.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bytes, bytes]] = []

    async def respond(self, request: Request) -> Response:
        """
        Answer anything.
        """
        self.seen.append((request.uri.partition(b"?")[2], request.body))
        return Response(200, b"fine")


class SocketTests(ClientCase):
    """
    Over real connections.
    """

    def setUp(self) -> None:
        self.endpoint = Noting()
        root = Folder()
        root.putChild(b"slow", self.endpoint)
        self.listen(root)

    async def exchange(self, request: bytes) -> tuple[list[int], Received]:
        """
        Send a request and L{NEXT} at once.

        @return: the statuses of all answers, and the first answer.
        """
        self.endpoint.seen.clear()
        client = await RawClient.connect(self.port)
        client.transport.write(request + NEXT)
        received = await client.ended
        return [int(status) for status in _STATUS.findall(client.data)], received

    async def test_refused(self) -> None:
        """
        Nothing behind it is answered, as nobody knows where that begins.
        """
        for request in REFUSED:
            statuses, received = await self.exchange(request)
            self.assertEqual((statuses, self.endpoint.seen), ([400], []), request[:200])
            self.assertEqual(received.values(b"Connection"), [b"close"])
            self.assertEqual(received.body, b"Bad Request\n")

    async def test_hugeChunks(self) -> None:
        """
        They are refused by their size, before they come.
        """
        for size in HUGE:
            request = CHUNKED + size + b"\r\nabc\r\n" + LAST
            statuses, received = await self.exchange(request)
            self.assertEqual((statuses, self.endpoint.seen), ([413], []), request)
            self.assertEqual(received.values(b"Connection"), [b"close"])

    async def test_plain(self) -> None:
        for request, body in PLAIN:
            statuses, _ = await self.exchange(request)
            self.assertEqual(statuses, [200, 200], request)
            self.assertEqual(self.endpoint.seen, [(b"", body), (b"next", b"")], request)

    async def test_closing(self) -> None:
        """
        What comes nevertheless, is not answered.
        """
        for request in CLOSING:
            statuses, _ = await self.exchange(request)
            self.assertEqual((statuses, len(self.endpoint.seen)), ([200], 1), request)


class SplitTests(SiteCase):
    """
    However it arrives.
    """

    max_body_size = 100

    def setUp(self) -> None:
        super().setUp()
        self.endpoint = Noting()
        self.site.resource.putChild(b"slow", self.endpoint)

    def test_refused(self) -> None:
        for request in REFUSED:
            data = request + NEXT
            for cut in range(1, min(len(request), 200)):
                transport = self.connect()
                answer = self.send(transport, data[:cut], data[cut:])
                self.assertRefused(answer, 400, b"Bad Request")
                transport.closed()
        self.assertEqual(self.endpoint.seen, [])
        self.assertClean()

    def test_hugeChunks(self) -> None:
        for size in HUGE:
            data = CHUNKED + size + b"\r\nabc"
            for cut in range(1, len(data)):
                transport = self.connect()
                answer = self.send(transport, data[:cut], data[cut:])
                self.assertRefused(answer, 413, b"Request Entity Too Large")
                transport.closed()
        self.assertEqual(self.endpoint.seen, [])

    def test_plain(self) -> None:
        for request, body in PLAIN:
            data = request + NEXT
            for cut in range(1, len(data)):
                self.endpoint.seen.clear()
                self.send(self.connect(), data[:cut], data[cut:])
                self.assertEqual(self.endpoint.seen, [(b"", body), (b"next", b"")], (request, cut))
