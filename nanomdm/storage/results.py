"""
Commands, whom they were sent to, and what was answered.

Names are those that enrollments and commands have; see L{nanomdm.storage.queues}.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from attrs import evolve

from nanomdm.errors import MessageError, Unknown
from nanomdm.interfaces import (
    CommandAnswer,
    CommandTarget,
    Listing,
    Page,
    ResultFilter,
    StoredCommand,
)
from nanomdm.storage.cursors import key_of, listing_of
from nanomdm.storage.dialect import Dialect
from nanomdm.storage.queues import is_command, require_enrollment, told
from nanomdm.storage.transaction import Transaction

#: The longest answer that a list has, in characters.
_LONG: Final = 65536

_COMMAND: Final = """
    SELECT command_uuid, request_type, command, {created_at} FROM commands WHERE command_uuid = ?
"""
_ANSWER: Final = """
    SELECT c.command_uuid, c.request_type, r.status, {updated_at}, {not_now_at},
           r.not_now_tally, r.result
      FROM command_results AS r JOIN commands AS c ON c.command_uuid = r.command_uuid
     WHERE r.id = ? AND r.command_uuid = ?
"""
#: What of answers tells of errors.  It is asked for by itself, as some engines read a long
#: column wherever a statement names it.
_ERRORS: Final = f"""
    SELECT c.command_uuid, r.result
      FROM command_results AS r JOIN commands AS c ON c.command_uuid = r.command_uuid
     WHERE r.id = ? AND r.status IN ('Error', 'CommandFormatError') AND LENGTH(r.result) <= {_LONG}
       AND r.command_uuid IN ({{values}})
