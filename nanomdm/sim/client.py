"""
A simulated device on the network: it signs what the device says and sends it
over HTTP.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from attrs import define, frozen
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.web.http import OK
from twisted.web.http_headers import Headers

from nanomdm.bodies import receive
from nanomdm.errors import NanoMDMError
from nanomdm.network import bounded
from nanomdm.sim.answers import parse_command
from nanomdm.sim.channel import Channel
from nanomdm.sim.device import SimulatedDevice
from nanomdm.sim.signing import sign_like_device, sign_modern

CHECK_IN_TYPE: Final = "application/x-apple-aspen-mdm-checkin"
REPORT_TYPE: Final = "application/x-apple-aspen-mdm"

#: More commands in one connection than any test or demonstration queues.
COMMAND_LIMIT: Final = 1000

#: Bytes of a response; more than any command has.
RESPONSE_LIMIT: Final = 64 << 20


class SimulationError(NanoMDMError):
    """
    The server did not do what a device expects of it.

    @ivar status: the HTTP status, or L{None} when no whole response came.
    @ivar body: the response's body.
    """

    def __init__(self, text: str, status: int | None = None, body: bytes = b"") -> None:
        super().__init__(text)
        self.status = status
        self.body = body


class Answered(NamedTuple):
    """
    A command that the device fetched and answered.
    """

    request_type: str
    command_uuid: str
    status: str


@frozen
class Exchange:
    """
    One request and its response.

    @ivar sent: the request's body.
    @ivar status: the HTTP status.
    @ivar received: the response's body.
    """

    sent: bytes
    status: int
    received: bytes


def _ignore(exchange: Exchange) -> None:
    pass


@define(eq=False)
class DeviceClient:
    """
    Speaks to a server as one enrollment.

    @ivar device: the device or user that speaks.
    @ivar base_url: the server's root, e.g. C{http://127.0.0.1:9000}; reports
        go to C{/mdm} below it.
    @ivar http: the client to send with; its connection pool decides whether
        connections persist.
    @ivar form: C{device} signs as Apple's devices do, C{modern} as newer
        agents do.
    @ivar checkin_url: where check-ins go; L{None} sends them where the reports
        go.
    @ivar cert_header: send the certificate in this header (RFC 9440) in place
        of a signature, as a TLS-terminating proxy does.
    @ivar timeout: seconds for one exchange.
    @ivar clock: measures the timeout; L{None} is the global reactor.
    @ivar observe: called with every finished exchange.
    """

    device: Channel
    base_url: str
    http: HTTPClient
    form: Literal["device", "modern"] = "device"
    checkin_url: str | None = None
    cert_header: str | None = None
    timeout: float = 30.0
    clock: IReactorTime | None = None
    observe: Callable[[Exchange], None] = _ignore

    async def enroll(self) -> None:
        """
        Send C{Authenticate} and C{TokenUpdate}; a user, C{TokenUpdate} alone.

        @raise SimulationError: the server refuses one.
        """
        for message in self.device.enrollment_messages():
            await self.check_in(message)

    async def connect(self, limit: int = COMMAND_LIMIT) -> list[Answered]:
        """
        Report C{Idle}, then answer commands until there is none left.  When an
        enrollment profile arrives, the device enrolls again before it reports
        the profile as installed.

        @param limit: how many commands to answer at most.
        @return: the answered commands, in their order.
        @raise SimulationError: the server refuses a report, or sends more than
            C{limit} commands.
        @raise MessageError: it sends something that is not a command.
        """
        answered: list[Answered] = []
        received = await self.report(self.device.idle())
        while received:
            if len(answered) == limit:
                raise SimulationError(f"more than {limit} commands in one connection")
            answer = self.device.respond(parse_command(received))
            if isinstance(self.device, SimulatedDevice) and self.device.renewal_due:
                self.device.renew()
                await self.enroll()
            received = await self.report(answer.body)
            command = answer.command
            answered.append(Answered(command.request_type, command.uuid, answer.status))
        return answered

    async def check_out(self) -> None:
        """
        Send C{CheckOut}.

        @raise SimulationError: the server refuses it.
        """
        await self.check_in(self.device.check_out())

    async def check_in(self, body: bytes) -> bytes:
        """
        Send a check-in message.

        @return: the body of the response.
        @raise SimulationError: the status is not 200, or no response came.
        """
        return await self._exchange(self.checkin_url or self._mdm_url, CHECK_IN_TYPE, body)

    async def report(self, body: bytes) -> bytes:
        """
        Send a command result.

        @return: the next command, or nothing.
        @raise SimulationError: the status is not 200, or no response came.
        """
        return await self._exchange(self._mdm_url, REPORT_TYPE, body)

    @property
    def _mdm_url(self) -> str:
        return f"{self.base_url.rstrip('/')}/mdm"

    def _identification(self, body: bytes) -> tuple[str, str]:
        identity = self.device.identity
        if self.cert_header is not None:
            return self.cert_header, f":{base64.b64encode(identity.der).decode()}:"
        sign = sign_like_device if self.form == "device" else sign_modern
        return "Mdm-Signature", sign(identity, body).decode()

    async def _exchange(self, url: str, content_type: str, body: bytes) -> bytes:
        name, value = self._identification(body)
        headers = Headers({"Content-Type": [content_type], name: [value]})
        status, received = await fetch(
            self.http, "PUT", url, headers, body, timeout=self.timeout, clock=self._clock()
        )
        self.observe(Exchange(body, status, received))
        if status != OK:
            text = received[:200].decode("utf-8", "replace").strip()
            raise SimulationError(f"{url} answered {status}: {text}", status, received)
        return received

    def _clock(self) -> IReactorTime:
        if self.clock is not None:
            return self.clock
        from twisted.internet import reactor

        return IReactorTime(reactor)


async def fetch(
    http: HTTPClient,
    method: str,
    url: str,
    headers: Headers,
    body: bytes,
    *,
    timeout: float,
    clock: IReactorTime,
) -> tuple[int, bytes]:
    """
    Send a request and read its whole response.

    @param timeout: seconds for all of it.
    @return: the HTTP status and the body.
    @raise SimulationError: no response came in time.
    """
    sending = http.request(method, url, headers=headers, data=body, unbuffered=True)
    response = bounded(
        Deferred.fromCoroutine(receive(sending, RESPONSE_LIMIT)),
        clock,
        timeout,
        lambda: SimulationError(f"no response from {url} within {timeout:g} s"),
    )
    try:
        fetched = await response
    except (CancelledError, SimulationError):
        raise
    except Exception as error:
        raise SimulationError(f"no response from {url}: {error}") from error
    return fetched.status, fetched.body
