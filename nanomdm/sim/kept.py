"""
Identities that are kept on disk for the next run.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from nanomdm.private import replace
from nanomdm.sim.ca import DeviceIdentity, PrivateKey, ThrowawayCA

_LEAST_VALIDITY: Final = timedelta(days=1)


def kept_identity(
    file: Path, ca: ThrowawayCA, issue: Callable[[], DeviceIdentity]
) -> DeviceIdentity:
    """
    The identity from an earlier run if the CA still stands behind it, else a new
    one.

    @param file: PEM of certificate and key; it is written when the identity is
        new.
    @param ca: the CA.
    @param issue: makes a new one.
    @raise OSError: the file can not be read or written.
    @raise ValueError: the file holds no certificate or no key.
    """
    if file.exists():
        identity = _load(file)
        if _is_usable(identity, ca):
            return identity
    identity = issue()
    replace(file, identity.key_pem + identity.pem)
    return identity


def kept_push_certificate(directory: Path, ca: ThrowawayCA, topic: str) -> DeviceIdentity:
    """
    A topic's push certificate, kept in L{push_certificate_file}.

    @raise OSError: the file can not be read or written.
    @raise ValueError: the file holds no certificate or no key.
    """
    file = push_certificate_file(directory, topic)
    return kept_identity(file, ca, lambda: ca.issue_push(topic))


def push_certificate_file(directory: Path, topic: str) -> Path:
    """
    @return: where a topic's push certificate and key are, as C{PUT /v1/pushcert}
        takes them.
    """
    return directory / f"push-{topic}.pem"


def _is_usable(identity: DeviceIdentity, ca: ThrowawayCA) -> bool:
    try:
        identity.certificate.verify_directly_issued_by(ca.certificate)
    except (ValueError, InvalidSignature):
        return False
    return identity.certificate.not_valid_after_utc > datetime.now(UTC) + _LEAST_VALIDITY


def _load(file: Path) -> DeviceIdentity:
    data = file.read_bytes()
    key = load_pem_private_key(data, None)
    if not isinstance(key, PrivateKey):
        raise ValueError(f"{file} holds a key that is neither RSA nor EC")
    return DeviceIdentity(key, x509.load_pem_x509_certificate(data))
