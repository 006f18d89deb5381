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
    """

    name: str
    columns: tuple[str, ...]

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
    @ivar unique: columns of further unique keys.
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


def _id(name: str) -> Column:
    return Column(name, "VARCHAR(255)")


def _filled(name: str, type: str, *, null: bool = False) -> Column:
    return Column(name, type, null=null, check=f"{name} <> ''")


def _xml(name: str) -> Column:
    return Column(name, "{text}", check=f"SUBSTR({name}, 1, 5) = '<?xml'")


def _stamped(name: str, type: str = "{text}", *, check: str | None = None) -> tuple[Column, Column]:
    """
    A nullable value and the time at which it came.
    """
    return (
        Column(name, type, null=True, check=check),
        Column(f"{name}_at", "TIMESTAMP", null=True),
    )


_DEVICE: Final = Reference(("device_id",), "devices", ("id",))
_ENROLLMENT: Final = Reference(("id",), "enrollments", ("id",))
_COMMAND: Final = Reference(("command_uuid",), "commands", ("command_uuid",))

DEVICES: Final = Table(
    "devices",
    (
        _id("id"),
        Column("identity_cert", "TEXT", null=True),
        _filled("serial_number", "VARCHAR(127)", null=True),
        *_stamped("unlock_token", "{blob}", check="LENGTH(unlock_token) > 0"),
        Column("authenticate", "{text}"),
        # The default keeps older MariaDB from giving the column its own one,
        # which follows updates; statements always name the value.
        Column("authenticate_at", "TIMESTAMP", default=_NOW),
        *_stamped("token_update"),
        *_stamped("bootstrap_token", "TEXT", check="bootstrap_token_b64 <> ''"),
        *_TIMES,
    ),
    key=("id",),
    indexes=(Index("serial_number", ("serial_number",)),),
)
