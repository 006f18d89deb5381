"""
What a parser of something from elsewhere is to those who try it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Final

from attrs import frozen

#: Seconds of a processor that no input may take.
HANG: Final = 1.0


@frozen
class Target:
    """
    A parser.

    @ivar parse: takes bytes.
    @ivar refusal: what it may raise.
    @ivar seeds: makes inputs to begin with.
    @ivar words: what inputs are made of.
    @ivar is_der: whether inputs are DER, so that changes should mind the lengths.
    """

    parse: Callable[[bytes], object]
    refusal: type[Exception] | tuple[()] = ()
    seeds: Callable[[], Sequence[bytes]] = tuple
    words: Sequence[bytes] = ()
    is_der: bool = False

    def try_(self, data: bytes) -> None:
        """
        @raise Exception: the parser raised what it may not raise, or took too long.
        """
        start = time.thread_time()
        with contextlib.suppress(self.refusal):
            self.parse(data)
        taken = time.thread_time() - start
        if taken > HANG:
            raise AssertionError(f"{len(data)} bytes took {taken:.1f} s")
