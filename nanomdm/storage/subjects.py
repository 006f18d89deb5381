"""
Whom a call is about, so that calls about others can be moved past it.
"""

from __future__ import annotations

from typing import Any, Final

from nanomdm.mdm.checkin import CheckinMessage
from nanomdm.mdm.command import CommandReport
from nanomdm.mdm.enrollment import Enrollment
from nanomdm.mdm.event import Event
from nanomdm.storage.associations import AssociateCall
from nanomdm.storage.commands import EnqueueCall
from nanomdm.storage.enrollments import AuthenticateCall
from nanomdm.storage.tokens import BootstrapToken

#: Whom a call is about that is about nobody whose calls have an order.
NOBODY: Final[frozenset[str]] = frozenset()


def devices_of(argument: Any) -> frozenset[str] | None:
    """
    @param argument: of an operation that changes something.
    @return: the ids of the devices that it changes something of, they or their users;
        L{None} if that is not known.
    """
    match argument:
        case (told, Event()):
            return devices_of(told)
        case str():
            return frozenset([_device_of(argument)])
        case EnqueueCall():
            return frozenset(map(_device_of, argument.ids))
        case Enrollment() | BootstrapToken():
            return frozenset([argument.device_id])
        case AssociateCall():
            return frozenset([argument.pair.device_id])
        case AuthenticateCall():
            return frozenset([argument.message.enrollment.device_id])
        case CheckinMessage() | CommandReport() | Event():
            return frozenset([argument.enrollment.device_id])
    return None


def _device_of(enrollment_id: str) -> str:
    return enrollment_id.partition(":")[0]
