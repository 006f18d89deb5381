"""
The SQLite tables, and how a database gets from one version to the next.

The version is SQLite's C{user_version}; C{MIGRATIONS[n]} leads from n to n + 1.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from nanomdm.errors import ConfigError
from nanomdm.storage.schema.changes import Change

_NOW: Final = "(strftime('%Y-%m-%d %H:%M:%f', 'now'))"
_TIMES: Final = f"""
    created_at TIMESTAMP NOT NULL DEFAULT {_NOW},
    updated_at TIMESTAMP NOT NULL DEFAULT {_NOW}"""

_TABLES: Final = f"""
CREATE TABLE devices (
    id VARCHAR(255) NOT NULL PRIMARY KEY,
    identity_cert TEXT NULL,
    serial_number VARCHAR(127) NULL CHECK (serial_number <> ''),
    unlock_token BLOB NULL CHECK (length(unlock_token) > 0),
    unlock_token_at TIMESTAMP NULL,
    authenticate TEXT NOT NULL,
    authenticate_at TIMESTAMP NOT NULL,
    token_update TEXT NULL,
    token_update_at TIMESTAMP NULL,
    bootstrap_token_b64 TEXT NULL CHECK (bootstrap_token_b64 <> ''),
    bootstrap_token_at TIMESTAMP NULL,{_TIMES}
);
CREATE INDEX serial_number ON devices (serial_number);

CREATE TABLE users (
    id VARCHAR(255) NOT NULL,
    device_id VARCHAR(255) NOT NULL
        REFERENCES devices (id) ON DELETE CASCADE ON UPDATE CASCADE,
    user_short_name VARCHAR(255) NULL CHECK (user_short_name <> ''),
    user_long_name VARCHAR(255) NULL CHECK (user_long_name <> ''),
    token_update TEXT NULL,
    token_update_at TIMESTAMP NULL,
    user_authenticate TEXT NULL,
    user_authenticate_at TIMESTAMP NULL,
    user_authenticate_digest TEXT NULL,
    user_authenticate_digest_at TIMESTAMP NULL,{_TIMES},
    PRIMARY KEY (id, device_id)
);
CREATE INDEX users_device ON users (device_id);

CREATE TABLE enrollments (
    id VARCHAR(255) NOT NULL PRIMARY KEY,
    device_id VARCHAR(255) NOT NULL
        REFERENCES devices (id) ON DELETE CASCADE ON UPDATE CASCADE,
    user_id VARCHAR(255) NULL UNIQUE,
    type VARCHAR(31) NOT NULL CHECK (type <> ''),
    topic VARCHAR(255) NOT NULL CHECK (topic <> ''),
    push_magic VARCHAR(127) NOT NULL CHECK (push_magic <> ''),
    token_hex VARCHAR(255) NOT NULL CHECK (token_hex <> ''),
    enabled BOOLEAN NOT NULL DEFAULT TRUE,
    token_update_tally INTEGER NOT NULL DEFAULT 1,
    last_seen_at TIMESTAMP NOT NULL,{_TIMES},
    FOREIGN KEY (user_id, device_id)
        REFERENCES users (id, device_id) ON DELETE CASCADE ON UPDATE CASCADE
);
CREATE INDEX enrollments_device ON enrollments (device_id);
CREATE INDEX enrollments_type ON enrollments (type);

CREATE TABLE commands (
    command_uuid VARCHAR(127) NOT NULL PRIMARY KEY CHECK (command_uuid <> ''),
    request_type VARCHAR(63) NOT NULL CHECK (request_type <> ''),
    command TEXT NOT NULL CHECK (substr(command, 1, 5) = '<?xml'),{_TIMES}
);

CREATE TABLE command_results (
    id VARCHAR(255) NOT NULL
        REFERENCES enrollments (id) ON DELETE CASCADE ON UPDATE CASCADE,
    command_uuid VARCHAR(127) NOT NULL
        REFERENCES commands (command_uuid) ON DELETE CASCADE ON UPDATE CASCADE,
    status VARCHAR(31) NOT NULL CHECK (status <> ''),
    result TEXT NOT NULL CHECK (substr(result, 1, 5) = '<?xml'),
    not_now_at TIMESTAMP NULL,
    not_now_tally INTEGER NOT NULL DEFAULT 0,{_TIMES},
    PRIMARY KEY (id, command_uuid)
);
CREATE INDEX results_command ON command_results (command_uuid);
CREATE INDEX results_status ON command_results (status);

