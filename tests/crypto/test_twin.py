"""
Tests that a certificate has one DER that is trusted, or two that are known to
be the same certificate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from asn1crypto import algos
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from twisted.trial import util

from nanomdm.crypto import ber
from nanomdm.crypto.ber import Element
from nanomdm.crypto.certificates import CURVE_ORDERS, parse_certificate, twin_of
from nanomdm.crypto.chain import ChainVerifier
from nanomdm.crypto.identity import Identity
from nanomdm.sim.ca import PrivateKey
from tests.crypto import build, test_chain
from tests.crypto.test_chain import CA, DAY, NOW, SECOND, Verifying, certificate, leaf, root

# Some changed certificates have such numbers, and cryptography warns of them.
suppress = [util.suppress(message="Parsed a serial number which wasn't positive")]

CURVES = (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())


def other_signature(der: bytes, order: int) -> bytes:
    """
    A certificate with (r, n - s) in place of (r, s), as C{asn1crypto} writes it.
    """
    copy = asn1_x509.Certificate.load(der)
    pair = algos.DSASignature.load(copy["signature_value"].native).native
    other = algos.DSASignature({"r": pair["r"], "s": order - pair["s"]})
    copy["signature_value"] = other.dump()
    return bytes(copy.dump(force=True))


def with_signature(der: bytes, signature: bytes) -> bytes:
    """
    A certificate with other bytes as its signature.
    """
    signed, algorithm, _ = build.members(der)
    value = ber.encode(ber.BIT_STRING, b"\0" + signature)
    return ber.encode(ber.SEQUENCE, signed + algorithm + value)


class ECDSATests(Verifying):
    """
    Certificates that a CA with an EC key issued.
    """

    def assertTwins(self, verifier: ChainVerifier, der: bytes, order: int) -> None:
        """
        There is another DER that chains as well, and each names the other.
        """
        twin = other_signature(der, order)
        self.assertNotEqual(twin, der)
        self.assertEqual(other_signature(twin, order), der)
        for one, two in ((der, twin), (twin, der)):
            expected = hashlib.sha256(two).hexdigest()
            for _ in range(2):
                found = verifier.verify(one)
                self.assertEqual((found.der, found.twin), (one, expected))
        self.assertEqual(verifier.verify(der).twin, Identity.from_der(twin).sha256)

    def test_curves(self) -> None:
        """
        Of several certificates some have an s, or n - s, that is shorter or
        needs a zero in front.
        """
        for curve in CURVES:
            key = ec.generate_private_key(curve)
            verifier = self.verifier(root(key=key))
            for _ in range(20):
                self.assertTwins(verifier, leaf(signer=key), CURVE_ORDERS[curve.name])

    def test_orders(self) -> None:
        """
        n times a point is no point, so that (n - 1) times it has the same x.
        """
        for curve in CURVES:
            one = ec.derive_private_key(1, curve).public_key().public_numbers()
            last = ec.derive_private_key(CURVE_ORDERS[curve.name] - 1, curve)
            self.assertEqual(last.public_key().public_numbers().x, one.x)

    def test_twin_of_twin(self) -> None:
        issuer = root()
        der = leaf()
        twin = twin_of(parse_certificate(der), der, issuer)
        assert twin is not None
        self.assertEqual(twin, other_signature(der, CURVE_ORDERS["secp256r1"]))
        self.assertEqual(twin_of(parse_certificate(twin), twin, issuer), der)

    def test_order_of_the_issuer(self) -> None:
        """
        It is the issuer's curve that counts, not the root's nor the device's.
        """
        middle, device = (ec.generate_private_key(curve) for curve in CURVES[1:])
        issuer = certificate("middle", "root", test_chain.ca_key(), [(CA, True)], middle)
        der = certificate("", "middle", middle, key=device).public_bytes(build.Encoding.DER)
        verifier = self.verifier(root(), intermediates=[issuer])
        self.assertTwins(verifier, der, CURVE_ORDERS["secp384r1"])

    def test_expired(self) -> None:
        der = leaf()
        self.now = NOW + DAY + SECOND
        self.assertTwins(self.verifier(root(), grace=1), der, CURVE_ORDERS["secp256r1"])

    def test_other_curves(self) -> None:
        for key in (
            ec.generate_private_key(ec.SECP256K1()),
            ec.generate_private_key(ec.BrainpoolP256R1()),
        ):
            issuer, der = root(key=key), leaf(signer=key)
            self.assertRefused(self.verifier(issuer), der, "not trusted")
            self.assertRaises(ValueError, twin_of, parse_certificate(der), der, issuer)

    def test_other_kinds_of_keys(self) -> None:
        key = build.ed25519_key()
        builder = x509.CertificateBuilder(
            test_chain.name("root"), test_chain.name("root"), key.public_key(), 1, NOW, NOW + DAY
        )
        issuer = builder.sign(key, None)
        der = issuer.public_bytes(build.Encoding.DER)
        self.assertRaises(ValueError, twin_of, issuer, der, issuer)

    def test_encodings_of_the_signature(self) -> None:
        """
        The two numbers have one encoding, and no other values.
        """
        der = leaf()
        verifier = self.verifier(root())
        value = asn1_x509.Certificate.load(der)["signature_value"].native
        pair = algos.DSASignature.load(value).native
        numbers = [ber.encode(ber.INTEGER, self.octets(pair[name])) for name in "rs"]
        self.assertTrusted(verifier, with_signature(der, ber.encode(0x30, b"".join(numbers))))
        padded = [ber.encode(ber.INTEGER, b"\0" + self.octets(pair[name])) for name in "rs"]
        more = ber.encode(ber.INTEGER, self.octets(pair["s"] + CURVE_ORDERS["secp256r1"]))
        less = ber.encode(ber.INTEGER, b"\x80" + bytes(32))
        for changed in [
            ber.encode(0x30, padded[0] + numbers[1]),
            ber.encode(0x30, numbers[0] + padded[1]),
            ber.encode(0x30, numbers[0] + more),
            ber.encode(0x30, numbers[0] + less),
            ber.encode(0x30, b"".join(numbers) + b"\5\0"),
            b"\x30\x81" + value[1:],
            b"\x30\x80" + b"".join(numbers) + b"\0\0",
            value + b"\0",
        ]:
            self.assertRefused(verifier, with_signature(der, changed), "not trusted")

    def octets(self, number: int) -> bytes:
        return number.to_bytes(number.bit_length() // 8 + 1, "big")


class RSATests(Verifying):
    """
    Certificates that a CA with an RSA key issued.
    """

    def short(self, pad: padding.AsymmetricPadding) -> x509.Certificate:
        """
        A certificate whose signature begins with a zero.
        """
        key = build.device_key()
        while True:
            builder = x509.CertificateBuilder(
                test_chain.name("root"),
                test_chain.name(""),
                key.public_key(),
                x509.random_serial_number(),
                NOW - DAY,
                NOW + DAY,
            )
            issued = builder.sign(key, hashes.SHA256(), rsa_padding=pad)
            if issued.signature[0] == 0:
                return issued

    def test_other_signatures(self) -> None:
        """
        A signature has the length of the key, and is less than its modulus.
        """
        key = build.device_key()
        verifier = self.verifier(root(key=key))
        modulus = key.public_key().public_numbers().n
        for pad in (padding.PKCS1v15(), padding.PSS(padding.MGF1(hashes.SHA256()), 32)):
            issued = self.short(pad)
            der, signature = issued.public_bytes(build.Encoding.DER), issued.signature
            self.assertTrusted(verifier, der)
            self.assertIsNone(verifier.verify(der).twin)
            more = (int.from_bytes(signature, "big") + modulus).to_bytes(len(signature), "big")
            for changed in (signature[1:], b"\0" + signature, more):
                error = "signature"
                self.assertRefused(verifier, with_signature(der, changed), error)


class SpellingTests(Verifying):
    """
    Everything else in a certificate, written in other ways.
    """

    def test_outer_parts(self) -> None:
        for key in (test_chain.ca_key(), build.device_key()):
            der = leaf(signer=key)
            verifier = self.verifier(root(key=key))
            self.assertTrusted(verifier, der)
            for changed in self.outer(der):
                self.assertNotEqual(changed, der)
                self.assertRefused(verifier, changed, "certificate")

    def outer(self, der: bytes) -> Iterator[bytes]:
        signed, algorithm, value = build.members(der)
        inside = signed + algorithm + value
        oid = build.members(algorithm)[0]
        bits = build.split(value)[0]
        content = ber.parse(value).content
        for parameters in (b"", b"\5\0", b"\4\0"):
            other = ber.encode(ber.SEQUENCE, oid + parameters)
            if other != algorithm:
                yield ber.encode(ber.SEQUENCE, signed + other + value)
        for other in [
            ber.encode(0x23, bits),
            b"\x23\x80" + bits + b"\0\0",
            ber.encode(ber.BIT_STRING, content + b"\0"),
            b"\x03\x83" + len(content).to_bytes(3, "big") + content,
        ]:
            yield ber.encode(ber.SEQUENCE, signed + algorithm + other)
        yield b"\x30\x80" + inside + b"\0\0"
        yield b"\x30\x83" + len(inside).to_bytes(3, "big") + inside
        yield ber.encode(ber.SEQUENCE, inside + b"\5\0")
        yield der + b"\0"

    def test_every_element(self) -> None:
        """
        C{cryptography} checks the signature over its own encoding of what it
        has read, so it must not read what it would write differently.
        """
        for key in (test_chain.ca_key(), build.device_key()):
            der = self.rich(key)
            verifier = self.verifier(root(key=key))
            self.assertTrusted(verifier, der)
            tried = 0
            for respell in SPELLINGS:
                for changed in rewritten(ber.parse(der), respell):
                    if changed != der:
                        self.assertRefused(verifier, changed, "certificate")
                        tried += 1
            self.assertGreater(tried, 150)

    def rich(self, key: PrivateKey) -> bytes:
        """
        A certificate with a SET of two members, defaults and optional parts.
        """
        names = [
            x509.NameAttribute(x509.NameOID.COMMON_NAME, "b"),
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "a"),
        ]
        builder = x509.CertificateBuilder(
            test_chain.name("root"),
            x509.Name([x509.RelativeDistinguishedName(names)]),
            build.device_key().public_key(),
            x509.random_serial_number(),
            NOW - DAY,
            NOW + DAY,
        )
        constraints = x509.BasicConstraints(ca=False, path_length=None)
        builder = builder.add_extension(constraints, critical=True)
        usage = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CLIENT_AUTH])
        issued = builder.add_extension(usage, critical=False).sign(key, hashes.SHA256())
        return issued.public_bytes(build.Encoding.DER)


def rewritten(element: Element, respell: Callable[[Element], bytes]) -> Iterator[bytes]:
    """
    An element with each one inside of it, and itself, written in another way.
    """
    yield respell(element)
    if element.tag & ber.CONSTRUCTED:
        parts = [child.encoded for child in element.children]
        for at, child in enumerate(element.children):
            for changed in rewritten(child, respell):
                yield ber.encode(element.tag, b"".join([*parts[:at], changed, *parts[at + 1 :]]))


def long_length(element: Element) -> bytes:
    """
    More octets of length than it takes.
    """
    return bytes((element.tag, 0x84)) + len(element.content).to_bytes(4, "big") + element.content


def indefinite(element: Element) -> bytes:
    """
    No length.
    """
    if not element.tag & ber.CONSTRUCTED:
        return element.encoded
    return bytes((element.tag, 0x80)) + element.content + b"\0\0"


def turned(element: Element) -> bytes:
    """
    The members in another order.
    """
    if not element.tag & ber.CONSTRUCTED:
        return element.encoded
    parts = [child.encoded for child in reversed(element.children)]
    return ber.encode(element.tag, b"".join(parts))


def default_written(element: Element) -> bytes:
    """
    FALSE in second place, where extensions have it by default.
    """
    if not element.tag & ber.CONSTRUCTED or not element.children:
        return element.encoded
    parts = [child.encoded for child in element.children]
    return ber.encode(element.tag, b"".join([parts[0], b"\1\1\0", *parts[1:]]))


def padded(element: Element) -> bytes:
    """
    A number with a zero in front, an identifier with an empty digit, TRUE as
    another octet.
    """
    fronts = {ber.INTEGER: b"\0", ber.OBJECT_IDENTIFIER: b"\x80"}
    if element.tag == 1:
        return b"\1\1\1"
    return ber.encode(element.tag, fronts.get(element.tag, b"") + element.content)


def null_added(element: Element) -> bytes:
    """
    NULL at the end.
    """
    if not element.tag & ber.CONSTRUCTED:
        return element.encoded
    return ber.encode(element.tag, element.content + b"\5\0")


def empty_added(element: Element) -> bytes:
    """
    An empty list, or unique identifier, of the kind that may follow.
    """
    return element.encoded + b"\xa3\0"


def other_time(element: Element) -> bytes:
    """
    A time with four digits for the year.
    """
    if element.tag != 0x17:
        return element.encoded
    return ber.encode(0x18, b"20" + element.content)


SPELLINGS = (
    long_length,
    indefinite,
    turned,
    default_written,
    padded,
    null_added,
    empty_added,
    other_time,
)
