"""
Commands, whom they were sent to, and what was answered.
"""

from __future__ import annotations

from collections.abc import Sequence

from nanomdm.errors import MessageError, Unknown
from nanomdm.interfaces import (
    CommandAnswer,
    CommandTarget,
    Listing,
    Page,
    ResultFilter,
    StoredCommand,
)
from nanomdm.storage.transaction import Transaction


def command(transaction: Transaction, calls: Sequence[str]) -> list[StoredCommand | Unknown]:
    raise NotImplementedError


def targets(
    transaction: Transaction, calls: Sequence[tuple[str, Page]]
) -> list[Listing[CommandTarget] | MessageError]:
    raise NotImplementedError


def answers(
    transaction: Transaction, calls: Sequence[tuple[str, ResultFilter, Page]]
) -> list[Listing[CommandAnswer] | Unknown | MessageError]:
    raise NotImplementedError


def answer(
    transaction: Transaction, calls: Sequence[tuple[str, str]]
) -> list[CommandAnswer | Unknown]:
    raise NotImplementedError
