"""
Lets the fuzzer at all targets, one after the other, each for some seconds of a processor::

    python -m tests.faults.fuzz_all SECONDS [TARGET ...] > docs/fuzzing.md

The page says what came of it; the exit status says whether anything was found.
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Final

from attrs import frozen

from tests.faults.targets import TARGETS

_EXECUTED: Final = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
_COVERED: Final = re.compile(r"cov: (\d+) ft: (\d+)")

_PAGE: Final = """\
# What the fuzzer did last

[`tests/faults/targets.py`](../tests/faults/targets.py) names every parser of what comes from
elsewhere: from devices and operators, from other servers and APNs, from files, and from a database
that somebody else has filled. A fuzzer that is guided by what code it reaches, `atheris`, changes
good inputs and looks for one that makes the parser raise what it must not, that is logged as a
failure, or that takes more than a second of a processor. Most parsers do not only have to end: a
property list, for example, must mean what Python's own `plistlib` says that it means.

This page is the output of `python -m tests.faults.fuzz_all {seconds}` on {date}, with Python
{python}, atheris {atheris}, cryptography {cryptography} and Twisted {twisted}.

| target | executions | features reached | found |
| --- | ---: | ---: | --- |
{rows}
| **all** | **{total:,}** | | **{found}** |
"""


@frozen
class Outcome:
    """
    What came of one target.

    @ivar features: what libFuzzer calls so: pieces of code, and how often each was reached.
    @ivar said: the end of what it printed, if it found something.
    """

    name: str
    executions: int
    features: int
    said: str

    @property
    def row(self) -> str:
        return f"| {self.name} | {self.executions:,} | {self.features:,} | {self.verdict} |"

    @property
    def verdict(self) -> str:
        return "something" if self.said else "nothing"


def fuzz(name: str, seconds: str) -> Outcome:
    """
    Let it at one target.
    """
    command = [sys.executable, "-m", "tests.faults.fuzz", name]
    options = [f"-max_total_time={seconds}", "-print_final_stats=1"]
    # Not the corpus of the last run: so anybody gets about the same.
    with tempfile.TemporaryDirectory() as place:
        environment = {"PATH": "/usr/bin:/bin", "TMPDIR": place}
        done = subprocess.run(
            [*command, *options], env=environment, capture_output=True, text=True, check=False
        )
    executed, covered = _EXECUTED.search(done.stderr), _COVERED.findall(done.stderr)
    return Outcome(
        name,
        int(executed[1]) if executed else 0,
        int(covered[-1][1]) if covered else 0,
        done.stderr[-5000:] if done.returncode or not executed else "",
    )


def page(outcomes: Sequence[Outcome], seconds: str) -> str:
    """
    @return: Markdown.
    """
    found = [one for one in outcomes if one.said]
    return _PAGE.format(
        seconds=seconds,
        date=datetime.now(UTC).date(),
        python=platform.python_version(),
        **{name: version(name) for name in ("atheris", "cryptography", "twisted")},
        rows="\n".join(one.row for one in outcomes),
        total=sum(one.executions for one in outcomes),
        found=len(found) or "nothing",
    )


def main(arguments: Sequence[str]) -> int:
    """
    @return: the exit status.
    """
    if not arguments:
        raise SystemExit("usage: fuzz_all SECONDS [TARGET ...]")
    seconds, *names = arguments
    outcomes = []
    for name in names or TARGETS:
        outcome = fuzz(name, seconds)
        outcomes.append(outcome)
        print(outcome.row, outcome.said, file=sys.stderr, flush=True)
    print(page(outcomes, seconds), end="")
    return int(any(outcome.said for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
