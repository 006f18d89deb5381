"""
What every simulated enrollment does, a device's or a user's: build check-ins,
answer commands.

Keys and formatting follow messages captured from real devices: an XML property
list with Apple's document type, tabs, and sorted keys.
"""

from __future__ import annotations

import plistlib
from abc import ABC, abstractmethod
from typing import Any

from attrs import Factory, define, frozen

from nanomdm.sim import answers
from nanomdm.sim.answers import Command, Dictionary, Inventory, parse_command
from nanomdm.sim.ca import DeviceIdentity


@frozen
class Answer:
    """
    How a command was answered.

    @ivar command: the command.
    @ivar status: C{Acknowledged}, C{Error}, C{CommandFormatError} or
        C{NotNow}.
    @ivar body: the report to send.
    """

    command: Command
    status: str
    body: bytes


@define(kw_only=True, eq=False)
class Channel(ABC):
    """
    One enrollment: the device channel, or a user's channel on a device.

    @ivar enrollment_id: the id under which the server knows this enrollment.
    @ivar keys: the keys that identify the enrollment in every message.
    @ivar topic: the push topic.
    @ivar push_magic: C{PushMagic}.
    @ivar token: the push token, 32 bytes.
    @ivar inventory: what answers are made from.
    @ivar busy: say C{NotNow} to every command.
    @ivar not_now_for: request types to which the answer is C{NotNow}.
    @ivar names_request_type: repeat C{RequestType} in reports, as Macs do.
    """

    enrollment_id: str
    keys: dict[str, str]
    topic: str
    push_magic: str
    token: bytes
    inventory: Inventory
    busy: bool = False
    not_now_for: set[str] = Factory(set)
    names_request_type: bool = True

    @property
    @abstractmethod
    def identity(self) -> DeviceIdentity:
        """
        What signs the requests; users share their device's.
        """

    @abstractmethod
    def enrollment_messages(self) -> list[bytes]:
        """
        The check-ins that enroll this channel, in their order.
        """

    @abstractmethod
    def token_update(self) -> bytes:
        """
        C{TokenUpdate}.
        """

    def check_out(self) -> bytes:
        """
        C{CheckOut}.
        """
        return self._check_in("CheckOut", Topic=self.topic)

    def declarative_management(self, endpoint: str, data: bytes | None = None) -> bytes:
        """
        C{DeclarativeManagement}.

        @param endpoint: C{tokens}, C{declaration-items}, C{status} or
            C{declaration/<type>/<identifier>}.
        @param data: JSON, for C{status}.
        """
        extra = {} if data is None else {"Data": data}
        return self._check_in("DeclarativeManagement", Endpoint=endpoint, **extra)

    def get_token(self, service_type: str, parameters: Dictionary | None = None) -> bytes:
        """
        C{GetToken}.

        @param service_type: C{TokenServiceType}, e.g. C{com.apple.maid}.
        @param parameters: C{TokenParameters}, for C{com.apple.watch.pairing}.
        """
        extra = {} if parameters is None else {"TokenParameters": parameters}
        return self._check_in("GetToken", TokenServiceType=service_type, **extra)

    def idle(self) -> bytes:
        """
        The report with which a connection begins.
        """
        return self._message(Status="Idle")

    def answer(self, command: bytes) -> bytes:
        """
        Answer a command, with C{NotNow} when the device is busy.

        @param command: a raw command.
        @return: the report to send.
        @raise MessageError: it is not a command.
        """
        return self.respond(parse_command(command)).body

    def not_now(self, command: bytes) -> bytes:
        """
        Put a command off.

        @param command: a raw command.
        @return: the C{NotNow} report.
        @raise MessageError: it is not a command.
        """
        return self._report(parse_command(command), {"Status": "NotNow"}).body

    def respond(self, command: Command) -> Answer:
        """
        Like L{answer}, for a command that was read already.
        """
        if self.busy or command.request_type in self.not_now_for:
            return self._report(command, {"Status": "NotNow"})
        return self._report(command, answers.answer(self.inventory, command))

    def _report(self, command: Command, outcome: Dictionary) -> Answer:
        if self.names_request_type:
            outcome["RequestType"] = command.request_type
        body = self._message(CommandUUID=command.uuid, **outcome)
        return Answer(command, outcome["Status"], body)

    def _check_in(self, message_type: str, **content: Any) -> bytes:
        return self._message(MessageType=message_type, **content)

    def _message(self, **content: Any) -> bytes:
        return plistlib.dumps({**content, **self._identification()})

    def _identification(self) -> Dictionary:
        return dict(self.keys)
