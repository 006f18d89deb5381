"""
Push certificates: the table push_certs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from nanomdm.interfaces import StoredPushCertificate
from nanomdm.storage.transaction import Transaction

_STORE: Final = """
    INSERT INTO push_certs (topic, cert_pem, key_pem, stale_token) VALUES (?, ?, ?, 0) {replace}
"""
_FETCH: Final = """
    SELECT topic, cert_pem, key_pem, stale_token FROM push_certs WHERE topic IN ({values})
"""
_ALL: Final = "SELECT topic, cert_pem FROM push_certs ORDER BY topic"


def store(transaction: Transaction, calls: Sequence[tuple[str, str, str]]) -> list[None]:
    """
    Store or replace certificates.

    @param calls: topics, each with the PEM of its certificate and of its key.
    """
    dialect = transaction.dialect
    assignments = [f"{name} = {dialect.inserted(name)}" for name in ("cert_pem", "key_pem")]
    assignments.append("stale_token = push_certs.stale_token + 1")
    statement = _STORE.format(replace=dialect.on_conflict(("topic",), assignments))
    for call in calls:
        transaction.execute(statement, call)
    return [None] * len(calls)


def fetch(transaction: Transaction, topics: Sequence[str]) -> list[StoredPushCertificate | None]:
    """
    @return: the certificate of each topic, or L{None}.
    """
    rows = transaction.rows_in(_FETCH, sorted(set(topics)))
    found = {row[0]: StoredPushCertificate(*row) for row in rows}
    return [found.get(topic) for topic in topics]


def fetch_all(transaction: Transaction, calls: Sequence[None]) -> list[list[tuple[str, str]]]:
    """
    @return: for every call all topics with their certificates' PEM.
    """
    found = [(topic, pem) for topic, pem in transaction.rows(_ALL)]
    return [found] * len(calls)
