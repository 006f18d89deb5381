"""
What operators want to know about a storage, and what the modules about enrollments,
queues and answers have in common.

Nothing is decided by these numbers, so they alone may come from a replica that
lags behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from twisted.internet.defer import Deferred

from nanomdm.interfaces import QueueSummary
from nanomdm.storage.database import Database
from nanomdm.storage.transaction import Transaction

# Going through the enrollments lets the index of the next command step over
# answered rows.
_SUMMARY: Final = """
    SELECT (SELECT count(*)
              FROM enrollments AS e
              JOIN enrollment_queue AS q ON q.id = e.id AND q.active = TRUE
              LEFT JOIN command_results AS r
                ON r.id = q.id AND r.command_uuid = q.command_uuid
             WHERE r.status IS NULL OR r.status = 'NotNow'),
           (SELECT count(*) FROM enrollments),
           (SELECT count(*) FROM enrollments WHERE enabled = TRUE)
"""


def summarize(transaction: Transaction, calls: Sequence[None]) -> list[QueueSummary]:
    """
    @return: the same summary for every call.
    """
    outstanding, enrollments, enabled = transaction.row(_SUMMARY)
    return [QueueSummary(outstanding, enrollments, enabled)] * len(calls)


def ping(transaction: Transaction, calls: Sequence[None]) -> list[None]:
    """
    Ask for nothing but an answer.
    """
    transaction.row("SELECT 1")
    return [None] * len(calls)


def queue_summary(database: Database) -> Deferred[QueueSummary]:
    """
    @param database: the storage's, or a replica of it.
    """
    # Counting many takes long.
    return database.look(summarize, None)
