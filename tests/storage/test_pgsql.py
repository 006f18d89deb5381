"""
Tests for L{nanomdm.storage.pgsql}.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from nanomdm.storage.dsn import parse_postgres
from nanomdm.storage.pgsql import PostgreSQLEngine


class AnswerTimeoutTests(SynchronousTestCase):
    """
    How long the server's answer is waited for.
    """

    def test_followsTheStatements(self) -> None:
        """
        A little longer than the server lets a statement run.
        """
        for options, seconds in (
            ("", 35.0),
            ("-c lock_timeout=1000", 35.0),
            ("-c statement_timeout=0", 35.0),
            ("-c statement_timeout=3000", 8.0),
            ("-c statement_timeout=3s", 8.0),
            ("-cstatement_timeout=2min -c lock_timeout=1", 125.0),
            ("-c statement_timeout=1s -c statement_timeout=500ms", 5.5),
            ("-c statement_timeout=1h", 35.0),
        ):
            conninfo = parse_postgres(f"dbname=nanomdm options='{options}'")
            self.assertEqual(PostgreSQLEngine(conninfo)._answer_timeout, seconds, options)
