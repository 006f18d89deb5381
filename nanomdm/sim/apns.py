"""
A simulated APNs: an HTTP/2 server that wants a push certificate, and answers as
Apple's push service does, or as a script says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from attrs import Factory, asdict, define, field, frozen
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import crypto
from OpenSSL.SSL import NO_OVERLAPPING_PROTOCOLS, Connection, Context
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IAddress, IListeningPort, IOpenSSLContextFactory
from twisted.internet.protocol import ServerFactory
from twisted.internet.ssl import Certificate, CertificateOptions, TLSVersion
from twisted.internet.ssl import trustRootFromCertificates as trust
from twisted.logger import Logger
from zope.interface import implementer

from nanomdm.sim.apns_connection import APNsServerConnection
from nanomdm.sim.apns_request import device_token
from nanomdm.sim.apns_script import Reply, Script
from nanomdm.sim.ca import ThrowawayCA

H2: Final = b"h2"

#: Of how many tokens it is counted how often they were pushed to.
TOKENS: Final = 200_000

_log = Logger()


@frozen
class SeenPush:
    """
    A request that arrived.

    @ivar connection: the number of the connection, from 1.
    @ivar token: the token in the path, whether it is one or not.
    @ivar headers: the header, with pseudo-headers.
    @ivar payload: the body; the beginning of one that is too large.
    """

    connection: int
    token: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    payload: bytes = field(repr=False)


@define(eq=False)
class Counts:
    """
    What was seen so far.

    @ivar connections: how many connections were opened.
    @ivar open_connections: how many are open now.
    @ivar requests: how many requests were complete.
    @ivar answered: how many had an answer.
    @ivar cancelled: how many the client reset before their answer.
    @ivar violations: how often a client broke the protocol, by more streams than
        allowed or otherwise.
    @ivar pings: how many PING frames arrived.
    @ivar most_streams: how many streams were open at once on one connection, at
        most.
    @ivar statuses: how many answers had which HTTP status.
    @ivar tokens: how many requests were for which token.
    @ivar delivered: how many were answered with success, by token.
    """

    connections: int = 0
    open_connections: int = 0
    requests: int = 0
    answered: int = 0
    cancelled: int = 0
    violations: int = 0
    pings: int = 0
    most_streams: int = 0
    statuses: Counter[int] = Factory(Counter)
    tokens: Counter[str] = field(factory=Counter, repr=False)
    delivered: Counter[str] = field(factory=Counter, repr=False)

    def summary(self) -> dict[str, Any]:
        """
        All that fits on a line.
        """
        summary = asdict(self, filter=lambda _, value: isinstance(value, int))
        summary["statuses"] = {str(each): count for each, count in sorted(self.statuses.items())}
        summary["tokens"] = len(self.tokens)
        return summary


@implementer(IOpenSSLContextFactory)
class SimulatedAPNs(ServerFactory):
    """
    The server.

    @ivar latency: seconds from a complete request to its answer.
    @ivar initial_window_size: bytes of a body that a client can send at once, at
        least 1; for connections that are still to come.
    @ivar alpn: the protocols that TLS agrees to.  Empty leaves ALPN out, and
        HTTP/2 is spoken all the same.
    @ivar refuse_certificates: end TLS handshakes with an alert about the client's
        certificate.
    @ivar rules: what is answered.
    @ivar on_push: called after a push was answered with success.
    @ivar seen: the last requests, whatever became of them.
    @ivar counts: what was seen since the beginning, across L{stop} and L{start}.
    @ivar port: where it listens, or did last.
    """

    noisy = False

    def __init__(
        self,
        reactor: Any,
        ca: ThrowawayCA,
        *,
        latency: float = 0.0,
        max_concurrent_streams: int = 100,
        host: str = "localhost",
        initial_window_size: int = 65_535,
        alpn: Sequence[bytes] = (H2,),
        keep: int = 10_000,
    ) -> None:
        """
        @param ca: issues the server's certificate, and must have issued the
            client's.
        @param max_concurrent_streams: see L{max_concurrent_streams}.
        @param host: the name in the server's certificate, beside the loopback
            addresses.
        @param keep: how many requests C{seen} holds.
        """
        self.reactor = reactor
        self.latency = latency
        self.initial_window_size = initial_window_size
        self.alpn = alpn
        self.refuse_certificates = False
        self.rules = Script()
        self.on_push: Callable[[SeenPush], None] | None = None
        self.seen: list[SeenPush] = []
        self.counts = Counts()
        self.port = 0
        self._ca = ca
        self._host = host
        self._identity = ca.issue_server(
            *dict.fromkeys((host, "127.0.0.1", "::1")), key=ec.generate_private_key(ec.SECP256R1())
        )
        self._max_concurrent_streams = max_concurrent_streams
        self._keep = keep
        self._listening: IListeningPort | None = None
        self._connections: dict[APNsServerConnection, Deferred[None]] = {}

    @property
    def url(self) -> str:
        """
        What C{--apns-url} is to be.
        """
        return f"https://{self._host}:{self.port}"

    @property
    def violations(self) -> int:
        """
        How often a client broke the protocol.
        """
        return self.counts.violations

    @property
    def max_concurrent_streams(self) -> int:
        """
        How many streams a client may open at once on one connection.  A new value
        is announced to all of them, and holds once they confirm it.
        """
        return self._max_concurrent_streams

    @max_concurrent_streams.setter
    def max_concurrent_streams(self, limit: int) -> None:
        self._max_concurrent_streams = limit
        for connection in self._connections:
            connection.announce_stream_limit(limit)

    def script(self, prefix: str, *replies: Reply) -> None:
        """
        Set what tokens that begin with C{prefix} get, see L{Script.set}.
        """
        self.rules.set(prefix, *replies)

    async def start(self, port: int = 0, interface: str = "127.0.0.1") -> None:
        """
        Listen.

        @param port: 0 is any.
        @raise twisted.internet.error.CannotListenError: the port is taken.
        """
        listening = self.reactor.listenSSL(port, self, self, interface=interface)
        self._listening = listening
        self.port = listening.getHost().port

    async def stop(self) -> None:
        """
        Vanish: close the port and abort every connection.
        """
        listening, self._listening = self._listening, None
        if listening is not None:
            await maybeDeferred(listening.stopListening)
        self.abort_connections()
        await DeferredList(list(self._connections.values()))

    def abort_connections(self) -> None:
        """
        Abort every connection, but accept new ones.
        """
        for connection in list(self._connections):
            connection.abort()

    def pause_reading(self) -> None:
        """
        Read nothing any more from the connections that are open now.
        """
        for connection in self._connections:
            connection.pause()

    def resume_reading(self) -> None:
        """
        Read again.
        """
        for connection in self._connections:
            connection.resume()

    def buildProtocol(self, addr: IAddress | None) -> APNsServerConnection:
        """
        A connection is about to be made.
        """
        self.counts.connections += 1
        return APNsServerConnection(self, self.counts.connections)

    def connected(self, connection: APNsServerConnection) -> None:
        """
        A connection was made; its TLS handshake follows.
        """
        self._connections[connection] = Deferred()
        self.counts.open_connections += 1

    def disconnected(self, connection: APNsServerConnection) -> None:
        """
        A connection is gone.
        """
        self.counts.open_connections -= 1
        self._connections.pop(connection).callback(None)

    def received(self, connection: int, headers: Mapping[str, str], payload: bytes) -> SeenPush:
        """
        Note a complete request.
        """
        push = SeenPush(connection, device_token(headers.get(":path", "")), headers, payload)
        self.counts.requests += 1
        _count(self.counts.tokens, push.token)
        self.seen.append(push)
        if len(self.seen) > self._keep:
            del self.seen[0]
        return push

    def delivered(self, push: SeenPush) -> None:
        """
        Note an answer that was a success.
        """
        _count(self.counts.delivered, push.token)
        if self.on_push is not None:
            try:
                self.on_push(push)
            except Exception:
                _log.failure("can not tell of a push")

    def getContext(self) -> Context:
        """
        @return: how the next connection does TLS: only clients with a certificate of
            the CA get in.
        """
        trusted = [] if self.refuse_certificates else [Certificate.loadPEM(self._ca.pem)]
        options = CertificateOptions(
            privateKey=crypto.PKey.from_cryptography_key(self._identity.key),
            certificate=crypto.X509.from_cryptography(self._identity.certificate),
            trustRoot=trust(trusted),
            raiseMinimumTo=TLSVersion.TLSv1_2,
        )
        context: Context = options.getContext()
        context.set_alpn_select_callback(self._select_protocol)
        return context

    def _select_protocol(self, _: Connection, offered: Sequence[bytes]) -> Any:
        """
        Twisted's own way ends the handshake when nothing fits.
        """
        for protocol in self.alpn:
            if protocol in offered:
                return protocol
        return NO_OVERLAPPING_PROTOCOLS


def _count(counter: Counter[str], token: str) -> None:
    if token in counter or len(counter) < TOKENS:
        counter[token] += 1


if __name__ == "__main__":
    from nanomdm.sim.apns_program import main

    main()
