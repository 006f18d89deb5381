"""
Tests for L{nanomdm.service.association}.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, gatherResults
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from nanomdm.crypto.identity import Identity
from nanomdm.errors import AssociationRefused, StorageUnavailable
from nanomdm.interfaces import AssociationFacts, CertificateHolder
from nanomdm.mdm.enrollment import Enrollment, EnrollmentType
from nanomdm.service.association import CertificateAssociation
from tests.storage.tables import open_sqlite, query

D1 = Enrollment("D1", EnrollmentType.DEVICE)
D2 = Enrollment("D2", EnrollmentType.DEVICE)
USER = Enrollment("D1:U1", EnrollmentType.USER, "D1")

A, B, C = (Identity.from_der(der) for der in (b"a", b"b", b"c"))
EXPIRED_A, EXPIRED_C = (Identity.from_der(der, expired=True) for der in (b"a", b"c"))

DAY = 86400.0

TAKEN = "it is associated with D1"
HAS_OTHER = "the id is associated with another certificate"
NOT_ASSOCIATED = "it is not associated"
EXPIRED = "it is expired and not associated"
SUPERSEDED = "a newer certificate of this id superseded it"


class RecordingStore:
    """
    Notes what the storage is asked.
    """

    def __init__(self, store: Any) -> None:
        self._store = store
        self.asked: list[str] = []

    def association(self, device_id: str, sha256: str) -> Deferred[AssociationFacts]:
        """
        Look only.
        """
        self.asked.append("association")
        return self._store.association(device_id, sha256)

    def enrollment_of_certificate(self, sha256: str) -> Deferred[CertificateHolder | None]:
        """
        Look for whom it is.
        """
        self.asked.append("enrollment_of_certificate")
        return self._store.enrollment_of_certificate(sha256)

    def associate(
        self, device_id: str, sha256: str, first_only: bool, grace: float, twin: str | None = None
    ) -> Deferred[AssociationFacts]:
        """
        Look and add.
        """
        self.asked.append("associate")
        return self._store.associate(device_id, sha256, first_only, grace, twin)


class AssociationCase(TestCase):
    """
    An association on a real storage.
    """

    def setUp(self) -> None:
        self.storage = open_sqlite(reactor, None)
        self.addCleanup(self.storage.stop)
        self.store = RecordingStore(self.storage)
        self.clock = Clock()
        self.rules = self.configured()

    def configured(self, **options: Any) -> CertificateAssociation:
        """
        One server's rules, with an empty cache.
        """
        return CertificateAssociation(self.store, self.clock.seconds, **options)

    async def query(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """
        Look into the tables, or change them.
        """
        return await query(self.storage, sql, *parameters)

    async def pairs(self) -> list[tuple[str, str]]:
        """
        All associations.
        """
        return await self.query("SELECT id, sha256 FROM cert_auth_associations ORDER BY rowid")

    async def age(self, identity: Identity, seconds: float) -> None:
        """
        Make an association as old as that.
        """
        await self.query(
            "UPDATE cert_auth_associations"
            " SET updated_at = strftime('%Y-%m-%d %H:%M:%f', 'now', ?) WHERE sha256 = ?",
            f"-{seconds} seconds",
            identity.sha256,
        )

    async def refused(
        self,
        attempt: Coroutine[Any, Any, None],
        enrollment: Enrollment,
        identity: Identity,
        why: str,
    ) -> None:
        """
        Assert that an attempt is refused with a text that says all.
        """
        error = await self.assertFailure(Deferred.fromCoroutine(attempt), AssociationRefused)
        self.assertEqual(
            str(error),
            f"certificate {identity.sha256} may not speak for {enrollment.device_id}: {why}",
        )

    async def authenticateRefused(
        self, enrollment: Enrollment, identity: Identity, why: str
    ) -> None:
        """
        Assert that an C{Authenticate} is refused.
        """
        await self.refused(self.rules.authenticate(enrollment, identity), enrollment, identity, why)

    async def checkRefused(self, enrollment: Enrollment, identity: Identity, why: str) -> None:
        """
        Assert that any other message is refused.
        """
        await self.refused(self.rules.check(enrollment, identity), enrollment, identity, why)

    async def outcomes(self, *attempts: Coroutine[Any, Any, None]) -> list[bool]:
        """
        Make attempts at once and tell which succeed.
        """
        return await gatherResults(
            [
                Deferred.fromCoroutine(attempt).addCallbacks(
                    lambda _: True, lambda failure: bool(failure.trap(AssociationRefused)) and False
                )
                for attempt in attempts
            ]
        )


class AuthenticateTests(AssociationCase):
    """
    C{Authenticate} messages.
    """

    async def test_neverSeen(self) -> None:
        await self.rules.authenticate(D1, A)
        self.assertEqual(await self.pairs(), [("D1", A.sha256)])
        await self.configured().check(D1, A)

    async def test_seenForThisId(self) -> None:
        for _ in range(2):
            await self.rules.authenticate(D1, A)
            await self.configured().authenticate(D1, A)
        self.assertEqual(await self.pairs(), [("D1", A.sha256)])

    async def test_seenForAnotherId(self) -> None:
        await self.rules.authenticate(D1, A)
        await self.authenticateRefused(D2, A, TAKEN)
        self.rules = self.configured(retro=True)
        await self.authenticateRefused(D2, A, TAKEN)
        self.assertEqual(await self.pairs(), [("D1", A.sha256)])

    async def test_anotherCertificateForTheSameId(self) -> None:
        await self.rules.authenticate(D1, A)
        await self.rules.authenticate(D1, B)
        self.assertEqual(await self.pairs(), [("D1", A.sha256), ("D1", B.sha256)])
        await self.rules.check(D1, B)

    async def test_supersededStaysTaken(self) -> None:
        """
        A certificate that an id no longer uses is still that id's.
        """
        await self.rules.authenticate(D1, A)
        await self.rules.authenticate(D1, B)
        await self.age(A, 9 * DAY)
        await self.age(B, 8 * DAY)
        await self.authenticateRefused(D2, A, TAKEN)

    async def test_twoDevicesAtOnce(self) -> None:
        outcomes = await self.outcomes(
            self.rules.authenticate(D1, A), self.configured().authenticate(D2, A)
        )
        self.assertEqual(outcomes, [True, False])
        self.assertEqual(await self.pairs(), [("D1", A.sha256)])


class CheckTests(AssociationCase):
    """
    All other messages.
    """

    async def test_associated(self) -> None:
        await self.rules.authenticate(D1, A)
        await self.rules.check(D1, A)
        await self.configured().check(D1, A)

    async def test_userChannelCountsAsItsDevice(self) -> None:
        await self.rules.authenticate(D1, A)
        for rules in (self.rules, self.configured()):
            await rules.check(USER, A)
        await self.checkRefused(USER, B, HAS_OTHER)
        self.assertEqual(await self.pairs(), [("D1", A.sha256)])

    async def test_nothingKnown(self) -> None:
        await self.checkRefused(D1, A, NOT_ASSOCIATED)
        self.assertEqual(await self.pairs(), [])

    async def test_certificateOfAnother(self) -> None:
        await self.rules.authenticate(D1, A)
        await self.checkRefused(D2, A, TAKEN)
        await self.rules.authenticate(D2, B)
        await self.checkRefused(D2, A, TAKEN)

    async def test_idHasAnother(self) -> None:
        await self.rules.authenticate(D1, A)
        await self.checkRefused(D1, B, HAS_OTHER)
        self.assertEqual(await self.pairs(), [("D1", A.sha256)])

    async def test_isNoRetroByDefault(self) -> None:
        await self.checkRefused(D1, A, NOT_ASSOCIATED)
        await self.checkRefused(D1, A, NOT_ASSOCIATED)
        self.assertNotIn("associate", self.store.asked)


class RetroTests(AssociationCase):
    """
    With C{--retro}.
    """

    def setUp(self) -> None:
        super().setUp()
        self.rules = self.configured(retro=True)

    async def test_neitherHasAnything(self) -> None:
        await self.rules.check(D1, A)
        self.assertEqual(await self.pairs(), [("D1", A.sha256)])
        # What was made so is an association like any other.
        await self.configured().check(D1, A)

    async def test_userChannelFirst(self) -> None:
        await self.rules.check(USER, A)
        self.assertEqual(await self.pairs(), [("D1", A.sha256)])

    async def test_idHasAnother(self) -> None:
        await self.rules.check(D1, A)
        await self.checkRefused(D1, B, HAS_OTHER)
        self.assertEqual(await self.pairs(), [("D1", A.sha256)])

    async def test_certificateOfAnother(self) -> None:
        await self.rules.check(D1, A)
        await self.checkRefused(D2, A, TAKEN)
        self.assertEqual(await self.pairs(), [("D1", A.sha256)])

    async def test_messageDoesNotBringBackAnOlderOne(self) -> None:
        """
        Only an C{Authenticate} makes a certificate the newest.
        """
        await self.rules.authenticate(D1, A)
        await self.rules.authenticate(D1, B)
        await self.rules.check(D1, A)
        self.assertIsNone((await self.storage.association("D1", B.sha256)).superseded_for)

    async def test_twoCertificatesAtOnce(self) -> None:
        outcomes = await self.outcomes(
            self.rules.check(D1, A), self.configured(retro=True).check(D1, B)
        )
        self.assertEqual(outcomes, [True, False])
        self.assertEqual(await self.pairs(), [("D1", A.sha256)])

    async def test_sameCertificateAtOnce(self) -> None:
        outcomes = await self.outcomes(*(self.rules.check(D1, A) for _ in range(5)))
        self.assertEqual(outcomes, [True] * 5)
        self.assertEqual(await self.pairs(), [("D1", A.sha256)])


class TwinTests(AssociationCase):
    """
    A certificate whose signature was rewritten is another one by its hash only.
    """

    async def test_rewrittenCertificate(self) -> None:
        real = Identity.from_der(b"a", twin=b"b")
        rewritten = Identity.from_der(b"b", twin=b"a")
        await self.rules.authenticate(D1, real)
        for enrollment, reason in (
            (D1, "it is a variation of the certificate of D1"),
            (D2, TAKEN),
        ):
            error = await self.assertFailure(
                Deferred.fromCoroutine(self.rules.authenticate(enrollment, rewritten)),
                AssociationRefused,
            )
            self.assertIn(reason, str(error))
        await self.rules.check(D1, real)


class SupersededTests(AssociationCase):
    """
    An id's older certificates.
    """

    async def reenrolled(self, seconds_ago: float) -> None:
        """
        The device enrolled with A long ago, and with B some seconds ago.
        """
        await self.rules.authenticate(D1, A)
        await self.rules.authenticate(D1, B)
        await self.age(A, 365 * DAY)
        await self.age(B, seconds_ago)

    async def test_worksDuringTheGrace(self) -> None:
        await self.reenrolled(DAY - 60)
        await self.rules.check(D1, A)
        await self.rules.check(D1, B)

    async def test_isRefusedAfterTheGrace(self) -> None:
        await self.reenrolled(DAY + 60)
        await self.checkRefused(D1, A, SUPERSEDED)
        await self.checkRefused(USER, A, SUPERSEDED)
        await self.authenticateRefused(D1, A, SUPERSEDED)
        await self.rules.check(D1, B)

    async def test_otherGrace(self) -> None:
        await self.reenrolled(500)
        self.rules = self.configured(superseded_grace=600.0)
        await self.rules.check(D1, A)
        self.rules = self.configured(superseded_grace=400.0)
        await self.checkRefused(D1, A, SUPERSEDED)

    async def test_noGrace(self) -> None:
        self.rules = self.configured(superseded_grace=0.0)
        await self.rules.authenticate(D1, A)
        await self.rules.check(D1, A)
        await self.rules.authenticate(D1, B)
        await self.checkRefused(D1, A, SUPERSEDED)
        await self.authenticateRefused(D1, A, SUPERSEDED)
        await self.rules.check(D1, B)
        await self.rules.authenticate(D1, B)

    async def test_retroDoesNotHelp(self) -> None:
        await self.reenrolled(DAY + 60)
        self.rules = self.configured(retro=True)
        await self.checkRefused(D1, A, SUPERSEDED)

    async def test_countedFromTheNextOne(self) -> None:
        """
        A third certificate gives the first no second grace.
        """
        await self.reenrolled(DAY + 60)
        await self.rules.authenticate(D1, C)
        await self.checkRefused(D1, A, SUPERSEDED)
        await self.rules.check(D1, B)
        await self.rules.check(D1, C)

    async def test_enrollingWithTheOlderAgain(self) -> None:
        """
        Makes it the newest, and the other one the superseded.
        """
        await self.reenrolled(DAY - 60)
        await self.rules.authenticate(D1, A)
        await self.age(A, DAY + 60)
        await self.age(B, 2 * DAY)
        self.rules = self.configured()
        await self.rules.check(D1, A)
        await self.checkRefused(D1, B, SUPERSEDED)

    async def test_refusedEnrollingChangesNothing(self) -> None:
        await self.reenrolled(DAY + 60)
        await self.authenticateRefused(D1, A, SUPERSEDED)
        self.rules = self.configured()
        await self.checkRefused(D1, A, SUPERSEDED)
        await self.rules.check(D1, B)


class ExpiredTests(AssociationCase):
    """
    Certificates within C{--expired-identity-grace}.
    """

    async def test_new(self) -> None:
        await self.authenticateRefused(D1, EXPIRED_A, EXPIRED)
        await self.checkRefused(D1, EXPIRED_A, EXPIRED)
        self.assertEqual(await self.pairs(), [])

    async def test_associated(self) -> None:
        await self.rules.authenticate(D1, A)
        for rules in (self.rules, self.configured()):
            await rules.check(D1, EXPIRED_A)
            await rules.check(USER, EXPIRED_A)
            await rules.authenticate(D1, EXPIRED_A)
        self.assertEqual(await self.pairs(), [("D1", A.sha256)])

    async def test_ofAnother(self) -> None:
        await self.rules.authenticate(D1, A)
        await self.authenticateRefused(D2, EXPIRED_A, TAKEN)
        await self.checkRefused(D2, EXPIRED_A, TAKEN)

    async def test_idHasAnother(self) -> None:
        await self.rules.authenticate(D1, A)
        await self.authenticateRefused(D1, EXPIRED_C, EXPIRED)
        await self.checkRefused(D1, EXPIRED_C, EXPIRED)
        self.assertEqual(await self.pairs(), [("D1", A.sha256)])

    async def test_retro(self) -> None:
        self.rules = self.configured(retro=True)
        await self.checkRefused(D1, EXPIRED_A, EXPIRED)
        self.assertEqual(await self.pairs(), [])

    async def test_superseded(self) -> None:
        await self.rules.authenticate(D1, A)
        await self.rules.authenticate(D1, B)
        await self.rules.check(D1, EXPIRED_A)
        await self.rules.authenticate(D1, EXPIRED_A)
        await self.age(A, 3 * DAY)
        await self.age(B, DAY + 60)
        await self.checkRefused(D1, EXPIRED_A, SUPERSEDED)
        await self.authenticateRefused(D1, EXPIRED_A, SUPERSEDED)
        await self.rules.check(D1, B)


class EnrollmentTests(AssociationCase):
    """
    Whom a certificate speaks for.
    """

    async def find(self, identity: Identity) -> str:
        return await self.rules.enrollment_of(identity)

    async def findRefused(self, identity: Identity, why: str) -> None:
        finding = Deferred.fromCoroutine(self.find(identity))
        error = await self.assertFailure(finding, AssociationRefused)
        self.assertEqual(str(error), f"certificate {identity.sha256} {why}")

    async def test_associated(self) -> None:
        await self.rules.authenticate(D1, A)
        await self.rules.authenticate(D2, B)
        self.assertEqual([await self.find(A), await self.find(B)], ["D1", "D2"])
        # One that has expired since then.
        self.assertEqual(await self.find(EXPIRED_A), "D1")

    async def test_notAssociated(self) -> None:
        await self.rules.authenticate(D1, A)
        for rules in (self.rules, self.configured(retro=True)):
            self.rules = rules
            await self.findRefused(B, NOT_ASSOCIATED.replace("it ", ""))
        self.assertEqual(await self.pairs(), [("D1", A.sha256)])

    async def test_superseded(self) -> None:
        await self.rules.authenticate(D1, A)
        await self.rules.authenticate(D1, B)
        await self.age(B, DAY - 60)
        await self.age(A, 9 * DAY)
        self.assertEqual([await self.find(A), await self.find(B)], ["D1", "D1"])
        await self.age(B, DAY + 60)
        await self.findRefused(A, f"may not speak for D1: {SUPERSEDED}")
        self.assertEqual(await self.find(B), "D1")


class CacheTests(AssociationCase):
    """
    When the storage is asked.
    """

    async def asks(self, enrollment: Enrollment, identity: Identity) -> bool:
        """
        Check a message and tell whether the storage was asked.
        """
        self.store.asked.clear()
        await self.rules.check(enrollment, identity)
        return bool(self.store.asked)

    async def test_afterAuthenticate(self) -> None:
        await self.rules.authenticate(D1, A)
        self.assertFalse(await self.asks(D1, A))
        self.assertFalse(await self.asks(USER, A))

    async def test_afterCheck(self) -> None:
        await self.rules.authenticate(D1, A)
        self.rules = self.configured()
        self.assertTrue(await self.asks(D1, A))
        self.assertFalse(await self.asks(D1, A))

    async def test_afterRetro(self) -> None:
        self.rules = self.configured(retro=True)
        self.assertTrue(await self.asks(D1, A))
        self.assertFalse(await self.asks(D1, A))

    async def test_lifetime(self) -> None:
        await self.rules.authenticate(D1, A)
        self.clock.advance(29)
        self.assertFalse(await self.asks(D1, A))
        self.clock.advance(1)
        self.assertTrue(await self.asks(D1, A))
        self.assertFalse(await self.asks(D1, A))

    async def test_forget(self) -> None:
        """
        Who is told that a device was deleted believes nothing of it any more; another
        server does for half a minute.
        """
        other = self.configured()
        for identity, enrollment in ((A, D1), (B, D2)):
            await self.rules.authenticate(enrollment, identity)
            await other.check(enrollment, identity)
        self.rules.forget("D3")
        self.assertFalse(await self.asks(D1, A))
        await self.query("DELETE FROM cert_auth_associations WHERE id = 'D1'")
        self.rules.forget("D1")
        await self.checkRefused(D1, A, NOT_ASSOCIATED)
        self.assertFalse(await self.asks(D2, B))
        await other.check(D1, A)
        self.clock.advance(30)
        self.rules = other
        await self.checkRefused(D1, A, NOT_ASSOCIATED)

    async def test_forgetMeanwhile(self) -> None:
        """
        What the storage said before a device was deleted is not believed afterwards.
        """
        await self.configured().authenticate(D1, A)
        for step in (self.rules.check, self.rules.authenticate):
            under_way = Deferred.fromCoroutine(step(D1, A))
            self.rules.forget("D1")
            await under_way
            self.assertTrue(await self.asks(D1, A))
            self.rules.forget("D1")

    async def test_shortGrace(self) -> None:
        """
        Nothing is believed for longer than the grace lasts, as another server
        may have enrolled the device anew.
        """
        self.rules = self.configured(superseded_grace=10.0)
        await self.rules.authenticate(D1, A)
        self.clock.advance(9)
        self.assertFalse(await self.asks(D1, A))
        self.clock.advance(1)
        self.assertTrue(await self.asks(D1, A))

    async def test_noGrace(self) -> None:
        self.rules = self.configured(superseded_grace=0.0)
        await self.rules.authenticate(D1, A)
        self.assertTrue(await self.asks(D1, A))
        self.assertTrue(await self.asks(D1, A))
        await self.configured().authenticate(D1, B)
        await self.checkRefused(D1, A, SUPERSEDED)

    async def test_otherServer(self) -> None:
        await self.rules.authenticate(D1, A)
        await self.configured().authenticate(D1, B)
        await self.age(B, DAY + 60)
        await self.age(A, 2 * DAY)
        self.clock.advance(30)
        await self.checkRefused(D1, A, SUPERSEDED)

    async def test_supersededIsNotServed(self) -> None:
        await self.rules.authenticate(D1, A)
        self.assertFalse(await self.asks(D1, A))
        await self.rules.authenticate(D1, B)
        for _ in range(2):
            self.assertTrue(await self.asks(D1, A))
        # Nor does it push out the newest.
        self.assertFalse(await self.asks(D1, B))
        await self.age(A, 2 * DAY)
        await self.age(B, DAY + 60)
        await self.checkRefused(D1, A, SUPERSEDED)

    async def test_olderThatCameBack(self) -> None:
        await self.rules.authenticate(D1, A)
        await self.rules.authenticate(D1, B)
        await self.rules.authenticate(D1, A)
        self.assertFalse(await self.asks(D1, A))
        self.assertTrue(await self.asks(D1, B))

    async def test_supersededAndExpiredIsNotServed(self) -> None:
        """
        An expired certificate does not become the newest by enrolling again.
        """
        await self.rules.authenticate(D1, A)
        await self.rules.authenticate(D1, B)
        await self.rules.authenticate(D1, EXPIRED_A)
        self.assertTrue(await self.asks(D1, EXPIRED_A))
        self.assertFalse(await self.asks(D1, B))
        await self.age(A, 2 * DAY)
        await self.age(B, DAY + 60)
        await self.checkRefused(D1, EXPIRED_A, SUPERSEDED)

    async def test_otherIdOrCertificate(self) -> None:
        await self.rules.authenticate(D1, A)
        await self.rules.authenticate(D2, B)
        await self.checkRefused(D2, A, TAKEN)
        await self.checkRefused(D1, B, "it is associated with D2")
        # A refusal makes nobody forget.
        self.assertFalse(await self.asks(D1, A))
        self.assertFalse(await self.asks(D2, B))

    async def test_refusalsAreNotRemembered(self) -> None:
        await self.checkRefused(D1, A, NOT_ASSOCIATED)
        await self.configured().authenticate(D1, A)
        await self.rules.check(D1, A)

    async def test_failuresAreNotRemembered(self) -> None:
        class Broken:
            def association(self, device_id: str, sha256: str) -> Deferred[AssociationFacts]:
                return fail(StorageUnavailable("locked"))

            def associate(self, *arguments: Any, **named: Any) -> Deferred[AssociationFacts]:
                return fail(StorageUnavailable("locked"))

        store, self.store._store = self.store._store, Broken()
        for attempt in (self.rules.check(D1, A), self.rules.authenticate(D1, A)):
            await self.assertFailure(Deferred.fromCoroutine(attempt), StorageUnavailable)
        self.store._store = store
        await self.checkRefused(D1, A, NOT_ASSOCIATED)
