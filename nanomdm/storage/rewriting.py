"""
Bringing all secrets of a database to the key that encrypts now, or to none.

Pages are looked at without locks.  Only what is to be changed is locked, read again and
written, a few rows in each transaction, so that devices and servers go on meanwhile and
nothing is overwritten that came later.  What is as it should be is left alone: who is
interrupted begins again.  Connections are DB-API ones; everything here blocks.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from attrs import define, field, frozen

from nanomdm.crypto.vault import Vault
from nanomdm.errors import MessageError, SecretUnreadable
from nanomdm.interfaces import SecretsCursor, SecretsPage
from nanomdm.mdm.cutting import without_member
from nanomdm.mdm.migration import with_unlock_token
from nanomdm.mdm.plist import parse
from nanomdm.storage.engine import Engine, Trouble
from nanomdm.storage.secrets import (
    BOOTSTRAP_TOKEN,
    EVENT,
    EVENT_TOPICS,
    HEAD,
    PUSH_KEY,
    UNLOCK,
    UNLOCK_TOKEN,
    SecretColumn,
)
from nanomdm.storage.transaction import Transaction, marks

#: Rows that are looked at, and rows that are locked, at once.
PAGE: Final = 500
BATCH: Final = 50

#: How often a transaction is tried when others are in its way, and seconds between.
_ATTEMPTS: Final = 8
_BACKOFF: Final = 0.05

#: What is not encrypted, in counts.
PLAIN: Final = "plain"

#: What C{TokenUpdate} messages hold besides the column of its own.
MESSAGES: Final = "unlock token in a message"

#: A C{LIKE} pattern.
_IN_MESSAGE: Final = f"%{UNLOCK}%"


@frozen
class _Table:
    """
    A table with secrets.

    @ivar key: its primary key, by which it is gone through.
    @ivar start: less than all keys.
    @ivar row: what tells one row from others, for L{SecretColumn}.
    @ivar topics: which rows, by their column C{topic}; none for all.
    """

    name: str
    key: str
    start: str | int
    row: tuple[str, ...]
    columns: tuple[SecretColumn[Any], ...]
    topics: tuple[str, ...] = ()

    def look(self, messages: bool) -> str:
        """
        @param messages: look into those of devices too, which takes longer.
        @return: SQL for the heads of a page.
        """
        heads = [f"SUBSTR({one.column}, 1, {HEAD})" for one in self.columns]
        if messages:
            heads.append("CASE WHEN token_update LIKE ? THEN 1 ELSE 0 END")
        topics = f" AND topic IN ({marks(len(self.topics))})" if self.topics else ""
        return (
            f"SELECT {', '.join((self.key, *self.row, *heads))} FROM {self.name}"
            f" WHERE {self.key} > ?{topics} ORDER BY {self.key} LIMIT {PAGE}"
        )

    @property
    def lock(self) -> str:
        """
        SQL for all of some rows.
        """
        values = [one.column for one in self.columns]
        if UNLOCK_TOKEN in self.columns:
            values.append("token_update")
        return (
            f"SELECT {', '.join((self.key, *self.row, *values))} FROM {self.name}"
            f" WHERE {self.key} IN ({{{{values}}}}) ORDER BY {self.key} {{for_update}}"
        )


_EVENT_ROW: Final = ("enrollment_id", "event_id")
_TABLES: Final = (
    _Table("push_certs", "topic", "", ("topic",), (PUSH_KEY,)),
    _Table("devices", "id", "", ("id",), (BOOTSTRAP_TOKEN, UNLOCK_TOKEN)),
    _Table("nanomdm_webhook_events", "number", 0, _EVENT_ROW, (EVENT,), EVENT_TOPICS),
    _Table("nanomdm_webhook_failed", "number", 0, _EVENT_ROW, (EVENT,), EVENT_TOPICS),
)


@frozen
class _Seen:
    """
    A row, or the heads of its values.

    @ivar values: by column; what is not there is left out.
    @ivar message: the C{TokenUpdate} of a device, or whether it has an unlock token.
    """

    key: str | int
    row: tuple[str, ...]
    values: dict[SecretColumn[Any], Any] = field(repr=False)
    message: Any = field(repr=False)

    @classmethod
    def of(cls, table: _Table, found: Sequence[Any]) -> _Seen:
        """
        @param found: what L{_Table.look} or L{_Table.lock} finds.
        """
        first = 1 + len(table.row)
        pairs = zip(table.columns, found[first:], strict=False)
        # Some drivers have other types for bytes.
        values = {one: bytes(v) if one is UNLOCK_TOKEN else v for one, v in pairs if v}
        rest = found[first + len(table.columns) :]
        return cls(found[0], tuple(found[1:first]), values, rest[0] if rest else None)


def count_secrets(transaction: Transaction) -> Counter[tuple[str, str]]:
    """
    @return: how many secrets there are, by what they are and the id of their key, or
        L{PLAIN}.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for table in _TABLES:
        for page in _pages(transaction, table):
            for seen in page:
                for column, head in seen.values.items():
                    counts[column.name, column.key_id(head) or PLAIN] += 1
                if seen.message:
                    counts[MESSAGES, PLAIN] += 1
    return counts


