"""
Tests for L{nanomdm.sim.signing}.
"""

from __future__ import annotations

import base64

from asn1crypto import parser
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.sim.signing import sign_like_device, sign_modern
from tests.crypto import build

Shape = tuple[int, int, bool, bool, object]


def shape(data: bytes) -> Shape:
    """
    Class, tag, constructed, indefinite, and what is inside: the shapes of
    members, or the contents of object identifiers and of NULL.
    """
    class_, constructed, tag, header, content, _ = parser.parse(data)
    inside: object = None
    if constructed:
        inside = [shape(part) for part in build.split(content)]
    elif (class_, tag) in ((0, 5), (0, 6)):
        inside = content
    return class_, tag, bool(constructed), header[1:2] == b"\x80", inside


class DeviceFormTests(SynchronousTestCase):
    """
    The form of real devices.
    """

    def test_layout_of_the_capture(self) -> None:
        """
        All of the structure around certificate, issuer and serial number is
        that of a real device's.
        """
        self.assertEqual(
            self.outline(sign_like_device(build.identity(), build.BODY)),
            self.outline(build.capture(2)),
        )

    def outline(self, header: bytes) -> list[object]:
        """
        The spelling of all wrappers, and the shape of everything else but the
        certificate and the signer's identifier.
        """
        data = base64.b64decode(header)
        kind, wrapper = build.members(data)
        (signed_data,) = build.members(wrapper)
        version, digests, content, certificates, signers = build.members(signed_data)
        (certificate,) = build.members(certificates)
        (signer,) = build.members(signers)
        signer_version, identifier, *rest = build.members(signer)
        wrappers = [data, wrapper, signed_data, certificates, certificate, signers, signer]
        outline: list[object] = [part[:2] for part in [*wrappers, identifier[:1]]]
        parts = [kind, version, digests, content, signer_version, *rest]
        return outline + [shape(part) for part in parts]

    def test_verifies(self) -> None:
        identity = build.identity()
        structure = base64.b64decode(sign_like_device(identity, build.BODY))
        self.assertEqual(build.oracle(structure, build.BODY), identity.der)
        self.assertIsNone(build.oracle(structure, build.BODY + b" "))

    def test_rsa_only(self) -> None:
        self.assertRaises(TypeError, sign_like_device, build.identity("p256"), build.BODY)


class ModernFormTests(SynchronousTestCase):
    """
    The form of newer agents.
    """

    def test_verifies(self) -> None:
        for kind in ("rsa", "p256"):
            identity = build.identity(kind)
            for digest in ("sha224", "sha256", "sha384", "sha512"):
                for attributes in (True, False):
                    header = sign_modern(identity, build.BODY, digest, attributes)
                    structure = base64.b64decode(header)
                    self.assertEqual(build.oracle(structure, build.BODY), identity.der)
                    self.assertIsNone(build.oracle(structure, build.BODY + b" "))
                    info = build.cms.ContentInfo.load(structure)["content"]["signer_infos"][0]
                    self.assertEqual(bool(len(info["signed_attrs"])), attributes)
                    self.assertEqual(info["digest_algorithm"]["algorithm"].native, digest)

    def test_bytes_are_not_translated(self) -> None:
        """
        No line end is changed before signing.
        """
        body = b"a\nb\r\nc\rd\0\xff"
        identity = build.identity()
        structure = base64.b64decode(sign_modern(identity, body))
        self.assertEqual(build.oracle(structure, body), identity.der)