CREATE TABLE enrollment_queue (
    id VARCHAR(255) NOT NULL
        REFERENCES enrollments (id) ON DELETE CASCADE ON UPDATE CASCADE,
    command_uuid VARCHAR(127) NOT NULL
        REFERENCES commands (command_uuid) ON DELETE CASCADE ON UPDATE CASCADE,
    active BOOLEAN NOT NULL DEFAULT TRUE,
    priority TINYINT NOT NULL DEFAULT 0,
    nanomdm_seq BIGINT NOT NULL DEFAULT 0,{_TIMES},
    PRIMARY KEY (id, command_uuid)
);
CREATE INDEX idx_queue_lookup ON enrollment_queue (id, active, priority DESC, created_at);
CREATE INDEX nanomdm_queue_next ON enrollment_queue
    (id, active, priority DESC, created_at, nanomdm_seq, command_uuid);
CREATE INDEX queue_command ON enrollment_queue (command_uuid);

CREATE TABLE push_certs (
    topic VARCHAR(255) NOT NULL PRIMARY KEY CHECK (topic <> ''),
    cert_pem TEXT NOT NULL,
    key_pem TEXT NOT NULL,
    stale_token INTEGER NOT NULL,{_TIMES}
);

CREATE TABLE cert_auth_associations (
    id VARCHAR(255) NOT NULL,
    sha256 CHAR(64) NOT NULL,
    nanomdm_seq BIGINT NOT NULL DEFAULT 0,{_TIMES},
    PRIMARY KEY (id, sha256)
);
CREATE INDEX idx_sha256 ON cert_auth_associations (sha256);

CREATE TABLE nanomdm_cert_owners (
    sha256 CHAR(64) NOT NULL PRIMARY KEY,
    id VARCHAR(255) NOT NULL
);

CREATE TABLE nanomdm_sequence (
    value INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT
);

CREATE VIEW view_queue AS
    SELECT q.id, q.created_at, q.active, q.priority,
           c.command_uuid, c.request_type, c.command,
           r.updated_at AS result_updated_at, r.status, r.result
      FROM enrollment_queue AS q
      JOIN commands AS c ON c.command_uuid = q.command_uuid
      LEFT JOIN command_results AS r
        ON r.command_uuid = q.command_uuid AND r.id = q.id
     ORDER BY q.priority DESC, q.created_at;
"""

_PUSHES: Final = """
CREATE TABLE nanomdm_pushes (
    id VARCHAR(255) NOT NULL PRIMARY KEY,
    pushed BIGINT NOT NULL,
    step SMALLINT NOT NULL DEFAULT 0,
    due BIGINT NOT NULL
);
CREATE INDEX nanomdm_pushes_due ON nanomdm_pushes (step, due);

CREATE TABLE nanomdm_dead_tokens (
    id VARCHAR(255) NOT NULL PRIMARY KEY,
    token_hex VARCHAR(255) NOT NULL,
    tally INTEGER NOT NULL,
    status INTEGER NOT NULL,
    reason VARCHAR(127) NOT NULL
);

CREATE TABLE nanomdm_leases (
    name VARCHAR(63) NOT NULL PRIMARY KEY,
    holder VARCHAR(255) NOT NULL,
    expires BIGINT NOT NULL
);
"""

# AUTOINCREMENT: no number comes back.
_WEBHOOK: Final = """
CREATE TABLE nanomdm_webhook_events (
    number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    event_id VARCHAR(127) NOT NULL,
    topic VARCHAR(63) NOT NULL,
    enrollment_id VARCHAR(255) NOT NULL,
    head TEXT NOT NULL,
    raw TEXT NOT NULL,
    created BIGINT NOT NULL
);
CREATE INDEX nanomdm_webhook_events_enrollment ON nanomdm_webhook_events (enrollment_id, number);

