"""
What waits in an enrollment's queue, and changes to it.

Names are those that enrollments and commands have.  A queue row may spell them with other
letters where a taken-over MySQL database compares without regard to case, but who asks
with other letters gets nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

from nanomdm.errors import AlreadyAnswered, MessageError, Unknown
from nanomdm.interfaces import Listing, OutstandingCommand, Page
from nanomdm.mdm.command import NOT_NOW
from nanomdm.storage.commands import ANSWERED
from nanomdm.storage.cursors import key_of, listing_of
from nanomdm.storage.dialect import Dialect
from nanomdm.storage.transaction import Transaction

R = TypeVar("R")

#: Not as a join: PostgreSQL might go through all answers of the enrollment for each row.
_UNANSWERED: Final = """
    COALESCE((SELECT r.status FROM command_results AS r
               WHERE r.id = q.id AND r.command_uuid = q.command_uuid), 'NotNow') = 'NotNow'
"""
_AFTER: Final = """
    q.priority <= ? AND (q.priority < ? OR q.created_at > ? OR (q.created_at = ?
        AND (q.nanomdm_seq > ? OR (q.nanomdm_seq = ? AND q.command_uuid > ?))))
"""
_CLEAR: Final = f"""
    UPDATE enrollment_queue SET active = FALSE WHERE id = ? AND active = TRUE AND NOT {ANSWERED}
"""
_CANCEL: Final = """
    UPDATE enrollment_queue SET active = FALSE WHERE id = ? AND command_uuid = ?
"""
_PRIORITY: Final = """
    UPDATE enrollment_queue SET priority = ? WHERE id = ? AND command_uuid = ?
"""
_LOCK: Final = """
    SELECT active FROM enrollment_queue WHERE id = ? AND command_uuid = ? {for_update}
