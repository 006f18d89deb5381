"""
Where the secrets of a database are: going through them, and counting them by key.

Pages are looked at without locks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

from attrs import field, frozen

from nanomdm.interfaces import SecretsCursor, SecretsPage
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

#: Rows that are looked at, at once.
PAGE: Final = 500

#: What is not encrypted, in counts.
PLAIN: Final = "plain"

#: What C{TokenUpdate} messages hold besides the column of its own.
MESSAGES: Final = "unlock token in a message"

#: A C{LIKE} pattern.
_IN_MESSAGE: Final = f"%{UNLOCK}%"


@frozen
class SecretTable:
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
TABLES: Final = (
    SecretTable("push_certs", "topic", "", ("topic",), (PUSH_KEY,)),
    SecretTable("devices", "id", "", ("id",), (BOOTSTRAP_TOKEN, UNLOCK_TOKEN)),
    SecretTable("nanomdm_webhook_events", "number", 0, _EVENT_ROW, (EVENT,), EVENT_TOPICS),
    SecretTable("nanomdm_webhook_failed", "number", 0, _EVENT_ROW, (EVENT,), EVENT_TOPICS),
)


@frozen
class SeenRow:
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
    def of(cls, table: SecretTable, found: Sequence[Any]) -> SeenRow:
        """
        @param found: what L{SecretTable.look} or L{SecretTable.lock} finds.
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
    for table in TABLES:
        for page in pages(transaction, table):
            for seen in page:
                for column, head in seen.values.items():
                    counts[column.name, column.key_id(head) or PLAIN] += 1
                if seen.message:
                    counts[MESSAGES, PLAIN] += 1
    return counts


def pages(transaction: Transaction, table: SecretTable) -> Iterator[list[SeenRow]]:
    """
    Go through a table, messages too.

    @return: page by page its rows, with the heads of their values.
    """
    after: str | int = table.start
    messages = UNLOCK_TOKEN in table.columns
    while True:
        found = _page(transaction, table, after, messages)
        yield [SeenRow.of(table, one) for one in found]
        if len(found) < PAGE:
            return
        after = found[-1][0]


def _page(
    transaction: Transaction, table: SecretTable, after: str | int, messages: bool = False
) -> list[Any]:
    like = (_IN_MESSAGE,) if messages else ()
    return transaction.rows(table.look(messages), (*like, after, *table.topics))


def count_pages(
    transaction: Transaction, cursors: Sequence[SecretsCursor | None]
) -> list[SecretsPage]:
    """
    Count what is encrypted in a page of a table; see L{IInspectionStore.encrypted}.
    """
    return [_counted(transaction, cursor or (0, TABLES[0].start)) for cursor in cursors]


def _counted(transaction: Transaction, cursor: SecretsCursor) -> SecretsPage:
    number, after = cursor
    found = _page(transaction, TABLES[number], after)
    keys = Counter(
        key
        for seen in map(partial(SeenRow.of, TABLES[number]), found)
        for column, head in seen.values.items()
        if (key := column.key_id(head)) is not None
    )
    if len(found) == PAGE:
        return SecretsPage(keys, (number, found[-1][0]))
    following = number + 1
    if following == len(TABLES):
        return SecretsPage(keys, None)
    return SecretsPage(keys, (following, TABLES[following].start))
