"""
Stand-ins for connections to APNs, for what opens them, and for the storage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from random import Random
from typing import Any

from attrs import define, field, frozen
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from nanomdm.crypto.pushcert import PushCertificate
from nanomdm.interfaces import DeadToken, PushResult, PushTarget, StoredPushCertificate
from nanomdm.push.connection import IConnectionObserver
from nanomdm.push.endpoint import IConnector
from nanomdm.push.notification import Answer, ConnectionLost, Notification, StreamReset
from nanomdm.push.provider import Provider
from nanomdm.sim.ca import ThrowawayCA

TOPIC = "com.apple.mgmt.External.test"
NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
LOST = ConnectionLost("the connection broke")
GOAWAY = ConnectionLost("APNs ended the connection", resend=True)


class FixedRandom(Random):
    """
    Jitter that a test knows.

    @ivar value: from 0 to 1.
    """

    value = 1.0

    def random(self) -> float:
        """
        See L{Random}.
        """
        return self.value


def certificate(topic: str = TOPIC, until: datetime = NOW + timedelta(days=100)) -> PushCertificate:
    """
    @return: something that no connection looks into.
    """
    return PushCertificate(topic, until, "certificate", "key")


def notification(number: int = 0) -> Notification:
    """
    @return: one push of many.
    """
    return Notification(f"{number:08x}", TOPIC, b"{}", 0)


@define(eq=False)
class Sent:
    """
    A notification that waits for its answer.
    """

    notification: Notification
    done: Deferred[Answer]

    @property
    def token(self) -> str:
        """
        Whom it is to.
        """
        return self.notification.token


class FakeConnection:
    """
    Sends nothing, and answers when a test says so.

    @ivar sent: tokens, in the order in which they were sent.
    @ivar waiting: what is to be answered.
    @ivar most: how many of them there ever were at once.
    @ivar cancelled: tokens of streams that were cancelled.
    @ivar paused: the peer does not read.
    """

    def __init__(self, limit: int) -> None:
        self.observer: Any = None
        self.lost: ConnectionLost | None = None
        self.sent: list[str] = []
        self.waiting: list[Sent] = []
        self.most = 0
        self.cancelled: list[str] = []
        self.paused = False
        self.closing: list[Deferred[None]] = []
        self.closed = False
        self._limit = limit

    @property
    def usable(self) -> bool:
        """
        See L{nanomdm.push.connection.APNsConnection}.
        """
        return self.lost is None and not self.closed

    @property
    def limit(self) -> int:
        """
        See L{nanomdm.push.connection.APNsConnection}.
        """
        return self._limit if self.usable else 0

    @property
    def open_streams(self) -> int:
        """
        See L{nanomdm.push.connection.APNsConnection}.
        """
        return len(self.waiting)

    @property
    def free(self) -> int:
        """
        See L{nanomdm.push.connection.APNsConnection}.
        """
        return 0 if self.paused else max(0, self.limit - len(self.waiting))

    def send(self, notification: Notification) -> Deferred[Answer]:
        """
        See L{nanomdm.push.connection.APNsConnection}.
        """
        assert self.free > 0, "sent to a connection that takes nothing"
        sent = Sent(notification, Deferred(lambda ignored: self._cancel(sent)))
        self.sent.append(sent.token)
        self.waiting.append(sent)
        self.most = max(self.most, len(self.waiting))
        return sent.done

    def close(self) -> Deferred[None]:
        """
        See L{nanomdm.push.connection.APNsConnection}.
        """
        self.closed = True
        gone: Deferred[None] = Deferred()
        self.closing.append(gone)
        if not self.waiting:
            self.vanish()
        return gone

    def vanish(self) -> None:
        """
        The transport is gone.
        """
        closing, self.closing = self.closing, []
        for gone in closing:
            gone.callback(None)

    def answer(self, status: int = 200, count: int = 1, **fields: Any) -> None:
        """
        Answer the oldest.
        """
        for _ in range(count):
            sent = self.waiting.pop(0)
            id = f"id-{sent.token}" if status == 200 else None
            sent.done.callback(Answer(status, id, **fields))
        self.changed()

    def reset(self) -> None:
        """
        Reset the oldest.
        """
        self.waiting.pop(0).done.errback(Failure(StreamReset("APNs reset the stream: CANCEL")))
        self.changed()

    def lose(self, reason: ConnectionLost = LOST) -> None:
        """
        End, in the order of a real connection.
        """
        self.lost = reason
        waiting, self.waiting = self.waiting, []
        for sent in waiting:
            error = ConnectionLost(str(reason), reason.resend, reason.refused)
            sent.done.errback(Failure(error))
        self.changed()
        self.vanish()

    def allow(self, limit: int) -> None:
        """
        Change how many streams may be open.
        """
        self._limit = limit
        self.changed()

    def changed(self) -> None:
        """
        Tell the observer, and go if that was the last stream.
        """
        if self.closed and not self.waiting:
            self.vanish()
        if self.observer is not None:
            IConnectionObserver(self.observer).changed(self)

    def _cancel(self, sent: Sent) -> None:
        if sent in self.waiting:
            self.waiting.remove(sent)
            self.cancelled.append(sent.token)
            self.changed()


@implementer(IConnector)
class FakeConnector:
    """
    Opens connections when a test says so.

    @ivar certificates: with what it was asked to connect, each time.
    @ivar attempts: those that are neither open nor failed.
    @ivar connections: all that were opened.
    @ivar cancelled: how many attempts were.
    @ivar at_once: the limit of connections that open at once, or why they do not.
    """

    def __init__(self) -> None:
        self.certificates: list[PushCertificate] = []
        self.attempts: list[Deferred[Any]] = []
        self.connections: list[FakeConnection] = []
        self.cancelled = 0
        self.at_once: int | Exception | None = None

    def connect(self, certificate: PushCertificate) -> Deferred[Any]:
        """
        See L{IConnector}.
        """
        self.certificates.append(certificate)
        if isinstance(self.at_once, Exception):
            return fail(self.at_once)
        if self.at_once is not None:
            return succeed(self._connection(self.at_once))
        attempt: Deferred[Any] = Deferred(self._cancel)
        self.attempts.append(attempt)
        return attempt

    def open(self, limit: int = 10) -> FakeConnection:
        """
        Let the oldest attempt succeed.
        """
        connection = self._connection(limit)
        self.attempts.pop(0).callback(connection)
        return connection

    def fail(self, error: Exception) -> None:
        """
        Let the oldest attempt fail.
        """
        self.attempts.pop(0).errback(Failure(error))

    def _connection(self, limit: int) -> FakeConnection:
        self.connections.append(FakeConnection(limit))
        return self.connections[-1]

    def _cancel(self, attempt: Deferred[Any]) -> None:
        self.attempts.remove(attempt)
        self.cancelled += 1
        attempt.errback(Failure(CancelledError()))


def make_provider(
    connector: FakeConnector,
    clock: Clock,
    connections: int = 1,
    now: Callable[[], datetime] = lambda: NOW,
) -> Provider:
    """
    @return: a provider that has its certificate.
    """
    provider = Provider(
        TOPIC, connector, clock, connections=connections, now=now, random=FixedRandom()
    )
    provider.use(certificate(), 0)
    return provider


class FakePush:
    """
    A push that only notes what happens to it.

    @ivar stream: its stream, once it was sent.
    """

    def __init__(self, number: int = 0) -> None:
        self.notification = notification(number)
        self.stream: Deferred[Answer] | None = None
        self.answers: list[Answer] = []
        self.losses: list[BaseException] = []
        self.results: list[PushResult] = []

    def sent(self, stream: Deferred[Answer]) -> None:
        """
        See L{nanomdm.push.line.Waiter}.
        """
        self.stream = stream

    def answered(self, answer: Answer) -> None:
        """
        See L{nanomdm.push.line.Waiter}.
        """
        self.answers.append(answer)

    def lost(self, failure: Failure) -> None:
        """
        See L{nanomdm.push.line.Waiter}.
        """
        self.losses.append(failure.value)

    def give_up(self, result: PushResult) -> None:
        """
        See L{nanomdm.push.line.Waiter}.
        """
        self.results.append(result)


def target(id: str, **fields: Any) -> PushTarget:
    """
    @return: an enrollment whose token is its id in hex.
    """
    defaults: dict[str, Any] = {
        "topic": TOPIC,
        "token_hex": id.encode().hex().upper(),
        "push_magic": f"magic of {id}",
        "enabled": True,
        "tally": 1,
        "stale_token": 0,
    }
    return PushTarget(id, **{**defaults, **fields})


@frozen
class Buried:
    """
    A call of C{bury_push_token}.
    """

    id: str
    dead: DeadToken
    ago: float


@define(eq=False, slots=False)
class FakeStore:
    """
    @ivar targets: by id.
    @ivar certificates: by topic.
    @ivar lookups: ids and whether they were scheduled, of each C{push_targets}.
    @ivar fetches: topics that C{push_certificate} was called for.
    @ivar errors: by method: raised or, as a L{Failure}, failed with.
    @ivar held: by method: calls that wait for L{release}.
    @ivar hold: methods whose calls do.
    """

    targets: dict[str, PushTarget] = field(factory=dict)
    certificates: dict[str, StoredPushCertificate] = field(factory=dict)
    lookups: list[tuple[list[str], bool]] = field(factory=list)
    fetches: list[str] = field(factory=list)
    buried: list[Buried] = field(factory=list)
    forgotten: list[list[str]] = field(factory=list)
    errors: dict[str, Exception | Failure] = field(factory=dict)
    hold: set[str] = field(factory=set)
    held: list[tuple[str, Deferred[Any], Callable[[], Any]]] = field(factory=list)

    def add(self, *ids: str, **fields: Any) -> list[str]:
        """
        @return: the ids, which are enrolled now.
        """
        self.targets.update({id: target(id, **fields) for id in ids})
        return list(ids)

    def release(self, method: str) -> None:
        """
        Let the oldest call of a method that is held end.
        """
        call = next(each for each in self.held if each[0] == method)
        self.held.remove(call)
        _, done, work = call
        error = self.errors.get(method)
        if error is not None:
            done.errback(error)
        else:
            done.callback(work())

    def _do(self, method: str, work: Callable[[], Any]) -> Deferred[Any]:
        if method in self.hold:
            done: Deferred[Any] = Deferred()
            self.held.append((method, done, work))
            return done
        error = self.errors.get(method)
        if isinstance(error, Exception):
            raise error
        return succeed(work()) if error is None else fail(error)

    def push_targets(self, ids: Sequence[str], schedule: bool) -> Deferred[Any]:
        """
        See L{IPushStore<nanomdm.interfaces.IPushStore>}.
        """
        self.lookups.append((list(ids), schedule))
        return self._do(
            "push_targets", lambda: {id: self.targets[id] for id in ids if id in self.targets}
        )

    def push_certificate(self, topic: str) -> Deferred[Any]:
        """
        See L{IPushStore<nanomdm.interfaces.IPushStore>}.
        """
        self.fetches.append(topic)
        return self._do("push_certificate", lambda: self.certificates.get(topic))

    def bury_push_token(self, target: PushTarget, dead: DeadToken, ago: float) -> Deferred[Any]:
        """
        See L{IPushStore<nanomdm.interfaces.IPushStore>}.
        """
        self.buried.append(Buried(target.id, dead, ago))
        return self._do("bury_push_token", lambda: True)

    def forget_pushes(self, ids: Sequence[str]) -> Deferred[Any]:
        """
        See L{IPushStore<nanomdm.interfaces.IPushStore>}.
        """
        self.forgotten.append(list(ids))
        return self._do("forget_pushes", lambda: None)


@cache
def stored(topic: str = TOPIC, stale_token: int = 0) -> StoredPushCertificate:
    """
    @return: a certificate as a storage has it, another one for each version.
    """
    issued = ThrowawayCA.create().issue_push(
        topic,
        key=ec.generate_private_key(ec.SECP256R1()),
        not_before=NOW - timedelta(days=1),
        not_after=NOW + timedelta(days=100 + stale_token),
    )
    return StoredPushCertificate(topic, issued.pem.decode(), issued.key_pem.decode(), stale_token)
