"""
Large answers, one after the other.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.trial.unittest import TestCase

from nanomdm.errors import Overloaded
from nanomdm.http.api.keys import APIKeys
from nanomdm.http.api.turns import Turns
from tests.http.api.fakes import ScriptedCase
from tests.http.api.test_results import answered


class FakeRequest:
    """
    A request whose client may have gone.
    """

    gone = False


class TurnsTests(TestCase):
    """
    L{Turns}.
    """

    def setUp(self) -> None:
        self.turns = Turns(running=2, waiting=2)
        self.begun: list[str] = []
        self.ends: dict[str, Deferred[str]] = {}

    def take(self, name: str, request: Any = None) -> Deferred[str]:
        """
        Ask for a turn.
        """

        async def work() -> str:
            self.begun.append(name)
            self.ends[name] = Deferred()
            return await self.ends[name]

        return Deferred.fromCoroutine(self.turns.take(request or FakeRequest(), work))

    def test_fewAtOnce(self) -> None:
        """
        Who waits comes in order, whether those before succeed or fail.
        """
        results = {name: self.take(name) for name in "abcd"}
        self.assertEqual(self.begun, ["a", "b"])
        self.ends["b"].callback("done")
        self.assertEqual(self.successResultOf(results["b"]), "done")
        self.assertEqual(self.begun, ["a", "b", "c"])
        self.ends["a"].errback(ValueError())
        self.failureResultOf(results["a"], ValueError)
        self.assertEqual(self.begun, ["a", "b", "c", "d"])

    def test_tooMany(self) -> None:
        for name in "abcd":
            self.take(name)
        self.failureResultOf(self.take("e"), Overloaded)
        self.ends["a"].callback("done")
        self.take("f")
        self.failureResultOf(self.take("g"), Overloaded)
        self.assertEqual(self.begun, ["a", "b", "c"])

    def test_gone(self) -> None:
        """
        Nothing is done for who did not wait.
        """
        request = FakeRequest()
        self.take("a")
        self.take("b")
        waiting = self.take("c", request)
        self.take("d")
        request.gone = True
        self.ends["a"].callback("done")
        self.failureResultOf(waiting, Overloaded)
        self.assertEqual(self.begun, ["a", "b", "d"])


class LargeAnswersTests(ScriptedCase):
    """
    What may be large.
    """

    def ask(self, path: str) -> Deferred[Any]:
        """
        Look at something.
        """
        return Deferred.fromCoroutine(self.api("GET", path))

    async def assertInTurn(self, method: str, path: str) -> None:
        """
        Of four requests, two ask the storage, and the others only after them.
        """
        turns: list[Deferred[Any]] = []
        here = [Deferred[None]() for _ in range(4)]
        came = iter(here)

        def operator(*arguments: Any) -> Any:
            next(came).callback(None)
            return known(*arguments)

        def slow(*ignored: Any) -> Deferred[Any]:
            turns.append(Deferred())
            return turns[-1]

        known = APIKeys.identify
        patched = self.patch(APIKeys, "identify", operator)
        setattr(self.store, method, slow)
        asked = [self.ask(path) for _ in range(4)]
        await DeferredList(here)
        patched.restore()
        # One that needs no turn, and comes after the others.
        self.store.answers["list_queue"] = Overloaded("busy")
        self.assertEqual((await self.ask("/v1/enrollments/D1/queue")).code, 503)
        self.assertEqual(len(turns), 2, path)
        for place in range(4):
            turns[place].errback(Overloaded("busy"))
        codes = [answer.code for _, answer in await DeferredList(asked)]
        self.assertEqual(codes, [503] * 4)

    async def test_turns(self) -> None:
        await self.assertInTurn("list_enrollments", "/v1/enrollments")
        await self.assertInTurn("command", "/v1/commands/C1")
        await self.assertInTurn("list_results", "/v1/enrollments/D1/results")
        await self.assertInTurn("result", "/v1/enrollments/D1/results/C1")

    async def test_afterwards(self) -> None:
        self.store.answers["result"] = answered(raw=b"<?xml")
        for _ in range(5):
            answer = await self.api("GET", "/v1/enrollments/D1/results/C1")
            self.assertEqual(answer.code, 200)
