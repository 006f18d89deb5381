"""
Events that were given up (the table nanomdm_webhook_failed), and how many wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import frozen

from nanomdm.interfaces import Backlog, FailedEvent
from nanomdm.storage.transaction import Transaction
from nanomdm.storage.webhook import now, open_streams

#: Events that are sent again in one transaction.
PIECE: Final = 500

_BACKLOG: Final = """
    SELECT (SELECT count(*) FROM nanomdm_webhook_events),
           (SELECT {now} - created FROM nanomdm_webhook_events ORDER BY number LIMIT 1),
           (SELECT count(*) FROM nanomdm_webhook_failed)
"""
_LIST: Final = """
    SELECT number, event_id, topic, enrollment_id, created, failed_at, attempts, reason
      FROM nanomdm_webhook_failed WHERE number > ? ORDER BY number LIMIT ?
"""
_NUMBERS: Final = "SELECT number FROM nanomdm_webhook_failed ORDER BY number"
_LOCK: Final = """
    SELECT number, enrollment_id FROM nanomdm_webhook_failed
     WHERE number IN ({{values}}) ORDER BY number {for_update}
"""
_AGAIN: Final = """
    INSERT INTO nanomdm_webhook_events (event_id, topic, enrollment_id, head, raw, created)
    SELECT event_id, topic, enrollment_id, head, raw, {now} FROM nanomdm_webhook_failed
     WHERE number IN ({{values}}) ORDER BY number
"""
_DELETE: Final = "DELETE FROM nanomdm_webhook_failed WHERE number IN ({values})"


@frozen
class Page:
    """
    See L{nanomdm.interfaces.IEventStore.failed_events}.
    """

    limit: int
    after: int


def backlog(transaction: Transaction, calls: Sequence[None]) -> list[Backlog]:
    """
    @return: the same for every call.
    """
    statement = _BACKLOG.format(now=transaction.dialect.unix_now)
    waiting, oldest, failed = transaction.row(statement)
    age = None if oldest is None else max(0.0, float(oldest))
    return [Backlog(waiting, age, failed)] * len(calls)


def fetch(transaction: Transaction, pages: Sequence[Page]) -> list[list[FailedEvent]]:
    """
    @return: for each page its events, in the order in which they were written.
    """
    return [
        [FailedEvent(*row) for row in transaction.rows(_LIST, (page.after, page.limit))]
        for page in pages
    ]


def numbers(transaction: Transaction, calls: Sequence[None]) -> list[list[int]]:
    """
    @return: for every call the numbers of all events that were given up.
    """
    found = [number for (number,) in transaction.rows(_NUMBERS)]
    return [found] * len(calls)


def retry(transaction: Transaction, pieces: Sequence[Sequence[int]]) -> list[int]:
    """
    Put events behind those that wait already.

    @param pieces: numbers, rising.
    @return: for each piece how many of its events were there.
    """
    return [_retry(transaction, piece) for piece in pieces]


def _retry(transaction: Transaction, piece: Sequence[int]) -> int:
    dialect = transaction.dialect
    lock = _LOCK.format(for_update=dialect.for_update)
    found = dict(transaction.rows_in(lock, piece))
    open_streams(transaction, set(found.values()), now(transaction))
    transaction.execute_in(_AGAIN.format(now=dialect.unix_now), list(found))
    transaction.execute_in(_DELETE, list(found))
    return len(found)
