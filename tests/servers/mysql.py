"""
Throwaway servers of MariaDB and MySQL.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pymysql
from pymysql.constants import ER

from tests.servers.base import Server

# Debian has servers where the PATH of an ordinary user does not go.
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
_MYSQL_ROOT = "/var/cache/nanomdm/mysql"


class _MySQLProtocol(Server):
    """
    What the two have in common.
    """

    scheme = "mysql"
    administrator = "root"
    accounts = ("mysql",)
    stop_signal = signal.SIGTERM

    def initialize(self) -> None:
        root, user = "'root'@'127.0.0.1'", f"'{self.user}'@'127.0.0.1'"
        statements = (
            f"CREATE USER IF NOT EXISTS {root}",
            f"GRANT ALL ON *.* TO {root} WITH GRANT OPTION",
            f"CREATE USER IF NOT EXISTS {user} IDENTIFIED BY '{self.password}'",
            f"GRANT ALL ON *.* TO {user} WITH GRANT OPTION",
        )
        # The server does it at each start, before anyone can log in.
        users = "".join(f"{statement};\n" for statement in statements)
        path = self.directory / "users.sql"
        path.write_text(users)
        path.chmod(0o644)

    def ownership(self, name: str) -> Sequence[str]:
        owner = f"'{self.owner}'@'127.0.0.1'"
        return [
            f"CREATE USER IF NOT EXISTS {owner} IDENTIFIED BY '{self.password}'",
            f"GRANT ALL ON {name}.* TO {owner}",
        ]

    def arguments(self) -> list[str]:
        """
        @return: the arguments of the command that both servers know.
        """
        return [
            f"--datadir={self.directory / 'data'}",
            f"--socket={self.directory / 'socket'}",
            f"--pid-file={self.directory / 'pid'}",
            f"--init-file={self.directory / 'users.sql'}",
            f"--port={self.port}",
            f"--innodb-buffer-pool-size={self.memory}M",
            "--bind-address=127.0.0.1",
            "--character-set-server=utf8mb4",
            "--innodb-flush-log-at-trx-commit=1",
            "--max-connections=200",
            "--performance-schema=OFF",
            "--skip-log-bin",
            "--skip-name-resolve",
            *self.options,
        ]

    def administer(self) -> Any:
        return pymysql.connect(
            user="root", unix_socket=str(self.directory / "socket"), autocommit=True
        )

    def python_connection(self, name: str) -> Any:
        return pymysql.connect(
            user="root", host="127.0.0.1", port=self.port, database=name, autocommit=True
        )

    def disconnect_clients(self, name: str) -> None:
        connection = self.administer()
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT id FROM information_schema.processlist WHERE db = %s", name)
            for (session,) in cursor.fetchall():
                try:
                    cursor.execute(f"KILL {session}")
                except pymysql.err.OperationalError as error:
                    if error.args[0] != ER.NO_SUCH_THREAD:
                        raise


class MariaDB(_MySQLProtocol):
    """
    C{mariadbd}.
    """

    engine = "mariadb"

    @classmethod
    def missing(cls) -> str | None:
        names = ("mariadbd", "mariadb-install-db")
        lacking = [name for name in names if not shutil.which(name, path=_PATH)]
        return f"no {' and no '.join(lacking)} on this machine" if lacking else None

    def initialize(self) -> None:
        super().initialize()
        flags = ["--auth-root-authentication-method=normal", "--skip-name-resolve"]
        program = ["mariadb-install-db", "--no-defaults", "--skip-test-db", *flags]
        self.run([*program, f"--datadir={self.directory / 'data'}"])

    def command(self) -> list[str]:
        program = shutil.which("mariadbd", path=_PATH)
        assert program is not None
        return [program, "--no-defaults", *self.arguments()]


class MySQL(_MySQLProtocol):
    """
    C{mysqld} of Oracle's MySQL: of the C{PATH}, or out of the Debian system in the
    directory that C{NANOMDM_MYSQL_ROOT} names.  That one is run by the dynamic loader
    and with the libraries of its own system, which needs no C{chroot}, so no root.
    """

    engine = "mysql"

    @classmethod
    def missing(cls) -> str | None:
        return None if _mysqld() else f"no mysqld of MySQL on this machine, nor in {_mysql_root()}"

    def initialize(self) -> None:
        super().initialize()
        self.run([*_mysqld(), "--initialize-insecure", f"--datadir={self.directory / 'data'}"])

    def command(self) -> list[str]:
        return [*_mysqld(), "--secure-file-priv=NULL", "--mysqlx=OFF", *self.arguments()]


def _mysql_root() -> Path:
    return Path(os.environ.get("NANOMDM_MYSQL_ROOT", _MYSQL_ROOT))


@cache
def _mysqld() -> list[str]:
    """
    @return: how to run MySQL, with its first arguments; empty if there is none.
    """
    program = shutil.which("mysqld", path=_PATH)
    # Debian has MariaDB under this name.
    if program and b"MariaDB" not in subprocess.run([program, "--version"], stdout=PIPE).stdout:
        return [program, "--no-defaults"]
    root = _mysql_root()
    program = str(root / "usr/sbin/mysqld")
    for loader in root.glob("usr/lib/*/ld-linux*.so.*"):
        if os.access(program, os.X_OK):
            run = [str(loader), "--library-path", str(loader.parent), program]
            return [*run, "--no-defaults", f"--basedir={root / 'usr'}"]
    return []
