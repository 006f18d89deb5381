"""
NanoMDM's own tables, as a site has them before this server comes: at the newest
revision and at an old one, with some rows.
"""

from __future__ import annotations

XML = "<?xml version='1.0'?><plist/>"

#: Old column names by table: what NanoMDM names when it reads and writes.
COLUMNS = {
    "devices": (
        "id, identity_cert, serial_number, unlock_token, authenticate, authenticate_at,"
        " token_update, token_update_at"
    ),
    "users": "id, device_id, user_short_name, user_long_name, token_update, token_update_at",
    "enrollments": "id, device_id, user_id, type, topic, push_magic, token_hex, enabled",
    "commands": "command_uuid, request_type, command",
    "command_results": "id, command_uuid, status, result",
    "enrollment_queue": "id, command_uuid, active",
    "push_certs": "topic, cert_pem, key_pem, stale_token",
    "cert_auth_associations": "id, sha256",
}


def rows(name: str) -> list[tuple[str, tuple[object, ...]]]:
    """
    @param name: makes the keys of the rows unlike those of other calls.
    @return: inserts as NanoMDM makes them, with placeholders and parameters: a
        device and a user, one command answered and one waiting for both.
    """
    device, user = f"{name}-D", f"{name}-D:U"
    then = "2024-05-06 07:08:09"
    one, two = f"{name}-C1", f"{name}-C2"
    values: list[tuple[str, tuple[object, ...]]] = [
        ("devices", (device, "PEM", "S1", b"\x00\xff", XML, then, XML, then)),
        ("users", (user, device, "jo", "Jo", XML, then)),
        ("enrollments", (device, device, None, "Device", "com.a", "magic", "abcd", True)),
        ("enrollments", (user, device, user, "User", "com.a", "magic", "abcd", True)),
        ("commands", (one, "DeviceInformation", XML)),
        ("commands", (two, "SecurityInfo", XML)),
        ("enrollment_queue", (device, one, True)),
        ("enrollment_queue", (device, two, True)),
        ("enrollment_queue", (user, two, True)),
        ("command_results", (device, one, "Acknowledged", XML)),
        ("push_certs", (f"com.{name}", "-----BEGIN CERTIFICATE-----", "-----BEGIN KEY-----", 0)),
        ("cert_auth_associations", (device, "ab" * 32)),
    ]
    return [_insert(table, parameters) for table, parameters in values]


def _insert(table: str, parameters: tuple[object, ...]) -> tuple[str, tuple[object, ...]]:
    columns, marks = COLUMNS[table], ", ".join(["%s"] * len(parameters))
    if table == "enrollments":
        columns, marks = f"{columns}, last_seen_at", f"{marks}, CURRENT_TIMESTAMP"
    return f"INSERT INTO {table} ({columns}) VALUES ({marks})", parameters


VIEW = """
    CREATE VIEW view_queue AS
    SELECT q.id, q.created_at, q.active, q.priority, c.command_uuid, c.request_type, c.command,
           r.updated_at AS result_updated_at, r.status, r.result
      FROM enrollment_queue AS q
     INNER JOIN commands AS c ON q.command_uuid = c.command_uuid
      LEFT JOIN command_results AS r ON r.command_uuid = q.command_uuid AND r.id = q.id
     ORDER BY q.priority DESC, q.created_at
"""

_MYSQL_TIMES = """
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP NOT NULL
"""

