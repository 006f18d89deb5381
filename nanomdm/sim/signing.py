"""
The value of C{Mdm-Signature} as devices write it.
"""

from __future__ import annotations

import base64
from typing import Literal

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.hazmat.primitives.serialization.pkcs7 import (
    PKCS7HashTypes,
    PKCS7Options,
    PKCS7SignatureBuilder,
)

from nanomdm.sim.ca import DeviceIdentity

_DIGESTS: dict[str, PKCS7HashTypes] = {
    "sha224": hashes.SHA224(),
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}

_SEQUENCE = 0x30
_SET = 0x31
_INTEGER = 0x02
_OCTET_STRING = 0x04
_CONTEXT_0 = 0xA0

# Object identifiers, whole TLVs: signed-data and data of PKCS #7; SHA-1 and
# sha1WithRSAEncryption as algorithm identifiers with NULL parameters.
_SIGNED_DATA = bytes.fromhex("06092a864886f70d010702")
_DATA = bytes.fromhex("06092a864886f70d010701")
_SHA1 = bytes.fromhex("300906052b0e03021a0500")
_SHA1_WITH_RSA = bytes.fromhex("300d06092a864886f70d0101050500")
_VERSION_1 = bytes.fromhex("020101")


def sign_like_device(identity: DeviceIdentity, body: bytes) -> bytes:
    """
    Sign as Apple's devices do: a detached CMS SignedData (RFC 5652) in BER
    with indefinite lengths, SHA-1, RSA PKCS #1 v1.5, no signed attributes, one
    embedded certificate named by issuer and serial number.

    @param identity: the device's key, which must be RSA, and certificate.
    @param body: the raw request body.
    @return: the header's value, base64 without line breaks.
    @raise TypeError: the identity's key is not RSA.
    """
    if not isinstance(identity.key, rsa.RSAPrivateKey):
        raise TypeError("devices sign in this form with RSA keys only")
    signature = identity.key.sign(body, padding.PKCS1v15(), hashes.SHA1())
    signer_info = _tlv(
        _SEQUENCE,
        _VERSION_1,
        _issuer_and_serial(identity),
        _SHA1,
        _SHA1_WITH_RSA,
        _tlv(_OCTET_STRING, signature),
    )
    signed_data = _indefinite(
        _SEQUENCE,
        _VERSION_1,
        _tlv(_SET, _SHA1),
        _indefinite(_SEQUENCE, _DATA),
        _tlv(_CONTEXT_0, identity.der),
        _tlv(_SET, signer_info),
    )
    content_info = _indefinite(_SEQUENCE, _SIGNED_DATA, _indefinite(_CONTEXT_0, signed_data))
    return base64.b64encode(content_info)


def sign_modern(
    identity: DeviceIdentity,
    body: bytes,
    digest: Literal["sha224", "sha256", "sha384", "sha512"] = "sha256",
    attributes: bool = True,
) -> bytes:
    """
    Sign as newer agents do: a detached CMS SignedData in DER.

    @param identity: the signer's key, RSA or EC, and certificate.
    @param body: the raw request body.
    @param digest: name of the digest algorithm.
    @param attributes: with signed attributes, or the signature directly over
        the body.
    @return: the header's value, base64 without line breaks.
    """
    options = [PKCS7Options.Binary, PKCS7Options.DetachedSignature]
    options.append(PKCS7Options.NoCapabilities if attributes else PKCS7Options.NoAttributes)
    builder = PKCS7SignatureBuilder().set_data(body)
    builder = builder.add_signer(identity.certificate, identity.key, _DIGESTS[digest])
    return base64.b64encode(builder.sign(Encoding.DER, options))


def _issuer_and_serial(identity: DeviceIdentity) -> bytes:
    serial = identity.certificate.serial_number
    number = serial.to_bytes(serial.bit_length() // 8 + 1, "big")
    return _tlv(_SEQUENCE, identity.certificate.issuer.public_bytes(), _tlv(_INTEGER, number))


def _tlv(tag: int, *content: bytes) -> bytes:
    value = b"".join(content)
    if len(value) < 0x80:
        return bytes([tag, len(value)]) + value
    length = len(value).to_bytes((len(value).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + value


def _indefinite(tag: int, *content: bytes) -> bytes:
    return bytes([tag, 0x80]) + b"".join(content) + b"\0\0"
