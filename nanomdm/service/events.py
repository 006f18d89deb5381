"""
What the webhook is told of requests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from attrs import field, frozen

from nanomdm.mdm.checkin import CheckinMessage
from nanomdm.mdm.command import IDLE, CommandReport
from nanomdm.mdm.enrollment import Enrollment, EnrollmentType
from nanomdm.mdm.event import CONNECT, Event

_USER_ENROLLMENTS = frozenset(
    {EnrollmentType.USER_ENROLLMENT_DEVICE, EnrollmentType.USER_ENROLLMENT}
)


@frozen
class RequestContext:
    """
    How a message came.

    @ivar trace_id: names the request in logs.
    @ivar url_params: the query of its URL.
    """

    trace_id: str
    url_params: Mapping[str, str] = field(factory=dict, repr=False)


class EventSource:
    """
    Makes events of requests.

    @param written: called when there are new ones in the storage.
    @param now: the time, with its zone.
    @param idle: whether reports without a result are worth one.
    """

    def __init__(
        self, written: Callable[[], None], now: Callable[[], datetime], idle: bool = True
    ) -> None:
        self.written = written
        self._now = now
        self._idle = idle

    def of_checkin(self, message: CheckinMessage, context: RequestContext) -> Event:
        """
        @return: what there is to tell of a check-in.
        """
        return self._event(f"mdm.{message.message_type}", message, context)

    def of_report(self, report: CommandReport, context: RequestContext) -> Event | None:
        """
        @return: what there is to tell of a command report, if anything.
        """
        if report.status == IDLE and not self._idle:
            return None
        return self._event(
            CONNECT, report, context, status=report.status, command_uuid=report.command_uuid or None
        )

    def _event(
        self,
        topic: str,
        message: CheckinMessage | CommandReport,
        context: RequestContext,
        **more: str | None,
    ) -> Event:
        udid, enrollment_id = _sent_ids(message.enrollment)
        return Event(
            context.trace_id,
            topic,
            self._now(),
            message.enrollment,
            message.raw,
            context.url_params,
            udid=udid,
            enrollment_id=enrollment_id,
            **more,
        )


def _sent_ids(enrollment: Enrollment) -> tuple[str | None, str | None]:
    """
    @return: C{UDID} and C{EnrollmentID} of the message.
    """
    if enrollment.type in _USER_ENROLLMENTS:
        return None, enrollment.device_id
    return enrollment.device_id, enrollment.unused_id
