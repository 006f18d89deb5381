"""
The daemon's life: listen, serve, drain, close.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

from attrs import frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IAddress
from twisted.logger import Logger

from nanomdm.http.health import Readiness
from nanomdm.http.offload import Offloader
from nanomdm.http.proxies import is_public
from nanomdm.interfaces import IStorage
from nanomdm.listener import Listener, shown_address
from nanomdm.outbound import OutboundClient
from nanomdm.push.service import PushService

#: Seconds that requests under way get to end after SIGTERM.
DRAIN_DEADLINE: Final = 30.0

#: Seconds that scrapes and probes under way get when everything else has ended.
METRICS_DEADLINE: Final = 2.0

#: Seconds of these that pushes get, so that requests that wait for them are answered.
PUSH_DEADLINE: Final = 25.0


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


@frozen(kw_only=True)
class Parts:
    """
    What a daemon is made of.

    @ivar main: where devices and operators come.
    @ivar metrics: another place to listen at, until everything else has ended.
    @ivar readiness: told when the server stops.
    @ivar pusher: sends the pushes of the main site and of jobs.
    @ivar http: sends the main site's requests to other servers.
    @ivar offloader: does what is large for requests and the webhook.
    @ivar jobs: what else there is to do.
    @ivar webhook: delivers events, if anybody gets them.  When it has stopped, which
        takes seconds, the storage knows how far it came.
    @ivar reloader: reads files again, from before everything else starts until after
        all of it has ended: the signal must not end the server.
    @ivar cert_header: the header in which proxies say who the client is, if any.
    """

    main: Listener
    metrics: Listener | None = None
    readiness: Readiness
    storage: IStorage
    pusher: PushService
    http: OutboundClient
    offloader: Offloader
    jobs: Sequence[Job]
    webhook: Job | None = None
    reloader: Job
    cert_header: str | None = None


class Daemon(Service):
    """
    Serves a site from a storage.

    @param reactor: what runs it.
    @ivar parts: what it is made of.
    """

    _log = Logger(namespace="nanomdm")

    def __init__(self, reactor: Any, parts: Parts) -> None:
        self._reactor = reactor
        self.parts = parts

    def privilegedStartService(self) -> None:
        """
        Listen while the process may still open privileged ports.

        @raise StartRefused: that is not possible.
        """
        super().privilegedStartService()
        parts = self.parts
        # Said when signals are handled too, so that who waits for the line can stop us.
        if parts.metrics is not None:
            address = parts.metrics.listen()
            self._reactor.callWhenRunning(self._announce_metrics, address)
        self._reactor.callWhenRunning(self._announce, parts.main.listen())

    def startService(self) -> None:
        """
        Begin to use the storage, once the process is where it will stay.
        """
        super().startService()
        parts = self.parts
        parts.reloader.start()
        parts.offloader.start()
        parts.storage.start()
        for job in parts.jobs:
            job.start()
        if parts.webhook is not None:
            parts.webhook.start()

    def stopService(self) -> Deferred[None]:
        """
        Stop listening and begin nothing new, let requests under way end, then close
        the connections to APNs, to other servers and the storage.

        @return: fires when all of it is done.
        """
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        parts = self.parts
        self._log.info("stopping", deadline=DRAIN_DEADLINE)
        parts.readiness.drain()
        await parts.main.close()
        jobs = [job.stop() for job in parts.jobs]
        delivered = None if parts.webhook is None else parts.webhook.stop()
        pushed = await self._drain()
        if delivered is not None:
            await delivered
        # The storage ends what it was asked for, and gives up what takes too long:
        # the others may wait for it.
        await gatherResults([pushed, parts.http.close(), parts.storage.stop(), *jobs])
        if parts.metrics is not None:
            await parts.metrics.close()
            await parts.metrics.site.drain(METRICS_DEADLINE)
        await parts.reloader.stop()
        parts.offloader.stop()
        self._log.info("stopped")

    async def _drain(self) -> Deferred[None]:
        """
        Let requests end, and pushes with them, or a little before the former must.

        @return: fires once no push is under way.
        """
        pushed: Deferred[None] = Deferred()

        def stop_pushes() -> None:
            self.parts.pusher.stop().chainDeferred(pushed)

        too_late = self._reactor.callLater(PUSH_DEADLINE, stop_pushes)
        await self.parts.main.site.drain(DRAIN_DEADLINE)
        if too_late.active():
            too_late.cancel()
            stop_pushes()
        return pushed

    def _announce(self, host: IAddress) -> None:
        self._log.info("listening", address=shown_address(host))
        header = self.parts.cert_header
        if header is not None and is_public(host):
            self._log.warn(
                "the address is public: in requests from --trusted-proxies, the header counts",
                address=shown_address(host),
                header=header,
            )

    def _announce_metrics(self, host: IAddress) -> None:
        self._log.info("metrics listening", address=shown_address(host))
