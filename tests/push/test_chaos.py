"""
Tests for L{nanomdm.push.service} with everything going wrong at random.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

from nanomdm.interfaces import PushResult
from nanomdm.push.notification import ConnectionFailed, ConnectionLost
from tests.push.fakes import GOAWAY, LOST, NOW, TOPIC, FakeConnection, stored
from tests.push.test_service import ServiceCase, ids

#: What APNs may say of a push: how likely, status and reason.
_ANSWERS = (
    *((60, 200, None), (4, 410, "Unregistered"), (4, 400, "BadDeviceToken")),
    *((4, 400, "BadTopic"), (10, 503, "ServiceUnavailable"), (10, 429, "TooManyRequests")),
    *((8, 500, "InternalServerError"),),
)

_FINAL = {status for _, status, _ in _ANSWERS} - {200}


class ChaosTests(ServiceCase):
    """
    Every id has one result, and it is true.
    """

    connections = 2

    def setUp(self) -> None:
        super().setUp()
        self.connector.at_once = None
        self.chance = Random(0)
        self.told: dict[str, set[int]] = {}
        self.final: Counter[str] = Counter()
        self.version = 0

    def step(self) -> None:
        """
        Do one thing, more often a usual one.
        """
        actions: list[tuple[int, Callable[[], None]]] = [
            (300, self.some_answer),
            (20, self.some_attempt),
            (8, self.some_reset),
            (4, lambda: self.some_end(LOST)),
            (4, lambda: self.some_end(GOAWAY)),
            (1, lambda: self.some_end(ConnectionLost("alert: bad certificate", refused=True))),
            (10, self.some_limit),
            (5, self.some_pause),
            (1, self.new_certificate),
            (60, lambda: self.clock.advance(self.chance.choice((0, 0.01, 0.2)))),
            (1, lambda: self.clock.advance(self.chance.uniform(1, 20))),
        ]
        [(_, action)] = self.chance.choices(actions, [weight for weight, _ in actions])
        action()
        self.turn()

    def some_connection(self) -> FakeConnection | None:
        """
        Choose one that has something to answer.
        """
        busy = [each for each in self.connector.connections if each.waiting]
        return self.chance.choice(busy) if busy else None

    def some_answer(self) -> None:
        """
        Answer several pushes, not in their order.
        """
        connection = self.some_connection()
        for _ in range(self.chance.randrange(20) if connection else 0):
            if connection is None or not connection.waiting:
                return
            self.chance.shuffle(connection.waiting)
            weights = [weight for weight, _, _ in _ANSWERS]
            [(_, status, reason)] = self.chance.choices(_ANSWERS, weights)
            id = bytes.fromhex(connection.waiting[0].token).decode()
            self.told.setdefault(id, set()).add(status)
            self.final[id] += status == 200 or 400 <= status < 429
            timestamp = NOW.timestamp() if status == 410 else None
            after = self.chance.choice((None, None, "1", "40")) if status == 503 else None
            connection.answer(status, reason=reason, timestamp=timestamp, retry_after=after)

    def some_attempt(self) -> None:
        """
        Open a connection, or do not.
        """
        if not self.connector.attempts:
            return
        if self.chance.random() < 0.7:
            self.connector.open(self.chance.choice((1, 10, 100)))
        else:
            refused = self.chance.random() < 0.1
            self.connector.fail(ConnectionFailed("connection refused", refused=refused))

    def some_reset(self) -> None:
        """
        Reset a stream.
        """
        connection = self.some_connection()
        if connection is not None:
            connection.reset()

    def some_end(self, reason: ConnectionLost) -> None:
        """
        End a connection.
        """
        live = [each for each in self.connector.connections if each.lost is None]
        if live:
            self.chance.choice(live).lose(reason)

    def some_limit(self) -> None:
        """
        Change how many streams there may be.
        """
        for connection in self.connector.connections:
            if connection.usable:
                connection.allow(self.chance.choice((0, 1, 5, 10, 50, 100)))

    def some_pause(self) -> None:
        """
        A peer does not read, or does again.
        """
        for connection in self.connector.connections:
            connection.paused = self.chance.random() < 0.3
            connection.changed()

    def new_certificate(self) -> None:
        """
        Replace the certificate.
        """
        self.version += 1
        self.store.certificates[TOPIC] = stored(TOPIC, self.version % 3)
        for id in list(self.store.targets):
            self.store.add(id, stale_token=self.version % 3)

    def check(self, id: str, result: PushResult) -> None:
        """
        A result is what APNs told of that very push, or a reason that there is.
        """
        told = self.told.get(id, set())
        if result.error is None:
            self.assertEqual(result.id, f"id-{id.encode().hex()}")
            self.assertIn(200, told)
        elif result.status is not None:
            self.assertIn(result.status, told & _FINAL)
            self.assertIn(f"APNs answered {result.status} {result.reason}", result.error)
        else:
            self.assertRegex(
                result.error,
                "^(the connection broke|APNs (ended|reset|refuses|can not)|no answer)",
            )

    def test_everyIdOnce(self) -> None:
        outcome: Counter[str] = Counter()
        for seed in range(4):
            self.setUp()
            self.chance.seed(seed)
            some = self.store.add(*ids(700))
            few = self.chance.sample(some, 100)
            calls = [self.push(*some), self.push(*few)]
            for _ in range(50_000):
                if all(call.called for call in calls):
                    break
                self.step()
            results = [dict(self.successResultOf(call)) for call in calls]
            self.assertEqual([set(each) for each in results], [set(some), set(few)])
            for id, result in [*results[0].items(), *results[1].items()]:
                self.check(id, result)
                outcome[(result.error or "success").split(":")[0]] += 1
            # Nothing is sent again that has its final answer.
            for id, count in self.final.items():
                self.assertLessEqual(count, 1 + (id in few))
            for connection in self.connector.connections:
                connection.paused = False
            self.clock.advance(31)
            self.turn()
            self.quiet()
            stopping = self.service.stop()
            self.turn()
            self.successResultOf(stopping)
            self.assertEqual(self.clock.getDelayedCalls(), [])
        # There was something of everything.
        self.assertGreater(outcome["success"], 500)
        self.assertGreater(len(outcome), 8)
