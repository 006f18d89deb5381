"""
Tests for L{nanomdm.ctl.checks.certificates}.
"""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from nanomdm.ctl.checks.certificates import check_authorities, check_other_trust, check_tls
from nanomdm.sim.ca import ThrowawayCA
from tests.crypto import build
from tests.ctl.checks.case import Case, ago, told


def authority(**more: Any) -> ThrowawayCA:
    return ThrowawayCA.create(key=build.device_key(), **more)


def odd_ca() -> bytes:
    """
    @return: PEM of a CA that may sign nothing.
    """
    key = build.device_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Odd")])
    usage = dict.fromkeys(
        (
            *("digital_signature", "content_commitment", "key_encipherment"),
            *("data_encipherment", "key_agreement", "crl_sign", "encipher_only"),
            "decipher_only",
        ),
        False,
    )
    builder = x509.CertificateBuilder(name, name, key.public_key(), 5, ago(1), ago(-100))
    builder = builder.add_extension(x509.BasicConstraints(True, None), True)
    builder = builder.add_extension(x509.KeyUsage(**usage, key_cert_sign=False), True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


class CertificateTests(Case):
    """
    CAs and TLS.
    """

    def test_good(self) -> None:
        root = authority()
        intermediate = root.intermediate("Between", key=build.device_key())
        settings = self.settings(
            ca=self.file(root.pem, name="ca"), intermediate=self.file(intermediate.pem)
        )
        self.assertTold(
            check_authorities(settings),
            "ok ca: CN=Throwaway Device CA is valid until 20",
            "ok intermediate: CN=Between is valid until 20",
        )

    def test_validity(self) -> None:
        old = authority(common_name="Old", not_before=ago(9), not_after=ago(1))
        soon = authority(common_name="Soon", not_after=ago(-29))
        young = authority(common_name="Young", not_before=ago(-1))
        settings = self.settings(ca=self.file(old.pem, soon.pem, young.pem))
        self.assertTold(
            check_authorities(settings),
            "fail ca: CN=Old expired on 20",
            "warn ca: CN=Soon expires on 20",
            "fail ca: CN=Young is not valid before 20",
        )

    def test_noCA(self) -> None:
        """
        A device's certificate does not say that it is one.
        """
        leaf = build.ca().issue("Leaf", key=build.device_key())
        self.assertTold(
            check_authorities(self.settings(ca=self.file(leaf.pem))),
            "ok ca: CN=Leaf is valid",
            "fail ca: CN=Leaf does not say that it is a CA",
        )

    def test_noSigner(self) -> None:
        self.assertTold(
            check_authorities(self.settings(ca=self.file(odd_ca()))),
            "ok ca: CN=Odd is valid",
            "fail ca: CN=Odd may not sign certificates",
        )

    def test_lostIntermediate(self) -> None:
        other = authority().intermediate("Lost", key=build.device_key())
        mine = ThrowawayCA.create("Mine", key=build.device_key())
        settings = self.settings(
            ca=self.file(mine.pem, name="ca"), intermediate=self.file(other.pem)
        )
        *_, last = told(list(check_authorities(settings)))
        self.assertEqual(last, "warn intermediate: CN=Lost was issued by none of these CAs")

    def test_unreadable(self) -> None:
        settings = self.settings(ca=self.file(b"nonsense"), apns_ca=self.file(b"", name="b"))
        self.assertTold(check_authorities(settings), "fail ca: --ca: ")
        self.assertTold(check_other_trust(settings), "fail apns-ca: --apns-ca: ")

    def test_tls(self) -> None:
        root = authority()
        between = root.intermediate("Between", key=build.device_key())
        server = between.issue_server("mdm.example", key=build.device_key())
        cert = self.file(server.pem, between.pem)
        settings = self.settings(tls_cert=cert, tls_key=self.file(server.key_pem, name="key"))
        self.assertTold(
            check_tls(settings),
            "ok tls: certificate and private key belong together",
            "ok tls: number ",
            "ok tls: CN=Between is valid",
        )

    def test_wrongChain(self) -> None:
        between = authority().intermediate("Between", key=build.device_key())
        server = ThrowawayCA.create("Other", key=build.device_key()).issue_server(
            "mdm.example", key=build.device_key(), not_after=ago(-3)
        )
        cert = self.file(server.pem, between.pem, server.key_pem)
        self.assertTold(
            check_tls(self.settings(tls_cert=cert)),
            "ok tls: certificate and private key",
            "warn tls: number ",
            "ok tls: CN=Between",
            "fail tls: number ",
        )

    def test_noNames(self) -> None:
        """
        It signed itself, too.
        """
        root = authority()
        cert = self.file(root.pem, build.pem(build.device_key()))
        self.assertTold(
            check_tls(self.settings(tls_cert=cert)),
            "ok tls: certificate and private key",
            "ok tls: CN=Throwaway",
            "fail tls: CN=Throwaway Device CA has no subject alternative name",
            "warn tls: CN=Throwaway Device CA is self-signed",
        )

    def test_wrongKey(self) -> None:
        server = authority().issue_server("mdm.example", key=build.device_key())
        other = build.ca()
        settings = self.settings(
            tls_cert=self.file(server.pem, name="cert"),
            tls_key=self.file(build.pem(other.key)),
        )
        [finding] = check_tls(settings)
        self.assertEqual(finding.outcome.value, "fail")
        self.assertIn("is not that of the first certificate", finding.text)

    def test_noTLS(self) -> None:
        self.assertTold(check_tls(self.settings()))
