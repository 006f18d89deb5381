"""
Who is to be pushed to again: the rows of nanomdm_pushes that are due.

What is due is found through one index and looked at in the same transaction.  A row
that another server begins anew meanwhile is not due any more, so it is left as that
server wrote it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from enum import Enum
from typing import Final

from attrs import frozen

from nanomdm.interfaces import PushAgain
from nanomdm.storage.dialect import Dialect
from nanomdm.storage.leases import take_lease
from nanomdm.storage.pushes import STEPS, STILL_DEAD, due_after, lock
from nanomdm.storage.transaction import Transaction

#: The name of the lease, and for how many seconds it is taken.
_NAME: Final = "repush"
_LEASE: Final = 60

#: How many rows of each step are looked at: more than are pushed to, since most
#: have connected.
_LOOKED_AT: Final = 2000

#: Seconds that C{last_seen_at} may be later than the connecting that it tells of:
#: it is written once a second, and some engines have whole seconds only.
_LATE: Final = 3

#: Seconds for which a C{NotNow} counts, and after which it is looked at again.
_NOT_NOW: Final = 3600
_LOOK_AGAIN: Final = 900

_DONE: Final = "DELETE FROM nanomdm_pushes WHERE due <= {now} AND id IN ({{values}})"
_LATER: Final = """
    UPDATE nanomdm_pushes SET due = {now} + {look_again}
     WHERE due <= {now} AND id IN ({{values}})
"""
_PUSHED: Final = """
    UPDATE nanomdm_pushes SET pushed = {now}, step = {step}, due = {due}
     WHERE due <= {now} AND id IN ({{values}})
"""
_REPEAT: Final = """
    UPDATE nanomdm_pushes SET step = {step}, due = {due} WHERE step = ? AND id IN ({{values}})
