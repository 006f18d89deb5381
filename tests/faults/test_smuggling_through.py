"""
What is passed on below C{/authproxy}: whatever a device sends, the server behind gets
whole requests that can be read in one way only, as many as were sent, or none.
"""

from __future__ import annotations

import base64
import re
from typing import Any

from attrs import frozen
from twisted.internet.protocol import Protocol, ServerFactory

from nanomdm.http.proxies import parse_networks
from nanomdm.sim.signing import sign_like_device
from tests.faults.process_case import CERTIFICATE
from tests.faults.test_smuggling import CHUNKED as CHUNKED_HEAD
from tests.faults.test_smuggling import CLOSING, GET, HEAD, HUGE, LAST, NEXT, PLAIN, REFUSED
from tests.http.case import ServerCase, device
from tests.http.raw_client import RawClient
from tests.web import listen

_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) (/[!-~]*) HTTP/1\.1")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+): ?([^\0-\x08\x0a-\x1f\x7f]*)")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")

Headers = list[tuple[bytes, bytes]]


@frozen
class Whole:
    """
    A request that the server behind got.
    """

    method: bytes
    target: bytes
    headers: Headers
    body: bytes

    def values(self, name: bytes) -> list[bytes]:
        return [value for one, value in self.headers if one.lower() == name]


def read(data: bytes) -> Whole | None:
    """
    Read a request as strictly as can be.

    @return: L{None} as long as it is not whole.
    @raise AssertionError: it is wrong, somebody could read it in another way, or there is
        something behind it.
    """
    head, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        return None
    first, *lines = head.split(b"\r\n")
    line = _REQUEST_LINE.fullmatch(first)
    fields = [_FIELD.fullmatch(one) for one in lines]
    assert line is not None and None not in fields, head
    headers = [(field[1], field[2]) for field in fields if field is not None]
    names = [re.sub(rb"[^a-z0-9]", b"-", name.lower()) for name, _ in headers]
    for single in (b"host", b"content-length", b"transfer-encoding", b"x-enrollment-id"):
        assert names.count(single) <= 1, head
    assert names.count(b"host") == names.count(b"x-enrollment-id") == 1, head
    assert not {b"content-length", b"transfer-encoding"} <= set(names), head
    values = {name.lower(): value for name, value in headers}
    body = _body(values, rest)
    return None if body is None else Whole(line[1], line[2], headers, body)


def _body(headers: dict[bytes, bytes], rest: bytes) -> bytes | None:
    if b"transfer-encoding" not in headers:
        length = headers.get(b"content-length", b"0")
        assert length.isdigit() and len(rest) <= int(length), (headers, rest)
        return rest if len(rest) == int(length) else None
    assert headers[b"transfer-encoding"] == b"chunked", headers
    body = b""
    while size := _CHUNK.match(rest):
        rest = rest[size.end() :]
        if not int(size[1], 16):
            assert b"\r\n".startswith(rest), rest
            return body if rest == b"\r\n" else None
        body, rest = body + rest[: int(size[1], 16)], rest[int(size[1], 16) :]
        assert rest[:2] == b"\r\n"[: len(rest)], rest
        rest = rest[2:]
    return None


class Behind(ServerFactory):
    """
    The server behind.

    @ivar whole: the requests that arrived.
    @ivar parts: everything that came over each connection.
    """

    noisy = False

    def __init__(self) -> None:
        self.whole: list[Whole] = []
        self.parts: list[bytes] = []

    def buildProtocol(self, address: object) -> Protocol:
        """
        Each request has its own connection.
        """
        self.parts.append(b"")
        return _Behind(self, len(self.parts) - 1)


class _Behind(Protocol):
    transport: Any

    def __init__(self, server: Behind, number: int) -> None:
        self._server = server
        self._number = number

    def dataReceived(self, data: bytes) -> None:
        parts = self._server.parts
        parts[self._number] += data
        try:
            request = read(parts[self._number])
        except AssertionError as error:
            self.transport.write(b"HTTP/1.1 599 %a\r\nContent-Length: 0\r\n\r\n" % str(error)[:200])
            return
        if request is not None:
            self._server.whole.append(request)
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


