"""
Escrowed bootstrap tokens, and unlock tokens, which live in the table devices.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Final

from attrs import field, frozen

from nanomdm.errors import NotEnrolled, SecretUnreadable
from nanomdm.storage.secrets import BOOTSTRAP_TOKEN, UNLOCK_TOKEN
from nanomdm.storage.transaction import Transaction

_STORE: Final = """
    UPDATE devices SET bootstrap_token_b64 = ?, bootstrap_token_at = CURRENT_TIMESTAMP
     WHERE id = ?
"""
_DELETE: Final = """
    UPDATE devices SET bootstrap_token_b64 = ?, bootstrap_token_at = NULL WHERE id = ?
"""
_FETCH: Final = "SELECT bootstrap_token_b64 FROM devices WHERE id = ?"
_FETCH_UNLOCK: Final = "SELECT id, unlock_token FROM devices WHERE id = ?"


@frozen
class BootstrapToken:
    """
    A device's bootstrap token; L{None} deletes it.
    """

    device_id: str
    token: bytes | None = field(repr=False)


def store_bootstrap(
    transaction: Transaction, tokens: Sequence[BootstrapToken]
) -> list[NotEnrolled | None]:
    """
    @return: for each token L{None}, or why it can not be stored.
    """
    return [_store(transaction, item) for item in tokens]


def _store(transaction: Transaction, item: BootstrapToken) -> NotEnrolled | None:
    stored = None
    if item.token:
        encoded = base64.b64encode(item.token).decode()
        stored = BOOTSTRAP_TOKEN.seal(transaction.vault, encoded, item.device_id)
    if not transaction.execute(_STORE if stored else _DELETE, (stored, item.device_id)):
        return NotEnrolled(f"{item.device_id} never sent an Authenticate")
    return None


def has_bootstrap(transaction: Transaction, device_id: str) -> bool:
    """
    @return: whether there is a token of a device, which need not be readable.
    """
    row = transaction.row(_FETCH, (device_id,))
    return bool(row and row[0])


def fetch_bootstrap(
    transaction: Transaction, device_ids: Sequence[str]
) -> list[bytes | SecretUnreadable | None]:
    """
    @return: for each device its token, or L{None}, or why that can not be told.
    """
    return [_fetch(transaction, device_id) for device_id in device_ids]


def _fetch(transaction: Transaction, device_id: str) -> bytes | SecretUnreadable | None:
    row = transaction.row(_FETCH, (device_id,))
    if not row or not row[0]:
        return None
    try:
        return base64.b64decode(BOOTSTRAP_TOKEN.open(transaction.vault, row[0], device_id))
    except SecretUnreadable as error:
        return error


def fetch_unlock(
    transaction: Transaction, device_ids: Sequence[str]
) -> list[bytes | SecretUnreadable | None]:
    """
    @return: for each device its unlock token, or L{None}, or why that can not be told.
    """
    return [_fetch_unlock(transaction, device_id) for device_id in device_ids]


def _fetch_unlock(transaction: Transaction, device_id: str) -> bytes | SecretUnreadable | None:
    row = transaction.row(_FETCH_UNLOCK, (device_id,))
    # Taken-over MySQL databases find an id in other letters, too.
    if not row or row[0] != device_id or not row[1]:
        return None
    try:
        return UNLOCK_TOKEN.open(transaction.vault, bytes(row[1]), device_id)
    except SecretUnreadable as error:
        return error
