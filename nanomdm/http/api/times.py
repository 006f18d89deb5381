"""
Times, as the API takes and gives them.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from nanomdm.crypto.pushcert import utc_text
from nanomdm.errors import ConfigError, MessageError
from nanomdm.values import duration

_TIME: Final = re.compile(
    # A plus sign that was not escaped in a query arrives as a blank.
    r"(\d{4}-\d\d-\d\d)(?:[Tt](\d\d:\d\d:\d\d)(\.\d{1,18})?(?:([Zz])|([+ -])(\d\d:\d\d)))?",
    re.ASCII,
)

#: Seconds: nothing in a database is from a time further ahead than this.
_AHEAD: Final = 86400.0


def time_text(seconds: float) -> str:
    """
    @param seconds: Unix time.
    @return: such as C{2026-11-20T10:00:00Z} (RFC 3339).
    """
    return utc_text(datetime.fromtimestamp(seconds, UTC))


def seconds_ago(text: str, now: datetime) -> float:
    """
    Read a time in the past: as RFC 3339 has it, a date, which is its midnight in UTC,
    or a duration such as C{30d}.

    @param now: the time, with its zone.
    @return: seconds, so few that every database can subtract them from its own time;
        negative for a time to come.
    @raise MessageError: it is something else.
    """
    try:
        seconds = duration(text)
    except ConfigError:
        seconds = (now - _moment(text)).total_seconds()
    return min(max(seconds, -_AHEAD), now.timestamp())


def _moment(text: str) -> datetime:
    match = _TIME.fullmatch(text)
    if match is None:
        raise MessageError(
            f"{text[:64]!r} is no time such as 2026-11-20T10:00:00Z, no date such as"
            " 2026-11-20, and not how long ago, such as 30d, 12h or 90m"
        )
    date, clock, fraction, zulu, sign, offset = match.groups("")
    zone = "+00:00" if zulu or not clock else ("-" if sign == "-" else "+") + offset
    try:
        return datetime.fromisoformat(f"{date}T{clock or '00:00:00'}{fraction[:7]}{zone}")
    except ValueError as error:
        raise MessageError(f"there is no time {text!r}: {error}") from None
