"""
C{--dump}: a device endpoint that shows what it is asked and what it answers.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final

from nanomdm.dump import Message, Show, dump
from nanomdm.errors import NanoMDMError
from nanomdm.http.device import DeviceEndpoint
from nanomdm.http.endpoint import Endpoint
from nanomdm.http.request import Request
from nanomdm.http.response import Response
from nanomdm.log import Fields

#: What a heading tells of what is known about a request.
_NOTES: Final = ("id", "type", "message_type", "status", "command_uuid")


class DumpedEndpoint(Endpoint):
    """
    Answers as another endpoint does, and shows each request with its answer.

    @param endpoint: answers.
    @param show: where both are shown.
    @param now: tells the time in UTC.
    """

    def __init__(self, endpoint: DeviceEndpoint, show: Show, now: Callable[[], datetime]) -> None:
        super().__init__()
        self._endpoint = endpoint
        self._show = show
        self._now = now
        self.route = endpoint.route

    def refusal(self, error: NanoMDMError) -> Response:
        """
        What the other endpoint says.
        """
        return self._endpoint.refusal(error)

    async def respond(self, request: Request) -> Response:
        """
        Show the request once its answer is known: only then is it known whose it is.
        """
        came = self._now()
        try:
            response = await self._endpoint.respond(request)
        except NanoMDMError as error:
            self._dump(request, came, self.refusal(error), str(error))
            raise
        except Exception:
            self._dump(request, came, self.refusal(NanoMDMError()), "unexpected, see the log")
            raise
        self._dump(request, came, response)
        return response

    def _dump(
        self, request: Request, came: datetime, response: Response, error: str | None = None
    ) -> None:
        notes = request.notes
        about: Fields = {"trace_id": request.trace_id}
        about.update({name: notes[name] for name in _NOTES if notes.get(name) is not None})
        answered: Fields = {**about, "code": response.code}
        if error is not None:
            answered["error"] = error
        if request.gone:
            answered["gone"] = True
        dump(
            self._show,
            (
                Message.of("request", came, about, request.body),
                Message.of("response", self._now(), answered, response.body),
            ),
        )
