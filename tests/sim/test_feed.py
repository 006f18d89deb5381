"""
Tests for L{nanomdm.sim.feed}, over the loopback interface.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase, TestCase

from nanomdm.sim import feed as module
from nanomdm.sim.apns import SeenPush
from nanomdm.sim.feed import NoFeed, PushFeed, PushListener, feed_file


def push(token: str = "0a", payload: bytes = b'{"mdm": "magic"}') -> SeenPush:
    return SeenPush(1, token, {}, payload)


class FeedTests(TestCase):
    """
    Both sides.
    """

    timeout = 30

    async def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.feed = PushFeed(reactor, self.directory)
        self.heard: list[tuple[str, str]] = []
        self.awaited: Deferred[None] = Deferred()

    def ring(self, token: str, magic: str) -> None:
        self.heard.append((token, magic))
        if len(self.heard) == 2:
            self.awaited.callback(None)

    async def listen(self) -> PushListener:
        listener = PushListener(reactor, self.directory, self.ring)
        await listener.start()
        self.addCleanup(listener.stop)
        return listener

    async def test_heard(self) -> None:
        """
        Only what has a push magic.
        """
        await self.feed.start()
        self.addCleanup(self.feed.stop)
        # The listener sees the connection before the feed does.
        made: Deferred[None] = Deferred()
        build = self.feed.buildProtocol

        def noting(address: Any) -> Any:
            protocol = build(address)
            reactor.callLater(0, made.callback, None)
            return protocol

        self.feed.buildProtocol = noting  # type: ignore[method-assign]
        await self.listen()
        await made
        self.feed.publish(push("0a"))
        for payload in (b"", b"nonsense", b"[]", b"\xff"):
            self.feed.publish(push("0c", payload))
        self.feed.publish(push("0b", b'{"mdm": "other"}'))
        await self.awaited
        self.assertEqual(self.heard, [("0a", "magic"), ("0b", "other")])

    async def test_nobody(self) -> None:
        """
        Neither without the file, nor with one that is left of a killed process.
        """
        with self.assertRaisesRegex(NoFeed, "no simulated APNs"):
            await self.listen()
        await self.feed.start()
        left = feed_file(self.directory).read_bytes()
        await self.feed.stop()
        self.assertFalse(feed_file(self.directory).exists())
        feed_file(self.directory).write_bytes(left)
        with self.assertRaisesRegex(NoFeed, "no simulated APNs"):
            await self.listen()

    async def test_nobodyListens(self) -> None:
        await self.feed.start()
        self.feed.publish(push())
        await self.feed.stop()


class ListenerTests(SynchronousTestCase):
    """
    Somebody who does not read.
    """

    def setUp(self) -> None:
        self.feed = PushFeed(None, Path("nowhere"))
        self.protocol: Any = self.feed.buildProtocol(None)
        self.transport = StringTransport()
        self.protocol.makeConnection(self.transport)

    def tokens(self) -> list[str]:
        lines = self.transport.value().splitlines()
        self.transport.clear()
        return [json.loads(line)["token"] for line in lines]

    def test_paused(self) -> None:
        """
        Nothing is lost, and nothing is sent meanwhile.
        """
        self.protocol.pauseProducing()
        self.feed.publish(push("01"))
        self.feed.publish(push("02"))
        self.assertEqual(self.tokens(), [])
        self.protocol.resumeProducing()
        self.feed.publish(push("03"))
        self.assertEqual(self.tokens(), ["01", "02", "03"])

    def test_tooSlow(self) -> None:
        self.patch(module, "_WAITING", 1)
        self.protocol.pauseProducing()
        self.feed.publish(push("01"))
        self.assertFalse(self.transport.disconnected)
        self.feed.publish(push("02"))
        self.assertTrue(self.transport.disconnected)

    def test_gone(self) -> None:
        self.protocol.connectionLost()
        self.feed.publish(push())
        self.assertEqual(self.tokens(), [])
