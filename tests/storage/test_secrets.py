"""
Encrypted secrets on every engine; on servers in tables that NanoMDM made.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path

from twisted.internet import reactor
from twisted.trial.unittest import SynchronousTestCase, TestCase

from nanomdm.crypto.vault import Vault
from nanomdm.mdm.checkin import parse_checkin
from nanomdm.storage.factory import open_storage, prepare_storage
from nanomdm.storage.secrets import BOOTSTRAP_TOKEN, HEAD, PUSH_KEY, UNLOCK_TOKEN, kept_message
from nanomdm.storage.settings import StorageSettings
from tests import samples
from tests.servers import shared, unavailable
from tests.storage import nanomdm_tables
from tests.storage.rewriting_contract import RewritingContract
from tests.storage.secrets_case import ID_ONE, KEY_PEM, ONE, vault
from tests.storage.secrets_contract import SecretsContract
from tests.storage.test_engines import TABLES as ENGINE_TABLES


class SQLiteTests(SecretsContract, RewritingContract, TestCase):
    """
    A database file.
    """

    def make_settings(self) -> StorageSettings:
        return StorageSettings(dsn=Path(self.mktemp()).absolute())

    async def test_nothingInTheFile(self) -> None:
        """
        Not even in pages that are free, after what was plain was encrypted.
        """
        await self.fill(self.open(), "D1", "D2", "D3")
        self.rewrite(ONE)
        for path in self.where.dsn.parent.glob(f"{self.where.dsn.name}*"):
            self.assertNothingPlain(path.read_bytes())


@cache
def taken_over(engine: str) -> str:
    """
    @return: the DSN of a database that NanoMDM made, which the tests share.
    """
    server = shared(engine)
    dsn = server.create_database("secrets")
    tables = nanomdm_tables.PGSQL if engine == "postgresql" else nanomdm_tables.MYSQL
    with closing(server.python_connection("secrets")) as connection:
        cursor = connection.cursor()
        for statement in tables:
            cursor.execute(statement)
        connection.commit()
    return dsn


class MirrorTests(TestCase):
    """
    Several storages at once.
    """

    async def test_all(self) -> None:
        """
        None of them has anything plain.
        """
        paths = [Path(self.mktemp()).absolute() for _ in range(2)]
        settings = [StorageSettings(dsn=path) for path in paths]
        storage = open_storage(settings, reactor, vault=vault(ONE))
        await storage.store_push_certificate("com.a", "CERT", KEY_PEM)
        await storage.stop()
        for path in paths:
            with closing(sqlite3.connect(path)) as connection:
                [(key,)] = connection.execute("SELECT key_pem FROM push_certs")
            self.assertEqual(PUSH_KEY.key_id(key), ID_ONE)


class TakenOver(SecretsContract, RewritingContract):
    """
    A database that NanoMDM made.
    """

    engine: str
    kind: str

    def make_settings(self) -> StorageSettings:
        settings = StorageSettings(kind=self.kind, dsn=taken_over(self.engine))
        prepare_storage(settings)
        with closing(shared(self.engine).python_connection("secrets")) as connection:
            cursor = connection.cursor()
            for table in ENGINE_TABLES:
                cursor.execute(f"DELETE FROM {table}")
            connection.commit()
        return settings


class MariaDBTests(TakenOver, TestCase):
    """
    MariaDB.
    """

    engine, kind = "mariadb", "mysql"
    skip = unavailable("mariadb")


class MySQLTests(TakenOver, TestCase):
    """
    MySQL.
    """

    engine, kind = "mysql", "mysql"
    skip = unavailable("mysql")


class PostgreSQLTests(TakenOver, TestCase):
    """
    PostgreSQL.
    """

    engine, kind = "postgresql", "pgsql"
    skip = unavailable("postgresql")


class ColumnTests(SynchronousTestCase):
    """
    How values look in their columns.
    """

    def test_heads(self) -> None:
        """
        The first characters tell the key.
        """
        held = vault(ONE)
        for column, value in (
            (PUSH_KEY, "x" * 4000),
            (BOOTSTRAP_TOKEN, "YQ=="),
            (UNLOCK_TOKEN, b"\x00" * 3000),
        ):
            stored = column.seal(held, value, "id")
            self.assertEqual(column.key_id(stored[:HEAD]), ID_ONE)
            self.assertEqual(column.open(held, stored, "id"), value)
            self.assertIsNone(column.key_id(value[:HEAD]))
            self.assertEqual(column.open(Vault(), value, "id"), value)

    def test_pem(self) -> None:
        """
        Lines end as they may, and have the length that they have in PEM.
        """
        held = vault(ONE)
        stored = PUSH_KEY.seal(held, "key" * 100, "com.a")
        self.assertEqual(max(map(len, stored.splitlines())), 64)
        again = stored.replace("\n", "\r\n").replace("SECRET-----\r\n", "SECRET-----\n", 1)
        self.assertEqual(PUSH_KEY.open(held, again, "com.a"), "key" * 100)

    def test_messages(self) -> None:
        """
        The token alone is taken out of a message, and from nothing else.
        """
        message = parse_checkin(samples.token_update(UnlockToken=b"token"))
        self.assertEqual(kept_message(Vault(), message).encode(), message.raw)
        kept = kept_message(vault(ONE), message).encode()
        self.assertNotIn(b"UnlockToken", kept)
        other = parse_checkin(samples.token_update())
        self.assertEqual(kept_message(vault(ONE), other).encode(), other.raw)
