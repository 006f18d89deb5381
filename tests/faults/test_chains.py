"""
Certificate chains of many forms, of which none is taken that C{openssl} refuses: a
certificate that is wrongly accepted speaks for a device, and nobody notices.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Final

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.crypto.chain import ChainVerifier
from nanomdm.errors import UntrustedCertificate
from tests.faults.figures import show

#: How many chains are made.
CHAINS: Final = 3 * int(os.environ.get("FAULTS_EXAMPLES", "200"))

OPENSSL = shutil.which("openssl")

NOW: Final = datetime(2026, 11, 20, 12, tzinfo=UTC)
DAY: Final = timedelta(days=1)

Extension = tuple[x509.ExtensionType, bool]

CLIENT: Final = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER: Final = ExtendedKeyUsageOID.SERVER_AUTH

#: Of the critical extension that nobody knows.
UNKNOWN: Final = x509.UnrecognizedExtension(ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\0")

#: Why the server refuses what C{openssl} takes.
STRICTER: Final = (
    "a CA certificate is no device identity",
    "CA certificate has no basicConstraints",
)


@functools.cache
def key(number: int) -> ec.EllipticCurvePrivateKey:
    """
    One of several keys.
    """
    return ec.generate_private_key(ec.SECP256R1())


@frozen
class Made:
    """
    A certificate, and who could have issued others with it.
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)] if text else [])


