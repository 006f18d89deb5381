"""
What an API client is told of an enqueueing or a push.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from nanomdm.interfaces import PushResult


@frozen
class APIResult:
    """
    What became of a call for many enrollments.

    @ivar id_count: how many ids there were.
    @ivar refused: why the command was not queued, for each id that did not take
        it.
    @ivar pushes: what became of the pushes to the others.
    @ivar no_push: the client asked for no pushes.
    @ivar push_error: why nothing was pushed at all.
    @ivar command_error: why nothing was queued at all.
    @ivar command_uuid: the command's UUID.
    @ivar request_type: the command's request type.
    """

    id_count: int = 0
    refused: Mapping[str, str] = field(factory=dict)
    pushes: Mapping[str, PushResult] = field(factory=dict)
    no_push: bool = False
    push_error: str | None = None
    command_error: str | None = None
    command_uuid: str | None = None
    request_type: str | None = None

    @property
    def status_count(self) -> int:
        """
        The number of ids that there is something to say of.
        """
        return len(self.refused) + len(self.pushes)

    @property
    def errors(self) -> int:
        """
        The number of ids that something went wrong for.
        """
        return len(self.refused) + sum(push.error is not None for push in self.pushes.values())

    def to_json(self) -> dict[str, Any]:
        """
        The result object: members that say nothing are left out, ids are sorted.
        """
        status = {
            **{one: _present(command_error=reason) for one, reason in self.refused.items()},
            **{one: _of_push(push) for one, push in self.pushes.items()},
        }
        return _present(
            status={one: status[one] for one in sorted(status)},
            no_push=self.no_push,
            push_error=self.push_error,
            command_error=self.command_error,
            command_uuid=self.command_uuid,
            request_type=self.request_type,
        )


def _of_push(push: PushResult) -> dict[str, Any]:
    return _present(
        push_error=push.error,
        push_result=push.id,
        push_status=push.status,
        push_reason=push.reason,
    )


def _present(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value}
