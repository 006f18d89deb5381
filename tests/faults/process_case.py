"""
Daemons as processes, and a client that sends them whatever it is told to.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable

from twisted.internet.defer import Deferred

from nanomdm.sim.ca import DeviceIdentity
from nanomdm.sim.signing import sign_like_device
from tests.http.raw_client import RawClient, Received
from tests.test_daemon import DaemonCase

#: The header of C{--cert-header}.
CERTIFICATE = "X-Client-Cert"

Header = tuple[str, str]


def basic(name: str, key: str) -> list[Header]:
    """
    The header by which an operator proves who that is.
    """
    encoded = base64.b64encode(f"{name}:{key}".encode()).decode()
    return [("Authorization", f"Basic {encoded}")]


def signed(identity: DeviceIdentity, body: bytes) -> list[Header]:
    """
    The header by which a device proves who it is.
    """
    return [("Mdm-Signature", sign_like_device(identity, body).decode())]


def shown(identity: DeviceIdentity, body: bytes = b"") -> list[Header]:
    """
    The same from a proxy in front.
    """
    return [(CERTIFICATE, f":{base64.b64encode(identity.der).decode()}:")]


class ProcessCase(DaemonCase):
    """
    A test case with daemons.

    @ivar port: of the daemon that L{ask} speaks to.
    """

    port: int

    def key_file(self, keys: dict[str, tuple[str, str]]) -> str:
        """
        @param keys: roles and keys, by the names of the keys.
        @return: a file for C{--api-key-file}.
        """
        lines = (
            f"{name} {role} {hashlib.sha256(key.encode()).hexdigest()}\n"
            for name, (role, key) in keys.items()
        )
        path = self.directory / "api-keys"
        path.write_text("".join(lines))
        return str(path)

    def connect(self, identity: DeviceIdentity | None) -> Deferred[RawClient]:
        """
        @param identity: who that is, where that is told by TLS.
        """
        return RawClient.connect(self.port)

    async def ask(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        headers: Iterable[Header] = (),
        identity: DeviceIdentity | None = None,
    ) -> Received:
        """
        Send a request on a connection of its own.
        """
        own = [("Host", "mdm.example.com"), ("Connection", "close")]
        own.append(("Content-Length", str(len(body))))
        lines = "".join(f"{name}: {value}\r\n" for name, value in [*own, *headers])
        client = await self.connect(identity)
        client.transport.write(f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode() + body)
        return await client.ended
