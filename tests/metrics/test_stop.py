"""
Tests for the address of C{--metrics-listen} when the daemon starts and stops.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import CannotListenError

from nanomdm.listener import Listener, StartRefused
from tests.test_daemon import PartsCase


class ListenerTests(PartsCase):
    """
    A daemon made of parts that only say what they are told.
    """

    def build(self, **more: Any) -> None:
        metrics = Listener("--metrics-listen: there", self.part("metrics"), self.part("scrapes"))
        super().build(metrics=metrics, **more)

    def test_start(self) -> None:
        """
        Who waits for the main address finds both.
        """
        self.start()
        self.assertEqual(self.told[:2], ["metrics listen", "port listen"])

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
        self.assertEqual(self.told[-2:], ["http close", "storage stop"])
        self.told.clear()
        self.parts["storage"].allowed.callback(None)
        # The reloader last: SIGHUP would end the process from then on.
        self.assertEqual(
            self.told, ["metrics close", "scrapes drain 2", "reloader stop", "offloader stop"]
        )
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
