"""
The daemon's life: listen, serve, drain, close.
"""

from __future__ import annotations

import sys
from typing import Final, NoReturn

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IReactorCore, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from nanomdm.errors import ConfigError
from nanomdm.http.site import Site
from nanomdm.interfaces import IStorage
from nanomdm.log import printable

#: Seconds that requests under way get to end after SIGTERM.
DRAIN_DEADLINE: Final = 30.0


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


class Daemon(Service):
    """
    Serves a site from a storage.

    @param reactor: what runs it.
    @param endpoint: where to listen.
    @param description: the endpoint in the operator's words, for messages.
    """

    _log = Logger(namespace="nanomdm")

    def __init__(
        self,
        reactor: IReactorCore,
        endpoint: IStreamServerEndpoint,
        description: str,
        site: Site,
        storage: IStorage,
    ) -> None:
        self._reactor = reactor
        self._endpoint = endpoint
        self._description = description
        self._site = site
        self._storage = storage
        self._port: IListeningPort | None = None

    def privilegedStartService(self) -> None:
        """
        Listen while the process may still open privileged ports.

        @raise StartRefused: that is not possible.
        """
        super().privilegedStartService()
        failures: list[Failure] = []
        # Server endpoints know at once whether they can listen, and an exit that
        # a Deferred caught would be lost.
        self._endpoint.listen(self._site).addCallbacks(self._listening, failures.append)
        if failures:
            self._refuse(failures[0])

    def startService(self) -> None:
        """
        Begin to use the storage, once the process is where it will stay.
        """
        super().startService()
        self._storage.start()

    def stopService(self) -> Deferred[None]:
        """
        Stop listening, let requests under way end, then close the storage.

        @return: fires when all of it is done.
        """
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._log.info("stopping", deadline=DRAIN_DEADLINE)
        if self._port is not None:
            await maybeDeferred(self._port.stopListening)
        await self._site.drain(DRAIN_DEADLINE)
        await self._storage.stop()
        self._log.info("stopped")

    def _listening(self, port: IListeningPort) -> None:
        self._port = port
        # Said when signals are handled too, so that who waits for the line can stop us.
        self._reactor.callWhenRunning(self._announce, _show(port.getHost()))

    def _announce(self, address: str) -> None:
        self._log.info("listening", address=address)

    def _refuse(self, failure: Failure) -> NoReturn:
        if not failure.check(CannotListenError, OSError):
            failure.raiseException()
        reason = getattr(failure.value, "socketError", failure.value)
        error = StartRefused(f"--listen: {self._description}: {reason}")
        # In the background the log is the only place that shows all of it.
        self._log.error("not started", error=str(error))
        # twistd has put its log in the place where an exit says why.
        sys.stderr = sys.__stderr__
        raise error


def _show(address: object) -> str:
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    if host is None:
        return str(address)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