class ThroughCase(ServerCase):
    """
    A test case with a server that passes on what it gets, and one that gets that.
    """

    timeout = 60

    async def begin(self) -> None:
        """
        Start both, and let D1 enroll.
        """
        self.behind = Behind()
        url = f"http://127.0.0.1:{listen(self, self.behind)}/base/"
        # The largest body of L{HUGE}.
        self.serve(auth_proxy_url=url, cert_header=CERTIFICATE, max_body_size=1 << 20)
        value = b":" + base64.b64encode(device(1).der) + b":"
        self.proof = CERTIFICATE.encode() + b": " + value + b"\r\n"
        sha256 = device(1).certificate.fingerprint(device(1).certificate.signature_hash_algorithm)
        await self.storage.associate("D1", sha256.hex(), False, 0.0)

    def through(self, request: bytes) -> bytes:
        """
        @return: the same request of a device, below C{/authproxy}.
        """
        addressed = request.replace(b"/slow", b"/authproxy/x", 1)
        line = b"Host: a\r\n" if b"Host: a\r\n" in addressed else b"HTTP/1.0\r\n"
        return addressed.replace(line, line + self.proof, 1)

    async def exchange(self, *requests: bytes) -> list[int]:
        """
        @return: the statuses of all answers.
        """
        self.behind.whole.clear()
        self.behind.parts.clear()
        client = await RawClient.connect(self.port)
        client.transport.write(b"".join(map(self.through, requests)))
        await client.ended
        return [int(status) for status in _STATUS.findall(client.data)]


class SmugglingTests(ThroughCase):
    """
    The requests of L{tests.faults.test_smuggling}.
    """

    async def test_refused(self) -> None:
        """
        The server behind gets none of it, or the beginning of one that never ends.
        """
        await self.begin()
        huge = (CHUNKED_HEAD + size + b"\r\nabc\r\n" + LAST for size in HUGE)
        for request in (*REFUSED, *huge):
            statuses = await self.exchange(request, NEXT)
            self.assertIn(statuses, ([400], [413]), request[:200])
            self.assertEqual(self.behind.whole, [], request[:200])
            for part in self.behind.parts:
                self.assertIsNone(read(part))
                self.assertNotIn(b"hidden", part)

    async def test_plain(self) -> None:
        """
        Each arrives once, with its body.
        """
        await self.begin()
        for request, body in PLAIN:
            if b"Host" not in request:
                continue
            statuses = await self.exchange(request, NEXT)
            self.assertEqual(statuses, [200, 200], request)
            whole = self.behind.whole
            self.assertEqual([one.body for one in whole], [body, b""], request)
            self.assertEqual([one.target for one in whole], [b"/base/x", b"/base/x?next"])

    async def test_closing(self) -> None:
        await self.begin()
        for request in CLOSING:
            statuses = await self.exchange(request, NEXT)
            self.assertEqual((statuses, len(self.behind.whole)), ([200], 1), request)


#: Names that some servers take for others.
CONFUSED = (
    *(b"X_Enrollment_ID", b"X-Enrollment_ID", b"x.enrollment.id", b"X_Enrollment_Type"),
    *(b"X_Trace_ID", b"Mdm_Signature", b"Transfer_Encoding", b"Content_Length", b"Keep_Alive"),
    *(b"Proxy_Authorization", b"Proxy", b"X_Client_Cert", b"TE", b"Te", b"Connection_"),
)

#: What proxies say of their clients.
FORWARDED = (
    *(b"Forwarded", b"X-Forwarded-For", b"X_Forwarded_For", b"X-Forwarded-Host", b"X-Real-IP"),
    *(b"X-Original-URL", b"X-Rewrite-URL", b"X-SSL-Client-Cert", b"SSL-Client-Verify"),
    *(b"Client-Cert", b"Client-Cert-Chain", b"Remote-User", b"X-Remote-User", b"True-Client-IP"),
    *(b"X-ARR-ClientCert", b"X-Amzn-Mtls-Clientcert-Leaf", b"X-TLS-Client-Cert"),
    *(b"WL-Proxy-Client-IP", b"X-Auth-Request-User"),
)