"""

#: The step whose pause is the longest for a push that did not reach APNs.
_REPEATED: Final = 3


@frozen
class Round:
    """
    See L{nanomdm.interfaces.IPushStore.push_again}.
    """

    server: str
    limit: int


class _Verdict(Enum):
    DONE = "done"
    LATER = "later"
    AGAIN = "again"


@frozen
class _Row:
    """
    A row that is due.

    @ivar pushed: Unix seconds of its push.
    """

    id: str
    step: int
    pushed: int
    due: int


@frozen
class _State:
    """
    What is known of an enrollment.

    @ivar seen: Unix seconds of when it was last seen.
    @ivar outstanding: there are commands without a final answer.
    @ivar wanted: among them are such that were not answered C{NotNow} of late.
    """

    enabled: bool
    dead: bool
    seen: float
    outstanding: bool
    wanted: bool


def push_again(transaction: Transaction, rounds: Sequence[Round]) -> list[list[PushAgain]]:
    """
    @return: for each round whom to push to, those first that have been due for
        longest.
    """
    return [_push_again(transaction, round) for round in rounds]


def _push_again(transaction: Transaction, round: Round) -> list[PushAgain]:
    if not take_lease(transaction, _NAME, round.server, _LEASE):
        return []
    rows = [_Row(*row) for row in transaction.rows(due_statement(transaction.dialect))]
    states = _states(transaction, [row.id for row in rows])
    sorted_out = defaultdict[_Verdict, list[_Row]](list)
    for row in rows:
        sorted_out[_verdict(row, states.get(row.id))].append(row)
    again = _at_most(round.limit, sorted_out[_Verdict.AGAIN])
    changed = (*sorted_out[_Verdict.DONE], *sorted_out[_Verdict.LATER], *again)
    lock(transaction, [row.id for row in changed])
    _update(transaction, _DONE, sorted_out[_Verdict.DONE])
    _update(transaction, _LATER, sorted_out[_Verdict.LATER], look_again=_LOOK_AGAIN)
    for step in range(len(STEPS)):
        _next_step(transaction, step, [row for row in again if row.step == step])
    return [PushAgain(row.id, row.step) for row in again]


def repeat_step(transaction: Transaction, groups: Sequence[Sequence[PushAgain]]) -> list[None]:
    """
    Take back the steps of pushes that did not reach APNs.
    """
    by_step = defaultdict[int, list[str]](list)
    for one in (one for group in groups for one in group):
        by_step[one.step].append(one.id)
    for step, ids in by_step.items():
        following = _following(step)
        due = due_after(transaction.dialect, min(following, _REPEATED))
        transaction.execute_in(_REPEAT.format(step=step, due=due), sorted(ids), following)
    return [None] * len(groups)


def due_statement(dialect: Dialect) -> str:
    """
    @return: SQL for the rows that are due, so many of each step as are looked at.
    """
    index = dialect.use_index("nanomdm_pushes_due")
    parts = [
        f"""
        SELECT * FROM (SELECT id, step, pushed, due FROM nanomdm_pushes {index}
                        WHERE step = {step} AND due <= {dialect.unix_now}
                        ORDER BY due LIMIT {_LOOKED_AT}) AS step_{step}
        """
        for step in range(len(STEPS))
    ]
    return f"{'UNION ALL'.join(parts)} ORDER BY due, id"


def states_statement(dialect: Dialect) -> str:
    """
    @return: SQL for what is known of some enrollments.  It is asked with the ids
        themselves: a taken-over database may compare ids in a way in which the
        enrollments' index does not serve a column of another table.
    """
    index = dialect.use_index("nanomdm_queue_next")

    def any_queued(not_now: str) -> str:
        return f"""
               (SELECT 1 FROM enrollment_queue AS q {index}
                  LEFT JOIN command_results AS r
                    ON r.id = q.id AND r.command_uuid = q.command_uuid
                 WHERE q.id = e.id AND q.active = TRUE AND (r.status IS NULL OR {not_now})
                 LIMIT 1) IS NOT NULL"""

    not_now = "r.status = 'NotNow'"
    long_ago = f"{dialect.age('r.updated_at')} > {_NOT_NOW}"
    return f"""
        SELECT e.id, e.enabled, d.id IS NOT NULL,
               {dialect.unix_now} - {dialect.age("e.last_seen_at")},
               {any_queued(not_now)},
               {any_queued(f"{not_now} AND {long_ago}")}
          FROM enrollments AS e
          LEFT JOIN nanomdm_dead_tokens AS d ON {STILL_DEAD}
         WHERE e.id IN ({{values}})
    """


def _states(transaction: Transaction, ids: Sequence[str]) -> dict[str, _State]:
    statement = states_statement(transaction.dialect)
    return {
        id: _State(bool(enabled), bool(dead), float(seen), bool(outstanding), bool(wanted))
        for id, enabled, dead, seen, outstanding, wanted in transaction.rows_in(
            statement, sorted(ids)
        )
    }


def _verdict(row: _Row, state: _State | None) -> _Verdict:
    if state is None or not state.enabled or state.dead or not state.outstanding:
        return _Verdict.DONE
    if state.seen > row.pushed + _LATE:
        return _Verdict.DONE
    return _Verdict.AGAIN if state.wanted else _Verdict.LATER


def _at_most(limit: int, rows: Sequence[_Row]) -> list[_Row]:
    """
    @return: the first rows of each step, in the order they had.
    """
    counts = Counter[int]()
    chosen = []
    for row in rows:
        counts[row.step] += 1
        if counts[row.step] <= limit:
            chosen.append(row)
    return chosen


def _next_step(transaction: Transaction, step: int, rows: Sequence[_Row]) -> None:
    following = _following(step)
    due = due_after(transaction.dialect, following)
    _update(transaction, _PUSHED, rows, step=following, due=due)


def _following(step: int) -> int:
    return min(step + 1, len(STEPS) - 1)


def _update(
    transaction: Transaction, statement: str, rows: Sequence[_Row], **words: object
) -> None:
    text = statement.format(now=transaction.dialect.unix_now, **words)
    transaction.execute_in(text, sorted(row.id for row in rows))
