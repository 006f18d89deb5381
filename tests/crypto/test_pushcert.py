"""
Tests for L{nanomdm.crypto.pushcert}.
"""

from __future__ import annotations

import base64
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from random import Random

from asn1crypto import keys
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.crypto.pushcert import MAX_SIZE, PushCertificate, parse_push_certificate
from nanomdm.errors import MessageError
from nanomdm.sim.ca import new_rsa_key
from tests.crypto import build
from tests.samples import TOPIC

END = datetime(2027, 1, 7, 4, 4, 46, tzinfo=UTC)
RSA_MEMBERS = (
    *("version", "modulus", "public_exponent", "private_exponent", "prime1", "prime2"),
    *("exponent1", "exponent2", "coefficient"),
)
PKCS1 = PrivateFormat.TraditionalOpenSSL
PKCS8 = PrivateFormat.PKCS8
OPENSSL = shutil.which("openssl")

#: What C{openssl pkcs12} writes in front of each block.
BAG = b"Bag Attributes\n    localKeyID: 54 C3 \nsubject=UID=com.apple.mgmt, CN=APSP:\xc3\xa9\n"

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@cache
def key(kind: str) -> Key:
    """
    One key of each kind.
    """
    return new_rsa_key() if kind == "rsa" else ec.generate_private_key(ec.SECP256R1())


@cache
def certificate(
    *topics: str, kind: str = "rsa", not_after: datetime = END, number: int = 1
) -> x509.Certificate:
    """
    A certificate whose subject has these UIDs, for one of the keys.
    """
    subject = [x509.NameAttribute(NameOID.USER_ID, topic) for topic in topics]
    subject.append(x509.NameAttribute(NameOID.COMMON_NAME, "APSP:1"))
    builder = x509.CertificateBuilder(
        issuer_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Issuer")]),
        subject_name=x509.Name(subject),
        public_key=key(kind).public_key(),
        serial_number=number,
        not_valid_before=END - timedelta(days=3650),
        not_valid_after=not_after,
    )
    return builder.sign(build.device_key(), hashes.SHA256())


def cert_pem(*topics: str, kind: str = "rsa") -> bytes:
    """
    The same as PEM, with the usual topic if none is given.
    """
    return certificate(*(topics or (TOPIC,)), kind=kind).public_bytes(Encoding.PEM)


def key_pem(kind: str = "rsa", form: PrivateFormat = PKCS8, password: bytes | None = None) -> bytes:
    """
    A key as PEM.
    """
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
    return key(kind).private_bytes(Encoding.PEM, form, encryption)


def block(label: str, der: bytes) -> bytes:
    """
    Anything as PEM.
    """
    text = base64.encodebytes(der)
    return b"-----BEGIN %s-----\n%s-----END %s-----\n" % (label.encode(), text, label.encode())


def asn1_sequence(numbers: list[int]) -> bytes:
    """
    A SEQUENCE of INTEGERs, as PKCS#1 has keys.
    """
    return bytes(keys.RSAPrivateKey(dict(zip(RSA_MEMBERS, numbers, strict=True))).dump())


