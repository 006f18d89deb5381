"""
Tests for L{nanomdm.sim.apns_program}.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase, TestCase

from nanomdm.sim.apns_program import APNsOptions, parse_arguments
from nanomdm.sim.feed import feed_file
from tests.ctl.case import CommandProcess


class ArgumentsTests(SynchronousTestCase):
    """
    The command line.
    """

    def test_defaults(self) -> None:
        self.assertEqual(
            parse_arguments(["--directory", "d"]), APNsOptions(directory=Path("d"), topic=[])
        )

    def test_all(self) -> None:
        words = "--directory d --port 1 --latency 0.5 --streams 7 --topic a --topic b"
        options = APNsOptions(directory=Path("d"), port=1, latency=0.5, streams=7, topic=["a", "b"])
        self.assertEqual(parse_arguments(words.split()), options)


class ProgramTests(TestCase):
    """
    C{python -m nanomdm.sim.apns}.
    """

    timeout = 60

    async def test_run(self) -> None:
        """
        It tells where it is, and at the end what it has seen; nothing stays behind but
        the certificates.
        """
        directory = Path(self.mktemp()).absolute()
        process = CommandProcess()
        arguments = ["-m", "nanomdm.sim.apns", "--directory", str(directory), "--topic", "a"]
        root = str(Path(__file__).parent.parent.parent)
        reactor.spawnProcess(
            process,
            sys.executable,
            [sys.executable, *arguments],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": root},
        )
        await process.printed(b"listening on https://localhost:")
        self.assertTrue(feed_file(directory).exists())
        process.transport.signalProcess("TERM")
        await process.ended
        self.assertEqual(json.loads(process.output.splitlines()[1])["requests"], 0)
        names = sorted(path.name for path in directory.iterdir())
        self.assertEqual(names, ["ca.key", "ca.pem", "push-a.pem"])
