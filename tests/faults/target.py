"""
What a parser of something from elsewhere is to those who try it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from attrs import frozen


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
        @raise Exception: the parser raised what it may not raise.
        """
        with contextlib.suppress(self.refusal):
            self.parse(data)
