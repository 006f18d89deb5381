"""
One funnel for all requests: an endpoint returns a response or raises, and here
it becomes a status, bytes on the wire and one line in the log.
"""

from __future__ import annotations

import time
from typing import Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from nanomdm.errors import (
    Gone,
    IdentityError,
    MessageError,
    NanoMDMError,
    NotEnrolled,
    NotFound,
    Overloaded,
    TooLarge,
)
from nanomdm.http.limits import RETRY_AFTER
from nanomdm.http.request import Request
from nanomdm.http.response import Response, Stream, text
from nanomdm.metrics.http import NO_ENDPOINT

_log: Final = Logger(namespace="nanomdm.http")

BAD_REQUEST: Final = text(400, "Bad Request")
NOT_FOUND: Final = text(404, "404 page not found")
GONE: Final = text(410, "Gone")
TOO_LARGE: Final = text(413, "Request Entity Too Large")
SERVER_ERROR: Final = text(500, "Internal Server Error")


def _busy(retry_after: int) -> Response:
    return text(503, "Service Unavailable", {b"Retry-After": b"%d" % retry_after})


BUSY: Final = _busy(RETRY_AFTER)


class Endpoint(Resource):
    """
    A resource that answers asynchronously.

    @ivar streams_bodies: it begins before a request's body is there, which then is
        C{upload} of the request.
    @ivar route: its path for the metrics, with names in braces for what varies, such
        as C{/v1/enrollments/{id}}.
    @ivar quiet: asked so often that the log tells of its successes only when debugging.
    """

    streams_bodies = False
    route = NO_ENDPOINT
    quiet = False

    async def respond(self, request: Request) -> Response | Stream:
        """
        Answer a request.

        @raise NanoMDMError: becomes the status that L{refusal} gives it.
        """
        raise NotImplementedError

    def refusal(self, error: NanoMDMError) -> Response:
        """
        @return: what the client is told of an error in the domain.
        """
        return refusal(error)

    def getChild(self, path: bytes, request: Request) -> Resource:
        """
        What was not put here does not exist, and nothing below it.
        """
        return Missing()

    def render(self, request: Request) -> int:
        """
        Answer any method.
        """
        request.begin()
        Deferred.fromCoroutine(self._handle(request)).addErrback(_unwritable, request)
        return NOT_DONE_YET

    async def _handle(self, request: Request) -> None:
        started = time.perf_counter()
        try:
            answer = await self._answer(request)
            if isinstance(answer, Stream):
                await _deliver(request, answer)
        finally:
            request.end()
        if isinstance(answer, Response):
            answer = _affordable(request, answer)
            _write(request, answer)
        seconds = time.perf_counter() - started
        request.site.metrics.answered(self.route, request.method, answer.code, seconds)
        request.log(answer.code, seconds, self.quiet)

    async def _answer(self, request: Request) -> Response | Stream:
        try:
            return await self.respond(request)
        except NanoMDMError as error:
            request.notes["error"] = str(error)
            return self.refusal(error)
        except Exception:
            _log.failure("unexpected error", trace_id=request.trace_id)
            return self.refusal(NanoMDMError())
        finally:
            request.forget_body()


class Folder(Endpoint):
    """
    A part of a path without a page of its own: only what is put into it exists.
    """

    async def respond(self, request: Request) -> Response:
        return NOT_FOUND


class Missing(Folder):
    """
    Where a path leads nowhere, however long it is.
    """

    isLeaf = True


def refusal(error: NanoMDMError) -> Response:
    """
    The statuses of the domain's errors.  Never 401 or 403: a device that gets
    one of these may take itself for unenrolled.
    """
    if isinstance(error, (IdentityError, MessageError, NotEnrolled)):
        return BAD_REQUEST
    if isinstance(error, Gone):
        return GONE
    if isinstance(error, NotFound):
        return Response(404, error.body)
    if isinstance(error, TooLarge):
        return TOO_LARGE
    if isinstance(error, Overloaded):
        return _busy(error.retry_after)
    return SERVER_ERROR


async def _deliver(request: Request, stream: Stream) -> None:
    try:
        await stream.deliver(request)
    except Exception:
        _log.failure("unexpected error", trace_id=request.trace_id)
        request.abort()


def _affordable(request: Request, response: Response) -> Response:
    """
    @return: the response, if there is memory for it until the client has read it.
    """
    if request.gone or request.take_answer(len(response.body)):
        return response
    request.notes["error"] = "too many large answers are being read"
    return BUSY


def _write(request: Request, response: Response) -> None:
    if request.gone:
        return
    request.setResponseCode(response.code)
    request.setHeader(b"Content-Length", b"%d" % len(response.body))
    if response.content_type is not None:
        request.setHeader(b"Content-Type", response.content_type)
    else:
        request.defaultContentType = None
    for name, value in response.headers.items():
        request.setHeader(name, value)
    if request.is_last:
        request.setHeader(b"Connection", b"close")
    request.write(response.body)
    request.finish()


def _unwritable(failure: Failure, request: Request) -> None:
    _log.failure("answer not written", failure, trace_id=request.trace_id)
