"""
The tables of MySQL and PostgreSQL, described once.

Definitions are SQL with a few words in braces where the engines differ; each
engine's module says what stands for them.
"""

from __future__ import annotations

from typing import Final

from attrs import field, frozen


@frozen
class Column:
    """
    A column.

    @ivar type: its SQL type, perhaps with a word in braces.
    @ivar default: what rows get that do not name it, as SQL; L{None} for
        nothing, and so for NULL where that is allowed.
    @ivar check: a condition on it.  Left out when the column is added to a
        table that exists: that would read or copy the whole table.
    """

    name: str
    type: str
    null: bool = field(default=False, kw_only=True)
    default: str | None = field(default=None, kw_only=True)
    check: str | None = field(default=None, kw_only=True)

    @property
    def addable(self) -> bool:
        """
        Whether rows that exist can get it.
        """
        return self.null or self.default is not None

    @property
    def definition(self) -> str:
        """
        Its SQL, without the check.
        """
        default = "" if self.default is None else f" DEFAULT {self.default}"
        return f"{self.name} {self.type} {'NULL' if self.null else 'NOT NULL'}{default}"


@frozen
class Index:
    """
    An index.

    @ivar columns: each with C{DESC} where it is descending.
    @ivar where: which rows it has, as SQL; L{None} for all.
    """

    name: str
    columns: tuple[str, ...]
    where: str | None = None

    @property
    def plain(self) -> tuple[str, ...]:
        """
        The names of its columns alone.
        """
        return tuple(column.partition(" ")[0] for column in self.columns)


@frozen
class Reference:
    """
    A foreign key; it cascades on deletion and update.
    """

    columns: tuple[str, ...]
    table: str
    target: tuple[str, ...]


