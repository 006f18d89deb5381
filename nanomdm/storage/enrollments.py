"""
What check-ins tell: the tables devices, users and enrollments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from attrs import field, frozen

from nanomdm.errors import NotEnrolled
from nanomdm.mdm.checkin import Authenticate, TokenUpdate, UserAuthenticate
from nanomdm.mdm.enrollment import Enrollment
from nanomdm.storage import pushes
from nanomdm.storage.secrets import UNLOCK_TOKEN, kept_message
from nanomdm.storage.transaction import Transaction

_FORGET_TOKENS: Final = """
    UPDATE devices
       SET bootstrap_token_b64 = NULL, bootstrap_token_at = NULL,
           unlock_token = NULL, unlock_token_at = NULL
     WHERE id = ?
"""
_DISABLE_DEVICE: Final = """
    UPDATE enrollments SET enabled = FALSE, token_update_tally = 0 WHERE device_id = ?
"""
_DISABLE_USER: Final = """
    UPDATE enrollments SET enabled = FALSE, token_update_tally = 0 WHERE id = ?
"""
_CLEAR_QUEUES: Final = """
    UPDATE enrollment_queue SET active = FALSE
     WHERE active = TRUE AND id IN (SELECT id FROM enrollments WHERE device_id = ?)
"""
_PENDING_PROFILES: Final = """
    SELECT c.command
      FROM enrollments AS e
      JOIN enrollment_queue AS q ON q.id = e.id AND q.active = TRUE
      JOIN commands AS c ON c.command_uuid = q.command_uuid
      LEFT JOIN command_results AS r ON r.id = q.id AND r.command_uuid = q.command_uuid
     WHERE e.id = ? AND e.enabled = TRUE AND c.request_type = 'InstallProfile'
       AND (r.status IS NULL OR r.status = 'NotNow')
"""
_DEVICE_TOKEN_UPDATE: Final = """
    UPDATE devices SET token_update = ?, token_update_at = CURRENT_TIMESTAMP WHERE id = ?
"""
_UNLOCK_TOKEN: Final = """
    UPDATE devices SET unlock_token = ?, unlock_token_at = CURRENT_TIMESTAMP WHERE id = ?
"""
_TALLY: Final = "SELECT token_update_tally FROM enrollments WHERE id = ?"
_DEVICE_EXISTS: Final = "SELECT 1 FROM devices WHERE id = ?"
_SEEN: Final = """
    UPDATE enrollments SET last_seen_at = CURRENT_TIMESTAMP WHERE id IN ({values})
"""


@frozen
class AuthenticateCall:
    """
    An C{Authenticate} to store; see
    L{nanomdm.interfaces.IEnrollmentStore.store_authenticate}.
    """

    message: Authenticate
    identity_pem: str | None = field(repr=False)
    renews: Callable[[bytes], bool]


def authenticate(transaction: Transaction, calls: Sequence[AuthenticateCall]) -> list[bool]:
    """
    @return: for each call, whether it was a renewal.
    """
    return [_authenticate(transaction, call) for call in calls]


def _authenticate(transaction: Transaction, call: AuthenticateCall) -> bool:
    message = call.message
    device_id = message.enrollment.id
    pending = transaction.rows(_PENDING_PROFILES, (device_id,))
    renewal = any(call.renews(command.encode()) for (command,) in pending)
    values = (device_id, call.identity_pem, message.serial_number, message.raw.decode())
    transaction.upsert(
        "devices",
        ("id",),
        ("identity_cert", "serial_number", "authenticate"),
        [values],
        now=("authenticate_at",),
    )
    if not renewal:
        for statement in (_FORGET_TOKENS, _DISABLE_DEVICE, _CLEAR_QUEUES):
            transaction.execute(statement, (device_id,))
    return renewal


def token_update(
    transaction: Transaction, messages: Sequence[TokenUpdate]
) -> list[int | NotEnrolled]:
    """
    @return: for each message the tally, or why it can not be stored.
    """
    pushes.revive(transaction, {message.enrollment.id for message in messages})
    return [_token_update(transaction, message) for message in messages]


def _token_update(transaction: Transaction, message: TokenUpdate) -> int | NotEnrolled:
    enrollment = message.enrollment
    if not _device_exists(transaction, enrollment):
        return _never_authenticated(enrollment)
    if enrollment.is_user_channel:
        _store_user(transaction, message)
    else:
        vault = transaction.vault
        transaction.execute(_DEVICE_TOKEN_UPDATE, (kept_message(vault, message), enrollment.id))
        if message.unlock_token:
            stored = UNLOCK_TOKEN.seal(vault, message.unlock_token, enrollment.id)
            transaction.execute(_UNLOCK_TOKEN, (stored, enrollment.id))
    _enable(transaction, message)
    tally: int = transaction.row(_TALLY, (enrollment.id,))[0]
    return tally


def _store_user(transaction: Transaction, message: TokenUpdate) -> None:
    names = (message.user_short_name, message.user_long_name)
    ids = (message.enrollment.id, message.enrollment.device_id)
    transaction.upsert(
        "users",
        ("id", "device_id"),
        ("user_short_name", "user_long_name", "token_update"),
        [(*ids, *names, kept_message(transaction.vault, message))],
        now=("token_update_at",),
    )


def _enable(transaction: Transaction, message: TokenUpdate) -> None:
    enrollment = message.enrollment
    user_id = enrollment.id if enrollment.is_user_channel else None
    ids = (enrollment.id, enrollment.device_id, user_id, enrollment.type.value)
    transaction.upsert(
        "enrollments",
        ("id",),
        ("device_id", "user_id", "type", "topic", "push_magic", "token_hex"),
        [(*ids, message.topic, message.push_magic, message.token_hex)],
        now=("last_seen_at",),
        then=("enabled = TRUE", "token_update_tally = enrollments.token_update_tally + 1"),
    )


def user_authenticate(
    transaction: Transaction, messages: Sequence[UserAuthenticate]
) -> list[NotEnrolled | None]:
    """
    @return: for each message L{None}, or why it can not be stored.
    """
    return [_user_authenticate(transaction, message) for message in messages]


def _user_authenticate(transaction: Transaction, message: UserAuthenticate) -> NotEnrolled | None:
    enrollment = message.enrollment
    if not _device_exists(transaction, enrollment):
        return _never_authenticated(enrollment)
    column = "user_authenticate_digest" if message.digest_response else "user_authenticate"
    transaction.upsert(
        "users",
        ("id", "device_id"),
        (column,),
        [(enrollment.id, enrollment.device_id, message.raw.decode())],
        now=(f"{column}_at",),
    )
    return None


def disable(transaction: Transaction, enrollments: Sequence[Enrollment]) -> list[None]:
    """
    Disable channels, device channels together with their users'.
    """
    for enrollment in enrollments:
        statement = _DISABLE_USER if enrollment.is_user_channel else _DISABLE_DEVICE
        transaction.execute(statement, (enrollment.id,))
    return [None] * len(enrollments)


def seen(transaction: Transaction, groups: Sequence[Sequence[str]]) -> list[None]:
    """
    Set C{last_seen_at} of each group of enrollment ids to now.
    """
    for ids in groups:
        transaction.execute_in(_SEEN, ids)
    return [None] * len(groups)


def _device_exists(transaction: Transaction, enrollment: Enrollment) -> bool:
    return transaction.row(_DEVICE_EXISTS, (enrollment.device_id,)) is not None


def _never_authenticated(enrollment: Enrollment) -> NotEnrolled:
    return NotEnrolled(f"{enrollment.device_id} never sent an Authenticate")