MYSQL = (
    f"""
    CREATE TABLE devices (
        id VARCHAR(255) NOT NULL,
        identity_cert TEXT NULL,
        serial_number VARCHAR(127) NULL,
        unlock_token MEDIUMBLOB NULL,
        unlock_token_at TIMESTAMP NULL,
        authenticate TEXT NOT NULL,
        authenticate_at TIMESTAMP NOT NULL,
        token_update TEXT NULL,
        token_update_at TIMESTAMP NULL,
        bootstrap_token_b64 TEXT NULL,
        bootstrap_token_at TIMESTAMP NULL,
        {_MYSQL_TIMES},
        PRIMARY KEY (id),
        CHECK (serial_number IS NULL OR serial_number != ''),
        CHECK (unlock_token IS NULL OR LENGTH(unlock_token) > 0),
        CHECK (bootstrap_token_b64 IS NULL OR bootstrap_token_b64 != ''),
        CHECK (SUBSTRING(authenticate FROM 1 FOR 5) = '<?xml'),
        CHECK (token_update IS NULL OR SUBSTRING(token_update FROM 1 FOR 5) = '<?xml'),
        INDEX (serial_number)
    )""",
    f"""
    CREATE TABLE users (
        id VARCHAR(255) NOT NULL,
        device_id VARCHAR(255) NOT NULL,
        user_short_name VARCHAR(255) NULL,
        user_long_name VARCHAR(255) NULL,
        token_update TEXT NULL,
        token_update_at TIMESTAMP NULL,
        user_authenticate TEXT NULL,
        user_authenticate_at TIMESTAMP NULL,
        user_authenticate_digest TEXT NULL,
        user_authenticate_digest_at TIMESTAMP NULL,
        {_MYSQL_TIMES},
        PRIMARY KEY (id, device_id),
        FOREIGN KEY (device_id) REFERENCES devices (id) ON DELETE CASCADE ON UPDATE CASCADE,
        CHECK (user_short_name IS NULL OR user_short_name != ''),
        CHECK (user_long_name IS NULL OR user_long_name != '')
    )""",
    f"""
    CREATE TABLE enrollments (
        id VARCHAR(255) NOT NULL,
        device_id VARCHAR(255) NOT NULL,
        user_id VARCHAR(255) NULL,
        type VARCHAR(31) NOT NULL,
        topic VARCHAR(255) NOT NULL,
        push_magic VARCHAR(127) NOT NULL,
        token_hex VARCHAR(255) NOT NULL,
        enabled BOOLEAN DEFAULT 1 NOT NULL,
        token_update_tally INTEGER DEFAULT 1 NOT NULL,
        last_seen_at TIMESTAMP NOT NULL,
        {_MYSQL_TIMES},
        PRIMARY KEY (id),
        UNIQUE INDEX (user_id),
        FOREIGN KEY (device_id) REFERENCES devices (id) ON DELETE CASCADE ON UPDATE CASCADE,
        FOREIGN KEY (user_id, device_id)
            REFERENCES users (id, device_id) ON DELETE CASCADE ON UPDATE CASCADE,
        CHECK (type != ''), CHECK (topic != ''), CHECK (push_magic != ''), CHECK (token_hex != ''),
        INDEX (type)
    )""",
    f"""
    CREATE TABLE commands (
        command_uuid VARCHAR(127) NOT NULL,
        request_type VARCHAR(63) NOT NULL,
        command MEDIUMTEXT NOT NULL,
        {_MYSQL_TIMES},
        PRIMARY KEY (command_uuid),
        CHECK (command_uuid != ''), CHECK (request_type != ''),
        CHECK (SUBSTRING(command FROM 1 FOR 5) = '<?xml')
    )""",
    f"""
    CREATE TABLE command_results (
        id VARCHAR(255) NOT NULL,
        command_uuid VARCHAR(127) NOT NULL,
        status VARCHAR(31) NOT NULL,
        result MEDIUMTEXT NOT NULL,
        not_now_at TIMESTAMP NULL,
        not_now_tally INTEGER DEFAULT 0 NOT NULL,
        {_MYSQL_TIMES},
        PRIMARY KEY (id, command_uuid),
        FOREIGN KEY (id) REFERENCES enrollments (id) ON DELETE CASCADE ON UPDATE CASCADE,
        FOREIGN KEY (command_uuid)
            REFERENCES commands (command_uuid) ON DELETE CASCADE ON UPDATE CASCADE,
        CHECK (status != ''), CHECK (SUBSTRING(result FROM 1 FOR 5) = '<?xml'),
        INDEX (status)
    )""",
    f"""
    CREATE TABLE enrollment_queue (
        id VARCHAR(255) NOT NULL,
        command_uuid VARCHAR(127) NOT NULL,
        active BOOLEAN DEFAULT 1 NOT NULL,
        priority TINYINT DEFAULT 0 NOT NULL,
        {_MYSQL_TIMES},
        PRIMARY KEY (id, command_uuid),
        INDEX (priority DESC, created_at),
        INDEX idx_queue_lookup (id, active, priority DESC, created_at),
        FOREIGN KEY (id) REFERENCES enrollments (id) ON DELETE CASCADE ON UPDATE CASCADE,
        FOREIGN KEY (command_uuid)
            REFERENCES commands (command_uuid) ON DELETE CASCADE ON UPDATE CASCADE
    )""",
    f"""
    CREATE TABLE push_certs (
        topic VARCHAR(255) NOT NULL,
        cert_pem TEXT NOT NULL,
        key_pem TEXT NOT NULL,
        stale_token INTEGER NOT NULL,
        {_MYSQL_TIMES},
        PRIMARY KEY (topic),
        CHECK (topic != ''),
        CHECK (SUBSTRING(cert_pem FROM 1 FOR 27) = '-----BEGIN CERTIFICATE-----'),
        CHECK (SUBSTRING(key_pem FROM 1 FOR 5) = '-----')
    )""",
    f"""
    CREATE TABLE cert_auth_associations (
        id VARCHAR(255) NOT NULL,
        sha256 CHAR(64) NOT NULL,
        {_MYSQL_TIMES},
        PRIMARY KEY (id, sha256),
        INDEX idx_sha256 (sha256)
    )""",
    VIEW,
)

