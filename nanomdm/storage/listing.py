"""
Enrollments, as operators look for them.
"""

from __future__ import annotations

from collections.abc import Sequence

from nanomdm.errors import MessageError, Unknown
from nanomdm.interfaces import EnrollmentFacts, EnrollmentFilter, Listing, Page
from nanomdm.storage.transaction import Transaction


def enrollments(
    transaction: Transaction, calls: Sequence[tuple[EnrollmentFilter, Page]]
) -> list[Listing[EnrollmentFacts] | MessageError]:
    raise NotImplementedError


def enrollment(transaction: Transaction, calls: Sequence[str]) -> list[EnrollmentFacts | Unknown]:
    raise NotImplementedError
