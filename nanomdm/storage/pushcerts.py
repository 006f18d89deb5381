"""
Push certificates: the table push_certs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from nanomdm.errors import PushKeyUnreadable, SecretUnreadable
from nanomdm.interfaces import ListedPushCertificate, StoredPushCertificate
from nanomdm.storage.secrets import PUSH_KEY
from nanomdm.storage.transaction import Transaction

_STORE: Final = """
    INSERT INTO push_certs (topic, cert_pem, key_pem, stale_token) VALUES (?, ?, ?, 0) {replace}
"""
_FETCH: Final = """
    SELECT topic, cert_pem, key_pem, stale_token FROM push_certs WHERE topic IN ({values})
"""
_ALL: Final = "SELECT topic, cert_pem, key_pem FROM push_certs ORDER BY topic"


def store(transaction: Transaction, calls: Sequence[tuple[str, str, str]]) -> list[None]:
    """
    Store or replace certificates.

    @param calls: topics, each with the PEM of its certificate and of its key.
    """
    dialect = transaction.dialect
    assignments = [f"{name} = {dialect.inserted(name)}" for name in ("cert_pem", "key_pem")]
    assignments.append("stale_token = push_certs.stale_token + 1")
    statement = _STORE.format(replace=dialect.on_conflict(("topic",), assignments))
    for topic, certificate, key in calls:
        stored = PUSH_KEY.seal(transaction.vault, key, topic)
        transaction.execute(statement, (topic, certificate, stored))
    return [None] * len(calls)


def fetch(
    transaction: Transaction, topics: Sequence[str]
) -> list[StoredPushCertificate | PushKeyUnreadable | None]:
    """
    @return: the certificate of each topic, or L{None}, or why its key can not be told.
    """
    rows = transaction.rows_in(_FETCH, sorted(set(topics)))
    found = {row[0]: _stored(transaction, *row) for row in rows}
    return [found.get(topic) for topic in topics]


def _stored(
    transaction: Transaction, topic: str, certificate: str, key: str, stale_token: int
) -> StoredPushCertificate | PushKeyUnreadable:
    try:
        opened = PUSH_KEY.open(transaction.vault, key, topic)
    except SecretUnreadable as error:
        return PushKeyUnreadable(str(error), certificate)
    return StoredPushCertificate(topic, certificate, opened, stale_token)


def fetch_all(transaction: Transaction, calls: Sequence[None]) -> list[list[ListedPushCertificate]]:
    """
    @return: for every call all topics with their certificates.
    """
    found = [_listed(transaction, *row) for row in transaction.rows(_ALL)]
    return [found] * len(calls)


def _listed(
    transaction: Transaction, topic: str, certificate: str, key: str
) -> ListedPushCertificate:
    try:
        PUSH_KEY.open(transaction.vault, key, topic)
    except SecretUnreadable as error:
        return ListedPushCertificate(topic, certificate, str(error))
    return ListedPushCertificate(topic, certificate)
