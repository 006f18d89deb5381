"""
C{/healthz} and C{/readyz}: whether the server is alive, and whether it can serve.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from nanomdm.errors import NanoMDMError
from nanomdm.http.endpoint import Endpoint
from nanomdm.http.request import Request
from nanomdm.http.response import Response, json_response, text
from nanomdm.network import bounded

_log: Final = Logger(namespace="nanomdm.http")

#: Seconds in which the storage must answer.
_DEADLINE: Final = 2.0

#: Seconds for which its answer is good: anybody may ask as often as they like.
_FRESH: Final = 1.0

_METHOD_NOT_ALLOWED: Final = text(405, "Method Not Allowed", {b"Allow": b"GET, HEAD"})
_ALIVE: Final = json_response(200, {"status": "ok"})


class Status(Enum):
    """
    Whether a server can serve.
    """

    READY = "ready"
    DRAINING = "draining"
    NO_STORAGE = "storage unavailable"


_ANSWERS: Final = {
    status: json_response(200 if status is Status.READY else 503, {"status": status.value})
    for status in Status
}


class Readiness:
    """
    Knows whether the server can serve.

    @param ping: asks the storage for an answer.
    @param clock: the clock.
    """

    def __init__(self, ping: Callable[[], Deferred[None]], clock: IReactorTime) -> None:
        self._ping = ping
        self._clock = clock
        self._draining = False
        self._answers = True
        self._asked_at = float("-inf")
        self._waiting: list[Deferred[None]] = []

    def drain(self) -> None:
        """
        The server is stopping: it is not ready from now on.
        """
        self._draining = True

    @property
    def ready(self) -> bool:
        """
        Whether it could serve when that was looked at last.
        """
        return self._answers and not self._draining

    def look(self) -> None:
        """
        Find out, for whoever asks later, unless that is known.
        """
        if not self._is_known:
            self._asked()

    async def status(self) -> Status:
        """
        @return: what is known, if that is fresh.  All who ask meanwhile wait for the
            same answer of the storage.
        """
        if not self._is_known:
            await self._asked()
        if self._draining:
            return Status.DRAINING
        return Status.READY if self._answers else Status.NO_STORAGE

    @property
    def _is_known(self) -> bool:
        return self._draining or self._clock.seconds() < self._asked_at + _FRESH

    def _asked(self) -> Deferred[None]:
        asked: Deferred[None] = Deferred()
        self._waiting.append(asked)
        if len(self._waiting) == 1:
            answer = bounded(maybeDeferred(self._ping), self._clock, _DEADLINE, TimeoutError)
            answer.addCallbacks(lambda ignored: True, self._failed).addCallback(self._tell)
        return asked

    def _failed(self, failure: Failure) -> bool:
        if not failure.check(NanoMDMError, TimeoutError):
            _log.failure("unexpected error", failure)
        return False

    def _tell(self, answers: bool) -> None:
        self._answers = answers
        self._asked_at = self._clock.seconds()
        waiting, self._waiting = self._waiting, []
        for asked in waiting:
            asked.callback(None)


class OpenEndpoint(Endpoint):
    """
    Is looked at by anybody, often.
    """

    quiet = True

    async def respond(self, request: Request) -> Response:
        if request.method not in (b"GET", b"HEAD"):
            return _METHOD_NOT_ALLOWED
        return await self.look(request)

    async def look(self, request: Request) -> Response:
        """
        Answer.
        """
        raise NotImplementedError


class HealthEndpoint(OpenEndpoint):
    """
    C{/healthz}: the process is alive and answers, whatever else there may be.
    """

    route = "/healthz"

    async def look(self, request: Request) -> Response:
        return _ALIVE


class ReadyEndpoint(OpenEndpoint):
    """
    C{/readyz}: whether to send devices here.

    @param readiness: knows it.
    """

    route = "/readyz"

    def __init__(self, readiness: Readiness) -> None:
        super().__init__()
        self._readiness = readiness

    async def look(self, request: Request) -> Response:
        status = await self._readiness.status()
        if status is not Status.READY:
            request.notes["status"] = status.value
        return _ANSWERS[status]
