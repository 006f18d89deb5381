"""
How far it is, for people.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """
    Show on standard error how far it is, if that is a terminal.

    @return: says how many more are done.
    """
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    # What is printed on standard output meanwhile belongs there.
    bar = Progress(*columns, console=Console(stderr=True), redirect_stdout=False)
    with bar:
        task = bar.add_task(label, total=total)
        yield lambda count: bar.advance(task, count)
