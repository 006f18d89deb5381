"""
Tests for C{nanomdmctl doctor}; those of what it looks at are in
L{tests.ctl.checks}.
"""

from __future__ import annotations

import hashlib
import json
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.web.resource import Resource

from nanomdm.ctl.checks.finding import Findings, ok
from nanomdm.push.address import APNsURL
from nanomdm.sim.apns import SimulatedAPNs
from nanomdm.storage.settings import StorageSettings
from tests.ctl.case import CtlCase
from tests.http.case import KEY, ca
from tests.web import WebServer, listen


class DoctorCase(CtlCase):
    """
    Looks at the configuration of a server, and at the server.
    """

    def setUp(self) -> None:
        super().setUp()
        self.port = 9
        self.ca = self.home / "ca.pem"
        self.ca.write_bytes(ca().pem)
        self.database = self.home / "nanomdm.db"

    async def findings(
        self, *arguments: str, code: int = 0, **variables: str
    ) -> list[dict[str, str]]:
        result = await self.ctl("doctor", "--json", *arguments, **variables)
        self.assertEqual(result.exit_code, code, result.output)
        self.assertEqual(result.stderr, "")
        answer = json.loads(result.stdout)
        found: list[dict[str, str]] = answer["findings"]
        for outcome in ("ok", "warn", "fail"):
            self.assertEqual(answer[outcome], sum(one["outcome"] == outcome for one in found))
        return found

    async def told(self, *arguments: str, **more: Any) -> list[str]:
        found = await self.findings(*arguments, **more)
        return [f"{one['outcome']} {one['check']}: {one['text']}" for one in found]


class ConfigurationTests(DoctorCase):
    """
    What the server would be told.
    """

    def settings(self) -> dict[str, str]:
        """
        No server is to be looked at.
        """
        return {}

    async def apns(self) -> str:
        simulated = SimulatedAPNs(reactor, ca())
        await simulated.start()
        self.addCleanup(simulated.stop)
        return simulated.url

    async def test_allWell(self) -> None:
        """
        From the file, the environment and flags, as the server takes them.
        """
        config = self.home / "nanomdm.conf"
        config.write_text(f"[nanomdm]\nca = {self.ca}\nstorage-dsn = /nowhere/db\n")
        config.chmod(0o600)
        told = await self.told(
            *("--config", str(config), "--apns-ca", str(self.ca), "--apns-proxy", "none"),
            *("--apns-url", await self.apns(), "--debug"),
            NANOMDM_STORAGE_DSN=str(self.database),
        )
        self.assertEqual(told[0], "ok configuration: the server understands it")
        self.assertIn(f"warn storage: {self.database} does not exist yet", told)
        self.assertIn("ok files: nobody else can read or change nanomdm.conf", told)
        self.assertFalse(self.database.exists())

    async def test_badConfiguration(self) -> None:
        told = await self.told("--ca", "/nowhere", code=1)
        self.assertEqual(len(told), 1)
        self.assertIn("fail configuration: --ca: '/nowhere' can not be read", told[0])

    async def test_badFile(self) -> None:
        config = self.home / "nanomdm.conf"
        config.write_text("[nanomdm]\nlistn = 1\n")
        [text] = await self.told("--config", str(config), code=1)
        self.assertIn("listn: no such option", text)
        [text] = await self.told("--config", str(self.home / "nowhere"), code=1)
        self.assertIn("nowhere: can not be read", text)

    async def test_emptyFile(self) -> None:
        """
        The server would be told nothing, which is not enough.
        """
        config = self.home / "nanomdm.conf"
        config.write_text("")
        [text] = await self.told("--config", str(config), code=1)
        self.assertIn("--ca: required", text)

    async def test_severalStorages(self) -> None:
        told = await self.told(
            *("--ca", str(self.ca), "--apns-url", "https://127.0.0.1:9", "--apns-proxy", "none"),
            *("--storage", "inmem", "--storage-dsn", ""),
            *("--storage", "sqlite", "--storage-dsn", str(self.database)),
            code=1,
        )
        self.assertIn("warn storage: everything is lost when the server ends", told)
        self.assertIn(f"warn storage: {self.database} does not exist yet", told)
        self.assertIn("fail apns: 127.0.0.1:9: Connection refused", told)

    async def test_nothing(self) -> None:
        line = await self.refused("doctor", code=2)
        self.assertIn("what is to be looked at?", line)

    async def test_text(self) -> None:
        """
        For people, with what to do.
        """
        result = await self.ctl("doctor", "--ca", "/nowhere")
        self.assertEqual(
            result.stdout,
            "fail  configuration: --ca: '/nowhere' can not be read: No such file or directory\n"
            "      The server does not start.\n"
            "ok: 0, warn: 0, fail: 1\n",
        )
        self.assertEqual(result.exit_code, 1)


