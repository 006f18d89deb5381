"""
Tests for L{nanomdm.output}.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from nanomdm.output import LOG_RESERVE, Output, output_to

#: More than a pipe holds.
LARGE = 1 << 20


class OutputCase(SynchronousTestCase):
    """
    Writes into a pipe.

    @ivar reader: the end of it that a test may read.
    """

    def setUp(self) -> None:
        self.reader, self.writer = os.pipe()
        self.open = {self.reader, self.writer}
        self.addCleanup(lambda: [os.close(descriptor) for descriptor in self.open])
        self.before = set(threading.enumerate())

    def output(self, limit: int = 4 * LARGE, flush_time: float = 60) -> Output:
        output = Output(self.writer, limit, flush_time)
        self.addCleanup(output.stop)
        return output

    def close(self, descriptor: int) -> None:
        self.open.remove(descriptor)
        os.close(descriptor)

    def rest(self, output: Output) -> bytes:
        """
        @return: everything up to the end, while the output is being stopped.
        """
        found: list[bytes] = []

        def read() -> None:
            while data := os.read(self.reader, LARGE):
                found.append(data)

        reading = threading.Thread(target=read)
        reading.start()
        output.stop()
        self.close(self.writer)
        reading.join()
        return b"".join(found)

    def fill(self) -> bytes:
        """
        Fill the pipe.
        """
        filled = 0
        while select.select((), (self.writer,), (), 0)[1]:
            filled += os.write(self.writer, b"x" * select.PIPE_BUF)
        return b"x" * filled

    def assertNoThread(self) -> None:
        self.assertEqual(set(threading.enumerate()), self.before)


class DirectTests(OutputCase):
    """
    Before there is a thread.
    """

    def test_write(self) -> None:
        output = self.output()
        output.write(b"line\n")
        self.assertEqual(os.read(self.reader, 100), b"line\n")
        self.assertNoThread()

    def test_failure(self) -> None:
        self.close(self.reader)
        self.assertRaises(BrokenPipeError, self.output().write, b"line\n")

    def test_nothingIsShown(self) -> None:
        output = self.output()
        output.show(4, (b"dump",))
        self.assertEqual(self.rest(output), b"")

    def test_onePerDescriptor(self) -> None:
        self.assertIs(output_to(self.writer), output_to(self.writer))
        self.assertIsNot(output_to(self.writer), output_to(self.reader))


class ThreadTests(OutputCase):
    """
    While a thread writes.
    """

    def test_order(self) -> None:
        output = self.output()
        output.start()
        output.write(b"1\n")
        output.show(4, (b"2", b"3\n"))
        output.write(b"4\n")
        self.assertEqual(self.rest(output), b"1\n23\n4\n")
        self.assertNoThread()

    def test_whole(self) -> None:
        """
        What several threads write stays in one piece each, however slow the reader.
        """
        output = self.output(limit=20 * LARGE)
        output.start()

        def write(letter: bytes) -> None:
            for _ in range(4):
                output.show(LARGE, (letter * (LARGE // 2), letter * (LARGE // 2), b"\n"))
                output.write(letter * 10 + b"\n")

        writers = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b")]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        lines = self.rest(output).split(b"\n")
        expected = [letter * size for letter in (b"a", b"b") for size in (LARGE, 10)] * 4
        self.assertEqual(sorted(lines), sorted([*expected, b""]))

    def test_piecesAreMadeInTheThread(self) -> None:
        makers: list[threading.Thread] = []

        def pieces() -> Iterator[bytes]:
            makers.append(threading.current_thread())
            yield b"piece\n"

        output = self.output()
        output.start()
        output.show(1, pieces())
        self.assertEqual(self.rest(output), b"piece\n")
        self.assertNotIn(makers[0], self.before)

    def test_piecesThatFail(self) -> None:
        def pieces() -> Iterator[bytes]:
            yield b"begun\n"
            raise RuntimeError("oops")

        output = self.output()
        output.start()
        output.show(1, pieces())
        output.write(b"next\n")
        self.assertEqual(self.rest(output), b"begun\nnext\n")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_readerGone(self) -> None:
        """
        Lines are lost, and the thread still ends.
        """
        output = self.output()
        output.start()
        self.close(self.reader)
        for _ in range(3):
            output.write(b"line\n")
        output.stop()
        self.assertNoThread()

    def test_descriptorThatDoesNotBlock(self) -> None:
        os.set_blocking(self.writer, False)
        output = self.output()
        output.start()
        output.show(LARGE, (b"x" * LARGE,))
        self.assertEqual(self.rest(output), b"x" * LARGE)

    def test_terminal(self) -> None:
        """
        It takes less than it is given, or nothing if it belongs to somebody who does
        not want to wait.
        """
        write = os.write
        tries: list[int] = []

        def grudging(descriptor: int, data: bytes) -> int:
            tries.append(len(data))
            if len(tries) % 2:
                raise BlockingIOError
            return write(descriptor, data[:3])

        self.patch(os, "write", grudging)
        output = self.output()
        output.start()
        output.show(10, (b"0123456789",))
        self.assertEqual(self.rest(output), b"0123456789")
        self.assertEqual(tries, [10, 10, 7, 7, 4, 4, 1, 1])

    def test_file(self) -> None:
        path = Path(self.mktemp())
        with path.open("wb", buffering=0) as file:
            output = Output(file.fileno())
            output.start()
            output.show(LARGE, (b"x" * LARGE,))
            output.write(b"line\n")
            output.stop()
        self.assertEqual(path.read_bytes(), b"x" * LARGE + b"line\n")

    def test_blockingFlagStays(self) -> None:
        output = self.output()
        output.start()
        output.write(b"line\n")
        self.assertTrue(os.get_blocking(self.writer))


class FullTests(OutputCase):
    """
    A reader who does not read.
    """

    def full(self, flush_time: float = 60) -> tuple[Output, bytes]:
        filled = self.fill()
        output = self.output(limit=1000, flush_time=flush_time)
        output.start()
        return output, filled

    def test_limit(self) -> None:
        """
        A note tells how many blocks there is no room for, at their place.
        """
        output, filled = self.full()
        for number in range(4):
            output.show(200, (b"%d\n" % number,))
        note = b"# %d blocks are left out here: nobody read them in time\n\n"
        self.assertEqual(self.rest(output), filled + b"0\n" + note % 3)
        self.assertNoThread()

    def test_logGoesOn(self) -> None:
        """
        A dump leaves room to the log, which is limited too.
        """
        output, filled = self.full()
        output.show(400, (b"dump\n",))
        output.show(400, (b"lost\n",))
        count = LOG_RESERVE // 600
        for _ in range(2 * count):
            output.write(b"l" * 99 + b"\n")
        written = self.rest(output)
        lines = written.removeprefix(filled).split(b"\n")
        self.assertEqual(lines[0], b"dump")
        # The note on the dump that was lost comes before the next line of the log.
        self.assertIn(b"# 1 blocks are left out", lines[1])
        kept = lines.count(b"l" * 99)
        self.assertIn(kept, range(count - 5, count + 5))
        self.assertIn(b"# %d blocks are left out" % (2 * count - kept), lines[-3])

    def test_roomComesBack(self) -> None:
        output, _ = self.full()
        output.show(400, (b"first\n",))
        output.show(400, (b"lost\n",))
        found = b""
        while b"nobody" not in found:
            found += os.read(self.reader, LARGE)
        output.show(0, (b"second\n",))
        self.assertTrue(self.rest(output).endswith(b"second\n"))

    def test_end(self) -> None:
        """
        Nobody reads, and yet the thread ends and no later line waits.
        """
        output, filled = self.full(flush_time=0)
        output.show(200, (b"dump\n",))
        output.stop()
        self.assertNoThread()
        output.write(b"stopped\n")
        self.assertEqual(self.rest(output), filled)

    def test_endWithoutAStart(self) -> None:
        self.output().stop()

    def test_linesAfterTheEnd(self) -> None:
        output = self.output()
        output.start()
        output.stop()
        output.write(b"stopped\n")
        self.assertEqual(os.read(self.reader, 100), b"stopped\n")
