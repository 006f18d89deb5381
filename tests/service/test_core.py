"""
Tests for L{nanomdm.service.core}: what requests over HTTP do not reach.
"""

from __future__ import annotations

import plistlib
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from nanomdm.crypto.identity import Identity
from nanomdm.errors import AssociationRefused, MessageError, StorageUnavailable
from nanomdm.interfaces import ITokenHandler
from nanomdm.mdm.checkin import GetToken, parse_checkin
from nanomdm.mdm.command import parse_command, parse_report
from nanomdm.service.association import CertificateAssociation
from nanomdm.service.core import MDMService
from nanomdm.service.events import RequestContext
from tests import samples
from tests.storage.tables import open_sqlite

MAID = "com.apple.maid"
WATCH = "com.apple.watch.pairing"

ALICE, MALLORY = Identity.from_der(b"alice"), Identity.from_der(b"mallory")


@implementer(ITokenHandler)
class RecordingTokenHandler:
    """
    Hands out a token and notes who asked.
    """

    def __init__(self, service_type: str, answer: Deferred[bytes]) -> None:
        self.service_type = service_type
        self.answer = answer
        self.asked: list[GetToken] = []

    def token(self, message: GetToken) -> Deferred[bytes]:
        """
        The token.
        """
        self.asked.append(message)
        return self.answer


class ServiceCase(TestCase):
    """
    A service on a real storage, with one device.
    """

    async def setUp(self) -> None:
        self.storage = open_sqlite(reactor, None)
        self.addCleanup(self.storage.stop)
        self.association = CertificateAssociation(self.storage, lambda: 0.0)
        self.service = self.configured()
        await self.check_in(samples.authenticate())
        await self.check_in(samples.token_update())

    def configured(self, *handlers: RecordingTokenHandler, **options: Any) -> MDMService:
        """
        A service with token handlers.
        """
        return MDMService(self.storage, self.association, token_handlers=handlers, **options)

    async def check_in(self, body: bytes, identity: Identity = ALICE) -> bytes:
        """
        Send a check-in message.
        """
        return await self.service.check_in(parse_checkin(body), identity, RequestContext("T1"))

    async def report(self, body: bytes, identity: Identity = ALICE) -> bytes:
        """
        Send a command report.
        """
        return await self.service.report(parse_report(body), identity, RequestContext("T1"))


class TokenTests(ServiceCase):
    """
    C{GetToken} and its handlers.
    """

    def get_token(self, service_type: str, **more: Any) -> Deferred[bytes]:
        """
        Ask for a token.
        """
        body = samples.checkin("GetToken", TokenServiceType=service_type, **more)
        return Deferred.fromCoroutine(self.check_in(body))

    async def test_handler(self) -> None:
        maid = RecordingTokenHandler(MAID, succeed(b"\0token"))
        verifyObject(ITokenHandler, maid)
        other = RecordingTokenHandler("com.example.other", succeed(b"other"))
        self.service = self.configured(other, maid)
        reply = await self.get_token(MAID, UserID="U1")
        self.assertEqual(plistlib.loads(reply), {"TokenData": b"\0token"})
        [message] = maid.asked
        self.assertEqual((message.enrollment.id, message.service_type), ("D1:U1", MAID))
        self.assertEqual(plistlib.loads(message.raw)["TokenServiceType"], MAID)
        self.assertEqual(other.asked, [])

    async def test_waitsForTheHandler(self) -> None:
        maid = RecordingTokenHandler(MAID, Deferred())
        self.service = self.configured(maid)
        reply = self.get_token(MAID)
        # Its association is in the cache, so that it came to the handler at once.
        self.assertEqual(len(maid.asked), 1)
        self.assertFalse(reply.called)
        maid.answer.callback(b"late")
        self.assertEqual(plistlib.loads(await reply), {"TokenData": b"late"})

    async def test_handlerFails(self) -> None:
        self.service = self.configured(
            RecordingTokenHandler(MAID, fail(StorageUnavailable("no tokens today")))
        )
        await self.assertFailure(self.get_token(MAID), StorageUnavailable)

    async def test_unknownServiceType(self) -> None:
        maid = RecordingTokenHandler(MAID, succeed(b"token"))
        self.service = self.configured(maid)
        for unknown in ("com.example.other", MAID.upper(), "x" * 10_000):
            error = await self.assertFailure(self.get_token(unknown), MessageError)
            self.assertIn(repr(unknown[:64]), str(error))
            self.assertLess(len(str(error)), 200)
        self.assertEqual(maid.asked, [])

    async def test_noHandlers(self) -> None:
        for service_type in (MAID, WATCH):
            await self.assertFailure(self.get_token(service_type, TokenParameters={}), MessageError)

    async def test_watchPairingNeedsParameters(self) -> None:
        watch = RecordingTokenHandler(WATCH, succeed(b"token"))
        self.service = self.configured(watch)
        error = await self.assertFailure(self.get_token(WATCH), MessageError)
        self.assertIn("without TokenParameters", str(error))
        self.assertEqual(watch.asked, [])
        reply = await self.get_token(WATCH, TokenParameters={"PhoneUDID": "P1"})
        self.assertEqual(plistlib.loads(reply), {"TokenData": b"token"})
        self.assertEqual(len(watch.asked), 1)

    async def test_othersNeedNoParameters(self) -> None:
        self.service = self.configured(RecordingTokenHandler(MAID, succeed(b"token")))
        await self.get_token(MAID)
        await self.get_token(MAID, TokenParameters={"a": "b"})

    async def test_handlerIsNotForStrangers(self) -> None:
        maid = RecordingTokenHandler(MAID, succeed(b"token"))
        self.service = self.configured(maid)
        body = samples.checkin("GetToken", TokenServiceType=MAID)
        await self.assertFailure(
            Deferred.fromCoroutine(self.check_in(body, MALLORY)), AssociationRefused
        )
        self.assertEqual(maid.asked, [])


