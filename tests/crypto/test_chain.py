"""
Tests for L{nanomdm.crypto.chain}.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.trial import util
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.crypto import chain
from nanomdm.crypto.certificates import MAX_CERTIFICATE
from nanomdm.crypto.chain import ChainVerifier, load_certificates
from nanomdm.errors import ConfigError, UntrustedCertificate
from nanomdm.sim.ca import DeviceIdentity, PrivateKey, ThrowawayCA
from tests.crypto import build

# Some changed certificates have such numbers, and cryptography warns of them.
suppress = [util.suppress(message="Parsed a serial number which wasn't positive")]

NOW = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)

Extensions = Sequence[tuple[x509.ExtensionType, bool]]

CA = x509.BasicConstraints(ca=True, path_length=None)


@functools.cache
def ca_key() -> ec.EllipticCurvePrivateKey:
    """
    One key for all the roots that are made here.
    """
    return ec.generate_private_key(ec.SECP256R1())


def certificate(
    subject: str,
    issuer: str,
    signer: PrivateKey,
    extensions: Extensions = (),
    key: PrivateKey | None = None,
    start: datetime = NOW - DAY,
    end: datetime = NOW + DAY,
) -> x509.Certificate:
    """
    A certificate with just these extensions.
    """
    builder = x509.CertificateBuilder(
        subject_name=name(subject),
        issuer_name=name(issuer),
        public_key=(key or signer).public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=start,
        not_valid_after=end,
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(signer, hashes.SHA256())


def name(common_name: str) -> x509.Name:
    """
    An empty name, or one with a common name.
    """
    attribute = x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name or "-")
    return x509.Name([attribute] if common_name else [])


def root(extensions: Extensions = ((CA, True),), key: PrivateKey | None = None) -> x509.Certificate:
    """
    A self-signed root, C{CN=root}.
    """
    return certificate("root", "root", key or ca_key(), extensions)


def leaf(
    extensions: Extensions = (), signer: PrivateKey | None = None, key: PrivateKey | None = None
) -> bytes:
    """
    A device certificate that the root issued.
    """
    issued = certificate("", "root", signer or ca_key(), extensions, key or build.device_key())
    return issued.public_bytes(build.Encoding.DER)


def issue(ca: ThrowawayCA, **options: object) -> DeviceIdentity:
    """
    A device identity as usual, valid around L{NOW}.
    """
    dates: dict[str, object] = {"not_before": NOW - DAY, "not_after": NOW + DAY}
    return ca.issue(key=build.device_key(), **{**dates, **options})  # type: ignore[arg-type]


@functools.cache
def authority() -> ThrowawayCA:
    """
    A root, valid long before and after L{NOW}.
    """
    return ThrowawayCA.create(key=ca_key(), not_before=NOW - 900 * DAY, not_after=NOW + 900 * DAY)


def intermediate(
    parent: ThrowawayCA,
    name: str = "Intermediate",
    start: datetime = NOW - 400 * DAY,
    end: datetime = NOW + 400 * DAY,
) -> ThrowawayCA:
    """
    A CA below another.
    """
    return parent.intermediate(name, key=ca_key(), not_before=start, not_after=end)


def re_signed_rsa(
    template: x509.Certificate, key: rsa.RSAPrivateKey, digest: str = "sha256", version: str = "v3"
) -> x509.Certificate:
    """
    A certificate signed in a way in which C{cryptography} signs no more.
    """
    copy = asn1_x509.Certificate.load(template.public_bytes(build.Encoding.DER))
    tbs = copy["tbs_certificate"]
    tbs["version"] = version
    if version == "v1":
        del tbs["extensions"]
    algorithm = {"algorithm": f"{digest}_rsa"}
    tbs["signature"] = copy["signature_algorithm"] = algorithm
    data = tbs.dump(force=True)
    copy["signature_value"] = key.sign(data, padding.PKCS1v15(), build.HASHES[digest])
    return x509.load_der_x509_certificate(copy.dump(force=True))


class Verifying(SynchronousTestCase):
    """
    Common assertions.
    """

    def setUp(self) -> None:
        self.now = NOW

    def verifier(
        self,
        *roots: x509.Certificate,
        intermediates: Sequence[x509.Certificate] = (),
        grace: float = 0,
    ) -> ChainVerifier:
        return ChainVerifier(roots, intermediates, grace, lambda: self.now)

    def assertTrusted(self, verifier: ChainVerifier, der: bytes, expired: bool = False) -> None:
        found = verifier.verify(der)
        self.assertEqual(
            (found.der, found.sha256, found.expired),
            (der, hashlib.sha256(der).hexdigest(), expired),
        )

    def assertRefused(self, verifier: ChainVerifier, der: bytes, why: str) -> None:
        error = self.assertRaises(UntrustedCertificate, verifier.verify, der)
        self.assertIn(why, str(error))


class DeviceTests(Verifying):
    """
    What a device's certificate must be.
    """

    def test_directly_below_the_root(self) -> None:
        self.assertTrusted(self.verifier(authority().certificate), issue(authority()).der)

    def test_one_of_several_roots(self) -> None:
        other = ThrowawayCA.create("Other", key=ca_key(), not_before=NOW - DAY)
        for roots in (
            [authority().certificate, other.certificate],
            [other.certificate, authority().certificate],
        ):
            self.assertTrusted(self.verifier(*roots), issue(authority()).der)

    def test_foreign_root(self) -> None:
        """
        Another root, also one of the same name.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        for common_name in ("Throwaway Device CA", "Other"):
            other = ThrowawayCA.create(common_name, key=key, not_before=NOW - DAY)
            verifier = self.verifier(other.certificate)
            self.assertRefused(verifier, issue(authority()).der, "not trusted")

    def test_self_signed(self) -> None:
        alone = certificate("", "", build.device_key()).public_bytes(build.Encoding.DER)
        named = certificate("a", "a", build.device_key()).public_bytes(build.Encoding.DER)
        for der in (alone, named):
            self.assertRefused(self.verifier(authority().certificate), der, "not trusted")

    def test_root_as_device(self) -> None:
        plain = certificate("a", "a", build.device_key())
        for anchor in (authority().certificate, plain):
            der = anchor.public_bytes(build.Encoding.DER)
            verifier = self.verifier(authority().certificate, plain)
            self.assertRefused(verifier, der, "a trusted root is no device")

    def test_ca_as_device(self) -> None:
        middle = intermediate(authority())
        der = middle.certificate.public_bytes(build.Encoding.DER)
        self.assertRefused(self.verifier(authority().certificate), der, "a CA certificate")

    def test_purposes(self) -> None:
        verifier = self.verifier(authority().certificate)
        self.assertTrusted(verifier, issue(authority(), client_auth=None).der)
        self.assertRefused(verifier, issue(authority(), client_auth=False).der, "clientAuth")
        usage = ExtendedKeyUsageOID
        verifier = self.verifier(root())
        for purposes, critical, good in [
            ([usage.SERVER_AUTH, usage.CLIENT_AUTH], False, True),
            ([usage.CLIENT_AUTH], True, True),
            ([usage.ANY_EXTENDED_KEY_USAGE], False, True),
            ([usage.EMAIL_PROTECTION, x509.ObjectIdentifier("1.2.3")], False, False),
            ([usage.SERVER_AUTH], True, False),
        ]:
            der = leaf([(x509.ExtendedKeyUsage(purposes), critical)])
            if good:
                self.assertTrusted(verifier, der)
            else:
                self.assertRefused(verifier, der, "clientAuth")

    def test_extensions(self) -> None:
        """
        Alternative names and unknown extensions do not matter, as long as they
        are not critical and unknown.
        """
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0")
        names = x509.SubjectAlternativeName([x509.RFC822Name("a@example.com")])
        no_ca = x509.BasicConstraints(ca=False, path_length=None)
        verifier = self.verifier(root())
        for extension, critical in [
            (unknown, False),
            (names, False),
            (names, True),
            (no_ca, True),
            (no_ca, False),
        ]:
            self.assertTrusted(verifier, leaf([(extension, critical)]))
        self.assertTrusted(verifier, leaf())
        self.assertRefused(verifier, leaf([(unknown, True)]), "1.2.3.4")

    def test_kinds_of_keys(self) -> None:
        verifier = self.verifier(root())
        for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()):
            self.assertTrusted(verifier, leaf(key=ec.generate_private_key(curve)))

    def test_unreadable(self) -> None:
        verifier = self.verifier(authority().certificate)
        der = issue(authority()).der
        for broken in (b"", b"\x30\x80", der[:-1], der + b"\0", der[1:], b"\xff" * 100):
            self.assertRefused(verifier, broken, "unreadable certificate")

    def test_too_large(self) -> None:
        """
        A certificate that chains, and takes longer to read the longer it is.
        """
        verifier = self.verifier(root())
        oid = x509.ObjectIdentifier("1.2.3.4")
        around = len(leaf([(x509.UnrecognizedExtension(oid, bytes(9999)), False)])) - 9999
        fits = leaf([(x509.UnrecognizedExtension(oid, bytes(MAX_CERTIFICATE - around - 4)), False)])
        self.assertLessEqual(len(fits), MAX_CERTIFICATE)
        self.assertTrusted(verifier, fits)
        large = leaf([(x509.UnrecognizedExtension(oid, bytes(MAX_CERTIFICATE)), False)])
        self.assertRefused(verifier, large, "more than 16384 bytes")

    def test_every_bit(self) -> None:
        """
        No changed certificate is trusted.
        """
        verifier = self.verifier(authority().certificate)
        der = issue(authority()).der
        for _, _, changed in build.flips(der, 3):
            self.assertRaises(UntrustedCertificate, verifier.verify, changed)

    def test_unused_bits_of_the_signature(self) -> None:
        """
        The octet that counts them is not signed; a certificate must not get
        another hash from it.
        """
        verifier = self.verifier(authority().certificate)
        while (der := issue(authority()).der)[-1] & 1:
            pass
        signature = asn1_x509.Certificate.load(der)["signature_value"].contents
        at = len(der) - len(signature)
        self.assertTrusted(verifier, der)
        changed = der[:at] + b"\x01" + der[at + 1 :]
        x509.load_der_x509_certificate(changed)
        self.assertRefused(verifier, changed, "unused bits")


