"""
Enrollments, as operators look for them.

The ids of a page are found first, through the index that serves the narrowest filter;
what is wide is read for the page alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from attrs import define, field

from nanomdm.errors import MessageError, Unknown
from nanomdm.interfaces import DeadToken, EnrollmentFacts, EnrollmentFilter, Listing, Page
from nanomdm.storage.cursors import key_of, listing_of
from nanomdm.storage.dialect import Dialect
from nanomdm.storage.pushes import STILL_DEAD
from nanomdm.storage.queues import told
from nanomdm.storage.transaction import Transaction

_OUTSTANDING: Final = "q.active = TRUE AND (r.status IS NULL OR r.status = 'NotNow')"
_QUEUE: Final = """
    enrollment_queue AS q {index}
    LEFT JOIN command_results AS r ON r.id = q.id AND r.command_uuid = q.command_uuid
"""
#: The second part reads one index, as no engine can index the end of an id.
_NAMED: Final = """
    (SELECT id FROM users WHERE user_short_name = ?
     UNION SELECT s.id FROM users AS s WHERE s.id = {channel}) AS n
"""
#: Characters or bytes of an C{Authenticate} that is read for a list: a device decides how
#: long its own is.
_LONGEST_MESSAGE: Final = 1 << 16
#: No time that a device was seen is older, and no engine knows all that are.
_LONG_AGO: Final = 60 * 365 * 86400.0


@define
class _Ids:
    """
    A statement for the ids of a page, as it is put together.

    @ivar sources: what it reads, in this order where the engine keeps to it.
    @ivar values: for the placeholders of C{sources} and then of C{conditions}.
    """

    key: str = "e.id"
    sources: list[str] = field(factory=list)
    conditions: list[str] = field(factory=list)
    values: list[Any] = field(factory=list)

    def read(self, source: str, *values: Any) -> None:
        self.sources.append(source)
        self.values += values

    def require(self, condition: str, *values: Any) -> None:
        self.conditions.append(condition)
        self.values += values

    def statement(self, group: str = "") -> str:
        where = f"WHERE {' AND '.join(self.conditions)}" if self.conditions else ""
        sources = " CROSS JOIN ".join(self.sources)
        order = f"ORDER BY {self.key} LIMIT ?"
        return f"SELECT {self.key} AS id FROM {sources} {where} {group} {order}"


def enrollments(
    transaction: Transaction, calls: Sequence[tuple[EnrollmentFilter, Page]]
) -> list[Listing[EnrollmentFacts] | MessageError]:
    """
    @return: for each call its part of the list.
    """
    return [told(_enrollments, transaction, *call) for call in calls]


def enrollment(transaction: Transaction, calls: Sequence[str]) -> list[EnrollmentFacts | Unknown]:
    """
    @return: for each id its enrollment.
    """
    return [told(_enrollment, transaction, enrollment_id) for enrollment_id in calls]


def _enrollments(
    transaction: Transaction, which: EnrollmentFilter, page: Page
) -> Listing[EnrollmentFacts]:
    after = None if page.cursor is None else key_of(page.cursor, str)[0]
    statement, values = enrollments_statement(transaction.dialect, which, after)
    rows = transaction.rows(statement, (*values, page.limit + 1))
    # Taken-over MySQL databases find an id in other letters, too.
    rows = [row for row in rows if which.id in (None, row[0])]
    return listing_of(rows, page.limit, _facts, lambda row: row[:1])


def _enrollment(transaction: Transaction, enrollment_id: str) -> EnrollmentFacts:
    which, page = EnrollmentFilter(id=enrollment_id), Page(1)
    for one in _enrollments(transaction, which, page).items:
        return one
    raise Unknown(f"there is no enrollment {enrollment_id}")


def enrollments_statement(
    dialect: Dialect, which: EnrollmentFilter, after: str | None
) -> tuple[str, list[Any]]:
    """
    @param after: the id that the page begins after.
    @return: SQL for a page of enrollments, and the values for all its placeholders but
        the last, which is how many there may be.
    """
    ids, values = _ids(dialect, which, after)
    index = dialect.use_index("nanomdm_queue_active")
    children = "enrollments AS c WHERE c.device_id = e.id AND c.user_id IS NOT NULL"
    return (
        f"""
    SELECT e.id, e.type, e.device_id, e.topic, e.enabled, e.token_update_tally,
           {dialect.unix_time("e.last_seen_at")},
           CASE WHEN e.user_id IS NULL THEN {dialect.unix_time("v.authenticate_at")}
                ELSE {dialect.unix_time("e.created_at")} END,
           v.serial_number, u.user_short_name, u.user_long_name,
           CASE WHEN e.user_id IS NULL THEN v.identity_cert END,
           CASE WHEN LENGTH(v.authenticate) <= {_LONGEST_MESSAGE} THEN v.authenticate END,
           v.bootstrap_token_b64 IS NOT NULL, v.unlock_token IS NOT NULL, d.status, d.reason,
           (SELECT count(*) FROM {_QUEUE.format(index=index)}
             WHERE q.id = e.id AND {_OUTSTANDING}),
           (SELECT {dialect.json_array("c.id")} FROM {children})
      FROM ({ids}) AS p
     CROSS JOIN enrollments AS e
     CROSS JOIN devices AS v
      LEFT JOIN users AS u ON u.id = e.user_id AND u.device_id = e.device_id
      LEFT JOIN nanomdm_dead_tokens AS d ON {STILL_DEAD}
     WHERE e.id = p.id AND v.id = e.device_id
     ORDER BY p.id
    """,
        values,
    )


def _ids(dialect: Dialect, which: EnrollmentFilter, after: str | None) -> tuple[str, list[Any]]:
    if which.id is not None or which.serial is not None or which.user is not None:
        return _narrow(dialect, which, after)
    if which.pending:
        return _pending(dialect, which, after)
    ids = _Ids()
    ids.read(f"enrollments AS e {'' if _has_index(which) else dialect.scan}")
    if after is not None:
        ids.require("e.id > ?", after)
    _wide(ids, dialect, which)
    return ids.statement(), ids.values


def _has_index(which: EnrollmentFilter) -> bool:
    """
    Whether one index has those that are meant by their ids.
    """
    seen = (which.seen_before, which.seen_after)
    indexed = [one for one in (which.type, which.enabled, which.topic) if one is not None]
    return seen == (None, None) and len(indexed) <= 1


def _narrow(dialect: Dialect, which: EnrollmentFilter, after: str | None) -> tuple[str, list[Any]]:
    """
    What few enrollments have.
    """
    ids = _Ids()
    if which.user is not None:
        channel = dialect.concatenated("s.device_id", "':'", "?")
        ids.read(_NAMED.format(channel=channel), which.user, which.user)
        ids.require("e.user_id = n.id")
    if which.serial is not None:
        ids.read("devices AS v")
        ids.require("v.serial_number = ? AND e.device_id = v.id", which.serial)
    ids.read("enrollments AS e")
    if which.id is not None:
        ids.require("e.id = ?", which.id)
    if after is not None:
        ids.require("e.id > ?", after)
    if which.pending:
        queue = _QUEUE.format(index=dialect.use_index("nanomdm_queue_active"))
        some = f"SELECT 1 FROM {queue} WHERE q.id = e.id AND {_OUTSTANDING} LIMIT 1"
        ids.require(f"({some}) IS NOT NULL")
    _wide(ids, dialect, which)
    return ids.statement(), ids.values


def _pending(dialect: Dialect, which: EnrollmentFilter, after: str | None) -> tuple[str, list[Any]]:
    """
    What those have that are in the queue.
    """
    ids = _Ids(key="q.id")
    # Each row's enrollment before its answer, since the engine may keep to the order.
    ids.read(_QUEUE.format(index=dialect.use_index("nanomdm_queue_active")))
    ids.require(_OUTSTANDING)
    if after is not None:
        ids.require("q.id > ?", after)
    ids.read("enrollments AS e")
    ids.require("e.id = q.id")
    _wide(ids, dialect, which)
    return ids.statement("GROUP BY q.id"), ids.values


def _wide(ids: _Ids, dialect: Dialect, which: EnrollmentFilter) -> None:
    """
    Require what many enrollments may have.
    """
    if which.type is not None:
        ids.require("e.type = ?", which.type)
    if which.enabled is not None:
        ids.require(f"e.enabled = {'TRUE' if which.enabled else 'FALSE'}")
    if which.topic is not None:
        ids.require("e.topic = ?", which.topic)
    for comparison, seconds in (("<", which.seen_before), (">=", which.seen_after)):
        if seconds is not None:
            ids.require(f"e.last_seen_at {comparison} {dialect.time_ago}", _bounded(seconds))


def _bounded(seconds: float) -> float:
    return float(max(-_LONG_AGO, min(_LONG_AGO, seconds)))


def _facts(row: Sequence[Any]) -> EnrollmentFacts:
    id, type, device_id, topic, enabled, tally, seen, enrolled, serial, short_name, *more = row
    long_name, pem, authenticate, bootstrap, unlock, status, reason, length, children = more
    return EnrollmentFacts(
        id=id,
        type=type,
        device_id=device_id,
        children=sorted(json.loads(children or "[]")),
        serial_number=serial,
        user_short_name=short_name,
        user_long_name=long_name,
        topic=topic,
        enabled=bool(enabled),
        token_update_tally=tally,
        last_seen_at=float(seen),
        enrolled_at=float(enrolled),
        identity_pem=pem,
        authenticate=authenticate,
        bootstrap_token=bool(bootstrap),
        unlock_token=bool(unlock),
        dead=None if status is None else DeadToken(status, reason),
        queue_length=length,
    )
