"""
Push certificates: what Apple's Push Certificates Portal issues, with its key.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final

from attrs import field, frozen
from cryptography import x509
from cryptography.exceptions import InternalError, InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)
from cryptography.x509.oid import NameOID

from nanomdm.crypto.certificates import UNUSABLE, parse_certificate
from nanomdm.errors import MessageError

MAX_SIZE: Final = (64 << 10) - 1
"""
Bytes of PEM that are looked at, and that a L{PushCertificate} can have: as many
as the column of any database holds.
"""

WARNING_DAYS: Final = 30
"""
Days before its end from which on a push certificate is to be renewed.
"""

_PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

# What can come of using a key whose numbers do not belong together.
_USELESS: Final = (*UNUSABLE, OverflowError, InternalError, InvalidSignature)

# Longer ones, which nobody has, would take too long to be tried.
_MAX_RSA_BITS: Final = 8192

_MARK: Final = re.compile(rb"-----(BEGIN|END) ([A-Z0-9 ]{1,64})-----")
_CERTIFICATES: Final = ("CERTIFICATE", "X509 CERTIFICATE")
_WHITESPACE: Final = b" \t\r\n"

# It becomes the header apns-topic.
_TOPIC: Final = re.compile(r"com\.apple\.mgmt[!-~]*")


@frozen
class PushCertificate:
    """
    A push certificate with the private key that belongs to it.

    @ivar topic: whom it can push for: the UID in its subject.
    @ivar not_after: the end of its validity, in UTC.
    @ivar certificate_pem: the certificate, and behind it any others that came
        along, such as intermediates.
    @ivar key_pem: its private key, unencrypted PKCS#8.
    """

    topic: str
    not_after: datetime
    certificate_pem: str = field(repr=False)
    key_pem: str = field(repr=False)


def utc_text(moment: datetime) -> str:
    """
    @param moment: in UTC.
    @return: such as C{2027-01-07T04:04:46Z} (RFC 3339), as Go prints times.
    """
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def parse_push_certificate(pem: bytes) -> PushCertificate:
    """
    Read a push certificate and its unencrypted private key (PKCS#1, PKCS#8 or
    SEC 1) in any order.  Text around them, further certificates and other kinds
    of PEM blocks do no harm.  Whether the certificate is still valid, and who
    issued it, is not looked at: APNs decides.

    @param pem: at most L{MAX_SIZE} bytes.
    @raise MessageError: they are not in there, or do not belong together; the
        text says what is wrong and nothing of the key.
    """
    _check_size(len(pem))
    blocks = _blocks(pem)
    certificates = _certificates([body for label, body in blocks if label in _CERTIFICATES])
    key = _key([(label, body) for label, body in blocks if label.endswith("PRIVATE KEY")])
    leaf = _leaf(certificates, key)
    _try(key)
    result = PushCertificate(
        _topic(leaf),
        _end(leaf),
        "".join(_pem(one) for one in [leaf, *(one for one in certificates if one is not leaf)]),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
    )
    # Line ends may have been added.
    _check_size(len(result.certificate_pem) + len(result.key_pem))
    return result


def parse_stored_certificate(topic: str, certificate_pem: str, key_pem: str) -> PushCertificate:
    """
    Read what a storage has as a topic's certificate.

    @raise MessageError: NanoMDM, or who else wrote it, stored something else.
    """
    certificate = parse_push_certificate((certificate_pem + key_pem).encode())
    if certificate.topic != topic:
        raise MessageError(f"it is for topic {certificate.topic}")
    return certificate


def end_without_key(topic: str, certificate_pem: str) -> datetime:
    """
    @param certificate_pem: what a storage has as a topic's certificate, when its key can
        not be had.
    @return: the end of its validity, in UTC.
    @raise MessageError: none of the certificates in there is for this topic.
    """
    pem = certificate_pem.encode()
    _check_size(len(pem))
    for one in _certificates([body for label, body in _blocks(pem) if label in _CERTIFICATES]):
        # Intermediates have no topic.
        with suppress(MessageError):
            if _topic(one) == topic:
                return _end(one)
    raise MessageError("there is no certificate for this topic")


def _check_size(size: int) -> None:
    if size > MAX_SIZE:
        raise MessageError(f"there are more than {MAX_SIZE} bytes")


def _blocks(pem: bytes) -> list[tuple[str, bytes]]:
    """
    Take PEM (RFC 7468) apart: what is between each BEGIN and its END.
    """
    blocks = []
    begin: re.Match[bytes] | None = None
    for mark in _MARK.finditer(pem):
        label = mark[2].decode()
        if mark[1] == b"BEGIN":
            if begin is not None:
                break
            begin = mark
        elif begin is None or begin[2] != mark[2]:
            raise MessageError(f"malformed PEM: END {label} without its BEGIN")
        else:
            blocks.append((label, pem[begin.end() : mark.start()]))
            begin = None
    if begin is not None:
        raise MessageError(f"malformed PEM: BEGIN {begin[2].decode()} without its END")
    return blocks


def _der(body: bytes) -> bytes:
    """
    @raise ValueError: it is not base64.
    """
    return base64.b64decode(body.translate(None, _WHITESPACE), validate=True)


def _certificates(bodies: Sequence[bytes]) -> list[x509.Certificate]:
    """
    Each certificate once.
    """
    if not bodies:
        raise MessageError("there is no certificate")
    try:
        return [parse_certificate(der) for der in dict.fromkeys(map(_der, bodies))]
    except ValueError:
        raise MessageError("malformed certificate") from None


def _key(blocks: Sequence[tuple[str, bytes]]) -> _PrivateKey:
    if not blocks:
        raise MessageError("there is no private key")
    # The older way tells in a header, Proc-Type (RFC 1421 section 4.6.1.1).
    if any(label.startswith("ENCRYPTED") or b"4,ENCRYPTED" in body for label, body in blocks):
        raise MessageError("the private key is encrypted: decrypt it first")
    if len(blocks) > 1:
        raise MessageError("there are several private keys")
    key = _load_key(blocks[0][1])
    if not isinstance(key, _PrivateKey):
        raise MessageError("the private key is neither RSA nor EC")
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size > _MAX_RSA_BITS:
        raise MessageError(f"the private key has more than {_MAX_RSA_BITS} bits")
    return key


def _load_key(body: bytes) -> object:
    # Validating an RSA key would stop all threads for 30 to 200 ms: it is tried
    # instead.  Whatever an error says of a key is not passed on.
    try:
        return load_der_private_key(_der(body), None, unsafe_skip_rsa_key_validation=True)
    except TypeError:
        raise MessageError("the private key is encrypted: decrypt it first") from None
    except _USELESS:
        raise MessageError("malformed private key, or not of a supported kind") from None


def _leaf(certificates: Sequence[x509.Certificate], key: _PrivateKey) -> x509.Certificate:
    wanted = _spki(key.public_key())
    matching = [one for one in certificates if _public_key(one) == wanted]
    if not matching:
        raise MessageError("the certificate and the private key do not belong together")
    if len(matching) > 1:
        raise MessageError("there are several certificates for the private key")
    return matching[0]


def _public_key(certificate: x509.Certificate) -> bytes | None:
    try:
        key = certificate.public_key()
        return _spki(key) if isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey) else None
    except _USELESS:
        return None


def _spki(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _try(key: _PrivateKey) -> None:
    """
    Sign something and verify it.
    """
    try:
        if isinstance(key, rsa.RSAPrivateKey):
            signature = key.sign(b"", padding.PKCS1v15(), SHA256())
            key.public_key().verify(signature, b"", padding.PKCS1v15(), SHA256())
        else:
            signature = key.sign(b"", ec.ECDSA(SHA256()))
            key.public_key().verify(signature, b"", ec.ECDSA(SHA256()))
    except _USELESS:
        raise MessageError("malformed private key: it does not sign") from None


def _topic(certificate: x509.Certificate) -> str:
    try:
        names = certificate.subject.get_attributes_for_oid(NameOID.USER_ID)
    except UNUSABLE:
        raise MessageError("malformed certificate: its subject can not be read") from None
    if not names:
        raise MessageError("no push certificate: there is no topic (UID) in its subject")
    if len(names) > 1:
        raise MessageError("no push certificate: there are several topics (UID) in its subject")
    topic = names[0].value
    if not isinstance(topic, str) or not _TOPIC.fullmatch(topic):
        shown = ascii(topic)[:100]
        raise MessageError(
            f"no MDM push certificate: its topic is {shown}, which does not begin with"
            " com.apple.mgmt or has characters that no topic has"
        )
    return topic


def _end(certificate: x509.Certificate) -> datetime:
    try:
        return certificate.not_valid_after_utc
    except UNUSABLE:
        raise MessageError("malformed certificate: its validity can not be read") from None


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()
