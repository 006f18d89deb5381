"""
The schema on PostgreSQL (from 13).

A new column with a constant default is there at once.  Indexes of tables that
have rows are built concurrently, which leaves an invalid index behind if it is
interrupted: the next attempt drops that and starts again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from attrs import evolve

from nanomdm.storage.schema.changes import ALTER_TIMEOUT, Change, release, rows, run, wait_for
from nanomdm.storage.schema.compare import Present, ServerEngine, filled, with_indexes
from nanomdm.storage.schema.tables import QUEUE_NEXT, Column, Index, Reference, Table


def _on(table: str, *columns: str) -> tuple[Index, ...]:
    # An index's name is the whole schema's here, beside those of the tables.
    return tuple(Index(f"nanomdm_{table}_{column}", (column,)) for column in columns)


_INDEXES: Final = {
    "devices": _on("devices", "serial_number"),
    "users": _on("users", "device_id"),
    "enrollments": _on("enrollments", "device_id", "type"),
    "command_results": _on("command_results", "command_uuid", "status"),
    "enrollment_queue": (QUEUE_NEXT, *_on("enrollment_queue", "command_uuid")),
    "cert_auth_associations": _on("cert_auth_associations", "sha256"),
}
_WORDS: Final = {"text": "TEXT", "blob": "BYTEA", "tiny": "SMALLINT", "touched": ""}

_FUNCTION: Final = """CREATE FUNCTION nanomdm_touch() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at = CURRENT_TIMESTAMP;
    RETURN NEW;
END;
$$"""
_TRIGGER: Final = """CREATE TRIGGER nanomdm_touch BEFORE UPDATE ON {}
    FOR EACH ROW WHEN (NEW.updated_at = OLD.updated_at) EXECUTE FUNCTION nanomdm_touch()"""
_SEQUENCE: Final = "CREATE SEQUENCE nanomdm_sequence"

_COLUMNS: Final = """
    SELECT c.relname, a.attname
      FROM pg_catalog.pg_class AS c
      JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid
     WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S')
       AND pg_catalog.pg_table_is_visible(c.oid)
       AND c.relnamespace <> 'pg_catalog'::regnamespace
       AND a.attnum > 0 AND NOT a.attisdropped
"""
#: An expression has no column's name; what C{INCLUDE} adds does not count.
_INDEX_COLUMNS: Final = """
    SELECT t.relname, i.relname, x.indisvalid, a.attname
      FROM pg_catalog.pg_index AS x
      JOIN pg_catalog.pg_class AS i ON i.oid = x.indexrelid
      JOIN pg_catalog.pg_class AS t ON t.oid = x.indrelid
     CROSS JOIN LATERAL unnest(x.indkey) WITH ORDINALITY AS k (attnum, place)
      LEFT JOIN pg_catalog.pg_attribute AS a
        ON a.attrelid = x.indrelid AND a.attnum = k.attnum AND k.attnum > 0
     WHERE pg_catalog.pg_table_is_visible(t.oid)
       AND t.relnamespace <> 'pg_catalog'::regnamespace
       AND x.indpred IS NULL AND k.place <= x.indnkeyatts
     ORDER BY t.relname, i.relname, k.place
"""
#: 19: for each row (1), before (2) an update (16).
_TOUCHED: Final = """
    SELECT c.relname
      FROM pg_catalog.pg_trigger AS t
      JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
     WHERE pg_catalog.pg_table_is_visible(c.oid)
       AND NOT t.tgisinternal AND t.tgtype & 19 = 19
"""
_FUNCTION_THERE: Final = """
    SELECT 1 FROM pg_catalog.pg_proc
     WHERE proname = 'nanomdm_touch' AND pg_catalog.pg_function_is_visible(oid)
