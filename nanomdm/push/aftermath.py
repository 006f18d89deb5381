"""
What the storage must know of tokens that APNs does not accept.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from nanomdm.interfaces import DeadToken, IPushStore, PushTarget
from nanomdm.push.notification import Answer

#: Reasons of status 400 that are about the token (Apple, "Handling notification
#: responses from APNs").
_TOKEN_REASONS: Final = frozenset({"BadDeviceToken", "DeviceTokenNotForTopic"})

#: Ids that one call forgets at most.
_GROUP: Final = 500


def is_about_token(answer: Answer) -> bool:
    """
    @return: whether another push with this token would fail just the same.
    """
    return answer.status == 410 or (answer.status == 400 and answer.reason in _TOKEN_REASONS)


class Aftermath:
    """
    Writes to the storage what follows from answers about tokens.  A storage that
    fails is only complained about: the push has its result all the same.

    @param now: the time of day, with a time zone.
    """

    _log = Logger()

    def __init__(self, store: IPushStore, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now
        self._writing: set[Deferred[None]] = set()
        self._forgotten: list[tuple[str, Deferred[None]]] = []
        self._forgetting = False

    def note(self, target: PushTarget, answer: Answer) -> Deferred[None]:
        """
        Bury a token that APNs says is dead since some time; do not push again to
        another bad one of the server's own accord.

        @return: fires when that is written, or could not be; never fails.
        """
        if answer.status == 410 and answer.timestamp is not None:
            written = self._bury(target, answer.reason or "Unregistered", answer.timestamp)
        else:
            written = self._forget(target.id)
        self._writing.add(written)
        return written.addCallback(self._written, written)

    def finished(self) -> Deferred[None]:
        """
        @return: fires when nothing is being written.
        """
        return DeferredList(list(self._writing)).addCallback(lambda ignored: None)

    def _written(self, ignored: object, written: Deferred[None]) -> None:
        self._writing.discard(written)

    def _bury(self, target: PushTarget, reason: str, timestamp: float) -> Deferred[None]:
        ago = max(0.0, self._now().timestamp() - timestamp)
        buried: Deferred[bool] = maybeDeferred(
            self._store.bury_push_token, target, DeadToken(410, reason), ago
        )
        return buried.addCallbacks(lambda ignored: None, self._complain, errbackArgs=("bury",))

    def _forget(self, id: str) -> Deferred[None]:
        """
        Together with others that come while some are being forgotten.
        """
        done: Deferred[None] = Deferred()
        self._forgotten.append((id, done))
        if not self._forgetting:
            self._forgetting = True
            Deferred.fromCoroutine(self._forget_all()).addErrback(self._complain, "forget")
        return done

    async def _forget_all(self) -> None:
        while self._forgotten:
            group, self._forgotten = self._forgotten[:_GROUP], self._forgotten[_GROUP:]
            try:
                await self._store.forget_pushes([id for id, _ in group])
            except Exception:
                self._complain(Failure(), "forget")
            for _, done in group:
                done.callback(None)
        self._forgetting = False

    def _complain(self, failure: Failure, action: str) -> None:
        self._log.error(
            "storage does not note a bad token", action=action, error=failure.getErrorMessage()
        )