"""
_ERROR: Final = frozenset({"Error", "CommandFormatError"})


def command(transaction: Transaction, calls: Sequence[str]) -> list[StoredCommand | Unknown]:
    """
    @return: for each UUID its command.
    """
    return [told(_command, transaction, command_uuid) for command_uuid in calls]


def _command(transaction: Transaction, command_uuid: str) -> StoredCommand:
    created_at = transaction.dialect.unix_time("created_at")
    row = transaction.row(_COMMAND.format(created_at=created_at), (command_uuid,))
    if row is None or row[0] != command_uuid:
        raise Unknown(f"there is no command {command_uuid}")
    uuid, request_type, text, created = row
    return StoredCommand(
        command_uuid=uuid, request_type=request_type, raw=text.encode(), created_at=float(created)
    )


def targets(
    transaction: Transaction, calls: Sequence[tuple[str, Page]]
) -> list[Listing[CommandTarget] | MessageError]:
    """
    @return: for each call its part of those that a command was queued for.
    """
    return [told(_targets, transaction, *call) for call in calls]


def _targets(transaction: Transaction, command_uuid: str, page: Page) -> Listing[CommandTarget]:
    after = [] if page.cursor is None else key_of(page.cursor, str)
    if not is_command(transaction, command_uuid):
        return Listing([])
    statement = targets_statement(transaction.dialect, bool(after))
    rows = transaction.rows(statement, (command_uuid, *after, page.limit + 1))
    return listing_of(rows, page.limit, _target, lambda row: row[-1:])


def targets_statement(dialect: Dialect, after: bool) -> str:
    """
    @param after: whether to go on after a row.
    @return: SQL for those that a command was queued for.
    """
    return f"""
    SELECT e.id, k.active, k.priority, {dialect.unix_time("k.created_at")},
           r.status, {dialect.unix_time("r.updated_at")}, r.not_now_tally, k.id
      FROM (SELECT q.id, q.command_uuid, q.active, q.priority, q.created_at
              FROM enrollment_queue AS q {dialect.ignore_primary_key}
             WHERE q.command_uuid = ? {"AND q.id > ?" if after else ""}
             ORDER BY q.id LIMIT ?) AS k
      JOIN enrollments AS e ON e.id = k.id
      LEFT JOIN command_results AS r ON r.id = k.id AND r.command_uuid = k.command_uuid
     ORDER BY k.id
    """


def _target(row: Any) -> CommandTarget:
    id, active, priority, queued_at, status, answered_at, tally, _ = row
    return CommandTarget(
        id=id,
        active=bool(active),
        priority=priority,
        queued_at=float(queued_at),
        status=status,
        answered_at=_seconds(answered_at),
        not_now_count=tally or 0,
    )


def answers(
    transaction: Transaction, calls: Sequence[tuple[str, ResultFilter, Page]]
) -> list[Listing[CommandAnswer] | Unknown | MessageError]:
    """
    @return: for each call its part of an enrollment's answers.
    """
    return [told(_answers, transaction, *call) for call in calls]


def _answers(
    transaction: Transaction, enrollment_id: str, which: ResultFilter, page: Page
) -> Listing[CommandAnswer]:
    conditions = _conditions(transaction.dialect, which, page)
    require_enrollment(transaction, enrollment_id)
    statement = answers_statement(transaction.dialect, list(conditions))
    values = [value for some in conditions.values() for value in some]
    rows = transaction.rows(statement, (enrollment_id, *values, page.limit + 1))
    found = listing_of(rows, page.limit, _answer_of, lambda row: (str(row[-2]), row[-1]))
    return evolve(found, items=_with_errors(transaction, enrollment_id, found.items))


def _conditions(dialect: Dialect, which: ResultFilter, page: Page) -> dict[str, Sequence[Any]]:
    """
    @return: which answers are meant: SQL about the row C{r}, with its values.
    """
    conditions: dict[str, Sequence[Any]] = {}
    if which.status is not None:
        conditions["r.status = ?"] = [which.status]
    if which.since is not None:
        conditions[f"{dialect.age('r.updated_at')} < ?"] = [which.since]
    if which.request_type is not None:
        type_of = "SELECT request_type FROM commands AS c WHERE c.command_uuid = r.command_uuid"
        conditions[f"({type_of}) = ?"] = [which.request_type]
    if page.cursor is not None:
        updated, uuid = key_of(page.cursor, datetime, str)
        after = "r.updated_at <= ? AND (r.updated_at < ? OR r.command_uuid < ?)"
        conditions[after] = [updated, updated, uuid]
    return conditions


def answers_statement(dialect: Dialect, conditions: Sequence[str]) -> str:
    """
    @param conditions: of the row C{r}.
    @return: SQL for an enrollment's answers, the newest first.
    """
    return f"""
    SELECT c.command_uuid, c.request_type, k.status, {dialect.unix_time("k.updated_at")},
           {dialect.unix_time("k.not_now_at")}, k.not_now_tally, k.updated_at, k.command_uuid
      FROM (SELECT r.updated_at, r.command_uuid, r.status, r.not_now_at, r.not_now_tally
              FROM command_results AS r
             WHERE {" AND ".join(["r.id = ?", *conditions])}
             ORDER BY r.updated_at DESC, r.command_uuid DESC LIMIT ?) AS k
      JOIN commands AS c ON c.command_uuid = k.command_uuid
     ORDER BY k.updated_at DESC, k.command_uuid DESC
    """


def _answer_of(row: Any) -> CommandAnswer:
    """
    @return: the answer without what it says.
    """
    uuid, request_type, status, answered_at, not_now_at, tally, *_ = row
    return CommandAnswer(
        command_uuid=uuid,
        request_type=request_type,
        status=status,
        answered_at=float(answered_at),
        not_now_at=_seconds(not_now_at),
        not_now_count=tally,
        raw=None,
    )


def _with_errors(
    transaction: Transaction, enrollment_id: str, found: Sequence[CommandAnswer]
) -> list[CommandAnswer]:
    """
    @return: the answers, with what those say that tell of errors.
    """
    wanted = [one.command_uuid for one in found if one.status in _ERROR]
    texts = dict(transaction.rows_in(_ERRORS, wanted, enrollment_id))
    raws = {uuid: texts[uuid].encode() for uuid in wanted if uuid in texts}
    return [evolve(one, raw=raws.get(one.command_uuid)) for one in found]


def answer(
    transaction: Transaction, calls: Sequence[tuple[str, str]]
) -> list[CommandAnswer | Unknown]:
    """
    @return: for each call the answer, with what it says.
    """
    return [told(_answer, transaction, *call) for call in calls]


def _answer(transaction: Transaction, enrollment_id: str, command_uuid: str) -> CommandAnswer:
    require_enrollment(transaction, enrollment_id)
    dialect = transaction.dialect
    statement = _ANSWER.format(
        updated_at=dialect.unix_time("r.updated_at"), not_now_at=dialect.unix_time("r.not_now_at")
    )
    row = transaction.row(statement, (enrollment_id, command_uuid))
    if row is None or row[0] != command_uuid:
        raise Unknown(f"{enrollment_id} has not answered a command {command_uuid}")
    return evolve(_answer_of(row), raw=row[-1].encode())


def _seconds(time: Any) -> float | None:
    return None if time is None else float(time)
