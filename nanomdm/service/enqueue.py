"""
Enqueueing: a command for many enrollments, and the pushes that wake them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from zope.interface import implementer

from nanomdm.errors import CommandConflict
from nanomdm.interfaces import ICommandStore, IPusher, PushResult
from nanomdm.mdm.command import Command


@define
class EnrollmentStatus:
    """
    What happened to one id.

    @ivar push_error: why the push failed.
    @ivar push_result: APNs' id of the push.
    @ivar command_error: why the command was not queued.
    """

    push_error: str | None = None
    push_result: str | None = None
    command_error: str | None = None

    @property
    def failed(self) -> bool:
        """
        Whether anything went wrong for this id.
        """
        return self.push_error is not None or self.command_error is not None


@define
class APIResult:
    """
    What an API client is told of an enqueueing.

    @ivar status: for each id that there is something to say of.
    @ivar no_push: the client asked for no pushes.
    @ivar command_error: why nothing was queued at all.
    @ivar id_count: how many distinct ids there were.
    """

    id_count: int = 0
    status: dict[str, EnrollmentStatus] = field(factory=dict)
    no_push: bool = False
    command_error: str | None = None
    command_uuid: str | None = None
    request_type: str | None = None

    def of(self, enrollment_id: str) -> EnrollmentStatus:
        """
        The status of one id, made when it is first asked for.
        """
        return self.status.setdefault(enrollment_id, EnrollmentStatus())

    @property
    def errors(self) -> int:
        """
        The number of ids that something went wrong for.
        """
        return sum(status.failed for status in self.status.values())

    def to_json(self) -> dict[str, Any]:
        """
        The result object: members that say nothing are left out, ids are sorted.
        """
        status = {
            enrollment_id: _present(
                push_error=one.push_error,
                push_result=one.push_result,
                command_error=one.command_error,
            )
            for enrollment_id, one in sorted(self.status.items())
        }
        return _present(
            status=status,
            no_push=self.no_push,
            command_error=self.command_error,
            command_uuid=self.command_uuid,
            request_type=self.request_type,
        )


def _present(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value}


class CommandEnqueuer:
    """
    Queues commands and pushes to the enrollments that took them.
    """

    _log: Final = Logger()

    def __init__(self, store: ICommandStore, pusher: IPusher) -> None:
        self._store = store
        self._pusher = pusher

    async def enqueue(self, command: Command, ids: Sequence[str], push: bool) -> APIResult:
        """
        @param ids: enrollment ids; repeated ones count once.
        @param push: whether to push to the ids that took the command.
        @return: what happened to each id; a conflict of command UUIDs is its
            C{command_error}, with nothing queued.
        """
        ids = list(dict.fromkeys(ids))
        result = APIResult(
            id_count=len(ids),
            no_push=not push,
            command_uuid=command.uuid,
            request_type=command.request_type,
        )
        try:
            refused = await self._store.enqueue(command, ids)
        except CommandConflict as conflict:
            result.command_error = str(conflict)
            return result
        for enrollment_id, reason in refused.items():
            result.of(enrollment_id).command_error = reason
        accepted = [enrollment_id for enrollment_id in ids if enrollment_id not in refused]
        if push and accepted:
            await self._push(result, accepted)
        self._log.info(
            "enqueued",
            command_uuid=command.uuid,
            request_type=command.request_type,
            accepted=len(accepted),
            refused=len(refused),
        )
        return result

    async def _push(self, result: APIResult, ids: Sequence[str]) -> None:
        for enrollment_id, pushed in (await self._pusher.push(ids)).items():
            status = result.of(enrollment_id)
            status.push_error = pushed.error
            status.push_result = pushed.id


@implementer(IPusher)
class UnavailablePusher:
    """
    Stands where pushes are sent once this server can send them.
    """

    def push(self, ids: Sequence[str]) -> Deferred[Mapping[str, PushResult]]:
        """
        Tell for each id that there was no push.
        """
        error = PushResult(error="this server can not send pushes")
        return succeed(dict.fromkeys(ids, error))
