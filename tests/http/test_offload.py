"""
Tests for L{nanomdm.http.offload}, and for whom it works in a whole server.
"""

from __future__ import annotations

import threading
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.trial.unittest import TestCase

from nanomdm.http.offload import INLINE_SIZE, THREADS, Offloader
from nanomdm.sim.signing import sign_like_device
from tests import samples
from tests.http.case import ServerCase, device
from tests.http.test_site import Collecting

LARGE = INLINE_SIZE + 1


def workers() -> list[threading.Thread]:
    """
    @return: the threads of all offloaders.
    """
    return [thread for thread in threading.enumerate() if "-offload-" in thread.name]


class Busy:
    """
    Keeps all threads of the reactor's pool, like names that nobody looks up.
    """

    def __init__(self) -> None:
        self._end = threading.Event()
        pool = reactor.getThreadPool()
        self._begun = threading.Semaphore(0)
        for _ in range(pool.max):
            pool.callInThread(self._wait)
        for _ in range(pool.max):
            assert self._begun.acquire(timeout=10), "the reactor does not run"

    def _wait(self) -> None:
        self._begun.release()
        self._end.wait(60)

    def end(self) -> None:
        """
        Let them go.
        """
        self._end.set()


class OffloaderTests(TestCase):
    """
    L{Offloader}.
    """

    timeout = 30

    def setUp(self) -> None:
        self.assertEqual(workers(), [])
        self.offloader = Offloader(reactor)
        self.addCleanup(self.offloader.stop)

    async def test_small(self) -> None:
        """
        That takes no thread.
        """
        self.offloader.start()
        here = threading.current_thread()
        self.assertIs(await self.offloader.run(INLINE_SIZE, threading.current_thread), here)
        self.assertEqual(workers(), [])

    async def test_large(self) -> None:
        """
        It has a thread, even when those of the reactor are all waiting.
        """
        self.offloader.start()
        await self.offloader.run(LARGE, int)
        busy = Busy()
        self.addCleanup(busy.end)
        worker = await self.offloader.run(LARGE, threading.current_thread)
        self.assertIn(worker, workers())

    async def test_limit(self) -> None:
        """
        However much there is to do, there are few threads.
        """
        self.offloader.start()
        together = threading.Barrier(THREADS)
        work = [
            Deferred.fromCoroutine(self.offloader.run(LARGE, together.wait, 30))
            for _ in range(3 * THREADS)
        ]
        await gatherResults(work)
        self.assertEqual(len(workers()), THREADS)

    async def test_failure(self) -> None:
        self.offloader.start()
        with self.assertRaises(ZeroDivisionError):
            await self.offloader.run(LARGE, divmod, 1, 0)

    async def test_beforeTheStart(self) -> None:
        """
        That waits: twistd may not have forked yet.
        """
        result = Deferred.fromCoroutine(self.offloader.run(LARGE, int, "7"))
        self.assertEqual(workers(), [])
        self.offloader.start()
        self.assertEqual(await result, 7)

    async def test_stop(self) -> None:
        """
        No thread is left, nor anything for the end of the reactor; the second time
        nothing happens.
        """
        triggers = self.triggers()
        self.offloader.start()
        await self.offloader.run(LARGE, int)
        self.assertEqual(len(self.triggers()), len(triggers) + 1)
        self.offloader.stop()
        self.assertEqual(workers(), [])
        self.assertEqual(self.triggers(), triggers)
        self.offloader.stop()

    def triggers(self) -> list[object]:
        return list(reactor._eventTriggers["shutdown"].during)

    async def test_endWithoutStop(self) -> None:
        """
        When the reactor ends, so do the threads.
        """
        before = self.triggers()
        self.offloader.start()
        await self.offloader.run(LARGE, int)
        [(end, arguments, more)] = [one for one in self.triggers() if one not in before]
        end(*arguments, **more)
        self.assertEqual(workers(), [])


class ServerTests(ServerCase):
    """
    A whole server.
    """

    timeout = 30

    async def test_namesThatNobodyLooksUp(self) -> None:
        """
        Devices with a lot to say are answered all the same; and when the server has
        stopped, nothing of that is left.
        """
        self.serve()
        await self.enroll()
        busy = Busy()
        self.addCleanup(busy.end)
        body = samples.report("Idle", Padding="x" * LARGE)
        # The other client looks even numbers up.
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port)
        client = await connectProtocol(endpoint, Collecting())
        client.transport.write(
            b"PUT /mdm HTTP/1.1\r\nHost: a\r\nConnection: close\r\nMdm-Signature: %s\r\n"
            b"Content-Length: %d\r\n\r\n" % (sign_like_device(device(1), body), len(body)) + body
        )
        self.assertIn(b" 200 OK\r\n", await client.closed)
        self.assertNotEqual(workers(), [])
        await self.daemon.stopService()
        self.assertEqual(workers(), [])

    def test_oneForAll(self) -> None:
        """
        Devices, operators and the webhook share its threads.
        """
        self.serve(webhook_url="http://127.0.0.1:9/")
        parts = self.daemon.parts
        webhook: Any = parts.webhook
        users = [
            self.resource("mdm")._offloader,
            self.resource("mdm")._identities._offloader,
            webhook._receiver._offload.__self__,
        ]
        for user in users:
            self.assertIs(user, parts.offloader)
