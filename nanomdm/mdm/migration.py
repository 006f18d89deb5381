"""
Moving enrollments from one server to another by check-in messages.

Servers keep the messages of their devices as they came.  Another server that
gets them again has the enrollments too; no device has to do anything for it.
"""

from __future__ import annotations

import base64
import plistlib
from collections.abc import Iterator
from typing import Any, Final
from xml.parsers.expat import ExpatError

from attrs import field, frozen

from nanomdm.errors import MessageError
from nanomdm.mdm.checkin import (
    Authenticate,
    CheckOut,
    SetBootstrapToken,
    TokenUpdate,
    UserAuthenticate,
)

#: The messages that tell a server something to keep.
Migratable = Authenticate | TokenUpdate | SetBootstrapToken | UserAuthenticate | CheckOut


@frozen
class UserChannel:
    """
    A user of a device, as a server keeps it.

    @ivar id: its enrollment id.
    @ivar token_update: its last C{TokenUpdate}.
    """

    id: str
    token_update: bytes = field(repr=False)


@frozen
class EnrolledDevice:
    """
    A device, as a server keeps it.

    @ivar id: its enrollment id.
    @ivar authenticate: its last C{Authenticate}.
    @ivar token_update: its last C{TokenUpdate}.
    @ivar unlock_token: the one that came last, in whichever C{TokenUpdate}.
    @ivar bootstrap_token: the one that it escrowed, base64.
    @ivar unreadable: why its tokens can not be read, if so.
    @ivar users: its user channels.
    """

    id: str
    authenticate: bytes = field(repr=False)
    token_update: bytes = field(repr=False)
    unlock_token: bytes | None = field(repr=False)
    bootstrap_token: str | None = field(repr=False)
    unreadable: str | None = None
    users: tuple[UserChannel, ...] = ()


@frozen
class Parcel:
    """
    A message for the other server.

    @ivar id: the enrollment id that it is of.
    @ivar message_type: what it is.
    """

    id: str
    message_type: str
    body: bytes = field(repr=False)


def parcels(device: EnrolledDevice) -> Iterator[Parcel]:
    """
    @return: the messages that carry a device over, in the order in which a server
        must get them.
    @raise MessageError: the one that is due can not be made of what is kept.
    """
    if device.unreadable is not None:
        # Without them it would seem to be there, and they would be lost.
        raise MessageError(device.unreadable)
    yield Parcel(device.id, "Authenticate", device.authenticate)
    token_update = device.token_update
    if device.unlock_token:
        token_update = with_unlock_token(token_update, device.unlock_token)
    yield Parcel(device.id, "TokenUpdate", token_update)
    if device.bootstrap_token:
        body = _set_bootstrap_token(device.authenticate, device.bootstrap_token)
        yield Parcel(device.id, "SetBootstrapToken", body)
    for user in device.users:
        yield Parcel(user.id, "TokenUpdate", user.token_update)


def with_unlock_token(token_update: bytes, token: bytes) -> bytes:
    """
    Put an unlock token back: devices send it once, and not in the C{TokenUpdate}s
    that follow (Apple, "TokenUpdateRequest").

    @return: the same message, with C{token} unless it has one.
    @raise MessageError: it is no property list.
    """
    message = _read(token_update)
    if message.get("UnlockToken"):
        return token_update
    message["UnlockToken"] = token
    return _write(message)


#: What says whose message it is.
_IDS: Final[tuple[str, ...]] = ("UDID", "EnrollmentID")


def _set_bootstrap_token(authenticate: bytes, token: str) -> bytes:
    known = _read(authenticate)
    ids = {key: known[key] for key in _IDS if key in known}
    try:
        decoded = base64.b64decode(token)
    except ValueError:
        raise MessageError("the bootstrap token that is kept is not base64") from None
    return _write({"MessageType": "SetBootstrapToken", **ids, "BootstrapToken": decoded})


def _read(body: bytes) -> dict[str, Any]:
    try:
        message = plistlib.loads(body, fmt=plistlib.FMT_XML)
    except (ValueError, TypeError, LookupError, AttributeError, ExpatError) as error:
        raise MessageError(f"what is kept is no property list: {error}") from None
    if not isinstance(message, dict):
        raise MessageError("what is kept is no dictionary")
    return message


def _write(message: dict[str, Any]) -> bytes:
    return plistlib.dumps(message, sort_keys=False)
