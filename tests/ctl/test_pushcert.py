"""
Tests for C{nanomdmctl pushcert}.
"""

from __future__ import annotations

import json
from pathlib import Path

from nanomdm.sim.ca import DeviceIdentity
from tests import samples
from tests.ctl.case import CtlCase
from tests.http.case import ca


class PushCertCase(CtlCase):
    """
    A push certificate in files, and a server.
    """

    def issue(self) -> tuple[DeviceIdentity, Path, Path]:
        """
        @return: it, the file with the certificate and that with the key.
        """
        self.serve()
        identity = ca().issue_push(samples.TOPIC, key=ca().key)
        certificate, key = self.home / "push.pem", self.home / "push.key"
        # As some tools leave them.
        certificate.write_bytes(identity.pem.rstrip())
        key.write_bytes(identity.key_pem)
        return identity, certificate, key


class PutTests(PushCertCase):
    """
    C{pushcert put}.
    """

    async def test_twoFiles(self) -> None:
        _, certificate, key = self.issue()
        printed = await self.printed("pushcert", "put", str(certificate), str(key))
        first, second = printed.splitlines()
        self.assertEqual(first, f"topic\t{samples.TOPIC}")
        self.assertRegex(second, r"^not_after\t\d{4}-")
        self.assertEqual(await self.printed("pushcert", "show", samples.TOPIC), printed)

    async def test_oneFile(self) -> None:
        identity, certificate, _ = self.issue()
        certificate.write_bytes(identity.key_pem + identity.pem)
        printed = await self.printed("pushcert", "put", str(certificate), "--json")
        self.assertEqual(json.loads(printed)["topic"], samples.TOPIC)

    async def test_standardInput(self) -> None:
        identity, _, key = self.issue()
        given = identity.pem.decode()
        await self.printed("pushcert", "put", "-", str(key), input=given)

    async def test_noKey(self) -> None:
        _, certificate, _ = self.issue()
        line = await self.refused("pushcert", "put", str(certificate))
        self.assertRegex(line, "^Error: HTTP 400: .*key")

    async def test_noFile(self) -> None:
        self.port = 1
        await self.refused("pushcert", "put", code=2)
        await self.refused("pushcert", "put", "nowhere", code=2)


class ShowTests(PushCertCase):
    """
    C{pushcert show}.
    """

    async def test_unknown(self) -> None:
        self.issue()
        self.assertEqual(
            await self.refused("pushcert", "show", "none"),
            "Error: HTTP 404: there is no push certificate for this topic",
        )