class PushCertificateTests(SynchronousTestCase):
    """
    What is read.
    """

    def assertRead(self, pem: bytes, kind: str = "rsa") -> PushCertificate:
        """
        It is the usual certificate, with its key.
        """
        read = parse_push_certificate(pem)
        self.assertEqual((read.topic, read.not_after), (TOPIC, END))
        self.assertTrue(read.certificate_pem.startswith(cert_pem(kind=kind).decode()))
        self.assertEqual(read.key_pem, key_pem(kind).decode())
        return read

    def test_order(self) -> None:
        for kind in ("rsa", "ec"):
            for form in (PKCS1, PKCS8):
                parts = [cert_pem(kind=kind), key_pem(kind, form)]
                self.assertRead(b"".join(parts), kind)
                self.assertRead(b"".join(reversed(parts)), kind)

    def test_lineEnds(self) -> None:
        for form in (PKCS1, PKCS8):
            parts = [cert_pem(), key_pem(form=form)]
            for first, second in (parts, parts[::-1]):
                self.assertIn(b"----------", first.rstrip() + second)
                self.assertRead(first.rstrip() + second.rstrip())
                self.assertRead((first + second).replace(b"\n", b"\r\n"))
                self.assertRead((first.rstrip() + second).replace(b"\n", b"\r"))
                self.assertRead((first + second).replace(b"\n", b" \n\n\t"))

    def test_text(self) -> None:
        for around in (BAG, b"\xef\xbb\xbf", b"\xff\0 --- BEGIN -----\n", b"-----\n-----BEGIN\n"):
            self.assertRead(around + cert_pem() + around + key_pem() + around)

    def test_otherBlocks(self) -> None:
        for label in ("EC PARAMETERS", "PUBLIC KEY", "CERTIFICATE REQUEST", "X509 CRL"):
            other = block(label, b"\x06\x08anything")
            self.assertRead(other + cert_pem(kind="ec") + other + key_pem("ec", PKCS1), "ec")

    def test_olderLabel(self) -> None:
        self.assertRead(cert_pem().replace(b"CERTIFICATE", b"X509 CERTIFICATE") + key_pem())

    def test_severalCertificates(self) -> None:
        """
        The key tells whose certificate it is; the others follow, each once.
        """
        leaf = cert_pem()
        others = [cert_pem("com.apple.mgmt.2", kind="ec"), build.ca().pem]
        for mixed in ([leaf, *others], [others[0], leaf, others[1]], [*others, leaf]):
            for pem in (mixed, mixed + mixed):
                read = self.assertRead(b"".join(pem) + key_pem())
                self.assertEqual(read.certificate_pem.encode(), leaf + b"".join(others))

    def test_again(self) -> None:
        """
        What was read can be read: storages have it so.
        """
        read = self.assertRead(key_pem(form=PKCS1) + build.ca().pem + cert_pem())
        again = parse_push_certificate(f"{read.certificate_pem}{read.key_pem}".encode())
        self.assertEqual(again, read)

    def test_topics(self) -> None:
        for topic in ("com.apple.mgmt", "com.apple.mgmt.XServer.a-b_c", "com.apple.mgmtx~!"):
            self.assertEqual(parse_push_certificate(cert_pem(topic) + key_pem()).topic, topic)

    def test_expired(self) -> None:
        end = datetime(2020, 1, 1, tzinfo=UTC)
        expired = certificate(TOPIC, not_after=end).public_bytes(Encoding.PEM)
        self.assertEqual(parse_push_certificate(expired + key_pem()).not_after, end)

    def test_secrets(self) -> None:
        read = self.assertRead(cert_pem() + key_pem())
        self.assertIn(TOPIC, repr(read))
        self.assertNotIn("BEGIN", repr(read))


