"""
Secrets that can be told from everything else, wherever a server has some, and none of
them in what it says: its output, its log, its metrics and the errors that it answers.
"""

from __future__ import annotations

import base64
import hmac
import re
import signal
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.sim.apns import SimulatedAPNs
from nanomdm.sim.apns_script import Respond
from nanomdm.sim.ca import DeviceIdentity
from tests import process, samples
from tests.faults.process_case import ProcessCase, basic, signed
from tests.http.case import CHECKIN, RESULT, ca, device
from tests.http.raw_client import Received
from tests.leaks import leaked
from tests.process import DaemonProcess
from tests.samples import TOPIC
from tests.web import RawServer, WebServer, listen

#: Each begins in another way, so that a test that fails tells which it was.
API_KEY = "ApiKeyPlanted7f3a"
READER_KEY = "ReaderKeyPlanted81b2"
WRONG_KEY = "WrongKeyPlanted0c19"
MAGIC = "MagicPlanted5d2e77"
PUSH_TOKEN = b"PushTokenPlanted\xfe\x01\x88"
DEAD_TOKEN = b"DeadTokenPlanted\xfe\x02\x99"
UNLOCK = b"UnlockPlanted\x00\xff\x31\x42\x53"
BOOTSTRAP = b"BootstrapPlanted\x00\xfd\x12\x13"
DIGEST = "DigestPlanted6e1f00"
WEBHOOK_HMAC = "WebhookHmacPlanted22"
WEBHOOK_PATH = "WebhookPathPlanted3a"
WEBHOOK_QUERY = "WebhookQueryPlanted4"
DM_SEND = "DmSendHmacPlanted555"
DM_RECEIVE = "DmRecvHmacPlanted666"
DM_PATH = "DmPathPlanted7777a"
TOKEN_FILE = b"TokenFilePlanted8888"
TOKEN_URL = "TokenUrlPlanted9999b"
PROXIED_PATH = "ProxiedPathPlanted10"
PROXY_PASSWORD = "ProxyPasswordPlanted"
ESCROW_KEY = "EscrowKeyPlanted-1212"
PARAMETER = "ParameterPlanted1313"
DSN_PASSWORD = "DsnPasswordPlanted14"
URL_PASSWORD = "UrlPasswordPlanted15"

PLANTED = tuple(
    secret if isinstance(secret, bytes) else secret.encode()
    for secret in (
        *(API_KEY, READER_KEY, WRONG_KEY, MAGIC, PUSH_TOKEN, DEAD_TOKEN, UNLOCK, BOOTSTRAP),
        *(DIGEST, WEBHOOK_HMAC, WEBHOOK_PATH, WEBHOOK_QUERY, DM_SEND, DM_RECEIVE, DM_PATH),
        *(TOKEN_FILE, TOKEN_URL, PROXIED_PATH, PROXY_PASSWORD, ESCROW_KEY, PARAMETER),
        *(DSN_PASSWORD, URL_PASSWORD),
    )
)

_KEY_PEM = re.compile(rb"-----BEGIN [^-]+-----\n(.+)-----END", re.DOTALL)


def planted(text: bytes, *more: bytes) -> list[bytes]:
    """
    @param more: what is secret besides L{PLANTED}.
    @return: the secrets that are in C{text}.
    """
    return leaked(text, (*PLANTED, *more))


def lines_of(identity: DeviceIdentity) -> list[bytes]:
    """
    @return: the private parts of a key's PEM.
    """
    match = _KEY_PEM.search(identity.key_pem)
    assert match is not None
    # The first lines and the last are the same in others, or too short.
    return match[1].split(b"\n")[5:20]


class LeakedTests(SynchronousTestCase):
    """
    L{planted} finds them.
    """

    def test_everySpelling(self) -> None:
        for secret in PLANTED:
            self.assertEqual(len([one for one in PLANTED if secret in one]), 1)
            for before in (b"", b"a", b"ab", b"abc"):
                for text in (
                    before + secret,
                    repr(before + secret).encode(),
                    (before + secret).hex().encode(),
                    (before + secret).hex().upper().encode(),
                    quote(before + secret).encode(),
                    base64.b64encode(before + secret + b"z"),
                    base64.urlsafe_b64encode(before + secret + before),
                ):
                    self.assertEqual(planted(b"level=info " + text), [secret])
        self.assertEqual(planted(b"level=info msg=request"), [])


