"""
Events for the webhook, until they are delivered: the tables nanomdm_webhook_events,
nanomdm_webhook_streams and nanomdm_webhook_failed.

Events are numbered.  An enrollment with events has a row in the streams, which says
when its first event is due and which server has it in hand.  Whoever changes anything
about an enrollment's events locks that row first.  So its numbers rise in the order of
the commits, and the row never goes while somebody adds an event.  Each transaction
locks all rows that it needs at once, by id, and so nobody waits in a circle.  Who adds
an event changes the row, too: locks are one node's where the database is a Galera
cluster, and only with changes do other nodes' transactions conflict.

A server that has an enrollment in hand moves its C{due} into the future.  If nothing is
heard of that server again, the enrollment is due for any other one then.  Times are Unix
seconds by the database's clock.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from functools import cache
from typing import Any, Final

from attrs import frozen

from nanomdm.crypto.vault import Vault
from nanomdm.errors import LeaseLost, SecretUnreadable
from nanomdm.interfaces import QueuedEvent
from nanomdm.mdm.event import Event, body
from nanomdm.storage.batcher import Operation
from nanomdm.storage.dialect import Dialect
from nanomdm.storage.secrets import EVENT, EVENT_TOPICS
from nanomdm.storage.transaction import Transaction

_INSERT: Final = """
    INSERT INTO nanomdm_webhook_events (event_id, topic, enrollment_id, head, raw, created)
    VALUES (?, ?, ?, ?, ?, ?)
"""
_ONE_MORE: Final = "additions = nanomdm_webhook_streams.additions + 1"
_DUE: Final = """
    SELECT enrollment_id FROM nanomdm_webhook_streams {index}
     WHERE due <= {now} ORDER BY due LIMIT {limit} {skip_locked}
"""
_TAKE: Final = """
    UPDATE nanomdm_webhook_streams SET holder = ?, lease = ?, due = {now} + ?
     WHERE enrollment_id IN ({{values}})
"""
# Ordering by what is constant, too, makes one index the obvious choice.
_FIRST: Final = """
    SELECT s.enrollment_id, s.attempts,
           (SELECT e.number FROM nanomdm_webhook_events AS e {index}
             WHERE e.enrollment_id = s.enrollment_id
             ORDER BY e.enrollment_id, e.number
             LIMIT 1)
      FROM nanomdm_webhook_streams AS s
     WHERE s.enrollment_id IN ({{values}})
"""
_EVENTS: Final = """
    SELECT number, enrollment_id, event_id, head, raw, {now} - created
      FROM nanomdm_webhook_events WHERE number IN ({{values}})
"""
_LOCK: Final = """
    SELECT enrollment_id, holder FROM nanomdm_webhook_streams
     WHERE enrollment_id IN ({{values}}) ORDER BY enrollment_id {for_update}
"""
_THERE: Final = "SELECT number FROM nanomdm_webhook_events WHERE number IN ({values})"
_DELETE: Final = "DELETE FROM nanomdm_webhook_events WHERE number IN ({values})"
_END: Final = "DELETE FROM nanomdm_webhook_streams WHERE enrollment_id IN ({values})"
_GO_ON: Final = """
    UPDATE nanomdm_webhook_streams SET attempts = 0, due = {now} + lease
     WHERE enrollment_id IN ({{values}})
"""
_POSTPONE: Final = """
    UPDATE nanomdm_webhook_streams SET attempts = attempts + 1, holder = '', due = {now} + ?
     WHERE enrollment_id = ?
"""
_FAIL: Final = """
    INSERT INTO nanomdm_webhook_failed
           (number, event_id, topic, enrollment_id, head, raw, created, failed_at, attempts,
            reason)
    SELECT e.number, e.event_id, e.topic, e.enrollment_id, e.head, e.raw, e.created, {now},
           s.attempts + 1, ?
      FROM nanomdm_webhook_events AS e
      JOIN nanomdm_webhook_streams AS s ON s.enrollment_id = e.enrollment_id
     WHERE e.number = ?
"""
_HELD: Final = "SELECT enrollment_id FROM nanomdm_webhook_streams WHERE holder = ?"
_RELEASE: Final = """
    UPDATE nanomdm_webhook_streams SET holder = '', due = {now}
     WHERE holder = ? AND enrollment_id IN ({{values}})
