"""
Thousands of signatures, right ones and changed ones: the server and C{openssl cms -verify}
are of one opinion about them, or the server is the stricter one, for a reason that is
meant.
"""

from __future__ import annotations

import os
import re
import shutil
import ssl
import subprocess
from base64 import b64encode
from collections import Counter
from pathlib import Path
from random import Random
from typing import Final

from attrs import frozen
from twisted.trial import util
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.crypto.cms import SignatureVerifier
from nanomdm.errors import IdentityError
from tests.crypto import build
from tests.faults.figures import show
from tests.faults.mutations import change_bytes, change_der
from tests.faults.targets import chains

#: How many signatures are made.
SIGNATURES: Final = 10 * int(os.environ.get("FAULTS_EXAMPLES", "200"))

OPENSSL = shutil.which("openssl")

_END: Final = "-----END CERTIFICATE-----"

#: Why the server refuses what C{openssl} takes: it says the same in another way than
#: devices do, has something left over, or was changed where nobody else looks.
STRICTER: Final = re.compile(
    "the signature has an unexpected |bytes too many at the end|does not fit the (RSA|EC) key"
)

# Some changed certificates have such numbers and names, and cryptography warns of them.
suppress = [
    util.suppress(message="Parsed a serial number which wasn't positive"),
    util.suppress(message="Attribute's length must be"),
]


@frozen
class Message:
    """
    A body with its signature.

    @ivar signer: the DER of whoever signed, if nobody changed anything since.
    """

    structure: bytes
    body: bytes
    signer: bytes | None
    is_changed: bool


def message(seed: int) -> Message:
    """
    @return: one of many: of every kind of key and form; half of them changed in one place,
        some others sign another body.
    """
    rng = Random(seed)
    kind = rng.choice(("rsa", "other-rsa", "p256", "p384"))
    options = {one: rng.random() < 0.5 for one in ("attributes", "plain_rsa", "key_identifier")}
    identity = build.identity(kind)
    structure = build.signed(identity, digest=rng.choice(build.DIGESTS), **options)
    if rng.random() < 0.5 and not options["key_identifier"]:
        structure = build.to_ber(structure, build.kept(identity))
    is_other = rng.random() < 0.1
    change = rng.choice((None, None, change_der, change_bytes))
    if change is not None:
        structure = change(structure, rng) or structure
    body = build.BODY + b" " * is_other
    signer = None if change or is_other else identity.der
    return Message(structure, body, signer, change is not None)


class OpenSSLTests(SynchronousTestCase):
    """
    L{SignatureVerifier} with L{chains}, and C{openssl} with the same root.
    """

    suppress = suppress

    if OPENSSL is None:
        skip = "there is no openssl command here"

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        (self.directory / "ca").write_bytes(build.ca().pem)

    def theirs(self, message: Message) -> bytes | None:
        """
        @return: the DER of the signer's certificate, or L{None} when C{openssl} refuses
            the signature.
        """
        files = {name: self.directory / name for name in ("signature", "body", "signer")}
        files["signature"].write_bytes(message.structure)
        files["body"].write_bytes(message.body)
        command = [str(OPENSSL), "cms", "-verify", "-binary", "-inform", "DER"]
        # Its S/MIME is for mail, which devices' certificates are not for.
        command += ["-purpose", "any", "-CAfile", str(self.directory / "ca")]
        for option, name in (("-in", "signature"), ("-content", "body"), ("-signer", "signer")):
            command += [option, str(files[name])]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        if done.returncode:
            return None
        # Of several signers, each has a certificate there.
        first, end, _ = files["signer"].read_text().partition(_END)
        return ssl.PEM_cert_to_DER_cert(first + end + "\n")

    def ours(self, message: Message) -> tuple[bytes | None, str]:
        """
        @return: the same of the server, and why it refuses the signature.
        """
        verifier = SignatureVerifier()
        try:
            header = b64encode(message.structure)
            return verifier.verify(header, message.body, chains()).der, ""
        except IdentityError as error:
            return None, str(error)

    def test_agreement(self) -> None:
        found: Counter[tuple[bool, bool, bool]] = Counter()
        for seed in range(SIGNATURES):
            made = message(seed)
            (ours, reason), theirs = self.ours(made), self.theirs(made)
            found[made.is_changed, ours is not None, theirs is not None] += 1
            if ours is not None:
                self.assertEqual(ours, theirs, seed)
            elif theirs is not None:
                self.assertRegex(reason, STRICTER, seed)
            if not made.is_changed:
                self.assertEqual((ours, theirs), (made.signer, made.signer), seed)
        taken = sum(count for (_, ours, _), count in found.items() if ours)
        stricter = found[True, False, True]
        show("signatures", SIGNATURES, f"{taken} taken", f"{stricter} by openssl only")
        # What is not changed they agree about; all else occurs but what must not be.
        self.assertEqual(
            set(found),
            {
                *((False, True, True), (False, False, False)),
                *((True, True, True), (True, False, False), (True, False, True)),
            },
            found,
        )
