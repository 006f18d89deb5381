"""
What a check finds.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final, TypeAlias

from attrs import frozen

#: Days before its end from which on a certificate is to be renewed.
WARNING_DAYS: Final = 30

#: Seconds to connect to somebody, and without a word.
TIMEOUT: Final = 10.0


class Outcome(Enum):
    """
    How something is.
    """

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@frozen
class Finding:
    """
    One thing that was looked at.

    @ivar check: what it was.
    @ivar outcome: how it is.
    @ivar text: what there is to say.
    @ivar advice: what to do, if anything.
    """

    check: str
    outcome: Outcome
    text: str
    advice: str = ""


Findings: TypeAlias = Iterator[Finding]


def ok(check: str, text: str) -> Finding:
    """
    @return: all is well.
    """
    return Finding(check, Outcome.OK, text)


def warn(check: str, text: str, advice: str) -> Finding:
    """
    @return: it works, but not for good, or not well.
    """
    return Finding(check, Outcome.WARN, text, advice)


def fail(check: str, text: str, advice: str) -> Finding:
    """
    @return: it does not work.
    """
    return Finding(check, Outcome.FAIL, text, advice)


def validity(check: str, what: str, start: datetime | None, end: datetime, advice: str) -> Finding:
    """
    @param what: of which certificate it is.
    @param start: the begin of its validity, L{None} if that was long ago; as C{end}
        with a zone.
    @param advice: what to do when it ends.
    @return: how it is with the time in which a certificate is valid.
    """
    now = datetime.now(UTC)
    if now > end:
        return fail(check, f"{what} expired on {end:%Y-%m-%d}", advice)
    if start is not None and now < start:
        text = f"{what} is not valid before {start:%Y-%m-%d %H:%M} UTC"
        return fail(check, text, "Is the clock of this machine right?")
    if end - now < timedelta(days=WARNING_DAYS):
        return warn(check, f"{what} expires on {end:%Y-%m-%d}", advice)
    return ok(check, f"{what} is valid until {end:%Y-%m-%d}")
