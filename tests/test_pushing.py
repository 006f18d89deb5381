"""
A whole server that pushes, to a simulated APNs over real TLS: what the options say
arrives there.
"""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from nanomdm import daemon
from nanomdm.push import repush
from nanomdm.push.address import ProxyURL, parse_apns_url
from nanomdm.sim.apns import SeenPush, SimulatedAPNs
from nanomdm.sim.apns_script import Respond, Stall
from tests import samples
from tests.http.case import ServerCase, ca, device
from tests.push.proxy_server import FakeProxy

TOKEN = "ab" * 32


@cache
def push_certificate() -> bytes:
    """
    PEM of a certificate for the samples' topic and of its key.
    """
    issued = ca().issue_push(samples.TOPIC, key=ec.generate_private_key(ec.SECP256R1()))
    return issued.pem + issued.key_pem


class PushingCase(ServerCase):
    """
    Has an APNs, a server that knows its push certificate, and an enrollment.
    """

    # Less than the 30 seconds after which pushes give up.
    timeout = 25

    async def begin(self, **settings: Any) -> None:
        self.apns = SimulatedAPNs(reactor, ca())
        self.addCleanup(lambda: Deferred.fromCoroutine(self.apns.stop()))
        await self.apns.start()
        trusted = Path(self.mktemp())
        trusted.write_bytes(ca().pem)
        url = parse_apns_url(self.apns.url)
        self.serve(**{"apns_url": url, "apns_ca": trusted, **settings})
        answer = await self.api("PUT", "/v1/pushcert", push_certificate())
        self.assertEqual(answer.code, 200, answer.body)
        self.assertOK(await self.send(samples.authenticate()))
        self.assertOK(await self.send(samples.token_update(Token=bytes.fromhex(TOKEN))))

    def arrival(self, count: int = 1) -> Deferred[SeenPush]:
        """
        @return: fires with a push that arrives at APNs: the next one, or the one that
            makes so many.
        """
        arrived: Deferred[SeenPush] = Deferred()
        receive = self.apns.received
        last = self.apns.counts.requests + count

        def received(*request: Any) -> SeenPush:
            push = receive(*request)
            if self.apns.counts.requests == last:
                arrived.callback(push)
            return push

        self.patch(self.apns, "received", received)
        return arrived

    async def due(self) -> Any:
        """
        @return: who is to be pushed to again, and which step that is.
        """
        return await self.query("SELECT id, step FROM nanomdm_pushes")


