"""
Certificate association: a device may only speak for the id that its certificate
enrolled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from nanomdm.cache import LRUCache
from nanomdm.crypto.identity import Identity
from nanomdm.errors import AssociationRefused
from nanomdm.interfaces import AssociationFacts, IAssociationStore
from nanomdm.mdm.enrollment import Enrollment

_CACHED_IDS: Final = 100_000

#: Seconds for which an association is believed without asking the storage: how
#: long another server's re-enrollment of the same device can go unnoticed.
_CACHE_TTL: Final = 30.0


class CertificateAssociation:
    """
    Checks and makes associations of device-channel ids with certificates.

    @param store: where they are kept.
    @param seconds: the clock of the cache.
    @param retro: let an id that has no certificate take the first free one that
        comes along with any message (C{--retro}).
    @param superseded_grace: seconds for which an older certificate of an id
        works after the id enrolled with a newer one.
    """

    def __init__(
        self,
        store: IAssociationStore,
        seconds: Callable[[], float],
        retro: bool = False,
        superseded_grace: float = 86400.0,
    ) -> None:
        self._store = store
        self._retro = retro
        self._grace = superseded_grace
        ttl = min(_CACHE_TTL, superseded_grace)
        #: The newest certificate of each id, as far as it was asked for lately.
        self._newest: LRUCache[str, str] = LRUCache(_CACHED_IDS, ttl, seconds)
        #: How often something was forgotten.
        self._forgotten = 0

    async def authenticate(self, enrollment: Enrollment, identity: Identity) -> None:
        """
        Associate the certificate of an C{Authenticate}: one that was never seen
        is taken, one of this same id is fine.

        @raise AssociationRefused: it belongs to another id, was superseded for
            too long, or is expired and new.
        """
        device_id, forgotten = enrollment.device_id, self._forgotten
        if identity.expired:
            facts = await self._store.association(device_id, identity.sha256)
        else:
            facts = await self._store.associate(
                device_id, identity.sha256, first_only=False, grace=self._grace, twin=identity.twin
            )
        self._judge(device_id, identity, facts)
        # An expired one was only looked at, which does not make it the newest.
        if facts.superseded_for is None or not identity.expired:
            self._believe(device_id, identity, forgotten)

    async def check(self, enrollment: Enrollment, identity: Identity) -> None:
        """
        Make sure that the certificate of any other message is associated.

        @raise AssociationRefused: it is not, and may not become so.
        """
        device_id, forgotten = enrollment.device_id, self._forgotten
        if self._newest.get(device_id) == identity.sha256:
            return
        facts = await self._store.association(device_id, identity.sha256)
        if self._retro and not facts.associated and not identity.expired:
            facts = await self._store.associate(
                device_id, identity.sha256, first_only=True, grace=self._grace, twin=identity.twin
            )
        self._judge(device_id, identity, facts)
        if facts.superseded_for is None:
            self._believe(device_id, identity, forgotten)

    def _believe(self, device_id: str, identity: Identity, forgotten: int) -> None:
        """
        @param forgotten: how often that was when the storage was asked: what it said
            before something was deleted may be wrong now.
        """
        if forgotten == self._forgotten:
            self._newest.put(device_id, identity.sha256)

    def forget(self, device_id: str) -> None:
        """
        Ask the storage again when this id comes next, as somebody deleted what was
        known of it.  Other servers go on believing what they know for up to 30 seconds,
        so meanwhile the device may still be answered there.
        """
        self._newest.discard(device_id)
        self._forgotten += 1

    async def enrollment_of(self, identity: Identity) -> str:
        """
        @return: the device-channel id that the certificate speaks for.
        @raise AssociationRefused: there is none, or it was superseded for too long.
        """
        holder = await self._store.enrollment_of_certificate(identity.sha256)
        if holder is None:
            raise AssociationRefused(f"certificate {identity.sha256} is not associated")
        known = AssociationFacts(associated=True, superseded_for=holder.superseded_for)
        self._judge(holder.device_id, identity, known)
        return holder.device_id

    def _judge(self, device_id: str, identity: Identity, facts: AssociationFacts) -> None:
        reason = self._refusal(identity, facts)
        if reason is not None:
            raise AssociationRefused(
                f"certificate {identity.sha256} may not speak for {device_id}: {reason}"
            )

    def _refusal(self, identity: Identity, facts: AssociationFacts) -> str | None:
        if facts.associated:
            if facts.superseded_for is not None and facts.superseded_for >= self._grace:
                return "a newer certificate of this id superseded it"
            return None
        if facts.inserted:
            return None
        if facts.taken_by is not None:
            return f"it is associated with {facts.taken_by}"
        if facts.spelled is not None:
            return f"the database has this id as {facts.spelled}"
        if facts.variant_of is not None:
            return f"it is a variation of the certificate of {facts.variant_of}"
        if identity.expired:
            return "it is expired and not associated"
        if facts.id_has_other:
            return "the id is associated with another certificate"
        return "it is not associated"
