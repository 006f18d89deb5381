"""
Statements in a transaction, in words that every engine understands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

from nanomdm.crypto.vault import Vault
from nanomdm.storage.dialect import Cursor, Dialect

T = TypeVar("T")

#: Runs at the end of a transaction.
LastOperation = Callable[["Transaction", Sequence[Any]], None]

#: Has no keys.
_NO_VAULT: Final = Vault()

#: Values in one statement: far below every engine's limit on placeholders.
_CHUNK: Final = 2048

#: Rows in one statement, and their characters and bytes, unless one row has more.
_ROWS: Final = 256
_ROWS_SIZE: Final = 1_000_000


class Transaction:
    """
    A transaction that is under way, in a pool thread.

    @param cursor: executes its statements.
    @param dialect: the engine's words.
    @param vault: encrypts and decrypts what is secret.
    """

    def __init__(self, cursor: Cursor, dialect: Dialect, vault: Vault = _NO_VAULT) -> None:
        self._cursor = cursor
        self.dialect = dialect
        self.vault = vault
        self._last: dict[LastOperation, list[Any]] = {}

    def at_end(self, operation: LastOperation, arguments: Iterable[Any]) -> None:
        """
        Have an operation run when all others have, once for all arguments.  So what
        many need is locked in one order, and not for long.
        """
        self._last.setdefault(operation, []).extend(arguments)

    def finish(self) -> None:
        """
        Run what is to run L{at_end}.
        """
        for operation, arguments in self._last.items():
            operation(self, arguments)

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """
        @param sql: a statement with C{?} for each parameter.
        @return: how many rows it changed.
        """
        self._cursor.execute(self.dialect.statement(sql), tuple(parameters))
        return self._cursor.rowcount

    def execute_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """
        Execute a statement once for each row of parameters.
        """
        if rows:
            self._cursor.executemany(self.dialect.statement(sql), rows)

    def execute_pairs(
        self, sql: str, columns: tuple[str, str], pairs: Sequence[Sequence[str]]
    ) -> None:
        """
        Execute a statement about rows with certain values in two columns.

        @param sql: with C{{pairs}} for the condition, and without parameters.
        """
        if not self.dialect.rows_one_by_one:
            both = " AND ".join(f"{column} = ?" for column in columns)
            self.execute_many(sql.format(pairs=both), pairs)
            return
        for piece in chunks(pairs, _ROWS):
            condition = self.dialect.pairs(columns, len(piece))
            self.execute(sql.format(pairs=f"({condition})"), flatten(piece))

    def update_each(
        self, table: str, key: str, column: str, rows: Sequence[tuple[str, Any]], now: str
    ) -> None:
        """
        Give a column a value of its own in each row.

        @param rows: a key and a value for each.
        @param now: another column, which becomes the present time.
        """
        update = f"UPDATE {table} SET {now} = CURRENT_TIMESTAMP, {column} ="
        if not self.dialect.rows_one_by_one:
            self.execute_many(f"{update} ? WHERE {key} = ?", [(new, id) for id, new in rows])
            return
        for piece in _pieces(rows):
            cases = " ".join(["WHEN ? THEN ?"] * len(piece))
            self.execute(
                f"{update} CASE {key} {cases} END WHERE {key} IN ({marks(len(piece))})",
                [*flatten(piece), *(id for id, _ in piece)],
            )

    def rows_by(self, sql: str, keys: Sequence[str]) -> list[Any]:
        """
        As L{rows_in}, for a statement whose first column is what it asks about.

        @param keys: distinct.
        @return: the rows, with these very keys in the first column.
        """
        found = list(self.rows_in(sql, keys))
        if {row[0] for row in found} <= set(keys):
            return found
        # Taken-over MySQL databases find an id in other letters, too.
        return [(key, *row[1:]) for key in keys for row in self.rows_in(sql, [key])]

    def row(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """
        @return: the first row, or L{None}.
        """
        self._cursor.execute(self.dialect.statement(sql), tuple(parameters))
        return self._cursor.fetchone()

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """
        @return: all rows.
        """
        self._cursor.execute(self.dialect.statement(sql), tuple(parameters))
        return list(self._cursor.fetchall())

    def rows_in(self, sql: str, values: Sequence[str | int], *parameters: Any) -> Iterator[Any]:
        """
        All rows of a statement that asks about many values.

        @param sql: with C{{values}} where the list of values stands, after all
            other parameters.
        """
        for statement, padded in _in_chunks(sql, values):
            yield from self.rows(statement, (*parameters, *padded))

    def execute_in(self, sql: str, values: Sequence[str | int], *parameters: Any) -> None:
        """
        Execute a statement about many values; see L{rows_in}.
        """
        for statement, padded in _in_chunks(sql, values):
            self.execute(statement, (*parameters, *padded))

    def upsert(
        self,
        table: str,
        keys: Sequence[str],
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        now: Sequence[str] = (),
        then: Sequence[str] = (),
    ) -> None:
        """
        Insert rows, or update those that are there.

        @param keys: the columns of the unique key.
        @param columns: the other columns; C{rows} have values for C{keys} and
            then for these.
        @param now: further columns, which become the present time.
        @param then: further assignments for rows that are there.
        """
        assignments = [f"{name} = {self.dialect.inserted(name)}" for name in (*columns, *now)]
        ending = self.dialect.on_conflict(keys, [*assignments, *then])
        self._insert(table, (*keys, *columns), now, rows, ending)

    def insert_missing(
        self,
        table: str,
        keys: Sequence[str],
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        now: Sequence[str] = (),
        lock: bool = False,
        then: Sequence[str] = (),
    ) -> None:
        """
        Insert those rows that are not there yet; see L{upsert}.

        @param lock: lock those that are there.  On a Galera cluster this keeps one node's
            transactions apart; those of others only conflict with changes.
        @param then: as of L{upsert}.
        """
        nothing = [f"{keys[0]} = {table}.{keys[0]}"] if lock else []
        ending = self.dialect.on_conflict(keys, then or nothing)
        self._insert(table, (*keys, *columns), now, rows, ending)

    def _insert(
        self,
        table: str,
        columns: Sequence[str],
        now: Sequence[str],
        rows: Sequence[Sequence[Any]],
        ending: str,
    ) -> None:
        values = ", ".join([*"?" * len(columns), *["CURRENT_TIMESTAMP"] * len(now)])
        insert = f"INSERT INTO {table} ({', '.join([*columns, *now])}) VALUES"
        if not now or not self.dialect.rows_one_by_one:
            self.execute_many(f"{insert} ({values}) {ending}", rows)
            return
        for piece in _pieces(rows):
            all_values = ", ".join([f"({values})"] * len(piece))
            self.execute(f"{insert} {all_values} {ending}", flatten(piece))

    def next_number(self) -> int:
        """
        @return: a number that is higher than all before it, on every server.
        """
        return self.dialect.next_number(self._cursor)


def one_each(values: Iterable[T], key: Callable[[T], str]) -> Iterator[list[T]]:
    """
    @return: C{values} in their order, in groups none of which has two of one key, whose
        order counts.
    """
    group: dict[str, T] = {}
    for value in values:
        if key(value) in group:
            yield list(group.values())
            group = {}
        group[key(value)] = value
    yield list(group.values())


def chunks(values: Sequence[T], size: int = _CHUNK) -> Iterator[Sequence[T]]:
    """
    @return: C{values} in pieces that fit into one statement.
    """
    for start in range(0, len(values), size):
        yield values[start : start + size]


def marks(count: int) -> str:
    """
    @return: so many placeholders.
    """
    return ", ".join("?" * count)


def flatten(pairs: Iterable[Sequence[T]]) -> list[T]:
    """
    @return: all parts of all pairs.
    """
    return [part for pair in pairs for part in pair]


def _in_chunks(sql: str, values: Sequence[str | int]) -> Iterator[tuple[str, Sequence[str | int]]]:
    """
    @return: for each piece of C{values} the statement with placeholders for it, and
        the piece with its last value repeated up to a power of two: so a few
        statements, which engines and drivers keep prepared, serve lists of all
        lengths.
    """
    for chunk in chunks(values):
        size = 1 << (len(chunk) - 1).bit_length()
        padded = [*chunk, *[chunk[-1]] * (size - len(chunk))]
        yield sql.format(values=marks(size)), padded


def _pieces(rows: Sequence[Sequence[Any]]) -> Iterator[list[Sequence[Any]]]:
    """
    @return: C{rows} in pieces whose values fit into one statement.
    """
    piece: list[Sequence[Any]] = []
    size = 0
    for row in rows:
        more = sum(len(value) for value in row if isinstance(value, (str, bytes)))
        if piece and (len(piece) == _ROWS or size + more > _ROWS_SIZE):
            yield piece
            piece, size = [], 0
        piece.append(row)
        size += more
    if piece:
        yield piece
