"""
Which certificate speaks for which device: the table cert_auth_associations.

The newest pair of an id is the one with the latest C{updated_at}: enrolling
again with a certificate that the id had before makes that one the newest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import evolve, frozen

from nanomdm.interfaces import AssociationFacts
from nanomdm.storage.batcher import Transaction

_OWN: Final = "SELECT 1 FROM cert_auth_associations WHERE id = ? AND sha256 = ?"
_SUPERSEDED_FOR: Final = """
    SELECT (julianday('now') - julianday(min(newer.updated_at))) * 86400.0
      FROM cert_auth_associations AS own
      JOIN cert_auth_associations AS newer
        ON newer.id = own.id
       AND (newer.updated_at > own.updated_at
            OR (newer.updated_at = own.updated_at AND newer.rowid > own.rowid))
     WHERE own.id = ? AND own.sha256 = ?
"""
_TAKEN_BY: Final = "SELECT id FROM cert_auth_associations WHERE sha256 = ? AND id <> ? LIMIT 1"
_ID_HAS_OTHER: Final = "SELECT 1 FROM cert_auth_associations WHERE id = ? AND sha256 <> ? LIMIT 1"
_ADD: Final = "INSERT INTO cert_auth_associations (id, sha256) VALUES (?, ?)"
_MAKE_NEWEST: Final = """
    UPDATE cert_auth_associations
       SET updated_at = strftime('%Y-%m-%d %H:%M:%f', 'now')
     WHERE id = ? AND sha256 = ?
"""


@frozen
class Pair:
    """
    A device-channel id and the SHA-256 of a certificate.
    """

    device_id: str
    sha256: str


@frozen
class AssociateCall:
    """
    See L{nanomdm.interfaces.IAssociationStore.associate}.
    """

    pair: Pair
    first_only: bool
    grace: float


def facts(transaction: Transaction, pairs: Sequence[Pair]) -> list[AssociationFacts]:
    """
    @return: what is known of each pair.
    """
    return [_facts(transaction, pair) for pair in pairs]


def associate(transaction: Transaction, calls: Sequence[AssociateCall]) -> list[AssociationFacts]:
    """
    @return: what was known of each pair, and whether it was added.
    """
    return [_associate(transaction, call) for call in calls]


def _facts(transaction: Transaction, pair: Pair) -> AssociationFacts:
    device_id, sha256 = pair.device_id, pair.sha256
    if _exists(transaction, _OWN, device_id, sha256):
        transaction.execute(_SUPERSEDED_FOR, (device_id, sha256))
        return AssociationFacts(associated=True, superseded_for=transaction.fetchone()[0])
    transaction.execute(_TAKEN_BY, (sha256, device_id))
    other = transaction.fetchone()
    return AssociationFacts(
        associated=False,
        taken_by=other[0] if other else None,
        id_has_other=_exists(transaction, _ID_HAS_OTHER, device_id, sha256),
    )


def _associate(transaction: Transaction, call: AssociateCall) -> AssociationFacts:
    found = _facts(transaction, call.pair)
    key = (call.pair.device_id, call.pair.sha256)
    if found.associated:
        superseded_for = found.superseded_for
        if superseded_for is not None and superseded_for < call.grace and not call.first_only:
            transaction.execute(_MAKE_NEWEST, key)
        return found
    if found.taken_by is not None or (call.first_only and found.id_has_other):
        return found
    transaction.execute(_ADD, key)
    return evolve(found, inserted=True)


def _exists(transaction: Transaction, statement: str, *parameters: str) -> bool:
    transaction.execute(statement, parameters)
    return transaction.fetchone() is not None
