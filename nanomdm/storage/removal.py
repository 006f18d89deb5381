"""
Enrollments that operators end.
"""

from __future__ import annotations

from collections.abc import Sequence

from nanomdm.errors import Unknown
from nanomdm.storage.transaction import Transaction


def disable(transaction: Transaction, calls: Sequence[str]) -> list[Unknown | None]:
    raise NotImplementedError


def purge(transaction: Transaction, calls: Sequence[str]) -> list[list[str] | Unknown]:
    raise NotImplementedError
