"""
A throwaway Galera cluster: nodes of MariaDB that replicate to each other, all on the
loopback interface.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cache
from pathlib import Path

from tests.servers.base import Server, free_port
from tests.servers.mysql import MariaDB

#: Where Debian, Red Hat and SUSE have the library.
_LIBRARIES = ("/usr/lib/galera", "/usr/lib64/galera-4", "/usr/lib64/galera")

#: What a node does at each start.  The accounts are everywhere once one has made them.
_USERS = "users.sql"
_CRASHED = re.compile(r"seqno:\s+-1\b")
_POSITION = re.compile(r"Recovered position: (\S+)")


class Node(MariaDB):
    """
    A node of a cluster.

    @ivar peers: the addresses of all nodes.
    @ivar founds: whether its next start makes a new cluster.
    @ivar model: what it begins with a copy of, if that is not nothing.
    """

    engine = "galera"

    def __init__(self) -> None:
        super().__init__(memory=32)
        self.address, self._transfers, self._increments = (
            f"127.0.0.1:{free_port()}" for _ in range(3)
        )
        self.peers: list[str] = []
        self.founds = False
        self.model: Path | None = None
        self._position: str | None = None

    @classmethod
    def missing(cls) -> str | None:
        if _library() is None:
            return "no libgalera_smm.so (Debian's galera-4) on this machine"
        return super().missing() or (None if shutil.which("rsync") else "no rsync on this machine")

    def initialize(self) -> None:
        if self.model is None:
            super().initialize()
            return
        self.run(["cp", "-a", str(self.model), str(self.directory / "data")])
        (self.directory / _USERS).touch()

    def command(self) -> list[str]:
        options = (
            f"gmcast.listen_addr=tcp://{self.address}",
            f"ist.recv_addr={self._increments}",
            "gcache.size=64M",
        )
        return [
            *super().command(),
            "--binlog-format=ROW",
            "--innodb-autoinc-lock-mode=2",
            "--wsrep-on=ON",
            f"--wsrep-provider={_library()}",
            f"--wsrep-provider-options={';'.join(options)}",
            f"--wsrep-cluster-address=gcomm://{','.join(self.peers)}",
            f"--wsrep-node-address={self.address}",
            "--wsrep-sst-method=rsync",
            f"--wsrep-sst-receive-address={self._transfers}",
            *(["--wsrep-new-cluster"] if self.founds else []),
            *([f"--wsrep-start-position={self._position}"] if self._position else []),
        ]

    @property
    def running(self) -> bool:
        """
        Whether its process is there.
        """
        return self._ask("status") is None

    def status(self, name: str) -> str:
        """
        @return: the value of a status variable.
        """
        with closing(self.administer()) as connection, connection.cursor() as cursor:
            cursor.execute("SHOW GLOBAL STATUS LIKE %s", name)
            return str(cursor.fetchone()[1])

    def start(self) -> None:
        """
        See L{Server.start}.  After a crash it first looks how far it came, as Debian's
        service does, and so need only fetch what it missed.
        """
        self._position = None
        self._position = self._recovered()
        super().start()

    def _recovered(self) -> str | None:
        if self._guard is None:
            return None
        state = self.directory / "data" / "grastate.dat"
        if not state.exists() or not _CRASHED.search(state.read_text()):
            return None
        log = self.directory / "recovery.err"
        self.run([*self.command(), "--wsrep-recover", f"--log-error={log}"])
        return _POSITION.findall(log.read_text())[-1]

    def forget(self) -> None:
        """
        Have it lose its disk, so that its next start fetches everything from another node.
        """
        data = str(self.directory / "data")
        self.run(["rm", "-r", data])
        self.run(["mkdir", "-m", "700", data])

    def _accepts_logins(self, deadline: float) -> bool:
        if not super()._accepts_logins(deadline):
            return False
        while self.status("wsrep_local_state_comment") != "Synced":
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True


class Cluster:
    """
    @ivar nodes: its nodes.
    """

    def __init__(self, size: int = 3) -> None:
        self.nodes = [Node() for _ in range(size)]
        for node in self.nodes:
            node.peers = [one.address for one in self.nodes]

    def start(self) -> None:
        """
        Make the cluster, and wait until all nodes belong to it.

        @raise ServerError: if it does not start.
        """
        first, *others = self.nodes
        first.founds = True
        first.start()
        # The others begin with a copy, and need not fetch everything from it.
        first.stop()
        model = first.directory / "model"
        first.run(["cp", "-a", str(first.directory / "data"), str(model)])
        (first.directory / _USERS).write_text("")
        first.start()
        first.founds = False
        for node in others:
            node.model = model
        start_together(others)

    def create_database(self, name: str) -> list[str]:
        """
        Make an empty database.

        @return: its DSN on each node.
        """
        self.nodes[0].create_database(name)
        for node in self.nodes:
            with closing(node.administer()) as connection, connection.cursor() as cursor:
                cursor.execute("SET SESSION wsrep_sync_wait = 1")
                cursor.execute("SELECT 1")
        return [node.dsn(name) for node in self.nodes]

    def drop_database(self, name: str) -> None:
        """
        Remove a database, whoever uses it.
        """
        for node in self.nodes:
            node.disconnect_clients(name)
        self.nodes[0].drop_database(name)

    def mend(self) -> None:
        """
        Start the nodes that do not run.
        """
        start_together(node for node in self.nodes if not node.running)

    def close(self) -> None:
        """
        End all nodes and remove everything they have.
        """
        for node in self.nodes:
            node.close()


def start_together(nodes: Iterable[Server]) -> None:
    """
    Start servers that may have to wait for each other.
    """
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda node: node.start(), nodes))


@cache
def _library() -> str | None:
    """
    @return: the path of what replicates.
    """
    paths = (Path(directory, "libgalera_smm.so") for directory in _LIBRARIES)
    return next((str(path) for path in paths if path.exists()), None)


@cache
def shared() -> Cluster:
    """
    @return: a running cluster for all tests of this process.
    """
    cluster = Cluster()
    cluster.start()
    return cluster


def unavailable() -> str | None:
    """
    @return: why this machine can not run a cluster, as L{tests.servers.unavailable} says.
    """
    return None if os.environ.get("NANOMDM_REQUIRE_ENGINES") == "1" else Node.missing()
