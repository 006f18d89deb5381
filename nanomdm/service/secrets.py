"""
Telling in time that keys for secrets in the database are missing.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from nanomdm.crypto.vault import Vault
from nanomdm.interfaces import IInspectionStore, SecretsCursor
from nanomdm.metrics.secrets import SecretsMetrics
from nanomdm.rounds import Rounds

#: Seconds before the first look, between two, and after one that failed or found
#: something, which ends that soon when it is put right.
_FIRST: Final = 10.0
_DAY: Final = 86400.0
_HOUR: Final = 3600.0

#: Seconds between two pages: devices have the database meanwhile.
_PAUSE: Final = 0.02


class SecretsWatch:
    """
    Goes through the database once a day, and whenever the keys have changed, and logs
    which secrets none of them decrypts.  Each server has keys of its own, so each looks.

    @param store: has the secrets.
    @param vault: has the keys.
    @param clock: the clock.
    @param metrics: told how many there are.
    """

    _log = Logger()

    def __init__(
        self, store: IInspectionStore, vault: Vault, clock: IReactorTime, metrics: SecretsMetrics
    ) -> None:
        self._store = store
        self._vault = vault
        self._clock = clock
        self._metrics = metrics
        self._rounds = Rounds(clock, self._look)

    def start(self) -> None:
        """
        Begin, a moment after the start of the server.
        """
        self._rounds.start(_FIRST)
        # A look under way judges by the keys that there are at its end.
        self._vault.when_changed(self._rounds.hasten)

    def stop(self) -> Deferred[None]:
        """
        @return: fires once the look under way has ended.
        """
        return self._rounds.stop()

    async def _look(self) -> float:
        try:
            keys = await self._count()
        except Exception:
            text = "secrets were not looked at, it will be tried again"
            self._rounds.tell(self._log, text, Failure())
            return _HOUR
        if self._rounds.stopping:
            return _DAY
        missing = {key: count for key, count in keys.items() if not self._vault.has(key)}
        self._metrics.unreadable = sum(missing.values())
        self._tell(missing)
        return _HOUR if missing else _DAY

    async def _count(self) -> Counter[str]:
        keys: Counter[str] = Counter()
        cursor: SecretsCursor | None = None
        while not self._rounds.stopping:
            page = await self._store.encrypted(cursor)
            keys.update(page.keys)
            cursor = page.cursor
            if cursor is None:
                break
            await deferLater(self._clock, _PAUSE)
        return keys

    def _tell(self, missing: dict[str, int]) -> None:
        if missing and self._vault.is_empty:
            self._log.warn(
                "the database has encrypted secrets, but there is no --secret-key-file:"
                " new ones are stored in plain text"
            )
        for key, count in sorted(missing.items()):
            self._log.error(
                "secrets can not be decrypted",
                key=key,
                count=count,
                do="put the key back into --secret-key-file",
            )
