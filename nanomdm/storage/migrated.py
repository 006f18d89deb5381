"""
What another server knew of a device, brought here by a migration.

It may be older than what the device has told this server itself, and a migration
may be run again after it was interrupted.  So a message that is here already
changes nothing, and a device that speaks to this server is left alone: one that
is enabled and has a certificate association, which only its own requests make.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from nanomdm.errors import AlreadyEnrolled, NanoMDMError
from nanomdm.mdm.checkin import Authenticate, SetBootstrapToken, TokenUpdate, UserAuthenticate
from nanomdm.mdm.migration import Migratable
from nanomdm.storage import associations, enrollments, tokens
from nanomdm.storage.transaction import Transaction

#: What the device says itself at the same time waits for the end of this.
_LOCKED: Final = "SELECT authenticate FROM devices WHERE id = ? {for_update}"
_ENABLED: Final = "SELECT 1 FROM enrollments WHERE id = ? AND enabled = TRUE"
_ASSOCIATED: Final = "SELECT 1 FROM cert_auth_associations WHERE id = ?"


def store(transaction: Transaction, messages: Sequence[Migratable]) -> list[bool | NanoMDMError]:
    """
    @return: for each message whether it was stored, or why it can not be.
    """
    return [_store(transaction, message) for message in messages]


def _store(transaction: Transaction, message: Migratable) -> bool | NanoMDMError:
    device_id = message.enrollment.device_id
    spelled = associations.other_spelling(transaction, device_id)
    if spelled is not None:
        return AlreadyEnrolled(f"the database can not tell {device_id} from {spelled}")
    if isinstance(message, Authenticate):
        return _authenticate(transaction, message)
    result: object
    if isinstance(message, TokenUpdate):
        _lock(transaction, device_id)
        if _speaks(transaction, message.enrollment.id, device_id):
            return False
        [result] = enrollments.token_update(transaction, [message])
    elif isinstance(message, SetBootstrapToken):
        return _bootstrap_token(transaction, message)
    elif isinstance(message, UserAuthenticate):
        [result] = enrollments.user_authenticate(transaction, [message])
    else:
        [result] = enrollments.disable(transaction, [message.enrollment])
    return result if isinstance(result, NanoMDMError) else True


def _authenticate(transaction: Transaction, message: Authenticate) -> bool | AlreadyEnrolled:
    device_id = message.enrollment.id
    stored = _lock(transaction, device_id)
    if transaction.row(_ENABLED, (device_id,)) is not None:
        if stored == message.raw.decode():
            return False
        if _speaks(transaction, device_id, device_id):
            return AlreadyEnrolled(f"{device_id} has enrolled at this server itself")
    # Nothing of another server makes this a renewal here.
    call = enrollments.AuthenticateCall(message, None, lambda command: False)
    enrollments.authenticate(transaction, [call])
    return True


def _bootstrap_token(transaction: Transaction, message: SetBootstrapToken) -> bool | NanoMDMError:
    device_id = message.enrollment.id
    _lock(transaction, device_id)
    present = tokens.has_bootstrap(transaction, device_id)
    if present and _speaks(transaction, device_id, device_id):
        return False
    [error] = tokens.store_bootstrap(transaction, [tokens.BootstrapToken(device_id, message.token)])
    return error or True


def _lock(transaction: Transaction, device_id: str) -> str | None:
    """
    @return: the device's C{Authenticate}.
    """
    locked = _LOCKED.format(for_update=transaction.dialect.for_update)
    row = transaction.row(locked, (device_id,))
    return None if row is None else row[0]


def _speaks(transaction: Transaction, enrollment_id: str, device_id: str) -> bool:
    """
    @return: whether what a channel's device says itself is here.
    """
    return (
        transaction.row(_ENABLED, (enrollment_id,)) is not None
        and transaction.row(_ASSOCIATED, (device_id,)) is not None
    )
