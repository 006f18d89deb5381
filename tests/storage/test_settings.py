"""
Tests for what describes a storage.
"""

from __future__ import annotations

from pathlib import Path

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.errors import ConfigError
from nanomdm.storage.settings import (
    KINDS,
    StorageOptions,
    StorageSettings,
    parse_dsn,
    parse_options,
)


class OptionsTests(SynchronousTestCase):
    """
    C{--storage-options}.
    """

    def test_defaults(self) -> None:
        defaults = StorageOptions(
            delete=False,
            retention=None,
            conn_max_lifetime=1800,
            conn_max_idle_time=180,
            pool_size=5,
            auto_migrate=True,
            replica_dsn=None,
        )
        for kind in KINDS:
            self.assertEqual(parse_options(kind, ""), defaults)

    def test_all(self) -> None:
        for kind, replica in (
            ("mysql", "u:a,b@tcp(h)/db"),
            ("pgsql", "postgres://u@a,b/db?port=1,2"),
        ):
            self.assertEqual(
                parse_options(
                    kind,
                    "delete=1,retention=30d,conn_max_lifetime=1h30m,conn_max_idle_time=45s,"
                    f"pool_size=100,auto_migrate=0,replica_dsn={replica}",
                ),
                StorageOptions(
                    delete=True,
                    retention=30 * 86400,
                    conn_max_lifetime=5400,
                    conn_max_idle_time=45,
                    pool_size=100,
                    auto_migrate=False,
                    replica_dsn=replica,
                ),
            )

    def test_of_every_kind(self) -> None:
        for kind in KINDS:
            options = parse_options(kind, "retention=1h,delete=0")
            self.assertEqual(options, StorageOptions(retention=3600))

    def test_no_limit(self) -> None:
        for value in ("0", "0s", "none"):
            options = parse_options(
                "mysql",
                f"conn_max_lifetime={value},conn_max_idle_time={value},retention={value}",
            )
            self.assertEqual(
                options, StorageOptions(conn_max_lifetime=None, conn_max_idle_time=None)
            )

    def test_replica_alone(self) -> None:
        options = parse_options("pgsql", "replica_dsn=host=h dbname=d")
        self.assertEqual(options, evolve(StorageOptions(), replica_dsn="host=h dbname=d"))

    def test_what_servers_alone_have(self) -> None:
        for kind in ("sqlite", "inmem"):
            for option in (
                "conn_max_lifetime=1h",
                "conn_max_idle_time=1h",
                "pool_size=3",
                "auto_migrate=1",
                "replica_dsn=u:sesam@/db",
            ):
                name = option.partition("=")[0]
                problem = f"{name}: storage {kind} does not have this option"
                self.assertRefused(problem, option, kind)

    def test_wrong(self) -> None:
        form = "is not name=value,name=value"
        last = "replica_dsn: must be the last option; a comma in it is written %2C"
        for value, problem in (
            ("delete", form),
            ("delete=1,", form),
            (",", form),
            ("=1", form),
            ("mysql://u:sesam@h/db", form),
            ("mysql://u:sesam@h/db?tls=true", form),
            ("u:sesam@/db?tls=true", form),
            ("delete=1, pool_size=5", form),
            ("delte=1", "delte: no such storage option"),
            ("Delete=1", "Delete: no such storage option"),
            ("delete=1,delete=1", "delete: given more than once"),
            ("delete=", "delete: must not be empty"),
            ("delete=true", "delete: 'true' is not 0 or 1"),
            ("auto_migrate=no", "auto_migrate: 'no' is not 0 or 1"),
            ("pool_size=0", "pool_size: '0' is not a number from 1 to 100"),
            ("pool_size=101", "pool_size: '101' is not a number from 1 to 100"),
            ("pool_size=1=2", "pool_size: '1=2' is not a number from 1 to 100"),
            (
                "conn_max_lifetime=30",
                "conn_max_lifetime: '30' is not a duration such as 30s, 3m or 1h30m",
            ),
            (
                "conn_max_idle_time=-1s",
                "conn_max_idle_time: '-1s' is not a duration such as 30s, 3m or 1h30m",
            ),
            ("conn_max_lifetime=10ms", "conn_max_lifetime: '10ms' is less than 1s"),
            ("retention=59m", "retention: '59m' is less than 1h"),
            ("retention=40000d", "retention: '40000d' is longer than a century"),
            ("replica_dsn=", "replica_dsn: must not be empty"),
            ("replica_dsn=u:sesam@/db,delete=1", last),
            ("replica_dsn=u:sesam@/db,delte=1", last),
            ("replica_dsn=u@/db,replica_dsn=u:sesam@/db", last),
            ("replica_dsn=u:sesam@/", "replica_dsn: database: missing"),
            ("replica_dsn=u:sesam@/db?foo=1", "replica_dsn: foo: no such parameter"),
        ):
            self.assertRefused(problem, value)

    def assertRefused(self, problem: str, value: str, kind: str = "mysql") -> None:
        error = self.assertRaises(ConfigError, parse_options, kind, value)
        self.assertEqual(str(error), problem)


class SettingsTests(SynchronousTestCase):
    """
    A storage as a whole.
    """

    def test_default(self) -> None:
        storage = StorageSettings()
        self.assertEqual(
            (storage.kind, storage.dsn, storage.options),
            ("sqlite", Path("nanomdm.db").absolute(), StorageOptions()),
        )
        self.assertIdentical(StorageSettings(kind="inmem").dsn, None)

    def test_server_without_dsn(self) -> None:
        for kind in ("mysql", "pgsql"):
            error = self.assertRaises(ConfigError, StorageSettings, kind=kind)
            self.assertEqual(str(error), f"required with storage {kind}")

    def test_dsn_is_kept_as_it_is(self) -> None:
        for kind, dsn in (
            ("mysql", "u:p@tcp(h)/db?parseTime=true"),
            ("mysql", "mysql://u:p@h/db"),
            ("pgsql", "postgres://u:p@h/db"),
            ("pgsql", "host=h"),
        ):
            self.assertEqual(parse_dsn(kind, dsn), dsn)

    def test_dsn_of_another_engine(self) -> None:
        self.assertRaises(ConfigError, parse_dsn, "mysql", "postgres://u:p@h/db")
        self.assertRaises(ConfigError, parse_dsn, "pgsql", "mysql://u:p@h/db")

    def test_shown(self) -> None:
        for storage, shown in (
            (StorageSettings(kind="inmem"), "memory"),
            (StorageSettings(dsn=Path("/a b.db")), "/a b.db"),
            (
                StorageSettings(kind="mysql", dsn="u:sesam@tcp(h)/db"),
                "host=h port=3306 user=u database=db",
            ),
            (
                StorageSettings(kind="mysql", dsn="u:sesam@unix(/x.sock)/db"),
                "unix_socket=/x.sock user=u database=db",
            ),
            (
                StorageSettings(kind="pgsql", dsn="postgres://u:sesam@a,b:2/db?sslmode=disable"),
                "host=a,b port=,2 user=u dbname=db",
            ),
            (
                StorageSettings(kind="pgsql", dsn="service=s password=sesam"),
                "service=s",
            ),
        ):
            self.assertEqual(storage.shown, shown)

    def test_repr_hides_passwords(self) -> None:
        storage = StorageSettings(
            kind="mysql",
            dsn="u:sesam@/db",
            options=parse_options("mysql", "replica_dsn=u:sesam@/db2"),
        )
        self.assertNotIn("sesam", repr(storage))
