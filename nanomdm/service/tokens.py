"""
Where the tokens come from that devices want for other services (C{GetToken}).

A handler is anything that provides L{ITokenHandler}; these are the two that options
make.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from attrs import field, frozen
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from nanomdm.errors import ConfigError, MessageError, OutboundError
from nanomdm.interfaces import ITokenHandler
from nanomdm.mdm.checkin import GetToken
from nanomdm.outbound import Lane, OutboundClient
from nanomdm.service.declarative import enrollment_headers
from nanomdm.values import readable_file

TIMEOUT: Final = 30.0
"""
Seconds for one request, with the time that it waits for others.
"""

LIMIT: Final = 1 << 20
"""
Bytes of the largest token.
"""

# Such as com.apple.maid (Apple, "GetTokenRequest"); it stands in a header.
_SERVICE_TYPE: Final = re.compile(r"[A-Za-z0-9._-]{1,255}")
_BETWEEN_FILES: Final = re.compile(r",(?=[A-Za-z0-9._-]+=)")


@implementer(ITokenHandler)
@frozen
class StaticTokenHandler:
    """
    Gives every device the same token.

    @ivar service_type: what it is for.
    @ivar content: the token.
    """

    service_type: str
    content: bytes = field(repr=False)

    def token(self, message: GetToken) -> Deferred[bytes]:
        """
        See L{ITokenHandler.token}.
        """
        return succeed(self.content)


@frozen
class TokenFile:
    """
    A file with a token.

    @ivar service_type: what it is for.
    @ivar path: absolute.
    """

    service_type: str
    path: Path


def token_files(value: str) -> tuple[TokenFile, ...]:
    """
    @param value: C{TYPE=FILE}, or several of them with commas between.
    @raise ConfigError: it is something else, or a file can not be read.
    """
    return tuple(_token_file(one) for one in _BETWEEN_FILES.split(value))


def _token_file(value: str) -> TokenFile:
    service_type, _, path = value.partition("=")
    if not path or not _SERVICE_TYPE.fullmatch(service_type):
        raise ConfigError(f"{value!r} is not TYPE=FILE")
    return TokenFile(service_type, readable_file(path))


def read_token(file: TokenFile) -> StaticTokenHandler:
    """
    Read a token.  Blocks.  Of text, the end of the last line is left out: editors put
    it there.

    @raise ConfigError: the file can not be read, is empty or too large.
    """
    try:
        with file.path.open("rb") as opened:
            content = opened.read(LIMIT + 1)
    except OSError as error:
        raise ConfigError(f"--token: {file.path}: {error.strerror}") from None
    if content.isascii() and content.decode().rstrip("\r\n").isprintable():
        content = content.rstrip(b"\r\n")
    if not content:
        raise ConfigError(f"--token: {file.path}: is empty")
    if len(content) > LIMIT:
        raise ConfigError(f"--token: {file.path}: has more than {LIMIT} bytes")
    return StaticTokenHandler(file.service_type, content)


@implementer(ITokenHandler)
class HTTPTokenHandler:
    """
    Asks a server for tokens.

    It gets a C{POST} with the device's message, a property list, and headers that say
    who asks (C{X-Enrollment-ID}, C{X-Enrollment-Type}, C{X-Enrollment-ParentID}) and for
    what (C{X-Token-Service-Type}).  It answers 200 with the bytes of the token, or 404
    when it knows no such service.

    @param http: sends the requests.
    @param url: where.
    @ivar service_type: L{None}: whatever no other handler is for.
    """

    service_type: Final = None

    def __init__(self, http: OutboundClient, url: str) -> None:
        self._http = Lane(http)
        self._url = url

    def token(self, message: GetToken) -> Deferred[bytes]:
        """
        See L{ITokenHandler.token}.

        @raise MessageError: the server knows no such service.
        @raise OutboundError: the server gives no answer, or none that can be used.
        @raise Overloaded: too many wait for it already.
        """
        return Deferred.fromCoroutine(self._token(message))

    async def _token(self, message: GetToken) -> bytes:
        service_type = message.service_type
        if not _SERVICE_TYPE.fullmatch(service_type):
            raise MessageError(f"TokenServiceType {service_type[:64]!r} is none")
        headers = enrollment_headers(message.enrollment)
        headers[b"Content-Type"] = b"application/xml"
        headers[b"X-Token-Service-Type"] = service_type.encode()
        answer = await self._http.fetch(
            "POST", self._url, headers, message.raw, timeout=TIMEOUT, limit=LIMIT
        )
        if answer.status == 404:
            raise MessageError(f"no tokens for TokenServiceType {service_type[:64]!r}")
        if answer.status != 200:
            raise OutboundError(f"the token server answered {answer.status}")
        if not answer.body:
            raise OutboundError("the token server answered with an empty token")
        return answer.body
