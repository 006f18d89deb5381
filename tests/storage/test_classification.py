"""
What the drivers' errors mean to the storage.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing

import psycopg
import pymysql
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.storage.engine import Engine, Trouble
from nanomdm.storage.mysql import MySQLEngine
from nanomdm.storage.pgsql import PostgreSQLEngine
from nanomdm.storage.sqlite import SQLiteEngine


class ClassificationTests(SynchronousTestCase):
    """
    Tests for L{Engine.trouble}.
    """

    def assertMeans(self, engine: Engine, trouble: Trouble, *errors: BaseException) -> None:
        for error in errors:
            self.assertIs(engine.trouble(error), trouble, repr(error))

    def test_mysql(self) -> None:
        for trouble, codes in {
            Trouble.RETRY: (1205, 1213, 1020, 3572, 3101),
            Trouble.ORPHAN: (1452,),
            Trouble.LOST: (0, 2006, 2013, 1053, 1927, 4031),
            # Server, transaction, InnoDB, table; Galera.
            Trouble.READ_ONLY: (1290, 1792, 1836, 1874, 1036, 1047),
            # Wrong password, missing database, host, disk, connections.
            Trouble.UNAVAILABLE: (
                *(1045, 1044, 1698, 1049, 2003, 2005),
                *(1021, 1114, 28, 1040, 1203, 1317, 1969, 3024),
            ),
            Trouble.TOO_LARGE: (1406, 1153, 1301),
            Trouble.OTHER: (1062, 1064, 1146),
        }.items():
            errors = [pymysql.err.OperationalError(code, "message") for code in codes]
            self.assertMeans(MySQLEngine({}), trouble, *errors)
        self.assertMeans(
            MySQLEngine({}), Trouble.LOST, pymysql.err.InterfaceError(0, ""), pymysql.err.Error()
        )
        self.assertMeans(MySQLEngine({}), Trouble.UNAVAILABLE, ConnectionRefusedError())
        self.assertMeans(MySQLEngine({}), Trouble.OTHER, ValueError())

    def test_mysqlTimeout(self) -> None:
        """
        A statement that timed out is not like a connection that was lost.
        """
        error = pymysql.err.OperationalError(2013, "Lost connection")
        error.__context__ = TimeoutError()
        self.assertMeans(MySQLEngine({}), Trouble.UNAVAILABLE, error)
        error.__context__ = ConnectionResetError()
        self.assertMeans(MySQLEngine({}), Trouble.LOST, error)

    def test_postgres(self) -> None:
        for trouble, states in {
            Trouble.RETRY: ("40001", "40P01", "55P03"),
            Trouble.ORPHAN: ("23503",),
            Trouble.LOST: ("57P01", "57P02", "57P03", "57P05", "08006", "08003", "25P03"),
            Trouble.READ_ONLY: ("25006",),
            # Statement timeout, connections, disk, I/O, login, database.
            Trouble.UNAVAILABLE: (
                *("57014", "53300", "53100", "53200", "58030"),
                *("28P01", "28000", "3D000", "25P04"),
            ),
            Trouble.TOO_LARGE: ("22001", "54000"),
            Trouble.OTHER: ("23505", "42601", "42P01", "25P02"),
        }.items():
            errors = [_with_state(state) for state in states]
            self.assertMeans(PostgreSQLEngine(""), trouble, *errors)
        self.assertMeans(PostgreSQLEngine(""), Trouble.LOST, psycopg.OperationalError("closed"))
        self.assertMeans(PostgreSQLEngine(""), Trouble.UNAVAILABLE, TimeoutError())
        self.assertMeans(
            PostgreSQLEngine(""), Trouble.OTHER, psycopg.ProgrammingError("bug"), ValueError()
        )

    def test_sqlite(self) -> None:
        for trouble, codes in {
            Trouble.RETRY: (
                *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_SNAPSHOT, sqlite3.SQLITE_LOCKED),
                *(sqlite3.SQLITE_BUSY_RECOVERY, sqlite3.SQLITE_LOCKED_SHAREDCACHE),
            ),
            Trouble.READ_ONLY: (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_READONLY_DBMOVED),
            Trouble.UNAVAILABLE: (
                *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_FSYNC),
                *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB),
            ),
            Trouble.OTHER: (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT_UNIQUE),
        }.items():
            for code in codes:
                error = sqlite3.DatabaseError("message")
                error.sqlite_errorcode = code
                self.assertMeans(SQLiteEngine(None), trouble, error)
        self.assertMeans(
            SQLiteEngine(None), Trouble.TOO_LARGE, sqlite3.DataError(), OverflowError()
        )
        self.assertMeans(SQLiteEngine(None), Trouble.OTHER, sqlite3.ProgrammingError("closed"))

    def test_sqliteSays(self) -> None:
        """
        What a database says by itself.
        """
        with closing(SQLiteEngine(None).connect()) as connection:
            for statement, trouble in (
                ("NONSENSE", Trouble.OTHER),
                ("SELECT * FROM missing", Trouble.OTHER),
                ("INSERT INTO enrollment_queue (id, command_uuid) VALUES (1, 2)", Trouble.OTHER),
                ("SELECT zeroblob(2000000000)", Trouble.TOO_LARGE),
            ):
                error = self.assertRaises(sqlite3.Error, connection.execute, statement)
                self.assertMeans(SQLiteEngine(None), trouble, error)


def _with_state(state: str) -> psycopg.Error:
    error = psycopg.errors.lookup(state)("message")
    assert error.sqlstate == state
    return error
