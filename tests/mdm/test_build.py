"""
Tests for L{nanomdm.mdm.build}.
"""

from __future__ import annotations

import base64
import plistlib
from typing import Any
from uuid import UUID

from asn1crypto import cms
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.errors import MessageError
from nanomdm.mdm.build import (
    certificate_der,
    checked_profile,
    dictionaries,
    dictionary,
    nested,
    new_command,
    read_command,
    unlock_token,
)
from nanomdm.sim.signing import sign_modern
from tests.crypto import build

PROFILE = {
    "PayloadType": "Configuration",
    "PayloadIdentifier": "com.example.a",
    "PayloadUUID": "A",
    "PayloadContent": [],
}


class NestedTests(SynchronousTestCase):
    """
    Paths and values.
    """

    def test_nested(self) -> None:
        flat = {"A": 1, "B.C": 2, "B.D": 3, "E.0.F": 4, "E.0.G": 5, "E.1.F": 6}
        self.assertEqual(
            nested(flat), {"A": 1, "B": {"C": 2, "D": 3}, "E": [{"F": 4, "G": 5}, {"F": 6}]}
        )


class NewTests(SynchronousTestCase):
    """
    Commands out of nothing.
    """

    def test_new(self) -> None:
        command = new_command({"RequestType": "DeviceLock", "PIN": "123456"})
        self.assertTrue(command.raw.startswith(b"<?xml"))
        self.assertEqual(command.request_type, "DeviceLock")
        self.assertEqual(UUID(command.uuid).version, 4)
        self.assertEqual(
            plistlib.loads(command.raw),
            {
                "Command": {"RequestType": "DeviceLock", "PIN": "123456"},
                "CommandUUID": command.uuid,
            },
        )

    def test_differ(self) -> None:
        uuids = {new_command({"RequestType": "A"}).uuid for _ in range(2)}
        self.assertEqual(len(uuids), 2)

    def test_uuid(self) -> None:
        self.assertEqual(new_command({"RequestType": "A"}, "mine").uuid, "mine")

    def test_impossible(self) -> None:
        for value in (None, 1 << 64, {1: 2}):
            with self.assertRaisesRegex(MessageError, "no property list can hold that"):
                new_command({"RequestType": "A", "B": value})

    def test_noRequestType(self) -> None:
        with self.assertRaisesRegex(MessageError, "RequestType"):
            new_command({})


class ReadTests(SynchronousTestCase):
    """
    Commands in files.
    """

    def file(self, **message: Any) -> bytes:
        return plistlib.dumps(message)

    def test_wholeStays(self) -> None:
        """
        Not a byte is changed.
        """
        file = self.file(CommandUUID="U", Command={"RequestType": "A"}) + b"\n\n"
        self.assertEqual(read_command(file).raw, file)
        self.assertEqual(read_command(file, "U").raw, file)

    def test_otherUUID(self) -> None:
        file = self.file(CommandUUID="U", Command={"RequestType": "A", "B": 1})
        command = read_command(file, "V")
        self.assertEqual(command.uuid, "V")
        self.assertEqual(plistlib.loads(command.raw)["Command"], {"RequestType": "A", "B": 1})

    def test_missingUUID(self) -> None:
        for message in ({"Command": {"RequestType": "A"}}, {"RequestType": "A"}):
            command = read_command(self.file(**message))
            self.assertEqual(UUID(command.uuid).version, 4)
            self.assertEqual(plistlib.loads(command.raw)["Command"], {"RequestType": "A"})

    def test_binary(self) -> None:
        """
        The server takes XML only.
        """
        message = {"CommandUUID": "U", "Command": {"RequestType": "A"}}
        command = read_command(plistlib.dumps(message, fmt=plistlib.FMT_BINARY))
        self.assertTrue(command.raw.startswith(b"<?xml"))
        self.assertEqual(plistlib.loads(command.raw), message)

    def test_refused(self) -> None:
        for file, words in (
            (b"", "not a property list"),
            (b"nonsense", "not a property list"),
            (plistlib.dumps([1]), "not a dictionary"),
            (self.file(A=1), "neither Command nor RequestType"),
            (self.file(Command=1), "Command is not a dictionary"),
            (self.file(CommandUUID="U", Command={}), "RequestType"),
        ):
            with self.assertRaisesRegex(MessageError, words):
                read_command(file)


class PartsTests(SynchronousTestCase):
    """
    What files hold for single keys.
    """

    def test_profile(self) -> None:
        file = plistlib.dumps(PROFILE)
        self.assertEqual(checked_profile(file), file)

    def test_signedProfile(self) -> None:
        identity = build.ca().issue(key=build.device_key())
        file = base64.b64decode(sign_modern(identity, plistlib.dumps(PROFILE)))
        self.assertEqual(checked_profile(file), file)

    def test_noProfile(self) -> None:
        for file in (
            b"",
            b"text",
            b"0\x03\x02\x01\x01",
            # CMS, but neither signed nor encrypted.
            cms.ContentInfo({"content_type": "data", "content": plistlib.dumps(PROFILE)}).dump(),
            plistlib.dumps([PROFILE]),
            plistlib.dumps({**PROFILE, "PayloadType": "com.apple.wifi.managed"}),
            *(
                plistlib.dumps({key: PROFILE[key] for key in PROFILE if key != missing})
                for missing in ("PayloadType", "PayloadIdentifier", "PayloadUUID")
            ),
        ):
            self.assertRaises(MessageError, checked_profile, file)

    def test_unlockToken(self) -> None:
        token = bytes(range(200))
        self.assertEqual(unlock_token(token), token)
        self.assertEqual(unlock_token(base64.encodebytes(token)), token)
        self.assertRaises(MessageError, unlock_token, b" \n")

    def test_certificate(self) -> None:
        certificate = build.ca().certificate
        der = certificate.public_bytes(Encoding.DER)
        self.assertEqual(certificate_der(der), der)
        self.assertEqual(certificate_der(build.ca().pem), der)
        self.assertRaises(MessageError, certificate_der, b"nonsense")

    def test_dictionaries(self) -> None:
        self.assertEqual(dictionary(plistlib.dumps({"A": 1})), {"A": 1})
        self.assertRaises(MessageError, dictionary, plistlib.dumps([]))
        self.assertEqual(dictionaries(plistlib.dumps({"A": 1})), [{"A": 1}])
        self.assertEqual(dictionaries(plistlib.dumps([{"A": 1}, {}])), [{"A": 1}, {}])
        for value in ([], ["a"], "a"):
            self.assertRaises(MessageError, dictionaries, plistlib.dumps(value))
