"""
Tests for L{nanomdm.crypto.cms}: what verifies, what is refused, what is
remembered.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from unittest import mock

from asn1crypto import cms as asn1_cms
from asn1crypto import core
from asn1crypto import x509 as asn1_x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import pkcs7
from twisted.trial.unittest import SynchronousTestCase

from nanomdm.crypto import ber, cms
from nanomdm.crypto.certificates import MAX_CERTIFICATE
from nanomdm.crypto.chain import ChainVerifier
from nanomdm.crypto.cms import SignatureVerifier, decode_header, verify_detached
from nanomdm.crypto.encoding import MAX_HEADER
from nanomdm.crypto.identity import Identity
from nanomdm.errors import BadSignature, UntrustedCertificate
from nanomdm.sim.ca import DeviceIdentity, ThrowawayCA
from nanomdm.sim.signing import sign_like_device, sign_modern
from tests.crypto import build
from tests.crypto.build import BODY


def forms() -> Iterator[tuple[str, str, bytes]]:
    """
    Signatures over L{BODY} in every form: a description, the kind of identity
    that signed, the structure.
    """
    flags = (True, False)
    for kind, digest in itertools.product(("rsa", "p256", "p384"), build.DIGESTS):
        identity = build.identity(kind)
        for attributes, plain, key_id in itertools.product(flags, flags, flags):
            der = build.signed(
                identity,
                digest=digest,
                attributes=attributes,
                plain_rsa=plain,
                key_identifier=key_id,
            )
            about = f"{kind} {digest} {attributes=} {plain=} {key_id=}"
            yield f"{about} DER", kind, der
            yield f"{about} BER", kind, build.to_ber(der, build.kept(identity))


class RefusalMixin:
    """
    Assertion about refused signatures.
    """

    def assertRefused(self, structure: bytes, why: str = "", body: bytes = BODY) -> None:
        """
        C{structure} does not sign C{body}, for a reason that contains C{why}.
        """
        assert isinstance(self, SynchronousTestCase)
        error = self.assertRaises(BadSignature, verify_detached, structure, body)
        self.assertIn(why, str(error))


class CaptureTests(SynchronousTestCase, RefusalMixin):
    """
    What real devices sent.
    """

    def test_verifies(self) -> None:
        header = build.capture(2)
        der = verify_detached(decode_header(header), build.captured_body())
        self.assertEqual(der, build.embedded(header))

    def test_other_bodies(self) -> None:
        body = build.captured_body()
        structure = decode_header(build.capture(2))
        others = [b"", body + b"\n", b"\n" + body, body + body, body.replace(b"\n", b"\r\n")]
        others += [body[:end] for end in range(0, len(body), 7)]
        others += [body[start:] for start in range(1, len(body), 7)]
        others += [changed for _, _, changed in build.flips(body, 3)]
        for other in others:
            self.assertRefused(structure, "does not match the body", other)

    def test_without_body(self) -> None:
        """
        The body of capture 1 is not known: it names its certificate, and signs
        no other body.
        """
        structure = decode_header(build.capture(1))
        signer, certificates = cms._read_signed_data(ber.parse(structure))
        found = cms._signer_certificate(signer, certificates)
        self.assertEqual(found, build.embedded(build.capture(1)))
        self.assertRefused(structure, "does not match the body", build.captured_body())
        self.assertRefused(structure, "does not match the body", b"")

    def test_agrees_with_asn1crypto(self) -> None:
        for number in (1, 2):
            structure = decode_header(build.capture(number))
            data = asn1_cms.ContentInfo.load(structure)["content"]
            info = data["signer_infos"][0]
            signer, certificates = cms._read_signed_data(ber.parse(structure))
            self.assertEqual(
                [certificate.encoded for certificate in certificates],
                [choice.chosen.dump() for choice in data["certificates"]],
            )
            self.assertEqual(signer.signature, info["signature"].native)
            self.assertEqual(signer.identifier.encoded, info["sid"].chosen.dump())
            self.assertEqual(signer.attributes is None, not len(info["signed_attrs"]))
            for ours, theirs in (
                (signer.digest, info["digest_algorithm"]),
                (signer.algorithm, info["signature_algorithm"]),
            ):
                self.assertEqual(ours.oid, theirs["algorithm"].contents)


class FormTests(SynchronousTestCase, RefusalMixin):
    """
    Every form that is to be understood.
    """

    def test_every_form(self) -> None:
        """
        Each verifies, yields the signer's certificate just as C{asn1crypto}
        finds it, and signs nothing else.
        """
        for about, kind, structure in forms():
            der = build.identity(kind).der
            self.assertEqual(verify_detached(structure, BODY), der, about)
            self.assertEqual(build.oracle(structure, BODY), der, about)
            self.assertRefused(structure, body=BODY + b" ")

    def test_identifier_of_indefinite_length(self) -> None:
        identity = build.identity()
        structure = build.to_ber(build.signed(identity), [identity.der, build.issuer(identity)])
        self.assertEqual(verify_detached(structure, BODY), identity.der)

    def test_attributes_out_of_order(self) -> None:
        """
        The signature covers the attributes in DER's order, in whichever order
        they came.
        """
        identity = build.identity()
        structure = build.signed(identity)
        signer, _ = cms._read_signed_data(ber.parse(structure))
        assert signer.attributes is not None
        turned = b"".join(child.encoded for child in reversed(signer.attributes.children))
        other = structure.replace(signer.attributes.content, turned)
        self.assertNotEqual(other, structure)
        self.assertEqual(verify_detached(other, BODY), identity.der)

    def test_more_attributes(self) -> None:
        identity = build.identity()
        attributes = build.usual_attributes(build.hashlib.sha256(BODY).digest())
        attributes.append({"type": "signing_time", "values": [build.signing_time()]})
        structure = build.signed(identity, attribute_list=attributes)
        for form in (structure, build.to_ber(structure, build.kept(identity))):
            self.assertEqual(verify_detached(form, BODY), identity.der)

    def test_several_certificates(self) -> None:
        identity = build.identity()
        others = [build.ca().certificate.public_bytes(build.Encoding.DER)]
        others += [build.identity("p256").der, build.identity("other-rsa").der]
        for key_identifier in (True, False):
            info = build.signer_info(identity, key_identifier=key_identifier)
            for certificates in itertools.permutations([identity.der, *others]):
                structure = build.signed_data([info], certificates).dump()
                self.assertEqual(verify_detached(structure, BODY), identity.der)

    def test_simulated_forms(self) -> None:
        for kind in ("rsa", "p256"):
            identity = build.identity(kind)
            header = sign_modern(identity, BODY)
            self.assertEqual(verify_detached(decode_header(header), BODY), identity.der)
        header = sign_like_device(build.identity(), BODY)
        self.assertEqual(verify_detached(decode_header(header), BODY), build.identity().der)

    def test_empty_body(self) -> None:
        structure = build.signed(build.identity(), b"")
        self.assertEqual(verify_detached(structure, b""), build.identity().der)


class RefusedTests(SynchronousTestCase, RefusalMixin):
    """
    Structures that are well-formed and yet not what they have to be.
    """

    def data(self, **options: object) -> asn1_cms.ContentInfo:
        identity = build.identity()
        info = build.signer_info(identity, **options)  # type: ignore[arg-type]
        return build.signed_data([info], [identity.der])

    def test_wrong_message_digest(self) -> None:
        for body in (b"another", b""):
            attributes = build.usual_attributes(build.hashlib.sha256(body).digest())
            structure = build.signed(build.identity(), attribute_list=attributes)
            self.assertRefused(structure, "messageDigest")

    def test_message_digest_of_other_algorithm(self) -> None:
        attributes = build.usual_attributes(build.hashlib.sha512(BODY).digest())
        structure = build.signed(build.identity(), attribute_list=attributes)
        self.assertRefused(structure, "messageDigest")

    def test_wrong_attributes(self) -> None:
        digest = build.hashlib.sha256(BODY).digest()
        kind, message = build.usual_attributes(digest)
        wrong = {"type": "message_digest", "values": [bytes(32)]}
        other = {"type": "content_type", "values": ["signed_data"]}
        for attributes, why in [
            ([], "contentType"),
            ([kind], "messageDigest"),
            ([message], "contentType"),
            ([kind, message, message], "messageDigest"),
            ([kind, kind, message], "contentType"),
            ([kind, message, wrong], "messageDigest"),
            ([kind, {"type": "message_digest", "values": [digest, digest]}], "attribute"),
            ([kind, {"type": "message_digest", "values": []}], "attribute"),
            ([other, message], "contentType"),
        ]:
            structure = build.signed(build.identity(), attribute_list=attributes)
            self.assertRefused(structure, why)

    def test_misshapen_attributes(self) -> None:
        """
        Rightly signed attributes that are none.
        """
        content_type = bytes.fromhex("301806092a864886f70d010903310b06092a864886f70d010701")
        digest = build.hashlib.sha256(BODY).digest()
        message = bytes.fromhex("302f06092a864886f70d01090431220420") + digest
        good = content_type + message
        self.assertEqual(verify_detached(self.raw_attributes(good), BODY), build.identity().der)
        other = bytes.fromhex("3006060129")
        for attributes in [
            good.replace(b"\x06\x09", b"\x04\x09", 1),
            good.replace(b"\x31\x0b", b"\x30\x0b"),
            good.replace(b"\x31\x22\x04", b"\x31\x22\x0c"),
            other + b"\x30\x01\0" + good,
            other + b"\x31\x01\0" + good,
            b"\x30\x03\x06\x01\x29" + good,
            b"\x30\x05\x06\x01\x29\x30\0" + good,
            b"\x30\x05\x04\x01\x29\x31\0" + good,
            b"\x05\0" + good,
        ]:
            self.assertRefused(self.raw_attributes(attributes))

    def raw_attributes(self, attributes: bytes) -> bytes:
        """
        A signature over attributes given as contents octets.
        """
        identity = build.identity()
        whole = ber.encode(ber.SET, attributes)
        info = build.signer_info(identity, attributes=False)
        info["signature"] = build.sign_raw(identity, whole, "sha256")
        fields = build.members(info.dump(force=True))
        fields.insert(3, ber.encode(ber.CONTEXT_0, attributes))
        info = asn1_cms.SignerInfo.load(ber.encode(ber.SEQUENCE, b"".join(fields)))
        return build.signed_data([info], [identity.der]).dump()

    def test_other_kinds_of_certificates(self) -> None:
        """
        Only X.509 certificates are known (RFC 5652 section 10.2.2 has more).
        """
        for key_identifier in (True, False):
            content = self.data(key_identifier=key_identifier)
            structure = content.dump()
            der = build.identity().der
            other = structure.replace(der, b"\xa1" + der[1:])
            self.assertRefused(other, "certificate")

    def test_signature_over_body_despite_attributes(self) -> None:
        content = self.data()
        info = content["content"]["signer_infos"][0]
        info["signature"] = build.sign_raw(build.identity(), BODY, "sha256")
        self.assertRefused(content.dump(force=True), "does not match")

    def test_number_of_signers(self) -> None:
        identity = build.identity()
        info = build.signer_info(identity)
        for count in (0, 2):
            structure = build.signed_data([info] * count, [identity.der])
            structure["content"]["digest_algorithms"] = [info["digest_algorithm"].copy()]
            self.assertRefused(structure.dump(force=True), "signerInfos")

    def test_certificate_of_somebody_else(self) -> None:
        info = build.signer_info(build.identity())
        for kind in ("p256", "other-rsa"):
            structure = build.signed_data([info], [build.identity(kind).der])
            self.assertRefused(structure.dump(), "no embedded certificate")

    def test_same_name_with_other_key(self) -> None:
        """
        A certificate with the signer's issuer and serial number, but not its
        key.
        """
        for kind in ("other-rsa", "p256"):
            forged = build.with_key(build.identity(), build.identity(kind).key.public_key())
            info = build.signer_info(build.identity())
            structure = build.signed_data([info], [forged]).dump()
            self.assertRefused(structure, "the signature")

    def test_number_of_certificates(self) -> None:
        identity = build.identity()
        info = build.signer_info(identity)
        for count in (1, cms.MAX_CERTIFICATES):
            structure = build.signed_data([info], [identity.der] * count).dump()
            self.assertEqual(verify_detached(structure, BODY), identity.der)
        structure = build.signed_data([info], [identity.der] * (cms.MAX_CERTIFICATES + 1))
        self.assertRefused(structure.dump(), "embedded certificates")
        self.assertRefused(build.signed_data([info], []).dump(), "no embedded certificate")
        absent = build.signed_data([info], [])
        del absent["content"]["certificates"]
        self.assertRefused(absent.dump(force=True), "SignedData")

    def test_content_of_its_own(self) -> None:
        info = build.signer_info(build.identity())
        for content in (BODY, b"something else"):
            structure = build.signed_data([info], [build.identity().der], content)
            self.assertRefused(structure.dump(), "not detached")

    def test_other_content_types(self) -> None:
        content = self.data()
        content["content"]["encap_content_info"]["content_type"] = "enveloped_data"
        self.assertRefused(content.dump(force=True), "eContentType")
        other = asn1_cms.ContentInfo({"content_type": "data", "content": b"x"})
        self.assertRefused(other.dump(), "content type")

    def test_versions(self) -> None:
        for key_identifier, right in ((True, "v3"), (False, "v1")):
            for version in {"v0", "v1", "v2", "v3", "v4", "v5"} - {right}:
                content = self.data(key_identifier=key_identifier)
                content["content"]["version"] = version
                self.assertRefused(content.dump(force=True), "version")
                content = self.data(key_identifier=key_identifier)
                content["content"]["signer_infos"][0]["version"] = version
                self.assertRefused(content.dump(force=True), "version")
                content["content"]["version"] = version
                self.assertRefused(content.dump(force=True), "version")

    def test_digest_algorithms(self) -> None:
        for algorithms in ([], ["sha1"], ["sha256", "sha1"], ["sha256", "sha256"]):
            content = self.data()
            content["content"]["digest_algorithms"] = [{"algorithm": a} for a in algorithms]
            self.assertRefused(content.dump(force=True), "digestAlgorithms")

    def test_digest_without_parameters(self) -> None:
        """
        Absent parameters are the other right spelling.
        """
        content = self.data(attributes=False)
        bare = {"algorithm": "sha256"}
        content["content"]["digest_algorithms"] = [bare]
        content["content"]["signer_infos"][0]["digest_algorithm"] = bare
        self.assertEqual(verify_detached(content.dump(force=True), BODY), build.identity().der)

    def test_unsupported_digest(self) -> None:
        content = self.data()
        content["content"]["digest_algorithms"] = [{"algorithm": "md5"}]
        content["content"]["signer_infos"][0]["digest_algorithm"] = {"algorithm": "md5"}
        self.assertRefused(content.dump(force=True), "unsupported digest")

    def test_signature_algorithms(self) -> None:
        for kind, names in {
            "rsa": ["sha1_rsa", "sha512_rsa", "sha256_ecdsa", "sha256_dsa", "md5_rsa"],
            "p256": ["sha1_ecdsa", "sha512_ecdsa", "sha256_rsa", "rsassa_pkcs1v15"],
        }.items():
            identity = build.identity(kind)
            for name in names:
                info = build.signer_info(identity)
                info["signature_algorithm"] = {"algorithm": name}
                structure = build.signed_data([info], [identity.der]).dump(force=True)
                self.assertRefused(structure, "signature algorithm")

    def test_pss(self) -> None:
        """
        A right signature with another padding.
        """
        identity = build.identity()
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
        builder = pkcs7.PKCS7SignatureBuilder().set_data(BODY)
        builder = builder.add_signer(
            identity.certificate, identity.key, hashes.SHA256(), rsa_padding=pss
        )
        detached = [pkcs7.PKCS7Options.Binary, pkcs7.PKCS7Options.DetachedSignature]
        self.assertRefused(builder.sign(build.Encoding.DER, detached), "algorithm")

    def test_parameters_of_ecdsa(self) -> None:
        identity = build.identity("p256")
        info = build.signer_info(identity)
        info["signature_algorithm"]["parameters"] = core.Null()
        structure = build.signed_data([info], [identity.der]).dump(force=True)
        self.assertRefused(structure, "signature algorithm")

    def test_unsigned_attributes(self) -> None:
        content = self.data()
        info = content["content"]["signer_infos"][0]
        info["unsigned_attrs"] = [{"type": "signing_time", "values": [build.signing_time()]}]
        self.assertRefused(content.dump(force=True), "SignerInfo")

    def test_revocation_lists(self) -> None:
        content = self.data()
        content["content"]["crls"] = [build.revocations()]
        self.assertRefused(content.dump(force=True), "SignedData")

    def test_trailing_bytes(self) -> None:
        for _, _, structure in itertools.islice(forms(), 2):
            self.assertRefused(structure + b"\0", "1 bytes too many")
            self.assertRefused(structure + structure, "too many")

    def test_huge_key(self) -> None:
        """
        The sender does not decide how long verifying takes.
        """
        numbers = rsa.RSAPublicNumbers(65537, (1 << 16383) + 1)
        forged = build.with_key(build.identity(), numbers.public_key())
        info = build.signer_info(build.identity(), attributes=False)
        info["signature"] = bytes(2048)
        structure = build.signed_data([info], [forged]).dump(force=True)
        self.assertRefused(structure, "RSA key has more than")

    def test_exponents(self) -> None:
        """
        A right signature, but by a key with an exponent of the sender's choice.
        """
        private = build.device_key().private_numbers()
        modulus = private.public_numbers.n
        totient = (private.p - 1) * (private.q - 1)
        info = build.signer_info(build.identity(), attributes=False)
        # The padded digest, from the signature with the usual exponent.
        padded = pow(int.from_bytes(info["signature"].native, "big"), 65537, modulus)
        for exponent in (257, (1 << 32) + 15):
            forged = build.with_key(
                build.identity(), rsa.RSAPublicNumbers(exponent, modulus).public_key()
            )
            signature = pow(padded, pow(exponent, -1, totient), modulus)
            info["signature"] = signature.to_bytes(256, "big")
            structure = build.signed_data([info], [forged]).dump(force=True)
            if exponent == 257:
                self.assertEqual(verify_detached(structure, BODY), forged)
            else:
                self.assertRefused(structure, "RSA exponent is above")

    def test_even_exponent(self) -> None:
        structure = build.signed(build.identity(), attributes=False)
        self.assertEqual(structure.count(b"\x02\x03\x01\x00\x01"), 1)
        even = structure.replace(b"\x02\x03\x01\x00\x01", b"\x02\x03\x01\x00\x02")
        self.assertRefused(even, "unusable")

    def test_other_kind_of_key(self) -> None:
        forged = build.with_key(build.identity(), build.ed25519_key().public_key())
        structure = build.signed_data([build.signer_info(build.identity())], [forged])
        self.assertRefused(structure.dump(), "neither RSA nor EC")

    def test_slow_kind_of_key(self) -> None:
        """
        A Diffie-Hellman key is not even read: checking it takes an
        exponentiation by a number of the sender's choice.
        """
        numbers = [ber.encode(ber.INTEGER, b"\x7f" * 64) for _ in range(3)]
        domain = bytes.fromhex("06072a8648ce3e0201") + ber.encode(ber.SEQUENCE, b"".join(numbers))
        value = ber.encode(ber.BIT_STRING, b"\0" + numbers[0])
        key = ber.encode(ber.SEQUENCE, ber.encode(ber.SEQUENCE, domain) + value)
        signed, *rest = build.members(build.identity().der)
        parts = build.members(signed)
        parts[6] = key
        forged = ber.encode(ber.SEQUENCE, b"".join(parts))
        forged = ber.encode(ber.SEQUENCE, b"".join([forged, *rest]))
        structure = build.signed_data([build.signer_info(build.identity())], [forged])
        self.assertRefused(structure.dump(), "neither RSA nor EC")

    def test_other_curves(self) -> None:
        for curve in (ec.BrainpoolP512R1(), ec.SECP256K1()):
            signer = build.ca().issue(key=ec.generate_private_key(curve))
            self.assertRefused(build.signed(signer), f"unsupported curve {curve.name}")

    def test_large_certificate(self) -> None:
        """
        It costs the more to read the larger it is.
        """
        identity = build.identity()
        copy = asn1_x509.Certificate.load(identity.der)
        value = bytes(MAX_CERTIFICATE)
        extension = {"extn_id": "1.2.3.4", "critical": False, "extn_value": value}
        copy["tbs_certificate"]["extensions"].append(extension)
        for key_identifier in (True, False):
            info = build.signer_info(identity, key_identifier=key_identifier)
            structure = build.signed_data([info], [copy.dump(force=True)]).dump()
            self.assertRefused(structure, "more than 16384 bytes")

    def test_other_certificates_are_not_read(self) -> None:
        """
        To find the signer's by its key identifier, no extension of another is
        looked into.
        """
        identity = build.identity()
        info = build.signer_info(identity, key_identifier=True)
        copy = asn1_x509.Certificate.load(build.identity("other-rsa").der)
        names = {"extn_id": "subject_alt_name", "critical": False, "extn_value": b"garbage"}
        extensions = copy["tbs_certificate"]["extensions"]
        extensions.append(asn1_x509.Extension(names | {"extn_id": "1.2.3.4"}))
        other = copy.dump(force=True).replace(b"\x06\x03\x2a\x03\x04", b"\x06\x03\x55\x1d\x11")
        self.assertIn(b"\x55\x1d\x11\x04\x07garbage", other)
        parses = mock.Mock(wraps=cms.parse_certificate)
        self.patch(cms, "parse_certificate", parses)
        structure = build.signed_data([info], [other, identity.der]).dump()
        self.assertEqual(verify_detached(structure, BODY), identity.der)
        parses.assert_called_once_with(identity.der)

    def test_no_key_identifier(self) -> None:
        """
        The certificate has none, or none that is an OCTET STRING.
        """
        identity = build.identity()
        structure = build.signed(identity, key_identifier=True)
        own = asn1_x509.Certificate.load(identity.der).key_identifier
        at = structure.index(b"\x04\x14" + own)
        for octets in (b"\x0c\x14", b"\x04\x13"):
            changed = structure[:at] + octets + structure[at + 2 :]
            self.assertRefused(changed, "no embedded certificate")
        absent = identity.der.replace(bytes.fromhex("0603551d0e"), bytes.fromhex("0603551d0d"))
        self.assertRefused(structure.replace(identity.der, absent), "no embedded certificate")

    def test_long_identifiers_stay_out_of_texts(self) -> None:
        structure = build.signed(build.identity(), attributes=False)
        sha256 = bytes.fromhex("0609608648016503040201")
        huge = ber.encode(ber.OBJECT_IDENTIFIER, b"\x2a" * 60000)
        changed = self.replaced(ber.parse(structure), sha256, huge)
        error = self.assertRaises(BadSignature, verify_detached, changed, BODY)
        self.assertIn("unsupported digest", str(error))
        self.assertLess(len(str(error)), 200)

    def replaced(self, element: ber.Element, old: bytes, new: bytes) -> bytes:
        """
        An element with each occurrence of another one inside replaced.
        """
        if element.encoded == old:
            return new
        if not element.tag & ber.CONSTRUCTED:
            return element.encoded
        parts = [self.replaced(child, old, new) for child in element.children]
        return ber.encode(element.tag, b"".join(parts))

    def test_unreadable_certificate(self) -> None:
        """
        A certificate with the right name and garbage in its other parts.
        """
        identity = build.identity()
        structure = build.signed(identity, attributes=False)
        at = structure.index(identity.der)
        for changed in self.spoiled(identity.der):
            self.assertEqual(len(changed), len(identity.der))
            whole = structure[:at] + changed + structure[at + len(changed) :]
            self.assertRefused(whole)

    def spoiled(self, der: bytes) -> Iterator[bytes]:
        validity = der.index(b"\x17\x0d")
        yield der[:validity] + b"\x17\x0dgarbage garbage"[:15] + der[validity + 15 :]
        key = der.index(bytes.fromhex("2a864886f70d010101"))
        yield der[: key + 8] + b"\x63" + der[key + 9 :]
        modulus = der.index(b"\x02\x82\x01\x01", key)
        yield der[:modulus] + b"\x04" + der[modulus + 1 :]
        yield der[:8] + b"\xa0\x03\x02\x01\x09" + der[13:]


class TruncationTests(SynchronousTestCase, RefusalMixin):
    """
    Incomplete and hostile structures.
    """

    def test_every_length(self) -> None:
        for kind in ("rsa", "p256"):
            identity = build.identity(kind)
            der = build.signed(identity)
            for structure in (der, build.to_ber(der)):
                for length in range(len(structure)):
                    self.assertRefused(structure[:length], "not readable BER")

    def test_bombs(self) -> None:
        deep = b"\x05\0"
        for _ in range(2000):
            deep = ber.encode(ber.SEQUENCE, deep)
        half = MAX_HEADER // 2
        for structure in [
            b"",
            b"\x30\x80" * half,
            b"\xa0\x80" * half,
            b"\x30\x80" * (half // 2) + b"\0\0" * (half // 2),
            deep,
            b"\x30\x84\xff\xff\xff\xff" * 1000,
            b"\x30\x84\x7f\xff\xff\xff",
            b"\x30\x80" + b"\x05\0" * half,
            b"\x30\x83\x0f\xff\xff" + b"\x05\0" * half,
            b"\0" * MAX_HEADER,
            b"\xff" * MAX_HEADER,
        ]:
            self.assertRefused(structure)

    def test_bombs_inside(self) -> None:
        """
        Hostile structures where something else belongs.
        """
        structure = build.signed(build.identity())
        deep = b"\x30\x80" * 1000
        for start in range(0, len(structure), 41):
            self.assertRefused(structure[:start] + deep + structure[start:])
            self.assertRefused(structure[:start] + b"\x31\x84\xff\xff\xff\xff" + structure[start:])


class DecodeTests(SynchronousTestCase):
    """
    The base64 of the header.
    """

    def test_folded(self) -> None:
        value = base64.b64encode(bytes(range(200)))
        self.assertEqual(decode_header(value), bytes(range(200)))
        lines = [value[at : at + 64] for at in range(0, len(value), 64)]
        for fold in (b"\n", b"\r\n ", b"\r\n\t", b" "):
            self.assertEqual(decode_header(fold.join(lines)), bytes(range(200)))
            self.assertEqual(decode_header(fold + value + fold), bytes(range(200)))

    def test_refused(self) -> None:
        for value in [
            b"A",
            b"AA",
            b"AAA",
            b"AA=",
            b"AB==",
            b"AAB=",
            b"AA==AA==",
            b"AA===",
            b"=AAA",
            b"AA-_",
            b"AA\0=",
            b"AA\xff=",
            b"AA\x0b==",
        ]:
            error = self.assertRaises(BadSignature, decode_header, value)
            self.assertIn("not base64", str(error))

    def test_too_long(self) -> None:
        fits = base64.b64encode(bytes(cms.MAX_CMS))
        blanks = b" " * (MAX_HEADER - len(fits))
        self.assertEqual(decode_header(blanks + fits), bytes(cms.MAX_CMS))
        self.assertRaises(BadSignature, decode_header, blanks + b" " + fits)
        error = self.assertRaises(BadSignature, decode_header, b"AAAA" + fits)
        self.assertIn("more than 262144 bytes of data", str(error))
        self.assertRaises(BadSignature, decode_header, b" " * (MAX_HEADER + 1))


class VerifierTests(SynchronousTestCase):
    """
    What L{SignatureVerifier} remembers.
    """

    def setUp(self) -> None:
        self.verifier = SignatureVerifier(size=2)
        self.chains = ChainVerifier([build.ca().certificate])
        self.calls = mock.Mock(wraps=verify_detached)
        self.patch(cms, "verify_detached", self.calls)

    def header(self, body: bytes, signer: DeviceIdentity | None = None) -> bytes:
        return build.header(build.signed(signer or build.identity(), body, attributes=False))

    def verify(self, header: bytes, body: bytes) -> Identity:
        return self.verifier.verify(header, body, self.chains)

    def test_repeat(self) -> None:
        header = self.header(BODY)
        for _ in range(3):
            self.assertEqual(self.verify(header, BODY).der, build.identity().der)
        self.assertEqual(self.calls.call_count, 1)

    def test_other_body_is_verified(self) -> None:
        header = self.header(BODY)
        self.verify(header, BODY)
        self.assertRaises(BadSignature, self.verify, header, BODY + b" ")
        self.assertEqual(self.calls.call_count, 2)

    def test_border_between_header_and_body(self) -> None:
        """
        The same bytes divided differently are another request.
        """
        header = self.header(BODY)
        self.verify(header, BODY)
        self.assertRaises(BadSignature, self.verify, header + BODY[:1], BODY[1:])
        self.assertRaises(BadSignature, self.verify, header[:-1], header[-1:] + BODY)

    def test_failure_is_not_remembered(self) -> None:
        header = self.header(b"another")
        for _ in range(2):
            self.assertRaises(BadSignature, self.verify, header, BODY)
        self.assertEqual(self.calls.call_count, 2)
        self.assertEqual(self.verify(header, b"another").der, build.identity().der)

    def test_bounded(self) -> None:
        headers = {body: self.header(body) for body in (b"1", b"2", b"3")}
        for body, header in headers.items():
            self.verify(header, body)
        self.verify(headers[b"3"], b"3")
        self.assertEqual(self.calls.call_count, 3)
        self.verify(headers[b"1"], b"1")
        self.assertEqual(self.calls.call_count, 4)

    def test_untrusted_sender_is_not_remembered(self) -> None:
        """
        Anybody can sign with a certificate of their own; that pushes nobody
        out, and takes no memory.
        """
        header = self.header(BODY)
        self.verify(header, BODY)
        stranger = ThrowawayCA.create("Stranger").issue(key=build.device_key())
        for body in (b"1", b"2", b"3", b"3"):
            other = self.header(body, stranger)
            self.assertRaises(UntrustedCertificate, self.verify, other, body)
        self.assertEqual(self.calls.call_count, 5)
        self.verify(header, BODY)
        self.assertEqual(self.calls.call_count, 5)
        self.assertEqual(len(self.verifier._verified), 1)

    def test_trust_is_asked_each_time(self) -> None:
        """
        A remembered request does not outlive its sender's certificate.
        """
        now = datetime.now(UTC)
        self.chains = ChainVerifier([build.ca().certificate], now=lambda: now)
        header = self.header(BODY)
        self.verify(header, BODY)
        now += timedelta(days=36500)
        self.assertRaises(UntrustedCertificate, self.verify, header, BODY)

    def test_certificates_are_shared(self) -> None:
        """
        Requests of one sender keep one copy of its certificate.
        """
        found = [self.verify(self.header(body), body).der for body in (b"1", b"2")]
        self.assertIs(found[0], found[1])
        kept = {id(der) for _, der in self.verifier._verified._entries.values()}
        self.assertEqual(kept, {id(found[0])})
