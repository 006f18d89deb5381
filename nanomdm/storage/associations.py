"""
Which certificate speaks for which device: the table cert_auth_associations.

The newest pair of an id is the one that was updated last: enrolling again with a
certificate that the id had before makes that one the newest.  Times may have
whole seconds only, so C{nanomdm_seq} decides between equal ones.

Two servers may be shown one new certificate by two devices at the same moment.
The table's key does not keep them apart, so who may have a certificate is
decided by the key of nanomdm_cert_owners.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

from attrs import evolve, frozen

from nanomdm.interfaces import AssociationFacts, CertificateHolder
from nanomdm.storage.transaction import Transaction

_ROWS: Final = "SELECT id, sha256, {age}, nanomdm_seq FROM cert_auth_associations"
_OF_IDS: Final = _ROWS + " WHERE id IN ({{values}})"
_OF_CERTIFICATES: Final = _ROWS + " WHERE sha256 IN ({{values}})"
_OWNER: Final = "SELECT id FROM nanomdm_cert_owners WHERE sha256 = ?"
_DROP_CLAIM: Final = "DELETE FROM nanomdm_cert_owners WHERE sha256 = ?"
_TAKE_OVER: Final = "UPDATE nanomdm_cert_owners SET id = ? WHERE sha256 = ? AND id = ?"
_EXISTS: Final = "SELECT 1 FROM cert_auth_associations WHERE id = ? AND sha256 = ?"
_SPELLINGS: Final = """
    SELECT id FROM devices WHERE id = ? UNION SELECT id FROM cert_auth_associations WHERE id = ?
"""
_MAKE_NEWEST: Final = """
    UPDATE cert_auth_associations SET nanomdm_seq = ? WHERE id = ? AND sha256 = ?
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
    twin: str | None = None


@frozen
class _Row:
    """
    @ivar age: seconds since it became its id's newest.
    """

    pair: Pair
    age: float
    number: int

    def newer_than(self, other: _Row) -> bool:
        return (-self.age, self.number) > (-other.age, other.number)


def facts(transaction: Transaction, pairs: Sequence[Pair]) -> list[AssociationFacts]:
    """
    @return: what is known of each pair.
    """
    age = transaction.dialect.age("updated_at")
    by_id = _rows(transaction, _OF_IDS.format(age=age), {pair.device_id for pair in pairs})
    by_certificate = _rows(
        transaction, _OF_CERTIFICATES.format(age=age), {pair.sha256 for pair in pairs}
    )
    return [_facts(pair, by_id, by_certificate) for pair in pairs]


def _rows(transaction: Transaction, statement: str, values: Iterable[str]) -> list[_Row]:
    return [
        _Row(Pair(device_id, sha256), float(age), number)
        for device_id, sha256, age, number in transaction.rows_in(statement, sorted(values))
    ]


def _facts(pair: Pair, by_id: list[_Row], by_certificate: list[_Row]) -> AssociationFacts:
    of_id = [row for row in by_id if row.pair.device_id == pair.device_id]
    for own in of_id:
        if own.pair == pair:
            newer = [row.age for row in of_id if row.newer_than(own)]
            return AssociationFacts(associated=True, superseded_for=max(newer, default=None))
    if any(row.pair == pair for row in by_certificate):
        # Another server added it between the two looks.
        return AssociationFacts(associated=True)
    takers = (row.pair.device_id for row in by_certificate if row.pair.sha256 == pair.sha256)
    return AssociationFacts(associated=False, taken_by=next(takers, None), id_has_other=bool(of_id))


