"""
Tests for C{.ci/audit}: with the real pip-audit and a vulnerability database on this
machine, and with one that does what the real one can not be made to do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tests.web import WebServer, listen

_AUDIT = Path(__file__).parent.parent / ".ci" / "audit"
_REAL = Path(sys.executable).with_name("pip-audit")

#: What the database says of a version.
_FINE = b"{}"
_KNOWN_BAD = "requests"


def vulnerability(project: str) -> bytes:
    """
    @return: what such a database answers about a version of a project.
    """
    affected = {
        "package": {"name": project, "ecosystem": "PyPI"},
        "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "9.9"}]}],
    }
    return json.dumps({"vulns": [{"id": f"TEST-{project}", "affected": [affected]}]}).encode()


class AuditCase(TestCase):
    """
    Runs it, with a C{pip-audit} of the test.
    """

    timeout = 120

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.lock = self.directory / "a.lock"
        self.lock.write_text(
            f"one==1.0 --hash=sha256:{'0' * 64}\ntwo==2.0 --hash=sha256:{'1' * 64}\n"
        )

    def install(self, script: str) -> None:
        path = self.directory / "pip-audit"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    async def audit(self, *files: Path, **environment: str) -> tuple[int, str, str]:
        """
        @return: exit status, and what was printed.
        """
        path = f"{self.directory}{os.pathsep}{os.environ['PATH']}"
        ended = await deferToThread(
            subprocess.run,
            [sys.executable, str(_AUDIT), *map(str, files or (self.lock,))],
            env={"PATH": path, "HOME": str(self.directory), **environment},
            capture_output=True,
            text=True,
        )
        return ended.returncode, ended.stdout, ended.stderr

    async def assertSkipped(self, reason: str, **environment: str) -> None:
        """
        It says why, in one line.
        """
        status, output, errors = await self.audit(**environment)
        self.assertEqual((status, errors, output.count("\n")), (77, "", 1), output)
        self.assertTrue(output.startswith("skipped, the vulnerability database can not be reached"))
        self.assertIn(reason, output)

    async def assertFailed(self, *reasons: str) -> None:
        status, output, errors = await self.audit()
        self.assertEqual(status, 1, output)
        for reason in reasons:
            self.assertIn(reason, output + errors)


class RealTests(AuditCase):
    """
    The real pip-audit.
    """

    def setUp(self) -> None:
        super().setUp()
        self.server = WebServer()
        self.server.body = self.answer
        #: What is known, by project.
        self.known: dict[str, bytes] = {_KNOWN_BAD: vulnerability(_KNOWN_BAD)}
        self.url = f"http://127.0.0.1:{listen(self, self.server)}/"
        self.install(f'exec "{_REAL}" --vulnerability-service osv --osv-url {self.url} "$@"')

    def answer(self, body: bytes) -> bytes:
        """
        Of the database.
        """
        return self.known.get(json.loads(body)["package"]["name"], _FINE)

    async def test_clean(self) -> None:
        status, output, errors = await self.audit()
        self.assertEqual(
            (status, output, errors), (0, "2 packages audited, 0 problems\n", ""), output
        )
        asked = [json.loads(one.body)["package"]["name"] for one in self.server.asked]
        self.assertEqual(asked, [_KNOWN_BAD, "one", "two"])

    async def test_found(self) -> None:
        self.known["two"] = vulnerability("two")
        await self.assertFailed("two 2.0: TEST-two, fixed in 9.9\n2 packages audited, 1 problems")

    async def test_knowsNothing(self) -> None:
        """
        That it says nothing against any version does not count.
        """
        self.known.clear()
        await self.assertSkipped("knows nothing against requests==")

    async def test_nobodyThere(self) -> None:
        self.install(f'exec "{_REAL}" -s osv --osv-url http://127.0.0.1:9/ "$@"')
        await self.assertSkipped("ConnectionError")

    async def test_noProxy(self) -> None:
        """
        The database that it asks by default, where nobody gets out.
        """
        self.install(f'exec "{_REAL}" "$@"')
        await self.assertSkipped("ProxyError", HTTPS_PROXY="http://127.0.0.1:9")

    async def test_error(self) -> None:
        """
        What answers does not work.
        """
        self.server.status = 503
        await self.assertSkipped("ServiceError")

    async def test_goesAway(self) -> None:
        """
        In the middle: what was found before that must not be hidden.
        """
        self.known["one"] = vulnerability("one")

        def answer(body: bytes) -> bytes:
            if b'"two"' in body:
                raise RuntimeError
            return self.answer(body)

        self.server.body = answer
        await self.assertFailed("audit: the vulnerability database went away")
        self.flushLoggedErrors(RuntimeError)

    async def test_nonsense(self) -> None:
        """
        An answer that pip-audit does not understand is for people to look at.
        """
        self.server.body = b'{"vulns": 1}'
        await self.assertFailed("Traceback", "TypeError")

    async def test_badFile(self) -> None:
        """
        So is a file in which a version is missing.
        """
        self.lock.write_text("one>=1.0\n")
        await self.assertFailed("exit status 1", "one")


class FakeTests(AuditCase):
    """
    A C{pip-audit} that says what it is told to.
    """

    def say(self, *found: dict[str, Any], status: int = 0) -> None:
        """
        Of the version that is known to be bad the truth, and of others this.
        """
        bad = {"name": "requests", "version": "2.19.0", "vulns": [{"id": "I", "fix_versions": []}]}
        first, then = (json.dumps({"dependencies": one}) for one in ([bad], found))
        self.install(
            f"case \"$*\" in *a.lock*) echo '{then}'; exit {status};; esac\necho '{first}'; exit 1"
        )

    async def test_notAudited(self) -> None:
        self.say({"name": "one", "skip_reason": "never heard of it"})
        await self.assertFailed("one: not audited: never heard of it")

    async def test_nothing(self) -> None:
        self.say()
        await self.assertFailed("nothing to audit")

    async def test_contradiction(self) -> None:
        """
        The exit status and the answer must say the same.
        """
        fine = {"name": "one", "version": "1.0", "vulns": []}
        bad = {"name": "one", "version": "1.0", "vulns": [{"id": "I", "fix_versions": []}]}
        self.say(fine, status=1)
        await self.assertFailed("exit status 1")
        self.say(bad, status=0)
        await self.assertFailed("exit status 0")

    async def test_crash(self) -> None:
        """
        Whatever it says of a network: only the last line counts, and the status.
        """
        for script in (
            "echo 'requests.exceptions.ConnectionError: x\nSegmentation fault' >&2; exit 1",
            "echo 'requests.exceptions.ConnectionError: x' >&2; exit 2",
            "kill -SEGV $$",
            "exit 0",
            "echo '[]'; exit 1",
        ):
            self.install(script)
            await self.assertFailed("exit status")

    async def test_notInstalled(self) -> None:
        status, _, errors = await self.audit(PATH=str(self.directory))
        self.assertEqual(status, 1)
        self.assertIn("pip-audit", errors)

    async def test_noFile(self) -> None:
        status, _, errors = await self.audit(self.directory / "absent")
        self.assertEqual(status, 1)
        self.assertIn("no such file", errors)
