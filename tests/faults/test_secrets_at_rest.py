"""
A database file that somebody gets hold of: nothing secret is in it where a server has a
key, and servers without the key say so.
"""

from __future__ import annotations

import base64
import json
import os
import plistlib
import signal
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.utils import getProcessOutputAndValue

from nanomdm.crypto.secretkeys import new_key, parse_secret_keys
from tests import samples
from tests.faults.process_case import ProcessCase, basic, signed
from tests.faults.test_planted_secrets import BOOTSTRAP, UNLOCK, lines_of
from tests.http.case import CHECKIN, KEY, ca, device
from tests.leaks import spellings
from tests.process import DaemonProcess
from tests.samples import TOPIC
from tests.web import WebServer, listen

ONE, TWO = new_key(), new_key()
[ID_ONE], [ID_TWO] = (parse_secret_keys(key).keys for key in (ONE, TWO))
_ROOT = Path(__file__).parent.parent.parent
_NANOMDMCTL = "from nanomdm.ctl import main; main(prog_name='nanomdmctl')"


class AtRestTests(ProcessCase):
    """
    What is in the file, and who can read it.
    """

    def setUp(self) -> None:
        super().setUp()
        self.push = ca().issue_push(TOPIC)
        self.keys = self.directory / "secret-keys"
        self.receiver = WebServer()
        self.receiver.status = 500
        self.webhook = f"http://127.0.0.1:{listen(self, self.receiver)}"

    async def serve(self, *options: str) -> DaemonProcess:
        """
        Start a server, to which L{ask} speaks from now on.  What its webhook tells is given
        up at once.
        """
        daemon = self.start(
            *("--api-secrets=1", "--webhook-url", self.webhook, "--webhook-max-age=0", *options)
        )
        self.port = await daemon.listening
        return daemon

    async def serve_with_file(self) -> DaemonProcess:
        return await self.serve("--secret-key-file", str(self.keys))

    async def device(self, body: bytes) -> Any:
        """
        @return: what a device is answered.
        """
        headers = [("Content-Type", CHECKIN), *signed(device(), body)]
        return await self.ask("PUT", "/mdm", body, headers)

    async def operator(self, method: str, target: str, body: bytes = b"") -> Any:
        return await self.ask(method, target, body, basic("nanomdm", KEY))

    async def enroll_with_secrets(self) -> None:
        """
        D1 has all secrets, and there is a push certificate.
        """
        for body in (
            samples.authenticate(),
            samples.token_update(UnlockToken=UNLOCK),
            samples.checkin("SetBootstrapToken", BootstrapToken=BOOTSTRAP),
        ):
            self.assertEqual((await self.device(body)).code, 200)
        pem = self.push.pem + self.push.key_pem
        self.assertEqual((await self.operator("PUT", "/v1/pushcert", pem)).code, 200)
        while await self.given_up() < 3:
            await deferLater(reactor, 0.01, lambda: None)

    async def given_up(self) -> int:
        """
        @return: how many events the webhook's receiver did not take.
        """
        answer = await self.operator("GET", "/v1/webhook/failed")
        return len(json.loads(answer.body)["events"])

    async def assertAllThere(self) -> None:
        """
        The server tells all secrets to those who may have them.
        """
        answer = await self.device(samples.checkin("GetBootstrapToken"))
        self.assertEqual(plistlib.loads(answer.body), {"BootstrapToken": BOOTSTRAP})
        answer = await self.operator("GET", "/v1/enrollments/D1/unlocktoken")
        self.assertEqual(base64.b64decode(json.loads(answer.body)["unlock_token"]), UNLOCK)
        answer = await self.operator("GET", f"/v1/pushcert?topic={TOPIC}")
        self.assertEqual(answer.code, 200, answer.body)
        self.assertNotIn("key_error", json.loads(answer.body))

    async def assertNothingTold(self, key_id: str) -> None:
        """
        The server tells nothing, not even that there is nothing, and operators why.
        """
        answer = await self.device(samples.checkin("GetBootstrapToken"))
        self.assertEqual((answer.code, answer.body), (500, b"Internal Server Error\n"))
        for target, code, member in (
            ("/v1/enrollments/D1/bootstraptoken", 500, "error"),
            ("/v1/enrollments/D1/unlocktoken", 500, "error"),
            (f"/v1/pushcert?topic={TOPIC}", 200, "key_error"),
        ):
            answer = await self.operator("GET", target)
            self.assertEqual(answer.code, code)
            error = json.loads(answer.body)[member]
            self.assertIn(f"is encrypted with key {key_id}, which is not in --secret-key", error)
        answer = await self.operator("PUT", "/v1/push/D1")
        self.assertIn(f"the push key of {TOPIC} is encrypted with key {key_id}", str(answer.body))

    def in_files(self) -> list[bytes]:
        """
        @return: the secrets in the database's files.
        """
        text = b"".join(path.read_bytes() for path in self.directory.glob(f"{self.database.name}*"))
        return [
            secret
            for secret in (UNLOCK, BOOTSTRAP, *lines_of(self.push))
            if any(spelling in text for spelling in spellings(secret))
        ]

    async def ctl(self, *arguments: str) -> str:
        """
        @return: what C{nanomdmctl} printed that did what it should.
        """
        output, errors, status = await getProcessOutputAndValue(
            sys.executable,
            ["-c", _NANOMDMCTL, *arguments],
            env={
                **{"PATH": os.environ["PATH"], "PYTHONPATH": str(_ROOT)},
                **{"NANOMDM_STORAGE": "sqlite", "NANOMDM_STORAGE_DSN": str(self.database)},
                "NANOMDM_SECRET_KEY_FILE": str(self.keys),
            },
        )
        self.assertEqual((status, errors), (0, b""), output)
        return output.decode()

    async def change_keys(
        self, daemon: DaemonProcess, *keys: str, line: str = 'msg="secret keys read again"'
    ) -> None:
        """
        Have a running server use other keys.

        @param line: what it is to log then.
        """
        self.keys.write_text("\n".join(keys))
        await self.hang_up(daemon, line.encode())

    async def hang_up(self, daemon: DaemonProcess, line: bytes) -> None:
        written = daemon.written(line)
        daemon.transport.signalProcess("HUP")
        await written

    async def end(self, daemon: DaemonProcess) -> None:
        self.assertEqual(await daemon.signal(signal.SIGTERM), -signal.SIGTERM)
        for secret in (ONE, TWO):
            self.assertNotIn(secret.encode(), daemon.output + daemon.errors)

    async def test_life(self) -> None:
        """
        A key from the beginning, another one later, and none at the end, while a server
        goes on.
        """
        self.keys.write_text(await self.ctl("secrets", "key"))
        self.keys.write_text(f"# first\n{ONE}\n")
        daemon = await self.serve_with_file()
        await self.enroll_with_secrets()
        self.assertEqual(self.in_files(), [])
        await self.assertAllThere()
        await self.change_keys(daemon, TWO, ONE)
        await self.assertAllThere()
        await self.ctl("secrets", "rewrite")
        await self.change_keys(daemon, TWO)
        await self.assertAllThere()
        listed = await self.ctl("secrets", "status", "--json")
        found = {(one["what"], one["key"], one["state"]) for one in json.loads(listed)}
        kinds = "push key", "bootstrap token", "unlock token", "webhook event"
        self.assertEqual(found, {(kind, ID_TWO, "current") for kind in kinds})
        await self.change_keys(daemon, "plain", TWO)
        await self.ctl("secrets", "rewrite")
        await self.end(daemon)
        daemon = await self.serve()
        await self.assertAllThere()
        await self.end(daemon)

    async def test_keyTakenOut(self) -> None:
        """
        A server whose file lacks a key that is in use says so by itself.
        """
        self.keys.write_text(ONE)
        daemon = await self.serve_filled()
        line = f'msg="secrets can not be decrypted" key={ID_ONE} count=5 do="put the key back into'
        await self.change_keys(daemon, TWO, line=line)
        await self.end(daemon)

    async def test_withoutTheKey(self) -> None:
        """
        Servers with no key, or another one, refuse, and what they write themselves does
        no harm to the rest.
        """
        self.keys.write_text(ONE)
        await self.end(await self.serve_filled())
        for options in ((), ("--secret-keys", TWO)):
            daemon = await self.serve(*options)
            await self.assertNothingTold(ID_ONE)
            await self.end(daemon)
            self.assertIn(f"with key {ID_ONE}".encode(), daemon.output)
        daemon = await self.serve_with_file()
        await self.assertAllThere()
        await self.end(daemon)

    async def serve_filled(self) -> DaemonProcess:
        daemon = await self.serve_with_file()
        await self.enroll_with_secrets()
        return daemon

    async def test_switchedOn(self) -> None:
        """
        Of what was there before, nothing is left anywhere in the file.
        """
        daemon = await self.serve()
        await self.enroll_with_secrets()
        self.assertEqual(len(self.in_files()), 2 + len(lines_of(self.push)))
        self.keys.write_text(ONE)
        await self.end(daemon)
        await self.ctl("secrets", "rewrite")
        self.assertEqual(self.in_files(), [])
        daemon = await self.serve_with_file()
        await self.assertAllThere()
        await self.end(daemon)

    async def test_badFileLater(self) -> None:
        """
        The server goes on with the keys that it has, also to encrypt.
        """
        self.keys.write_text(ONE)
        daemon = await self.serve_with_file()
        self.keys.write_text(f"{TWO}\nPlanted\n")
        reason = f'old ones stay" error="--secret-key-file: {self.keys}: line 2: is not base64"'
        await self.hang_up(daemon, reason.encode())
        self.keys.unlink()
        await self.hang_up(daemon, b": No such file or directory")
        await self.enroll_with_secrets()
        self.assertEqual(self.in_files(), [])
        await self.end(daemon)
        daemon = await self.serve("--secret-keys", ONE)
        await self.assertAllThere()
        await self.end(daemon)

    async def test_othersCanRead(self) -> None:
        """
        A file that the group or anybody can read is warned of, at the start and at SIGHUP.
        """
        text = b'level=warn msg="others than its owner can read --secret-key-file" file='
        self.keys.write_text(ONE)
        self.keys.chmod(0o600)
        daemon = await self.serve_with_file()
        self.assertNotIn(text, daemon.output)
        for mode, times in ((0o640, 1), (0o600, 0), (0o604, 1)):
            self.keys.chmod(mode)
            await self.change_keys(daemon, ONE)
            self.assertEqual(daemon.output.count(text), times)
        await self.end(daemon)
        daemon = await self.serve_with_file()
        self.assertEqual(daemon.output.count(text), 1)
        await self.end(daemon)

    async def test_badFile(self) -> None:
        """
        The server does not start, and says why in a line.
        """
        for text, reason in (
            ("", "there is no key (nanomdmctl secrets key makes one)"),
            (f"{ONE}\nPlanted\n", "line 2: is not base64"),
        ):
            self.keys.write_text(text)
            daemon = self.start("--secret-key-file", str(self.keys))
            daemon.listening.addErrback(lambda failure: None)
            self.assertEqual(await daemon.ended, 1)
            line = f"twistd nanomdm: --secret-key-file: {self.keys}: {reason}\n"
            self.assertEqual(daemon.errors.decode(), line)
