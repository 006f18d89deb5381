"""
Standard output, which the log and C{--dump} share.

As long as the log alone is written there, lines go out at once.  A dump is far more
than a terminal or a pipe takes in at a time, so with it a thread does the writing:
blocks come out whole and in order, and nobody waits for a reader who does not read.
"""

from __future__ import annotations

import os
import select
import sys
from collections import deque
from collections.abc import Iterable
from functools import cache
from threading import Condition, Thread
from typing import Final

from attrs import frozen
from twisted.logger import Logger

#: Bytes that may wait for the reader; the log may still add some when it is a dump
#: that fills them.
LIMIT: Final = 1 << 24
LOG_RESERVE: Final = 1 << 20

#: Seconds that the reader has for what is left at the end.
FLUSH_TIME: Final = 2.0

#: Seconds between two looks at whether the end has come.
_STEP: Final = 0.1

#: Bytes that a block takes apart from its content, about.
_OVERHEAD: Final = 500


@frozen
class _Block:
    pieces: Iterable[bytes]
    size: int


class Output:
    """
    A file descriptor to write blocks to.

    @param descriptor: its number.  Whether it blocks is left as it is: others, such
        as the shell, have the same file open.
    @param limit: bytes of blocks that may wait.
    @param flush_time: see L{FLUSH_TIME}.
    """

    _log = Logger()

    def __init__(self, descriptor: int, limit: int = LIMIT, flush_time: float = FLUSH_TIME) -> None:
        self._descriptor = descriptor
        self._limit = limit
        self._flush_time = flush_time
        self._changed = Condition()
        self._blocks: deque[_Block] = deque()
        self._size = 0
        self._lost = 0
        self._thread: Thread | None = None
        self._running = False
        self._ending = False
        self._patient = True

    def start(self) -> None:
        """
        From now on a thread writes.
        """
        # What it is stuck in, if a reader does not read, must not keep the process.
        self._thread = Thread(target=self._run, name="output", daemon=True)
        self._running = True
        self._thread.start()

    def stop(self) -> None:
        """
        Write what is left and end the thread.  Blocks, but not for long if nobody
        reads; what is written later is lost then.
        """
        if self._thread is None:
            return
        with self._changed:
            self._ending = True
            self._changed.notify()
        self._thread.join(self._flush_time)
        self._patient = False
        self._thread.join(10 * _STEP)

    def write(self, line: bytes) -> None:
        """
        Write something short.

        @raise OSError: that is not possible.
        """
        if self._running and self._put(_Block((line,), len(line)), self._limit + LOG_RESERVE):
            return
        if self._patient:
            os.write(self._descriptor, line)
        else:
            self._copy((line,))

    def show(self, size: int, pieces: Iterable[bytes]) -> None:
        """
        Write a block, unless too much waits already: then a note takes its place.

        @param size: bytes that C{pieces} keep in memory.
        @param pieces: are iterated over in the thread.
        """
        self._put(_Block(pieces, size), self._limit)

    def _put(self, block: _Block, limit: int) -> bool:
        """
        @return: whether the thread takes care of it.
        """
        size = block.size + _OVERHEAD
        with self._changed:
            if not self._running:
                return False
            if self._size + size > limit:
                self._lost += 1
                return True
            if self._lost:
                self._blocks.append(self._note())
            self._blocks.append(block)
            self._size += size
            self._changed.notify()
            return True

    def _note(self) -> _Block:
        note = b"# %d blocks are left out here: nobody read them in time\n\n" % self._lost
        self._lost = 0
        self._size += _OVERHEAD
        return _Block((note,), 0)

    def _run(self) -> None:
        while (block := self._next()) is not None:
            try:
                self._copy(block.pieces)
            except OSError:
                pass  # Nobody is there to read it, or the disk is full.
            except Exception:
                self._log.failure("block can not be written")
            with self._changed:
                self._size -= block.size + _OVERHEAD

    def _next(self) -> _Block | None:
        """
        Wait for something to write.

        @return: L{None} at the end.
        """
        with self._changed:
            while self._patient:
                if self._blocks:
                    return self._blocks.popleft()
                if self._lost:
                    return self._note()
                if self._ending:
                    break
                self._changed.wait()
            self._running = False
            return None

    def _copy(self, pieces: Iterable[bytes]) -> None:
        """
        Write what the reader has room for, until the end comes.
        """
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                if not self._has_room():
                    return
                try:
                    # So much a pipe takes that has any room (POSIX, write()).
                    written = os.write(self._descriptor, rest[: select.PIPE_BUF])
                except BlockingIOError:
                    continue
                rest = rest[written:]

    def _has_room(self) -> bool:
        while not select.select((), (self._descriptor,), (), _STEP)[1]:
            if not self._patient:
                return False
        return True


@cache
def output_to(descriptor: int) -> Output:
    """
    @return: the one for this descriptor.
    """
    return Output(descriptor)


def standard_output() -> Output:
    """
    @return: the one for what is standard output before twistd takes it for the log.
    """
    return output_to(sys.stdout.fileno())
