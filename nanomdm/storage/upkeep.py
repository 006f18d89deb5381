"""
Keeping the queue short: answered rows that are still active, and what is older
than the retention.

NanoMDM leaves answered commands active for ever, and looking for the next command
has to step over each of them.  A pass walks over the queue by its primary key in
small pieces, each a short transaction, so that neither devices nor other servers
notice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from nanomdm.mdm.command import NOT_NOW
from nanomdm.storage.commands import ANSWERED, delete_answered
from nanomdm.storage.database import Database
from nanomdm.storage.inspection import queue_summary
from nanomdm.storage.transaction import Transaction

#: Seconds between two passes, and before the first.
_INTERVAL: Final = 3600.0
_DELAY: Final = 15.0

#: Rows in a piece, and seconds between two of them.
_PIECE: Final = 500
_PAUSE: Final = 0.05

# Written so that every engine goes straight to the first row in the index.
_ROWS: Final = """
    SELECT k.id, k.command_uuid, k.active, r.status, {age}
      FROM (SELECT id, command_uuid, active FROM enrollment_queue
             WHERE id >= ? AND (id > ? OR command_uuid > ?)
             ORDER BY id, command_uuid LIMIT {limit}) AS k
      LEFT JOIN command_results AS r ON r.id = k.id AND r.command_uuid = k.command_uuid
     ORDER BY k.id, k.command_uuid
"""
_RETIRE: Final = f"""
    UPDATE enrollment_queue SET active = FALSE WHERE id = ? AND command_uuid = ? AND {ANSWERED}
"""
_COMMANDS: Final = """
    SELECT c.command_uuid,
           EXISTS (SELECT 1 FROM enrollment_queue AS q WHERE q.command_uuid = c.command_uuid)
      FROM (SELECT command_uuid FROM commands WHERE command_uuid > ?
             ORDER BY command_uuid LIMIT {limit}) AS c
     ORDER BY c.command_uuid
"""
_LOCK: Final = """
    SELECT command_uuid FROM commands WHERE command_uuid IN ({{values}})
     ORDER BY command_uuid {for_update}
