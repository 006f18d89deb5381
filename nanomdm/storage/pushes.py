"""
Whom to push to, and with what: enrollments' push information, tokens that are dead
(the table nanomdm_dead_tokens) and the begin of the schedule of further pushes
(nanomdm_pushes).

Whoever changes rows of the schedule locks them in the order of their ids, as Python
sorts, whatever the database's collation: so two servers do not wait for each other.

A token is dead as long as the enrollment has it and no C{TokenUpdate} came since, be
it through another server or through NanoMDM: both make the tally another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from attrs import frozen

from nanomdm.interfaces import DeadToken, PushTarget
from nanomdm.storage.dialect import Dialect
from nanomdm.storage.transaction import Transaction

#: Seconds after each push until the next one; the last is for all that follow.
STEPS: Final = (30, 120, 480, 1800, 86400)

#: That an enrollment C{e} has its dead token C{d} still.
STILL_DEAD: Final = """
    d.id = e.id AND d.token_hex = e.token_hex AND d.tally = e.token_update_tally
"""
_TARGETS: Final = f"""
    SELECT e.id, e.topic, e.token_hex, e.push_magic, e.enabled, e.token_update_tally,
           c.stale_token, d.status, d.reason
      FROM enrollments AS e
      LEFT JOIN push_certs AS c ON c.topic = e.topic
      LEFT JOIN nanomdm_dead_tokens AS d ON {STILL_DEAD}
     WHERE e.id IN ({{values}})
"""
_SCHEDULE: Final = """
    INSERT INTO nanomdm_pushes (id, pushed, step, due)
    SELECT e.id, {now}, 0, {due} FROM enrollments AS e
     WHERE e.id IN ({{values}})
     ORDER BY {order} {begin_anew}
"""
_LOCK: Final = """
    SELECT id FROM nanomdm_pushes WHERE id IN ({{values}}) ORDER BY {order} {for_update}
"""
_FORGET: Final = "DELETE FROM nanomdm_pushes WHERE id IN ({values})"
_REVIVE: Final = "DELETE FROM nanomdm_dead_tokens WHERE id IN ({values})"

# When the last C{TokenUpdate} came stands with the device or with the user, depending
# on whose channel it is.
_BURY: Final = """
    INSERT INTO nanomdm_dead_tokens (id, token_hex, tally, status, reason)
    SELECT t.id, t.token_hex, t.token_update_tally, ?, ?
      FROM (SELECT e.id, e.token_hex, e.token_update_tally,
                   CASE WHEN e.user_id IS NULL THEN v.token_update_at
                        ELSE u.token_update_at END AS updated_at
              FROM enrollments AS e
              JOIN devices AS v ON v.id = e.device_id
              LEFT JOIN users AS u ON u.id = e.user_id AND u.device_id = e.device_id
             WHERE e.id = ? AND e.token_hex = ? AND e.token_update_tally = ?) AS t
     WHERE t.updated_at IS NULL OR {age} >= ? {replace}
"""
_BURIED: Final = f"""
    SELECT 1 FROM enrollments AS e JOIN nanomdm_dead_tokens AS d ON {STILL_DEAD}
     WHERE e.id = ? AND e.token_hex = ? AND e.token_update_tally = ?
