"""
A place where the server listens.
"""

from __future__ import annotations

import sys
from typing import Final, NoReturn

from attrs import define
from twisted.internet.defer import maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IStreamServerEndpoint,
)
from twisted.internet.tcp import Port
from twisted.logger import Logger
from twisted.python.failure import Failure

from nanomdm.errors import ConfigError
from nanomdm.http.site import Site
from nanomdm.log import printable

_log: Final = Logger(namespace="nanomdm")

#: Connections that are taken between two looks at all others.
_AT_A_TIME: Final = 50


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


@define(eq=False)
class Listener:
    """
    An address, and what is served there.

    @ivar description: the option and what it says, for messages.
    @ivar port: L{None} before it listens.
    """

    description: str
    endpoint: IStreamServerEndpoint
    site: Site
    port: IListeningPort | None = None

    def listen(self) -> IAddress:
        """
        @return: where it listens.
        @raise StartRefused: that is not possible.
        """
        failures: list[Failure] = []
        ports: list[IListeningPort] = []
        # Server endpoints know at once whether they can listen, and an exit that
        # a Deferred caught would be lost.
        self.endpoint.listen(self.site).addCallbacks(ports.append, failures.append)
        if failures:
            _refuse(failures[0], self.description)
        [self.port] = ports
        if isinstance(self.port, Port):
            _take_few(self.port)
        return self.port.getHost()

    async def close(self) -> None:
        """
        Take no new connections.
        """
        if self.port is not None:
            await maybeDeferred(self.port.stopListening)


def _take_few(port: Port) -> None:
    """
    Let a port take few connections at a time.  Twisted takes more and more in one go as long
    as more come; meanwhile nobody is served, and none that was closed is gone.
    """
    take = port.doRead

    def take_few() -> None:
        port.numberAccepts = min(port.numberAccepts, _AT_A_TIME)
        take()

    port.doRead = take_few  # type: ignore[method-assign]


def _refuse(failure: Failure, where: str) -> NoReturn:
    if not failure.check(CannotListenError, OSError):
        failure.raiseException()
    reason = getattr(failure.value, "socketError", failure.value)
    error = StartRefused(f"{where}: {reason}")
    # In the background the log is the only place that shows all of it.
    _log.error("not started", error=str(error))
    # twistd has put its log in the place where an exit says why.
    sys.stderr = sys.__stderr__
    raise error


def shown_address(address: IAddress) -> str:
    """
    @return: the address in words, for the log.
    """
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    if host is None:
        return str(address)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
