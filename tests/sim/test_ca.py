"""
Tests for L{nanomdm.sim.ca}.
"""

from __future__ import annotations

import ipaddress
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.sim.ca import ThrowawayCA
from tests.crypto import build


class IssueTests(SynchronousTestCase):
    """
    The certificates.
    """

    def test_like_a_real_device(self) -> None:
        """
        The same extensions as in the certificate of a captured signature, an
        empty subject, RSA-2048.
        """
        real = x509.load_der_x509_certificate(build.embedded(build.capture(2)))
        ours = build.ca().issue(key=build.device_key()).certificate
        self.assertEqual(
            {(e.oid, e.critical) for e in ours.extensions},
            {(e.oid, e.critical) for e in real.extensions},
        )
        for kind in (x509.KeyUsage, x509.ExtendedKeyUsage):
            self.assertEqual(
                ours.extensions.get_extension_for_class(kind).value,
                real.extensions.get_extension_for_class(kind).value,
            )
        self.assertEqual(list(ours.subject), list(real.subject))
        self.assertEqual(ours.signature_algorithm_oid, real.signature_algorithm_oid)
        key = ours.public_key()
        assert isinstance(key, rsa.RSAPublicKey)
        self.assertEqual(key.key_size, 2048)

    def test_signed_by_the_ca(self) -> None:
        build.identity().certificate.verify_directly_issued_by(build.ca().certificate)

    def test_key_belongs(self) -> None:
        identity = build.ca().issue()
        self.assertEqual(identity.key.public_key(), identity.certificate.public_key())

    def test_common_name(self) -> None:
        named = build.ca().issue("Mac", key=build.device_key())
        self.assertEqual(named.certificate.subject.rfc4514_string(), "CN=Mac")

    def test_purposes(self) -> None:
        def purposes(client_auth: bool | None) -> list[x509.ObjectIdentifier]:
            issued = build.ca().issue(key=build.device_key(), client_auth=client_auth)
            return [
                purpose
                for extension in issued.certificate.extensions
                if isinstance(extension.value, x509.ExtendedKeyUsage)
                for purpose in extension.value
            ]

        self.assertEqual(purposes(True), [ExtendedKeyUsageOID.CLIENT_AUTH])
        self.assertEqual(purposes(False), [ExtendedKeyUsageOID.SERVER_AUTH])
        self.assertEqual(purposes(None), [])

    def test_validity(self) -> None:
        start = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
        end = start + timedelta(days=9)
        issued = build.ca().issue(key=build.device_key(), not_before=start, not_after=end)
        self.assertEqual(issued.certificate.not_valid_before_utc, start)
        self.assertEqual(issued.certificate.not_valid_after_utc, end)

    def test_intermediate(self) -> None:
        middle = build.ca().intermediate("Middle", key=build.device_key())
        middle.certificate.verify_directly_issued_by(build.ca().certificate)
        self.assertEqual(middle.certificate.subject.rfc4514_string(), "CN=Middle")
        issued = middle.issue(key=build.device_key())
        issued.certificate.verify_directly_issued_by(middle.certificate)

    def test_elliptic(self) -> None:
        ca = ThrowawayCA.create("EC", key=ec.generate_private_key(ec.SECP256R1()))
        ca.issue(key=build.device_key()).certificate.verify_directly_issued_by(ca.certificate)


class PurposeTests(SynchronousTestCase):
    """
    Certificates of servers, and for pushing.
    """

    def purposes(self, certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
        return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)

    def test_server(self) -> None:
        """
        A certificate that clients which know the CA accept for these names only.
        """
        server = (
            build.ca()
            .issue_server("localhost", "127.0.0.1", "::1", key=build.device_key())
            .certificate
        )
        builder = PolicyBuilder().store(Store([build.ca().certificate]))
        subjects: list[x509.DNSName | x509.IPAddress] = [
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
            x509.IPAddress(ipaddress.ip_address("::1")),
        ]
        for subject in subjects:
            builder.build_server_verifier(subject).verify(server, [])
        other = builder.build_server_verifier(x509.DNSName("example.com"))
        self.assertRaises(VerificationError, other.verify, server, [])
        self.assertEqual(self.purposes(server), [ExtendedKeyUsageOID.SERVER_AUTH])

    def test_push(self) -> None:
        """
        The subject's UID is the topic.
        """
        topic = "com.apple.mgmt.External.1"
        issued = build.ca().issue_push(topic, key=build.device_key())
        issued.certificate.verify_directly_issued_by(build.ca().certificate)
        (uid,) = issued.certificate.subject.get_attributes_for_oid(NameOID.USER_ID)
        (name,) = issued.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        self.assertEqual(uid.value, topic)
        self.assertTrue(str(name.value).startswith("APSP:"))
        self.assertEqual(self.purposes(issued.certificate), [ExtendedKeyUsageOID.CLIENT_AUTH])

    def test_validity(self) -> None:
        start = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
        end = start + timedelta(days=9)
        for issued in (
            build.ca().issue_push("t", key=build.device_key(), not_before=start, not_after=end),
            build.ca().issue_server("h", key=build.device_key(), not_before=start, not_after=end),
        ):
            self.assertEqual(issued.certificate.not_valid_before_utc, start)
            self.assertEqual(issued.certificate.not_valid_after_utc, end)

    def test_key(self) -> None:
        """
        The key's PEM is neither encrypted nor anybody else's.
        """
        issued = build.ca().issue_push("t")
        key = load_pem_private_key(issued.key_pem, None)
        self.assertEqual(key.public_key(), issued.certificate.public_key())


class KeptTests(SynchronousTestCase):
    """
    A CA on disk.
    """

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()) / "var" / "ca"

    def test_created_then_loaded(self) -> None:
        first = ThrowawayCA.load_or_create(self.directory)
        again = ThrowawayCA.load_or_create(self.directory)
        self.assertEqual(again.certificate, first.certificate)
        issued = again.issue(key=build.device_key())
        issued.certificate.verify_directly_issued_by(first.certificate)
        self.assertEqual((self.directory / "ca.pem").read_bytes(), first.pem)

    def test_files(self) -> None:
        ThrowawayCA.load_or_create(self.directory)
        names = sorted(path.name for path in self.directory.iterdir())
        self.assertEqual(names, ["ca.key", "ca.pem"])
        mode = stat.S_IMODE((self.directory / "ca.key").stat().st_mode)
        self.assertEqual(mode, 0o600)

    def test_interrupted_creation(self) -> None:
        """
        A key without a certificate is replaced, whatever its mode was.
        """
        self.directory.mkdir(parents=True)
        (self.directory / "ca.key").write_bytes(b"half a k")
        (self.directory / "ca.key").chmod(0o644)
        first = ThrowawayCA.load_or_create(self.directory)
        self.assertEqual(stat.S_IMODE((self.directory / "ca.key").stat().st_mode), 0o600)
        self.assertEqual(
            ThrowawayCA.load_or_create(self.directory).key.public_key(),
            first.certificate.public_key(),
        )

    def test_foreign_key(self) -> None:
        """
        A key of another kind is refused.
        """
        ThrowawayCA.load_or_create(self.directory)
        (self.directory / "ca.key").write_bytes(build.pem(build.ed25519_key()))
        self.assertRaises(ValueError, ThrowawayCA.load_or_create, self.directory)