"""
_NAMED: Final = "SELECT DISTINCT command_uuid FROM {table} WHERE command_uuid IN ({{values}})"
_DELETE_COMMANDS: Final = "DELETE FROM commands WHERE command_uuid IN ({values})"

_START: Final = ("", "")


@frozen
class Piece:
    """
    Where a piece of a pass begins, and what is too old.

    @ivar after: the key of the row before it.
    @ivar retention: seconds; L{None} keeps everything.
    """

    after: tuple[str, str] = _START
    retention: float | None = None


def tidy_queue(transaction: Transaction, pieces: Sequence[Piece]) -> list[tuple[str, str] | None]:
    """
    @return: for each piece the key that the next one goes on after; L{None} at
        the end.
    """
    return [_tidy_queue(transaction, piece) for piece in pieces]


def _tidy_queue(transaction: Transaction, piece: Piece) -> tuple[str, str] | None:
    age = transaction.dialect.age("r.updated_at")
    after, uuid = piece.after
    rows = transaction.rows(_ROWS.format(age=age, limit=_PIECE), (after, after, uuid))
    old, retired = [], []
    for enrollment_id, command_uuid, active, status, seconds in rows:
        if status in (None, NOT_NOW):
            continue
        if piece.retention is not None and seconds > piece.retention:
            old.append((enrollment_id, command_uuid))
        elif active:
            retired.append((enrollment_id, command_uuid))
    delete_answered(transaction, old)
    transaction.execute_many(_RETIRE, retired)
    return (rows[-1][0], rows[-1][1]) if len(rows) == _PIECE else None


def tidy_commands(transaction: Transaction, after: Sequence[str]) -> list[str | None]:
    """
    Delete commands that nobody has to answer and nobody has answered.

    @param after: for each piece the UUID before it.
    @return: the UUID that the next one goes on after; L{None} at the end.
    """
    return [_tidy_commands(transaction, uuid) for uuid in after]


def _tidy_commands(transaction: Transaction, after: str) -> str | None:
    rows = transaction.rows(_COMMANDS.format(limit=_PIECE), (after,))
    _delete_unnamed(transaction, [uuid for uuid, queued in rows if not queued])
    return rows[-1][0] if len(rows) == _PIECE else None


def _delete_unnamed(transaction: Transaction, uuids: Sequence[str]) -> None:
    """
    Deleting a command deletes it from every queue.  So the rows are locked, and
    only what is in no queue after that goes: who enqueues locks them as well.
    """
    lock = _LOCK.format(for_update=transaction.dialect.for_update)
    locked = [uuid for (uuid,) in transaction.rows_in(lock, uuids)]
    named: set[str] = set()
    for table in ("enrollment_queue", "command_results"):
        statement = _NAMED.format(table=table)
        named.update(uuid for (uuid,) in transaction.rows_in(statement, locked))
    transaction.execute_in(_DELETE_COMMANDS, [uuid for uuid in locked if uuid not in named])


def forget_numbers(transaction: Transaction, calls: Sequence[None]) -> list[None]:
    """
    Delete what the source of numbers leaves behind, where it is a table.
    """
    for statement in transaction.dialect.forget_numbers:
        transaction.execute(statement)
    return [None] * len(calls)


class Upkeep:
    """
    Passes over the queue from time to time.  A pass that failed is continued by
    the next one.

    @param retention: seconds after which answered commands are deleted; L{None}
        keeps them.
    @param delete_commands: whether commands that are in no queue are deleted.
    @param inspected: where the numbers in the log come from, if not from
        C{database}.
    """

    _log = Logger()

    def __init__(
        self,
        database: Database,
        clock: IReactorTime,
        retention: float | None = None,
        delete_commands: bool = False,
        inspected: Database | None = None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._retention = retention
        self._delete_commands = delete_commands
        self._inspected = inspected or database
        self._passes = LoopingCall(self.tidy)
        self._passes.clock = clock
        self._first: IDelayedCall | None = None
        self._stopping = False
        self._running: Deferred[None] | None = None
        self._pausing: Deferred[None] | None = None
        self._key: tuple[str, str] | None = _START
        self._uuid: str | None = ""

    def start(self) -> None:
        """
        Begin, a moment after the start of the server.
        """
        self._first = self._clock.callLater(_DELAY, self._begin)

    def stop(self) -> Deferred[None]:
        """
        @return: fires once the piece under way is done.
        """
        self._stopping = True
        if self._first is not None and self._first.active():
            self._first.cancel()
        if self._passes.running:
            self._passes.stop()
        done: Deferred[None] = Deferred()
        if self._running is None:
            done.callback(None)
        else:
            self._running.addBoth(lambda ignored: done.callback(None))
        if self._pausing is not None:
            self._pausing.cancel()
        return done

    def tidy(self) -> Deferred[None]:
        """
        Do one pass.
        """
        self._running = Deferred.fromCoroutine(self._tidy())
        self._running.addErrback(self._failed)
        return self._running

    def _begin(self) -> None:
        self._passes.start(_INTERVAL).addErrback(self._failed)

    async def _tidy(self) -> None:
        # Beside the transactions that devices wait for, never in one of them.
        while self._key is not None:
            piece = Piece(self._key, self._retention)
            self._key = await self._database.write_alone(tidy_queue, piece)
            await self._pause()
        while self._delete_commands and self._uuid is not None:
            self._uuid = await self._database.write_alone(tidy_commands, self._uuid)
            await self._pause()
        self._key, self._uuid = _START, ""
        await self._database.write_alone(forget_numbers, None)
        summary = await queue_summary(self._inspected)
        self._log.info(
            "queue",
            outstanding=summary.outstanding,
            enrollments=summary.enrollments,
            enabled=summary.enabled,
        )

    async def _pause(self) -> None:
        if self._stopping:
            raise CancelledError
        self._pausing = deferLater(self._clock, _PAUSE)
        await self._pausing

    def _failed(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.warn("upkeep failed, it will be tried again", error=failure.getErrorMessage())
