"""
What operators' lists cost among very many enrollments: each filter where much matches,
and where only the last enrollment does, or none.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from bench.databases import DATABASES, Database
from bench.devices import TOPIC
from nanomdm.interfaces import EnrollmentFilter, Page, ResultFilter
from nanomdm.storage import listing, queues, results, schema
from nanomdm.storage.transaction import Transaction

DEVICES: Final = 80_000
USERS: Final = 20_000
#: Answered commands of everybody, and of those few that have many.
ANSWERED: Final = 3
MANY: Final = 1_000
BUSY: Final = 200
#: Enrollments that have an outstanding command.
PENDING: Final = 50
PAGE: Final = Page(100)
ROUNDS: Final = 100

_XML: Final = "<?xml" + "x" * 1500
_PEM: Final = "-----BEGIN CERTIFICATE-----\n" + "M" * 1100
_LATELY, _LATER = "2026-01-01 00:00:00", "2037-01-01 00:00:00"
_COMMAND: Final = "outstanding"


def measure(kind: str) -> dict[str, dict[str, float]]:
    """
    Measure and print every list.
    """
    with tempfile.TemporaryDirectory() as name, DATABASES[kind](Path(name)) as database:
        engine = database.storage_engine()
        with closing(engine.connect_for_schema()) as connection:
            schema.migrate(connection, database.kind)
        last, busy = fill(database)
        measured = {}
        with closing(engine.connect(autocommit=True)) as connection:
            transaction = Transaction(connection.cursor(), engine.dialect)
            for what, (look, count) in _looks(transaction, last, busy).items():
                one = measured[what] = _milliseconds(look, count)
                print(f"{kind:12}{what:40}{one['p50_ms']:8.1f}{one['p99_ms']:8.1f}", flush=True)
    return measured


def _looks(
    transaction: Transaction, last: str, busy: str
) -> dict[str, tuple[Callable[[], list[Any]], int]]:
    """
    @param last: the enrollment that sorts last, a user's.
    @param busy: an enrollment with many answers.
    @return: each with how many it must find.
    """
    device, _, user = last.partition(":")

    def enrollments(count: int, **which: Any) -> tuple[Callable[[], list[Any]], int]:
        call = (EnrollmentFilter(**which), PAGE)
        return lambda: listing.enrollments(transaction, [call]), count

    def answers(count: int, **which: Any) -> tuple[Callable[[], list[Any]], int]:
        call = (busy, ResultFilter(**which), PAGE)
        return lambda: results.answers(transaction, [call]), count

    everything: dict[str, Any] = {"type": "Device", "enabled": True, "topic": TOPIC}
    return {
        "enrollments": enrollments(100),
        "by id": enrollments(1, id=last),
        "by serial": enrollments(2, serial=f"S{device}"),
        "by serial, none": enrollments(0, serial="none"),
        "by type, many": enrollments(100, type="Device"),
        "by type, the last": enrollments(1, type="User Enrollment"),
        "by type, none": enrollments(0, type="none"),
        "enabled": enrollments(100, enabled=True),
        "not enabled, the last": enrollments(1, enabled=False),
        "by topic, many": enrollments(100, topic=TOPIC),
        "by topic, the last": enrollments(1, topic="other"),
        "by topic, none": enrollments(0, topic="none"),
        "by user's name, the last": enrollments(1, user=f"N{user}"),
        "by user's id, the last": enrollments(1, user=user),
        "by user, none": enrollments(0, user="none"),
        "seen before, many": enrollments(100, seen_before=60.0),
        "seen before, none": enrollments(0, seen_before=1e9),
        "seen after, the last": enrollments(1, seen_after=60.0),
        "pending, few": enrollments(PENDING, pending=True),
        "pending, the last": enrollments(1, pending=True, enabled=False),
        "pending, none": enrollments(0, pending=True, topic="none"),
        "type, enabled, topic, many": enrollments(100, **everything),
        "type, enabled, topic, none": enrollments(0, **everything | {"enabled": False}),
        "queue": (lambda: queues.outstanding(transaction, [(last, PAGE)]), 1),
        "targets": (lambda: results.targets(transaction, [(_COMMAND, PAGE)]), PENDING),
        "results": answers(100),
        "results by status, none": answers(0, status="none"),
        "results by command, none": answers(0, request_type="none"),
        "results since, none": answers(0, since=0.0),
    }


def _milliseconds(look: Callable[[], list[Any]], count: int) -> dict[str, float]:
    spent = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        [found] = look()
        spent.append(1000 * (time.perf_counter() - start))
        if isinstance(found, Exception) or len(found.items) != count:
            raise RuntimeError(f"not {count} were found but {found}")
    cuts = statistics.quantiles(spent, n=100)
    return {"p50_ms": round(cuts[49], 1), "p99_ms": round(cuts[98], 1)}


def fill(database: Database) -> tuple[str, str]:
    """
    @return: the id that sorts last, and one with many answered commands.
    """
    source = random.Random(1)
    devices = sorted(str(uuid.UUID(int=source.getrandbits(128))) for _ in range(DEVICES))
    users = [
        (f"{owner}:{uuid.UUID(int=source.getrandbits(128))}", owner)
        for owner in [*source.sample(devices[:-1], USERS - 1), devices[-1]]
    ]
    last = users[-1][0]
    ids = [(id, id, None, "Device") for id in devices]
    ids += [(id, owner, id, "User") for id, owner in users]
    source.shuffle(ids)
    with closing(database.connect()) as connection:
        filling = _Filling(database.mark, connection.cursor())
        filling.insert(
            "devices",
            "id, serial_number, identity_cert, authenticate, token_update, authenticate_at",
            [(id, f"S{id}", _PEM, _XML, _XML, _LATELY) for id in devices],
        )
        filling.insert(
            "users",
            "id, device_id, user_short_name, token_update",
            [(id, owner, f"N{id.partition(':')[2]}", _XML) for id, owner in users],
        )
        filling.insert(
            "enrollments",
            "id, device_id, user_id, type, token_hex, topic, push_magic, last_seen_at",
            [(*row, f"{n:064x}", TOPIC, str(n), _LATELY) for n, row in enumerate(ids)],
        )
        busy = _queue(filling, source, [row[0] for row in ids if row[0] != last], last)
        connection.commit()
        _analyze(connection, database.kind)
        # The statistics do not know it.
        connection.cursor().execute(
            "UPDATE enrollments SET enabled = FALSE, topic = 'other', type = 'User Enrollment',"
            f" last_seen_at = '{_LATER}' WHERE id = '{last}'"
        )
        connection.commit()
    return last, busy


class _Filling:
    """
    Inserts rows.

    @param mark: the driver's placeholder.
    """

    def __init__(self, mark: str, cursor: Any) -> None:
        self._mark = mark
        self._cursor = cursor

    def insert(self, table: str, columns: str, rows: list[tuple[Any, ...]]) -> None:
        marks = ", ".join([self._mark] * len(rows[0]))
        self._cursor.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", rows)


def _queue(filling: _Filling, source: random.Random, ids: list[str], last: str) -> str:
    commands = [f"C{n:06}" for n in range(MANY)]
    filling.insert(
        "commands",
        "command_uuid, request_type, command",
        [(one, "DeviceInformation", _XML) for one in [*commands, _COMMAND]],
    )
    busy = source.sample(ids, BUSY)
    answered = [(id, one) for id in busy for one in commands]
    answered += [(id, one) for id in set(ids) - {*busy} for one in commands[:ANSWERED]]
    columns = "id, command_uuid, active"
    filling.insert("enrollment_queue", columns, [(*pair, False) for pair in answered])
    filling.insert(
        "command_results",
        "id, command_uuid, status, result",
        [(*pair, "Acknowledged", _XML) for pair in answered],
    )
    pending = [(id, _COMMAND, True) for id in [*source.sample(ids, PENDING - 1), last]]
    filling.insert("enrollment_queue", columns, pending)
    return busy[0]


def _analyze(connection: Any, kind: str) -> None:
    cursor = connection.cursor()
    tables = "devices, users, enrollments, commands, enrollment_queue, command_results"
    if kind == "mysql":
        cursor.execute(f"ANALYZE TABLE {tables}")
        cursor.fetchall()
    elif kind == "pgsql":
        # SQLite has no statistics in a server's database either.
        cursor.execute("ANALYZE")
    connection.commit()
