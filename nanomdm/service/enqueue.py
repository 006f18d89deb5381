"""
Enqueueing: a command for many enrollments, and the pushes that wake them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from attrs import evolve, field, frozen
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from zope.interface import implementer

from nanomdm.errors import CommandConflict
from nanomdm.interfaces import ICommandStore, IPusher, PushResult
from nanomdm.mdm.command import Command


@frozen
class APIResult:
    """
    What an API client is told of an enqueueing.

    @ivar id_count: how many ids there were.
    @ivar refused: why the command was not queued, for each id that did not take
        it.
    @ivar pushes: what became of the pushes to the others.
    @ivar no_push: the client asked for no pushes.
    @ivar command_error: why nothing was queued at all.
    @ivar command_uuid: the command's UUID.
    @ivar request_type: the command's request type.
    """

    id_count: int = 0
    refused: Mapping[str, str] = field(factory=dict)
    pushes: Mapping[str, PushResult] = field(factory=dict)
    no_push: bool = False
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
            **{
                one: _present(push_error=push.error, push_result=push.id)
                for one, push in self.pushes.items()
            },
        }
        return _present(
            status={one: status[one] for one in sorted(status)},
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
        @param ids: enrollment ids, each once.
        @param push: whether to push to the ids that took the command.
        @return: what happened to each id; a conflict of command UUIDs is its
            C{command_error}, with nothing queued.
        """
        result = APIResult(
            id_count=len(ids),
            no_push=not push,
            command_uuid=command.uuid,
            request_type=command.request_type,
        )
        try:
            refused = await self._store.enqueue(command, ids)
        except CommandConflict as conflict:
            return evolve(result, command_error=str(conflict))
        accepted = [one for one in ids if one not in refused] if refused else ids
        self._log.info(
            "enqueued",
            command_uuid=command.uuid,
            request_type=command.request_type,
            accepted=len(accepted),
            refused=len(refused),
        )
        pushes = await self._pusher.push(accepted) if push and accepted else {}
        return evolve(result, refused=refused, pushes=pushes)


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
