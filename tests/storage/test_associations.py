"""
Tests for what can not be shown through a storage.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from nanomdm.interfaces import AssociationFacts
from nanomdm.storage.associations import Pair, facts
from nanomdm.storage.sqlite import SQLiteDialect


class Growing:
    """
    A transaction to whose second look another server has added a pair.
    """

    dialect = SQLiteDialect()

    def __init__(self, added: Pair) -> None:
        self._looks: list[list[tuple[str, str, float, int]]] = [
            [],
            [(added.device_id, added.sha256, 0.0, 1)],
        ]

    def rows_in(self, sql: str, values: object) -> list[tuple[str, str, float, int]]:
        return self._looks.pop(0)


class FactsTests(SynchronousTestCase):
    """
    Tests for L{facts}.
    """

    def test_addedBetweenTheLooks(self) -> None:
        """
        An id is not in the way of itself.
        """
        pair = Pair("D1", "a" * 64)
        self.assertEqual(facts(Growing(pair), [pair]), [AssociationFacts(associated=True)])
