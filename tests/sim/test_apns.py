"""
Tests for L{nanomdm.sim.apns}, over TLS on the loopback interface.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from OpenSSL.SSL import Error as SSLError
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredQueue, gatherResults
from twisted.internet.error import ConnectionDone, ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

import nanomdm
from nanomdm.sim.apns import SeenPush, SimulatedAPNs
from nanomdm.sim.apns_request import LARGEST_PAYLOAD
from nanomdm.sim.apns_script import Delay, GoAway, Reset, Respond, Stall, Vanish
from nanomdm.sim.ca import DeviceIdentity, ThrowawayCA
from nanomdm.sim.kept import kept_identity, push_certificate_file
from tests.crypto import build
from tests.sim.apns_client import PAYLOAD, TOKEN, TOPIC, PushClient, connect

CLIENT = build.ca().issue_push(TOPIC, key=build.device_key())


class MixedReactor(Clock):
    """
    Real sockets, and time that only tests move.
    """

    def listenSSL(self, *args: Any, **kwargs: Any) -> Any:
        return reactor.listenSSL(*args, **kwargs)  # type: ignore[attr-defined]


class Case(TestCase):
    """
    A simulated APNs and its clients.
    """

    timeout = 30

    def setUp(self) -> None:
        self.clock = MixedReactor()
        self.addCleanup(lambda: self.assertEqual(self.clock.getDelayedCalls(), []))

    async def apns(self, **options: Any) -> SimulatedAPNs:
        apns = SimulatedAPNs(self.clock, build.ca(), **options)
        await apns.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(apns.stop()))
        return apns

    async def client(
        self,
        apns: SimulatedAPNs,
        identity: DeviceIdentity | None = CLIENT,
        protocols: Sequence[bytes] = (b"h2",),
        **options: Any,
    ) -> PushClient:
        """
        A client that has the server's SETTINGS.
        """
        client = PushClient(**options)
        await connect(apns.port, build.ca().pem, identity, client, protocols)
        self.addCleanup(self.disconnect, client)
        await client.ready
        return client

    def disconnect(self, client: PushClient) -> Deferred[None]:
        assert client.transport is not None
        client.transport.loseConnection()
        return client.lost


class AnswerTests(Case):
    """
    One push and its answer.
    """

    async def test_success(self) -> None:
        apns = await self.apns()
        told: list[SeenPush] = []
        apns.on_push = told.append
        client = await self.client(apns)
        answer = await client.push()
        self.assertEqual((answer.status, answer.body), (200, b""))
        UUID(answer.headers["apns-id"])
        (seen,) = apns.seen
        self.assertEqual((seen.connection, seen.token, seen.payload), (1, TOKEN, PAYLOAD))
        self.assertEqual(seen.headers["apns-topic"], TOPIC)
        self.assertEqual(told, [seen])

    async def test_ownId(self) -> None:
        """
        An C{apns-id} that the client chose comes back.
        """
        client = await self.client(await self.apns())
        apns_id = "EC1BF194-B3B2-424A-89A9-5A918A6E6B5D"
        answer = await client.push(apns_id=apns_id)
        self.assertEqual(answer.headers["apns-id"], apns_id)

    async def test_refused(self) -> None:
        """
        A request that is wrong is refused, whatever the script says.
        """
        apns = await self.apns()
        told: list[SeenPush] = []
        apns.on_push = told.append
        apns.script("", Respond(503))
        client = await self.client(apns)
        answer = await client.push(apns_topic="com.apple.mgmt.External.2")
        self.assertEqual((answer.status, answer.body), (400, b'{"reason": "TopicDisallowed"}'))
        answer = await client.push(path="/version")
        self.assertEqual((answer.status, answer.body), (404, b'{"reason": "BadPath"}'))
        answer = await client.push(payload=b'{"mdm":"%s"}' % (b"m" * 10_000))
        self.assertEqual((answer.status, answer.body), (413, b'{"reason": "PayloadTooLarge"}'))
        self.assertTrue(
            all(len(seen.payload) <= LARGEST_PAYLOAD + 1 for seen in apns.seen), "much is kept"
        )
        self.assertEqual(told, [])

    async def test_scripted(self) -> None:
        apns = await self.apns()
        apns.script("aa", Respond(429, "TooManyRequests", {"retry-after": "7"}), Respond(200))
        apns.script("bb", Respond(410, "Unregistered", timestamp=1_700_000_000))
        client = await self.client(apns)
        answer = await client.push("aa")
        self.assertEqual((answer.status, answer.headers["retry-after"]), (429, "7"))
        self.assertEqual((await client.push("aa")).status, 200)
        answer = await client.push("bb")
        self.assertEqual(answer.status, 410)
        content = {"reason": "Unregistered", "timestamp": 1_700_000_000_000}
        self.assertEqual(json.loads(answer.body), content)
        self.assertEqual((await client.push("cc")).status, 200)

    async def test_noPushCertificate(self) -> None:
        """
        A client certificate without a topic gets into TLS only.
        """
        client = await self.client(await self.apns(), build.ca().issue(key=build.device_key()))
        answer = await client.push()
        self.assertEqual((answer.status, answer.body), (403, b'{"reason": "BadCertificate"}'))

    async def test_counts(self) -> None:
        apns = await self.apns()
        apns.script("bb", Respond(503))
        first, second = await self.client(apns), await self.client(apns)
        self.assertEqual(apns.counts.open_connections, 2)
        for client, token in ((first, "aa"), (first, "bb"), (second, "aa")):
            await client.push(token)
        await second.ping()
        await self.disconnect(second)
        await first.ping()
        self.assertEqual([seen.connection for seen in apns.seen], [1, 1, 2])
        self.assertEqual(apns.counts.tokens, {"aa": 2, "bb": 1})
        self.assertEqual(apns.counts.delivered, {"aa": 2})
        summary = apns.counts.summary()
        self.assertEqual(summary.pop("open_connections"), 1)
        self.assertEqual(
            summary,
            {
                "connections": 2,
                "requests": 3,
                "answered": 3,
                "cancelled": 0,
                "violations": 0,
                "pings": 2,
                "most_streams": 1,
                "statuses": {"200": 2, "503": 1},
                "tokens": 2,
            },
        )

    async def test_keep(self) -> None:
        """
        Only the last requests are kept.
        """
        apns = await self.apns(keep=2)
        client = await self.client(apns)
        for token in ("aa", "bb", "cc"):
            await client.push(token)
        self.assertEqual([seen.token for seen in apns.seen], ["bb", "cc"])
        self.assertEqual(apns.counts.requests, 3)

    async def test_listenerFails(self) -> None:
        """
        What goes wrong in C{on_push} is not the client's business.
        """
        apns = await self.apns()
        apns.on_push = lambda _: 1 / 0
        client = await self.client(apns)
        self.assertEqual((await client.push()).status, 200)
        await client.ping()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class LatencyTests(Case):
    """
    When the answer comes.
    """

    async def test_latency(self) -> None:
        apns = await self.apns(latency=2.0)
        client = await self.client(apns)
        pushes = [client.push() for _ in range(3)]
        await client.ping()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.advance(1.9)
        await client.ping()
        self.assertEqual(apns.counts.answered, 0)
        self.clock.advance(0.1)
        self.assertEqual([answer.status for answer in await gatherResults(pushes)], [200] * 3)

    async def test_changed(self) -> None:
        """
        A new latency is that of requests to come, which may be answered earlier.
        """
        apns = await self.apns(latency=10.0)
        client = await self.client(apns)
        slow = client.push()
        await client.ping()
        apns.latency = 1.0
        quick = client.push()
        await client.ping()
        self.clock.advance(1.0)
        await quick
        self.assertNoResult(slow)
        self.clock.advance(9.0)
        await slow

    async def test_delay(self) -> None:
        apns = await self.apns(latency=1.0)
        apns.script("aa", Delay(5.0, Respond(503)))
        client = await self.client(apns)
        late, other = client.push("aa"), client.push("bb")
        await client.ping()
        self.clock.advance(1.0)
        await other
        self.clock.advance(4.9)
        await client.ping()
        self.assertNoResult(late)
        self.clock.advance(0.1)
        self.assertEqual((await late).status, 503)

    async def test_cancelled(self) -> None:
        """
        A stream that the client resets is not answered.
        """
        apns = await self.apns(latency=1.0)
        client = await self.client(apns)
        cancelled, other = client.push(), client.push()
        client.cancel(1)
        await client.ping()
        self.assertEqual(apns.counts.cancelled, 1)
        self.clock.advance(1.0)
        await other
        self.assertEqual(apns.counts.answered, 1)
        self.assertNoResult(cancelled)

    async def test_requestAndResetAtOnce(self) -> None:
        """
        A request and its reset can arrive together.
        """
        apns = await self.apns()
        client = await self.client(apns)
        client.flush, flush = lambda: None, client.flush  # type: ignore[method-assign]
        client.push()
        client.cancel(1)
        client.flush = flush  # type: ignore[method-assign]
        self.assertEqual((await client.push()).status, 200)
        self.assertEqual((apns.counts.cancelled, apns.violations), (1, 0))


class StreamTests(Case):
    """
    MAX_CONCURRENT_STREAMS and windows.
    """

    async def test_tooMany(self) -> None:
        """
        A stream too many is refused and counted; the others are answered.
        """
        apns = await self.apns(latency=1.0, max_concurrent_streams=2)
        client = await self.client(apns)
        self.assertEqual(client.limit, 2)
        first, second, third = (client.push() for _ in range(3))
        self.assertEqual((await third).reset, ErrorCodes.REFUSED_STREAM)
        self.assertEqual((apns.violations, apns.counts.most_streams), (1, 2))
        self.clock.advance(1.0)
        self.assertEqual(((await first).status, (await second).status), (200, 200))
        fourth = client.push()
        await client.ping()
        self.clock.advance(1.0)
        self.assertEqual((await fourth).status, 200)
        self.assertEqual(apns.counts.requests, 3)

    async def test_tooManyAndResetAtOnce(self) -> None:
        """
        A stream too many and its reset can arrive together.
        """
        apns = await self.apns(max_concurrent_streams=0)
        client = await self.client(apns)
        client.flush, flush = lambda: None, client.flush  # type: ignore[method-assign]
        client.push()
        client.cancel(1)
        client.flush = flush  # type: ignore[method-assign]
        await client.ping()
        self.assertEqual((apns.violations, client.goaways), (1, []))

    async def test_changed(self) -> None:
        """
        A new limit is announced; it holds for who knows it.
        """
        apns = await self.apns(latency=1.0, max_concurrent_streams=2)
        client = await self.client(apns)
        apns.max_concurrent_streams = 1
        pushes = [client.push(), client.push()]
        await client.changed
        self.assertEqual(client.limit, 1)
        await client.ping()
        self.assertEqual(apns.violations, 0)
        self.clock.advance(1.0)
        await gatherResults(pushes)
        pushes = [client.push(), client.push()]
        self.assertEqual((await pushes[1]).reset, ErrorCodes.REFUSED_STREAM)
        self.assertEqual(apns.violations, 1)
        self.clock.advance(1.0)
        await pushes[0]
        later = await self.client(apns)
        self.assertEqual(later.limit, 1)

    async def test_manyOverTime(self) -> None:
        """
        Streams that ended are forgotten, and do not count.
        """
        apns = await self.apns(max_concurrent_streams=1)
        client = await self.client(apns)
        for _ in range(600):
            self.assertEqual((await client.push()).status, 200)
        self.assertEqual(apns.violations, 0)

    async def test_serversWindow(self) -> None:
        """
        A body larger than the window needs WINDOW_UPDATE.
        """
        apns = await self.apns(initial_window_size=4)
        client = await self.client(apns)
        self.assertEqual((await client.push()).status, 200)
        self.assertEqual(apns.seen[0].payload, PAYLOAD)

    async def test_clientsWindow(self) -> None:
        """
        A body larger than the client's window waits for WINDOW_UPDATE.
        """
        apns = await self.apns()
        apns.script("", Respond(503, "ServiceUnavailable"))
        client = await self.client(apns, window=10, acknowledge=False)
        push = client.push()
        await client.ping()
        self.assertEqual(client.answers[1].body, b'{"reason":')
        self.assertNoResult(push)
        client.http2.increment_flow_control_window(100, 1)
        client.flush()
        self.assertEqual((await push).body, b'{"reason": "ServiceUnavailable"}')
        push = client.push()
        await client.ping()
        self.assertNoResult(push)
        client.http2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 100})
        client.flush()
        self.assertEqual((await push).body, b'{"reason": "ServiceUnavailable"}')


class TroubleTests(Case):
    """
    What can happen instead of an answer.
    """

    async def test_reset(self) -> None:
        apns = await self.apns()
        apns.script("aa", Reset(ErrorCodes.ENHANCE_YOUR_CALM))
        client = await self.client(apns)
        self.assertEqual((await client.push("aa")).reset, ErrorCodes.ENHANCE_YOUR_CALM)
        self.assertEqual((await client.push("bb")).status, 200)

    async def test_stall(self) -> None:
        """
        A stream without an answer stays open, and counts.
        """
        apns = await self.apns(max_concurrent_streams=2)
        apns.script("aa", Stall())
        client = await self.client(apns)
        stalled = client.push("aa")
        self.assertEqual((await client.push("bb")).status, 200)
        self.assertNoResult(stalled)
        client.push("aa")
        self.assertEqual((await client.push("bb")).reset, ErrorCodes.REFUSED_STREAM)

    async def test_vanish(self) -> None:
        apns = await self.apns(latency=1.0)
        apns.script("aa", Vanish())
        client, other = await self.client(apns), await self.client(apns)
        pushes = [client.push("aa"), client.push("bb"), other.push("cc")]
        await gatherResults([client.ping(), other.ping()])
        self.clock.advance(1.0)
        await client.lost
        self.assertEqual(client.goaways, [])
        self.assertEqual((await pushes[2]).status, 200)
        self.assertEqual(apns.counts.open_connections, 1)

    async def test_goAway(self) -> None:
        """
        Nothing that is open gets an answer; the frame tells the last that has one.
        """
        apns = await self.apns()
        apns.script("aa", Stall())
        apns.script("bb", GoAway(reason="Shutdown"))
        client = await self.client(apns)
        await client.push("cc")
        unanswered = [client.push("aa"), client.push("bb")]
        await client.lost
        self.assertEqual(client.goaways, [(ErrorCodes.NO_ERROR, 1, b'{"reason": "Shutdown"}')])
        self.assertEqual(apns.counts.answered, 1)
        for push in unanswered:
            self.assertNoResult(push)

    async def test_goAwayAfterAnswers(self) -> None:
        """
        What is open is answered first; what comes later is refused.
        """
        apns = await self.apns(latency=1.0)
        apns.script("bb", GoAway(answer_first=True))
        client = await self.client(apns)
        first = client.push("bb")
        await client.ping()
        self.clock.advance(0.5)
        second = client.push("cc")
        # The client would not open a stream once it knew of the GOAWAY.
        await client.ping()
        self.clock.advance(0.5)
        self.assertEqual((await first).status, 200)
        self.assertEqual(client.goaways, [(ErrorCodes.NO_ERROR, 3, b"")])
        self.clock.advance(0.5)
        self.assertEqual((await second).status, 200)
        await client.lost

    async def test_goAwayRefuses(self) -> None:
        """
        A stream that was on its way when the GOAWAY was sent is refused.
        """
        apns = await self.apns(latency=1.0)
        apns.script("bb", GoAway(answer_first=True, last_stream_id=1))
        client = await self.client(apns)
        first = client.push("aa")
        await client.ping()
        self.clock.advance(0.5)
        second = client.push("bb")
        await client.ping()
        self.clock.advance(0.5)
        await first
        third = client.push("cc")
        await client.ping()
        self.clock.advance(0.5)
        late = client.push("dd")
        self.assertEqual((await late).reset, ErrorCodes.REFUSED_STREAM)
        self.assertEqual(apns.violations, 0)
        self.clock.advance(0.5)
        self.assertEqual([(await push).status for push in (second, third)], [200, 200])
        self.assertEqual(client.goaways, [(ErrorCodes.NO_ERROR, 1, b"")])

    async def test_violation(self) -> None:
        """
        Who breaks the protocol, here with DATA on stream 0, is told so and let go.
        """
        apns = await self.apns()
        client = await self.client(apns)
        assert client.transport is not None
        client.transport.write(bytes(9))
        await client.lost
        self.assertEqual([code for code, *_ in client.goaways], [ErrorCodes.PROTOCOL_ERROR])
        self.assertEqual(apns.violations, 1)

    async def test_clientLeaves(self) -> None:
        """
        The client's GOAWAY ends the connection.
        """
        apns = await self.apns()
        client = await self.client(apns)
        await client.ping()
        client.http2.close_connection()
        client.flush()
        await client.lost
        self.assertEqual(apns.violations, 0)

    async def test_pauseReading(self) -> None:
        """
        A connection that is not read from gets no answers; another one does.
        """
        apns = await self.apns()
        client = await self.client(apns)
        await client.ping()
        apns.pause_reading()
        push = client.push("aa")
        other = await self.client(apns)
        await other.push("bb")
        await other.ping()
        self.assertEqual([seen.token for seen in apns.seen], ["bb"])
        apns.resume_reading()
        self.assertEqual((await push).status, 200)


class TLSTests(Case):
    """
    Who gets in.
    """

    async def refused(
        self, apns: SimulatedAPNs, identity: DeviceIdentity | None = CLIENT, *protocols: bytes
    ) -> Exception:
        """
        @return: why the connection ended before SETTINGS came.
        """
        client = PushClient()
        await connect(apns.port, build.ca().pem, identity, client, protocols)
        try:
            await client.ready
        except Exception as error:
            await client.lost
            return error
        self.fail("SETTINGS came")

    async def test_noCertificate(self) -> None:
        self.assertIsInstance(await self.refused(await self.apns(), None, b"h2"), SSLError)

    async def test_foreignCertificate(self) -> None:
        foreign = ThrowawayCA.create(key=build.device_key()).issue_push(TOPIC)
        self.assertIsInstance(await self.refused(await self.apns(), foreign, b"h2"), SSLError)

    async def test_refuseCertificates(self) -> None:
        """
        Certificates can be refused as a whole, and accepted again.
        """
        apns = await self.apns()
        apns.refuse_certificates = True
        error = await self.refused(apns, CLIENT, b"h2")
        self.assertIn("alert unknown ca", repr(error))
        apns.refuse_certificates = False
        client = await self.client(apns)
        self.assertEqual((await client.push()).status, 200)

    async def test_clientWithoutProtocol(self) -> None:
        """
        Who does not offer HTTP/2 is let go.
        """
        apns = await self.apns()
        for protocols in ((), (b"http/1.1",)):
            await self.refused(apns, CLIENT, *protocols)

    async def test_withoutALPN(self) -> None:
        """
        A server without ALPN is something that a client must recognize.
        """
        apns = await self.apns(alpn=())
        client = await self.client(apns)
        self.assertIsNone(client.transport.negotiatedProtocol)  # type: ignore[union-attr]
        self.assertEqual((await client.push()).status, 200)


class StopTests(Case):
    """
    Vanishing and coming back.
    """

    async def test_stop(self) -> None:
        apns = await self.apns(latency=5.0)
        client = await self.client(apns)
        push = client.push()
        await client.ping()
        await apns.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(apns.counts.open_connections, 0)
        await client.lost
        assert client.reason is not None
        self.assertNotIsInstance(client.reason.value, ConnectionDone)
        self.assertNoResult(push)

    async def test_stopWhilePaused(self) -> None:
        apns = await self.apns()
        client = await self.client(apns)
        apns.pause_reading()
        await apns.stop()
        await client.lost

    async def test_again(self) -> None:
        """
        It comes back on the same port, and goes on counting.
        """
        apns = await self.apns()
        port = apns.port
        client = await self.client(apns)
        await client.push()
        await apns.stop()
        await apns.start(port)
        self.assertEqual(apns.url, f"https://localhost:{port}")
        again = await self.client(apns)
        await again.push()
        self.assertEqual([seen.connection for seen in apns.seen], [1, 2])

    async def test_abortConnections(self) -> None:
        apns = await self.apns()
        client = await self.client(apns)
        apns.abort_connections()
        await client.lost
        again = await self.client(apns)
        self.assertEqual((await again.push()).status, 200)


class _Output(ProcessProtocol):
    def __init__(self) -> None:
        self.lines: DeferredQueue[str] = DeferredQueue()
        self.ended: Deferred[Any] = Deferred()
        self._rest = ""

    def outReceived(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data.decode()).split("\n")
        for line in lines:
            self.lines.put(line)

    def errReceived(self, data: bytes) -> None:
        self.lines.put("error: " + data.decode())

    def processEnded(self, reason: Failure) -> None:
        self.ended.callback(reason.value)


class ProgramTests(Case):
    """
    L{nanomdm.sim.apns} as a program.
    """

    def start(self, directory: Path, *options: str) -> tuple[_Output, Any]:
        output = _Output()
        arguments = [sys.executable, "-m", "nanomdm.sim.apns", "--directory", str(directory)]
        root = str(Path(nanomdm.__file__).parent.parent)
        process = reactor.spawnProcess(  # type: ignore[attr-defined]
            output,
            sys.executable,
            [*arguments, "--port", "0", "--latency", "0", *options],
            {**os.environ, "PYTHONPATH": root},
        )
        self.addCleanup(self.kill, output, process)
        return output, process

    def kill(self, output: _Output, process: Any) -> Deferred[Any]:
        """
        Leave no process behind when a test failed.
        """
        # Trial takes a module's name "suppress" for its own.
        with contextlib.suppress(ProcessExitedAlready):
            process.signalProcess("KILL")
        return output.ended

    async def test_program(self) -> None:
        """
        It prints where it listens, and at the end what it saw.  Its directory has
        what a client needs.
        """
        directory = Path(self.mktemp())
        output, process = self.start(directory, "--streams", "7", "--topic", TOPIC)
        begin, _, port = (await output.lines.get()).rpartition(":")
        self.assertEqual(begin, "listening on https://localhost")
        ca = ThrowawayCA.load_or_create(directory)
        file = push_certificate_file(directory, TOPIC)
        identity = kept_identity(file, ca, lambda: self.fail("there is none"))
        client = PushClient()
        await connect(int(port), ca.pem, identity, client)
        await client.ready
        self.assertEqual(client.limit, 7)
        self.assertEqual((await client.push()).status, 200)
        process.signalProcess(signal.SIGUSR1)
        counts = json.loads(await output.lines.get())
        self.assertEqual((counts["requests"], counts["open_connections"]), (1, 1))
        await self.disconnect(client)
        process.signalProcess("TERM")
        counts = json.loads(await output.lines.get())
        self.assertEqual((counts["requests"], counts["statuses"]), (1, {"200": 1}))
        self.assertEqual((await output.ended).exitCode, 0)

    async def test_portTaken(self) -> None:
        """
        One line says that it can not listen.
        """
        apns = await self.apns()
        output, _ = self.start(Path(self.mktemp()), "--port", str(apns.port))
        self.assertIn("Couldn't listen on", await output.lines.get())
        self.assertEqual((await output.ended).exitCode, 1)