class IssuerTests(Verifying):
    """
    What a CA must be.
    """

    def test_intermediate(self) -> None:
        middle = intermediate(authority())
        der = issue(middle).der
        both = self.verifier(authority().certificate, intermediates=[middle.certificate])
        self.assertTrusted(both, der)
        self.assertRefused(self.verifier(authority().certificate), der, "not trusted")

    def test_two_intermediates(self) -> None:
        first = intermediate(authority(), "First")
        second = intermediate(first, "Second")
        der = issue(second).der
        both = [second.certificate, first.certificate]
        self.assertTrusted(self.verifier(authority().certificate, intermediates=both), der)
        for one in both:
            verifier = self.verifier(authority().certificate, intermediates=[one])
            self.assertRefused(verifier, der, "not trusted")

    def test_intermediate_as_anchor(self) -> None:
        """
        An anchor need not be self-signed.
        """
        middle = intermediate(authority())
        self.assertTrusted(self.verifier(middle.certificate), issue(middle).der)

    def test_device_as_issuer(self) -> None:
        """
        A device can not issue identities.
        """
        device = issue(authority(), common_name="device")
        forged = certificate("", "device", build.device_key(), key=build.identity("rsa").key)
        der = forged.public_bytes(build.Encoding.DER)
        verifier = self.verifier(authority().certificate, intermediates=[device.certificate])
        self.assertRefused(verifier, der, "not trusted")

    def test_outside_of_validity(self) -> None:
        for start, end in [(NOW - 9 * DAY, NOW - SECOND), (NOW + SECOND, NOW + 9 * DAY)]:
            middle = intermediate(authority(), start=start, end=end)
            verifier = self.verifier(authority().certificate, intermediates=[middle.certificate])
            self.assertRefused(verifier, issue(middle).der, "not valid at validation time")
            old = ThrowawayCA.create(key=ca_key(), not_before=start, not_after=end)
            verifier = self.verifier(old.certificate)
            self.assertRefused(verifier, issue(old).der, "not valid at validation time")

    def test_basic_constraints(self) -> None:
        for extensions, good in [
            ([(CA, True)], True),
            ([(CA, False)], True),
            ([], False),
            ([(x509.BasicConstraints(ca=False, path_length=None), True)], False),
        ]:
            verifier = self.verifier(root(extensions))
            if good:
                self.assertTrusted(verifier, leaf())
            else:
                self.assertRefused(verifier, leaf(), "basicConstraints")

    def test_path_length(self) -> None:
        short = (x509.BasicConstraints(ca=True, path_length=0), True)
        top = root([short])
        self.assertTrusted(self.verifier(top), leaf())
        middle = certificate("middle", "root", ca_key(), [(CA, True)])
        der = certificate("", "middle", ca_key(), key=build.device_key())
        verifier = self.verifier(top, intermediates=[middle])
        self.assertRefused(verifier, der.public_bytes(build.Encoding.DER), "path length")

    def test_key_usage(self) -> None:
        for signs in (True, False):
            usage = x509.KeyUsage(True, *[False] * 4, signs, *[False] * 3)
            for critical in (True, False):
                verifier = self.verifier(root([(CA, True), (usage, critical)]))
                if signs:
                    self.assertTrusted(verifier, leaf())
                else:
                    self.assertRefused(verifier, leaf(), "keyCertSign")

    def test_purposes(self) -> None:
        for purpose, good in [
            (ExtendedKeyUsageOID.CLIENT_AUTH, True),
            (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE, True),
            (ExtendedKeyUsageOID.SERVER_AUTH, False),
        ]:
            verifier = self.verifier(root([(CA, True), (x509.ExtendedKeyUsage([purpose]), False)]))
            if good:
                self.assertTrusted(verifier, leaf())
            else:
                self.assertRefused(verifier, leaf(), "clientAuth")

    def test_weak_root(self) -> None:
        weak = rsa.generate_private_key(65537, 1024)
        verifier = self.verifier(root(key=weak))
        self.assertRefused(verifier, leaf(signer=weak), "too weak")

    def test_sha1(self) -> None:
        """
        A root may have signed itself with SHA-1, as old ones have, since
        nobody checks that; a device's certificate may not be signed so.
        """
        key = build.device_key()
        strong = root(key=key)
        old = re_signed_rsa(strong, key, "sha1")
        der = leaf(signer=key)
        self.assertTrusted(self.verifier(old), der)
        weak = re_signed_rsa(x509.load_der_x509_certificate(der), key, "sha1")
        verifier = self.verifier(strong)
        self.assertTrusted(verifier, der)
        self.assertRefused(verifier, weak.public_bytes(build.Encoding.DER), "signature algorithm")

    def test_version_1(self) -> None:
        key = build.device_key()
        der = leaf(signer=key)
        verifier = self.verifier(re_signed_rsa(root(key=key), key, version="v1"))
        self.assertRefused(verifier, der, "X509v3")
        old = re_signed_rsa(x509.load_der_x509_certificate(der), key, version="v1")
        verifier = self.verifier(root(key=key))
        self.assertRefused(verifier, old.public_bytes(build.Encoding.DER), "X509v3")