class RunTests(DoctorCase):
    """
    How checks are run.
    """

    def run_checks(self, *looks: Any) -> list[str]:
        self.doctor = import_module("nanomdm.ctl.doctor")
        self.patch(self.doctor, "DEADLINE", 0.2)
        checks = [self.doctor.Check(f"c{number}", look) for number, look in enumerate(looks)]
        return [f"{one.outcome.value} {one.check}: {one.text}" for one in self.doctor._run(checks)]

    def test_late(self) -> None:
        """
        What a check found in time is told all the same, and others do not suffer.
        """
        over = threading.Event()
        self.addCleanup(over.set)

        def late() -> Findings:
            yield ok("c0", "first")
            over.wait()

        def good() -> Findings:
            yield ok("c1", "good")

        self.assertEqual(
            self.run_checks(late, good),
            ["ok c0: first", "fail c0: it was not over within 0.2 s", "ok c1: good"],
        )

    def test_broken(self) -> None:
        def broken() -> Findings:
            yield ok("c0", "first")
            raise KeyError("oops")

        self.assertEqual(self.run_checks(broken), ["ok c0: first", "fail c0: KeyError: 'oops'"])


class ServerTests(DoctorCase):
    """
    A server that runs.
    """

    def serve_file(self, **settings: Any) -> None:
        storage = StorageSettings(kind="sqlite", dsn=self.database)
        self.serve(ca=self.ca, storages=(storage,), **settings)

    async def test_everything(self) -> None:
        """
        Beside a server that runs; nothing is changed there, and nobody is pushed to.
        """
        simulated = SimulatedAPNs(reactor, ca())
        await simulated.start()
        self.addCleanup(simulated.stop)
        web = WebServer()
        hook = f"http://127.0.0.1:{listen(self, web)}/"
        self.serve_file(apns_url=APNsURL("localhost", simulated.port), apns_ca=self.ca)
        push = ca().issue_push("com.apple.mgmt.External.a")
        answer = await self.api("PUT", "/v1/pushcert", push.pem + push.key_pem)
        self.assertEqual(answer.code, 200)
        before = await self.query("SELECT cert_pem, stale_token FROM push_certs")
        told = await self.told(
            *("--ca", str(self.ca), "--storage-dsn", str(self.database)),
            *("--apns-url", simulated.url, "--apns-ca", str(self.ca), "--apns-proxy", "none"),
            *("--webhook-url", hook),
        )
        self.assertEqual([text for text in told if text.startswith("fail")], [])
        for text in (
            "ok schema: up to date",
            "ok server: it is ready",
            "ok key: the server accepts it; its role is admin",
        ):
            self.assertIn(text, told)
        self.assertEqual(await self.query("SELECT cert_pem, stale_token FROM push_certs"), before)
        self.assertEqual(simulated.counts.requests, 0)
        self.assertEqual([asked.method for asked in web.asked], ["HEAD"])

    async def test_roles(self) -> None:
        path = self.home / "keys"
        roles = ("read", "enqueue", "admin")
        path.write_text(
            "".join(
                f"{role}er {role} {hashlib.sha256(role.encode()).hexdigest()}\n" for role in roles
            )
        )
        self.serve_file(api_key_file=path)
        for role in roles:
            told = await self.told(NANOMDM_USER=f"{role}er", NANOMDM_KEY=role)
            self.assertEqual(told[-1], f"ok key: the server accepts it; its role is {role}")

    async def test_wrongKey(self) -> None:
        self.serve_file()
        told = await self.told(code=1, NANOMDM_KEY="other")
        self.assertEqual(told[-1], "fail key: the server does not accept it")
        self.assertNotIn(KEY, str(told))

    async def test_noKey(self) -> None:
        """
        Then the server is looked at without.
        """
        self.serve_file()
        told = await self.told(NANOMDM_KEY="")
        self.assertEqual(
            [text.partition(":")[0] for text in told], ["ok server", "ok clock", "ok server"]
        )

    async def test_nobody(self) -> None:
        [text] = await self.told(code=1)
        self.assertIn("fail server: http://127.0.0.1:9: nobody listens there", text)

    async def test_otherServer(self) -> None:
        """
        One of another version, whose clock is wrong, and that is not ready.
        """
        root = Resource()
        asked = []
        for name, status, body, date in (
            ("version", 200, b'{"version": "0.0.1"}', "Sat, 21 Nov 2020 06:00:00 GMT"),
            ("readyz", 503, b'{"status": "draining"}', None),
        ):
            web = WebServer()
            web.status, web.body = status, body
            web.headers = {"Date": date} if date else {}
            root.putChild(name.encode(), web)
            asked.append(web.asked)
        self.port = listen(self, root)
        told = await self.told(code=1)
        self.assertIn("warn server: it runs version 0.0.1", told[0])
        self.assertRegex(told[1], "fail clock: the clock of the server and of this machine differ")
        self.assertEqual(told[2], "fail server: it is not ready: draining")
        self.assertEqual(told[3], "fail key: there is no API")
        # Nobody waits for it to become better.
        self.assertEqual([len(one) for one in asked], [1, 1])

    async def test_noServerAtAll(self) -> None:
        self.port = listen(self, WebServer())
        [text] = await self.told(code=1)
        self.assertIn("fail server: the answer is not JSON", text)

    async def test_badServer(self) -> None:
        line = await self.refused("doctor", "--server", "ftp://x", code=2)
        self.assertIn("--server: is not https://host", line)
        line = await self.refused("doctor", "--server-ca", str(Path("nowhere")), code=2)
        self.assertIn("--server-ca: nowhere", line)
        line = await self.refused("doctor", "--user", "a:b", code=2)
        self.assertIn("--user: there must be no colon", line)
