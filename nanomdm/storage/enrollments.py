"""
What check-ins tell: the tables devices, users and enrollments.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

from attrs import field, frozen

from nanomdm.errors import NotEnrolled
from nanomdm.mdm.checkin import Authenticate, TokenUpdate, UserAuthenticate
from nanomdm.mdm.enrollment import Enrollment
from nanomdm.storage import pushes
from nanomdm.storage.secrets import UNLOCK_TOKEN, kept_message
from nanomdm.storage.transaction import Transaction, one_each

_FORGET_TOKENS: Final = """
    UPDATE devices
       SET bootstrap_token_b64 = NULL, bootstrap_token_at = NULL,
           unlock_token = NULL, unlock_token_at = NULL
     WHERE id IN ({values})
"""
_DISABLE_DEVICES: Final = """
    UPDATE enrollments SET enabled = FALSE, token_update_tally = 0 WHERE device_id IN ({values})
"""
_DISABLE_USERS: Final = """
    UPDATE enrollments SET enabled = FALSE, token_update_tally = 0 WHERE id IN ({values})
"""
_CHANNELS: Final = "SELECT id FROM enrollments WHERE device_id IN ({values})"
_CLEAR_QUEUES: Final = """
    UPDATE enrollment_queue SET active = FALSE WHERE active = TRUE AND id IN ({values})
"""
_PENDING_PROFILES: Final = """
    SELECT e.id, c.command
      FROM enrollments AS e
      JOIN enrollment_queue AS q ON q.id = e.id AND q.active = TRUE
      JOIN commands AS c ON c.command_uuid = q.command_uuid
      LEFT JOIN command_results AS r ON r.id = q.id AND r.command_uuid = q.command_uuid
     WHERE e.id IN ({values}) AND e.enabled = TRUE AND c.request_type = 'InstallProfile'
       AND (r.status IS NULL OR r.status = 'NotNow')
