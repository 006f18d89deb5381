"""
Tests for what L{nanomdm.tap} does before the reactor runs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.config import Settings
from nanomdm.errors import ConfigError
from nanomdm.push.address import APNsURL, ProxyURL
from nanomdm.storage.settings import StorageSettings
from nanomdm.tap import hand_over
from tests.http.case import ServerCase


class HandOverTests(SynchronousTestCase):
    """
    Database files belong to the user that C{twistd --uid} names.
    """

    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute()
        storages = (StorageSettings(dsn=self.path), StorageSettings(kind="inmem"))
        self.settings = Settings(api="k", disable_mdm=True, storages=storages)
        self.given: list[tuple[object, ...]] = []
        self.patch(os, "chown", lambda *arguments: self.given.append(arguments))

    def test_nobodyNamed(self) -> None:
        hand_over(self.settings, {"uid": None, "gid": None})
        self.assertEqual(self.given, [])

    def test_userAndGroup(self) -> None:
        hand_over(self.settings, {"uid": 12, "gid": 34})
        self.assertEqual(self.given, [(self.path, 12, 34)])

    def test_userOnly(self) -> None:
        hand_over(self.settings, {"uid": 12, "gid": None})
        self.assertEqual(self.given, [(self.path, 12, -1)])

    def test_notAllowed(self) -> None:
        def refuse(*arguments: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        self.patch(os, "chown", refuse)
        error = self.assertRaises(ConfigError, hand_over, self.settings, {"uid": 12})
        self.assertEqual(str(error), f"--uid: {self.path}: Operation not permitted")


class HeaderTests(ServerCase):
    """
    C{--cert-header} where the world may come.
    """

    async def warnings(self, **settings: Any) -> list[str]:
        running: Deferred[None] = Deferred()
        with capturedLogs() as events:
            self.serve(**settings)
            reactor.callWhenRunning(running.callback, None)
            await running
        return [
            event["address"]
            for event in events
            if event["log_level"] is LogLevel.warn and "--trusted-proxies" in event["log_format"]
        ]

    async def test_public(self) -> None:
        warnings = await self.warnings(listen="0.0.0.0:0", cert_header="X-Cert")
        self.assertEqual(warnings, [f"0.0.0.0:{self.port}"])

    async def test_private(self) -> None:
        self.assertEqual(await self.warnings(cert_header="X-Cert"), [])

    async def test_noHeader(self) -> None:
        self.assertEqual(await self.warnings(listen="0.0.0.0:0"), [])


class PushSettingsTests(ServerCase):
    """
    What becomes of the options about pushes.
    """

    APNS = APNsURL("apns.invalid", 2197)
    PROXY = ProxyURL("proxy.invalid", 3128, b"user:geheim")

    def setUp(self) -> None:
        environ = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        self.patch(os, "environ", environ)

    def starting(self, apns_proxy: Any = None, **settings: Any) -> dict[str, Any]:
        """
        @return: what the log says at the start.
        """
        with capturedLogs() as events:
            self.serve(apns_url=self.APNS, apns_proxy=apns_proxy, **settings)
        self.assertNotIn("geheim", str(events))
        [event] = [event for event in events if event["log_format"] == "starting"]
        return event

    def test_shown(self) -> None:
        event = self.starting(apns_proxy=self.PROXY)
        self.assertEqual(
            (event["apns"], event["proxy"]), ("apns.invalid:2197", "proxy.invalid:3128")
        )

    def test_withoutAProxy(self) -> None:
        self.assertEqual(self.starting()["proxy"], "none")

    def test_environment(self) -> None:
        self.patch(os, "environ", {"HTTPS_PROXY": "http://user:geheim@other.invalid:1"})
        self.assertEqual(self.starting()["proxy"], "other.invalid:1")

    def test_optionBeatsTheEnvironment(self) -> None:
        self.patch(os, "environ", {"HTTPS_PROXY": "http://user:geheim@other.invalid:1"})
        self.assertEqual(self.starting(apns_proxy="none")["proxy"], "none")

    def test_badEnvironment(self) -> None:
        self.patch(os, "environ", {"https_proxy": "socks5://user:geheim@h"})
        error = self.assertRaises(ConfigError, self.starting)
        self.assertEqual(str(error), "https_proxy: is not http://[user:password@]host[:port]")

    def test_trustWithoutACertificate(self) -> None:
        path = Path(self.mktemp())
        path.write_text("nothing")
        error = self.assertRaises(ConfigError, self.starting, apns_ca=path)
        self.assertEqual(str(error), f"--apns-ca: {path}: no PEM certificate in it")

    def jobs(self, **settings: Any) -> set[str]:
        self.serve(**settings)
        return {type(job).__name__ for job in self.daemon.parts.jobs} - {
            "ServiceManager",
            "StoredNumbers",
        }

    def test_jobs(self) -> None:
        self.assertEqual(self.jobs(), {"ExpiryWatch", "SecretsWatch", "Repusher"})

    def test_jobsWithoutAPI(self) -> None:
        """
        Other servers on the database may have it.
        """
        self.assertEqual(self.jobs(api=None), {"ExpiryWatch", "SecretsWatch", "Repusher"})

    def test_repushOff(self) -> None:
        self.assertEqual(self.jobs(repush=0), {"ExpiryWatch", "SecretsWatch"})
