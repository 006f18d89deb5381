"""
Tests for how simulated devices beside the demonstration's Mac hear of their pushes.
"""

from __future__ import annotations

import os
import re
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

import nanomdm
from nanomdm.sim.feed import PushListener, feed_file
from tests.ctl.case import CommandProcess

_PUSH = re.compile(r"curl -u (\S+) (\S+/v1/push/\S+)")


class FeedTests(TestCase):
    """
    The demonstration as a process.
    """

    timeout = 120

    async def start(self, directory: Path) -> CommandProcess:
        process = CommandProcess()
        options = ("--directory", str(directory), "--port", "0")
        reactor.spawnProcess(
            process,
            sys.executable,
            [sys.executable, "-m", "nanomdm.sim.demo", *options],
            env={**os.environ, "PYTHONPATH": str(Path(nanomdm.__file__).parent.parent)},
        )

        def stop() -> Deferred[int] | None:
            if process.ended.called:
                return None
            # Not KILL: that would leave the server behind.
            process.transport.signalProcess("TERM")
            return process.ended

        self.addCleanup(stop)
        await process.printed(b"Ctrl-C stops everything")
        return process

    async def test_told(self) -> None:
        """
        Who listens in its directory hears of each push; the file that leads there goes
        with the demonstration.
        """
        directory = Path(self.mktemp())
        process = await self.start(directory)
        rung: Deferred[tuple[Any, ...]] = Deferred()

        def ring(*push: str) -> None:
            if not rung.called:
                rung.callback(push)

        listener = PushListener(reactor, directory, ring)
        await listener.start()
        self.addCleanup(listener.stop)
        match = _PUSH.search(process.output.decode())
        assert match is not None
        credentials, url = match.groups()
        basic = b64encode(credentials.encode()).decode()
        request = Request(url, headers={"Authorization": f"Basic {basic}"})
        answer = await deferToThread(urlopen, request)
        with answer:
            self.assertEqual(answer.status, 200)
        token, magic = await rung
        self.assertRegex(token, r"^[0-9a-f]{64}$")
        self.assertTrue(magic)
        process.transport.signalProcess("INT")
        await process.ended
        self.assertFalse(feed_file(directory).exists())