#: Leads from the newest revision back to an old one.
OLDER = (
    "DROP VIEW view_queue",
    "ALTER TABLE devices DROP COLUMN unlock_token_at",
    "ALTER TABLE devices DROP COLUMN bootstrap_token_b64",
    "ALTER TABLE devices DROP COLUMN bootstrap_token_at",
    "ALTER TABLE users DROP COLUMN user_authenticate",
    "ALTER TABLE users DROP COLUMN user_authenticate_at",
    "ALTER TABLE users DROP COLUMN user_authenticate_digest",
    "ALTER TABLE users DROP COLUMN user_authenticate_digest_at",
    "ALTER TABLE enrollments DROP COLUMN token_update_tally",
    "ALTER TABLE enrollments DROP COLUMN last_seen_at",
    "ALTER TABLE command_results DROP COLUMN not_now_at",
    "ALTER TABLE command_results DROP COLUMN not_now_tally",
    "ALTER TABLE enrollment_queue DROP COLUMN priority",
    VIEW.replace("q.priority, ", "").replace("q.priority DESC, ", ""),
)
#: On MySQL this comes first.
MYSQL_OLDER = (
    "ALTER TABLE enrollment_queue DROP INDEX idx_queue_lookup",
    "ALTER TABLE enrollment_queue DROP INDEX priority",
    "ALTER TABLE cert_auth_associations DROP INDEX idx_sha256",
)

#: How the changes that bring it forward again are named.
RESTORED = [
    "column unlock_token_at of devices",
    "column bootstrap_token_b64 of devices",
    "column bootstrap_token_at of devices",
    "column user_authenticate of users",
    "column user_authenticate_at of users",
    "column user_authenticate_digest of users",
    "column user_authenticate_digest_at of users",
    "column token_update_tally of enrollments",
    "column last_seen_at of enrollments",
    "column not_now_at of command_results",
    "column not_now_tally of command_results",
    "column priority of enrollment_queue",
]

_PGSQL_TIMES = """
    created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
"""