class PlantedTests(ProcessCase):
    """
    Everything happens to a daemon that logs all it can.
    """

    async def setUp_everything(self, *options: str) -> None:
        """
        Start all, with secrets wherever there can be some.
        """
        self.told: list[bytes] = []
        self.push = ca().issue_push(TOPIC)
        self.receiver, self.dm, self.elsewhere = WebServer(), WebServer(), WebServer()
        self.apns = SimulatedAPNs(reactor, ca(), latency=0)
        self.apns.script(DEAD_TOKEN.hex(), Respond(400, "BadDeviceToken"))
        await self.apns.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.apns.stop()))
        file = self.directory / "token"
        file.write_bytes(TOKEN_FILE)
        elsewhere = f"http://127.0.0.1:{listen(self, self.elsewhere)}"
        webhook = f"http://127.0.0.1:{listen(self, self.receiver)}"
        self.daemon = DaemonProcess(
            *("--listen", "tcp:0:interface=127.0.0.1", "--storage-dsn", str(self.database)),
            *("--ca", str(self.directory / "ca.pem"), "--apns-ca", str(self.directory / "ca.pem")),
            *("--debug", "--migration", "--ua-zl-dc", "--api-secrets=1"),
            *("--api-key-file", self.key_file({"reader": ("read", READER_KEY)})),
            *("--token", f"com.apple.maid={file}", "--apns-url", self.apns.url, *options),
            NANOMDM_API=API_KEY,
            NANOMDM_WEBHOOK_URL=f"{webhook}/{WEBHOOK_PATH}?key={WEBHOOK_QUERY}",
            NANOMDM_WEBHOOK_HMAC_KEY=WEBHOOK_HMAC,
            NANOMDM_DM=f"http://127.0.0.1:{listen(self, self.dm)}/{DM_PATH}",
            NANOMDM_DM_SEND_HMAC_KEY=DM_SEND,
            NANOMDM_DM_RECV_HMAC_KEY=DM_RECEIVE,
            NANOMDM_TOKEN_URL=f"http://127.0.0.1:9/?key={TOKEN_URL}",
            NANOMDM_AUTH_PROXY_URL=f"{elsewhere}/{PROXIED_PATH}",
            NANOMDM_ESCROW_KEY_UNLOCK_URL="https://127.0.0.1:9/",
        )
        self.addCleanup(lambda: self.daemon.ended.called or self.daemon.signal(signal.SIGKILL))
        self.port = await self.daemon.listening

    async def send(
        self, body: bytes, code: int = 200, content_type: str = CHECKIN, number: int = 1
    ) -> Received:
        """
        Send a message as a device.
        """
        headers = [("Content-Type", content_type), *signed(device(number), body)]
        target = f"/mdm?parameter={PARAMETER}"
        return await self.expect_code(code, "PUT", target, body, headers)

    async def api(self, code: int, method: str, target: str, body: bytes = b"") -> Received:
        """
        Ask as an operator.
        """
        headers = [
            *basic("nanomdm", API_KEY),
            ("Content-Type", "application/x-www-form-urlencoded"),
        ]
        return await self.expect_code(code, method, target, body, headers)

    async def expect_code(self, code: int, *request: Any) -> Received:
        """
        Keep what is answered, if it is an error.
        """
        answer = await self.ask(*request)
        self.assertEqual(answer.code, code, (request[:2], answer.body))
        if code >= 400:
            self.told.append(repr(answer.headers).encode() + answer.body)
        return answer

    async def until_logged(self, pattern: bytes) -> None:
        """
        Wait for a line.
        """
        while not re.search(pattern, self.daemon.output):
            await deferLater(reactor, 0.01, lambda: None)

    async def enroll_all(self) -> None:
        """
        D1, with everything, and D2, whose token is dead.
        """
        for number, token in ((1, PUSH_TOKEN), (2, DEAD_TOKEN)):
            udid = f"D{number}"
            update: dict[str, Any] = {"PushMagic": MAGIC, "Token": token, "UnlockToken": UNLOCK}
            await self.send(samples.authenticate(udid), number=number)
            await self.send(samples.token_update(udid, **update), number=number)
        user = {"UserID": "U1", "UserShortName": "ada"}
        await self.send(samples.token_update(PushMagic=MAGIC, Token=PUSH_TOKEN, **user))
        await self.send(samples.checkin("SetBootstrapToken", BootstrapToken=BOOTSTRAP))
        await self.send(samples.checkin("GetBootstrapToken"))
        for response in ("", DIGEST):
            await self.send(
                samples.checkin("UserAuthenticate", DigestResponse=response, UserID="U1")
            )

    async def ask_others(self) -> None:
        """
        Let devices ask other servers, which answer, wrongly, or not at all.
        """
        await self.send(samples.checkin("GetToken", TokenServiceType="com.apple.maid"))
        await self.send(samples.checkin("GetToken", TokenServiceType="com.example"), 500)
        ask = samples.checkin("DeclarativeManagement", Endpoint="tokens")
        await self.send(ask, 500)
        signature = hmac.digest(DM_RECEIVE.encode(), b"answer", "sha256")
        self.dm.headers["X-Hmac-Signature"] = base64.b64encode(signature).decode()
        await self.send(ask)
        path = f"/authproxy/x?key={PARAMETER}"
        await self.expect_code(200, "GET", path, b"", signed(device(1), b""))
        await self.expect_code(400, "GET", path, b"", signed(device(1), b"other"))

    async def refuse_devices(self) -> None:
        """
        Messages with secrets that can not be taken.
        """
        update = samples.token_update(PushMagic=MAGIC, Token=PUSH_TOKEN, UnlockToken=UNLOCK)
        for message in (
            update[:-30],
            update.replace(b"<dict>", b"<array>"),
            b'<!DOCTYPE plist [<!ENTITY a "%s">]>' % MAGIC.encode() + update,
            update.replace(b"TokenUpdate", b"Unknown"),
            samples.token_update(PushMagic=MAGIC.encode(), Token=PUSH_TOKEN),
            samples.token_update(PushMagic=MAGIC, Token=MAGIC),
            samples.token_update(PushMagic=MAGIC, Token=PUSH_TOKEN, Topic=[MAGIC]),
            samples.token_update(PushMagic=MAGIC, Token=PUSH_TOKEN, UnlockToken=MAGIC),
            samples.token_update("D2", PushMagic=MAGIC, Token=PUSH_TOKEN),
            samples.checkin("SetBootstrapToken", BootstrapToken=MAGIC),
        ):
            await self.send(message, 400)
        answer = await self.ask("PUT", f"/mdm?a={PARAMETER}", update, [("Mdm-Signature", MAGIC)])
        self.told.append(answer.body)

    async def operate(self) -> None:
        """
        What operators do, and get wrong.
        """
        right = self.push.pem + self.push.key_pem
        await self.api(200, "PUT", "/v1/pushcert", right)
        await self.api(400, "PUT", "/v1/pushcert", self.push.pem + device(1).key_pem)
        await self.api(400, "PUT", "/v1/pushcert", self.push.key_pem)
        await self.api(400, "PUT", "/v1/pushcert", right[:-200])
        await self.api(400, "PUT", "/v1/enqueue/D1", b"<plist>" + UNLOCK)
        for kind in ("bootstraptoken", "unlocktoken"):
            await self.api(200, "GET", f"/v1/enrollments/D1/{kind}")
            reader = basic("reader", READER_KEY)
            await self.expect_code(403, "GET", f"/v1/enrollments/D1/{kind}", b"", reader)
        for name in ("nanomdm", "reader", WRONG_KEY):
            await self.expect_code(401, "GET", "/v1/enrollments", b"", basic(name, WRONG_KEY))
        await self.api(404, "GET", "/v1/enrollments/nobody")
        fields = {"serial": "S", "productType": "P", "escrowKey": ESCROW_KEY, "orgName": "O"}
        form = urlencode({**fields, "topic": TOPIC, "guid": "G"}).encode()
        await self.api(502, "POST", "/v1/escrowkeyunlock", form)
        await self.api(400, "POST", "/v1/escrowkeyunlock", urlencode(fields).encode())
        listed = await self.api(200, "GET", "/v1/enrollments")
        self.told.append(listed.body)
        metrics = await self.api(200, "GET", "/metrics")
        self.told.append(metrics.body)
        failed = await self.api(200, "GET", "/v1/webhook/failed")
        self.told.append(failed.body)

    async def break_storage(self) -> None:
        """
        Take tables away, so that statements with secrets in them fail.
        """
        connection = sqlite3.connect(self.database)
        for (name,) in connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        ).fetchall():
            if name in ("devices", "enrollments", "users", "push_certs"):
                connection.execute(f"ALTER TABLE {name} RENAME TO gone_{name}")
        connection.close()
        update = samples.token_update(PushMagic=MAGIC, Token=PUSH_TOKEN, UnlockToken=UNLOCK)
        await self.send(update, 500)
        await self.send(samples.checkin("SetBootstrapToken", BootstrapToken=BOOTSTRAP), 500)
        await self.api(500, "GET", "/v1/enrollments/D1/unlocktoken")
        await self.api(500, "PUT", "/v1/pushcert", self.push.pem + self.push.key_pem)

    async def assertNothingLeaked(self, number: signal.Signals = signal.SIGTERM) -> None:
        """
        Stop, and look through all that was said.
        """
        self.assertEqual(await self.daemon.signal(number), -number)
        key = [*lines_of(self.push), *lines_of(device(1))]
        for text in (self.daemon.output, self.daemon.errors, *self.told):
            self.assertEqual(planted(text, *key), [])

    async def test_logfmt(self) -> None:
        """
        Pushes arrive, and the webhook's receiver fails first.
        """
        await self.setUp_everything()
        self.receiver.status = 500
        await self.enroll_all()
        await self.ask_others()
        await self.refuse_devices()
        await self.operate()
        await self.api(200, "PUT", "/v1/enqueue/D1", samples.command("C1"))
        self.told.append((await self.api(500, "PUT", "/v1/push/D2")).body)
        await self.send(samples.report("Acknowledged", "C1", UnlockToken=UNLOCK), 200, RESULT)
        await self.until_logged(rb"127\.0\.0\.1:\d+[^\n]*500|500[^\n]*127\.0\.0\.1:\d+")
        await self.break_storage()
        await self.assertNothingLeaked()
        # It was all there.
        self.assertEqual(self.apns.counts.tokens.keys(), {PUSH_TOKEN.hex(), DEAD_TOKEN.hex()})
        [asked, *_] = self.receiver.asked
        self.assertEqual(asked.uri, f"/{WEBHOOK_PATH}?key={WEBHOOK_QUERY}")
        self.assertEqual({one.uri for one in self.dm.asked}, {f"/{DM_PATH}/tokens"})
        self.assertEqual(
            [one.uri for one in self.elsewhere.asked], [f"/{PROXIED_PATH}/x?key={PARAMETER}"]
        )
        for line in (b'msg="secret read"', b"message_type=UserAuthenticate", b"level=debug"):
            self.assertIn(line, self.daemon.output)

    async def test_json(self) -> None:
        """
        No push arrives, as the proxy does not take the password.
        """
        listening = re.compile(rb'"msg":"listening","address":"127\.0\.0\.1:(\d+)"')
        self.patch(process, "_LISTENING", listening)
        refusing = RawServer(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n", hang_up=True)
        proxy = f"http://proxy:{PROXY_PASSWORD}@127.0.0.1:{listen(self, refusing)}"
        await self.setUp_everything("--log-format=json", f"--apns-proxy={proxy}")
        await self.enroll_all()
        await self.ask_others()
        await self.refuse_devices()
        await self.operate()
        await self.api(207, "PUT", "/v1/enqueue/D1,nobody?nopush=1", samples.command("C1"))
        # This is tried for as long as its server has time to stop, so that has none.
        pushing = Deferred.fromCoroutine(
            self.ask("PUT", "/v1/push/D1", b"", basic("nanomdm", API_KEY))
        )
        await self.until_logged(rb"the proxy 127\.0\.0\.1:\d+ answered 407")
        await self.break_storage()
        await self.assertNothingLeaked(signal.SIGKILL)
        self.assertEqual((await pushing).body, b"")
        self.assertEqual(self.apns.counts.tokens.keys(), set())
        self.assertEqual(planted(await refusing.reached), [PROXY_PASSWORD.encode()])
        self.assertIn(b'"message_type":"UserAuthenticate"', self.daemon.output)


class StartTests(ProcessCase):
    """
    Daemons that do not start say why, and no password.
    """

    async def said(self, *options: str, **environment: str) -> bytes:
        """
        @return: all that was printed until the end.
        """
        daemon = DaemonProcess(
            *("--listen", "tcp:0:interface=127.0.0.1", "--ca", str(self.directory / "ca.pem")),
            *("--storage-dsn", str(self.database)) if "--storage" not in options else (),
            *("--debug", *options),
            **environment,
        )
        daemon.listening.addErrback(lambda failure: None)
        self.assertEqual(await daemon.ended, 1)
        return daemon.output + daemon.errors

    async def test_databases(self) -> None:
        """
        Nobody is there.
        """
        for kind, dsn in (
            ("pgsql", f"postgres://mdm:{DSN_PASSWORD}@127.0.0.1:9/mdm?connect_timeout=2"),
            ("pgsql", f"host=127.0.0.1 port=9 user=mdm password={DSN_PASSWORD} dbname=mdm"),
            ("mysql", f"mdm:{DSN_PASSWORD}@tcp(127.0.0.1:9)/mdm"),
        ):
            said = await self.said("--storage", kind, "--storage-dsn", dsn)
            self.assertIn(b"--storage-dsn", said)
            self.assertIn(b"127.0.0.1", said)
            self.assertEqual(planted(said), [])

    async def test_options(self) -> None:
        """
        Values that can not be used are not quoted where they may be secrets.
        """
        url = f"http://user:{URL_PASSWORD}@127.0.0.1/"
        keys = Path(self.key_file({"reader": ("read", READER_KEY)}))
        keys.write_text(f"reader read {READER_KEY}\n")
        for name, value in (
            ("webhook-url", url),
            ("apns-proxy", f"http://user:{URL_PASSWORD}@127.0.0.1:port"),
            ("api", f"{API_KEY}\n"),
            ("api-key-file", str(keys)),
        ):
            said = await self.said(**{"NANOMDM_" + name.upper().replace("-", "_"): value})
            self.assertIn(name, said.decode().lower().replace("_", "-"))
            self.assertEqual(planted(said), [])
