"""
Keys, certificates and CMS structures of every form, built with C{asn1crypto}
and so independently of the code under test.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from asn1crypto import cms, core, crl, keys, parser
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from nanomdm.sim.ca import DeviceIdentity, PrivateKey, ThrowawayCA, new_rsa_key

MESSAGES = Path(__file__).parent.parent / "messages"
BODY = b"<plist><dict><key>Status</key><string>Idle</string></dict></plist>"
DIGESTS = ("sha1", "sha224", "sha256", "sha384", "sha512")
HASHES = {
    "sha1": hashes.SHA1(),
    "sha224": hashes.SHA224(),
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}


def capture(number: int) -> bytes:
    """
    The header of a real device's request.
    """
    return (MESSAGES / f"mdm-signature-{number}.b64").read_bytes().strip()


def captured_body() -> bytes:
    """
    The body that capture 2 signs.
    """
    return (MESSAGES / "mdm-signature-2.body.plist").read_bytes()


def embedded(header: bytes) -> bytes:
    """
    The DER of the first certificate in a header.
    """
    data = cms.ContentInfo.load(base64.b64decode(header))["content"]
    return bytes(data["certificates"][0].chosen.dump())


@functools.cache
def ca() -> ThrowawayCA:
    """
    One root for all tests.
    """
    return ThrowawayCA.create()


@functools.cache
def device_key() -> rsa.RSAPrivateKey:
    """
    One RSA key for all devices that do not need their own.
    """
    return new_rsa_key()


@functools.cache
def identity(kind: str = "rsa") -> DeviceIdentity:
    """
    One identity for each kind of key: C{rsa}, C{other-rsa}, C{p256}, C{p384}.
    """
    curves = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1()}
    if kind in curves:
        return ca().issue(key=ec.generate_private_key(curves[kind]))
    return ca().issue(key=device_key() if kind == "rsa" else new_rsa_key())


def ed25519_key() -> ed25519.Ed25519PrivateKey:
    """
    A private key of a kind that nothing here uses.
    """
    return ed25519.Ed25519PrivateKey.generate()


def pem(key: PrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    """
    A private key as unencrypted PEM.
    """
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def with_key(identity: DeviceIdentity, key: CertificatePublicKeyTypes) -> bytes:
    """
    The DER of a certificate as an identity's, issuer and serial number
    included, for another key, and signed by nobody who matters.
    """
    certificate = asn1_x509.Certificate.load(identity.der)
    info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    certificate["tbs_certificate"]["subject_public_key_info"] = keys.PublicKeyInfo.load(info)
    return bytes(certificate.dump(force=True))


def issuer(identity: DeviceIdentity) -> bytes:
    """
    The DER of the issuer's name.
    """
    return identity.certificate.issuer.public_bytes()


def signing_time() -> cms.Time:
    """
    Some value for the attribute signingTime.
    """
    return cms.Time({"utc_time": datetime(2026, 11, 20, tzinfo=UTC)})


def revocations() -> crl.CertificateList:
    """
    An empty revocation list.
    """
    start = datetime(2026, 11, 20, tzinfo=UTC)
    builder = x509.CertificateRevocationListBuilder(
        ca().certificate.subject, start, start + timedelta(days=1)
    )
    signed = builder.sign(ca().key, hashes.SHA256())
    return crl.CertificateList.load(signed.public_bytes(Encoding.DER))


def sign_raw(identity: DeviceIdentity, data: bytes, digest: str) -> bytes:
    """
    A bare signature over some bytes.
    """
    if isinstance(identity.key, rsa.RSAPrivateKey):
        return identity.key.sign(data, padding.PKCS1v15(), HASHES[digest])
    return identity.key.sign(data, ec.ECDSA(HASHES[digest]))


def algorithm(identity: DeviceIdentity, digest: str, plain_rsa: bool = False) -> str:
    """
    C{asn1crypto}'s name of a signature algorithm.
    """
    if isinstance(identity.key, rsa.RSAPrivateKey):
        return "rsassa_pkcs1v15" if plain_rsa else f"{digest}_rsa"
    return f"{digest}_ecdsa"


def signer_info(
    identity: DeviceIdentity,
    body: bytes = BODY,
    digest: str = "sha256",
    attributes: bool = True,
    plain_rsa: bool = False,
    key_identifier: bool = False,
    attribute_list: list[dict[str, object]] | None = None,
) -> cms.SignerInfo:
    """
    A SignerInfo.

    @param attribute_list: signed attributes instead of the usual two.
    """
    if attributes and attribute_list is None:
        attribute_list = usual_attributes(hashlib.new(digest, body).digest())
    info = cms.SignerInfo(
        {
            "version": "v3" if key_identifier else "v1",
            "sid": _identifier(identity, key_identifier),
            "digest_algorithm": {"algorithm": digest, "parameters": core.Null()},
            "signature_algorithm": {"algorithm": algorithm(identity, digest, plain_rsa)},
            "signature": b"",
        }
    )
    if isinstance(identity.key, rsa.RSAPrivateKey):
        info["signature_algorithm"]["parameters"] = core.Null()
    signed = body
    if attribute_list is not None:
        info["signed_attrs"] = cms.CMSAttributes(attribute_list)
        signed = info["signed_attrs"].untag().dump(force=True)
    info["signature"] = sign_raw(identity, signed, digest)
    return info


def usual_attributes(digest: bytes) -> list[dict[str, object]]:
    """
    The two signed attributes that there must be.
    """
    return [
        {"type": "content_type", "values": ["data"]},
        {"type": "message_digest", "values": [digest]},
    ]


def _identifier(identity: DeviceIdentity, key_identifier: bool) -> cms.SignerIdentifier:
    certificate = asn1_x509.Certificate.load(identity.der)
    if key_identifier:
        return cms.SignerIdentifier("subject_key_identifier", certificate.key_identifier)
    serial = {"issuer": certificate.issuer, "serial_number": certificate.serial_number}
    return cms.SignerIdentifier("issuer_and_serial_number", serial)


def signed_data(
    signers: Sequence[cms.SignerInfo],
    certificates: Sequence[bytes],
    content: bytes | None = None,
) -> cms.ContentInfo:
    """
    A ContentInfo around SignerInfos.
    """
    digests = [signer["digest_algorithm"].copy() for signer in signers[:1]]
    data = cms.SignedData(
        {
            "version": signers[0]["version"].native if signers else "v1",
            "digest_algorithms": digests,
            "encap_content_info": {"content_type": "data"},
            "certificates": [
                cms.CertificateChoices("certificate", asn1_x509.Certificate.load(certificate))
                for certificate in certificates
            ],
            "signer_infos": list(signers),
        }
    )
    if content is not None:
        data["encap_content_info"]["content"] = content
    return cms.ContentInfo({"content_type": "signed_data", "content": data})


def signed(identity: DeviceIdentity, body: bytes = BODY, **options: object) -> bytes:
    """
    The DER of a whole detached signature; C{options} are those of
    L{signer_info}.
    """
    info = signer_info(identity, body, **options)  # type: ignore[arg-type]
    return signed_data([info], [identity.der]).dump()


def to_ber(der: bytes, keep: Sequence[bytes] = ()) -> bytes:
    """
    Write DER with indefinite lengths wherever something is constructed.

    @param keep: encodings that stay as they are.
    """
    if der in keep:
        return der
    _, constructed, _, header, content, _ = parser.parse(der)
    if not constructed:
        return der
    inside = b"".join(to_ber(part, keep) for part in split(content))
    return header[:1] + b"\x80" + inside + b"\0\0"


def split(content: bytes) -> list[bytes]:
    """
    The encodings that follow each other in some contents octets.
    """
    parts = []
    while content:
        size = parser.peek(content)
        parts.append(content[:size])
        content = content[size:]
    return parts


def members(data: bytes) -> list[bytes]:
    """
    The encodings inside a constructed element.
    """
    return split(parser.parse(data)[4])


def kept(identity: DeviceIdentity) -> list[bytes]:
    """
    What a BER signature contains as DER here: the certificate, which nobody
    writes otherwise, and the signer's identifier, since C{asn1crypto} can not
    read a CHOICE of indefinite length.
    """
    return [identity.der, _identifier(identity, False).dump()]


def header(structure: bytes) -> bytes:
    """
    The header's value for a CMS structure.
    """
    return base64.b64encode(structure)


def oracle(structure: bytes, body: bytes) -> bytes | None:
    """
    Verify with C{asn1crypto}'s idea of a structure, as loosely as the format
    allows.

    @return: the signer's certificate, or L{None} when nothing verifies.
    """
    try:
        data = cms.ContentInfo.load(structure)["content"]
        (info,) = data["signer_infos"]
        digest = info["digest_algorithm"]["algorithm"].native
        covered = body
        if len(info["signed_attrs"]):
            attributes = {a["type"].native: a["values"].native for a in info["signed_attrs"]}
            if attributes["message_digest"] != [hashlib.new(digest, body).digest()]:
                return None
            covered = info["signed_attrs"].untag().dump(force=True)
        for choice in data["certificates"]:
            der = choice.chosen.dump()
            if _named_by(info["sid"], choice.chosen):
                _check_raw(der, info["signature"].native, covered, digest)
                return der
    except (ValueError, TypeError, KeyError, InvalidSignature):
        pass
    return None


def _named_by(sid: cms.SignerIdentifier, certificate: asn1_x509.Certificate) -> bool:
    if sid.name == "subject_key_identifier":
        return bool(sid.chosen.native == certificate.key_identifier)
    same_issuer = sid.chosen["issuer"].dump() == certificate.issuer.dump()
    return bool(same_issuer and sid.chosen["serial_number"].native == certificate.serial_number)


def _check_raw(der: bytes, signature: bytes, data: bytes, digest: str) -> None:
    key = x509.load_der_x509_certificate(der).public_key()
    if isinstance(key, rsa.RSAPublicKey):
        key.verify(signature, data, padding.PKCS1v15(), HASHES[digest])
    elif isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, data, ec.ECDSA(HASHES[digest]))
    else:
        raise TypeError("another kind of key")


def flips(data: bytes, step: int = 1) -> list[tuple[int, int, bytes]]:
    """
    C{data} with one bit changed: each bit of each C{step}th byte.

    @return: position, bit number, changed bytes.
    """
    changed = []
    for position in range(0, len(data), step):
        for bit in range(8):
            copy = bytearray(data)
            copy[position] ^= 1 << bit
            changed.append((position, bit, bytes(copy)))
    return changed
