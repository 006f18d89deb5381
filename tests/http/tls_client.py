"""
A TLS client that is not the server's own library: Python's, in a thread.
"""

from __future__ import annotations

import socket
import ssl
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from twisted.internet.threads import deferToThread

from nanomdm.sim.ca import DeviceIdentity, ThrowawayCA

SECONDS = 30


def client_context(
    trusted: ThrowawayCA, identity: DeviceIdentity | None = None, directory: Path | None = None
) -> ssl.SSLContext:
    """
    @param trusted: whom the client trusts.
    @param identity: what it shows when it is asked.
    @param directory: where that can be written: Python reads files only.
    """
    context = ssl.create_default_context(cadata=trusted.pem.decode())
    if identity is not None and directory is not None:
        file = directory / f"{identity.certificate.serial_number}.pem"
        file.write_bytes(identity.pem + identity.key_pem)
        context.load_cert_chain(file)
    return context


class TLSClient:
    """
    One connection.  Everything that waits for the server has to be done in a
    thread; L{connect} and L{ask} do that.

    @param plain: a socket that is connected.
    @param session: one of another connection, to resume.
    @ivar tls: the connection.
    """

    def __init__(self, plain: socket.socket, context: ssl.SSLContext, session: Any = None) -> None:
        plain.settimeout(SECONDS)
        try:
            self.tls = context.wrap_socket(plain, server_hostname="localhost", session=session)
        except OSError:
            plain.close()
            raise
        self._http = HTTPConnection("localhost")
        self._http.sock = self.tls

    @classmethod
    async def connect(cls, port: int, context: ssl.SSLContext, session: Any = None) -> TLSClient:
        """
        @param session: one of another connection, to resume.
        """

        def connected() -> TLSClient:
            return cls(socket.create_connection(("127.0.0.1", port), SECONDS), context, session)

        return await deferToThread(connected)

    async def ask(
        self,
        path: str = "/",
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        method: str = "PUT",
    ) -> tuple[int, bytes]:
        """
        Send a request.

        @return: status and body of the answer.
        """

        def exchange() -> tuple[int, bytes]:
            self._http.request(method, path, body, headers or {})
            answer = self._http.getresponse()
            return answer.status, answer.read()

        return await deferToThread(exchange)

    @property
    def server_certificate(self) -> bytes | None:
        """
        The server's certificate, as DER.
        """
        return self.tls.getpeercert(binary_form=True)

    def close(self) -> None:
        """
        Close without a farewell.
        """
        self._http.close()