"""

#: The longest reason that is kept; APNs' are shorter.
_REASON: Final = 127


@frozen
class BuryCall:
    """
    See L{nanomdm.interfaces.IPushStore.bury_push_token}.
    """

    target: PushTarget
    dead: DeadToken
    ago: float


def targets(
    transaction: Transaction, calls: Sequence[Sequence[str]]
) -> list[dict[str, PushTarget]]:
    """
    @return: for each call the targets of those ids that exist.
    """
    return _of_each(_targets(transaction, calls), calls)


def targets_pushed_now(
    transaction: Transaction, calls: Sequence[Sequence[str]]
) -> list[dict[str, PushTarget]]:
    """
    As L{targets}, and begin the schedule of those that can be pushed to.
    """
    found = _targets(transaction, calls)
    ids = [target.id for target in found.values() if target.enabled and target.dead is None]
    dialect = transaction.dialect
    anew = [f"{name} = {dialect.inserted(name)}" for name in ("pushed", "step", "due")]
    statement = _SCHEDULE.format(
        now=dialect.unix_now,
        due=due_after(dialect, 0),
        order=dialect.as_python_sorts("e.id"),
        begin_anew=dialect.on_conflict(("id",), anew),
    )
    transaction.execute_in(statement, ids)
    return _of_each(found, calls)


def lock(transaction: Transaction, ids: Iterable[str]) -> list[str]:
    """
    Lock rows of the schedule.

    @return: the ids of those that are there, sorted.
    """
    dialect = transaction.dialect
    order = dialect.as_python_sorts("id")
    statement = _LOCK.format(order=order, for_update=dialect.for_update)
    return [id for (id,) in transaction.rows_in(statement, sorted(ids))]


def due_after(dialect: Dialect, step: int) -> str:
    """
    @return: SQL for when a push that was this step's is followed by another one:
        the step's time later, give or take a fifth.
    """
    fifth = STEPS[step] // 5
    jitter = dialect.random_below(2 * fifth + 1)
    return f"{dialect.unix_now} + {STEPS[step] - fifth} + {jitter}"


def _targets(transaction: Transaction, calls: Iterable[Iterable[str]]) -> dict[str, PushTarget]:
    """
    @return: by id, in one order everywhere, so that servers seldom wait for each
        other.
    """
    ids = sorted({id for call in calls for id in call})
    found = {row[0]: _target(row) for row in transaction.rows_in(_TARGETS, ids)}
    # Taken-over MySQL databases find an id in other letters, too.
    return {id: found[id] for id in ids if id in found}


def _target(row: Sequence[Any]) -> PushTarget:
    id, topic, token_hex, push_magic, enabled, tally, stale_token, status, reason = row
    dead = None if status is None else DeadToken(status, reason)
    return PushTarget(id, topic, token_hex, push_magic, bool(enabled), tally, stale_token, dead)


def _of_each(
    found: dict[str, PushTarget], calls: Sequence[Sequence[str]]
) -> list[dict[str, PushTarget]]:
    return [{id: found[id] for id in ids if id in found} for ids in calls]


def bury(transaction: Transaction, calls: Sequence[BuryCall]) -> list[bool]:
    """
    @return: for each call, whether its token is marked dead.
    """
    # In the order of their rows; each gets its own result.
    order = sorted(range(len(calls)), key=lambda place: calls[place].target.id)
    buried = {place: _bury(transaction, calls[place]) for place in order}
    return [buried[place] for place in range(len(calls))]


def _bury(transaction: Transaction, call: BuryCall) -> bool:
    dialect, target, dead = transaction.dialect, call.target, call.dead
    columns = ("token_hex", "tally", "status", "reason")
    replace = [f"{name} = {dialect.inserted(name)}" for name in columns]
    statement = _BURY.format(
        age=dialect.age("t.updated_at"), replace=dialect.on_conflict(("id",), replace)
    )
    token = (target.id, target.token_hex, target.tally)
    transaction.execute(statement, (dead.status, dead.reason[:_REASON], *token, call.ago))
    if transaction.row(_BURIED, token) is None:
        return False
    transaction.execute_in(_FORGET, [target.id])
    return True


def revive(transaction: Transaction, ids: Iterable[str]) -> None:
    """
    Forget that tokens were dead.

    @param ids: enrollments that have sent a C{TokenUpdate}.  Enrolling again may
        lead to a tally that there was before.
    """
    transaction.execute_in(_REVIVE, sorted(ids))


def forget(transaction: Transaction, calls: Sequence[Sequence[str]]) -> list[None]:
    """
    End the schedules of enrollments.
    """
    transaction.execute_in(_FORGET, lock(transaction, {id for ids in calls for id in ids}))
    return [None] * len(calls)