class ValidityTests(Verifying):
    """
    Time, and the grace after it.
    """

    def test_both_ends(self) -> None:
        verifier = self.verifier(authority().certificate)
        der = issue(authority(), not_before=NOW, not_after=NOW + DAY).der
        for self.now in (NOW, NOW + DAY):
            self.assertTrusted(verifier, der)
        self.now = NOW - timedelta(microseconds=1)
        self.assertRefused(verifier, der, "not valid at validation time")
        self.now = NOW + DAY + timedelta(microseconds=1)
        self.assertRefused(verifier, der, "expired at 2026-11-21 12:00:00")

    def test_grace(self) -> None:
        verifier = self.verifier(authority().certificate, grace=1.5)
        der = issue(authority()).der
        end = NOW + DAY
        for _ in range(2):
            self.assertTrusted(verifier, der)
            for self.now in (end + SECOND, end + 1.5 * DAY):
                self.assertTrusted(verifier, der, expired=True)
            self.now = end + 1.5 * DAY + SECOND
            self.assertRefused(verifier, der, "expired")
            self.now = end
            self.assertTrusted(verifier, der)
            self.now = NOW

    def test_grace_is_not_for_the_future(self) -> None:
        verifier = self.verifier(authority().certificate, grace=9)
        der = issue(authority(), not_before=NOW + SECOND).der
        self.assertRefused(verifier, der, "not valid")

    def test_grace_forgives_nothing_else(self) -> None:
        self.now = NOW + DAY + SECOND
        verifier = self.verifier(authority().certificate, grace=9)
        self.assertRefused(verifier, issue(authority(), client_auth=False).der, "clientAuth")
        other = ThrowawayCA.create("Other", key=ca_key(), not_before=NOW - 9 * DAY)
        self.assertRefused(verifier, issue(other).der, "not trusted")

    def test_grace_with_issuer_that_expired_later(self) -> None:
        """
        The chain is judged at the device's end: an issuer that was valid then
        may have expired since, one that had expired before may not.
        """
        self.now = NOW + 5 * DAY
        for end, good in [(NOW + DAY, True), (NOW + DAY - SECOND, False)]:
            middle = intermediate(authority(), end=end)
            verifier = self.verifier(
                authority().certificate, intermediates=[middle.certificate], grace=9
            )
            der = issue(middle).der
            if good:
                self.assertTrusted(verifier, der, expired=True)
            else:
                self.assertRefused(verifier, der, "not valid at validation time")

    def test_no_end(self) -> None:
        """
        The date that means no well-defined end (RFC 5280 section 4.1.2.5).
        """
        end = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
        der = issue(authority(), not_after=end).der
        self.assertTrusted(self.verifier(authority().certificate, grace=30), der)