def make(
    subject: str,
    own: ec.EllipticCurvePrivateKey,
    issuer: str,
    signer: ec.EllipticCurvePrivateKey,
    extensions: Sequence[Extension],
    dates: tuple[datetime, datetime],
) -> Made:
    """
    A certificate with just these extensions.
    """
    builder = x509.CertificateBuilder(
        name(issuer), name(subject), own.public_key(), x509.random_serial_number(), *dates
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return Made(builder.sign(signer, hashes.SHA256()), own)


def key_usage(signs: bool, digital: bool) -> x509.KeyUsage:
    others = dict.fromkeys(
        (
            *("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
            *("crl_sign", "encipher_only", "decipher_only"),
        ),
        False,
    )
    return x509.KeyUsage(key_cert_sign=signs, digital_signature=digital, **others)


class Maker:
    """
    Makes chains, most of which are right in all but one or two respects.
    """

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def rarely(self, chance: float = 0.03) -> bool:
        return self._random.random() < chance

    def dates(self) -> tuple[datetime, datetime]:
        """
        When a certificate is valid.
        """
        if self.rarely():
            return NOW - 3 * DAY, NOW - DAY
        if self.rarely():
            return NOW + DAY, NOW + 3 * DAY
        return NOW - DAY, NOW + DAY

    def purposes(self) -> list[Extension]:
        """
        What a certificate is for; nothing at all means anything.
        """
        if self._random.random() < 0.4:
            return []
        purposes = self._random.choice([[CLIENT]] * 5 + [[SERVER], [SERVER, CLIENT]])
        return [(x509.ExtendedKeyUsage(purposes), self.rarely())]

    def authority(self) -> list[Extension]:
        """
        What a CA's certificate says of itself.
        """
        extensions: list[Extension] = []
        if not self.rarely():
            length = self._random.choice([None, None, None, 0, 1])
            is_ca = not self.rarely()
            constraints = x509.BasicConstraints(is_ca, length if is_ca else None)
            extensions.append((constraints, not self.rarely(0.2)))
        if self._random.random() < 0.7:
            extensions.append((key_usage(not self.rarely(), False), True))
        if self.rarely(0.15):
            extensions += self.purposes()
        if self.rarely():
            names = [x509.DNSName("example.com")]
            permitted, excluded = (names, None) if self.rarely(0.5) else (None, names)
            extensions.append((x509.NameConstraints(permitted, excluded), True))
        return extensions + self.unknown()

    def unknown(self) -> list[Extension]:
        return [(UNKNOWN, self.rarely(0.7))] if self.rarely() else []

    def device(self) -> list[Extension]:
        """
        What a device's certificate says of itself.
        """
        extensions = self.purposes()
        if self._random.random() < 0.5:
            extensions.append((key_usage(False, True), True))
        if self._random.random() < 0.2:
            extensions.append((x509.BasicConstraints(self.rarely(0.3), None), True))
        if self._random.random() < 0.2:
            host = self._random.choice(["a.example.com", "a.example.org"])
            extensions.append((x509.SubjectAlternativeName([x509.DNSName(host)]), False))
        return extensions + self.unknown()

    def chain(self) -> tuple[Made, list[Made], Made]:
        """
        @return: the root, CAs that may stand between, and the device's certificate.
        """
        root = make("root", key(0), "root", key(0), self.authority(), self.dates())
        above, between = root, []
        above_name = "root"
        for number in range(1, self._random.choice([1, 1, 2, 2, 3, 4])):
            # Sometimes the name is right, and the key another's, or the other way round.
            signer = key(9) if self.rarely() else above.key
            issuer = "nobody" if self.rarely() else above_name
            own = f"CA {number}"
            above = make(own, key(number), issuer, signer, self.authority(), self.dates())
            above_name = own
            between.append(above)
        signer = key(9) if self.rarely() else above.key
        if self.rarely():
            above_name, signer = "", key(8)
        device = make("", key(8), above_name, signer, self.device(), self.dates())
        if between and self.rarely():
            between.pop(self._random.randrange(len(between)))
        return root, between, device


class ChainTests(SynchronousTestCase):
    """
    The server's opinion of chains, and that of C{openssl verify -purpose sslclient}.
    """

    if OPENSSL is None:
        skip = "there is no openssl command here"

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()

    def theirs(self, root: Made, between: Sequence[Made], device: Made) -> bool:
        """
        @return: whether C{openssl} takes the device's certificate.
        """
        files = {
            "root": root.pem,
            "between": b"".join(one.pem for one in between),
            "device": device.pem,
        }
        paths = {part: self.directory / part for part in files}
        for part, content in files.items():
            paths[part].write_bytes(content)
        command = [str(OPENSSL), "verify", "-purpose", "sslclient", "-no-CApath", "-no-CAstore"]
        command += ["-attime", str(int(NOW.timestamp())), "-CAfile", str(paths["root"])]
        if between:
            command += ["-untrusted", str(paths["between"])]
        done = subprocess.run(
            [*command, str(paths["device"])], capture_output=True, timeout=60, check=False
        )
        return done.returncode == 0

    def ours(self, root: Made, between: Sequence[Made], device: Made) -> str | None:
        """
        @return: why the server refuses it; L{None} if it does not.
        """
        intermediates = [one.certificate for one in between]
        verifier = ChainVerifier([root.certificate], intermediates, now=lambda: NOW)
        try:
            verifier.verify(device.certificate.public_bytes(Encoding.DER))
        except UntrustedCertificate as error:
            return str(error)
        return None

    def test_agreement(self) -> None:
        """
        What the server takes C{openssl} takes.  What only C{openssl} takes is refused for
        one of the reasons that are meant.
        """
        found: Counter[tuple[bool, bool]] = Counter()
        for seed in range(CHAINS):
            chain = Maker(seed).chain()
            ours, theirs = self.ours(*chain), self.theirs(*chain)
            found[ours is None, theirs] += 1
            self.assertTrue(theirs or ours is not None, seed)
            if theirs and ours is not None:
                self.assertTrue(any(reason in ours for reason in STRICTER), (seed, ours))
        taken, stricter = found[True, True], found[False, True]
        show("chains", CHAINS, f"{taken} taken", f"{stricter} by openssl only")
        # All but what must not be: taken here and not there.
        self.assertEqual(set(found), {(True, True), (False, False), (False, True)}, found)