def _pages(transaction: Transaction, table: _Table) -> Iterator[list[_Seen]]:
    after: str | int = table.start
    messages = UNLOCK_TOKEN in table.columns
    while True:
        found = _page(transaction, table, after, messages)
        yield [_Seen.of(table, one) for one in found]
        if len(found) < PAGE:
            return
        after = found[-1][0]


def _page(
    transaction: Transaction, table: _Table, after: str | int, messages: bool = False
) -> list[Any]:
    like = (_IN_MESSAGE,) if messages else ()
    return transaction.rows(table.look(messages), (*like, after, *table.topics))


def count_pages(
    transaction: Transaction, cursors: Sequence[SecretsCursor | None]
) -> list[SecretsPage]:
    """
    Count what is encrypted in a page of a table; see L{IInspectionStore.encrypted}.
    """
    return [_counted(transaction, cursor or (0, _TABLES[0].start)) for cursor in cursors]


def _counted(transaction: Transaction, cursor: SecretsCursor) -> SecretsPage:
    number, after = cursor
    found = _page(transaction, _TABLES[number], after)
    keys = Counter(
        key
        for seen in map(partial(_Seen.of, _TABLES[number]), found)
        for column, head in seen.values.items()
        if (key := column.key_id(head)) is not None
    )
    if len(found) == PAGE:
        return SecretsPage(keys, (number, found[-1][0]))
    following = number + 1
    if following == len(_TABLES):
        return SecretsPage(keys, None)
    return SecretsPage(keys, (following, _TABLES[following].start))


