"""
How the demonstration looks on a terminal.
"""

from __future__ import annotations

import os
import plistlib
from typing import Any, Final, TextIO

from twisted.web.http import OK

from nanomdm.sim.answers import parse_command
from nanomdm.sim.client import Exchange

_BOLD: Final = "1"
_GREEN: Final = "32"
_RED: Final = "31"

_DETAIL_COLUMN: Final = 34

_ANSWER_KEYS: Final = (
    "QueryResponses",
    "InstalledApplicationList",
    "ProfileList",
    "CertificateList",
    "SecurityInfo",
)


class Terminal:
    """
    Writes aligned lines, in colour only to a terminal and unless C{NO_COLOR}
    is set.

    @param stream: where to write.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._colour = stream.isatty() and not os.environ.get("NO_COLOR")

    def text(self, text: str = "") -> None:
        """
        Write a line as it is.
        """
        print(text, file=self._stream, flush=True)

    def step(self, who: str, what: str, detail: str, status: int | None = None) -> None:
        """
        Write who did what, and what came of it.

        @param detail: what came of it; further lines are aligned with its
            first.
        @param status: the HTTP status.
        """
        who = self._paint(_BOLD, f"{who:<7}")
        number = "    " if status is None else self._paint(_colour(status), f"{status:<4}")
        detail = detail.replace("\n", "\n" + " " * _DETAIL_COLUMN)
        self.text(f"  {who} {what:<18} {number} {detail}")

    def exchange(self, exchange: Exchange) -> None:
        """
        Write what the Mac sent and what the server answered.
        """
        what, detail = describe(exchange)
        self.step("Mac", what, detail, exchange.status)

    def failure(self, text: str) -> None:
        """
        Write why the demonstration failed.
        """
        self.text(f"{self._paint(_RED, 'failed:')} {text}")

    def _paint(self, colour: str, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colour else text


def _colour(status: int) -> str:
    return _GREEN if status == OK else _RED


def describe(exchange: Exchange) -> tuple[str, str]:
    """
    An exchange in words.

    @return: the message type or status sent, and what came of it, in one line
        or two.
    """
    message = plistlib.loads(exchange.sent)
    if "MessageType" in message:
        return message["MessageType"], _check_in(message)
    told = [] if message["Status"] == "Idle" else [_report(message)]
    return message["Status"], "\n".join([*told, _received(exchange)])


def _check_in(message: dict[str, Any]) -> str:
    if message["MessageType"] == "Authenticate":
        name = f"{message['ModelName']}, macOS {message['OSVersion']}"
        return f"{name}, serial number {message['SerialNumber']}"
    return f"UDID {message['UDID']}"


def _received(exchange: Exchange) -> str:
    if exchange.status != OK:
        return exchange.received[:200].decode("utf-8", "replace").strip()
    if not exchange.received:
        return "nothing more queued"
    command = parse_command(exchange.received)
    return f"fetches {command.request_type} {command.uuid}"


def _report(message: dict[str, Any]) -> str:
    told = [_summary(key, message[key]) for key in _ANSWER_KEYS if key in message]
    told += [link["USEnglishDescription"] for link in message.get("ErrorChain", ())]
    return ": ".join([message["RequestType"], *told])


def _summary(key: str, value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} entries"
    if key == "QueryResponses":
        return ", ".join(f"{name} {answer}" for name, answer in value.items())
    return f"{len(value)} values"
