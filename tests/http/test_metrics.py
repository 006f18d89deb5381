"""
Tests for C{/metrics}, C{--metrics-listen} and what a whole server tells there.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import DeferredList, ensureDeferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol, serverFromString
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import LogLevel, capturedLogs

from nanomdm.crypto.secretkeys import new_key, parse_secret_keys
from nanomdm.metrics import registry
from nanomdm.sim.signing import sign_like_device
from nanomdm.storage.settings import StorageSettings
from tests import samples
from tests.http.case import RESULT, Answer, ServerCase, ca, device
from tests.http.test_site import Collecting
from tests.http.tls_case import server
from tests.metrics.text import Scrape
from tests.process import DaemonProcess
from tests.samples import TOPIC
from tests.servers import shared, unavailable
from tests.tcpproxy import Proxy
from tests.test_daemon import DaemonCase

REQUESTS = "nanomdm_http_requests_total"


class MetricsCase(ServerCase):
    """
    A server with metrics at a place of their own.
    """

    def serve(self, **settings: Any) -> None:
        # Each scrape sees everything that was before it.
        self.patch(registry, "_FRESH", 0.0)
        super().serve(**{"metrics_listen": "tcp:0:interface=127.0.0.1", **settings})
        self.metrics = self.daemon.parts.metrics
        self.metrics_port = self.metrics.port.getHost().port

    async def look(self, path: str, method: str = "GET") -> Answer:
        """
        Ask there.
        """
        main, self.port = self.port, self.metrics_port
        try:
            return await self.request(method, path)
        finally:
            self.port = main

    async def scrape(self) -> Scrape:
        answer = await self.look("/metrics")
        self.assertEqual(answer.code, 200)
        return Scrape(answer.body)


class OpenTests(MetricsCase):
    """
    With C{--metrics-listen}.
    """

    async def test_onlyThat(self) -> None:
        """
        There is nothing else there, and it is not on the main address.
        """
        self.serve()
        codes = {
            path: (await self.look(path)).code
            for path in ("/metrics", "/healthz", "/readyz", "/version", "/mdm", "/v1/pushcert", "/")
        }
        open = {"/metrics": 200, "/healthz": 200, "/readyz": 200}
        self.assertEqual(codes, {**dict.fromkeys(codes, 404), **open})
        self.assertEqual((await self.api("GET", "/metrics")).code, 404)
        self.assertEqual((await self.request("GET", "/healthz")).code, 200)
        self.assertEqual((await self.request("GET", "/readyz")).code, 200)

    async def test_form(self) -> None:
        self.serve()
        answer = await self.look("/metrics")
        self.assertEqual(answer.header("Content-Type"), "text/plain; version=0.0.4; charset=utf-8")
        self.assertTrue(answer.body.endswith(b"\n"))
        head = await self.look("/metrics", "HEAD")
        self.assertEqual((head.code, head.body), (200, b""))
        self.assertEqual((await self.look("/metrics", "POST")).code, 405)

    async def test_quiet(self) -> None:
        self.serve()
        with capturedLogs() as events:
            await self.look("/metrics")
        levels = [event["log_level"] for event in events if event["log_format"] == "request"]
        self.assertEqual(levels, [LogLevel.debug])

    async def test_requests(self) -> None:
        """
        Routes, not paths; and statuses.
        """
        self.serve()
        await self.enroll()
        await self.enqueue("D1")
        await self.report("Idle")
        await self.report("Acknowledged", "C1")
        await self.report("Mine", "C1")
        await self.request("PUT", "/mdm", b"junk")
        await self.request("GET", "/v1/push/D1")
        await self.request("BREW", "/D1")
        seen = await self.scrape()
        expected = {
            ("/mdm", "PUT", "200"): 5,
            ("/mdm", "PUT", "400"): 1,
            ("/v1/enqueue", "PUT", "200"): 1,
            ("/v1/push", "GET", "401"): 1,
            ("other", "other", "404"): 1,
        }
        for (endpoint, method, status), count in expected.items():
            labels = {"endpoint": endpoint, "method": method, "status": status}
            self.assertEqual(seen.value(REQUESTS, **labels), count, labels)
        self.assertEqual(len(seen.labels(REQUESTS)), len(expected))
        self.assertNotIn("D1", str(seen.labels(REQUESTS)))
        for type, count in {"Authenticate": 1, "TokenUpdate": 1, "CheckOut": 0}.items():
            self.assertEqual(seen.value("nanomdm_checkins_total", type=type), count)
        for status, count in {"Idle": 1, "Acknowledged": 1, "other": 1}.items():
            self.assertEqual(seen.value("nanomdm_command_reports_total", status=status), count)

    async def test_storage(self) -> None:
        """
        Each kind of calls of the database, with its pool.
        """
        file = Path(self.mktemp()).absolute()
        self.serve(storages=(StorageSettings(kind="sqlite", dsn=file),))
        await self.enroll()
        await self.report("Idle")
        seen = await self.scrape()
        kinds = {
            dict(labels)["kind"] for labels in seen.labels("nanomdm_storage_batch_calls_count")
        }
        self.assertEqual(kinds, {"write", "read", "alone", "beside", "look"})
        main = {"database": "main"}
        for kind, at_least in (("write", 2), ("read", 1), ("beside", 0)):
            count = seen.value("nanomdm_storage_batch_calls_sum", kind=kind, **main)
            self.assertGreaterEqual(count, at_least)
        self.assertGreaterEqual(seen.value("nanomdm_storage_pool_size", pool="write", **main), 1)
        self.assertGreaterEqual(
            seen.value("nanomdm_storage_pool_connections", pool="read", **main), 1
        )
        self.assertEqual(seen.value("nanomdm_storage_pool_used", pool="read", **main), 0)

    async def test_numbers(self) -> None:
        """
        What is in the database follows once somebody has scraped.
        """
        self.serve()
        await self.enroll()
        await self.enqueue("D1")
        seen = await self.scrape()
        while seen.value("nanomdm_storage_numbers_age_seconds", of="push_certificates") > 1e9:
            seen = await self.scrape()
        self.assertEqual(seen.value("nanomdm_commands_outstanding"), 1)
        self.assertEqual(seen.value("nanomdm_enrollments"), 1)
        self.assertEqual(seen.value("nanomdm_enrollments_enabled"), 1)

    async def test_severalStorages(self) -> None:
        self.serve(storages=(StorageSettings(kind="inmem"), StorageSettings(kind="inmem")))
        pools = (await self.scrape()).labels("nanomdm_storage_pool_size")
        self.assertEqual({dict(labels)["database"] for labels in pools}, {"main", "copy1"})

    async def test_certificates(self) -> None:
        """
        Those in files: of the CA, and of the server once it speaks TLS itself.
        """
        chain = Path(self.mktemp())
        chain.write_bytes(server(1).pem + server(1).key_pem)
        self.serve(tls_cert=chain, intermediate=chain)
        seen, name = await self.scrape(), "nanomdm_certificate_expiry_timestamp_seconds"
        ends = {dict(one)["kind"]: seen.value(name, **dict(one)) for one in seen.labels(name)}
        self.assertEqual(set(ends), {"ca", "intermediate", "tls"})
        end = server(1).certificate.not_valid_after_utc.timestamp()
        self.assertEqual((ends["tls"], ends["intermediate"]), (end, end))

    async def test_pushKeyUnreadable(self) -> None:
        """
        When the certificate ends can be told all the same.
        """
        self.serve(secret_keys=parse_secret_keys(new_key()))
        push = ca().issue_push(TOPIC)
        await self.storage.store_push_certificate(TOPIC, push.pem.decode(), push.key_pem.decode())
        await self.query("UPDATE push_certs SET key_pem = REPLACE(key_pem, ':v1:', ':v2:')")
        [listed] = await self.storage.push_certificates()
        self.assertIn("in a form that is not known", listed.key_problem)
        seen, name = await self.scrape(), "nanomdm_certificate_expiry_timestamp_seconds"
        while seen.value("nanomdm_storage_numbers_age_seconds", of="push_certificates") > 1e9:
            seen = await self.scrape()
        end = push.certificate.not_valid_after_utc.timestamp()
        self.assertEqual(seen.value(name, kind="push", name=TOPIC), end)

    async def test_ownLimits(self) -> None:
        """
        What is refused there takes nothing from the main site.
        """
        self.serve()
        site = self.metrics.site
        self.assertIsNot(site.budget, self.site.budget)
        self.assertEqual((site.max_body_size, site.budget.total), (4096, 1 << 20))
        clients = await gatherResults(
            [
                connectProtocol(
                    TCP4ClientEndpoint(reactor, "127.0.0.1", self.metrics_port), Collecting()
                )
                for _ in range(101)
            ]
        )
        refused = await DeferredList([client.closed for client in clients], fireOnOneCallback=True)
        self.assertIn(b" 503 ", refused[0].partition(b"\r\n")[0])
        self.assertEqual((await self.request("GET", "/healthz")).code, 200)
        for client in clients:
            client.transport.abortConnection()


class GuardedTests(ServerCase):
    """
    Without C{--metrics-listen}.
    """

    async def test_role(self) -> None:
        """
        The least role is enough.
        """
        file = Path(self.mktemp())
        file.write_text(f"prometheus read {hashlib.sha256(b'geheim').hexdigest()}\n")
        self.serve(api_key_file=file)
        credentials = base64.b64encode(b"prometheus:geheim").decode()
        answer = await self.request(
            "GET", "/metrics", headers={"Authorization": f"Basic {credentials}"}
        )
        self.assertEqual(answer.code, 200)
        self.assertIn(REQUESTS, Scrape(answer.body).families)

    async def test_noKey(self) -> None:
        self.serve()
        self.assertEqual((await self.request("GET", "/metrics")).code, 401)
        self.assertEqual((await self.api("POST", "/metrics", b"")).code, 405)
        self.assertEqual((await self.api("HEAD", "/metrics")).code, 200)

    async def test_noKeys(self) -> None:
        """
        Without an API there are no metrics, but probes.
        """
        self.serve(api=None)
        self.assertEqual((await self.request("GET", "/metrics")).code, 404)
        for path in ("/healthz", "/readyz"):
            self.assertEqual((await self.request("GET", path)).code, 200)


class ProcessCase(DaemonCase):
    """
    Starts servers with metrics at a place of their own.
    """

    def start(self, *options: str) -> DaemonProcess:
        self.daemon = super().start("--metrics-listen", "tcp:0:interface=127.0.0.1", *options)
        return self.daemon

    async def listening(self) -> int:
        """
        @return: the main port; from then on the other one is known as well.
        """
        port = await self.daemon.listening
        match = re.search(rb'"metrics listening" address=127.0.0.1:(\d+)', self.daemon.output)
        self.metrics_port = int(match[1])
        return port

    async def look(self, path: str) -> tuple[int, bytes]:
        """
        @return: status and body.
        """
        answer = await self.http.get(f"http://127.0.0.1:{self.metrics_port}{path}", timeout=30)
        return answer.code, await answer.content()

    async def scrape(self) -> Scrape:
        code, text = await self.look("/metrics")
        self.assertEqual(code, 200)
        return Scrape(text)

    async def until(self, condition: Callable[[Scrape], bool]) -> Scrape:
        """
        Scrape until something is so.
        """
        while not condition(seen := await self.scrape()):
            await deferLater(reactor, 0.05)
        return seen

    async def ready(self, status: str) -> None:
        """
        Wait until C{/readyz} says so.
        """
        expected = 200 if status == "ready" else 503
        while True:
            code, body = await self.look("/readyz")
            if json.loads(body) == {"status": status}:
                self.assertEqual(code, expected)
                return
            await deferLater(reactor, 0.05)


class ProcessTests(ProcessCase):
    """
    The daemon as a real process.
    """

    async def test_devices(self) -> None:
        """
        Scrapes while devices come and go; in the end everything is counted.
        """
        self.start()
        port = await self.listening()
        await self.ready("ready")
        devices = [ensureDeferred(self.enroll(port, f"D{one}", one)) for one in range(1, 5)]
        scrapes = [ensureDeferred(self.scrape()) for _ in range(20)]
        await gatherResults([*devices, *scrapes])
        await self.enqueue(port, "D1,D2", "C1")
        await self.send(port, samples.report("Idle"), RESULT)

        def complete(seen: Scrape) -> bool:
            return seen.value("nanomdm_command_reports_total", status="Idle") == 1

        seen = await self.until(complete)
        for type in ("Authenticate", "TokenUpdate"):
            self.assertEqual(seen.value("nanomdm_checkins_total", type=type), 4)
        labels = {"endpoint": "/mdm", "method": "PUT", "status": "200"}
        self.assertEqual(seen.value(REQUESTS, **labels), 9)
        self.assertEqual(seen.value("nanomdm_http_requests_running"), 0)
        self.assertNotIn(b"path=/metrics", self.daemon.output)
        self.assertNotIn(b"path=/readyz", self.daemon.output)

    async def test_drain(self) -> None:
        """
        After SIGTERM everybody can see until the end that the server is stopping.
        """
        self.start()
        port = await self.listening()
        await self.enroll(port, "D1")
        await self.ready("ready")
        body = samples.report("Idle", Padding="x" * 1000)
        head = b"PUT /mdm HTTP/1.1\r\nHost: a\r\nMdm-Signature: %s\r\nContent-Length: %d\r\n\r\n"
        head %= sign_like_device(device(1), body), len(body)
        client = await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), Collecting())
        client.transport.write(head + body[:100])
        # One that is answered later shows that the server has read this.
        await self.send(port, samples.report("Idle"), RESULT)
        self.daemon.transport.signalProcess("TERM")
        await self.ready("draining")
        self.assertEqual(await self.look("/healthz"), (200, b'{\n\t"status": "ok"\n}\n'))
        self.assertEqual((await self.scrape()).value("nanomdm_http_connections"), 1)
        client.transport.write(body[100:])
        self.assertIn(b" 200 OK", (await client.closed).partition(b"\r\n")[0])
        self.assertEqual(await self.daemon.ended, -signal.SIGTERM)
        self.assertIn(b'msg="stopped"', self.daemon.output)
        self.assertEqual(self.daemon.errors, b"")

    async def test_addressInUse(self) -> None:
        """
        One line says which address it is.
        """
        port = await serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(Factory())
        self.addCleanup(port.stopListening)
        number = port.getHost().port
        daemon = DaemonCase.start(self, "--metrics-listen", f"127.0.0.1:{number}")
        daemon.listening.addErrback(lambda failure: None)
        self.assertEqual(await daemon.ended, 1)
        self.assertRegex(
            daemon.errors.decode(),
            rf"^twistd nanomdm: --metrics-listen: .*{number}.*Address already in use\n$",
        )


class AwayTests(ProcessCase):
    """
    The database server says nothing, or is not there.
    """

    skip = unavailable("postgresql")

    def start(self, *options: str) -> DaemonProcess:
        engine = shared("postgresql")
        dsn = engine.create_database("metrics")
        self.addCleanup(engine.drop_database, "metrics")
        self.proxy = Proxy(engine.port)
        self.proxy.listen()
        self.addCleanup(self.proxy.refuse)
        self.database = dsn.replace(f":{engine.port}/", f":{self.proxy.port}/")
        return super().start("--storage", "pgsql", *options)

    async def test_away(self) -> None:
        """
        C{/readyz} says so in time, and C{/metrics} what was known before; both are well
        again by themselves.
        """
        self.start()
        port = await self.listening()
        await self.enroll(port, "D1")
        await self.ready("ready")
        await self.until(lambda seen: seen.value("nanomdm_enrollments") == 1)
        self.proxy.silent = True
        self.proxy.freeze()
        await self.ready("storage unavailable")
        self.assertEqual((await self.scrape()).value("nanomdm_enrollments"), 1)
        await self.proxy.refuse()
        await self.ready("storage unavailable")
        await self.until(lambda seen: seen.value("nanomdm_ready") == 0)
        self.assertEqual((await self.scrape()).value("nanomdm_enrollments"), 1)
        self.assertEqual((await self.look("/healthz"))[0], 200)
        self.proxy.silent = False
        self.proxy.listen()
        # Scrapes find that out as well as probes do.
        await self.until(lambda seen: seen.value("nanomdm_ready") == 1)
        await self.ready("ready")
        self.assertEqual(await self.daemon.signal(signal.SIGTERM), -signal.SIGTERM)