@define
class Rewriter:
    """
    Rewrites the secrets of a database.

    @ivar connection: to it, which does not commit by itself.
    @ivar vault: what it is all to be as.
    @ivar changed: rows that were changed.
    @ivar problems: what can not be decrypted, and is left as it is.
    """

    engine: Engine
    connection: Any
    vault: Vault
    sleep: Callable[[float], object] = time.sleep
    changed: int = 0
    problems: list[str] = field(factory=list)

    def run(self, progress: Callable[[str, int], object]) -> None:
        """
        Go through everything once.

        @param progress: told the table and the rows that were looked at so far.
        """
        if self.engine.kind == "sqlite":
            # What is replaced does not stay in pages that are free.
            self.connection.execute("PRAGMA secure_delete = ON")
        for table in _TABLES:
            rows = 0
            for page in self._committed_pages(table):
                rows += len(page)
                stale = [seen.key for seen in page if self._is_stale(seen)]
                for start in range(0, len(stale), BATCH):
                    self._rewrite(table, stale[start : start + BATCH])
                progress(table.name, rows)
        if self.engine.kind == "sqlite":
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _committed_pages(self, table: _Table) -> Iterator[list[_Seen]]:
        for page in _pages(self._transaction(), table):
            self.connection.commit()
            yield page

    def _transaction(self) -> Transaction:
        return Transaction(self.connection.cursor(), self.engine.dialect, self.vault)

    def _is_stale(self, seen: _Seen) -> bool:
        """
        @return: whether there is something to be changed that can be.
        """
        stale = bool(seen.message) and self.vault.current is not None
        for column, head in seen.values.items():
            id = column.key_id(head)
            if id is not None and not self.vault.has(id):
                self._opened(column, head, seen.row, self.problems)
            elif id != self.vault.current:
                stale = True
        return stale

    def _rewrite(self, table: _Table, keys: Sequence[str | int]) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            problems: list[str] = []
            try:
                changed = self._attempt(table, keys, problems)
            except Exception as error:
                self.connection.rollback()
                if self.engine.trouble(error) is not Trouble.RETRY or attempt == _ATTEMPTS:
                    raise
                self.sleep(_BACKOFF * 2**attempt * random.uniform(0.5, 1))
            else:
                self.changed += changed
                self.problems += problems
                return

    def _attempt(self, table: _Table, keys: Sequence[str | int], problems: list[str]) -> int:
        """
        @param problems: gets what can not be changed.
        @return: how many rows were changed, in one transaction.
        """
        transaction = self._transaction()
        if self.engine.begin_write is not None:
            transaction.execute(self.engine.begin_write)
        changed = 0
        lock = table.lock.format(for_update=self.engine.dialect.for_update)
        for found in list(transaction.rows_in(lock, keys)):
            seen = _Seen.of(table, found)
            values = self._changes(seen, problems)
            if values:
                names = ", ".join(f"{name} = ?" for name in values)
                statement = f"UPDATE {table.name} SET {names} WHERE {table.key} = ?"
                transaction.execute(statement, (*values.values(), seen.key))
                changed += 1
        self.connection.commit()
        return changed

    def _changes(self, seen: _Seen, problems: list[str]) -> dict[str, Any]:
        """
        @return: the new values of columns.
        """
        values: dict[str, Any] = {}
        for column, stored in seen.values.items():
            id = column.key_id(stored)
            # Of keys that are missing the look has told.
            if id != self.vault.current and (id is None or self.vault.has(id)):
                secret = self._opened(column, stored, seen.row, problems)
                if secret is not None:
                    values[column.column] = column.seal(self.vault, secret, *seen.row)
        if seen.message:
            try:
                values |= self._message(seen, values)
            except MessageError as error:
                problems.append(f"the TokenUpdate of {seen.row[0]} is left as it is: {error}")
        return values

    def _opened(
        self, column: SecretColumn[Any], stored: Any, row: tuple[str, ...], problems: list[str]
    ) -> Any:
        """
        @return: a secret; L{None} if it can not be decrypted.
        """
        try:
            return column.open(self.vault, stored, *row)
        except SecretUnreadable as error:
            problems.append(str(error))
            return None

    def _message(self, seen: _Seen, values: Mapping[str, Any]) -> dict[str, Any]:
        """
        Keep an unlock token in the message, too, as NanoMDM does, or in its column alone.

        @param values: what changes otherwise.
        @return: what changes because of the message.
        @raise MessageError: it is none.
        """
        message, column = seen.message.encode(), UNLOCK_TOKEN.column
        if self.vault.current is None:
            if column not in values:
                return {}
            return {"token_update": with_unlock_token(message, values[column]).decode()}
        token = parse(message, keep=1).get(UNLOCK) if UNLOCK.encode() in message else None
        if not isinstance(token, bytes):
            return {}
        changes: dict[str, Any] = {"token_update": without_member(message, UNLOCK).decode()}
        if token and UNLOCK_TOKEN not in seen.values:
            changes[column] = UNLOCK_TOKEN.seal(self.vault, token, *seen.row)
        return changes
