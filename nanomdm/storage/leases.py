"""
What one server at a time does, of those that share a database: the table
nanomdm_leases.

Whoever has a lease keeps it by taking it again before it ends; when a server is
gone, another one gets it once it has ended.  Times are the database's.
"""

from __future__ import annotations

from typing import Final

from nanomdm.storage.transaction import Transaction

_LEASE: Final = "SELECT holder, expires > {now} FROM nanomdm_leases WHERE name = ?"
_TAKE: Final = "UPDATE nanomdm_leases SET holder = ?, expires = {now} + ? WHERE name = ?"


def take_lease(transaction: Transaction, name: str, holder: str, seconds: int) -> bool:
    """
    Take a lease that is free, or keep it.  Until the end of the transaction nobody
    else can take it, either way.

    @param holder: a name for this server, unique to the process.
    @param seconds: until it ends.
    @return: whether the holder has it.
    """
    transaction.insert_missing(
        "nanomdm_leases", ("name",), ("holder", "expires"), [(name, holder, 0)], lock=True
    )
    now = transaction.dialect.unix_now
    present, valid = transaction.row(_LEASE.format(now=now), (name,))
    if valid and present != holder:
        return False
    transaction.execute(_TAKE.format(now=now), (holder, seconds, name))
    return True
