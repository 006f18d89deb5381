"""
Tests for L{nanomdm.ctl.checks.network}.
"""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from nanomdm.config import Settings
from nanomdm.ctl.checks import network
from nanomdm.ctl.checks.network import check_apns, check_others, check_webhook
from nanomdm.push.address import APNsURL, ProxyURL
from nanomdm.sim.apns import SimulatedAPNs
from nanomdm.storage.settings import StorageSettings
from tests.crypto import build
from tests.ctl.checks.case import told
from tests.push.proxy_server import FakeProxy
from tests.web import WebServer, listen


class NetworkCase(TestCase):
    """
    The checks block, so they run in a thread.
    """

    timeout = 30

    async def look(self, check: Any, **settings: Any) -> list[str]:
        whole = Settings(
            **{
                "storages": (StorageSettings(kind="inmem"),),
                "apns_proxy": "none",
                "apns_url": APNsURL("127.0.0.1", 9),
                **settings,
            }
        )
        return told(await deferToThread(lambda: list(check(whole))))


class APNsTests(NetworkCase):
    """
    APNs.
    """

    async def apns(self, **options: Any) -> APNsURL:
        self.simulated = SimulatedAPNs(reactor, build.ca(), **options)
        await self.simulated.start()
        self.addCleanup(self.simulated.stop)
        self.ca = Path(self.mktemp())
        self.ca.write_bytes(build.ca().pem)
        return APNsURL("localhost", self.simulated.port)

    async def test_good(self) -> None:
        """
        Nothing is pushed.
        """
        url = await self.apns()
        found = await self.look(check_apns, apns_url=url, apns_ca=self.ca)
        self.assertEqual(found, [f"ok apns: localhost:{url.port} can be reached"])
        self.assertEqual(self.simulated.counts.requests, 0)

    async def test_broken(self) -> None:
        """
        Something in between speaks another protocol.
        """
        url = await self.apns(alpn=())
        found = await self.look(check_apns, apns_url=url, apns_ca=self.ca)
        self.assertEqual(found, [f"fail apns: localhost:{url.port} does not speak HTTP/2"])

    async def test_untrusted(self) -> None:
        url = await self.apns()
        [found] = await self.look(check_apns, apns_url=url)
        self.assertTrue(found.startswith(f"fail apns: localhost:{url.port}: its certificate: "))

    async def test_refused(self) -> None:
        [found] = await self.look(check_apns)
        self.assertEqual(found, "fail apns: 127.0.0.1:9: Connection refused")

    async def test_silent(self) -> None:
        """
        Whoever does not answer is not waited for for long.
        """
        self.patch(network, "TIMEOUT", 0.2)
        port = reactor.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        url = APNsURL("127.0.0.1", port.getHost().port)
        [found] = await self.look(check_apns, apns_url=url)
        self.assertIn("no answer within 0.2 s", found)

    def proxy(self, *answer: bytes, **options: Any) -> tuple[FakeProxy, ProxyURL]:
        proxy = FakeProxy(*answer, **options)
        port = proxy.listen()
        self.addCleanup(proxy.stop)
        return proxy, ProxyURL("127.0.0.1", port, b"user:pass")

    async def test_proxy(self) -> None:
        url = await self.apns()
        proxy, way = self.proxy(authorization=b"Basic " + b64encode(b"user:pass"))
        found = await self.look(check_apns, apns_url=url, apns_ca=self.ca, apns_proxy=way)
        where = f"localhost:{url.port} through the proxy {way.host_and_port}"
        self.assertEqual(found, [f"ok apns: {where} can be reached"])
        self.assertEqual(proxy.tunnels, 1)

    async def test_proxyRefuses(self) -> None:
        for answer, options, words in (
            ((b"HTTP/1.1 403 No\r\n\r\n",), {}, "the proxy answers HTTP/1.1 403 No"),
            ((), {"hang_up": True}, "the proxy does not open a tunnel"),
            ((b"x" * 20_000,), {}, "the proxy does not open a tunnel"),
        ):
            _, way = self.proxy(*answer, **options)
            [found] = await self.look(check_apns, apns_proxy=way)
            self.assertTrue(found.startswith("fail apns: "), found)
            self.assertIn(words, found)
            self.assertNotIn("pass", found)


class WebTests(NetworkCase):
    """
    The webhook's receiver, and others.
    """

    def web(self) -> tuple[WebServer, str]:
        web = WebServer()
        return web, f"http://127.0.0.1:{listen(self, web)}"

    async def test_webhook(self) -> None:
        """
        Any answer will do, and there is no event.
        """
        web, url = self.web()
        web.status = 404
        found = await self.look(check_webhook, webhook_url=f"{url}/hook?secret=sesame")
        self.assertRegex(found[0], r"\Aok webhook-url: 127.0.0.1:\d+ answers \(HTTP 404 to HEAD\)")
        [asked] = web.asked
        self.assertEqual((asked.method, asked.uri), ("HEAD", "/hook?secret=sesame"))
        self.assertEqual(asked.body, b"")

    async def test_refused(self) -> None:
        found = await self.look(
            check_webhook, webhook_url="http://127.0.0.1:9/sesame?sesame=sesame"
        )
        self.assertEqual(found, ["fail webhook-url: 127.0.0.1:9: Connection refused"])

    async def test_others(self) -> None:
        _, url = self.web()
        found = await self.look(
            check_others, dm=f"{url}/", token_url="http://127.0.0.1:9/", auth_proxy_url=f"{url}/"
        )
        self.assertEqual(
            [text.partition(":")[0] for text in found],
            ["ok dm", "fail token-url", "ok auth-proxy-url"],
        )

    async def test_none(self) -> None:
        for check in (check_webhook, check_others):
            self.assertEqual(await self.look(check), [])
