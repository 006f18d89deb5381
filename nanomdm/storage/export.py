"""
Everything of a database as a file of JSON lines.

The first line says what it is, then there is a line for each row, table after
table in the order of L{TABLES<nanomdm.storage.copying.TABLES>}, and the last one
has the number of rows and the SHA-256 of the lines of each table.  Bytes are
C{{"base64": …}}, times ISO 8601 in UTC.  The file is the same for all engines.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import IO, Any, Final

from attrs import define, field, frozen

from nanomdm import __version__
from nanomdm.errors import StorageError
from nanomdm.storage.copying import TABLES, Side, all_pages, datetime_of, is_time
from nanomdm.storage.schema.tables import Column, Table

_FORMAT: Final = "nanomdm export"

#: What changes when the lines mean something else.
VERSION: Final = 1

#: Bytes of a line, at most: several times the largest row.
_LONGEST: Final = 1 << 28

_BY_NAME: Final[Mapping[str, Table]] = {table.name: table for table in TABLES}
_ORDER: Final = {table.name: number for number, table in enumerate(TABLES)}
_INTEGERS: Final = frozenset({"INTEGER", "BIGINT", "SMALLINT", "{tiny}"})


class Damaged(StorageError):
    """
    A file is not as it was exported.

    @param line: the number of the line where that was seen, from 1.
    """

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(f"line {line}: {problem}")


@define
class Total:
    """
    The rows of a table.

    @ivar rows: how many.
    """

    rows: int = 0
    _hash: Any = field(factory=hashlib.sha256, repr=False)

    def add(self, line: bytes) -> None:
        """
        Count a line.
        """
        self.rows += 1
        self._hash.update(line)

    @property
    def summary(self) -> dict[str, int | str]:
        """
        What the last line has of it.
        """
        return {"rows": self.rows, "sha256": self._hash.hexdigest()}


def export(
    source: Side,
    write: Callable[[bytes], object],
    now: datetime,
    progress: Callable[[str, int], object],
) -> dict[str, int]:
    """
    Write everything.

    @param source: sees one moment.
    @param write: takes lines.
    @param now: the present time, with a zone.
    @param progress: told the table and its rows so far, from time to time.
    @return: the number of rows of each table.
    @raise StorageError: not all could be read.
    """
    header = {"format": _FORMAT, "version": VERSION, "server": __version__}
    write(_line({**header, "storage": source.kind, "time": _iso(now.astimezone(UTC))}))
    totals = {table.name: Total() for table in TABLES}
    for table in TABLES:
        total = totals[table.name]
        for page in all_pages(source, table):
            for row in page:
                line = row_line(table, row)
                total.add(line)
                write(line)
            progress(table.name, total.rows)
    write(_line({"end": {name: total.summary for name, total in totals.items()}}))
    return {name: total.rows for name, total in totals.items()}


def row_line(table: Table, row: Iterable[Any]) -> bytes:
    """
    @param row: values of all columns, in their order, as a driver has them.
    """
    pairs = zip(table.columns, row, strict=True)
    return _line(
        {
            "table": table.name,
            "row": {column.name: _encoded(column, value) for column, value in pairs},
        }
    )


@frozen
class Row:
    """
    A row of a file.

    @ivar values: of all columns, in their order.
    @ivar size: bytes of its line.
    """

    table: Table
    values: list[Any] = field(repr=False)
    size: int


def read(file: IO[bytes]) -> Iterator[Row]:
    """
    Read a file.

    @param file: at its beginning.
    @return: the rows.  Only when there are no more, the file was seen to be whole.
    @raise Damaged: it is not what L{export} wrote.
    """
    numbered = _numbered(file)
    number, line = next(numbered, (1, b""))
    _check_header(number, _parsed(number, line))
    totals: dict[str, Total] = {}
    last = ""
    for number, line in numbered:
        members = _parsed(number, line)
        if "end" in members:
            _check_totals(number, members["end"], totals)
            for number, _ in numbered:
                raise Damaged(number, "there is more behind the end")
            return
        table = _table(number, members)
        if last and _ORDER[table.name] < _ORDER[last]:
            raise Damaged(number, f"a row of {table.name} among those of {last}")
        last = table.name
        totals.setdefault(table.name, Total()).add(line)
        yield Row(table, _values(number, table, members), len(line))
    raise Damaged(number, "the file ends here, too early")


def _numbered(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        for number, line in enumerate(iter(lambda: file.readline(_LONGEST), b""), 1):
            if len(line) == _LONGEST:
                raise Damaged(number, f"has more than {_LONGEST} bytes")
            yield number, line
    except (EOFError, OSError, zlib.error) as error:
        # Of a compressed file.
        raise Damaged(number + 1, f"can not be read: {error}") from None


def _parsed(number: int, line: bytes) -> dict[str, Any]:
    if not line.endswith(b"\n"):
        raise Damaged(number, "the file ends here, too early")
    try:
        members = json.loads(line.decode())
    except (ValueError, RecursionError):
        raise Damaged(number, "is not JSON") from None
    if not isinstance(members, dict):
        raise Damaged(number, "is not an object")
    return members


def _check_header(number: int, members: Mapping[str, Any]) -> None:
    if members.get("format") != _FORMAT:
        raise Damaged(number, "this is no export of nanomdm")
    version = members.get("version")
    if version != VERSION:
        raise Damaged(number, f"format version {version!r}; this program reads {VERSION}")


def _check_totals(number: int, given: Any, totals: Mapping[str, Total]) -> None:
    if not isinstance(given, dict):
        raise Damaged(number, "does not say what is in the file")
    line = 2
    for table in TABLES:
        total = totals.get(table.name, Total())
        expected = given.get(table.name, Total().summary)
        if expected != total.summary:
            lines = f" (lines {line} to {line + total.rows - 1})" if total.rows else ""
            raise Damaged(number, f"the rows of {table.name}{lines} are not those exported")
        line += total.rows


def _table(number: int, members: Mapping[str, Any]) -> Table:
    table = _BY_NAME.get(str(members.get("table")))
    if table is None or members.keys() != {"table", "row"}:
        raise Damaged(number, "is no row of a known table")
    return table


def _values(number: int, table: Table, members: Mapping[str, Any]) -> list[Any]:
    row = members["row"]
    if not isinstance(row, dict) or row.keys() != {column.name for column in table.columns}:
        raise Damaged(number, f"the columns are not those of {table.name}")
    values = []
    for column in table.columns:
        try:
            values.append(_decoded(column, row[column.name]))
        except (ValueError, TypeError, KeyError, OverflowError):
            raise Damaged(number, f"{column.name} is no value for its column") from None
    return values


def _encoded(column: Column, value: Any) -> Any:
    if value is None:
        return None
    if is_time(column):
        return _iso(datetime_of(value))
    if column.type == "BOOLEAN":
        return bool(value)
    if column.type == "{blob}":
        return {"base64": base64.b64encode(value).decode()}
    return value


def _decoded(column: Column, value: Any) -> Any:
    """
    @raise ValueError: or another error that is about values: it does not fit the column.
    """
    if value is None:
        if not column.null:
            raise ValueError
        return None
    if column.type == "BOOLEAN":
        return _of(bool, value)
    if column.type in _INTEGERS:
        return _of(int, value)
    if column.type == "{blob}":
        return base64.b64decode(value["base64"], validate=True)
    # JSON can hold halves of characters, which no database takes.
    _of(str, value).encode()
    if is_time(column):
        time = datetime.fromisoformat(value)
        if time.utcoffset() is None:
            raise ValueError
        return time.astimezone(UTC).replace(tzinfo=None)
    return value


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError
    return value


def _iso(time: datetime) -> str:
    return time.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