class LogTests(ServiceCase):
    """
    What an operator can read of it.
    """

    async def queue(self, uuid: str) -> None:
        """
        Queue a command.
        """
        await self.storage.enqueue(parse_command(samples.command(uuid)), ["D1"])

    async def test_unknownCommand(self) -> None:
        await self.queue("C1")
        with capturedLogs() as events:
            reply = await self.report(samples.report("Acknowledged", "never queued"))
        self.assertEqual(reply, samples.command("C1"))
        [event] = events
        self.assertEqual(event["log_level"], LogLevel.warn)
        self.assertEqual(event["log_format"], "result for a command that was never queued")
        self.assertEqual(
            (event["id"], event["command_uuid"], event["status"]),
            ("D1", "never queued", "Acknowledged"),
        )

    async def test_unknownCommandNotNow(self) -> None:
        await self.queue("C1")
        with capturedLogs() as events:
            reply = await self.report(samples.report("NotNow", "never queued"))
        self.assertEqual(reply, samples.command("C1"))
        self.assertEqual([event["status"] for event in events], ["NotNow"])

    async def test_knownCommandsAreNotMentioned(self) -> None:
        await self.queue("C1")
        with capturedLogs() as events:
            for body in (
                samples.report("Idle"),
                samples.report("NotNow", "C1"),
                samples.report("Error", "C1"),
                samples.report("Error", "C1"),
            ):
                await self.report(body)
        self.assertEqual(events, [])

    async def test_noSecrets(self) -> None:
        """
        Every kind of message, with secrets wherever there can be some.
        """
        secret = "tell nobody"
        hidden = secret.encode()
        token = RecordingTokenHandler(MAID, succeed(hidden))
        self.service = self.configured(token, zero_length_challenge=True)
        with capturedLogs() as events:
            for body in (
                samples.authenticate(Challenge=hidden),
                samples.token_update(PushMagic=secret, Token=hidden, UnlockToken=hidden),
                samples.checkin("UserAuthenticate", UserID="U1", DigestResponse=secret),
                samples.token_update(UserID="U1", PushMagic=secret, Token=hidden),
                samples.checkin("SetBootstrapToken", BootstrapToken=hidden),
                samples.checkin("GetBootstrapToken"),
                samples.checkin("GetToken", TokenServiceType=MAID),
            ):
                await self.check_in(body)
            await self.report(samples.report("Acknowledged", "C9", Secret=secret))
            await self.check_in(samples.checkin("CheckOut"))
        self.assertEqual(
            [event["log_format"] for event in events],
            [
                "enrollment started",
                "enrolled",
                "enrolled",
                "result for a command that was never queued",
                "checked out",
            ],
        )
        for shown in (secret, hidden.hex(), "dGVsbCBub2JvZHk"):
            self.assertNotIn(shown, repr(events))
