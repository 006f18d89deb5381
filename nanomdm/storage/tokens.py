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
from nanomdm.storage.transaction import Transaction, one_each

_DELETE: Final = """
    UPDATE devices SET bootstrap_token_b64 = NULL, bootstrap_token_at = NULL
     WHERE id IN ({values})
"""
_FETCH: Final = "SELECT id, bootstrap_token_b64 FROM devices WHERE id IN ({values})"
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
    results: list[NotEnrolled | None] = []
    for group in one_each(tokens, lambda item: item.device_id):
        results += _store(transaction, group)
    return results


def _store(transaction: Transaction, tokens: Sequence[BootstrapToken]) -> list[NotEnrolled | None]:
    known = _fetch(transaction, [item.device_id for item in tokens])
    there = sorted(
        (item for item in tokens if item.device_id in known), key=lambda item: item.device_id
    )
    rows = [
        (item.device_id, _sealed(transaction, item, item.token)) for item in there if item.token
    ]
    transaction.update_each("devices", "id", "bootstrap_token_b64", rows, "bootstrap_token_at")
    transaction.execute_in(_DELETE, [item.device_id for item in there if not item.token])
    return [
        None
        if item.device_id in known
        else NotEnrolled(f"{item.device_id} never sent an Authenticate")
        for item in tokens
    ]


def _sealed(transaction: Transaction, item: BootstrapToken, token: bytes) -> str:
    encoded = base64.b64encode(token).decode()
    return BOOTSTRAP_TOKEN.seal(transaction.vault, encoded, item.device_id)


def has_bootstrap(transaction: Transaction, device_id: str) -> bool:
    """
    @return: whether there is a token of a device, which need not be readable.
    """
    return bool(_fetch(transaction, [device_id]).get(device_id))


def fetch_bootstrap(
    transaction: Transaction, device_ids: Sequence[str]
) -> list[bytes | SecretUnreadable | None]:
    """
    @return: for each device its token, or L{None}, or why that can not be told.
    """
    found = _fetch(transaction, sorted(set(device_ids)))
    return [_opened(transaction, id, found.get(id)) for id in device_ids]


def _fetch(transaction: Transaction, device_ids: Sequence[str]) -> dict[str, str | None]:
    """
    @return: by the ids of those devices that there are, their tokens as they are stored.
    """
    return dict(transaction.rows_by(_FETCH, device_ids))


def _opened(
    transaction: Transaction, device_id: str, stored: str | None
) -> bytes | SecretUnreadable | None:
    if not stored:
        return None
    try:
        return base64.b64decode(BOOTSTRAP_TOKEN.open(transaction.vault, stored, device_id))
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
