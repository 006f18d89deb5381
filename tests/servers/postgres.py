"""
Throwaway PostgreSQL servers.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg

from tests.servers.base import Server

# Who comes over TCP must show a password, except for the administrator.
_HBA = """\
local all all trust
host all postgres 127.0.0.1/32 trust
host all all 127.0.0.1/32 scram-sha-256
"""


class PostgreSQL(Server):
    """
    C{postgres}, of the C{PATH} or the newest where Debian has it.
    """

    engine = "postgresql"
    scheme = "postgres"
    administrator = "postgres"
    accounts = ("postgres",)
    stop_signal = signal.SIGINT
    # At once and without a checkpoint, but its shared memory is given back.
    last_signal = signal.SIGQUIT
    force_drop = "WITH (FORCE)"

    @classmethod
    def missing(cls) -> str | None:
        return None if _programs() else "no postgres and initdb on this machine"

    def initialize(self) -> None:
        data = self.directory / "data"
        flags = ["--username=postgres", "--no-sync", "--encoding=UTF8", "--locale=C"]
        self.run([_program("initdb"), "--auth=trust", *flags, f"--pgdata={data}"])
        (data / "pg_hba.conf").write_text(_HBA)

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.directory,
            "shared_buffers": f"{self.memory}MB",
            "max_connections": 200,
            # Files, which go with the directory after a crash.
            "dynamic_shared_memory_type": "mmap",
        }
        pairs = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        return [_program("postgres"), "-D", str(self.directory / "data"), *pairs, *self.options]

    def start(self) -> None:
        super().start()
        with self.administer() as connection:
            for user, rights in ((self.user, "SUPERUSER"), (self.owner, "")):
                found = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [user])
                if found.fetchone() is None:
                    role = f"CREATE ROLE {user} {rights} LOGIN PASSWORD '{self.password}'"
                    connection.execute(role)

    def ownership(self, name: str) -> Sequence[str]:
        return [f"ALTER DATABASE {name} OWNER TO {self.owner}"]

    def kill(self) -> None:
        # Nobody gives back the shared memory of a server that was killed.
        lock = (self.directory / "data" / "postmaster.pid").read_text().splitlines()
        super().kill()
        segment = lock[6].split()[1]
        subprocess.run(["ipcrm", "--shmem-id", segment], check=True)

    def administer(self) -> psycopg.Connection[Any]:
        return self._connect(str(self.directory), "postgres")

    def python_connection(self, name: str) -> psycopg.Connection[Any]:
        return self._connect("127.0.0.1", name)

    def disconnect_clients(self, name: str) -> None:
        self.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        )

    def _connect(self, host: str, name: str) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host=host, port=self.port, user=self.administrator, dbname=name, autocommit=True
        )


def _program(name: str) -> str:
    programs = _programs()
    assert programs is not None
    return str(programs / name)


def _programs() -> Path | None:
    """
    @return: the directory of the programs.
    """
    found = shutil.which("postgres")
    versions = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"),
        key=lambda path: tuple(int(part) for part in path.parent.name.split(".")),
        reverse=True,
    )
    first = [Path(found).resolve().parent] if found else []
    for path in (*first, *versions):
        if (path / "postgres").exists() and (path / "initdb").exists():
            return path
    return None
