"""
What the webhook tells of an accepted request.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from attrs import field, frozen

from nanomdm.mdm.enrollment import Enrollment

#: The topic of command reports; those of check-ins end in their C{MessageType}.
CONNECT: Final = "mdm.Connect"


@frozen
class Event:
    """
    An accepted request.

    @ivar id: the request's trace id.
    @ivar topic: C{mdm.} and what came, for example C{mdm.TokenUpdate}.
    @ivar created_at: when it came, with a time zone.
    @ivar enrollment: the channel it came on.
    @ivar raw: its body: UTF-8.
    @ivar url_params: the query of its URL.
    @ivar udid: as sent.
    @ivar enrollment_id: as sent.
    @ivar status: of a command report.
    @ivar command_uuid: of a command report that is not idle.
    """

    id: str
    topic: str
    created_at: datetime
    enrollment: Enrollment
    raw: bytes = field(repr=False)
    url_params: Mapping[str, str] = field(factory=dict, repr=False)
    udid: str | None = None
    enrollment_id: str | None = None
    status: str | None = None
    command_uuid: str | None = None

    def head(self, tally: int | None = None) -> str:
        """
        Make what the receiver gets, but for the request's body.

        @param tally: of a C{TokenUpdate}: how many there were since the
            C{Authenticate}.
        @return: JSON, in ASCII: an object whose last member is an object, as L{body}
            needs it.
        """
        # Of the clock, not of the zone: no offset behind it.
        created_at = self.created_at.astimezone(UTC).replace(tzinfo=None)
        details = "acknowledge_event" if self.topic == CONNECT else "checkin_event"
        return json.dumps(
            {
                "topic": self.topic,
                "event_id": self.id,
                "created_at": f"{created_at.isoformat(timespec='microseconds')}Z",
                details: self._details(tally),
            }
        )

    def _details(self, tally: int | None) -> dict[str, Any]:
        enrollment = self.enrollment
        ids = {
            "id": enrollment.id,
            "type": enrollment.type.value,
            "parent_id": enrollment.parent_id,
        }
        return _present(
            {
                "udid": self.udid,
                "enrollment_id": self.enrollment_id,
                "status": self.status,
                "command_uuid": self.command_uuid,
                "url_params": dict(self.url_params),
                "token_update_tally": tally,
                "ids": _present(ids),
            }
        )


def body(head: str, raw: bytes) -> bytes:
    """
    Make what the receiver gets.  Takes long when the request was large.

    @param head: see L{Event.head}.
    @param raw: the request's body.
    """
    # Inside the two braces that end the head; Base64 holds nothing to be escaped.
    return b"".join((head[:-2].encode(), b', "raw_payload": "', base64.b64encode(raw), b'"}}'))


def _present(members: Mapping[str, Any]) -> dict[str, Any]:
    """
    @return: the members that say something; a number always does.
    """
    return {name: value for name, value in members.items() if value not in (None, "", {})}