"""
#: "nanomdm" as a number.
_LOCK: Final = int.from_bytes(b"nanomdm")


def _as_here(table: Table) -> Table:
    """
    On PostgreSQL an enrollment refers to its user's id alone.
    """
    if table.name == "users":
        return evolve(table, unique=("id",))
    if table.name == "enrollments":
        device, _ = table.references
        return evolve(table, references=(device, Reference(("user_id",), "users", ("id",))))
    return table


class PostgreSQL(ServerEngine):
    """
    PostgreSQL, see L{nanomdm.storage.schema.changes.Engine}.
    """

    creates_indexes = False
    table_options = ""

    def __init__(self) -> None:
        super().__init__(tuple(map(_as_here, with_indexes(_INDEXES))), _WORDS)

    def look(self, connection: Any) -> Present:
        """
        @return: what the database holds, in the schemas of C{search_path}.
        """
        columns: dict[str, list[str]] = {}
        for table, column in rows(connection, _COLUMNS):
            columns.setdefault(table, []).append(column)
        indexes: dict[str, dict[str, list[str]]] = {}
        broken = set()
        for table, index, valid, column in rows(connection, _INDEX_COLUMNS):
            if valid:
                indexes.setdefault(table, {}).setdefault(index, []).append(column)
            else:
                broken.add(index)
        return Present(
            columns,
            indexes,
            frozenset(broken),
            touched=frozenset(table for (table,) in rows(connection, _TOUCHED)),
            has_function=bool(rows(connection, _FUNCTION_THERE)),
            filled=lambda table: filled(connection, table),
        )

    @contextmanager
    def locked(self, connection: Any, timeout: float) -> Iterator[None]:
        """
        Hold an advisory lock, which is this database's.

        A server that waits must not do so inside a statement: an index that is
        built concurrently waits for the end of every statement that began
        before, and so would wait for the one that waits for its lock.
        """
        attempt = f"SELECT pg_try_advisory_lock({_LOCK})"
        wait_for(lambda: rows(connection, attempt) == [(True,)], timeout)
        try:
            # An index of a large table takes longer than the server's statements.
            run(connection, "SET statement_timeout = 0")
            yield
        finally:
            release(
                connection,
                "RESET statement_timeout",
                "RESET lock_timeout",
                f"SELECT pg_advisory_unlock({_LOCK})",
            )

    def execute(self, connection: Any, statement: str) -> None:
        """
        Execute a statement of a change.  One that keeps others from a table, and
        makes them wait behind it while it waits itself, does not wait for long.
        """
        limit = 0 if "CONCURRENTLY" in statement else ALTER_TIMEOUT
        run(connection, f"SET lock_timeout = '{limit}s'")
        run(connection, statement)

    def add_column(self, table: Table, column: Column) -> str:
        """
        @return: SQL that adds a column; constant defaults do not touch the rows.
        """
        return f"ALTER TABLE {table.name} ADD COLUMN {self.words(column.definition)}"

    def add_index(self, table: Table, index: Index, present: Present) -> tuple[str, ...]:
        """
        @return: SQL that makes an index, while others write if there are rows.
        """
        busy = table.name in present.columns and present.filled(table.name)
        mode = "CONCURRENTLY " if busy else ""
        columns = ", ".join(index.columns)
        create = f"CREATE INDEX {mode}{index.name} ON {table.name} ({columns})"
        if index.name in present.broken:
            return f"DROP INDEX {mode}{index.name}", create
        return (create,)

    def extras(self, present: Present) -> Iterator[Change]:
        """
        @return: the source of rising numbers, and what keeps C{updated_at} up in
            tables where nothing does.
        """
        if "nanomdm_sequence" not in present.columns:
            yield Change("sequence nanomdm_sequence", (_SEQUENCE,))
        untouched = [table.name for table in self._base if table.name not in present.touched]
        if untouched and not present.has_function:
            yield Change("function nanomdm_touch", (_FUNCTION,))
        for name in untouched:
            yield Change(f"trigger nanomdm_touch on {name}", (_TRIGGER.format(name),))
