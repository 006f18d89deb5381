"""
Whether a certificate chains to a trusted root as a client certificate.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from os import PathLike

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from nanomdm.cache import LRUCache
from nanomdm.crypto import ber
from nanomdm.crypto.certificates import UNUSABLE, parse_certificate, twin_of
from nanomdm.crypto.identity import Identity
from nanomdm.errors import ConfigError, UntrustedCertificate

_CLIENT_PURPOSES = {
    ExtendedKeyUsageOID.CLIENT_AUTH,
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
}


@frozen
class _Trusted:
    """
    A verified identity and the time in which nothing about it changes, both
    ends included.
    """

    identity: Identity
    start: datetime
    end: datetime


class ChainVerifier:
    """
    Verifies device certificates against trusted roots, and remembers the good
    ones for as long as their whole chain is valid.  Threads may share one.

    A path is built and checked as RFC 5280 section 6 says, except for names:
    device certificates usually have an empty subject and no alternative name.

    @param roots: the trust anchors, at least one.
    @param intermediates: CA certificates that may stand between.
    @param expired_grace_days: days for which a device's certificate is still
        accepted after its end, marked as expired.
    @param now: the time, with a time zone.
    @param size: how many certificates are remembered, good ones only: about
        2.5 KiB each, and never more than 20.
    """

    def __init__(
        self,
        roots: Sequence[x509.Certificate],
        intermediates: Sequence[x509.Certificate] = (),
        expired_grace_days: float = 0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        size: int = 16384,
    ) -> None:
        self._anchors = {root.public_bytes(Encoding.DER) for root in roots}
        self._intermediates = list(intermediates)
        self._grace = timedelta(days=expired_grace_days)
        self._now = now
        self._policy = (
            PolicyBuilder()
            .store(Store(list(roots)))
            .extension_policies(ca_policy=_ca_policy(), ee_policy=_device_policy())
        )
        self._trusted: LRUCache[str, _Trusted] = LRUCache(size)

    def verify(self, der: bytes) -> Identity:
        """
        Verify a certificate: it chains to a root over valid CA certificates,
        is inside its validity (or its grace), is no CA itself, and if it has
        an extended key usage, that includes clientAuth.

        There is one way to write a certificate, or two of which each names the
        other as its L{twin<Identity>}.

        @param der: the certificate's DER, of at most
            L{MAX_CERTIFICATE<nanomdm.crypto.certificates.MAX_CERTIFICATE>} bytes.
        @raise UntrustedCertificate: one of these does not hold.
        """
        sha256 = hashlib.sha256(der).hexdigest()
        now = self._now()
        known = self._trusted.get(sha256)
        if known is None or not known.start <= now <= known.end:
            known = self._check(der, now)
            self._trusted.put(sha256, known)
        return known.identity

    def _check(self, der: bytes, now: datetime) -> _Trusted:
        leaf = _parse(der)
        if der in self._anchors:
            raise UntrustedCertificate("a trusted root is no device identity")
        end = leaf.not_valid_after_utc
        expired = now > end and now - end <= self._grace
        # Only the device's own end is forgiven: the chain must have been good then.
        chain = self._chain(leaf, end if expired else now)
        try:
            twin = twin_of(leaf, der, issuer=chain[1])
        except ValueError as error:
            raise UntrustedCertificate(str(error)) from error
        identity = Identity.from_der(der, expired, twin)
        if expired:
            return _Trusted(identity, end + datetime.resolution, end + self._grace)
        return _Trusted(identity, *_window(chain))

    def _chain(self, leaf: x509.Certificate, when: datetime) -> list[x509.Certificate]:
        """
        The valid path from a leaf to a root.
        """
        if when > leaf.not_valid_after_utc:
            raise UntrustedCertificate(f"the certificate expired at {leaf.not_valid_after_utc}")
        verifier = self._policy.time(when).build_client_verifier()
        try:
            return verifier.verify(leaf, self._intermediates).chain
        except (VerificationError, *UNUSABLE) as error:
            raise UntrustedCertificate(
                f"{_describe(leaf)} is not trusted: {_reason(error)}"
            ) from error


def load_certificates(path: str | PathLike[str], option_name: str) -> list[x509.Certificate]:
    """
    Read the certificates of a PEM file.

    @param path: the file.
    @param option_name: the option that names it, for the error's text.
    @return: at least one certificate.
    @raise ConfigError: the file can not be read, holds no certificate, or one
        that can not be parsed.
    """
    where = f"{option_name}: {path}"
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ConfigError(f"{where}: {error.strerror or error}") from error
    if b"-----BEGIN CERTIFICATE-----" not in data:
        raise ConfigError(f"{where}: no PEM certificate in it")
    try:
        return x509.load_pem_x509_certificates(data)
    except UNUSABLE as error:
        raise ConfigError(f"{where}: unreadable certificate: {error}") from error


def _parse(der: bytes) -> x509.Certificate:
    try:
        certificate = parse_certificate(der)
        unused_bits = ber.parse(der).children[2].content[:1]
    except ValueError as error:
        raise UntrustedCertificate(str(error)) from error
    # Otherwise a certificate could be written in several ways, each with a hash
    # of its own: this octet is not signed, and ignored where signatures are checked.
    if unused_bits != b"\0":
        raise UntrustedCertificate("the certificate's signature has unused bits")
    return certificate


def _window(chain: Sequence[x509.Certificate]) -> tuple[datetime, datetime]:
    """
    The time in which each certificate of a chain is valid.
    """
    return (
        max(certificate.not_valid_before_utc for certificate in chain),
        min(certificate.not_valid_after_utc for certificate in chain),
    )


def _ca_policy() -> ExtensionPolicy:
    """
    What the extensions of an issuer must be.  That C{cA} is asserted and the
    path length kept is checked wherever basicConstraints are present.
    """
    either = Criticality.AGNOSTIC
    return (
        ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, either, None)
        .may_be_present(x509.KeyUsage, either, _check_signs_certificates)
        .may_be_present(x509.ExtendedKeyUsage, either, _check_purpose)
    )


def _device_policy() -> ExtensionPolicy:
    """
    What the extensions of a device's certificate must be.
    """
    either = Criticality.AGNOSTIC
    return (
        ExtensionPolicy.permit_all()
        .may_be_present(x509.BasicConstraints, either, _check_no_ca)
        .may_be_present(x509.ExtendedKeyUsage, either, _check_purpose)
    )


def _describe(leaf: x509.Certificate) -> str:
    try:
        subject, issuer = leaf.subject.rfc4514_string(), leaf.issuer.rfc4514_string()
        number = f"{leaf.serial_number:x}"
    except UNUSABLE:
        return "an unreadable certificate"
    return (
        f"the certificate with serial number {number}, subject {subject[:200]!r},"
        f" issued by {issuer[:200]!r}"
    )


def _reason(error: Exception) -> str:
    """
    What the library says, without what it wraps around it.
    """
    text = str(error)
    if "no interior errors" in text:
        return "its issuer is neither in --ca nor in --intermediate"
    text = re.sub(r"^.*(?:validation failed|candidates exhausted|ValueError): ", "", text)
    return text.split(" (encountered processing", 1)[0][:300]


def _check_signs_certificates(
    policy: Policy, certificate: x509.Certificate, usage: x509.KeyUsage | None
) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("an issuer's key usage does not include keyCertSign")


def _check_no_ca(
    policy: Policy, certificate: x509.Certificate, constraints: x509.BasicConstraints | None
) -> None:
    if constraints is not None and constraints.ca:
        raise ValueError("a CA certificate is no device identity")


def _check_purpose(
    policy: Policy, certificate: x509.Certificate, usage: x509.ExtendedKeyUsage | None
) -> None:
    if usage is not None and _CLIENT_PURPOSES.isdisjoint(usage):
        raise ValueError("the extended key usage does not include clientAuth")
