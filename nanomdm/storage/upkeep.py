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
from typing import Any, Final

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from nanomdm.mdm.command import NOT_NOW
from nanomdm.storage.commands import delete_answered
from nanomdm.storage.database import Database
from nanomdm.storage.transaction import Transaction, chunks, marks

#: Seconds between two passes, and before the first.
_INTERVAL: Final = 3600.0
_DELAY: Final = 15.0

#: Rows in a piece, and seconds between two of them.
_PIECE: Final = 500
_PAUSE: Final = 0.05

#: Seconds for which a command that nobody has to answer is kept: somebody may be
#: about to enqueue it again.
_ORPHAN_AGE: Final = 3600.0

_ROWS: Final = """
    SELECT k.id, k.command_uuid, k.active, r.status, {age}
      FROM (SELECT id, command_uuid, active FROM enrollment_queue
             WHERE id > ? OR (id = ? AND command_uuid > ?)
             ORDER BY id, command_uuid LIMIT {limit}) AS k
      LEFT JOIN command_results AS r ON r.id = k.id AND r.command_uuid = k.command_uuid
     ORDER BY k.id, k.command_uuid
"""
_RETIRE: Final = "UPDATE enrollment_queue SET active = FALSE WHERE id = ? AND command_uuid = ?"
_COMMANDS: Final = """
    SELECT command_uuid, {age} FROM commands WHERE command_uuid > ?
     ORDER BY command_uuid LIMIT {limit} {locked}
"""
_QUEUED: Final = (
    "SELECT DISTINCT command_uuid FROM enrollment_queue WHERE command_uuid IN ({values})"
)
_DELETE_COMMANDS: Final = "DELETE FROM commands WHERE command_uuid IN ({values})"


@frozen
class Piece:
    """
    Where a piece of a pass begins, and what is too old.

    @ivar after: the key of the row before it.
    @ivar retention: seconds; L{None} keeps everything.
    """

    after: tuple[str, str] = ("", "")
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
    answered = [row for row in rows if row[3] not in (None, NOT_NOW)]
    old = [] if piece.retention is None else [r for r in answered if r[4] > piece.retention]
    delete_answered(transaction, [(row[0], row[1]) for row in old])
    retired = [(row[0], row[1]) for row in answered if row[2] and row not in old]
    transaction.execute_many(_RETIRE, retired)
    return (rows[-1][0], rows[-1][1]) if len(rows) == _PIECE else None


def tidy_commands(transaction: Transaction, after: Sequence[str]) -> list[str | None]:
    """
    Delete commands that are in no queue.

    @param after: for each piece the UUID before it.
    @return: the UUID that the next one goes on after; L{None} at the end.
    """
    return [_tidy_commands(transaction, uuid) for uuid in after]


def _tidy_commands(transaction: Transaction, after: str) -> str | None:
    dialect = transaction.dialect
    # Deleting a command deletes it from every queue.  So the rows are locked, and
    # only what is in no queue after that goes: who enqueues locks them as well.
    statement = _COMMANDS.format(
        age=dialect.age("created_at"), limit=_PIECE, locked=dialect.for_update
    )
    rows = transaction.rows(statement, (after,))
    old = [uuid for uuid, age in rows if age > _ORPHAN_AGE]
    queued = {uuid for (uuid,) in transaction.rows_in(_QUEUED, old)}
    for chunk in chunks([uuid for uuid in old if uuid not in queued]):
        transaction.execute(_DELETE_COMMANDS.format(values=marks(len(chunk))), chunk)
    return rows[-1][0] if len(rows) == _PIECE else None


class Upkeep:
    """
    Passes over the queue from time to time.

    @param retention: seconds after which answered commands are deleted; L{None}
        keeps them.
    @param delete_commands: whether commands that are in no queue are deleted.
    """

    _log = Logger()

    def __init__(
        self,
        database: Database,
        clock: IReactorTime,
        retention: float | None = None,
        delete_commands: bool = False,
    ) -> None:
        self._database = database
        self._clock = clock
        self._retention = retention
        self._delete_commands = delete_commands
        self._passes = LoopingCall(self.tidy)
        self._passes.clock = clock
        self._first: Any = None
        self._stopping = False
        self._running: Deferred[None] | None = None

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
        key: tuple[str, str] | None = ("", "")
        while key is not None and not self._stopping:
            key = await self._database.write(tidy_queue, Piece(key, self._retention))
            await deferLater(self._clock, _PAUSE)
        uuid: str | None = "" if self._delete_commands else None
        while uuid is not None and not self._stopping:
            uuid = await self._database.write(tidy_commands, uuid)
            await deferLater(self._clock, _PAUSE)

    def _failed(self, failure: Failure) -> None:
        self._log.warn("upkeep failed, it will be tried again", error=failure.getErrorMessage())
