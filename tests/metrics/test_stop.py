"""
Tests for the address of C{--metrics-listen} when the daemon starts and stops.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.daemon import Daemon, StartRefused
from nanomdm.http.health import Readiness
from nanomdm.monitoring import Listener
from tests.test_daemon import FakePart, FakeReactor


class ListenerTests(SynchronousTestCase):
    """
    A daemon made of parts that only say what they are told.
    """

    def setUp(self) -> None:
        self.told: list[str] = []
        names = ("port", "site", "storage", "pusher", "http", "metrics", "scrapes")
        self.parts = {name: FakePart(name, self.told) for name in names}
        port, site, storage, pusher, http, metrics, scrapes = self.parts.values()
        self.reactor = FakeReactor()
        self.readiness = Readiness(lambda: succeed(None), self.reactor)
        self.daemon = Daemon(
            self.reactor,
            port,
            "here",
            site,
            storage,
            pusher,
            http,
            [],
            readiness=self.readiness,
            metrics=Listener(metrics, "there", scrapes),
        )

    def start(self) -> None:
        self.daemon.privilegedStartService()
        self.daemon.startService()

    def test_start(self) -> None:
        """
        Who waits for the main address finds both.
        """
        self.start()
        self.assertEqual(self.told, ["metrics listen", "port listen", "storage start"])

    def test_stop(self) -> None:
        """
        The server is not ready as soon as it stops, and everybody can see that until all
        else has ended.
        """
        self.start()
        self.assertTrue(self.readiness.ready)
        self.parts["port"].allowed = Deferred()
        self.parts["storage"].allowed = Deferred()
        stopped = self.daemon.stopService()
        self.assertFalse(self.readiness.ready)
        self.told.clear()
        self.parts["port"].allowed.callback(None)
        self.assertEqual(self.told, ["site drain 30", "pusher stop", "http close", "storage stop"])
        self.told.clear()
        self.parts["storage"].allowed.callback(None)
        self.assertEqual(self.told, ["metrics close", "scrapes drain 2"])
        self.successResultOf(stopped)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_scrapeUnderWay(self) -> None:
        """
        It is waited for.
        """
        self.start()
        self.parts["scrapes"].allowed = Deferred()
        stopped = self.daemon.stopService()
        self.assertNoResult(stopped)
        self.parts["scrapes"].allowed.callback(None)
        self.successResultOf(stopped)

    def test_refused(self) -> None:
        error = CannotListenError("", 1, OSError(98, "Address already in use"))
        self.patch(self.parts["metrics"], "listen", lambda factory: fail(error))
        refused = self.assertRaises(StartRefused, self.daemon.privilegedStartService)
        expected = "--metrics-listen: there: [Errno 98] Address already in use"
        self.assertEqual(str(refused), expected)
        self.assertEqual(self.told, [])
