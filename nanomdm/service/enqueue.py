"""
Enqueueing: a command for many enrollments, and the pushes that wake them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import evolve
from twisted.logger import Logger

from nanomdm.errors import CommandConflict, NanoMDMError, Overloaded, internal
from nanomdm.interfaces import ICommandStore, IPusher
from nanomdm.mdm.command import Command
from nanomdm.service.result import APIResult


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
            C{command_error}, with nothing queued.  Whatever keeps pushes from
            being sent is its C{push_error}: the command is queued by then.
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
        result = evolve(result, refused=refused)
        return await self._push(result, accepted) if push and accepted else result

    async def _push(self, result: APIResult, ids: Sequence[str]) -> APIResult:
        try:
            return evolve(result, pushes=await self._pusher.push(ids))
        except Overloaded as error:
            return evolve(result, push_error=str(error))
        except NanoMDMError as error:
            self._log.error(
                "no pushes for command", command_uuid=result.command_uuid, error=str(error)
            )
            return evolve(result, push_error=internal(error))
        except Exception:
            self._log.failure("unexpected error", command_uuid=result.command_uuid)
        return evolve(result, push_error="internal error")