class RefusalTests(SynchronousTestCase):
    """
    What is refused, and how.
    """

    def assertRefused(self, pem: bytes, reason: str) -> None:
        """
        The error says C{reason}, and nothing of what is in the PEM.
        """
        error = self.assertRaises(MessageError, parse_push_certificate, pem)
        self.assertEqual(str(error)[: len(reason)], reason)
        self.assertLess(len(str(error)), 250)
        for line in pem.split():
            self.assertFalse(len(line) == 64 and line in str(error).encode())

    def test_missing(self) -> None:
        for pem in (b"", b"\0", b"garbage", key_pem(), b"\xff" * 1000, cert_pem()[20:-30]):
            self.assertRefused(pem, "there is no certificate")
        for pem in (cert_pem(), cert_pem() + block("PUBLIC KEY", b"x")):
            self.assertRefused(pem, "there is no private key")

    def test_encrypted(self) -> None:
        for form in (PKCS1, PKCS8):
            secret = key_pem(form=form, password=b"secret")
            mark = {PKCS1: b"Proc-Type: 4,ENCRYPTED", PKCS8: b"BEGIN ENCRYPTED PRIVATE KEY"}
            self.assertIn(mark[form], secret)
            for pem in (cert_pem() + secret, secret + cert_pem(), secret + cert_pem() + key_pem()):
                self.assertRefused(pem, "the private key is encrypted: decrypt it first")
        unlabelled = secret.replace(b"ENCRYPTED ", b"")
        self.assertRefused(cert_pem() + unlabelled, "the private key is encrypted")

    def test_severalKeys(self) -> None:
        for more in (key_pem(), key_pem("ec")):
            self.assertRefused(key_pem() + cert_pem() + more, "there are several private keys")

    def test_mismatch(self) -> None:
        reason = "the certificate and the private key do not belong together"
        self.assertRefused(cert_pem() + key_pem("ec"), reason)
        self.assertRefused(cert_pem(kind="ec") + key_pem(), reason)
        other = new_rsa_key().private_bytes(Encoding.PEM, PKCS8, NoEncryption())
        self.assertRefused(cert_pem() + build.ca().pem + other, reason)

    def test_severalForOneKey(self) -> None:
        renewed = certificate(TOPIC, number=2).public_bytes(Encoding.PEM)
        self.assertRefused(
            cert_pem() + renewed + key_pem(), "there are several certificates for the private key"
        )

    def test_topics(self) -> None:
        reason = "no push certificate: there is no topic (UID) in its subject"
        pem = certificate().public_bytes(Encoding.PEM)
        self.assertRefused(pem + key_pem(), reason)
        reason = "no push certificate: there are several topics (UID) in its subject"
        self.assertRefused(cert_pem(TOPIC, TOPIC) + key_pem(), reason)

    def test_foreignTopics(self) -> None:
        for topic in (
            "com.example.app",
            "COM.APPLE.MGMT.x",
            " com.apple.mgmt",
            "com.apple.mgmt x",
            "com.apple.mgmt\r\nx: y",
            "com.apple.mgmt.\0",
            "com.apple.mgmt.ü",
            "com.apple.mgm",
        ):
            reason = f"no MDM push certificate: its topic is {topic!a}, which"
            self.assertRefused(cert_pem(topic) + key_pem(), reason)

    def test_longTopic(self) -> None:
        """
        It is shown in part only.
        """
        self.assertRefused(cert_pem("x" * 250) + key_pem(), "no MDM push certificate: its topic")

    def test_otherKeys(self) -> None:
        for other in (
            ed25519.Ed25519PrivateKey.generate(),
            dsa.generate_private_key(1024),
        ):
            pem = other.private_bytes(Encoding.PEM, PKCS8, NoEncryption())
            self.assertRefused(cert_pem() + pem, "the private key is neither RSA nor EC")
        form = PrivateFormat.OpenSSH
        self.assertRefused(cert_pem() + key_pem(form=form), "malformed private key, or not of a")

    def test_hugeKey(self) -> None:
        """
        One that would take minutes to be tried is not.
        """
        modulus = (1 << 20_000) + 1
        members = [0, modulus, 65537, modulus - 2, 3, 5, 3, 5, 3]
        pem = block("RSA PRIVATE KEY", asn1_sequence(members))
        self.assertRefused(cert_pem() + pem, "the private key has more than 8192 bits")

    def test_damagedKey(self) -> None:
        """
        The modulus is the certificate's, but the rest makes no signatures.
        """
        numbers = key("rsa").private_numbers()
        public = numbers.public_numbers
        good = [
            *(0, public.n, public.e, numbers.d, numbers.p, numbers.q),
            *(numbers.dmp1, numbers.dmq1, numbers.iqmp),
        ]
        pem = cert_pem() + block("RSA PRIVATE KEY", asn1_sequence(good))
        self.assertEqual(parse_push_certificate(pem).topic, TOPIC)
        for damaged in ((3, 6), (3, 7), (3, 8), (3, 4), (3, 5), (1,)):
            bad = [number ^ (2 * (at in damaged)) for at, number in enumerate(good)]
            pem = cert_pem() + block("RSA PRIVATE KEY", asn1_sequence(bad))
            reason = "the certificate and" if damaged == (1,) else "malformed private key"
            self.assertRefused(pem, reason)

    def test_malformedMarks(self) -> None:
        for pem, reason in (
            (cert_pem()[:-20] + key_pem(), "BEGIN CERTIFICATE without its END"),
            (cert_pem() + key_pem()[:-20], "BEGIN PRIVATE KEY without its END"),
            (cert_pem()[20:] + key_pem(), "END CERTIFICATE without its BEGIN"),
            (cert_pem().replace(b"END C", b"END X C") + key_pem(), "END X CERTIFICATE without its"),
            (cert_pem() + b"-----BEGIN X-----", "BEGIN X without its END"),
        ):
            self.assertRefused(pem, f"malformed PEM: {reason}")

    def test_malformedCertificate(self) -> None:
        good = certificate(TOPIC).public_bytes(Encoding.DER)
        for der in (b"", b"x", good[:-1], good + b"\0", good[:50], b"\x30\x80" * 1000):
            pem = block("CERTIFICATE", der)
            self.assertRefused(pem + key_pem(), "malformed certificate")
            self.assertRefused(cert_pem() + pem + key_pem(), "malformed certificate")
        for text in (b"A", b"A:", b"AA==\nAA==", b"AA\0A", b"\xff", b"A" * 40_000):
            pem = b"-----BEGIN CERTIFICATE-----%s-----END CERTIFICATE-----" % text
            self.assertRefused(pem + key_pem(), "malformed certificate")

    def test_malformedKey(self) -> None:
        good = key("rsa").private_bytes(Encoding.DER, PKCS8, NoEncryption())
        for der in (b"", b"x", good[:-1], good[:50], b"\x30\x80" * 1000):
            for label in ("PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"):
                self.assertRefused(cert_pem() + block(label, der), "malformed private key")
        for text in (b"A", b"Proc-Type: 4,MIC-ONLY\n\nAAAA", b"AA\0A", b"\xff"):
            pem = b"-----BEGIN PRIVATE KEY-----%s-----END PRIVATE KEY-----" % text
            self.assertRefused(cert_pem() + pem, "malformed private key")

    def test_size(self) -> None:
        pem = cert_pem() + key_pem()
        room = MAX_SIZE - len(pem)
        self.assertEqual(parse_push_certificate(pem + b"#" * room).topic, TOPIC)
        self.assertRefused(pem + b"#" * (room + 1), f"there are more than {MAX_SIZE} bytes")

    def test_sizeOnceStored(self) -> None:
        """
        What grows too large by its line ends is refused at once.
        """
        pem = cert_pem() + key_pem()
        number = 1
        while len(pem) < MAX_SIZE - 400:
            number += 1
            more = certificate(TOPIC, kind="ec", number=number).public_bytes(Encoding.DER)
            pem += block("CERTIFICATE", more).replace(b"\n", b"")
        self.assertLessEqual(len(pem), MAX_SIZE)
        self.assertRefused(pem, f"there are more than {MAX_SIZE} bytes")