class CacheTests(Verifying):
    """
    What is remembered, and for how long.
    """

    def setUp(self) -> None:
        super().setUp()
        self.parses = mock.Mock(wraps=chain.parse_certificate)
        self.patch(chain, "parse_certificate", self.parses)

    def test_repeat(self) -> None:
        verifier = self.verifier(authority().certificate)
        der = issue(authority()).der
        for _ in range(3):
            self.assertTrusted(verifier, der)
        self.assertEqual(self.parses.call_count, 1)

    def test_failure_is_not_remembered(self) -> None:
        verifier = self.verifier(authority().certificate)
        der = issue(authority(), not_before=NOW + DAY, not_after=NOW + 2 * DAY).der
        for _ in range(2):
            self.assertRefused(verifier, der, "not valid")
        self.assertEqual(self.parses.call_count, 2)
        self.now = NOW + DAY
        self.assertTrusted(verifier, der)

    def test_issuer_ends_first(self) -> None:
        """
        A remembered answer ends with the first certificate of the chain.
        """
        middle = intermediate(authority(), end=NOW + timedelta(hours=1))
        verifier = self.verifier(authority().certificate, intermediates=[middle.certificate])
        der = issue(middle).der
        self.assertTrusted(verifier, der)
        self.now = NOW + timedelta(hours=1)
        self.assertTrusted(verifier, der)
        self.assertEqual(self.parses.call_count, 1)
        self.now += SECOND
        self.assertRefused(verifier, der, "not valid at validation time")

    def test_clock_that_goes_back(self) -> None:
        """
        A remembered answer does not begin before the chain.
        """
        middle = intermediate(authority(), start=NOW - timedelta(hours=1))
        verifier = self.verifier(authority().certificate, intermediates=[middle.certificate])
        der = issue(middle).der
        self.assertTrusted(verifier, der)
        self.now = NOW - timedelta(hours=1) - SECOND
        self.assertRefused(verifier, der, "not valid at validation time")

    def test_expired_is_remembered(self) -> None:
        verifier = self.verifier(authority().certificate, grace=2)
        der = issue(authority()).der
        self.now = NOW + 2 * DAY
        for _ in range(3):
            self.assertTrusted(verifier, der, expired=True)
        self.assertEqual(self.parses.call_count, 1)

    def test_bounded(self) -> None:
        verifier = ChainVerifier([authority().certificate], now=lambda: NOW, size=1)
        first, second = issue(authority()).der, issue(authority()).der
        for der in (first, second, second, first):
            verifier.verify(der)
        self.assertEqual(self.parses.call_count, 3)


