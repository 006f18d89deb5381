"""
Detached CMS signatures (RFC 5652) in the forms that devices send.

Everything that is read is checked and everything that is not understood is
refused.  A changed header is a refused header, or one that says the same of
the same body: the other value of an ECDSA signature, another name of RSA.

What it costs to refuse a header is bounded as well, since nothing is known of
its sender before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from attrs import frozen
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import PublicKeyAlgorithmOID

from nanomdm.cache import LRUCache
from nanomdm.crypto import ber
from nanomdm.crypto.ber import BERError, Element
from nanomdm.crypto.certificates import CURVE_ORDERS, UNUSABLE, parse_certificate
from nanomdm.crypto.chain import ChainVerifier
from nanomdm.crypto.encoding import decode_base64
from nanomdm.crypto.identity import Identity
from nanomdm.errors import BadSignature

MAX_CMS = 256 << 10
"""
Bytes of a whole signature; devices send about 2,000, or tens of thousands with
the certificates of a chain.
"""

MAX_CERTIFICATES = 8
"""
How many certificates may be embedded.
"""

MAX_RSA_BITS = 8192
"""
A larger RSA key is refused: it is the sender who picks the key, and the time
to verify grows with its square.
"""

MAX_RSA_EXPONENT = (1 << 32) - 1
"""
A larger public exponent is refused: the time to verify grows with its bits.
"""

# Contents octets of object identifiers.
_SIGNED_DATA = bytes.fromhex("2a864886f70d010702")
_DATA = bytes.fromhex("2a864886f70d010701")
_SUBJECT_KEY_IDENTIFIER = bytes.fromhex("551d0e")
_CONTENT_TYPE = bytes.fromhex("2a864886f70d010903")
_MESSAGE_DIGEST = bytes.fromhex("2a864886f70d010904")

_DIGESTS: dict[bytes, hashes.HashAlgorithm] = {
    bytes.fromhex("2b0e03021a"): hashes.SHA1(),
    bytes.fromhex("608648016503040204"): hashes.SHA224(),
    bytes.fromhex("608648016503040201"): hashes.SHA256(),
    bytes.fromhex("608648016503040202"): hashes.SHA384(),
    bytes.fromhex("608648016503040203"): hashes.SHA512(),
}

_RSA = bytes.fromhex("2a864886f70d010101")
_WITH_RSA = {
    "sha1": bytes.fromhex("2a864886f70d010105"),
    "sha224": bytes.fromhex("2a864886f70d01010e"),
    "sha256": bytes.fromhex("2a864886f70d01010b"),
    "sha384": bytes.fromhex("2a864886f70d01010c"),
    "sha512": bytes.fromhex("2a864886f70d01010d"),
}
_WITH_ECDSA = {
    "sha1": bytes.fromhex("2a8648ce3d0401"),
    "sha224": bytes.fromhex("2a8648ce3d040301"),
    "sha256": bytes.fromhex("2a8648ce3d040302"),
    "sha384": bytes.fromhex("2a8648ce3d040303"),
    "sha512": bytes.fromhex("2a8648ce3d040304"),
}
_KEY_ALGORITHMS = {PublicKeyAlgorithmOID.RSAES_PKCS1_v1_5, PublicKeyAlgorithmOID.EC_PUBLIC_KEY}


@frozen
class _Algorithm:
    """
    An AlgorithmIdentifier: the identifier's contents octets, and whether NULL
    parameters stand there.
    """

    oid: bytes
    null: bool


@frozen
class _Signer:
    """
    A SignerInfo (RFC 5652 section 5.3).
    """

    version: bytes
    identifier: Element
    digest: _Algorithm
    attributes: Element | None
    algorithm: _Algorithm
    signature: bytes


class SignatureVerifier:
    """
    Verifies C{Mdm-Signature} headers and remembers the good ones: a device's
    C{Idle} request is byte for byte the same each time.  Threads may share one.

    Only requests of trusted senders are remembered, so that nobody else can
    fill the memory, or push out what is in use.

    @param size: how many good (header, body) pairs are remembered, at about
        0.3 KiB each besides a sender's certificate, which all of its requests
        share with what L{ChainVerifier} remembers.
    """

    def __init__(self, size: int = 8192) -> None:
        self._verified: LRUCache[bytes, bytes] = LRUCache(size)

    def verify(self, header: bytes, body: bytes, chains: ChainVerifier) -> Identity:
        """
        Verify a header over a body, and its signer's certificate.

        @param header: the value of C{Mdm-Signature}.
        @param body: the raw request body.
        @param chains: which certificates are trusted; asked each time.
        @raise BadSignature: the header does not sign the body.
        @raise UntrustedCertificate: the signer's certificate is not trusted.
        """
        both = hashlib.sha256(len(header).to_bytes(8, "big"))
        both.update(header)
        both.update(body)
        key = both.digest()
        certificate = self._verified.get(key)
        if certificate is not None:
            return chains.verify(certificate)
        identity = chains.verify(verify_detached(decode_header(header), body))
        self._verified.put(key, identity.der)
        return identity


def decode_header(value: bytes) -> bytes:
    """
    The CMS structure in the value of C{Mdm-Signature}.

    @param value: canonical base64, blanks and line breaks aside, of at most
        L{encoding.MAX_HEADER<nanomdm.crypto.encoding.MAX_HEADER>} bytes that
        decode to at most L{MAX_CMS}.
    @raise BadSignature: it is something else.
    """
    try:
        return decode_base64(value, MAX_CMS)
    except ValueError as error:
        raise BadSignature(f"Mdm-Signature is not base64: {error}") from error


def verify_detached(cms: bytes, body: bytes) -> bytes:
    """
    Verify a detached SignedData, BER or DER, with exactly one signer whose
    certificate is embedded.  The digest is SHA-1 or one of the SHA-2 family,
    the signature RSA PKCS #1 v1.5 or ECDSA, over the body or over signed
    attributes (RFC 5652 section 5.4).

    @param cms: the ContentInfo.
    @param body: the signed content.
    @return: the DER of the signer's certificate, not checked any further.
    @raise BadSignature: C{cms} is not in that form or does not sign C{body}.
    """
    try:
        signer, certificates = _read_signed_data(ber.parse(cms))
        embedded = _signer_certificate(signer, certificates)
        _verify(signer, embedded, body)
    except BERError as error:
        raise BadSignature(f"the signature is not readable BER: {error}") from error
    return embedded


def _read_signed_data(content_info: Element) -> tuple[_Signer, list[Element]]:
    """
    Take ContentInfo and SignedData apart (RFC 5652 sections 3 and 5.1).

    @return: the only signer and the embedded certificates.
    """
    kind, wrapper = _fields(content_info, ber.SEQUENCE, "ContentInfo", 2)
    _require(kind.tag == ber.OBJECT_IDENTIFIER and kind.content == _SIGNED_DATA, "content type")
    (signed_data,) = _fields(wrapper, ber.CONTEXT_0, "ContentInfo content", 1)
    version, digests, content, certificates, signers = _fields(
        signed_data, ber.SEQUENCE, "SignedData", 5
    )
    _read_content(content)
    _require(certificates.tag == ber.CONTEXT_0, "certificates")
    (signer_info,) = _fields(signers, ber.SET, "signerInfos", 1)
    signer = _read_signer(signer_info)
    # Section 5.1 derives the one version from the other for content of type data.
    _require(version.tag == ber.INTEGER and version.content == signer.version, "version")
    (digest,) = _fields(digests, ber.SET, "digestAlgorithms", 1)
    _require(_read_algorithm(digest).oid == signer.digest.oid, "digestAlgorithms")
    return signer, certificates.children


def _read_content(content: Element) -> None:
    """
    Check that an EncapsulatedContentInfo means data that is elsewhere.
    """
    _require(content.tag == ber.SEQUENCE, "encapContentInfo")
    fields = content.children
    if len(fields) > 1:
        raise BadSignature("the signature is not detached: it has content of its own")
    (kind,) = _fields(content, ber.SEQUENCE, "encapContentInfo", 1)
    _require(kind.tag == ber.OBJECT_IDENTIFIER and kind.content == _DATA, "eContentType")


def _read_signer(signer_info: Element) -> _Signer:
    fields = list(_fields(signer_info, ber.SEQUENCE, "SignerInfo", 5, 6))
    attributes = fields.pop(3) if len(fields) > 5 else None
    _require(attributes is None or attributes.tag == ber.CONTEXT_0, "signed attributes")
    version, identifier, digest, algorithm, signature = fields
    expected = {ber.SEQUENCE: b"\x01", ber.CONTEXT_0_PRIMITIVE: b"\x03"}.get(identifier.tag)
    _require(expected is not None, "signer identifier")
    _require(version.tag == ber.INTEGER and version.content == expected, "SignerInfo version")
    _require(signature.tag == ber.OCTET_STRING, "signature value")
    return _Signer(
        version.content,
        identifier,
        _read_algorithm(digest),
        attributes,
        _read_algorithm(algorithm),
        signature.content,
    )


def _read_algorithm(identifier: Element) -> _Algorithm:
    fields = _fields(identifier, ber.SEQUENCE, "algorithm", 1, 2)
    _require(fields[0].tag == ber.OBJECT_IDENTIFIER, "algorithm")
    null = len(fields) > 1
    _require(not null or fields[1].encoded == b"\x05\0", "algorithm parameters")
    return _Algorithm(fields[0].content, null)


def _signer_certificate(signer: _Signer, certificates: Sequence[Element]) -> bytes:
    """
    The DER of the embedded certificate that the signer identifier names.
    """
    if len(certificates) > MAX_CERTIFICATES:
        raise BadSignature(f"more than {MAX_CERTIFICATES} embedded certificates")
    matches = _has_serial if signer.identifier.tag == ber.SEQUENCE else _has_key_identifier
    for certificate in certificates:
        if matches(certificate, signer.identifier):
            return certificate.encoded
    raise BadSignature("no embedded certificate is the signer's")


def _has_serial(certificate: Element, identifier: Element) -> bool:
    """
    Compare a certificate with an IssuerAndSerialNumber.
    """
    issuer, serial = _fields(identifier, ber.SEQUENCE, "issuerAndSerialNumber", 2)
    fields = _fields(certificate, ber.SEQUENCE, "certificate", 3)[0].children
    # TBSCertificate: [0] version, serialNumber, signature, issuer, ...
    first = 1 if fields and fields[0].tag == ber.CONTEXT_0 else 0
    _require(len(fields) > first + 2, "certificate")
    return fields[first].encoded == serial.encoded and fields[first + 2].encoded == issuer.encoded


def _has_key_identifier(certificate: Element, identifier: Element) -> bool:
    """
    Compare a certificate's subjectKeyIdentifier extension with the signer's.
    """
    wanted = ber.encode(ber.OCTET_STRING, identifier.content)
    to_be_signed = _fields(certificate, ber.SEQUENCE, "certificate", 3)[0]
    # TBSCertificate ends with the only member of this tag, [3] extensions.
    for member in to_be_signed.children:
        if member.tag == ber.CONTEXT_3:
            for extension in _fields(member, ber.CONTEXT_3, "certificate", 1)[0].children:
                fields = _fields(extension, ber.SEQUENCE, "certificate", 2, 3)
                if fields[0].content == _SUBJECT_KEY_IDENTIFIER:
                    return fields[-1].content == wanted
    return False


def _verify(signer: _Signer, certificate: bytes, body: bytes) -> None:
    """
    Check the signature with the certificate's key.
    """
    digest = _DIGESTS.get(signer.digest.oid)
    if digest is None:
        raise BadSignature(f"unsupported digest algorithm {signer.digest.oid[:16].hex()}")
    signed = body
    if signer.attributes is not None:
        _check_attributes(signer.attributes, hashlib.new(digest.name, body).digest())
        signed = ber.to_der(signer.attributes, ber.SET)
    try:
        key = _public_key(certificate)
        if isinstance(key, rsa.RSAPublicKey):
            _verify_rsa(key, signer, digest, signed)
        else:
            _verify_ecdsa(key, signer, digest, signed)
    except InvalidSignature as error:
        raise BadSignature("the signature does not match the body") from error
    except UNUSABLE as error:
        raise BadSignature(f"the signer's certificate is unusable: {error}") from error


def _public_key(der: bytes) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
    """
    The key in a certificate.  Keys of other kinds are not read, as some take
    long.
    """
    certificate = parse_certificate(der)
    if certificate.public_key_algorithm_oid in _KEY_ALGORITHMS:
        key = certificate.public_key()
        if isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
            return key
    raise BadSignature("the signer's key is neither RSA nor EC")


def _verify_rsa(
    key: rsa.RSAPublicKey, signer: _Signer, digest: hashes.HashAlgorithm, signed: bytes
) -> None:
    if signer.algorithm.oid not in (_RSA, _WITH_RSA[digest.name]):
        raise BadSignature("the signature algorithm does not fit the RSA key or the digest")
    if key.key_size > MAX_RSA_BITS:
        raise BadSignature(f"the signer's RSA key has more than {MAX_RSA_BITS} bits")
    if key.public_numbers().e > MAX_RSA_EXPONENT:
        raise BadSignature(f"the signer's RSA exponent is above {MAX_RSA_EXPONENT}")
    key.verify(signer.signature, signed, padding.PKCS1v15(), digest)


def _verify_ecdsa(
    key: ec.EllipticCurvePublicKey, signer: _Signer, digest: hashes.HashAlgorithm, signed: bytes
) -> None:
    # RFC 5754 section 3.3: the parameters must be absent.
    if signer.algorithm != _Algorithm(_WITH_ECDSA[digest.name], False):
        raise BadSignature("the signature algorithm does not fit the EC key or the digest")
    if key.curve.name not in CURVE_ORDERS:
        raise BadSignature(f"unsupported curve {key.curve.name}")
    key.verify(signer.signature, signed, ec.ECDSA(digest))


def _check_attributes(attributes: Element, digest: bytes) -> None:
    """
    Check the attributes that must be signed (RFC 5652 section 11): the content
    type and the digest of the content, each once and with one value.
    """
    found: dict[bytes, list[Element]] = {_CONTENT_TYPE: [], _MESSAGE_DIGEST: []}
    for attribute in attributes.children:
        kind, values = _fields(attribute, ber.SEQUENCE, "attribute", 2)
        _require(kind.tag == ber.OBJECT_IDENTIFIER and values.tag == ber.SET, "attribute")
        if kind.content in found:
            found[kind.content] += _fields(values, ber.SET, "attribute", 1)
    content_types = [(value.tag, value.content) for value in found[_CONTENT_TYPE]]
    _require(content_types == [(ber.OBJECT_IDENTIFIER, _DATA)], "contentType attribute")
    digests = [(value.tag, value.content) for value in found[_MESSAGE_DIGEST]]
    if digests != [(ber.OCTET_STRING, digest)]:
        raise BadSignature("the messageDigest attribute is not the body's digest")


def _fields(element: Element, tag: int, what: str, *counts: int) -> list[Element]:
    """
    The members of an element that must have this tag and so many members.
    """
    _require(element.tag == tag, what)
    fields = element.children
    _require(len(fields) in counts, what)
    return fields


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise BadSignature(f"the signature has an unexpected {what}")
