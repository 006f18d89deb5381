"""
Tests for L{nanomdm.push.service} with the simulated APNs, over real TLS.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from nanomdm.interfaces import PushResult, StoredPushCertificate
from nanomdm.push.address import parse_apns_url
from nanomdm.push.endpoint import APNsConnector
from nanomdm.push.service import PushService
from nanomdm.sim.apns import SeenPush, SimulatedAPNs
from nanomdm.sim.apns_script import GoAway, Reset, Respond, Stall
from nanomdm.sim.ca import ThrowawayCA
from tests.push.fakes import TOPIC, FakeStore
from tests.push.test_service import ids

COUNT = 500


class PipelineTests(TestCase):
    """
    The service and everything below it.
    """

    timeout = 60

    async def setUp(self) -> None:
        ca = self.ca = ThrowawayCA.create()
        self.apns = SimulatedAPNs(reactor, ca, max_concurrent_streams=20)
        await self.apns.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.apns.stop()))
        self.store = FakeStore()
        self.renew(ca)
        self.service = self.serve(ca)

    def renew(self, ca: ThrowawayCA, version: int = 0) -> None:
        """
        Store a certificate that this CA issued.
        """
        issued = ca.issue_push(TOPIC, key=ec.generate_private_key(ec.SECP256R1()))
        self.store.certificates[TOPIC] = StoredPushCertificate(
            TOPIC, issued.pem.decode(), issued.key_pem.decode(), version
        )

    def serve(self, ca: ThrowawayCA) -> PushService:
        """
        Make a service that trusts this CA, and is stopped at the end.
        """
        url = parse_apns_url(self.apns.url)
        service = PushService(
            self.store,
            APNsConnector(reactor, url, [ca.certificate]),
            reactor,  # type: ignore[arg-type]
            expiration=3600,
            connections=2,
            schedule=True,
        )
        self.addCleanup(service.stop)
        return service

    async def push(self, count: int = COUNT, begin: int = 0) -> dict[str, PushResult]:
        """
        @return: the results of many pushes.
        """
        return dict(await self.service.push(self.store.add(*ids(count, begin))))

    async def test_allAnswered(self) -> None:
        results = await self.push()
        self.assertEqual({result.error for result in results.values()}, {None})
        self.assertEqual(len({result.id for result in results.values()}), COUNT)
        self.assertEqual(self.apns.counts.most_streams, 20)
        self.assertEqual(self.apns.counts.connections, 2)
        self.assertEqual(set(self.apns.counts.tokens.values()), {1})
        self.assertEqual(self.apns.counts.violations, 0)

    async def test_everyAnswer(self) -> None:
        """
        Whatever happens to some, all have their true result.
        """
        now = datetime.now(UTC).timestamp()
        for prefix, *replies in (
            ("id-00000", Respond(410, "Unregistered", timestamp=now - 60)),
            ("id-00001", Respond(400, "BadDeviceToken")),
            ("id-00002", Respond(503, "Shutdown"), Respond(200)),
            ("id-00003", Reset(), Respond(200)),
            ("id-00004", GoAway(), Respond(200)),
        ):
            self.apns.script(prefix.encode().hex(), *replies)
        results = await self.push()
        errors = Counter(result.error for result in results.values())
        expected: dict[Any, int] = {
            "APNs answered 410 Unregistered": 10,
            "APNs answered 400 BadDeviceToken": 10,
            None: COUNT - 20,
        }
        self.assertEqual(errors, expected)
        self.assertEqual(sorted(each.id for each in self.store.buried), ids(10))
        forgotten = [id for some in self.store.forgotten for id in some]
        self.assertEqual(sorted(forgotten), ids(10, 10))

    async def test_killedAndRestarted(self) -> None:
        """
        Every id has one result, with success or a true reason.
        """
        killed: Deferred[None] = Deferred()
        many = 2000

        def count(push: object) -> None:
            if sum(self.apns.counts.delivered.values()) >= many // 3:
                self.apns.on_push = None
                killed.callback(None)

        self.apns.on_push = count
        pushing = Deferred.fromCoroutine(self.push(many))
        await killed
        port = self.apns.port
        await self.apns.stop()
        self.assertFalse(pushing.called)
        await self.apns.start(port)
        results = await pushing
        self.assertEqual(sorted(results), ids(many))
        self.assertEqual({result.error for result in results.values()}, {None})
        self.assertGreater(self.apns.counts.connections, 2)

    async def halfClose(self, close: Callable[[Any], None]) -> None:
        """
        Close one direction while nothing is answered, and see the pushes go another
        way.
        """
        arrived: Deferred[None] = Deferred()
        receive = self.apns.received

        def received(*request: Any) -> SeenPush:
            push = receive(*request)
            if self.apns.counts.requests == 20:
                reactor.callLater(0, arrived.callback, None)  # type: ignore[attr-defined]
            return push

        self.patch(self.apns, "received", received)
        self.apns.script("", *[Stall()] * 20, Respond(200))
        pushing = Deferred.fromCoroutine(self.push(20))
        await arrived
        self.assertFalse(pushing.called)
        [transport] = [connection.transport for connection in self.apns._connections]
        close(transport)
        results = await pushing
        self.assertEqual({result.error for result in results.values()}, {None})
        self.assertEqual(set(self.apns.counts.tokens.values()), {2})

    async def test_halfClosedTCP(self) -> None:
        await self.halfClose(lambda tls: tls.transport.loseWriteConnection())

    async def test_halfClosedTLS(self) -> None:
        def close(tls: Any) -> None:
            tls._tlsConnection.shutdown()
            tls._flushSendBIO()

        await self.halfClose(close)

    async def test_refusedCertificate(self) -> None:
        """
        Then another, which another server might have stored.
        """
        self.apns.refuse_certificates = True
        results = await self.push()
        for result in results.values():
            self.assertIn("refuses the push certificate", str(result.error))
        self.apns.refuse_certificates = False
        self.renew(self.ca, 1)
        self.store.add("a", stale_token=1)
        result = await self.service.push(["a"])
        self.assertIsNone(result["a"].error)
