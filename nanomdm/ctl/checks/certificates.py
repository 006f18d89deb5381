"""
The CAs of device identities, and the server's own certificate.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from nanomdm.crypto.certificates import UNUSABLE
from nanomdm.crypto.chain import load_certificates
from nanomdm.ctl.checks.finding import Finding, Findings, fail, ok, validity, warn
from nanomdm.errors import ConfigError
from nanomdm.http.tls import TLSFiles, load_tls
from nanomdm.options import Settings

_NEW_CA: Final = "Add a new CA to the file in time, and restart the server."
_NO_CA: Final = "Devices are not accepted through it: take it out of the file."


def check_authorities(settings: Settings) -> Findings:
    """
    Look at C{--ca} and C{--intermediate}.
    """
    roots = yield from _read("ca", settings.ca)
    yield from _look_at("ca", roots)
    intermediates = yield from _read("intermediate", settings.intermediate)
    yield from _look_at("intermediate", intermediates)
    for certificate in intermediates:
        if not any(_issued(certificate, by) for by in (*roots, *intermediates)):
            yield warn(
                "intermediate",
                f"{_name(certificate)} was issued by none of these CAs",
                "Add its issuer to --ca or --intermediate.",
            )


def check_other_trust(settings: Settings) -> Findings:
    """
    Look at the files of further CAs.
    """
    for option in ("tls-client-ca", "apns-ca", "webhook-ca", "escrow-key-unlock-ca"):
        found = yield from _read(option, getattr(settings, option.replace("-", "_")))
        yield from _look_at(option, found)


def check_tls(settings: Settings) -> Findings:
    """
    Look at C{--tls-cert} and C{--tls-key}.
    """
    if settings.tls_cert is None:
        return
    try:
        load_tls(TLSFiles(settings.tls_cert, settings.tls_key))
        chain = load_certificates(settings.tls_cert, "--tls-cert")
    except ConfigError as error:
        yield fail("tls", str(error), "The server does not start with it.")
        return
    yield ok("tls", "certificate and private key belong together")
    for certificate in chain:
        yield _valid("tls", certificate, "Renew it; SIGHUP makes the server read it again.")
    leaf = chain[0]
    if not _has(leaf, x509.SubjectAlternativeName):
        yield fail("tls", f"{_name(leaf)} has no subject alternative name", "No device accepts it.")
    if leaf.issuer == leaf.subject:
        yield warn("tls", f"{_name(leaf)} is self-signed", "Devices must be told to trust it.")
    for certificate, issuer in itertools.pairwise(chain):
        if not _issued(certificate, issuer):
            yield fail(
                "tls",
                f"{_name(certificate)} was not issued by {_name(issuer)}, which follows it",
                "Behind the certificate its intermediates stand, each before its issuer.",
            )


def _read(option: str, path: Path | None) -> Generator[Finding, None, list[x509.Certificate]]:
    if path is None:
        return []
    try:
        return load_certificates(path, f"--{option}")
    except ConfigError as error:
        yield fail(option, str(error), "The server does not start with it.")
        return []


def _look_at(option: str, certificates: Sequence[x509.Certificate]) -> Findings:
    for certificate in certificates:
        yield _valid(option, certificate, _NEW_CA)
        yield from _authority(option, certificate)


def _authority(option: str, certificate: x509.Certificate) -> Findings:
    """
    Whether it may sign certificates (RFC 5280 sections 4.2.1.3 and 4.2.1.9).
    """
    name = _name(certificate)
    try:
        extensions = certificate.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        if not constraints.ca:
            yield fail(option, f"{name} is no CA", _NO_CA)
    except x509.ExtensionNotFound:
        yield fail(option, f"{name} does not say that it is a CA (basicConstraints)", _NO_CA)
        return
    except UNUSABLE as error:
        yield fail(option, f"{name}: {error}", _NO_CA)
        return
    try:
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not usage.key_cert_sign:
        yield fail(option, f"{name} may not sign certificates (keyUsage)", _NO_CA)


def _valid(option: str, certificate: x509.Certificate, advice: str) -> Finding:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return validity(option, _name(certificate), start, end, advice)


def _name(certificate: x509.Certificate) -> str:
    try:
        return certificate.subject.rfc4514_string() or f"number {certificate.serial_number:x}"
    except UNUSABLE:
        return f"number {certificate.serial_number:x}"


def _issued(certificate: x509.Certificate, by: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(by)
    except (InvalidSignature, *UNUSABLE):
        return False
    return True


def _has(certificate: x509.Certificate, extension: type[x509.ExtensionType]) -> bool:
    try:
        certificate.extensions.get_extension_for_class(extension)
    except (x509.ExtensionNotFound, *UNUSABLE):
        return False
    return True
