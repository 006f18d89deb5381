"""
The schema on MySQL (from 8.0.19) and MariaDB (from 10.6).

Columns are added with C{ALGORITHM=INSTANT} and indexes with C{ALGORITHM=INPLACE,
LOCK=NONE}: where a server can not do it so, it refuses, and the operator decides
when a table may be copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from nanomdm.storage.schema import galera
from nanomdm.storage.schema.changes import (
    ALTER_TIMEOUT,
    LOCK_TIMEOUT,
    Change,
    release,
    rows,
    run,
    wait_for,
)
from nanomdm.storage.schema.compare import Present, ServerEngine, filled, with_indexes
from nanomdm.storage.schema.tables import (
    ENROLLMENT_LISTS,
    LEASES,
    QUEUE_NEXT,
    SHORT_NAMES,
    Column,
    Index,
    Table,
)

# Foreign keys bring an index of their own here.
_INDEXES: Final = {
    "devices": (Index("serial_number", ("serial_number",)),),
    "users": (SHORT_NAMES,),
    # What has no key ends with the table's, so types are sorted by id.
    "enrollments": (Index("type", ("type",)), *ENROLLMENT_LISTS),
    "command_results": (Index("status", ("status",)),),
    "enrollment_queue": (
        Index("priority", ("priority DESC", "created_at")),
        Index("idx_queue_lookup", ("id", "active", "priority DESC", "created_at")),
        QUEUE_NEXT,
        Index("nanomdm_queue_active", ("active", "id", "command_uuid")),
    ),
    "cert_auth_associations": (Index("idx_sha256", ("sha256",)),),
}
_WORDS: Final = {
    "text": "LONGTEXT",
    "blob": "LONGBLOB",
    "tiny": "TINYINT",
    "touched": " ON UPDATE CURRENT_TIMESTAMP",
    "rising": " AUTO_INCREMENT",
    "sorted": "",
}
_OPTIONS: Final = " ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
_SEQUENCE: Final = f"""CREATE TABLE nanomdm_sequence (
    value BIGINT NOT NULL AUTO_INCREMENT,
    PRIMARY KEY (value)
){_OPTIONS}"""

_COLUMNS: Final = """
    SELECT table_name, column_name FROM information_schema.columns
     WHERE table_schema = DATABASE()
"""
_INDEX_COLUMNS: Final = """
    SELECT table_name, index_name, IF(sub_part IS NULL, column_name, NULL)
      FROM information_schema.statistics
     WHERE table_schema = DATABASE()
     ORDER BY table_name, index_name, seq_in_index
"""
#: The names of locks are the whole server's, and have at most 64 characters.
_LOCK_NAME: Final = "CONCAT('nanomdm ', LEFT(SHA2(DATABASE(), 256), 40))"


class MySQL(ServerEngine):
    """
    MySQL and MariaDB, see L{nanomdm.storage.schema.changes.Engine}.
    """

    creates_indexes = True
    table_options = _OPTIONS

    def __init__(self) -> None:
        super().__init__(with_indexes(_INDEXES), _WORDS)

    def look(self, connection: Any) -> Present:
        """
        @return: what the database holds.
        """
        columns: dict[str, list[str]] = {}
        for table, column in rows(connection, _COLUMNS):
            columns.setdefault(table, []).append(column)
        indexes: dict[str, dict[str, list[str]]] = {}
        for table, index, column in rows(connection, _INDEX_COLUMNS):
            indexes.setdefault(table, {}).setdefault(index, []).append(column)
        return Present(columns, indexes, filled=lambda table: filled(connection, table))

    @contextmanager
    def locked(self, connection: Any, timeout: float) -> Iterator[None]:
        """
        Hold a lock that is this database's on the whole server, and on a cluster.
        """
        attempt = f"SELECT GET_LOCK({_LOCK_NAME}, 0)"
        wait_for(lambda: rows(connection, attempt) == [(1,)], timeout)
        try:
            run(connection, f"SET SESSION lock_wait_timeout = {ALTER_TIMEOUT}")
            with self._locked_cluster(connection, timeout):
                yield
        finally:
            release(
                connection,
                "SET SESSION lock_wait_timeout = DEFAULT",
                f"DO RELEASE_LOCK({_LOCK_NAME})",
            )

    @contextmanager
    def _locked_cluster(self, connection: Any, timeout: float) -> Iterator[None]:
        node = galera.node_of(connection)
        if node is None:
            yield
            return
        if LEASES.name not in self.look(connection).columns:
            run(connection, self.create(LEASES).replace("TABLE", "TABLE IF NOT EXISTS", 1))
        wait_for(lambda: galera.take(connection, node), timeout)
        try:
            yield
        finally:
            with suppress(connection.Error):
                galera.end(connection, node)

    def execute(self, connection: Any, statement: str) -> None:
        """
        Execute a statement of a change.
        """
        node = galera.node_of(connection)
        if node is not None:
            # Others may have waited for long enough.
            wait_for(lambda: galera.take(connection, node), LOCK_TIMEOUT)
        super().execute(connection, statement)

    def add_column(self, table: Table, column: Column) -> str:
        """
        @return: SQL that adds a column at once.
        """
        definition = self.words(column.definition)
        return f"ALTER TABLE {table.name} ADD COLUMN {definition}, ALGORITHM=INSTANT"

    def add_index(self, table: Table, index: Index, present: Present) -> tuple[str, ...]:
        """
        @return: SQL that adds an index while others read and write the table.
        """
        columns = ", ".join(index.columns)
        return (
            f"ALTER TABLE {table.name} ADD INDEX {index.name} ({columns}),"
            " ALGORITHM=INPLACE, LOCK=NONE",
        )

    def extras(self, present: Present) -> Iterator[Change]:
        """
        @return: the table whose key gives out rising numbers.
        """
        if "nanomdm_sequence" not in present.columns:
            yield Change("table nanomdm_sequence", (_SEQUENCE,))
