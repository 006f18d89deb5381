"""
Enrollment ids: who a message speaks for.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from attrs import evolve, field, frozen

from nanomdm.errors import MessageError
from nanomdm.mdm.fields import optional_string
from nanomdm.mdm.plist import Dictionary

#: Width of every id column.
MAX_ID: Final = 255

#: What a Shared iPad sends as C{UserID} for the user that is logged in (Apple,
#: "TokenUpdateRequest").
SHARED_IPAD_USER_ID: Final = "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"


class EnrollmentType(Enum):
    """
    The kinds of enrollment; the values are the texts that NanoMDM stores and
    sends.
    """

    DEVICE = "Device"
    USER = "User"
    SHARED_IPAD = "Shared iPad"
    USER_ENROLLMENT_DEVICE = "User Enrollment (Device)"
    USER_ENROLLMENT = "User Enrollment"


@frozen
class Enrollment:
    """
    One MDM channel.

    @ivar id: the enrollment id; a user channel's is its device's id, a colon and
        the user's.
    @ivar type: the kind of enrollment.
    @ivar parent_id: the device channel's id, on user channels only.
    @ivar unused_id: the C{EnrollmentID} of a message that has a C{UDID} too; it is no part
        of what the enrollment is.
    """

    id: str
    type: EnrollmentType
    parent_id: str | None = None
    unused_id: str | None = field(default=None, eq=False, repr=False)

    @property
    def device_id(self) -> str:
        """
        The id of the device channel: this one's own or its parent's.
        """
        return self.parent_id or self.id

    @property
    def is_user_channel(self) -> bool:
        """
        Whether this is the channel of one user of a device.
        """
        return self.parent_id is not None


def enrollment_of(message: Dictionary) -> Enrollment:
    """
    Find out which enrollment a message comes from.

    @param message: the outermost keys of a check-in message or command report.
    @raise MessageError: there is no id, or one that can not be stored.
    """
    device_id = _part(message, "UDID")
    if device_id is not None:
        enrollment = _device_enrollment(message, device_id)
        unused = message.get("EnrollmentID")
        # Whatever it is, it does no harm.
        if isinstance(unused, str) and unused:
            return evolve(enrollment, unused_id=unused)
        return enrollment
    device_id = _part(message, "EnrollmentID")
    if device_id is None:
        raise MessageError("neither UDID nor EnrollmentID")
    user_id = _part(message, "EnrollmentUserID")
    if user_id is None:
        return _device(device_id, EnrollmentType.USER_ENROLLMENT_DEVICE)
    return _user(device_id, user_id, EnrollmentType.USER_ENROLLMENT)


def _device_enrollment(message: Dictionary, device_id: str) -> Enrollment:
    user_id = _part(message, "UserID")
    if user_id is None:
        return _device(device_id, EnrollmentType.DEVICE)
    if user_id == SHARED_IPAD_USER_ID:
        short_name = _part(message, "UserShortName")
        if short_name is None:
            raise MessageError("UserShortName is missing or empty")
        return _user(device_id, short_name, EnrollmentType.SHARED_IPAD)
    return _user(device_id, user_id, EnrollmentType.USER)


def _part(message: Dictionary, key: str) -> str | None:
    """
    A part of an enrollment id.  The API separates ids by commas and logs show
    them, so a device must not call itself what could be read as something else.
    """
    part = optional_string(message, key, MAX_ID)
    if part is not None and ("," in part or part != part.strip() or not part.isprintable()):
        raise MessageError(f"{key} holds a comma, a control character or a blank at its end")
    return part


def _device(device_id: str, type: EnrollmentType) -> Enrollment:
    # A colon would let one device name itself like a user channel of another.
    if ":" in device_id:
        raise MessageError("a device's id contains a colon")
    return Enrollment(device_id, type)


def _user(device_id: str, user_id: str, type: EnrollmentType) -> Enrollment:
    _device(device_id, type)
    if len(device_id) + 1 + len(user_id) > MAX_ID:
        raise MessageError(f"the enrollment id is longer than {MAX_ID} characters")
    return Enrollment(f"{device_id}:{user_id}", type, device_id)
