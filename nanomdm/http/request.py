"""
One request: its body in memory, its way to a resource, its line in the log.
"""

from __future__ import annotations

import os
import re
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_to_bytes

from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.http import BAD_REQUEST, datetimeToString
from twisted.web.resource import IResource, getChildForRequest

from nanomdm.http.limits import Share
from nanomdm.http.upload import Upload

if TYPE_CHECKING:
    from nanomdm.http.channel import Channel
    from nanomdm.http.site import Site

_log: Final = Logger(namespace="nanomdm.http")

#: Parts into which a path is taken apart; the last one keeps further slashes.
_MAX_DEPTH: Final = 8

_absolute: Final = re.compile(rb"https?://[^/?]+", re.IGNORECASE).match


def origin_form(target: bytes) -> bytes | None:
    """
    Path and query of a request target (RFC 9112 section 3.2).

    @param target: in origin form, absolute form, or C{*}, which stays.
    @return: L{None} for anything else.
    """
    if target.startswith(b"/") or target == b"*":
        return target
    match = _absolute(target)
    if match is None:
        return None
    rest = target[match.end() :]
    return rest if rest.startswith(b"/") else b"/" + rest


def shown_host(peer: object) -> str:
    """
    @param peer: the address of a connection's other end.
    @return: its host, for the log; nothing for a Unix socket.
    """
    host: str = getattr(peer, "host", "")
    # What a socket for both families calls an IPv4 address.
    return host.removeprefix("::ffff:")


