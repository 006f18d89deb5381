"""
The command queue: the tables commands, enrollment_queue and command_results.

A queued command is outstanding while it is active and has no result, or one
that says C{NotNow}.  A final answer also takes the row out of the active ones,
so that looking for the next command never walks over answered ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from attrs import frozen

from nanomdm.errors import CommandConflict
from nanomdm.interfaces import ReportOutcome
from nanomdm.mdm.command import NOT_NOW, Command, CommandReport
from nanomdm.storage.batcher import Transaction

#: Ids in one statement: far below every engine's limit on placeholders.
_CHUNK: Final = 500

# rowid grows with every insertion and so breaks ties of created_at.
NEXT_COMMAND: Final = """
    SELECT c.command
      FROM enrollment_queue AS q
      JOIN commands AS c ON c.command_uuid = q.command_uuid
      LEFT JOIN command_results AS r ON r.id = q.id AND r.command_uuid = q.command_uuid
     WHERE q.id = ? AND q.active = TRUE
       AND (r.status IS NULL OR (r.status = 'NotNow' AND ?))
     ORDER BY q.priority DESC, q.created_at, q.rowid
     LIMIT 1
"""
_QUEUED: Final = "SELECT 1 FROM enrollment_queue WHERE id = ? AND command_uuid = ?"
_STORE_NOT_NOW: Final = """
    INSERT INTO command_results
        (id, command_uuid, status, result, not_now_at, not_now_tally)
    VALUES (?, ?, ?, ?, CURRENT_TIMESTAMP, 1)
    ON CONFLICT (id, command_uuid) DO UPDATE SET
        result = excluded.result,
        not_now_tally = command_results.not_now_tally + 1
    WHERE command_results.status = 'NotNow'
"""
_STORE_FINAL: Final = """
    INSERT INTO command_results (id, command_uuid, status, result)
    VALUES (?, ?, ?, ?)
    ON CONFLICT (id, command_uuid) DO UPDATE SET
        status = excluded.status,
        result = excluded.result
"""
_FINISHED: Final = """
    UPDATE enrollment_queue SET active = FALSE
     WHERE id = ? AND command_uuid = ? AND active = TRUE
"""
_COMMAND: Final = "SELECT command FROM commands WHERE command_uuid = ?"
_ADD_COMMAND: Final = """
    INSERT INTO commands (command_uuid, request_type, command) VALUES (?, ?, ?)
"""
_ENQUEUE: Final = """
    INSERT INTO enrollment_queue (id, command_uuid) VALUES (?, ?)
    ON CONFLICT (id, command_uuid) DO NOTHING
"""


@frozen
class EnqueueCall:
    """
    A command for distinct enrollment ids.
    """

    command: Command
    ids: Sequence[str]


def enqueue(
    transaction: Transaction, calls: Sequence[EnqueueCall]
) -> list[dict[str, str] | CommandConflict]:
    """
    @return: for each call the ids that could not take it, with the reason, or
        the conflict that made all of them fail.
    """
    return [_enqueue(transaction, call) for call in calls]


def _enqueue(transaction: Transaction, call: EnqueueCall) -> dict[str, str] | CommandConflict:
    command = call.command
    text = command.raw.decode()
    transaction.execute(_COMMAND, (command.uuid,))
    stored = transaction.fetchone()
    if stored is not None and stored[0] != text:
        return CommandConflict(f"command {command.uuid} exists already with other content")
    refused = _refused(transaction, call.ids)
    accepted = [
        (enrollment_id, command.uuid) for enrollment_id in call.ids if enrollment_id not in refused
    ]
    if accepted:
        if stored is None:
            transaction.execute(_ADD_COMMAND, (command.uuid, command.request_type, text))
        transaction.executemany(_ENQUEUE, accepted)
    return refused


def _refused(transaction: Transaction, ids: Sequence[str]) -> dict[str, str]:
    refused = {}
    for chunk in _chunks(ids):
        marks = ", ".join("?" * len(chunk))
        transaction.execute(f"SELECT id, enabled FROM enrollments WHERE id IN ({marks})", chunk)
        enabled = dict(transaction.fetchall())
        for enrollment_id in chunk:
            if enrollment_id not in enabled:
                refused[enrollment_id] = "unknown enrollment id"
            elif not enabled[enrollment_id]:
                refused[enrollment_id] = "enrollment is disabled"
    return refused


def _chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), _CHUNK):
        yield ids[start : start + _CHUNK]


def next_command(transaction: Transaction, ids: Sequence[str]) -> list[bytes | None]:
    """
    @return: for each enrollment its next command, or L{None}; C{NotNow} ones
        are offered again.
    """
    return [_next_command(transaction, enrollment_id, True) for enrollment_id in ids]


def _next_command(
    transaction: Transaction, enrollment_id: str, offer_not_now: bool
) -> bytes | None:
    transaction.execute(NEXT_COMMAND, (enrollment_id, offer_not_now))
    row = transaction.fetchone()
    return row[0].encode() if row else None


def store_report(transaction: Transaction, reports: Sequence[CommandReport]) -> list[ReportOutcome]:
    """
    Store each report's result and find the enrollment's next command.
    """
    return [_store_report(transaction, report) for report in reports]


def _store_report(transaction: Transaction, report: CommandReport) -> ReportOutcome:
    enrollment_id = report.enrollment.id
    key = (enrollment_id, report.command_uuid)
    transaction.execute(_QUEUED, key)
    known = transaction.fetchone() is not None
    not_now = report.status == NOT_NOW
    if known:
        statement = _STORE_NOT_NOW if not_now else _STORE_FINAL
        transaction.execute(statement, (*key, report.status, report.raw.decode()))
        if not not_now:
            transaction.execute(_FINISHED, key)
    return ReportOutcome(known, _next_command(transaction, enrollment_id, not not_now))
