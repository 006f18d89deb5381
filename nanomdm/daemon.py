"""
The daemon's life: listen, serve, drain, close.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn, Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IStreamServerEndpoint,
)
from twisted.logger import Logger
from twisted.python.failure import Failure

from nanomdm.errors import ConfigError
from nanomdm.http.health import Readiness
from nanomdm.http.proxies import is_public
from nanomdm.http.site import Site
from nanomdm.interfaces import IStorage
from nanomdm.log import printable
from nanomdm.monitoring import Listener
from nanomdm.outbound import OutboundClient
from nanomdm.push.service import PushService

#: Seconds that requests under way get to end after SIGTERM.
DRAIN_DEADLINE: Final = 30.0

#: Seconds that scrapes and probes under way get when everything else has ended.
METRICS_DEADLINE: Final = 2.0

#: Seconds of these that pushes get, so that requests that wait for them are answered.
PUSH_DEADLINE: Final = 25.0


class StartRefused(ConfigError, SystemExit):
    """
    The daemon can not listen.

    It is an error to C{twistd}, which then removes its process id file and, when
    it runs in the background, tells the process that waits for it; and when it
    ends the interpreter, that prints one line and exits with status 1.

    @param reason: the option and what is wrong with it.
    """

    # twistd cuts what it tells after 100 bytes, the class's name included.
    __module__ = "builtins"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.code = f"twistd nanomdm: {printable(reason)}"


class Job(Protocol):
    """
    Something that the server does of its own accord, from time to time.
    """

    def start(self) -> None:
        """
        Begin; called once the storage has started.
        """
        ...

    def stop(self) -> Deferred[None]:
        """
        Begin nothing new.

        @return: fires once what is under way has ended, which the end of pushes and
            of the storage brings about.
        """
        ...


class Daemon(Service):
    """
    Serves a site from a storage.

    @param reactor: what runs it.
    @param endpoint: where to listen.
    @param description: the endpoint in the operator's words, for messages.
    @param pusher: sends the pushes of the site and of jobs.
    @param http: sends the site's requests to other servers.
    @param jobs: what else there is to do.
    @param cert_header: the header in which proxies say who the client is, if any.
    @param webhook: delivers events, if anybody gets them.  When it has stopped, which
        takes seconds, the storage knows how far it came.
    @param reloader: reads files again, from before everything else starts until after
        all of it has ended: the signal must not end the server.
    @param readiness: told when the server stops.
    @param metrics: another place to listen at, until everything else has ended.
    """

    _log = Logger(namespace="nanomdm")

    def __init__(
        self,
        reactor: Any,
        endpoint: IStreamServerEndpoint,
        description: str,
        site: Site,
        storage: IStorage,
        pusher: PushService,
        http: OutboundClient,
        jobs: Sequence[Job],
        cert_header: str | None = None,
        webhook: Job | None = None,
        reloader: Job | None = None,
        readiness: Readiness | None = None,
        metrics: Listener | None = None,
    ) -> None:
        self._reactor = reactor
        self._endpoint = endpoint
        self._description = description
        self._site = site
        self._storage = storage
        self._pusher = pusher
        self._http = http
        self._jobs = jobs
        self._cert_header = cert_header
        self._webhook = webhook
        self._reloader = reloader
        self._readiness = readiness
        self._metrics = metrics
        self._port: IListeningPort | None = None
        self._metrics_port: IListeningPort | None = None

    def privilegedStartService(self) -> None:
        """
        Listen while the process may still open privileged ports.

        @raise StartRefused: that is not possible.
        """
        super().privilegedStartService()
        if self._metrics is not None:
            endpoint, site = self._metrics.endpoint, self._metrics.site
            listening = endpoint.listen(site).addCallback(self._metrics_listening)
            self._insist(listening, f"--metrics-listen: {self._metrics.description}")
        listening = self._endpoint.listen(self._site).addCallback(self._listening)
        self._insist(listening, f"--listen: {self._description}")

    def _insist(self, listening: Deferred[None], where: str) -> None:
        failures: list[Failure] = []
        # Server endpoints know at once whether they can listen, and an exit that
        # a Deferred caught would be lost.
        listening.addErrback(failures.append)
        if failures:
            self._refuse(failures[0], where)

    def startService(self) -> None:
        """
        Begin to use the storage, once the process is where it will stay.
        """
        super().startService()
        if self._reloader is not None:
            self._reloader.start()
        self._storage.start()
        for job in self._jobs:
            job.start()
        if self._webhook is not None:
            self._webhook.start()

    def stopService(self) -> Deferred[None]:
        """
        Stop listening and begin nothing new, let requests under way end, then close
        the connections to APNs, to other servers and the storage.

        @return: fires when all of it is done.
        """
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._log.info("stopping", deadline=DRAIN_DEADLINE)
        if self._readiness is not None:
            self._readiness.drain()
        if self._port is not None:
            await maybeDeferred(self._port.stopListening)
        jobs = [job.stop() for job in self._jobs]
        delivered = None if self._webhook is None else self._webhook.stop()
        pushed: list[Deferred[None]] = []
        too_late = self._reactor.callLater(
            PUSH_DEADLINE, lambda: pushed.append(self._pusher.stop())
        )
        await self._site.drain(DRAIN_DEADLINE)
        if too_late.active():
            too_late.cancel()
            pushed.append(self._pusher.stop())
        if delivered is not None:
            await delivered
        # The storage ends what it was asked for, and gives up what takes too long:
        # the others may wait for it.
        await gatherResults([*pushed, self._http.close(), self._storage.stop(), *jobs])
        if self._reloader is not None:
            await self._reloader.stop()
        await self._stop_metrics()
        self._log.info("stopped")

    async def _stop_metrics(self) -> None:
        if self._metrics is not None and self._metrics_port is not None:
            await maybeDeferred(self._metrics_port.stopListening)
            await self._metrics.site.drain(METRICS_DEADLINE)

    def _listening(self, port: IListeningPort) -> None:
        self._port = port
        # Said when signals are handled too, so that who waits for the line can stop us.
        self._reactor.callWhenRunning(self._announce, port.getHost())

    def _announce(self, host: IAddress) -> None:
        self._log.info("listening", address=_show(host))
        if self._cert_header is not None and is_public(host):
            self._log.warn(
                "the address is public: in requests from --trusted-proxies, the header counts",
                address=_show(host),
                header=self._cert_header,
            )

    def _metrics_listening(self, port: IListeningPort) -> None:
        self._metrics_port = port
        self._reactor.callWhenRunning(self._announce_metrics, port.getHost())

    def _announce_metrics(self, host: IAddress) -> None:
        self._log.info("metrics listening", address=_show(host))

    def _refuse(self, failure: Failure, where: str) -> NoReturn:
        if not failure.check(CannotListenError, OSError):
            failure.raiseException()
        reason = getattr(failure.value, "socketError", failure.value)
        error = StartRefused(f"{where}: {reason}")
        # In the background the log is the only place that shows all of it.
        self._log.error("not started", error=str(error))
        # twistd has put its log in the place where an exit says why.
        sys.stderr = sys.__stderr__
        raise error


def _show(address: IAddress) -> str:
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    if host is None:
        return str(address)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
