"""
C{twistd} of the interpreter that runs this, wherever its script lies; with
C{BENCH_WATCH} in the environment it prints each second for how long the reactor was
stopped at most.
"""

import os
import sys

from twisted.internet import reactor
from twisted.internet.task import LoopingCall
from twisted.scripts.twistd import run

#: Seconds between two looks at the clock, and between two lines.
INTERVAL = 0.005
REPORT = 1.0

STDOUT = sys.stdout


class Watch:
    """
    Notices when it is called too late.
    """

    def __init__(self) -> None:
        self._last = reactor.seconds()
        self._longest = 0.0

    def look(self) -> None:
        """
        Note how late it is.
        """
        now = reactor.seconds()
        self._longest = max(self._longest, now - self._last - INTERVAL)
        self._last = now

    def report(self) -> None:
        """
        Print the longest stop since the last report.
        """
        # twistd has made sys.stdout a part of its log.
        print(f"reactor stopped for {self._longest * 1000:.1f} ms", file=STDOUT, flush=True)
        self._longest = 0.0


def watch() -> None:
    """
    Begin.
    """
    one = Watch()
    LoopingCall(one.look).start(INTERVAL)
    LoopingCall(one.report).start(REPORT, now=False)


if "BENCH_WATCH" in os.environ:
    # Once the daemon has settled.
    reactor.callLater(REPORT, watch)
run()
