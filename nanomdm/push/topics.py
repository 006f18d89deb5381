"""
The topics that are pushed for: their certificates, and who pushes with them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from attrs import frozen
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from nanomdm.cache import LRUCache
from nanomdm.crypto.pushcert import parse_stored_certificate
from nanomdm.errors import MessageError, NotConfigured, SecretUnreadable
from nanomdm.interfaces import IPushStore
from nanomdm.push.provider import Provider

#: Topics without a certificate that are remembered as complained of, and for how
#: many seconds.  A topic is what devices say it is.
_COMPLAINTS: Final = 1000
_SAID_AGAIN: Final = 60.0


@frozen
class _Version:
    """
    What a topic's certificate came to.

    @ivar unusable: why it is no use, if so.
    """

    stale_token: int
    unusable: str | None = None


class Topics:
    """
    Finds the provider of a topic, with the certificate that the storage has.

    @param create: makes the provider of a new topic.
    """

    _log = Logger()

    def __init__(
        self, store: IPushStore, clock: IReactorTime, create: Callable[[str], Provider]
    ) -> None:
        self._store = store
        self._create = create
        self._providers: dict[str, Provider] = {}
        self._versions: dict[str, _Version] = {}
        self._fetching: dict[str, list[Deferred[None]]] = {}
        self._complaints: LRUCache[str, bool] = LRUCache(_COMPLAINTS, _SAID_AGAIN, clock.seconds)

    async def provider(self, topic: str, stale_token: int | None) -> Provider:
        """
        @param stale_token: the version that the topic's certificate has now, so
            that one replaced through another server is noticed; L{None} when there
            is none.
        @raise NotConfigured: there is no certificate.
        @raise MessageError: it can not be used.
        @raise SecretUnreadable: its key can not be decrypted.
        """
        if stale_token is not None:
            # A fetch that was under way already may have come too early.
            for _ in range(2):
                version = self._versions.get(topic)
                if version is not None and version.stale_token == stale_token:
                    break
                await self._fetched(topic)
        version = None if stale_token is None else self._versions.get(topic)
        if version is None:
            if self._complains(topic):
                self._log.warn("no push certificate", topic=topic)
            raise NotConfigured(f"no push certificate for topic {topic}")
        if version.unusable is not None:
            raise MessageError(version.unusable)
        return self._providers[topic]

    @property
    def providers(self) -> Collection[Provider]:
        """
        Those of all topics that were pushed for.
        """
        return self._providers.values()

    def stop(self) -> Deferred[None]:
        """
        @return: fires when all connections are gone.
        """
        ends = [provider.stop() for provider in self._providers.values()]
        return DeferredList(ends).addCallback(lambda ignored: None)

    def _fetched(self, topic: str) -> Deferred[None]:
        """
        @return: fires once the certificate was fetched, once for all who wait.
        """
        done: Deferred[None] = Deferred()
        waiting = self._fetching.setdefault(topic, [])
        waiting.append(done)
        if len(waiting) == 1:
            Deferred.fromCoroutine(self._fetch(topic)).addBoth(self._tell, topic)
        return done

    def _tell(self, result: Failure | None, topic: str) -> None:
        for done in self._fetching.pop(topic):
            done.callback(result)

    def _complains(self, topic: str) -> bool:
        """
        @return: whether this was not complained of just now.
        """
        before = self._complaints.get(topic)
        self._complaints.put(topic, True)
        return before is None

    async def _fetch(self, topic: str) -> None:
        try:
            stored = await self._store.push_certificate(topic)
        except SecretUnreadable as problem:
            # Not kept in mind: the key may be there the next time.
            if self._complains(topic):
                self._log.error("stored push certificate", topic=topic, error=str(problem))
            raise
        if stored is None:
            self._versions.pop(topic, None)
            return
        try:
            certificate = parse_stored_certificate(topic, stored.certificate_pem, stored.key_pem)
        except MessageError as problem:
            self._log.error("stored push certificate", topic=topic, error=str(problem))
            error = f"the stored push certificate of topic {topic} can not be used: {problem}"
            self._versions[topic] = _Version(stored.stale_token, error)
            return
        if topic not in self._providers:
            self._providers[topic] = self._create(topic)
        self._providers[topic].use(certificate, stored.stale_token)
        self._versions[topic] = _Version(stored.stale_token)
