"""
The command queue: the tables commands, enrollment_queue and command_results.

A queued command is outstanding while it is active and has no result, or one
that says C{NotNow}.  A final answer also takes the row out of the active ones,
so that looking for the next command never walks over answered ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import frozen

from nanomdm.errors import CommandConflict
from nanomdm.interfaces import ReportOutcome
from nanomdm.mdm.command import NOT_NOW, Command, CommandReport
from nanomdm.storage.transaction import Transaction, chunks, flatten, one_each

#: The next command of each enrollment in a list, as one indexed look for each.
#: Ordering by what is constant, too, shows MySQL that the index has this order.
_NEXT: Final = """
    SELECT n.id, c.command_uuid
      FROM (SELECT e.id AS id,
                   (SELECT q.command_uuid
                      FROM enrollment_queue AS q {{index}}
                      LEFT JOIN command_results AS r
                        ON r.id = q.id AND r.command_uuid = q.command_uuid
                     WHERE q.id = e.id AND q.active = TRUE AND ({offered})
                     ORDER BY q.id, q.active, q.priority DESC, q.created_at, q.nanomdm_seq
                     LIMIT 1) AS command_uuid
              FROM enrollments AS e
             WHERE e.id IN ({{values}})) AS n
      JOIN commands AS c ON c.command_uuid = n.command_uuid
"""
NEXT_COMMANDS: Final = _NEXT.format(offered="r.status IS NULL OR r.status = 'NotNow'")
_NEXT_UNTRIED: Final = _NEXT.format(offered="r.status IS NULL")

# Keys as the parents spell them: a queue row may differ in case, where a taken-over
# MySQL database compares without regard to it.
_QUEUED: Final = """
    SELECT e.id, c.command_uuid
      FROM enrollment_queue AS q
      JOIN enrollments AS e ON e.id = q.id
      JOIN commands AS c ON c.command_uuid = q.command_uuid
     WHERE {pairs}
"""
_FINISHED: Final = """
    UPDATE enrollment_queue SET active = FALSE WHERE {pairs} AND active = TRUE
"""
#: Of a row of the queue: it has a final answer.
ANSWERED: Final = """
    EXISTS (SELECT 1 FROM command_results AS r
             WHERE r.id = enrollment_queue.id
               AND r.command_uuid = enrollment_queue.command_uuid
               AND r.status <> 'NotNow')
"""
_DELETE_QUEUED: Final = f"DELETE FROM enrollment_queue WHERE {{pairs}} AND {ANSWERED}"
_DELETE_RESULT: Final = "DELETE FROM command_results WHERE {pairs} AND status <> 'NotNow'"
_KEY: Final = ("id", "command_uuid")
#: Of a result that is there when C{NotNow} comes: a final answer stays.
_AGAIN: Final = (
    "result = CASE WHEN command_results.status = 'NotNow' THEN {result}"
    " ELSE command_results.result END",
    "not_now_tally = command_results.not_now_tally"
    " + CASE WHEN command_results.status = 'NotNow' THEN 1 ELSE 0 END",
)
_COMMAND: Final = "SELECT command FROM commands WHERE command_uuid = ?"
_COMMANDS: Final = "SELECT command_uuid, command FROM commands WHERE command_uuid IN ({values})"
_ENABLED: Final = "SELECT id, enabled FROM enrollments WHERE id IN ({values})"
_REVIVE: Final = f"""
    UPDATE enrollment_queue SET active = TRUE
     WHERE command_uuid = ? AND active = FALSE AND NOT {ANSWERED} AND id IN ({{values}})
"""
_ENQUEUE: Final = """
    INSERT INTO enrollment_queue (id, command_uuid, nanomdm_seq)
    SELECT e.id, ?, ? FROM enrollments AS e
     WHERE e.enabled = TRUE AND e.id IN ({{values}}) {there_already}
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
    refused = _refused(transaction, call.ids)
    accepted = [id for id in call.ids if id not in refused]
    before = transaction.row(_COMMAND, (command.uuid,))
    if accepted:
        values = (command.uuid, command.request_type, text)
        # An existing one is locked, so that upkeep can not delete it meanwhile.
        transaction.insert_missing(
            "commands", ("command_uuid",), ("request_type", "command"), [values], lock=True
        )
    stored = transaction.row(_COMMAND, (command.uuid,))
    if stored is not None and stored[0] != text:
        return CommandConflict(f"command {command.uuid} exists already with other content")
    if accepted:
        if before is not None:
            # Where it was cleared without an answer, it is wanted again.
            transaction.execute_in(_REVIVE, accepted, command.uuid)
        _queue(transaction, command.uuid, accepted)
    return refused


def _refused(transaction: Transaction, ids: Sequence[str]) -> dict[str, str]:
    enabled = dict(transaction.rows_in(_ENABLED, ids))
    return {
        enrollment_id: "enrollment is disabled"
        if enrollment_id in enabled
        else "unknown enrollment id"
        for enrollment_id in ids
        if not enabled.get(enrollment_id)
    }


