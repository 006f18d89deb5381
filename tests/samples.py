"""
Messages and files that many tests use.
"""

from __future__ import annotations

import plistlib
from pathlib import Path
from typing import Any

MESSAGES = Path(__file__).parent / "messages"

#: What a device is pushed with, as each of those below has it: secrets.
MAGIC = "magic-of-the-suite"
TOKEN = b"\xab\xcdtoken-of-the-suite"

TOPIC = "com.apple.mgmt.External.00000000-1111-2222-3333-444444444444"


def captured(name: str) -> bytes:
    """
    A message as a real device sent it.
    """
    return (MESSAGES / name).read_bytes()


def plist(**members: Any) -> bytes:
    """
    A property list; members that are L{None} are left out.
    """
    return plistlib.dumps({key: value for key, value in members.items() if value is not None})


def authenticate(udid: str = "D1", **more: Any) -> bytes:
    """
    An C{Authenticate} message.
    """
    members = {"UDID": udid, "Topic": TOPIC, "SerialNumber": "C02" + udid, **more}
    return plist(MessageType="Authenticate", **members)


def token_update(udid: str | None = "D1", **more: Any) -> bytes:
    """
    A C{TokenUpdate} message.
    """
    members = {
        "UDID": udid,
        "Topic": TOPIC,
        "PushMagic": MAGIC,
        "Token": TOKEN,
        **more,
    }
    return plist(MessageType="TokenUpdate", **members)


def checkin(message_type: str, udid: str | None = "D1", **more: Any) -> bytes:
    """
    Any other check-in message.
    """
    return plist(**{"MessageType": message_type, "UDID": udid, **more})


def report(status: str, uuid: str | None = None, udid: str | None = "D1", **more: Any) -> bytes:
    """
    A command report.
    """
    return plist(Status=status, CommandUUID=uuid, UDID=udid, **more)


def command(uuid: str, request_type: str = "DeviceInformation", **more: Any) -> bytes:
    """
    A command.
    """
    return plist(CommandUUID=uuid, Command={"RequestType": request_type, **more})


def install_mdm_profile(uuid: str) -> bytes:
    """
    A command that makes a device enroll again in place.
    """
    payload = plist(PayloadContent=[{"PayloadType": "com.apple.mdm"}])
    return command(uuid, "InstallProfile", Payload=payload)


def uuid_of(raw: bytes) -> str:
    """
    A command's UUID.
    """
    return plistlib.loads(raw)["CommandUUID"]
