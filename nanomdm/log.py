"""
The log: one line for each event, as logfmt or as JSON.

Code logs with L{twisted.logger.Logger}: the format is the message, and keyword
arguments that are text, numbers or booleans follow it as fields, in the order
given::

    log.info("request", trace_id=trace_id, status=200)

Fields must not be called C{ts}, C{level} or C{msg}, or as the plumbing of
Twisted's own events (C{message}, C{time}, C{system}, C{format}, C{failure},
C{why}, C{isError}, C{logLevel} and whatever begins with C{log_}): these are left out.

Nothing that an event holds can begin a second line or a second field: what is
not printable is escaped, and so are quotes.
"""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from json.encoder import encode_basestring, encode_basestring_ascii
from math import isfinite
from types import FrameType
from typing import Any, Final, TypeAlias

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile
from zope.interface import implementer

from nanomdm.output import standard_output

Fields: TypeAlias = dict[str, str | int | float | bool]

_HEAD: Final = {"ts", "level", "msg"}
_LEGACY: Final = {"message", "time", "system", "isError", "why", "failure", "format", "logLevel"}
_PLUMBING: Final = frozenset(_HEAD | _LEGACY)
# What a logfmt value may hold without quotes: visible ASCII but for '"', '=', '\'.
_bare: Final = re.compile(r"[!#-<>-\[\]-~]+").fullmatch
_encode_json: Final = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def printable(text: str) -> str:
    r"""
    C{text} on one line: line breaks, control and formatting characters and
    surrogates are written as C{\uXXXX}.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else encode_basestring_ascii(c)[1:-1] for c in text)


def logfmt(fields: Fields) -> str:
    """
    Fields as C{key=value}, separated by spaces; values that need it are quoted
    as JSON strings are, the message always.
    """
    return " ".join([f"{key}={_value(key, value)}" for key, value in fields.items()])


def _value(key: str, value: str | float) -> str:
    if isinstance(value, str):
        if key != "msg" and _bare(value):
            return str.__str__(value)  # of an enumeration, the value and not the name
        return printable(encode_basestring(value))
    if value is True:
        return "true"
    return "false" if value is False else str(value)


def jsonl(fields: Fields) -> str:
    """
    Fields as one JSON object, in ASCII.
    """
    return _encode_json(fields)


#: The renderers by their names in C{--log-format}.
RENDERERS: Final[dict[str, Callable[[Fields], str]]] = {"logfmt": logfmt, "json": jsonl}


def fields(event: LogEvent) -> Fields:
    """
    What is printed of an event: C{ts} (UTC, microseconds), C{level}, C{msg}, the
    event's own fields, and C{error} and C{traceback} when it has a failure.
    """
    level = event.get("log_level")
    found: Fields = {
        "ts": _timestamp(event.get("log_time")),
        "level": level.name if level is not None else "info",
        "msg": _message(event),
    }
    for key, value in event.items():
        if key in _PLUMBING or key.startswith("log_") or not key.isidentifier():
            continue
        if isinstance(value, float) and not isfinite(value):
            found[key] = str(value)  # JSON has no such number
        elif isinstance(value, (str, int, float)):
            found[key] = value
    failure = _failure(event)
    if failure is not None:
        found.setdefault("error", _error(failure))
        found.setdefault("traceback", failure.getTraceback())
    return found


def _timestamp(seconds: float | None) -> str:
    moment = datetime.fromtimestamp(time.time() if seconds is None else seconds, UTC)
    return moment.isoformat(timespec="microseconds")[:26] + "Z"


def _failure(event: LogEvent) -> Failure | None:
    failure = event.get("log_failure") or event.get("failure")
    return failure if isinstance(failure, Failure) else None


def _error(failure: Failure) -> str:
    name = "Failure" if failure.type is None else failure.type.__name__
    return f"{name}: {failure.getErrorMessage()}"


def _message(event: LogEvent) -> str:
    text = event.get("log_format")
    if isinstance(text, str) and "{" not in text:
        return text
    if text == "{log_text}" and _failure(event) is not None:
        # A legacy event's text holds the traceback, which is a field here.
        return str(event.get("why") or "Unhandled Error")
    return formatEvent(event)


@implementer(ILogObserver)
class LineObserver:
    """
    Writes one line for each event.  It never raises: an event that can not be
    rendered becomes a line that says so, and when nobody reads the output any
    more, or the disk is full, lines are lost and the server goes on.

    @param write: takes one whole line, UTF-8 with its line feed.
    @param render: one of L{RENDERERS}.
    @param debug: whether debug events are written.
    """

    def __init__(
        self,
        write: Callable[[bytes], object],
        render: Callable[[Fields], str],
        debug: bool,
    ) -> None:
        self._write = write
        self._render = render
        self._debug = debug

    def __call__(self, event: LogEvent) -> None:
        """
        Write the event.
        """
        if not self._debug and event.get("log_level") is LogLevel.debug:
            return
        try:
            line = self._render(fields(event))
        except Exception as error:
            line = self._render(_unrenderable(error))
        with suppress(OSError, ValueError):
            self._write(f"{line}\n".encode())


def _unrenderable(error: Exception) -> Fields:
    return {
        "ts": _timestamp(None),
        "level": "error",
        "msg": "log event can not be rendered",
        "error": type(error).__name__,
    }


class _RotatableFile(LogFile):
    """
    A log file that rotates with its next line once it was asked to, so that the
    signal handler touches no file in the middle of a write.
    """

    requested = False

    def request(self, _signal: int, _frame: FrameType | None) -> None:
        self.requested = True

    def shouldRotate(self) -> bool:
        return self.requested or bool(super().shouldRotate())

    def rotate(self) -> None:
        self.requested = False
        super().rotate()


def _output(twistd: MutableMapping[str, Any]) -> Callable[[bytes], object]:
    """
    Open what twistd's own logger would: C{--logfile}, or standard output with
    C{-n}, or C{twistd.log}.
    """
    name = twistd.get("logfile")
    if name == "-" and not twistd["nodaemon"]:
        sys.exit("Daemons cannot log to stdout, exiting!")
    if name == "-" or (twistd["nodaemon"] and not name):
        return standard_output().write
    file = _RotatableFile.fromFullPath(name or "twistd.log")
    if not signal.getsignal(signal.SIGUSR1):
        signal.signal(signal.SIGUSR1, file.request)
    write: Callable[[bytes], object] = file.write
    return write


def _observer(twistd: MutableMapping[str, Any], log_format: str, debug: bool) -> LineObserver:
    return LineObserver(_output(twistd), RENDERERS[log_format], debug)


# twistd takes its log observer as the name of a factory without arguments: what
# the command line said waits here until twistd starts its log.
_factory: Callable[[], LineObserver] | None = None


def twistd_observer() -> LineObserver:
    """
    The observer that L{install} announced.
    """
    assert _factory is not None, "install() comes first"
    return _factory()


def install(twistd: MutableMapping[str, Any], log_format: str, debug: bool) -> None:
    """
    Make twistd log through a L{LineObserver}, unless its command line names
    another log (C{--logger}, C{--syslog}).  To be called while the command line
    is being parsed.

    @param twistd: twistd's own options.
    @param log_format: a key of L{RENDERERS}.
    @param debug: whether debug events are written.
    """
    global _factory
    if twistd.get("logger") is None and not twistd.get("syslog"):
        _factory = partial(_observer, twistd, log_format, debug)
        twistd["logger"] = f"{__name__}.{twistd_observer.__name__}"
