"""
A topic's certificate, and whether it is worth trying.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final

from twisted.logger import Logger

from nanomdm.crypto.pushcert import PushCertificate, utc_text
from nanomdm.interfaces import PushResult

#: Seconds for which a certificate that APNs refused is not tried.
_REFUSED: Final = 60.0

#: Seconds between two log lines about an expired one.
_SAID_AGAIN: Final = 60.0


class Credentials:
    """
    A certificate in use.

    @param now: the time of day, with a time zone.
    """

    _log = Logger()

    def __init__(
        self, certificate: PushCertificate, stale_token: int, now: Callable[[], datetime]
    ) -> None:
        self.certificate = certificate
        self.stale_token = stale_token
        self._now = now
        self._refusal: PushResult | None = None
        self._refused_until = 0.0
        self._say_expired = float("-inf")

    def trouble(self, seconds: float) -> PushResult | None:
        """
        @param seconds: the clock's.
        @return: what pushes fail with, if they would fail with this certificate.
        """
        if self._refusal is not None and seconds < self._refused_until:
            return self._refusal
        return self._expired(seconds) if self._now() > self.certificate.not_after else None

    def refuse(
        self, seconds: float, text: str, status: int | None = None, reason: str | None = None
    ) -> PushResult | None:
        """
        APNs does not accept it.

        @param seconds: the clock's.
        @param text: how it said that.
        @param status: the HTTP status, if there was an answer.
        @param reason: APNs' reason.
        @return: what pushes fail with now; L{None} if that is known already.
        """
        if self._refusal is not None and seconds < self._refused_until:
            return None
        topic = self.certificate.topic
        self._log.error("APNs refuses the push certificate", topic=topic, reason=text)
        self._refused_until = seconds + _REFUSED
        error = f"APNs refuses the push certificate of topic {topic}: {text}"
        self._refusal = PushResult(error=error, status=status, reason=reason)
        return self._refusal

    def _expired(self, seconds: float) -> PushResult:
        topic, end = self.certificate.topic, self.certificate.not_after
        if seconds >= self._say_expired:
            self._say_expired = seconds + _SAID_AGAIN
            self._log.error("push certificate expired", topic=topic, not_after=utc_text(end))
        return PushResult(error=f"the push certificate of topic {topic} expired on {end.date()}")