def holders(
    transaction: Transaction, certificates: Sequence[str]
) -> list[CertificateHolder | None]:
    """
    @param certificates: hashes.
    @return: whom each speaks for.
    """
    statement = _OF_CERTIFICATES.format(age=transaction.dialect.age("updated_at"))
    newest: dict[str, _Row] = {}
    for row in _rows(transaction, statement, set(certificates)):
        known = newest.get(row.pair.sha256)
        if known is None or row.newer_than(known):
            newest[row.pair.sha256] = row
    pairs = [row.pair for row in newest.values()]
    found = {
        pair.sha256: CertificateHolder(pair.device_id, known.superseded_for)
        for pair, known in zip(pairs, facts(transaction, pairs), strict=True)
        if known.associated
    }
    return [found.get(sha256) for sha256 in certificates]


def associate(transaction: Transaction, calls: Sequence[AssociateCall]) -> list[AssociationFacts]:
    """
    @return: what was known of each pair, and whether it was added.
    """
    return [_associate(transaction, call) for call in calls]


def _associate(transaction: Transaction, call: AssociateCall) -> AssociationFacts:
    pair = call.pair
    if call.first_only:
        _lock_id(transaction, pair.device_id)
    [found] = facts(transaction, [pair])
    if found.associated:
        superseded_for = found.superseded_for
        if superseded_for is not None and superseded_for < call.grace and not call.first_only:
            number = transaction.next_number()
            transaction.execute(_MAKE_NEWEST, (number, pair.device_id, pair.sha256))
        return found
    if found.taken_by is not None or (call.first_only and found.id_has_other):
        return found
    spelled = other_spelling(transaction, pair.device_id)
    if spelled is not None:
        return evolve(found, spelled=spelled)
    owner = _claim(transaction, call)
    if owner != pair.device_id:
        return evolve(found, taken_by=owner)
    # Only after the claim can no other server add the twin any more.
    variant_of = _holder_of_twin(transaction, call)
    if variant_of is not None:
        return evolve(found, variant_of=variant_of)
    # Another server may just have been shown the same.
    transaction.insert_missing(
        "cert_auth_associations",
        ("id", "sha256"),
        ("nanomdm_seq",),
        [(pair.device_id, pair.sha256, transaction.next_number())],
    )
    return evolve(found, inserted=True)


def _lock_id(transaction: Transaction, device_id: str) -> None:
    """
    Let one server at a time look whether an id has a certificate.  The id may be in
    no table yet, so a claim on its hash serves as the lock.  It is deleted at once: on a
    Galera cluster other nodes' transactions only conflict with changes.
    """
    key = hashlib.sha256(f"id {device_id}".encode()).hexdigest()
    transaction.insert_missing(
        "nanomdm_cert_owners", ("sha256",), ("id",), [(key, device_id)], lock=True
    )
    transaction.execute(_DROP_CLAIM, (key,))


def other_spelling(transaction: Transaction, device_id: str) -> str | None:
    """
    @return: another id that the database takes for this one: taken-over MySQL
        databases compare without regard to case.
    """
    rows = transaction.rows(_SPELLINGS, (device_id, device_id))
    return next((id for (id,) in rows if id != device_id), None)


def _holder_of_twin(transaction: Transaction, call: AssociateCall) -> str | None:
    if call.twin is None:
        return None
    [twin] = facts(transaction, [Pair(call.pair.device_id, call.twin)])
    return call.pair.device_id if twin.associated else twin.taken_by


def _claim(transaction: Transaction, call: AssociateCall) -> str:
    """
    Take a certificate that is free, whichever of its hashes it is shown with.

    @return: the id that has it now; a claim whose association was deleted by
        hand no longer counts.
    """
    device_id = call.pair.device_id
    hashes = sorted({call.pair.sha256, call.twin or call.pair.sha256})
    transaction.insert_missing(
        "nanomdm_cert_owners", ("sha256",), ("id",), [(hashes[0], device_id)]
    )
    owner: str = transaction.row(_OWNER, (hashes[0],))[0]
    if owner == device_id or any(transaction.row(_EXISTS, (owner, sha256)) for sha256 in hashes):
        return owner
    taken = transaction.execute(_TAKE_OVER, (device_id, hashes[0], owner))
    return device_id if taken else owner
