"""
Changed headers and bodies, and agreement with other implementations about
them.
"""

from __future__ import annotations

import base64
import random

from twisted.trial import util
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.crypto.chain import ChainVerifier
from nanomdm.crypto.cms import decode_header, verify_detached
from nanomdm.errors import BadSignature, IdentityError, UntrustedCertificate
from nanomdm.sim.signing import sign_like_device, sign_modern
from tests.crypto import build
from tests.crypto.build import BODY

# Some changed certificates have such numbers, and cryptography warns of them.
suppress = [util.suppress(message="Parsed a serial number which wasn't positive")]

SHA1_WITH_RSA = bytes.fromhex("2a864886f70d010105")


class BitFlipTests(SynchronousTestCase):
    """
    One changed bit anywhere: the request has no identity, signature and chain
    taken together.
    """

    def setUp(self) -> None:
        self.chain = ChainVerifier([build.ca().certificate])

    def accepted(self, structures: list[tuple[int, int, bytes]]) -> list[tuple[int, int]]:
        """
        Positions and bits of the changes that nobody noticed.
        """
        unnoticed = []
        for position, bit, structure in structures:
            try:
                der = self.chain.verify(verify_detached(structure, BODY)).der
            except IdentityError:
                continue
            self.assertEqual(der, build.identity().der)
            unnoticed.append((position, bit))
        return unnoticed

    def test_every_bit_of_a_device_signature(self) -> None:
        """
        All are refused but one, which changes nothing: it turns the signature
        algorithm C{sha1WithRSAEncryption} into C{rsaEncryption}, another name
        of the same thing that many clients use (RFC 3370 section 3.2).
        """
        structure = base64.b64decode(sign_like_device(build.identity(), BODY))
        same_meaning = structure.rindex(SHA1_WITH_RSA) + len(SHA1_WITH_RSA) - 1
        self.assertEqual(self.accepted(build.flips(structure)), [(same_meaning, 2)])

    def test_every_bit_of_a_modern_signature(self) -> None:
        for kind, attributes in (("rsa", True), ("rsa", False), ("p256", True)):
            header = sign_modern(build.identity(kind), BODY, attributes=attributes)
            structure = base64.b64decode(header)
            # A flip in an odd place would show up here too, but the whole takes long.
            self.assertEqual(self.accepted(build.flips(structure, 2)), [])

    def test_every_bit_of_the_base64(self) -> None:
        """
        Whatever is still base64 is other bytes.
        """
        header = build.capture(2)
        structure = decode_header(header)
        for _, _, changed in build.flips(header):
            try:
                self.assertNotEqual(decode_header(changed), structure)
            except BadSignature:
                continue

    def test_capture(self) -> None:
        """
        In a real device's header every bit that is not the certificate's is
        covered, whose chain is not known here: a changed certificate is at
        least another certificate.
        """
        structure, body = decode_header(build.capture(2)), build.captured_body()
        certificate = build.embedded(build.capture(2))
        start = structure.index(certificate)
        same_meaning = structure.rindex(SHA1_WITH_RSA) + len(SHA1_WITH_RSA) - 1
        for position, bit, changed in build.flips(structure):
            try:
                der = verify_detached(changed, body)
            except BadSignature:
                continue
            if (position, bit) != (same_meaning, 2):
                self.assertTrue(start <= position < start + len(certificate), position)
                self.assertNotEqual(der, certificate)

    def test_body(self) -> None:
        structure = base64.b64decode(sign_like_device(build.identity(), BODY))
        self.assertEqual(verify_detached(structure, BODY), build.identity().der)
        for _, _, body in build.flips(BODY):
            self.assertRaises(BadSignature, verify_detached, structure, body)


class MutationTests(SynchronousTestCase):
    """
    Changes of all kinds, from a fixed seed.
    """

    def mutated(self, source: random.Random, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(source.choice((1, 1, 2, 4))):
            at = source.randrange(len(changed))
            match source.randrange(4):
                case 0:
                    changed[at] = source.randrange(256)
                case 1:
                    del changed[at : at + source.randrange(1, 20)]
                case 2:
                    changed[at:at] = source.randbytes(source.randrange(1, 5))
                case _:
                    changed[at:at] = changed[at : at + source.randrange(1, 40)]
        return bytes(changed)

    def test_nothing_but_bad_signature(self) -> None:
        """
        Whatever comes, it is refused in one way, or C{asn1crypto} finds the
        same certificate to be the signer's, or that is a changed one, which
        does not chain.
        """
        chain = ChainVerifier([build.ca().certificate])
        good = {build.identity(kind).der for kind in ("rsa", "p256")}
        source = random.Random(2)
        forms = []
        for kind in ("rsa", "p256"):
            identity = build.identity(kind)
            for key_identifier in (True, False):
                der = build.signed(identity, key_identifier=key_identifier)
                forms += [der, build.to_ber(der, build.kept(identity)), build.to_ber(der)]
        refused = 0
        for _ in range(6000):
            structure = self.mutated(source, source.choice(forms))
            try:
                der = verify_detached(structure, BODY)
            except BadSignature:
                refused += 1
            else:
                if der in good:
                    self.assertEqual(build.oracle(structure, BODY), der)
                else:
                    self.assertRaises(UntrustedCertificate, chain.verify, der)
        self.assertGreater(refused, 5000)
