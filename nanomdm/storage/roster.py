"""
The devices of a database, as a migration carries them to another server.

The database may be one that NanoMDM made, of any revision: nothing is read but
what all of them have, or what was seen to be there.  Connections are DB-API ones
that commit each statement by themselves; everything here blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from attrs import frozen

from nanomdm.crypto.vault import Vault
from nanomdm.errors import SecretUnreadable
from nanomdm.mdm.migration import EnrolledDevice, UserChannel
from nanomdm.storage.dialect import Dialect
from nanomdm.storage.secrets import BOOTSTRAP_TOKEN, UNLOCK_TOKEN
from nanomdm.storage.transaction import Transaction

#: Devices that are read at once.
_PAGE: Final = 200

# What is not there yet in NanoMDM's older databases.
_BOOTSTRAP: Final = "bootstrap_token_b64"
_NO_ROWS: Final = "SELECT * FROM devices WHERE 1 = 0"

_DEVICES: Final = """
    SELECT d.id, d.authenticate, d.token_update, d.unlock_token, {bootstrap}
      FROM devices AS d
      JOIN enrollments AS e ON e.id = d.id{enabled}
     WHERE d.token_update IS NOT NULL
"""
_NEXT: Final = " ORDER BY d.id LIMIT {limit}"
_AFTER: Final = " AND d.id > ?"
_THESE: Final = " AND d.id IN ({values})"

# The id that devices has: of a user, a database may compare it without regard to
# case.
_USERS: Final = """
    SELECT d.id, u.id, u.token_update
      FROM users AS u
      JOIN devices AS d ON d.id = u.device_id
      JOIN enrollments AS e ON e.id = u.id{enabled}
     WHERE u.token_update IS NOT NULL AND u.device_id IN ({{values}})
"""
_COUNT: Final = """
    SELECT count(*) FROM devices AS d JOIN enrollments AS e ON e.id = d.id{enabled}
     WHERE d.token_update IS NOT NULL
"""
_COUNT_USERS: Final = """
    SELECT count(*)
      FROM users AS u
      JOIN enrollments AS e ON e.id = u.id{enabled}
      JOIN devices AS d ON d.id = u.device_id AND d.token_update IS NOT NULL
      JOIN enrollments AS f ON f.id = d.id{device_enabled}
     WHERE u.token_update IS NOT NULL
"""
_COUNT_ALL: Final = "SELECT (SELECT count(*) FROM devices), (SELECT count(*) FROM users)"


@frozen
class Left:
    """
    How many of a database's channels a migration leaves behind.
    """

    devices: int
    users: int


class Roster:
    """
    The devices that are enrolled.

    @param connection: to the database.
    @param dialect: its SQL.
    @param disabled: also those that are not enabled.
    @param vault: decrypts what is encrypted.
    """

    def __init__(
        self,
        connection: Any,
        dialect: Dialect,
        disabled: bool = False,
        vault: Vault | None = None,
    ) -> None:
        self._vault = vault or Vault()
        cursor = connection.cursor()
        self._transaction = Transaction(cursor, dialect)
        cursor.execute(_NO_ROWS)
        columns = {column[0] for column in cursor.description}
        cursor.fetchall()
        enabled = "" if disabled else " AND {0}.enabled = TRUE"
        bootstrap = f"d.{_BOOTSTRAP}" if _BOOTSTRAP in columns else "NULL"
        words = {"enabled": enabled.format("e"), "device_enabled": enabled.format("f")}
        self._devices = _DEVICES.format(bootstrap=bootstrap, **words)
        self._users = _USERS.format(**words)
        self._count = _COUNT.format(**words)
        self._count_users = _COUNT_USERS.format(**words)

    def count(self, after: str | None = None) -> int:
        """
        @return: how many devices there are, behind an id.
        """
        condition, parameters = _behind(after)
        count: int = self._transaction.row(self._count + condition, parameters)[0]
        return count

    def left(self) -> Left:
        """
        @return: how many are not among these devices and their users.
        """
        devices, users = self._transaction.row(_COUNT_ALL)
        taken: int = self._transaction.row(self._count_users)[0]
        return Left(devices - self.count(), users - taken)

    def devices(self, after: str | None = None) -> Iterator[EnrolledDevice]:
        """
        @param after: an id to begin behind.
        @return: the devices with their users, by id.
        """
        while True:
            condition, parameters = _behind(after)
            statement = self._devices + condition + _NEXT.format(limit=_PAGE)
            rows = self._transaction.rows(statement, parameters)
            yield from self._with_users(rows)
            if len(rows) < _PAGE:
                return
            after = rows[-1][0]

    def some(self, ids: Sequence[str]) -> Iterator[EnrolledDevice]:
        """
        @return: those of these devices that there are.
        """
        for start in range(0, len(ids), _PAGE):
            page = ids[start : start + _PAGE]
            rows = list(self._transaction.rows_in(self._devices + _THESE, page))
            yield from self._with_users(rows)

    def _with_users(self, rows: Sequence[Sequence[Any]]) -> Iterator[EnrolledDevice]:
        ids = [row[0] for row in rows]
        users: dict[str, list[UserChannel]] = {id: [] for id in ids}
        for device_id, id, token_update in self._transaction.rows_in(self._users, ids):
            users[device_id].append(UserChannel(id, token_update.encode()))
        for id, authenticate, token_update, *tokens in rows:
            yield EnrolledDevice(
                id,
                authenticate.encode(),
                token_update.encode(),
                *self._opened(id, *tokens),
                users=tuple(sorted(users[id], key=lambda user: user.id)),
            )

    def _opened(
        self, id: str, unlock_token: bytes | None, bootstrap_token: str | None
    ) -> tuple[bytes | None, str | None, str | None]:
        """
        @return: both tokens, and why they can not be read, if so.
        """
        try:
            return (
                UNLOCK_TOKEN.open(self._vault, bytes(unlock_token), id) if unlock_token else None,
                BOOTSTRAP_TOKEN.open(self._vault, bootstrap_token, id) if bootstrap_token else None,
                None,
            )
        except SecretUnreadable as error:
            return None, None, str(error)


def _behind(after: str | None) -> tuple[str, tuple[str, ...]]:
    return ("", ()) if after is None else (_AFTER, (after,))