class OptionsTests(PushingCase):
    """
    Options about pushes.
    """

    async def test_enqueue(self) -> None:
        """
        An enqueued command wakes the device through APNs.
        """
        await self.begin()
        arrived = self.arrival()
        answer = await self.enqueue("D1", query="")
        self.assertEqual(answer.code, 200, answer.body)
        self.assertEqual(list(answer.json["status"]), ["D1"])
        self.assertEqual(list(answer.json["status"]["D1"]), ["push_result"])
        push = self.successResultOf(arrived)
        self.assertEqual(
            (push.token, push.payload), (TOKEN, f'{{"mdm":"{samples.MAGIC}"}}'.encode())
        )
        self.assertEqual(push.headers["apns-topic"], samples.TOPIC)

    async def test_push(self) -> None:
        await self.begin()
        answer = await self.api("PUT", "/v1/push/D1,D2")
        self.assertEqual(answer.code, 207, answer.body)
        self.assertEqual(list(answer.json["status"]["D1"]), ["push_result"])
        self.assertEqual(list(answer.json["status"]["D2"]), ["push_error"])

    async def expiration(self, **settings: Any) -> int:
        await self.begin(**settings)
        arrived = self.arrival()
        self.assertEqual((await self.api("PUT", "/v1/push/D1")).code, 200)
        return int(self.successResultOf(arrived).headers["apns-expiration"])

    async def test_expiration(self) -> None:
        before = time.time()
        expiration = await self.expiration(push_expiration=3600)
        self.assertTrue(before + 3599 <= expiration <= time.time() + 3601)

    async def test_expirationOfZero(self) -> None:
        self.assertEqual(await self.expiration(push_expiration=0), 0)

    async def test_connections(self) -> None:
        """
        As many as are allowed, when each has only one stream and it is in use.
        """
        await self.begin(apns_connections=3)
        self.apns.max_concurrent_streams = 1
        for number in (2, 3):
            udid, token = f"D{number}", bytes([number] * 32)
            for body in (samples.authenticate(udid), samples.token_update(udid, Token=token)):
                self.assertOK(await self.send(body, identity=device(number)))
        # At first there is no answer.
        for token in (TOKEN, "02", "03"):
            self.apns.script(token, Stall(), Respond(200))
        arrived = self.arrival(3)
        pushing = Deferred.fromCoroutine(self.api("PUT", "/v1/push/D1,D2,D3"))
        await arrived
        self.assertEqual(self.apns.counts.open_connections, 3)
        self.apns.abort_connections()
        self.assertEqual((await pushing).code, 200)

    async def test_stop(self) -> None:
        """
        Who waits for a push is told when the server stops before its answer.
        """
        self.patch(daemon, "PUSH_DEADLINE", 0.05)
        await self.begin()
        self.apns.script(TOKEN, Stall())
        arrived = self.arrival()
        pushing = Deferred.fromCoroutine(self.api("PUT", "/v1/push/D1"))
        await arrived
        await self.daemon.stopService()
        answer = await pushing
        self.assertEqual(answer.code, 500)
        self.assertEqual(answer.json["status"]["D1"], {"push_error": "the server is stopping"})

    async def test_proxy(self) -> None:
        proxy = FakeProxy(authorization=b"Basic dXNlcjpwYXNzd29yZA==")
        port = proxy.listen()
        self.addCleanup(proxy.stop)
        await self.begin(apns_proxy=ProxyURL("127.0.0.1", port, b"user:password"))
        self.assertEqual((await self.api("PUT", "/v1/push/D1")).code, 200)
        self.assertEqual(proxy.tunnels, 1)
        await self.daemon.stopService()
        await proxy.left


class PushingAgainTests(PushingCase):
    """
    Pushing again, with shorter pauses.
    """

    def setUp(self) -> None:
        self.patch(repush, "_PAUSE", 0.05)

    async def make_due(self) -> None:
        """
        Let the time pass that D1 has to connect in.
        """
        await self.query("UPDATE enrollments SET last_seen_at = '2001-01-01 00:00:00'")
        await self.query("UPDATE nanomdm_pushes SET pushed = pushed - 60, due = 0")

    async def test_notConnected(self) -> None:
        await self.begin(repush=6000)
        self.assertEqual((await self.enqueue("D1", query="")).code, 200)
        self.assertEqual(await self.due(), [("D1", 0)])
        arrived = self.arrival()
        await self.make_due()
        self.assertEqual((await arrived).token, TOKEN)
        self.assertEqual(await self.due(), [("D1", 1)])

    async def test_off(self) -> None:
        """
        With --repush=0 nobody is even noted.
        """
        await self.begin(repush=0)
        self.assertEqual((await self.enqueue("D1", query="")).code, 200)
        self.assertEqual(await self.due(), [])

    async def test_stop(self) -> None:
        """
        A push without an answer does not keep the server from stopping.
        """
        await self.begin(repush=6000)
        self.assertEqual((await self.enqueue("D1", query="")).code, 200)
        self.apns.script(TOKEN, Stall())
        arrived = self.arrival()
        await self.make_due()
        await arrived
        with capturedLogs() as events:
            await self.daemon.stopService()
        [event] = [event for event in events if event["log_format"] == "pushed again"]
        self.assertEqual((event["count"], event["failed"]), (1, 1))