def _queue(transaction: Transaction, uuid: str, ids: Sequence[str]) -> None:
    there_already = transaction.dialect.on_conflict(("id", "command_uuid"), ())
    statement = _ENQUEUE.format(there_already=there_already)
    transaction.execute_in(statement, ids, uuid, transaction.next_number())


def next_command(transaction: Transaction, ids: Sequence[str]) -> list[bytes | None]:
    """
    @return: for each enrollment its next command, or L{None}; C{NotNow} ones
        are offered again.
    """
    found = _next_commands(transaction, NEXT_COMMANDS, ids)
    return [found.get(enrollment_id) for enrollment_id in ids]


def _next_commands(
    transaction: Transaction, statement: str, ids: Sequence[str]
) -> dict[str, bytes]:
    index = transaction.dialect.use_index("nanomdm_queue_next")
    rows = transaction.rows_in(statement.format(index=index, values="{values}"), ids)
    uuids = dict(rows)
    # Each command once: a large one for very many enrollments would fill the memory.
    wanted = sorted(set(uuids.values()))
    commands = {uuid: text.encode() for uuid, text in transaction.rows_in(_COMMANDS, wanted)}
    # Without locks, one may be gone by now; then nobody waits for it any more.
    return {id: commands[uuid] for id, uuid in uuids.items() if uuid in commands}


def store_report(transaction: Transaction, reports: Sequence[CommandReport]) -> list[ReportOutcome]:
    """
    Store each report's result and find the enrollment's next command.
    """
    outcomes: list[ReportOutcome] = []
    for group in one_each(reports, lambda report: report.enrollment.id):
        outcomes += _store_reports(transaction, group)
    return outcomes


def store_and_delete(
    transaction: Transaction, reports: Sequence[CommandReport]
) -> list[ReportOutcome]:
    """
    As L{store_report}, but final answers are not kept: the command leaves the
    enrollment's queue.
    """
    outcomes = store_report(transaction, reports)
    answered = [
        _key(report)
        for report, outcome in zip(reports, outcomes, strict=True)
        if outcome.known and report.status != NOT_NOW
    ]
    delete_answered(transaction, sorted(answered))
    return outcomes


def delete_answered(transaction: Transaction, keys: Sequence[tuple[str, str]]) -> None:
    """
    Delete answered commands of enrollments, with their results; what is not
    answered, or not any more, stays.

    @param keys: enrollment ids with command UUIDs.
    """
    transaction.execute_pairs(_DELETE_QUEUED, _KEY, keys)
    transaction.execute_pairs(_DELETE_RESULT, _KEY, keys)


def _store_reports(
    transaction: Transaction, reports: Sequence[CommandReport]
) -> list[ReportOutcome]:
    known = _known(transaction, reports)
    # In one order everywhere, so that servers seldom wait for each other.
    results = sorted((r for r in reports if _key(r) in known), key=_key)
    _store_finals(transaction, [r for r in results if r.status != NOT_NOW])
    _store_not_nows(transaction, [r for r in results if r.status == NOT_NOW])
    busy = [r.enrollment.id for r in reports if r.status == NOT_NOW]
    ready = [r.enrollment.id for r in reports if r.status != NOT_NOW]
    commands = {
        **_next_commands(transaction, NEXT_COMMANDS, ready),
        **_next_commands(transaction, _NEXT_UNTRIED, busy),
    }
    return [ReportOutcome(_key(r) in known, commands.get(r.enrollment.id)) for r in reports]


def _key(report: CommandReport) -> tuple[str, str]:
    return report.enrollment.id, report.command_uuid


def _known(transaction: Transaction, reports: Sequence[CommandReport]) -> set[tuple[str, str]]:
    """
    @return: those keys of reports whose command was queued.
    """
    found: set[tuple[str, str]] = set()
    for chunk in chunks([_key(report) for report in reports]):
        pairs = transaction.dialect.pairs(("q.id", "q.command_uuid"), len(chunk))
        rows = transaction.rows(_QUEUED.format(pairs=pairs), flatten(chunk))
        found.update((enrollment_id, uuid) for enrollment_id, uuid in rows)
    return found


def _store_finals(transaction: Transaction, reports: Sequence[CommandReport]) -> None:
    transaction.upsert(
        "command_results",
        _KEY,
        ("status", "result"),
        [(*_key(report), report.status, report.raw.decode()) for report in reports],
    )
    transaction.execute_pairs(_FINISHED, _KEY, [_key(report) for report in reports])


def _store_not_nows(transaction: Transaction, reports: Sequence[CommandReport]) -> None:
    """
    A final answer that is there already stays.
    """
    rows = [(*_key(report), report.status, report.raw.decode(), 1) for report in reports]
    inserted = transaction.dialect.inserted("result")
    transaction.insert_missing(
        "command_results",
        _KEY,
        ("status", "result", "not_now_tally"),
        rows,
        now=("not_now_at",),
        then=[assignment.format(result=inserted) for assignment in _AGAIN],
    )