"""
_TALLIES: Final = "SELECT id, token_update_tally FROM enrollments WHERE id IN ({values})"
_DEVICES: Final = "SELECT id FROM devices WHERE id IN ({values})"
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
    renewals: list[bool] = []
    for group in one_each(calls, _device_of):
        outcome = _authenticate(transaction, group)
        renewals += [outcome[_device_of(call)] for call in group]
    return renewals


def _authenticate(transaction: Transaction, calls: Sequence[AuthenticateCall]) -> dict[str, bool]:
    """
    @return: by the ids of the devices whether it is a renewal.
    """
    calls = sorted(calls, key=_device_of)
    pending = _pending_profiles(transaction, [_device_of(call) for call in calls])
    transaction.upsert(
        "devices",
        ("id",),
        ("identity_cert", "serial_number", "authenticate"),
        [_device_row(call) for call in calls],
        now=("authenticate_at",),
    )
    renewals = {
        _device_of(call): any(call.renews(command) for command in pending[_device_of(call)])
        for call in calls
    }
    fresh = [id for id, renewal in renewals.items() if not renewal]
    for statement in (_FORGET_TOKENS, _DISABLE_DEVICES):
        transaction.execute_in(statement, fresh)
    # Not as one statement: MariaDB would look at all that is outstanding.
    channels = sorted(id for (id,) in transaction.rows_in(_CHANNELS, fresh))
    transaction.execute_in(_CLEAR_QUEUES, channels)
    return renewals


def _device_of(call: AuthenticateCall) -> str:
    return call.message.enrollment.id


def _device_row(call: AuthenticateCall) -> tuple[str | None, ...]:
    message = call.message
    return _device_of(call), call.identity_pem, message.serial_number, message.raw.decode()


def _pending_profiles(transaction: Transaction, ids: Sequence[str]) -> dict[str, list[bytes]]:
    """
    @return: for each enrollment id the outstanding commands that install a profile.
    """
    found: dict[str, list[bytes]] = {id: [] for id in ids}
    for id, command in transaction.rows_by(_PENDING_PROFILES, ids):
        found[id].append(command.encode())
    return found


def token_update(
    transaction: Transaction, messages: Sequence[TokenUpdate]
) -> list[int | NotEnrolled]:
    """
    @return: for each message the tally, or why it can not be stored.
    """
    pushes.revive(transaction, {message.enrollment.id for message in messages})
    results: list[int | NotEnrolled] = []
    for group in one_each(messages, lambda message: message.enrollment.id):
        results += _token_updates(transaction, group)
    return results


def _token_updates(
    transaction: Transaction, messages: Sequence[TokenUpdate]
) -> list[int | NotEnrolled]:
    known = _known_devices(transaction, [message.enrollment for message in messages])
    # In one order everywhere, so that servers seldom wait for each other.
    stored = sorted(
        (message for message in messages if message.enrollment.device_id in known),
        key=lambda message: message.enrollment.id,
    )
    _store_devices(transaction, [m for m in stored if not m.enrollment.is_user_channel])
    _store_users(transaction, [m for m in stored if m.enrollment.is_user_channel])
    _enable(transaction, stored)
    tallies = dict(transaction.rows_by(_TALLIES, [message.enrollment.id for message in stored]))
    return [
        tallies[message.enrollment.id]
        if message.enrollment.device_id in known
        else _never_authenticated(message.enrollment)
        for message in messages
    ]


def _store_devices(transaction: Transaction, messages: Sequence[TokenUpdate]) -> None:
    vault = transaction.vault
    rows = [(message.enrollment.id, kept_message(vault, message)) for message in messages]
    transaction.update_each("devices", "id", "token_update", rows, now="token_update_at")
    unlocks = [
        (message.enrollment.id, UNLOCK_TOKEN.seal(vault, token, message.enrollment.id))
        for message in messages
        if (token := message.unlock_token)
    ]
    transaction.update_each("devices", "id", "unlock_token", unlocks, now="unlock_token_at")


def _store_users(transaction: Transaction, messages: Sequence[TokenUpdate]) -> None:
    transaction.upsert(
        "users",
        ("id", "device_id"),
        ("user_short_name", "user_long_name", "token_update"),
        [
            (
                *(message.enrollment.id, message.enrollment.device_id),
                *(message.user_short_name, message.user_long_name),
                kept_message(transaction.vault, message),
            )
            for message in messages
        ],
        now=("token_update_at",),
    )


def _enable(transaction: Transaction, messages: Sequence[TokenUpdate]) -> None:
    transaction.upsert(
        "enrollments",
        ("id",),
        ("device_id", "user_id", "type", "topic", "push_magic", "token_hex"),
        [_enrollment_row(message) for message in messages],
        now=("last_seen_at",),
        then=("enabled = TRUE", "token_update_tally = enrollments.token_update_tally + 1"),
    )


def _enrollment_row(message: TokenUpdate) -> tuple[str | None, ...]:
    enrollment = message.enrollment
    user_id = enrollment.id if enrollment.is_user_channel else None
    ids = (enrollment.id, enrollment.device_id, user_id, enrollment.type.value)
    return (*ids, message.topic, message.push_magic, message.token_hex)


def user_authenticate(
    transaction: Transaction, messages: Sequence[UserAuthenticate]
) -> list[NotEnrolled | None]:
    """
    @return: for each message L{None}, or why it can not be stored.
    """
    known = _known_devices(transaction, [message.enrollment for message in messages])
    return [_user_authenticate(transaction, message, known) for message in messages]


def _user_authenticate(
    transaction: Transaction, message: UserAuthenticate, known: Collection[str]
) -> NotEnrolled | None:
    enrollment = message.enrollment
    if enrollment.device_id not in known:
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
    users = {one.id for one in enrollments if one.is_user_channel}
    devices = {one.id for one in enrollments if not one.is_user_channel}
    transaction.execute_in(_DISABLE_USERS, sorted(users))
    transaction.execute_in(_DISABLE_DEVICES, sorted(devices))
    return [None] * len(enrollments)


def seen(transaction: Transaction, groups: Sequence[Sequence[str]]) -> list[None]:
    """
    Set C{last_seen_at} of each group of enrollment ids to now.
    """
    for ids in groups:
        transaction.execute_in(_SEEN, ids)
    return [None] * len(groups)


def _known_devices(transaction: Transaction, enrollments: Sequence[Enrollment]) -> set[str]:
    """
    @return: the ids of those devices that have ever authenticated.
    """
    ids = sorted({enrollment.device_id for enrollment in enrollments})
    return {id for (id,) in transaction.rows_by(_DEVICES, ids)}


def _never_authenticated(enrollment: Enrollment) -> NotEnrolled:
    return NotEnrolled(f"{enrollment.device_id} never sent an Authenticate")