class AnyBytesTests(SynchronousTestCase):
    """
    Whatever is uploaded, nothing but L{MessageError} is raised.
    """

    def setUp(self) -> None:
        self.random = Random(20260107)
        self.read = 0
        self.refused = 0

    def parse(self, pem: bytes) -> None:
        """
        Parse and count.
        """
        try:
            parse_push_certificate(pem)
            self.read += 1
        except MessageError:
            self.refused += 1

    def damaged(self, data: bytes) -> bytes:
        """
        With one to three places changed, left out or inserted.
        """
        changed = bytearray(data)
        for _ in range(self.random.randrange(1, 4)):
            at = self.random.randrange(len(changed))
            new = self.random.randbytes(self.random.randrange(3))
            changed[at : at + self.random.randrange(3)] = new
        return bytes(changed)

    def test_pem(self) -> None:
        for kind in ("rsa", "ec"):
            pem = cert_pem(kind=kind) + key_pem(kind, PKCS1)
            for _ in range(1000):
                self.parse(self.damaged(pem))
        self.assertGreater(self.refused, self.read)

    def test_der(self) -> None:
        for kind in ("rsa", "ec"):
            der = certificate(TOPIC, kind=kind).public_bytes(Encoding.DER)
            secret = key(kind).private_bytes(Encoding.DER, PKCS8, NoEncryption())
            for _ in range(1000):
                self.parse(block("CERTIFICATE", self.damaged(der)) + key_pem(kind))
                self.parse(cert_pem(kind=kind) + block("PRIVATE KEY", self.damaged(secret)))
        self.assertGreater(self.refused, self.read)