@frozen
class Table:
    """
    A table.

    @ivar key: its primary key.
    @ivar unique: columns that are unique by themselves.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    unique: tuple[str, ...] = ()
    references: tuple[Reference, ...] = ()
    indexes: tuple[Index, ...] = ()


_NOW: Final = "CURRENT_TIMESTAMP"
_TIMES: Final = (
    Column("created_at", "TIMESTAMP", default=_NOW),
    Column("updated_at", "TIMESTAMP", default=f"{_NOW}{{touched}}"),
)
#: Rises with every row: breaks ties of times that have whole seconds only.
_SEQ: Final = Column("nanomdm_seq", "BIGINT", default="0")


def _text(name: str, type: str = "VARCHAR(255)", *, null: bool = False) -> Column:
    """
    Text that is not empty.
    """
    return Column(name, type, null=null, check=f"{name} <> ''")


def _xml(name: str) -> Column:
    return Column(name, "{text}", check=f"SUBSTR({name}, 1, 5) = '<?xml'")


def _message(name: str) -> tuple[Column, Column]:
    """
    A raw message that may not have come yet, and when it came.
    """
    return Column(name, "{text}", null=True), _when(f"{name}_at")


def _when(name: str) -> Column:
    return Column(name, "TIMESTAMP", null=True)


_ID: Final = Column("id", "VARCHAR(255)")
_DEVICE_ID: Final = Column("device_id", "VARCHAR(255)")
_COMMAND_UUID: Final = Column("command_uuid", "VARCHAR(127)")
_SHA256: Final = Column("sha256", "CHAR(64)")

_DEVICE: Final = Reference(("device_id",), "devices", ("id",))
_ENROLLMENT: Final = Reference(("id",), "enrollments", ("id",))
_COMMAND: Final = Reference(("command_uuid",), "commands", ("command_uuid",))

#: NanoMDM's tables, each after those that it refers to.
BASE: Final = (
    Table(
        "devices",
        (
            _ID,
            Column("identity_cert", "TEXT", null=True),
            _text("serial_number", "VARCHAR(127)", null=True),
            Column("unlock_token", "{blob}", null=True, check="LENGTH(unlock_token) > 0"),
            _when("unlock_token_at"),
            Column("authenticate", "{text}"),
            # The default keeps older MariaDB from giving the column one that
            # follows every update; the server always names the value.
            Column("authenticate_at", "TIMESTAMP", default=_NOW),
            *_message("token_update"),
            _text("bootstrap_token_b64", "TEXT", null=True),
            _when("bootstrap_token_at"),
            *_TIMES,
        ),
        key=("id",),
    ),
    Table(
        "users",
        (
            _ID,
            _DEVICE_ID,
            _text("user_short_name", null=True),
            _text("user_long_name", null=True),
            *_message("token_update"),
            *_message("user_authenticate"),
            *_message("user_authenticate_digest"),
            *_TIMES,
        ),
        key=("id", "device_id"),
        references=(_DEVICE,),
    ),
    Table(
        "enrollments",
        (
            _ID,
            _DEVICE_ID,
            Column("user_id", "VARCHAR(255)", null=True),
            _text("type", "VARCHAR(31)"),
            _text("topic"),
            _text("push_magic", "VARCHAR(127)"),
            _text("token_hex"),
            Column("enabled", "BOOLEAN", default="TRUE"),
            Column("token_update_tally", "INTEGER", default="1"),
            Column("last_seen_at", "TIMESTAMP", default=_NOW),
            *_TIMES,
        ),
        key=("id",),
        unique=("user_id",),
        references=(_DEVICE, Reference(("user_id", "device_id"), "users", ("id", "device_id"))),
    ),
    Table(
        "commands",
        (
            _text("command_uuid", "VARCHAR(127)"),
            _text("request_type", "VARCHAR(63)"),
            _xml("command"),
            *_TIMES,
        ),
        key=("command_uuid",),
    ),
    Table(
        "command_results",
        (
            _ID,
            _COMMAND_UUID,
            _text("status", "VARCHAR(31)"),
            _xml("result"),
            _when("not_now_at"),
            Column("not_now_tally", "INTEGER", default="0"),
            *_TIMES,
        ),
        key=("id", "command_uuid"),
        references=(_ENROLLMENT, _COMMAND),
    ),
    Table(
        "enrollment_queue",
        (
            _ID,
            _COMMAND_UUID,
            Column("active", "BOOLEAN", default="TRUE"),
            Column("priority", "{tiny}", default="0"),
            *_TIMES,
            _SEQ,
        ),
        key=("id", "command_uuid"),
        references=(_ENROLLMENT, _COMMAND),
    ),
    Table(
        "push_certs",
        (
            _text("topic"),
            Column("cert_pem", "TEXT"),
            Column("key_pem", "TEXT"),
            Column("stale_token", "INTEGER"),
            *_TIMES,
        ),
        key=("topic",),
    ),
    Table(
        "cert_auth_associations",
        (_ID, _SHA256, *_TIMES, _SEQ),
        key=("id", "sha256"),
    ),
)

#: Which device a certificate belongs to.  NanoMDM's table may hold a certificate
#: twice; the key here lets one of two devices win that present it at once.
CERT_OWNERS: Final = Table("nanomdm_cert_owners", (_SHA256, _ID), key=("sha256",))

#: When an enrollment was pushed to and when it will be again, in Unix seconds by the
#: database's clock.  Like the next one it refers to no enrollment: that would lock
#: rows which devices wait for.
_PUSHES: Final = Table(
    "nanomdm_pushes",
    (
        _ID,
        Column("pushed", "BIGINT"),
        Column("step", "SMALLINT", default="0"),
        Column("due", "BIGINT"),
    ),
    key=("id",),
    indexes=(Index("nanomdm_pushes_due", ("step", "due")),),
)

#: Push tokens that are not used any more, as long as the enrollment has this token
#: with this tally.
_DEAD_TOKENS: Final = Table(
    "nanomdm_dead_tokens",
    (
        _ID,
        Column("token_hex", "VARCHAR(255)"),
        Column("tally", "INTEGER"),
        Column("status", "INTEGER"),
        Column("reason", "VARCHAR(127)"),
    ),
    key=("id",),
)

#: What one server at a time does, which one, and until when it is sure of it.
LEASES: Final = Table(
    "nanomdm_leases",
    (
        Column("name", "VARCHAR(63)"),
        Column("holder", "VARCHAR(255)"),
        Column("expires", "BIGINT"),
    ),
    key=("name",),
)

#: In the order in which Python sorts.
_SORTED_ID: Final = Column("enrollment_id", "VARCHAR(255){sorted}")

#: What is delivered stands in two parts, and the raw message as text like every other.
#: In Base64, or as a blob, which PyMySQL sends in hexadecimal, the largest answers would
#: be more than MariaDB takes at once (C{max_allowed_packet}, 16 MiB).
_EVENT: Final = (
    Column("event_id", "VARCHAR(127)"),
    Column("topic", "VARCHAR(63)"),
    _SORTED_ID,
    Column("head", "{text}"),
    Column("raw", "{text}"),
    Column("created", "BIGINT"),
)

#: What the webhook is to be told, in this order for each enrollment.
_WEBHOOK_EVENTS: Final = Table(
    "nanomdm_webhook_events",
    (Column("number", "BIGINT{rising}"), *_EVENT),
    key=("number",),
    indexes=(Index("nanomdm_webhook_events_enrollment", ("enrollment_id", "number")),),
)

#: Enrollments that have such events: when the first one is due, how often it was tried,
#: and which server has it in hand, for how many seconds each time; and how often events
#: were added.
_WEBHOOK_STREAMS: Final = Table(
    "nanomdm_webhook_streams",
    (
        _SORTED_ID,
        Column("due", "BIGINT"),
        Column("holder", "VARCHAR(255)", default="''"),
        Column("lease", "INTEGER", default="0"),
        Column("attempts", "INTEGER", default="0"),
        Column("additions", "BIGINT", default="0"),
    ),
    key=("enrollment_id",),
    indexes=(Index("nanomdm_webhook_streams_due", ("due",)),),
)

#: Events that were given up.
_WEBHOOK_FAILED: Final = Table(
    "nanomdm_webhook_failed",
    (
        Column("number", "BIGINT"),
        *_EVENT,
        Column("failed_at", "BIGINT"),
        Column("attempts", "INTEGER"),
        Column("reason", "VARCHAR(255)"),
    ),
    key=("number",),
)

#: This server's own tables, beside the source of numbers.
OWN: Final = (
    *(CERT_OWNERS, _PUSHES, _DEAD_TOKENS, LEASES),
    *(_WEBHOOK_EVENTS, _WEBHOOK_STREAMS, _WEBHOOK_FAILED),
)

#: What the look for the next command reads, and nothing but it.
QUEUE_NEXT: Final = Index(
    "nanomdm_queue_next",
    ("id", "active", "priority DESC", "created_at", "nanomdm_seq", "command_uuid"),
)

#: What lists of enrollments are filtered by.  The columns of the times that devices are
#: seen are in none: those are written all the time.
ENROLLMENT_LISTS: Final = (
    Index("nanomdm_enrollments_enabled", ("enabled", "id")),
    Index("nanomdm_enrollments_topic", ("topic", "id")),
)
SHORT_NAMES: Final = Index("nanomdm_users_short_name", ("user_short_name",))

#: The queue for people; the server does not use it.
VIEW: Final = """CREATE VIEW view_queue AS
    SELECT q.id, q.created_at, q.active, q.priority,
           c.command_uuid, c.request_type, c.command,
           r.updated_at AS result_updated_at, r.status, r.result
      FROM enrollment_queue AS q
      JOIN commands AS c ON c.command_uuid = q.command_uuid
      LEFT JOIN command_results AS r
        ON r.command_uuid = q.command_uuid AND r.id = q.id
     ORDER BY q.priority DESC, q.created_at"""
