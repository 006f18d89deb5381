"""
What all throwaway database servers have in common.
"""

from __future__ import annotations

import atexit
import json
import os
import pwd
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from tests.servers import guard

_DEADLINE = 90.0
_ATTEMPTS = 5
_NAME = re.compile(r"[a-z][a-z0-9_]{0,59}")


class ServerError(Exception):
    """
    A database server can not be started or does not do what it should; the text
    has the end of its log.
    """


class Server:
    """
    A private database server on a free port of the loopback interface, with its
    data in a temporary directory, durable like a real one unless C{options} say
    otherwise.  It ends when L{close} is called, and when this process ends.

    @cvar engine: the name of what it serves.
    @cvar scheme: the scheme of its DSNs.
    @cvar administrator: the user that may do everything, without a password,
        over the loopback interface.
    @cvar user: another user who may do everything, but must give L{password}.
    @cvar owner: one who may do everything in databases of L{owned_dsn}, and nothing else.
    @cvar accounts: who the server runs as if this process is root's: the first
        account that exists.
    @cvar stop_signal: ends the server cleanly.
    @cvar last_signal: ends the server when its data is not needed any more.
    @cvar force_drop: what C{DROP DATABASE} needs where somebody may come back.
    @ivar directory: where it has everything, known after the first L{start}.
    @ivar port: its TCP port, the same for all its life.
    @ivar pid: the id of its process.
    """

    engine: ClassVar[str]
    scheme: ClassVar[str]
    administrator: ClassVar[str]
    user: ClassVar[str] = "operator"
    password: ClassVar[str] = "p@ss:w/rd%"
    owner: ClassVar[str] = "owner"
    accounts: ClassVar[Sequence[str]]
    stop_signal: ClassVar[signal.Signals]
    last_signal: ClassVar[signal.Signals] = signal.SIGKILL
    force_drop: ClassVar[str] = ""

    directory: Path
    port: int
    pid: int

    def __init__(
        self, *, memory: int = 64, options: Sequence[str] = (), home: Path | None = None
    ) -> None:
        """
        @param memory: the size of the cache of the server, in MiB.
        @param options: more arguments for the command line of the server.
        @param home: where to make L{directory}, if not where temporary files go.
        """
        self.memory = memory
        self.options = options
        self._home = home
        self._guard: subprocess.Popen[str] | None = None

    @classmethod
    def missing(cls) -> str | None:
        """
        @return: which program this machine lacks to start such a server, C{None} if
            it has all.
        """
        raise NotImplementedError

    def initialize(self) -> None:
        """
        Fill L{directory} before the first start.
        """
        raise NotImplementedError

    def command(self) -> list[str]:
        """
        @return: the command that serves L{directory} on L{port}.
        """
        raise NotImplementedError

    def administer(self) -> Any:
        """
        @return: a plain connection as L{administrator} to no database in particular,
            through the socket in L{directory}, so surely to this server.
        """
        raise NotImplementedError

    def python_connection(self, name: str) -> Any:
        """
        @return: a plain blocking connection of the Python driver to a database, as
            L{administrator}, that commits each statement by itself.  For the set-up of
            tests.
        """
        raise NotImplementedError

    def disconnect_clients(self, name: str) -> None:
        """
        End each session on a database.
        """
        raise NotImplementedError

    def run(self, command: Sequence[str]) -> None:
        """
        Run a program to its end, as the user of the server, in L{directory}.

        @raise ServerError: if its exit status is not 0.
        """
        if self._ask("run", command) != 0:
            raise ServerError(f"{self.engine}: {command[0]} failed: {self._log()}")

    def start(self) -> None:
        """
        Start the server, and wait until it accepts logins.

        @raise ServerError: if it does not.
        """
        fresh = self._guard is None
        if fresh:
            self._make()
        deadline = time.monotonic() + _DEADLINE
        # More than one, as another process may have taken the port meanwhile.
        for _ in range(_ATTEMPTS):
            if fresh:
                self.port = free_port()
            self.pid = self._ask("start", self.command())
            if self._accepts_logins(deadline):
                return
        raise ServerError(f"{self.engine} does not start: {self._log()}")

    def ensure(self) -> None:
        """
        Start the server, unless it runs.
        """
        if self._ask("status") is not None:
            self.start()

    def stop(self) -> None:
        """
        End the server cleanly, with its data kept for another L{start}.
        """
        self._ask("end", self.stop_signal)

    def kill(self) -> None:
        """
        End the server as a crash does, with its data kept for another L{start}.
        """
        self._ask("end", signal.SIGKILL)

    def restart(self) -> None:
        """
        L{stop} and L{start}, on the same port.
        """
        self.stop()
        self.start()

    def close(self) -> None:
        """
        End the server and remove everything it has.
        """
        if self._guard is not None:
            atexit.unregister(self.close)
            self._guard.communicate()
            self._guard = None

    def version(self) -> str:
        """
        @return: what the server says of its own version.
        """
        with closing(self.administer()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute("SELECT version()")
            return str(cursor.fetchone()[0])

    def create_database(self, name: str) -> str:
        """
        Make an empty database.

        @param name: small ASCII letters, digits and underscores.
        @return: its DSN.
        """
        self.execute(f"CREATE DATABASE {_checked(name)}")
        return self.dsn(name)

    def drop_database(self, name: str) -> None:
        """
        Remove a database, if it exists, whoever uses it.
        """
        self.disconnect_clients(_checked(name))
        self.execute(f"DROP DATABASE IF EXISTS {name} {self.force_drop}")

    def dsn(self, name: str) -> str:
        """
        @return: the DSN of a database, for L{administrator}.
        """
        return f"{self.scheme}://{self.administrator}@127.0.0.1:{self.port}/{name}"

    def password_dsn(self, name: str) -> str:
        """
        @return: the DSN of a database, for L{user} with L{password}.
        """
        return self._dsn_of(self.user, name)

    def owned_dsn(self, name: str) -> str:
        """
        Give a database to L{owner}.

        @return: its DSN for that user, with L{password}.
        """
        self.execute(*self.ownership(name))
        return self._dsn_of(self.owner, name)

    def ownership(self, name: str) -> Sequence[str]:
        """
        @return: the statements that give a database to L{owner}.
        """
        raise NotImplementedError

    def _dsn_of(self, user: str, name: str) -> str:
        secret = quote(self.password, safe="")
        return f"{self.scheme}://{user}:{secret}@127.0.0.1:{self.port}/{name}"

    def execute(self, *statements: str) -> None:
        """
        Execute statements as L{administrator}.
        """
        with closing(self.administer()) as connection, closing(connection.cursor()) as cursor:
            for statement in statements:
                cursor.execute(statement)

    def _account(self) -> str | None:
        if os.geteuid() != 0:
            return None
        known = {entry.pw_name for entry in pwd.getpwall()}
        return next(account for account in (*self.accounts, "nobody") if account in known)

    def _make(self) -> None:
        reason = self.missing()
        if reason is not None:
            raise ServerError(reason)
        self._guard = subprocess.Popen(
            [
                sys.executable,
                "-I",
                guard.__file__,
                self._account() or "",
                str(int(self.last_signal)),
                str(self._home or ""),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C ends the tests; the guard follows when it sees their end.
            start_new_session=True,
        )
        atexit.register(self.close)
        self.directory = Path(self._answer())
        try:
            self.initialize()
        except ServerError:
            self.close()
            raise

    def _ask(self, action: str, *arguments: object) -> Any:
        if self._guard is None:
            raise ServerError(f"{self.engine} was not started")
        assert self._guard.stdin is not None
        print(json.dumps([action, *arguments]), file=self._guard.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._guard is not None and self._guard.stdout is not None
        line = self._guard.stdout.readline()
        if not line:
            raise ServerError(f"the guard of {self.engine} died")
        return json.loads(line)

    def _accepts_logins(self, deadline: float) -> bool:
        while time.monotonic() < deadline and self._ask("status") is None:
            try:
                self.administer().close()
                return True
            except Exception:
                time.sleep(0.05)
        self._ask("end", signal.SIGKILL)
        return False

    def _log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")[-3000:]


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"not a name for a database: {name!r}")
    return name


def free_port() -> int:
    """
    @return: a port of the loopback interface that nobody has at this moment.
    """
    # Below the range that systems take the ports of outgoing connections from, so
    # that none of them takes it while the server is down.
    while True:
        port = random.randrange(20000, 32768)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
