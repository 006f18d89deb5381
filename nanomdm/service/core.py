"""
The core: what each message from a device does and what the device is told.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from twisted.logger import Logger

from nanomdm.crypto.identity import Identity
from nanomdm.errors import Gone, MessageError, NotConfigured
from nanomdm.interfaces import IStorage, ITokenHandler
from nanomdm.mdm import checkin
from nanomdm.mdm.checkin import CheckinMessage
from nanomdm.mdm.command import IDLE, CommandReport, installs_mdm_profile
from nanomdm.mdm.event import Event
from nanomdm.metrics.devices import DeviceMetrics
from nanomdm.service.association import CertificateAssociation
from nanomdm.service.declarative import DeclarativeManagementClient
from nanomdm.service.events import EventSource, RequestContext

#: The service whose tokens are made for one watch, which the parameters name
#: (Apple, "GetTokenRequest").
_WATCH_PAIRING: Final = "com.apple.watch.pairing"


class MDMService:
    """
    Takes verified, parsed messages and answers with a body.

    @param storage: where everything is kept.
    @param association: says whether a certificate may speak for an id.
    @param zero_length_challenge: answer C{UserAuthenticate} with a zero-length
        C{DigestChallenge} (C{--ua-zl-dc}) and not with "gone".
    @param token_handlers: who answers C{GetToken}.
    @param declarative: who answers C{DeclarativeManagement}, if anybody.
    @param events: makes the events that tell of the messages, if anybody is to be told.
        They are stored together with what they tell.
    @param metrics: counts messages.
    """

    _log = Logger()

    def __init__(
        self,
        storage: IStorage,
        association: CertificateAssociation,
        zero_length_challenge: bool = False,
        token_handlers: Sequence[ITokenHandler] = (),
        declarative: DeclarativeManagementClient | None = None,
        events: EventSource | None = None,
        metrics: DeviceMetrics | None = None,
    ) -> None:
        self._storage = storage
        self._association = association
        self._zero_length_challenge = zero_length_challenge
        self._token_handlers = {handler.service_type: handler for handler in token_handlers}
        self._declarative = declarative
        self._events = events
        self._metrics = metrics or DeviceMetrics()
        self._handlers: Mapping[
            type[CheckinMessage], Callable[[Any, Event | None], Awaitable[bytes]]
        ] = {
            checkin.TokenUpdate: self._token_update,
            checkin.CheckOut: self._check_out,
            checkin.UserAuthenticate: self._user_authenticate,
            checkin.SetBootstrapToken: self._set_bootstrap_token,
            checkin.GetBootstrapToken: self._get_bootstrap_token,
            checkin.DeclarativeManagement: self._declarative_management,
            checkin.GetToken: self._get_token,
        }

    async def check_in(
        self, message: CheckinMessage, identity: Identity, context: RequestContext
    ) -> bytes:
        """
        Handle a check-in message.

        @param identity: who signed it.
        @param context: how it came.
        @return: the body for the device, usually empty.
        @raise AssociationRefused: the identity may not speak for the enrollment.
        @raise NanoMDMError: see L{nanomdm.errors}; nothing was stored.
        """
        events = self._events
        if isinstance(message, checkin.Authenticate):
            await self._association.authenticate(message.enrollment, identity)
            event = None if events is None else events.of_checkin(message, context)
            answer = await self._authenticate(message, identity, event)
        else:
            await self._association.check(message.enrollment, identity)
            event = None if events is None else events.of_checkin(message, context)
            answer = await self._handlers[type(message)](message, event)
        if events is not None:
            events.written()
        self._metrics.checked_in(message.message_type)
        return answer

    async def report(
        self, report: CommandReport, identity: Identity, context: RequestContext
    ) -> bytes:
        """
        Store a command's result, if the report has one, and pick the next
        command.

        @param identity: who signed it.
        @param context: how it came.
        @return: the next command's property list, or nothing.
        @raise AssociationRefused: the identity may not speak for the enrollment.
        """
        await self._association.check(report.enrollment, identity)
        self._storage.touch(report.enrollment.id)
        events = self._events
        event = None if events is None else events.of_report(report, context)
        if report.status == IDLE:
            command = await self._storage.next_command(report.enrollment.id, event=event)
        else:
            command = await self._store(report, event)
        if events is not None and event is not None:
            events.written()
        self._metrics.reported(report.status)
        return command or b""

    async def _store(self, report: CommandReport, event: Event | None) -> bytes | None:
        outcome = await self._storage.store_report(report, event=event)
        if not outcome.known:
            self._log.warn(
                "result for a command that was never queued",
                id=report.enrollment.id,
                command_uuid=report.command_uuid,
                status=report.status,
            )
        return outcome.next_command

    async def _authenticate(
        self, message: checkin.Authenticate, identity: Identity, event: Event | None
    ) -> bytes:
        renewal = await self._storage.store_authenticate(
            message, identity.pem, installs_mdm_profile, event=event
        )
        self._log.info(
            "enrollment renewed" if renewal else "enrollment started",
            id=message.enrollment.id,
            serial=message.serial_number,
            certificate=identity.sha256,
        )
        return b""

    async def _token_update(self, message: checkin.TokenUpdate, event: Event | None) -> bytes:
        tally = await self._storage.store_token_update(message, event=event)
        if tally == 1:
            enrollment = message.enrollment
            self._log.info("enrolled", id=enrollment.id, type=enrollment.type.value)
        return b""

    async def _check_out(self, message: checkin.CheckOut, event: Event | None) -> bytes:
        await self._storage.disable(message.enrollment, event=event)
        self._log.info("checked out", id=message.enrollment.id)
        return b""

    async def _user_authenticate(
        self, message: checkin.UserAuthenticate, event: Event | None
    ) -> bytes:
        if not self._zero_length_challenge:
            raise Gone("UserAuthenticate is declined (--ua-zl-dc is off)")
        await self._storage.store_user_authenticate(message, event=event)
        return b"" if message.digest_response else checkin.digest_challenge_reply()

    async def _set_bootstrap_token(
        self, message: checkin.SetBootstrapToken, event: Event | None
    ) -> bytes:
        await self._storage.store_bootstrap_token(message.enrollment.id, message.token, event=event)
        return b""

    async def _get_bootstrap_token(
        self, message: checkin.GetBootstrapToken, event: Event | None
    ) -> bytes:
        token = await self._storage.fetch_bootstrap_token(message.enrollment.id, event=event)
        return checkin.bootstrap_token_reply(token) if token else b""

    async def _declarative_management(
        self, message: checkin.DeclarativeManagement, event: Event | None
    ) -> bytes:
        if self._declarative is None:
            raise NotConfigured("declarative management is not configured")
        answer = await self._declarative.forward(message)
        await self._record(event)
        return answer

    async def _get_token(self, message: checkin.GetToken, event: Event | None) -> bytes:
        if message.service_type == _WATCH_PAIRING and not message.has_parameters:
            raise MessageError(f"GetToken for {_WATCH_PAIRING} without TokenParameters")
        handlers = self._token_handlers
        handler = handlers.get(message.service_type, handlers.get(None))
        if handler is None:
            raise MessageError(f"no tokens for TokenServiceType {message.service_type[:64]!r}")
        token = await handler.token(message)
        await self._record(event)
        return checkin.token_reply(token)

    async def _record(self, event: Event | None) -> None:
        if event is not None:
            await self._storage.record_event(event)