#: What is nobody's but the device's.
OWN = (b"X-App", b"Authorization", b"Client-Id", b"Originals", b"User-Agent", b"Range", b"Cookie")


class NameTests(ThroughCase):
    """
    Headers by which a device would be somebody else to the server behind.
    """

    async def names(self, *names: bytes, method: bytes = b"GET") -> Whole:
        """
        Send headers.

        @return: what arrived.
        """
        lines = b"".join(name + b": spoofed\r\n" for name in names)
        head = GET.replace(b"GET", method) + b"Connection: close\r\n"
        self.assertEqual(await self.exchange(head + lines + b"\r\n"), [200])
        [whole] = self.behind.whole
        self.assertEqual(whole.values(b"x-enrollment-id"), [b"D1"])
        return whole

    def spoofed(self, whole: Whole) -> set[bytes]:
        return {name.lower() for name, value in whole.headers if value == b"spoofed"}

    async def test_confused(self) -> None:
        await self.begin()
        whole = await self.names(*CONFUSED, *OWN)
        self.assertEqual(self.spoofed(whole), {name.lower() for name in (*OWN, b"Connection_")})

    async def test_fromAProxy(self) -> None:
        """
        A server that trusts the proxy in front hears what that says.
        """
        await self.begin()
        whole = await self.names(*FORWARDED, *OWN)
        self.assertEqual(self.spoofed(whole), {name.lower() for name in (*FORWARDED, *OWN)})

    async def test_methods(self) -> None:
        """
        Of any name, and of none that is no name.
        """
        await self.begin()
        for method in (b"PATCH", b"get", b"X", b"M-SEARCH", b"!#$%&'*+-.^_`|~"):
            self.assertEqual((await self.names(method=method)).method, method)
        for method in (b"G{T", b"G(T", b'"GET"', b"G,T", b"G\xffT", b"G\x7fT", b"G/T"):
            statuses = await self.exchange(GET.replace(b"GET", method) + b"\r\n", NEXT)
            self.assertEqual((statuses, self.behind.whole), ([400], []), method)

    async def test_connectionNames(self) -> None:
        """
        A client decides which of its own headers end here, and no others.
        """
        await self.begin()
        lines = b"X-Hop: 1\r\nX_Hop: 2\r\nConnection: X-Hop, Host, X-Enrollment-ID, close\r\n"
        self.assertEqual(await self.exchange(HEAD + lines + b"Content-Length: 1\r\n\r\na"), [200])
        [whole] = self.behind.whole
        self.assertEqual((whole.body, whole.values(b"x-enrollment-id")), (b"a", [b"D1"]))
        self.assertEqual(whole.values(b"x-hop") + whole.values(b"x_hop"), [])


class DirectNameTests(ThroughCase):
    """
    The same without a proxy in front, which here is one that is not trusted.
    """

    async def test_fromADevice(self) -> None:
        """
        What a device says of others reaches nobody.
        """
        self.behind = Behind()
        url = f"http://127.0.0.1:{listen(self, self.behind)}/base/"
        self.serve(auth_proxy_url=url, trusted_proxies=parse_networks("192.0.2.1"))
        await self.enroll()
        lines = {name.decode(): "spoofed" for name in (*FORWARDED, *OWN)}
        lines["Mdm-Signature"] = sign_like_device(device(1), b"").decode()
        answer = await self.request("GET", "/authproxy/x", headers=lines)
        self.assertOK(answer)
        [whole] = self.behind.whole
        spoofed = {name.lower() for name, value in whole.headers if value == b"spoofed"}
        self.assertEqual(spoofed, {name.lower() for name in OWN})