"""
_STATUS: Final = "SELECT status FROM command_results WHERE id = ? AND command_uuid = ?"


def require_enrollment(transaction: Transaction, enrollment_id: str) -> None:
    """
    @raise Unknown: there is no enrollment of this id.
    """
    found = transaction.row("SELECT id FROM enrollments WHERE id = ?", (enrollment_id,))
    if found is None or found[0] != enrollment_id:
        raise Unknown(f"there is no enrollment {enrollment_id}")


def is_command(transaction: Transaction, command_uuid: str) -> bool:
    """
    Whether there is a command of this UUID.
    """
    sql = "SELECT command_uuid FROM commands WHERE command_uuid = ?"
    found = transaction.row(sql, (command_uuid,))
    return found is not None and found[0] == command_uuid


def outstanding(
    transaction: Transaction, calls: Sequence[tuple[str, Page]]
) -> list[Listing[OutstandingCommand] | Unknown | MessageError]:
    """
    @return: for each call its part of the queue.
    """
    return [told(_outstanding, transaction, *call) for call in calls]


def told(work: Callable[..., R], *arguments: Any) -> Any:
    """
    @return: what C{work} returns, or what it raises to tell the caller; so other calls in
        the transaction go on.
    """
    try:
        return work(*arguments)
    except (AlreadyAnswered, MessageError, Unknown) as error:
        return error


def _outstanding(
    transaction: Transaction, enrollment_id: str, page: Page
) -> Listing[OutstandingCommand]:
    after: list[str | int] = []
    if page.cursor is not None:
        priority, created, seq, uuid = key_of(page.cursor, int, datetime, int, str)
        after = [priority, priority, created, created, seq, seq, uuid]
    require_enrollment(transaction, enrollment_id)
    statement = outstanding_statement(transaction.dialect, bool(after))
    rows = transaction.rows(statement, (enrollment_id, *after, page.limit + 1))
    return listing_of(rows, page.limit, _command, lambda row: (row[2], str(row[6]), *row[7:]))


def outstanding_statement(dialect: Dialect, after: bool) -> str:
    """
    @param after: whether to go on after a row.
    @return: SQL for an enrollment's outstanding commands in the order of
        L{nanomdm.storage.commands.NEXT_COMMANDS}; where that leaves any order open, too.
    """
    return f"""
    SELECT c.command_uuid, c.request_type, k.priority, {dialect.unix_time("k.created_at")},
           {dialect.unix_time("r.not_now_at")}, r.not_now_tally,
           k.created_at, k.nanomdm_seq, k.command_uuid
      FROM (SELECT q.id, q.command_uuid, q.priority, q.created_at, q.nanomdm_seq
              FROM enrollment_queue AS q {dialect.use_index("nanomdm_queue_next")}
             WHERE q.id = ? AND q.active = TRUE {f"AND {_AFTER}" if after else ""}
               AND {_UNANSWERED}
             ORDER BY q.priority DESC, q.created_at, q.nanomdm_seq, q.command_uuid
             LIMIT ?) AS k
      JOIN commands AS c ON c.command_uuid = k.command_uuid
      LEFT JOIN command_results AS r ON r.id = k.id AND r.command_uuid = k.command_uuid
     ORDER BY k.priority DESC, k.created_at, k.nanomdm_seq, k.command_uuid
    """


def _command(row: Any) -> OutstandingCommand:
    uuid, request_type, priority, queued_at, not_now_at, tally, *_ = row
    return OutstandingCommand(
        command_uuid=uuid,
        request_type=request_type,
        priority=priority,
        queued_at=float(queued_at),
        not_now_at=None if not_now_at is None else float(not_now_at),
        not_now_count=tally or 0,
    )


def cancel(
    transaction: Transaction, calls: Sequence[tuple[str, str]]
) -> list[Unknown | AlreadyAnswered | None]:
    """
    @return: for each call L{None}, or why the command can not be taken out.
    """
    return _in_order(_cancel, transaction, calls)


def clear(transaction: Transaction, calls: Sequence[str]) -> list[int | Unknown]:
    """
    @return: for each enrollment how many outstanding commands it had.
    """
    return [told(_clear, transaction, enrollment_id) for enrollment_id in calls]


def set_priority(
    transaction: Transaction, calls: Sequence[tuple[str, str, int]]
) -> list[Unknown | AlreadyAnswered | None]:
    """
    @return: for each call L{None}, or why the command's priority can not be changed.
    """
    return _in_order(_set_priority, transaction, calls)


def _in_order(
    work: Callable[..., None], transaction: Transaction, calls: Sequence[tuple[Any, ...]]
) -> list[Any]:
    """
    Rows are locked in one order everywhere, so that servers seldom wait for each other.
    """
    results: list[Any] = [None] * len(calls)
    for position in sorted(range(len(calls)), key=calls.__getitem__):
        results[position] = told(work, transaction, *calls[position])
    return results


def _cancel(transaction: Transaction, enrollment_id: str, command_uuid: str) -> None:
    _lock_outstanding(transaction, enrollment_id, command_uuid)
    transaction.execute(_CANCEL, (enrollment_id, command_uuid))


def _set_priority(
    transaction: Transaction, enrollment_id: str, command_uuid: str, priority: int
) -> None:
    _lock_outstanding(transaction, enrollment_id, command_uuid)
    transaction.execute(_PRIORITY, (priority, enrollment_id, command_uuid))


def _clear(transaction: Transaction, enrollment_id: str) -> int:
    require_enrollment(transaction, enrollment_id)
    return transaction.execute(_CLEAR, (enrollment_id,))


def _lock_outstanding(transaction: Transaction, enrollment_id: str, command_uuid: str) -> None:
    """
    Keep an outstanding command from being changed by others.

    @raise Unknown: it is not in the queue, or not any more.
    @raise AlreadyAnswered: it has a final answer.
    """
    require_enrollment(transaction, enrollment_id)
    key = (enrollment_id, command_uuid)
    queued = transaction.row(_LOCK.format(for_update=transaction.dialect.for_update), key)
    if queued is None or not is_command(transaction, command_uuid):
        raise Unknown(f"command {command_uuid} is not in the queue of {enrollment_id}")
    # Asked only now, as an answer may have come while this waited for the row.
    answer = transaction.row(_STATUS, key)
    if answer is not None and answer[0] != NOT_NOW:
        raise AlreadyAnswered(f"command {command_uuid} was answered by {enrollment_id} already")
    if not queued[0]:
        raise Unknown(
            f"command {command_uuid} was taken out of the queue of {enrollment_id} already"
        )
