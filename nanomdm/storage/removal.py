"""
Enrollments that operators end.

What belongs to a channel is deleted table by table: where two foreign keys meet, MySQL 9
may leave rows behind that a cascade should have taken.  The rows above them are locked
before that, in the order in which check-ins write them, so that nothing is added
meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import frozen

from nanomdm.errors import Unknown
from nanomdm.storage import pushes
from nanomdm.storage.queues import told
from nanomdm.storage.transaction import Transaction

_CHANNEL: Final = "SELECT id, user_id FROM enrollments WHERE id = ?"
_DISABLE: Final = """
    UPDATE enrollments SET enabled = FALSE, token_update_tally = 0 WHERE {column} = ?
"""
_OWNED: Final = "SELECT sha256 FROM nanomdm_cert_owners WHERE id = ?"
_DISOWN: Final = "DELETE FROM nanomdm_cert_owners WHERE sha256 IN ({values})"
_DISSOCIATE: Final = "DELETE FROM cert_auth_associations WHERE id = ?"


@frozen
class _Channel:
    """
    What is purged.

    @ivar id: its id.
    @ivar column: what names it in the tables of users and of enrollments.
    """

    id: str
    column: str

    @property
    def is_device(self) -> bool:
        return self.column == "device_id"


def disable(transaction: Transaction, calls: Sequence[str]) -> list[Unknown | None]:
    """
    @return: for each id L{None}, or that it is unknown.
    """
    return [told(_disable, transaction, enrollment_id) for enrollment_id in calls]


def _disable(transaction: Transaction, enrollment_id: str) -> None:
    found = transaction.row(_CHANNEL, (enrollment_id,))
    if found is None or found[0] != enrollment_id:
        raise _unknown(enrollment_id)
    column = "device_id" if found[1] is None else "id"
    transaction.execute(_DISABLE.format(column=column), (enrollment_id,))


def purge(transaction: Transaction, calls: Sequence[str]) -> list[list[str] | Unknown]:
    """
    @return: for each id what is gone, itself among it.
    """
    return [told(_purge, transaction, id) for id in calls]


def _purge(transaction: Transaction, id: str) -> list[str]:
    channel = _find(transaction, id)
    # As a TokenUpdate begins, too.
    pushes.revive(transaction, _ids(transaction, channel, lock=False))
    ids = _ids(transaction, channel, lock=True)
    if not ids:
        raise _unknown(id)  # somebody else was faster
    for table in ("command_results", "enrollment_queue"):
        transaction.execute_in(f"DELETE FROM {table} WHERE id IN ({{values}})", ids)
    for table in ("enrollments", "users"):
        transaction.execute(f"DELETE FROM {table} WHERE {channel.column} = ?", (id,))
    if channel.is_device:
        transaction.execute("DELETE FROM devices WHERE id = ?", (id,))
        owned = [sha256 for (sha256,) in transaction.rows(_OWNED, (id,))]
        transaction.execute_in(_DISOWN, sorted(owned))
        transaction.execute(_DISSOCIATE, (id,))
    pushes.forget(transaction, [ids])
    return ids


def _find(transaction: Transaction, id: str) -> _Channel:
    for table, column in (("devices", "device_id"), ("users", "id")):
        found = transaction.row(f"SELECT id FROM {table} WHERE id = ?", (id,))
        # Taken-over MySQL databases find an id in other letters, too.
        if found is not None and found[0] == id:
            return _Channel(id, column)
    raise _unknown(id)


def _ids(transaction: Transaction, channel: _Channel, lock: bool) -> list[str]:
    """
    @param lock: lock what is there.
    @return: the channel's id and, of a device, those of its users; sorted.
    """
    end = transaction.dialect.for_update if lock else ""
    sources = [(table, channel.column) for table in ("users", "enrollments")]
    if channel.is_device:
        sources.insert(0, ("devices", "id"))
    ids: set[str] = set()
    for table, column in sources:
        statement = f"SELECT id FROM {table} WHERE {column} = ? ORDER BY id {end}"
        ids.update(id for (id,) in transaction.rows(statement, (channel.id,)))
    return sorted(ids)


def _unknown(id: str) -> Unknown:
    return Unknown(f"there is no enrollment {id}")
