"""
C{/authproxy}: passes requests of enrolled devices on to another server.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

from attrs import frozen
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer

from nanomdm.errors import (
    AssociationRefused,
    MessageError,
    NanoMDMError,
    OutboundError,
    Overloaded,
)
from nanomdm.forwarding import Exchange, Head, WholeBody, canonical, end_to_end
from nanomdm.http.endpoint import Endpoint
from nanomdm.http.identity import IdentitySource, sender
from nanomdm.http.proxies import Networks
from nanomdm.http.request import Request
from nanomdm.http.response import Response, Stream, text
from nanomdm.outbound import OutboundClient
from nanomdm.service.association import CertificateAssociation

MAX_RUNNING: Final = 500
"""
Requests that are passed on at the same time.
"""

#: What a path and a query consist of (RFC 3986 section 3.3), and what clients leave as
#: it is.  A "#" would end both.
_TARGET: Final = re.compile(rb"[!\"$-~]{1,65536}")

#: How often a part of a path may be encoded, one time in the other.
_ENCODINGS: Final = 3

_SEPARATOR: Final = re.compile(rb"[/\\]")

#: What the server must not take from a device: what this proxy says itself, and what
#: tells a declarative management server who asks.
_OWN: Final = (
    *(b"Host", b"Expect", b"Mdm-Signature", b"X-Trace-ID"),
    *(b"X-Enrollment-ID", b"X-Enrollment-Type", b"X-Enrollment-ParentID"),
)

#: By what proxies tell of their clients, after L{canonical}: the addresses (RFC 7239 and
#: what was before it), what was asked for, certificates (RFC 9440) and users.
_OF_PROXIES: Final = re.compile(
    rb"(?:x-)?(?:forwarded(?:-.*)?|(?:ssl|tls|remote)-.*|client-(?:ip|cert|verify)(?:-.*)?)"
    rb"|x-(?:original|rewrite|real|arr|auth-request|amzn-mtls)-.*|wl-proxy-.*"
    rb"|x-cluster-client-ip|true-client-ip|cf-connecting-ip"
)

#: A tunnel has no end that could be told (RFC 9110 section 9.3.6); the other shows what
#: this proxy adds (section 9.3.8).
_NOT_PASSED: Final = (b"CONNECT", b"TRACE")

_UNAUTHORIZED: Final = text(400, "Unauthorized")
_BAD_GATEWAY: Final = Response(502)
# Nobody gets it.  The log shows the status that others have made known for this.
_CLIENT_GONE: Final = Response(499)


class AuthProxyEndpoint(Endpoint):
    """
    Passes C{/authproxy/<rest>?<query>} on to C{<url>/<rest>?<query>} for devices whose
    certificate is associated with an enrollment, and their answers back.

    Neither path nor query nor bodies are changed.  The server is told the enrollment in
    C{X-Enrollment-ID} and the request in C{X-Trace-ID}, and gets nothing by which it
    could pass for the device.  What C{X-Forwarded-For} and the like say is passed on from
    proxies in front only.

    @param identities: finds out who sent a request.
    @param association: knows which enrollment that is.
    @param http: connects to the server.
    @param url: the server's, with a slash at its end and no query.
    @param proxies: who may say for whom it speaks.
    @param cert_header: the header in which a TLS proxy tells the certificate, if any.
    @param limit: how many requests are passed on at the same time.
    """

    isLeaf = True
    route = "/authproxy"

    def __init__(
        self,
        identities: IdentitySource,
        association: CertificateAssociation,
        http: OutboundClient,
        url: str,
        proxies: Networks,
        cert_header: str | None = None,
        limit: int = MAX_RUNNING,
    ) -> None:
        super().__init__()
        self.streams_bodies = not identities.needs_body
        self._identities = identities
        self._association = association
        self._http = http
        self._url = url
        self._host = urlsplit(url).netloc.encode("ascii")
        self._base = urlsplit(url).path.encode("ascii")
        certificate = (cert_header or "Mdm-Signature").encode("ascii")
        self._own = {canonical(name) for name in (*_OWN, certificate)}
        self._proxies = proxies
        self._limit = limit
        self._running = 0

    async def _handle(self, request: Request) -> None:
        self._running += 1
        try:
            await super()._handle(request)
        finally:
            self._running -= 1

    async def respond(self, request: Request) -> Response | Stream:
        """
        Identity first, then the server's head.
        """
        if self._running > self._limit:
            raise Overloaded("too many requests are passed on at the same time")
        if request.method in _NOT_PASSED:
            raise MessageError("this method is not passed on")
        identity = await self._identities.identify(request)
        enrollment_id = await self._association.enrollment_of(identity)
        request.notes["id"] = enrollment_id
        target = self._target(request.uri)
        if request.gone:
            return _CLIENT_GONE
        exchange = Exchange(self._http.way(self._url), self._http.clock)
        request.notifyFinish().addErrback(_client_gone, exchange)
        headers = self._headers(request, enrollment_id)
        try:
            head = await exchange.send(request.method, target, headers, _body(request, exchange))
        except OutboundError:
            if request.gone:
                return _CLIENT_GONE
            raise
        return _Passed(exchange, head)

    def refusal(self, error: NanoMDMError) -> Response:
        """
        Tell devices that are not enrolled, and a server that does not answer.
        """
        if isinstance(error, AssociationRefused):
            return _UNAUTHORIZED
        if isinstance(error, OutboundError):
            return _BAD_GATEWAY
        return super().refusal(error)

    def _target(self, uri: bytes) -> bytes:
        """
        @return: what the server is asked for.
        @raise MessageError: that would not be below its URL, or is no URL.
        """
        path, mark, query = uri.partition(b"?")
        _, _, rest = path[1:].partition(b"/")
        target = self._base + rest + mark + query
        if not _TARGET.fullmatch(target):
            raise MessageError("the path or the query is too long or no part of a URL")
        if _climbs(rest):
            raise MessageError("the path leads upwards")
        return target

    def _headers(self, request: Request, enrollment_id: str) -> Headers:
        given = request.requestHeaders
        headers = end_to_end(given, given.getRawHeaders(b"Connection", []))
        is_proxy = self._proxies.has_peer(sender(request))
        for name, _ in list(headers.getAllRawHeaders()):
            common = canonical(name)
            if common in self._own or (not is_proxy and _OF_PROXIES.fullmatch(common)):
                headers.removeHeader(name)
        headers.setRawHeaders(b"Host", [self._host])
        headers.setRawHeaders(b"X-Enrollment-ID", [enrollment_id.encode()])
        headers.setRawHeaders(b"X-Trace-ID", [request.trace_id.encode()])
        return headers


@frozen
class _Passed(Stream):
    """
    The server's response.
    """

    _exchange: Exchange
    _head: Head

    @property
    def code(self) -> int:
        return self._head.code

    async def deliver(self, request: Request) -> None:
        if request.gone:
            return
        self._write_head(request)
        try:
            await self._exchange.receive(request)
        except OutboundError as error:
            request.notes["error"] = str(error)
            request.abort()
        else:
            if not request.gone:
                request.finish()
        finally:
            request.notes["bytes"] = self._exchange.received

    def _write_head(self, request: Request) -> None:
        request.setResponseCode(self._head.code)
        for name, values in self._head.headers.getAllRawHeaders():
            request.responseHeaders.setRawHeaders(name, values)
        request.defaultContentType = None
        if self._head.length is not None:
            request.setHeader(b"Content-Length", b"%d" % self._head.length)
        if request.is_last:
            request.setHeader(b"Connection", b"close")
        request.write(b"")


def _body(request: Request, exchange: Exchange) -> IBodyProducer | None:
    if request.upload is not None:
        request.upload.moved = exchange.moved
        return request.upload
    return WholeBody(request.body, exchange.moved) if request.body else None


def _climbs(path: bytes) -> bool:
    """
    @return: whether there is a C{..} in it that some server understands as such.
    """
    for _ in range(_ENCODINGS):
        path = unquote_to_bytes(path)
    # What follows a semicolon is a parameter of the part, to some.
    return any(part.partition(b";")[0] == b".." for part in _SEPARATOR.split(path))


def _client_gone(failure: object, exchange: Exchange) -> None:
    exchange.give_up(OutboundError("the client went away"))
