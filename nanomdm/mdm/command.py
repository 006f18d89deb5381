"""
Commands, as an operator enqueues them, and a device's reports on them.

The keys are those of Apple's "Commands and Queries" reference.
"""

from __future__ import annotations

from typing import Final

from attrs import field, frozen

from nanomdm.errors import MessageError
from nanomdm.mdm.enrollment import Enrollment, enrollment_of
from nanomdm.mdm.fields import optional_string, string
from nanomdm.mdm.plist import Dictionary, parse

#: The device has nothing to report and asks for work.
IDLE: Final = "Idle"

#: The device can not carry out the command at present and will ask again.
NOT_NOW: Final = "NotNow"

#: Width of the C{command_uuid} columns.
MAX_COMMAND_UUID: Final = 127


@frozen
class CommandReport:
    """
    A device's request for work, with the result of an earlier command if any.

    @ivar enrollment: the channel it came on.
    @ivar raw: the body as it arrived.
    @ivar status: C{Idle}, C{Acknowledged}, C{Error}, C{CommandFormatError} or
        C{NotNow}.
    @ivar command_uuid: which command it is about; empty when idle.
    """

    enrollment: Enrollment
    raw: bytes = field(repr=False)
    status: str
    command_uuid: str


@frozen
class Command:
    """
    A command for devices.

    @ivar uuid: its C{CommandUUID}.
    @ivar request_type: its C{Command.RequestType}.
    @ivar raw: the property list, delivered byte for byte.
    """

    uuid: str
    request_type: str
    raw: bytes = field(repr=False)


def parse_report(body: bytes) -> CommandReport:
    """
    Read what a device sends when it connects.

    @param body: the request's body.
    @raise MessageError: it is not a complete report.
    """
    message = parse(body, keep=1)
    if "MessageType" in message and "Status" not in message:
        raise MessageError("a check-in message whose Content-Type does not say so")
    status = string(message, "Status", 31)
    enrollment = enrollment_of(message)
    if status == IDLE:
        return CommandReport(enrollment, body, status, "")
    uuid = string(message, "CommandUUID", MAX_COMMAND_UUID)
    return CommandReport(enrollment, body, status, uuid)


def parse_command(body: bytes) -> Command:
    """
    Read a command; the whole property list is checked.

    @param body: the property list.
    @raise MessageError: it is malformed or lacks C{CommandUUID} or
        C{Command.RequestType}.
    """
    if not body:
        raise MessageError("the command is empty")
    message = parse(body)
    uuid = string(message, "CommandUUID", MAX_COMMAND_UUID)
    return Command(uuid, string(_inner(message), "RequestType", 63), body)


def installs_mdm_profile(raw: bytes) -> bool:
    """
    Whether a command makes a device enroll again in place: an C{InstallProfile}
    whose payload contains C{com.apple.mdm}.

    A signed profile carries its content in the clear, so looking for the bytes
    covers signed and plain ones alike.

    @param raw: a command's property list.
    """
    try:
        command = _inner(parse(raw))
        if optional_string(command, "RequestType") != "InstallProfile":
            return False
    except MessageError:
        return False
    payload = command.get("Payload")
    return isinstance(payload, bytes) and b"com.apple.mdm" in payload


def _inner(message: Dictionary) -> Dictionary:
    command = message.get("Command")
    if not isinstance(command, dict):
        raise MessageError("Command is missing or not a dictionary")
    return command
