"""
How much the site takes from clients, who have proven nothing until their whole
request is there.
"""

from __future__ import annotations

from typing import Final

#: Bytes of request line and headers: certificate chains in headers and long id
#: lists in paths both occur.
MAX_HEADER_SIZE: Final = 1 << 20

#: Lines of request line and headers, with the continuations of folded headers.
MAX_HEADER_LINES: Final = 1000

#: Seconds in which request line and headers must arrive, from their first byte.
HEAD_TIME: Final = 30.0

#: Seconds in which a body must arrive, from the end of the headers, if it comes
#: at L{BODY_RATE} or slower; and for which one that came faster may stop.
BODY_TIME: Final = 60.0

#: Bytes per second; each that arrives gives the body so much more time.
BODY_RATE: Final = 10_000

#: Seconds for which a connection may wait for a request.
IDLE_TIME: Final = 60.0

#: Seconds in which a client must have read what was written before the
#: connection closes.
CLOSE_TIME: Final = 15.0

#: Seconds in which a client whose request was refused can read why.
LINGER_TIME: Final = 5.0

#: Connections that are served at once.
MAX_CONNECTIONS: Final = 10_000

#: Connections beyond L{MAX_CONNECTIONS} that are told why they are not served.
MAX_REFUSED: Final = 1000

#: Bytes that all requests which are arriving or being worked on, and all answers that
#: clients have not read yet, may have, but for what L{UNCOUNTED} lets through.
BUDGET: Final = 256 << 20

#: Bytes of each request or answer that the budget leaves out: nearly all are that
#: small, and they are to be served even while somebody fills the budget.
UNCOUNTED: Final = 1 << 14

#: Seconds after which a client that was not served may try again.
RETRY_AFTER: Final = 5


class Budget:
    """
    The bytes of requests and answers that a site holds in memory.

    @param total: how many there may be, beyond L{UNCOUNTED} for each request.
    @ivar used: how many there are.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0


class Share:
    """
    The part of a budget that one request has, and then its answer.

    @ivar size: bytes of it so far.
    """

    __slots__ = ("_budget", "size")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.size = 0

    def reach(self, size: int) -> bool:
        """
        Note that the request has C{size} bytes by now.

        @return: whether the budget allows it; if not, nothing changes.
        """
        if size > UNCOUNTED and size > self.size:
            more = size - max(self.size, UNCOUNTED)
            if self._budget.used + more > self._budget.total:
                return False
            self._budget.used += more
        self.size = size
        return True

    def take_answer(self, size: int) -> bool:
        """
        Note that an answer of C{size} bytes is in memory until its client has read it.

        @return: whether the budget allows it; one that is larger than all of it may be
            there alone.
        """
        if self._budget.used or size <= self._budget.total:
            return self.reach(size)
        self._budget.used = size - UNCOUNTED
        self.size = size
        return True

    def release(self) -> None:
        """
        Give everything back; the next request starts from nothing.
        """
        if self.size > UNCOUNTED:
            self._budget.used -= self.size - UNCOUNTED
        self.size = 0