"""

#: The longest reason that is kept.
_REASON: Final = 255


@frozen
class Claim:
    """
    See L{nanomdm.interfaces.IEventStore.claim_events}.
    """

    server: str
    streams: int
    lease: float


class Outcome(Enum):
    """
    What came of an attempt to deliver an event.
    """

    DELIVERED = "delivered"
    POSTPONED = "postponed"
    FAILED = "failed"


@frozen
class Attempt:
    """
    An event that a server had in hand, and what came of that.

    @ivar delay: of what is postponed: seconds until it is due again.
    @ivar reason: of what failed: why.
    """

    server: str
    event: QueuedEvent
    outcome: Outcome
    delay: float = 0.0
    reason: str = ""


@cache
def recorded(operation: Operation, tallies: bool = False) -> Operation:
    """
    @param tallies: its results are the tallies of C{TokenUpdate} messages, which the
        events tell.
    @return: the operation, for arguments with an event each, which also writes the
        events of those whose result is no exception.
    """

    def both(transaction: Transaction, calls: Sequence[tuple[Any, Event]]) -> Sequence[Any]:
        results = operation(transaction, [argument for argument, _ in calls])
        accepted = [
            (event, result if tallies else None)
            for (_, event), result in zip(calls, results, strict=True)
            if not isinstance(result, Exception)
        ]
        transaction.at_end(_write, accepted)
        return results

    return both


def record(transaction: Transaction, events: Sequence[Event]) -> list[None]:
    """
    Write events.
    """
    transaction.at_end(_write, [(event, None) for event in events])
    return [None] * len(events)


def _write(transaction: Transaction, events: Sequence[tuple[Event, int | None]]) -> None:
    """
    @param events: each with its tally, if it tells one.
    """
    if not events:
        return
    created = now(transaction)
    open_streams(transaction, {event.enrollment.id for event, _ in events}, created)
    rows = [
        (
            *(event.id, event.topic, event.enrollment.id, event.head(tally)),
            *(_stored(transaction.vault, event), created),
        )
        for event, tally in events
    ]
    transaction.execute_many(_INSERT, rows)


def _stored(vault: Vault, event: Event) -> str:
    raw = event.raw.decode()
    if event.topic not in EVENT_TOPICS:
        return raw
    return EVENT.seal(vault, raw, event.enrollment.id, event.id)


def open_streams(transaction: Transaction, ids: Collection[str], due: int) -> None:
    """
    Prepare enrollments for further events, and lock them.

    @param due: when the events of those are due that had none.
    """
    rows = [(id, due) for id in sorted(ids)]
    transaction.insert_missing(
        "nanomdm_webhook_streams", ("enrollment_id",), ("due",), rows, then=(_ONE_MORE,)
    )


def claim(transaction: Transaction, claims: Sequence[Claim]) -> list[list[QueuedEvent]]:
    """
    @return: for each claim the first events of enrollments, those first that were due
        first.
    """
    return [_claim(transaction, claim) for claim in claims]


def _claim(transaction: Transaction, claim: Claim) -> list[QueuedEvent]:
    due = due_statement(transaction.dialect, claim.streams)
    ids = [id for (id,) in transaction.rows(due)]
    # Seconds are cut off, and no lease must be shorter than it was wished.
    lease = math.ceil(claim.lease) + 1
    take = _TAKE.format(now=transaction.dialect.unix_now)
    transaction.execute_in(take, sorted(ids), claim.server, lease, lease)
    events = _events(transaction, _first(transaction, ids))
    return [events[id] for id in ids if id in events]


def due_statement(dialect: Dialect, limit: int) -> str:
    """
    @return: SQL for enrollments with an event that is due.
    """
    index = dialect.use_index("nanomdm_webhook_streams_due")
    skip_locked = dialect.for_update_skip_locked
    return _DUE.format(index=index, now=dialect.unix_now, limit=limit, skip_locked=skip_locked)


def first_statement(dialect: Dialect) -> str:
    """
    @return: SQL for the first event of each of some enrollments.
    """
    return _FIRST.format(index=dialect.use_index("nanomdm_webhook_events_enrollment"))


def settle(
    transaction: Transaction, attempts: Sequence[Attempt]
) -> list[QueuedEvent | LeaseLost | None]:
    """
    @return: for each attempt that counts the enrollment's next event, if the server goes
        on with it, and for others that they do not count.
    """
    held = _lock(transaction, attempts)
    _keep_failed(transaction, held)
    _postpone(transaction, held)
    following = _go_on(
        transaction,
        [held[id].event for id in held if held[id].outcome is not Outcome.POSTPONED],
    )
    return [
        following.get(attempt.event.enrollment_id)
        if held.get(attempt.event.enrollment_id) is attempt
        else LeaseLost(
            f"event {attempt.event.number} of {attempt.event.enrollment_id} is in other hands"
        )
        for attempt in attempts
    ]


def release(transaction: Transaction, servers: Sequence[str]) -> list[None]:
    """
    Let go of all enrollments that servers have in hand.
    """
    statement = _RELEASE.format(now=transaction.dialect.unix_now)
    for server in servers:
        ids = sorted(id for (id,) in transaction.rows(_HELD, (server,)))
        transaction.execute_in(statement, ids, server)
    return [None] * len(servers)


def now(transaction: Transaction) -> int:
    """
    @return: the present time, in Unix seconds.
    """
    seconds: int = transaction.row(f"SELECT {transaction.dialect.unix_now}")[0]
    return seconds


def _lock(transaction: Transaction, attempts: Sequence[Attempt]) -> dict[str, Attempt]:
    """
    @return: by enrollment, in their order, those attempts that count: their server has
        the enrollment in hand, and the event is still there.
    """
    lock = _LOCK.format(for_update=transaction.dialect.for_update)
    ids = sorted({attempt.event.enrollment_id for attempt in attempts})
    holders = dict(transaction.rows_in(lock, ids))
    numbers = [attempt.event.number for attempt in attempts]
    there = {number for (number,) in transaction.rows_in(_THERE, numbers)}
    held: dict[str, Attempt] = {}
    for attempt in attempts:
        event = attempt.event
        if holders.get(event.enrollment_id) == attempt.server and event.number in there:
            held.setdefault(event.enrollment_id, attempt)
    return dict(sorted(held.items()))


def _keep_failed(transaction: Transaction, held: Mapping[str, Attempt]) -> None:
    rows = [
        (_printable(attempt.reason), attempt.event.number)
        for attempt in held.values()
        if attempt.outcome is Outcome.FAILED
    ]
    transaction.execute_many(_FAIL.format(now=transaction.dialect.unix_now), rows)


def _postpone(transaction: Transaction, held: Mapping[str, Attempt]) -> None:
    rows = [
        (math.ceil(attempt.delay), id)
        for id, attempt in held.items()
        if attempt.outcome is Outcome.POSTPONED
    ]
    transaction.execute_many(_POSTPONE.format(now=transaction.dialect.unix_now), rows)


def _go_on(transaction: Transaction, done: Sequence[QueuedEvent]) -> dict[str, QueuedEvent]:
    """
    @return: by enrollment what follows events that are done.
    """
    transaction.execute_in(_DELETE, [event.number for event in done])
    following = _first(transaction, [event.enrollment_id for event in done])
    go_on = _GO_ON.format(now=transaction.dialect.unix_now)
    transaction.execute_in(go_on, sorted(following))
    return _events(transaction, {id: (number, 0) for id, (number, _) in following.items()})


def _first(transaction: Transaction, ids: Collection[str]) -> dict[str, tuple[int, int]]:
    """
    Look what is to be delivered next; enrollments that have nothing any more are no
    streams from then on.

    @param ids: enrollments that are locked.
    @return: by enrollment the number of its first event, and how often that was tried.
    """
    rows = transaction.rows_in(first_statement(transaction.dialect), sorted(ids))
    found = {id: (number, attempts) for id, attempts, number in rows if number is not None}
    transaction.execute_in(_END, sorted(id for id in ids if id not in found))
    return found


def _events(
    transaction: Transaction, first: Mapping[str, tuple[int, int]]
) -> dict[str, QueuedEvent]:
    """
    @param first: what L{_first} found.
    """
    statement = _EVENTS.format(now=transaction.dialect.unix_now)
    numbers = sorted(number for number, _ in first.values())
    found = {}
    for number, id, event_id, head, stored, age in transaction.rows_in(statement, numbers):
        attempts = first[id][1]
        seconds = max(0.0, float(age))
        try:
            raw = EVENT.open(transaction.vault, stored, id, event_id)
        except SecretUnreadable as error:
            found[id] = QueuedEvent(number, id, head.encode(), seconds, attempts, str(error))
        else:
            found[id] = QueuedEvent(number, id, body(head, raw.encode()), seconds, attempts)
    return found


def _printable(reason: str) -> str:
    """
    @return: what every database takes.
    """
    return "".join(c if c.isprintable() else " " for c in reason[:_REASON])