PGSQL = (
    """
    CREATE FUNCTION site_updated() RETURNS TRIGGER AS $$
    BEGIN NEW.updated_at = now(); RETURN NEW; END; $$ LANGUAGE plpgsql""",
    f"""
    CREATE TABLE devices (
        id VARCHAR(255) NOT NULL PRIMARY KEY,
        identity_cert TEXT NULL,
        serial_number VARCHAR(127) NULL CHECK (serial_number IS NULL OR serial_number != ''),
        unlock_token BYTEA NULL CHECK (unlock_token IS NULL OR LENGTH(unlock_token) > 0),
        unlock_token_at TIMESTAMP NULL,
        authenticate TEXT NOT NULL CHECK (SUBSTRING(authenticate FROM 1 FOR 5) = '<?xml'),
        authenticate_at TIMESTAMP NOT NULL,
        token_update TEXT NULL CHECK (SUBSTRING(token_update FROM 1 FOR 5) = '<?xml'),
        token_update_at TIMESTAMP NULL,
        bootstrap_token_b64 TEXT NULL
            CHECK (bootstrap_token_b64 IS NULL OR bootstrap_token_b64 != ''),
        bootstrap_token_at TIMESTAMP NULL,
        {_PGSQL_TIMES}
    )""",
    "CREATE INDEX site_serial ON devices (serial_number)",
    f"""
    CREATE TABLE users (
        id VARCHAR(255) NOT NULL UNIQUE,
        device_id VARCHAR(255) NOT NULL
            REFERENCES devices (id) ON DELETE CASCADE ON UPDATE CASCADE,
        user_short_name VARCHAR(255) NULL CHECK (user_short_name != ''),
        user_long_name VARCHAR(255) NULL CHECK (user_long_name != ''),
        token_update TEXT NULL,
        token_update_at TIMESTAMP NULL,
        user_authenticate TEXT NULL,
        user_authenticate_at TIMESTAMP NULL,
        user_authenticate_digest TEXT NULL,
        user_authenticate_digest_at TIMESTAMP NULL,
        {_PGSQL_TIMES},
        PRIMARY KEY (id, device_id)
    )""",
    f"""
    CREATE TABLE enrollments (
        id VARCHAR(255) NOT NULL PRIMARY KEY,
        device_id VARCHAR(255) NOT NULL
            REFERENCES devices (id) ON DELETE CASCADE ON UPDATE CASCADE,
        user_id VARCHAR(255) NULL UNIQUE
            REFERENCES users (id) ON DELETE CASCADE ON UPDATE CASCADE,
        type VARCHAR(31) NOT NULL CHECK (type != ''),
        topic VARCHAR(255) NOT NULL CHECK (topic != ''),
        push_magic VARCHAR(127) NOT NULL CHECK (push_magic != ''),
        token_hex VARCHAR(255) NOT NULL CHECK (token_hex != ''),
        enabled BOOLEAN NOT NULL DEFAULT TRUE,
        token_update_tally INTEGER NOT NULL DEFAULT 1,
        last_seen_at TIMESTAMP NOT NULL,
        {_PGSQL_TIMES}
    )""",
    "CREATE INDEX site_type ON enrollments (type)",
    f"""
    CREATE TABLE commands (
        command_uuid VARCHAR(127) NOT NULL PRIMARY KEY CHECK (command_uuid != ''),
        request_type VARCHAR(63) NOT NULL CHECK (request_type != ''),
        command TEXT NOT NULL CHECK (SUBSTRING(command FROM 1 FOR 5) = '<?xml'),
        {_PGSQL_TIMES}
    )""",
    f"""
    CREATE TABLE command_results (
        id VARCHAR(255) NOT NULL REFERENCES enrollments (id) ON DELETE CASCADE ON UPDATE CASCADE,
        command_uuid VARCHAR(127) NOT NULL
            REFERENCES commands (command_uuid) ON DELETE CASCADE ON UPDATE CASCADE,
        status VARCHAR(31) NOT NULL CHECK (status != ''),
        result TEXT NOT NULL CHECK (SUBSTRING(result FROM 1 FOR 5) = '<?xml'),
        not_now_at TIMESTAMP NULL,
        not_now_tally INTEGER NOT NULL DEFAULT 0,
        {_PGSQL_TIMES},
        PRIMARY KEY (id, command_uuid)
    )""",
    "CREATE INDEX site_status ON command_results (status)",
    f"""
    CREATE TABLE enrollment_queue (
        id VARCHAR(255) NOT NULL REFERENCES enrollments (id) ON DELETE CASCADE ON UPDATE CASCADE,
        command_uuid VARCHAR(127) NOT NULL
            REFERENCES commands (command_uuid) ON DELETE CASCADE ON UPDATE CASCADE,
        active BOOLEAN NOT NULL DEFAULT TRUE,
        priority SMALLINT NOT NULL DEFAULT 0,
        {_PGSQL_TIMES},
        PRIMARY KEY (id, command_uuid)
    )""",
    f"""
    CREATE TABLE push_certs (
        topic VARCHAR(255) NOT NULL PRIMARY KEY CHECK (topic != ''),
        cert_pem TEXT NOT NULL
            CHECK (SUBSTRING(cert_pem FROM 1 FOR 27) = '-----BEGIN CERTIFICATE-----'),
        key_pem TEXT NOT NULL CHECK (SUBSTRING(key_pem FROM 1 FOR 5) = '-----'),
        stale_token INTEGER NOT NULL,
        {_PGSQL_TIMES}
    )""",
    f"""
    CREATE TABLE cert_auth_associations (
        id VARCHAR(255) NOT NULL,
        sha256 CHAR(64) NOT NULL,
        {_PGSQL_TIMES},
        PRIMARY KEY (id, sha256)
    )""",
    *(
        f"""
        CREATE TRIGGER site_updated BEFORE UPDATE ON {table}
            FOR EACH ROW EXECUTE FUNCTION site_updated()"""
        for table in COLUMNS
    ),
    VIEW,
)
