"""
Bringing all secrets of a database to the key that encrypts now, or to none.

Only what is to be changed is locked, read again and written, a few rows in each
transaction, so that devices and servers go on meanwhile and nothing is overwritten that
came later.  What is as it should be is left alone: who is interrupted begins again.
Connections are DB-API ones; everything here blocks.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from attrs import define, field

from nanomdm.crypto.vault import Vault
from nanomdm.errors import MessageError, SecretUnreadable
from nanomdm.mdm.cutting import without_member
from nanomdm.mdm.migration import with_unlock_token
from nanomdm.mdm.plist import parse
from nanomdm.storage.engine import Engine, Trouble
from nanomdm.storage.secretrows import TABLES, SecretTable, SeenRow, pages
from nanomdm.storage.secrets import UNLOCK, UNLOCK_TOKEN, SecretColumn
from nanomdm.storage.transaction import Transaction

#: Rows that are locked at once.
BATCH: Final = 50

#: How often a transaction is tried when others are in its way, and seconds between.
_ATTEMPTS: Final = 8
_BACKOFF: Final = 0.05


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
        for table in TABLES:
            rows = 0
            for page in self._committed_pages(table):
                rows += len(page)
                stale = [seen.key for seen in page if self._is_stale(seen)]
                for start in range(0, len(stale), BATCH):
                    self._rewrite(table, stale[start : start + BATCH])
                progress(table.name, rows)
        if self.engine.kind == "sqlite":
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _committed_pages(self, table: SecretTable) -> Iterator[list[SeenRow]]:
        for page in pages(self._transaction(), table):
            self.connection.commit()
            yield page

    def _transaction(self) -> Transaction:
        return Transaction(self.connection.cursor(), self.engine.dialect, self.vault)

    def _is_stale(self, seen: SeenRow) -> bool:
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

    def _rewrite(self, table: SecretTable, keys: Sequence[str | int]) -> None:
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

    def _attempt(self, table: SecretTable, keys: Sequence[str | int], problems: list[str]) -> int:
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
            seen = SeenRow.of(table, found)
            values = self._changes(seen, problems)
            if values:
                names = ", ".join(f"{name} = ?" for name in values)
                statement = f"UPDATE {table.name} SET {names} WHERE {table.key} = ?"
                transaction.execute(statement, (*values.values(), seen.key))
                changed += 1
        self.connection.commit()
        return changed

    def _changes(self, seen: SeenRow, problems: list[str]) -> dict[str, Any]:
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

    def _message(self, seen: SeenRow, values: Mapping[str, Any]) -> dict[str, Any]:
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
