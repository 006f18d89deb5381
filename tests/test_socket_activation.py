"""
A port that systemd opened before the server started.
"""

from __future__ import annotations

import signal
import socket
import tempfile
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    UNIXClientEndpoint,
    connectProtocol,
)
from twisted.internet.interfaces import IStreamClientEndpoint

from tests.http.test_site import Collecting
from tests.process import DaemonProcess
from tests.programs import lacking, program
from tests.servers.base import free_port
from tests.test_daemon import DaemonCase

_ACTIVATE = "systemd-socket-activate"
_PASSED_ON = ("PYTHONPATH", "HOME", "NANOMDM_APNS_URL")


class ActivatedProcess(DaemonProcess):
    """
    A daemon that C{systemd-socket-activate} starts at the first connection.

    @ivar waiting: fires once the port is open.
    """

    def __init__(self, address: str, domain: str, directory: Path) -> None:
        self.waiting: Deferred[None] = Deferred()
        passed_on = [f"--setenv={name}" for name in _PASSED_ON]
        self.prefix = [
            program(_ACTIVATE),
            f"--listen={address}",
            "--fdname=nanomdm",
            *passed_on,
        ]
        super().__init__(
            *("--listen", f"systemd:domain={domain}:name=nanomdm", "--storage", "inmem"),
            *("--ca", str(directory / "ca.pem")),
        )

    def errReceived(self, data: bytes) -> None:
        super().errReceived(data)
        if b"Listening on" in self.errors and not self.waiting.called:
            self.waiting.callback(None)


class ActivationTests(DaemonCase):
    """
    C{--listen systemd:...}, with a real port of systemd's.
    """

    skip = lacking(_ACTIVATE)

    async def assertAnswered(
        self, address: str, domain: str, endpoint: IStreamClientEndpoint
    ) -> DaemonProcess:
        """
        Clients that come before there is a server are answered by it.
        """
        daemon = ActivatedProcess(address, domain, self.directory)
        daemon.listening.addErrback(lambda failure: None)
        self.addCleanup(lambda: None if daemon.ended.called else daemon.signal(signal.SIGKILL))
        await daemon.waiting
        self.assertNotIn(b"starting", daemon.output)
        clients = [await connectProtocol(endpoint, Collecting()) for _ in range(3)]
        for client in clients:
            client.transport.write(
                b"GET /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )
        for answer in await gatherResults([client.closed for client in clients]):
            self.assertTrue(answer.startswith(b"HTTP/1.1 200 OK\r\n"), answer)
        self.assertEqual(await daemon.signal(signal.SIGTERM), -signal.SIGTERM)
        self.assertIn(b'msg="stopped"', daemon.output)
        return daemon

    async def test_port(self) -> None:
        port = free_port()
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        daemon = await self.assertAnswered(f"127.0.0.1:{port}", "INET", endpoint)
        self.assertIn(f'msg="listening" address=127.0.0.1:{port}\n'.encode(), daemon.output)
        self.assertIn(b"ip=127.0.0.1\n", daemon.output)

    async def test_path(self) -> None:
        # The tests' own directory may be too deep for the path of a socket.
        directory = tempfile.TemporaryDirectory(prefix="nanomdm-")
        self.addCleanup(directory.cleanup)
        path = f"{directory.name}/socket"
        await self.assertAnswered(path, "UNIX", UNIXClientEndpoint(reactor, path))

    async def test_domain(self) -> None:
        """
        A socket of another kind ends the start with one line.
        """
        port = free_port()
        daemon = ActivatedProcess(f"[::1]:{port}", "INET", self.directory)
        daemon.listening.addErrback(lambda failure: None)
        await daemon.waiting
        with socket.create_connection(("::1", port)):
            self.assertEqual(await daemon.ended, 1)
        self.assertIn(
            b"twistd nanomdm: --listen: 'systemd:domain=INET:name=nanomdm': the socket that"
            b" systemd passed is of domain=INET6\n",
            daemon.errors,
        )
