"""
Many rows at once, made inside the database.
"""

from __future__ import annotations

from typing import Any

_NUMBERS = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"


def fill_queue(
    connection: Any,
    kind: str,
    devices: int,
    answered: int,
    outstanding: int,
    retired: bool = True,
    pushes: int = 1,
    events: int = 1,
) -> None:
    """
    Enrollments C{Q1}, C{Q2}, … with answered commands each, and outstanding ones
    for C{Q1}.

    @param kind: as in C{--storage}.
    @param retired: answered rows are inactive, as this server leaves them; NanoMDM
        leaves them active.
    @param pushes: rows that are due to be pushed again, of nobody who is enrolled.
    @param events: events of C{W0} to C{W99}, and so many streams C{W0}, C{W1}, ….
    """
    cursor = connection.cursor()
    if kind == "mysql":
        for limit in ("cte_max_recursion_depth", "max_recursive_iterations"):
            try:
                cursor.execute(f"SET SESSION {limit} = 10000000")
            except Exception:
                continue  # MySQL and MariaDB know one each

    def insert(table: str, columns: str, count: int, values: str, more: str = "") -> None:
        numbers = _NUMBERS.format(count=count)
        select = f"SELECT {values} FROM n{more}"
        head = f"INSERT INTO {table} ({columns})"
        # Where the numbers stand differs.
        first, second = (head, numbers) if kind == "mysql" else (numbers, head)
        cursor.execute(f"{first} {second} {select}")

    def name(prefix: str, number: str = "i") -> str:
        text = f"CAST({number} AS CHAR(10))" if kind == "mysql" else f"CAST({number} AS TEXT)"
        return f"CONCAT('{prefix}', {text})" if kind == "mysql" else f"'{prefix}' || {text}"

    now = "CURRENT_TIMESTAMP"
    device = name("Q")
    insert("nanomdm_pushes", "id, pushed, step, due", pushes, f"{name('P')}, 0, i % 5, i")
    event = f"'e', 't', {name('W', 'i % 100')}, '{{}}', '<?xml', i"
    insert(
        "nanomdm_webhook_events",
        "event_id, topic, enrollment_id, head, raw, created",
        events,
        event,
    )
    insert("nanomdm_webhook_streams", "enrollment_id, due", events, f"{name('W', 'i - 1')}, i")
    insert("devices", "id, authenticate, authenticate_at", devices, f"{device}, '<?xml', {now}")
    insert(
        "enrollments",
        "id, device_id, type, topic, push_magic, token_hex, last_seen_at",
        devices,
        f"{device}, {device}, 'Device', 't', 'm', 'ab', {now}",
    )
    command = "command_uuid, request_type, command"
    insert("commands", command, answered, f"{name('A')}, 'R', '<?xml answered'")
    insert("commands", command, outstanding, f"{name('O')}, 'R', '<?xml outstanding'")
    pair = ", commands AS c WHERE c.command = '<?xml answered'"
    active = "FALSE" if retired else "TRUE"
    insert(
        "enrollment_queue",
        "id, command_uuid, active",
        devices,
        f"{device}, c.command_uuid, {active}",
        pair,
    )
    insert(
        "command_results",
        "id, command_uuid, status, result",
        devices,
        f"{device}, c.command_uuid, 'Acknowledged', '<?xml'",
        pair,
    )
    insert(
        "enrollment_queue",
        "id, command_uuid, nanomdm_seq",
        outstanding,
        f"'Q1', {name('O')}, i",
    )
    connection.commit()
    if kind == "mysql":
        tables = "enrollment_queue, command_results, commands, enrollments, nanomdm_pushes"
        ours = "nanomdm_webhook_events, nanomdm_webhook_streams"
        cursor.execute(f"ANALYZE TABLE {tables}, {ours}")
        cursor.fetchall()
    else:
        cursor.execute("ANALYZE")
    connection.commit()
