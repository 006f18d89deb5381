"""
Many calls that are gathered in a transaction go to the server as often as few of them: the
way there may be long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import reactor

from nanomdm.mdm.checkin import parse_checkin
from nanomdm.mdm.command import installs_mdm_profile, parse_command, parse_report
from nanomdm.storage import commands, enrollments, tokens
from nanomdm.storage.enrollments import AuthenticateCall
from nanomdm.storage.factory import open_storage
from nanomdm.storage.tokens import BootstrapToken
from nanomdm.storage.transaction import Transaction
from tests import samples
from tests.servers import unavailable
from tests.storage.test_engines import EngineCase

Work = Callable[[Transaction, int], Any]


class RoundTripTests(EngineCase):
    """
    What devices say most often.
    """

    def setUp(self) -> None:
        self.storage = open_storage([self.settings()], reactor)
        self.addCleanup(self.storage.stop)
        self.empty()

    def count(self, connection: Any) -> tuple[Any, list[str]]:
        """
        @return: a cursor, and the statements that the server will have been sent.
        """
        raise NotImplementedError

    def trips(self, work: Work, count: int) -> int:
        """
        @return: how often something is sent to do something for so many.
        """
        engine = self.storage._database._engine
        connection = engine.connect()
        self.addCleanup(connection.close)
        cursor, sent = self.count(connection)
        work(Transaction(cursor, engine.dialect), count)
        connection.commit()
        return len(sent)

    def assertGathered(self, work: Work) -> None:
        self.assertEqual(self.trips(work, 20), self.trips(work, 2))

    def authenticate(self, transaction: Transaction, count: int) -> None:
        messages = [parse_checkin(samples.authenticate(f"D{n}")) for n in range(count)]
        calls = [AuthenticateCall(message, "PEM", installs_mdm_profile) for message in messages]
        self.assertEqual(enrollments.authenticate(transaction, calls), [False] * count)

    def token_updates(self, transaction: Transaction, count: int) -> None:
        """
        Of devices, of users, and of somebody unknown.
        """
        more = [{"UnlockToken": b"unlock"}, {"UserID": "U", "UserShortName": "name"}]
        messages = [
            parse_checkin(samples.token_update(f"D{number}", **keys))
            for number in range(count)
            for keys in more
        ]
        messages.append(parse_checkin(samples.token_update("unknown")))
        *tallies, error = enrollments.token_update(transaction, messages)
        self.assertEqual(set(map(type, tallies)), {int})
        self.assertIn("never sent an Authenticate", str(error))

    def bootstrap_tokens(self, transaction: Transaction, count: int) -> None:
        """
        Some of which are deleted.
        """
        given = [BootstrapToken(f"D{n}", b"%d" % n if n % 2 else None) for n in range(count)]
        *stored, error = tokens.store_bootstrap(
            transaction, [*given, BootstrapToken("unknown", b"token")]
        )
        self.assertEqual(stored, [None] * count)
        self.assertIn("never sent an Authenticate", str(error))
        ids = [token.device_id for token in given]
        found = tokens.fetch_bootstrap(transaction, [*ids, "unknown"])
        self.assertEqual(found, [*(token.token for token in given), None])

    def reports(self, transaction: Transaction, count: int) -> None:
        """
        Final ones, and others.
        """
        reports = [
            parse_report(samples.report("NotNow" if n % 2 else "Acknowledged", "C1", f"D{n}"))
            for n in range(count)
        ]
        outcomes = commands.store_report(transaction, reports)
        self.assertEqual({outcome.known for outcome in outcomes}, {True})

    def deletions(self, transaction: Transaction, count: int) -> None:
        commands.delete_answered(transaction, [(f"D{number}", "C1") for number in range(count)])

    async def test_gathered(self) -> None:
        for work in (self.authenticate, self.token_updates, self.bootstrap_tokens):
            self.assertGathered(work)
        ids = [f"D{number}" for number in range(20)]
        await self.storage.enqueue(parse_command(samples.command("C1")), ids)
        for work in (self.reports, self.reports, self.deletions):
            self.assertGathered(work)

    async def test_longRows(self) -> None:
        """
        What is too much for one statement is spread over several.
        """
        await self.storage.store_authenticate(
            parse_checkin(samples.authenticate("D0")), "PEM", installs_mdm_profile
        )
        engine = self.storage._database._engine
        connection = engine.connect()
        self.addCleanup(connection.close)
        transaction = Transaction(connection.cursor(), engine.dialect)
        messages = [
            parse_checkin(
                samples.token_update("D0", UserID=f"U{number}", UserShortName="x", More="x" * size)
            )
            for number, size in enumerate((600_000, 600_000, 1_500_000, 10))
        ]
        self.assertEqual(enrollments.token_update(transaction, messages), [1] * 4)


class MySQLProtocolTests(RoundTripTests):
    """
    What MariaDB and MySQL have in common.
    """

    kind = "mysql"

    def count(self, connection: Any) -> tuple[Any, list[str]]:
        """
        See L{RoundTripTests.count}.
        """
        query, sent = connection.query, []

        def counted(sql: Any, *more: Any) -> Any:
            sent.append(sql)
            return query(sql, *more)

        connection.query = counted
        return connection.cursor(), sent


class MariaDBTests(MySQLProtocolTests):
    """
    MariaDB.
    """

    engine = "mariadb"
    skip = unavailable("mariadb")


class MySQLTests(MySQLProtocolTests):
    """
    MySQL.
    """

    engine = "mysql"
    skip = unavailable("mysql")


class PostgreSQLTests(RoundTripTests):
    """
    PostgreSQL, whose driver sends many rows before it waits.
    """

    engine, kind = "postgresql", "pgsql"
    skip = unavailable("postgresql")

    def count(self, connection: Any) -> tuple[Any, list[str]]:
        """
        See L{RoundTripTests.count}.
        """
        cursor, sent = connection.cursor(), []

        class Counted:
            def __getattr__(self, name: str) -> Any:
                found = getattr(cursor, name)
                if name.startswith("execute"):
                    sent.append(name)
                return found

        return Counted(), sent


del RoundTripTests, MySQLProtocolTests
