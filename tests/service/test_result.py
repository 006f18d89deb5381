"""
Tests for L{nanomdm.service.result}.
"""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from nanomdm.interfaces import PushResult
from nanomdm.service.result import APIResult


class APIResultTests(SynchronousTestCase):
    """
    Tests for L{APIResult}.
    """

    def test_order(self) -> None:
        """
        Members come as API clients know them, whatever was set first.
        """
        result = APIResult(
            request_type="T",
            command_uuid="C",
            command_error="ce",
            no_push=True,
            push_error="pe",
            pushes={
                "c": PushResult(reason="r", status=410, id="2", error="1"),
                "a": PushResult(id="x"),
            },
            refused={"b": "3"},
            id_count=3,
        )
        self.assertEqual(
            json.dumps(result.to_json()),
            '{"status": {"a": {"push_result": "x"}, "b": {"command_error": "3"},'
            ' "c": {"push_error": "1", "push_result": "2", "push_status": 410,'
            ' "push_reason": "r"}},'
            ' "no_push": true, "push_error": "pe", "command_error": "ce",'
            ' "command_uuid": "C", "request_type": "T"}',
        )

    def test_emptyIsLeftOut(self) -> None:
        self.assertEqual(APIResult(id_count=5).to_json(), {})
        self.assertEqual(APIResult(command_error="why").to_json(), {"command_error": "why"})

    def test_counts(self) -> None:
        result = APIResult(
            id_count=5,
            pushes={"D1": PushResult(error="1"), "D3": PushResult(id="3")},
            refused={"D2": "2"},
        )
        self.assertEqual((result.errors, result.status_count), (2, 3))
