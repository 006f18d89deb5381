"""
What tests measure: C{make faults | grep '^|'} has all of it.
"""

from __future__ import annotations


def show(*cells: object) -> None:
    """
    Print a row of a table.
    """
    print(f"\n| {' | '.join(map(str, cells))} |")