class Request(server.Request):
    """
    A request whose body is collected in memory, up to a limit.

    @ivar trace_id: names the request in logs.
    @ivar body: the whole body, once it is there.
    @ivar upload: the body as it comes, for endpoints that want it so.
    @ivar gone: the client is no longer there to read an answer.
    @ivar notes: what the request's log line is to say besides.
    """

    channel: Channel
    site: Site
    body = b""
    upload: Upload | None = None

    def __init__(self, channel: Channel, *args: Any, **kwargs: Any) -> None:
        super().__init__(channel, *args, **kwargs)
        self.trace_id = os.urandom(8).hex()
        self.gone = False
        self.notes: dict[str, Any] = {}
        self.content: BytesIO = BytesIO()
        self._share: Share = channel.share

    @property
    def peer(self) -> str:
        """
        The address that the connection comes from.
        """
        return shown_host(self.client)

    def parseCookies(self) -> None:
        """
        Nothing here uses cookies.
        """

    def gotLength(self, length: int | None) -> None:
        """
        Refuse a body that announces itself as too large, before it arrives.

        @param length: L{None} for a chunked body.
        """
        # The body stays in memory: a temporary file, as Twisted would use for a
        # large one, would block the reactor.
        if length is not None and length > self.channel.site.max_body_size:
            self.channel.refuse_body()
        elif not self._share.reach(self.channel.head_size):
            self.channel.refuse_for_memory()
        else:
            if length != 0:
                self._begin_early(length)
            return
        # Otherwise the client would be told to go on.
        self.requestHeaders.removeHeader(b"Expect")

    def _begin_early(self, length: int | None) -> None:
        """
        Let an endpoint begin that takes the body as it comes.
        """
        channel = self.channel
        target = origin_form(channel._path)
        if target is None or target == b"*":
            return
        if getattr(self._resource(channel.site, target), "streams_bodies", False):
            expected = self.requestHeaders.getRawHeaders(b"Expect", [])
            # Otherwise the client would be told to go on at once.
            self.requestHeaders.removeHeader(b"Expect")
            self.upload = Upload(channel, length, b"100-continue" in map(bytes.lower, expected))
            super().requestReceived(channel._command, target, channel._version)

    def handleContentChunk(self, data: bytes) -> None:
        """
        Collect a part of the body, unless it or all bodies together grow too
        large.
        """
        if self.finished or self.gone:
            return
        channel = self.channel
        if self.upload is not None:
            if self.upload.size + len(data) > channel.site.max_body_size:
                channel.refuse_body()
            else:
                self.upload.write(data)
        elif self.content.tell() + len(data) > channel.site.max_body_size:
            channel.refuse_body()
        elif not self._share.reach(self._share.size + len(data)):
            channel.refuse_for_memory()
        else:
            self.content.write(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """
        Go on with a request that is there completely.
        """
        if self.upload is not None:
            self.upload.finish()
            return
        target = origin_form(path)
        if target is None or target == b"*":
            self.identify(command, path)
            self.channel.refuse(BAD_REQUEST, "the request is for no path")
            return
        # A client that goes away takes its content with it.
        self.body = self.content.getvalue()
        super().requestReceived(command, target, version)

    def identify(self, method: bytes, target: bytes) -> None:
        """
        Say what the log is to show of a request that will not be processed.
        """
        self.method = method
        self.path = (origin_form(target) or target).partition(b"?")[0]

    def process(self) -> None:
        """
        Let the resource answer that the path leads to: an
        L{Endpoint<nanomdm.http.endpoint.Endpoint>} always.
        """
        self.site = self.channel.site
        self.setHeader(b"Server", b"nanomdm")
        self.setHeader(b"Date", datetimeToString())
        self._resource(self.site, self.path).render(self)

    def _resource(self, site: Site, path: bytes) -> IResource:
        self.prepath = []
        # A long path of nothing but slashes would take the reactor a long time.
        parts = path.partition(b"?")[0][1:].split(b"/", _MAX_DEPTH)
        self.postpath = [unquote_to_bytes(part) for part in parts]
        resource: IResource = getChildForRequest(site.resource, self)
        return resource

    @property
    def is_last(self) -> bool:
        """
        Whether the connection ends with the answer, if that comes now.
        """
        return self.site.draining or (self.upload is not None and not self.upload.complete)

    def begin(self) -> None:
        """
        Note that work on the answer begins, whether or not the client stays.
        """
        self.site.request_started()

    def forget_body(self) -> None:
        """
        Free the body, which is no longer needed.  This must be before the answer ends:
        then the connection's next request may begin.
        """
        self.body = b""
        self.content = BytesIO()
        self._share.release()

    def take_answer(self, size: int) -> bool:
        """
        @param size: bytes of the answer.
        @return: whether there is memory for it until the client has read it.
        """
        return self._share.take_answer(size)

    def end(self) -> None:
        """
        Note that the answer is known or, if it is a stream, written.
        """
        self.site.request_ended()

    def abort(self) -> None:
        """
        Close the connection in the middle of the answer, so that nobody takes that for
        complete.
        """
        if not self.gone:
            self.channel.transport.abortConnection()

    def unregisterProducer(self) -> None:
        """
        Forget the producer, which a connection that is gone has done already.
        """
        if self.gone:
            self.producer = None
        else:
            super().unregisterProducer()

    def connectionLost(self, reason: Failure) -> None:
        """
        Note that nobody is there any more; what is under way goes on.
        """
        self.gone = True
        super().connectionLost(reason)

    def log(self, code: int, seconds: float | None = None, quiet: bool = False) -> None:
        """
        Write the request's line into the log.  The query is left out: it may
        hold secrets.

        @param code: the status that was answered.
        @param seconds: how long the answer took.
        @param quiet: a success is for debugging only.
        """
        fields: dict[str, Any] = {"trace_id": self.trace_id}
        if self.path is not None:
            fields["method"] = self.method[:32].decode("ascii", "backslashreplace")
            fields["path"] = self.path[:256].decode("ascii", "backslashreplace")
        fields["code"] = code
        if seconds is not None:
            fields["ms"] = round(seconds * 1000, 1)
        fields["ip"] = self.peer
        if self.gone:
            fields["gone"] = True
        fields.update(self.notes)
        _log.emit(_level(code, quiet), "request", **fields)


def _level(code: int, quiet: bool) -> Any:
    if code < 400:
        return LogLevel.debug if quiet else LogLevel.info
    return LogLevel.warn if code < 500 else LogLevel.error
