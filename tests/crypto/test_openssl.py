"""
Agreement with the C{openssl} command about signatures.
"""

from __future__ import annotations

import base64
import shutil
import subprocess
from pathlib import Path

from cryptography import x509
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.crypto.cms import verify_detached
from nanomdm.errors import BadSignature
from nanomdm.sim.signing import sign_like_device
from tests.crypto import build
from tests.crypto.build import BODY

OPENSSL = shutil.which("openssl")


class OpenSSLTests(SynchronousTestCase):
    """
    Each side verifies what the other has signed.
    """

    if OPENSSL is None:
        skip = "there is no openssl command here"

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.body = self.write("body", BODY)

    def write(self, name: str, data: bytes) -> Path:
        path = self.directory / name
        path.write_bytes(data)
        return path

    def openssl(self, *arguments: str | Path) -> int:
        command = [str(OPENSSL), "cms", "-binary", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode

    def verify(self, structure: bytes, body: Path) -> bytes | None:
        """
        @return: the DER of the signer's certificate, or L{None} when
            C{openssl} refuses the signature.
        """
        signer = self.directory / "signer.pem"
        arguments = ["-verify", "-noverify", "-inform", "DER", "-content", body]
        file = self.write("signature", structure)
        if self.openssl(*arguments, "-in", file, "-signer", signer, "-out", "/dev/null"):
            return None
        certificate = x509.load_pem_x509_certificate(signer.read_bytes())
        return certificate.public_bytes(build.Encoding.DER)

    def sign(self, kind: str, *options: str) -> bytes:
        identity = build.identity(kind)
        certificate = self.write("certificate.pem", identity.pem)
        key = self.write("key.pem", build.pem(identity.key))
        result = self.directory / "result"
        arguments = ["-sign", "-outform", "DER", "-in", self.body, "-out", result]
        status = self.openssl(*arguments, "-signer", certificate, "-inkey", key, *options)
        self.assertEqual(status, 0)
        return result.read_bytes()

    def test_openssl_verifies(self) -> None:
        other = self.write("other", BODY + b" ")
        rsa, ec = build.identity("rsa"), build.identity("p384")
        modern = build.signed(rsa)
        for identity, structure in [
            (rsa, base64.b64decode(sign_like_device(rsa, BODY))),
            (rsa, build.to_ber(modern, [rsa.der, build.issuer(rsa)])),
            (rsa, build.signed(rsa, digest="sha512", attributes=False, plain_rsa=True)),
            (ec, build.signed(ec, digest="sha384", key_identifier=True)),
        ]:
            self.assertEqual(self.verify(structure, self.body), identity.der)
            self.assertEqual(verify_detached(structure, BODY), identity.der)
            self.assertIsNone(self.verify(structure, other))

    def test_openssl_signs(self) -> None:
        for kind, *options in [
            ["rsa", "-md", "sha1", "-noattr"],
            ["rsa", "-md", "sha1"],
            ["rsa", "-md", "sha256"],
            ["rsa", "-md", "sha256", "-nosmimecap"],
            ["rsa", "-md", "sha384", "-keyid"],
            ["rsa", "-md", "sha512", "-noattr", "-keyid"],
            ["p256", "-md", "sha256"],
            ["p256", "-md", "sha224", "-noattr"],
            ["p384", "-md", "sha512", "-keyid"],
        ]:
            structure = self.sign(kind, *options)
            der = build.identity(kind).der
            self.assertEqual(verify_detached(structure, BODY), der, options)
            self.assertRaises(BadSignature, verify_detached, structure, BODY + b" ")

    def test_refused_options(self) -> None:
        """
        What is right CMS but not what devices are to send.
        """
        for why, *options in [
            ["not detached", "-nodetach"],
            ["not detached", "-stream"],
            ["SignedData", "-nocerts"],
            ["algorithm parameters", "-keyopt", "rsa_padding_mode:pss"],
            ["unsupported digest", "-md", "md5"],
        ]:
            structure = self.sign("rsa", *options)
            error = self.assertRaises(BadSignature, verify_detached, structure, BODY)
            self.assertIn(why, str(error))