class LoadTests(SynchronousTestCase):
    """
    L{load_certificates}.
    """

    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def test_several(self) -> None:
        roots = [authority(), intermediate(authority())]
        text = b"# roots\n" + b"\nnext one:\n".join(ca.pem for ca in roots)
        self.path.write_bytes(text)
        loaded = load_certificates(str(self.path), "--ca")
        self.assertEqual(loaded, [ca.certificate for ca in roots])

    def assertConfigError(self, why: str) -> None:
        error = self.assertRaises(ConfigError, load_certificates, self.path, "--ca")
        text = str(error)
        self.assertTrue(text.startswith(f"--ca: {self.path}: "), text)
        self.assertIn(why, text)
        self.assertNotIn("\n", text)

    def test_missing(self) -> None:
        self.assertConfigError("No such file")

    def test_directory(self) -> None:
        self.path.mkdir()
        self.assertConfigError("directory")

    def test_no_certificate(self) -> None:
        for data in (b"", b"hello", build.pem(build.device_key()), build.identity().der):
            self.path.write_bytes(data)
            self.assertConfigError("no PEM certificate")

    def test_unreadable_certificate(self) -> None:
        pem = authority().pem
        for data in (pem[:-30], pem.replace(b"M", b"%"), pem + pem.replace(b"MII", b"AAA")):
            self.path.write_bytes(data)
            self.assertConfigError("unreadable certificate")