class OpenSSLTests(SynchronousTestCase):
    """
    The forms in which the C{openssl} command writes keys and certificates.
    """

    if OPENSSL is None:
        skip = "there is no openssl command here"

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        (self.directory / "cert.pem").write_bytes(cert_pem())

    def openssl(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """
        Run it.

        @return: what it writes.
        """
        return subprocess.run(
            [str(OPENSSL), *arguments],
            input=stdin,
            capture_output=True,
            timeout=60,
            check=True,
            cwd=self.directory,
        ).stdout

    def assertRead(self, pem: bytes) -> None:
        """
        It is the usual certificate with its key.
        """
        self.assertEqual(parse_push_certificate(pem).certificate_pem.encode(), cert_pem())

    def test_keys(self) -> None:
        for arguments in (("rsa", "-traditional"), ("rsa",), ("pkey", "-text"), ("pkey",)):
            self.assertRead(cert_pem() + self.openssl(*arguments, stdin=key_pem()))
        for cipher in ("-aes256", "-des3"):
            for arguments in (("rsa", "-traditional"), ("rsa",)):
                locked = self.openssl(*arguments, cipher, "-passout", "pass:x", stdin=key_pem())
                error = self.assertRaises(MessageError, parse_push_certificate, cert_pem() + locked)
                self.assertIn("encrypted", str(error))

    def test_certificate(self) -> None:
        text = self.openssl("x509", "-text", "-in", "cert.pem")
        self.assertIn(b"Signature Algorithm", text)
        self.assertRead(key_pem() + text)

    def test_bag(self) -> None:
        """
        As exported from a keychain and taken apart.
        """
        (self.directory / "key.pem").write_bytes(key_pem())
        secret = ("-passin", "pass:x", "-passout", "pass:x")
        made = ("pkcs12", "-export", "-in", "cert.pem", "-inkey", "key.pem", "-name", "APSP: \xfc")
        self.openssl(*made, *secret[2:], "-out", "both.p12")
        pem = self.openssl("pkcs12", "-in", "both.p12", "-nodes", *secret[:2])
        self.assertIn(b"Bag Attributes", pem)
        self.assertRead(pem)
        pem = self.openssl("pkcs12", "-in", "both.p12", *secret)
        error = self.assertRaises(MessageError, parse_push_certificate, pem)
        self.assertIn("encrypted", str(error))

    def test_curve(self) -> None:
        """
        C{EC PARAMETERS} stand in front of the key.
        """
        both = self.openssl("ecparam", "-name", "prime256v1", "-genkey")
        self.assertIn(b"BEGIN EC PARAMETERS", both)
        (self.directory / "ec.pem").write_bytes(both)
        subject = ("-subj", f"/UID={TOPIC}/CN=APSP:1")
        made = self.openssl("req", "-x509", "-new", "-key", "ec.pem", *subject, "-days", "30")
        read = parse_push_certificate(both + made)
        self.assertEqual(read.topic, TOPIC)
        self.assertEqual(read.certificate_pem.encode(), made)