CREATE TABLE nanomdm_webhook_streams (
    enrollment_id VARCHAR(255) NOT NULL PRIMARY KEY,
    due BIGINT NOT NULL,
    holder VARCHAR(255) NOT NULL DEFAULT '',
    lease INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX nanomdm_webhook_streams_due ON nanomdm_webhook_streams (due);

CREATE TABLE nanomdm_webhook_failed (
    number INTEGER NOT NULL PRIMARY KEY,
    event_id VARCHAR(127) NOT NULL,
    topic VARCHAR(63) NOT NULL,
    enrollment_id VARCHAR(255) NOT NULL,
    head TEXT NOT NULL,
    raw TEXT NOT NULL,
    created BIGINT NOT NULL,
    failed_at BIGINT NOT NULL,
    attempts INTEGER NOT NULL,
    reason VARCHAR(255) NOT NULL
);
"""

# The first is for here alone: the time stands behind the answer itself, which may be long,
# and servers keep long ones elsewhere.
_INSPECTION: Final = """
CREATE INDEX nanomdm_results_newest ON command_results
    (id, updated_at, command_uuid, status, not_now_at, not_now_tally);
CREATE INDEX nanomdm_queue_targets ON enrollment_queue (command_uuid, id);
DROP INDEX queue_command;
CREATE INDEX nanomdm_enrollments_types ON enrollments (type, id);
DROP INDEX enrollments_type;
CREATE INDEX nanomdm_enrollments_enabled ON enrollments (enabled, id);
CREATE INDEX nanomdm_enrollments_topic ON enrollments (topic, id);
CREATE INDEX nanomdm_users_short_name ON users (user_short_name);
CREATE INDEX nanomdm_queue_active ON enrollment_queue (id, command_uuid, active)
    WHERE active = TRUE;
"""

_ADDITIONS: Final = """
ALTER TABLE nanomdm_webhook_streams ADD COLUMN additions BIGINT NOT NULL DEFAULT 0;
"""

_TOUCHED: Final = (
    *("devices", "users", "enrollments", "commands", "command_results"),
    *("enrollment_queue", "push_certs", "cert_auth_associations"),
)


def _touch(table: str) -> str:
    """
    The trigger that makes C{updated_at} follow every update, as C{ON UPDATE
    CURRENT_TIMESTAMP} does on MySQL.
    """
    return f"""
CREATE TRIGGER {table}_updated AFTER UPDATE ON {table} FOR EACH ROW
WHEN NEW.updated_at = OLD.updated_at
BEGIN
    UPDATE {table} SET updated_at = {_NOW} WHERE rowid = NEW.rowid;
END;
"""


MIGRATIONS: Final[tuple[str, ...]] = (
    _TABLES + "".join(map(_touch, _TOUCHED)),
    _PUSHES + _WEBHOOK,
    _INSPECTION,
    _ADDITIONS,
)


class SQLite:
    """
    SQLite, see L{nanomdm.storage.schema.changes.Engine}.  A version is reached in
    one transaction, or not at all.
    """

    def pending(self, connection: sqlite3.Connection) -> list[Change]:
        """
        @return: a change for each version that is missing.
        @raise ConfigError: the database was made by a newer nanomdm, or holds
            something else.
        """
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise ConfigError(
                f"the database has schema version {version}, made by a newer nanomdm;"
                f" this one knows up to {len(MIGRATIONS)}"
            )
        if version == 0:
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if tables:
                raise ConfigError("the database is not empty and was not made by nanomdm")
        return self.blank()[version:]

    @contextmanager
    def locked(self, connection: sqlite3.Connection, timeout: float) -> Iterator[None]:
        """
        Make the changes in one transaction that locks the file.

        @param timeout: not used, the connection has its own.
        """
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise

    def execute(self, connection: sqlite3.Connection, statement: str) -> None:
        """
        Execute a statement of a change.
        """
        connection.execute(statement)

    def blank(self) -> list[Change]:
        """
        @return: a change for every version.
        """
        return [
            Change(
                f"schema version {number}",
                (*_statements(migration), f"PRAGMA user_version = {number}"),
            )
            for number, migration in enumerate(MIGRATIONS, 1)
        ]


def _statements(script: str) -> Iterator[str]:
    """
    Split a script, since C{executescript} would commit between its statements.
    """
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending.strip().removesuffix(";")
            pending = ""
