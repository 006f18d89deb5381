"""
Telling in time which push certificates expire.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from cryptography import x509
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from nanomdm.crypto.certificates import UNUSABLE
from nanomdm.crypto.pushcert import WARNING_DAYS, utc_text
from nanomdm.interfaces import IPushStore, ListedPushCertificate
from nanomdm.rounds import Rounds

#: Seconds before the first look, between two, and after one that failed.
_FIRST: Final = 10.0
_DAY: Final = 86400.0
_RETRY: Final = 3600.0

#: Certificates that are read in one turn of the reactor: less than a millisecond each.
_PIECE: Final = 10


class ExpiryWatch:
    """
    Looks at all push certificates once a day, and logs those that expire soon or
    have expired, or whose key can not be read.

    @param store: has them.
    @param clock: the clock.
    @param now: tells the time of day, with its zone.
    """

    _log = Logger()

    def __init__(self, store: IPushStore, clock: IReactorTime, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now
        self._clock = clock
        self._rounds = Rounds(clock, self._look)

    def start(self) -> None:
        """
        Begin, a moment after the start of the server.
        """
        self._rounds.start(_FIRST)

    def stop(self) -> Deferred[None]:
        """
        @return: fires once the look under way has ended.
        """
        return self._rounds.stop()

    async def _look(self) -> float:
        try:
            await self._tell_all(await self._store.push_certificates())
        except Exception:
            text = "push certificates were not looked at, it will be tried again"
            self._rounds.tell(self._log, text, Failure())
            return _RETRY
        return _DAY

    async def _tell_all(self, certificates: Sequence[ListedPushCertificate]) -> None:
        for number, certificate in enumerate(certificates, 1):
            if certificate.key_problem is not None:
                problem = certificate.key_problem
                self._log.error("push key unreadable", topic=certificate.topic, error=problem)
            self._tell(certificate.topic, certificate.certificate_pem)
            # Many tenants have many, and devices are served meanwhile.
            if number % _PIECE == 0:
                await deferLater(self._clock, 0)
            if self._rounds.stopping:
                return

    def _tell(self, topic: str, pem: str) -> None:
        try:
            end = x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc
        except UNUSABLE:
            self._log.error("push certificate unreadable", topic=topic)
            return
        days = (end - self._now()).days
        not_after = utc_text(end)
        if days < 0:
            self._log.error("push certificate expired", topic=topic, not_after=not_after)
        elif days < WARNING_DAYS:
            self._log.warn(
                "push certificate expires soon", topic=topic, not_after=not_after, days=days
            )
