"""
The operators' API before a storage that does what it is told.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed

from nanomdm.http.api.keys import APIKey, APIKeys, Operator, Role
from nanomdm.http.api.parts import APIParts
from nanomdm.http.api.tree import api_tree
from nanomdm.http.endpoint import Folder
from nanomdm.interfaces import EnrollmentFacts
from tests import samples
from tests.http.case import KEY, Answer, ClientCase
from tests.service.fakes import RecordingPusher

NOW = datetime(2026, 11, 20, 10, 0, 0, tzinfo=UTC)

#: Unix time of L{NOW}.
SECONDS = NOW.timestamp()


class ScriptedStore:
    """
    Answers what it is told to.

    @ivar asked: each call: its name and its arguments.
    @ivar answers: what calls fire with, or fail with, by their names.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.answers: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Deferred[Any]:
            self.asked.append((name, *arguments))
            answer = self.answers[name]
            return fail(answer) if isinstance(answer, Exception) else succeed(answer)

        return call


class ScriptedCase(ClientCase):
    """
    A test case with the whole API and a L{ScriptedStore}.  There is a key for each role,
    by its name.
    """

    secrets = True

    def setUp(self) -> None:
        self.store = ScriptedStore()
        self.forgotten: list[str] = []
        parts: Any = APIParts(
            APIKeys(KEY, [key_of(role.word, role) for role in Role]),
            self.store,
            RecordingPusher(),
            self.offloader(),
            None,
            None,
            lambda: NOW,
            self.secrets,
            self.forgotten.append,
        )
        root = Folder()
        root.putChild(b"v1", api_tree(parts))
        self.listen(root)

    async def ask_as(self, user: str, method: str, path: str, body: bytes | None = None) -> Answer:
        """
        Send a request with one of the keys of L{key_of}.
        """
        return await self.request(method, path, body, {"Authorization": basic(user, user)})

    async def assertBad(self, method: str, path: str, reason: str, body: bytes = b"") -> None:
        """
        A request is answered with 400, the reason says something, and the storage is not
        asked.
        """
        self.store.asked.clear()
        answer = await self.api(method, path, body)
        self.assertEqual((answer.code, list(answer.json)), (400, ["error"]), path)
        self.assertIn(reason, answer.json["error"])
        self.assertEqual(self.store.asked, [])


def basic(user: str, key: str) -> str:
    """
    The value of the header C{Authorization}.
    """
    return "Basic " + base64.b64encode(f"{user}:{key}".encode()).decode()


def key_of(name: str, role: Role) -> APIKey:
    """
    A key that is the same as its name.
    """
    return APIKey(Operator(name, role), hashlib.sha256(name.encode()).digest())


def facts(id: str = "D1", **more: Any) -> EnrollmentFacts:
    """
    What a storage knows of a device.
    """
    known: dict[str, Any] = {
        "type": "Device",
        "device_id": id,
        "children": [],
        "serial_number": "C02" + id,
        "user_short_name": None,
        "user_long_name": None,
        "topic": samples.TOPIC,
        "enabled": True,
        "token_update_tally": 1,
        "last_seen_at": SECONDS - 60,
        "enrolled_at": SECONDS - 86400,
        "identity_pem": None,
        "authenticate": None,
        "bootstrap_token": False,
        "unlock_token": False,
        "dead": None,
        "queue_length": 0,
    }
    return EnrollmentFacts(id=id, **{**known, **more})
