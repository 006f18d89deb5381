"""
What waits in an enrollment's queue, and changes to it.
"""

from __future__ import annotations

from collections.abc import Sequence

from nanomdm.errors import AlreadyAnswered, MessageError, Unknown
from nanomdm.interfaces import Listing, OutstandingCommand, Page
from nanomdm.storage.transaction import Transaction


def outstanding(
    transaction: Transaction, calls: Sequence[tuple[str, Page]]
) -> list[Listing[OutstandingCommand] | Unknown | MessageError]:
    raise NotImplementedError


def cancel(
    transaction: Transaction, calls: Sequence[tuple[str, str]]
) -> list[Unknown | AlreadyAnswered | None]:
    raise NotImplementedError


def clear(transaction: Transaction, calls: Sequence[str]) -> list[int | Unknown]:
    raise NotImplementedError


def set_priority(
    transaction: Transaction, calls: Sequence[tuple[str, str, int]]
) -> list[Unknown | AlreadyAnswered | None]:
    raise NotImplementedError
