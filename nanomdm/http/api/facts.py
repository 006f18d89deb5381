"""
Enrollments in the answers of the API.
"""

from __future__ import annotations

from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from nanomdm.crypto.certificates import MAX_CERTIFICATE, UNUSABLE
from nanomdm.crypto.pushcert import utc_text
from nanomdm.errors import MessageError
from nanomdm.http.api.times import time_text
from nanomdm.interfaces import DeadToken, EnrollmentFacts
from nanomdm.mdm.plist import Dictionary, parse

#: What an C{Authenticate} tells of a device, and what this is called here.
_FROM_AUTHENTICATE: Final = {
    "model": "Model",
    "model_name": "ModelName",
    "product_name": "ProductName",
    "os_version": "OSVersion",
    "build_version": "BuildVersion",
    "device_name": "DeviceName",
}

#: Bytes that an enrollment takes without certificate and C{Authenticate}, about.
_SIZE: Final = 1000

#: Characters of PEM that are looked at, with room for texts and line ends.
_LONGEST_PEM: Final = 2 * MAX_CERTIFICATE


def facts_size(facts: EnrollmentFacts) -> int:
    """
    @return: bytes that L{described} goes through, about.
    """
    return _SIZE + len(facts.identity_pem or "") + len(facts.authenticate or "")


def described(facts: EnrollmentFacts) -> dict[str, Any]:
    """
    @return: an enrollment as JSON has it, without what is empty.
    """
    whole = {
        **_identity(facts),
        **_state(facts),
        **_device_channel(facts),
        "push_token": _push_token(facts.dead),
        **_device(facts),
        "queue_length": facts.queue_length,
    }
    return {name: value for name, value in whole.items() if value not in (None, "", [])}


def _identity(facts: EnrollmentFacts) -> dict[str, Any]:
    return {
        "id": facts.id,
        "type": facts.type,
        "parent_id": facts.device_id if _is_user_channel(facts) else None,
        "user_channels": list(facts.children),
        "serial_number": facts.serial_number,
        "user_short_name": facts.user_short_name,
        "user_long_name": facts.user_long_name,
    }


def _state(facts: EnrollmentFacts) -> dict[str, Any]:
    return {
        "topic": facts.topic,
        "enabled": facts.enabled,
        "token_update_tally": facts.token_update_tally,
        "last_seen_at": time_text(facts.last_seen_at),
        "enrolled_at": time_text(facts.enrolled_at),
    }


def _device_channel(facts: EnrollmentFacts) -> dict[str, Any]:
    if _is_user_channel(facts):
        return {}
    pem = facts.identity_pem
    return {
        "identity_certificate": _certificate(pem) if pem else None,
        "bootstrap_token": facts.bootstrap_token,
        "unlock_token": facts.unlock_token,
    }


def _device(facts: EnrollmentFacts) -> dict[str, Any]:
    try:
        message: Dictionary = parse((facts.authenticate or "").encode(), keep=1)
    except (MessageError, UnicodeEncodeError):
        # What another server stored.
        return {}
    told = {name: message.get(key) for name, key in _FROM_AUTHENTICATE.items()}
    return {name: value for name, value in told.items() if isinstance(value, str)}


def _push_token(dead: DeadToken | None) -> dict[str, Any]:
    if dead is None:
        return {"state": "valid"}
    return {"state": "dead", "status": dead.status, "reason": dead.reason}


def _certificate(pem: str) -> dict[str, str]:
    """
    @return: a certificate, or why there is none: another server may have stored it.
    """
    if len(pem) > _LONGEST_PEM:
        return {"error": f"there are more than {_LONGEST_PEM} characters of PEM"}
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        digits = f"{certificate.serial_number:x}"
        told = {
            "subject": certificate.subject.rfc4514_string(),
            # Whole bytes, as other tools show them.
            "serial_number": digits.zfill(len(digits) + len(digits) % 2),
            "not_after": utc_text(certificate.not_valid_after_utc),
            "sha256": certificate.fingerprint(SHA256()).hex(),
        }
    except UNUSABLE as error:
        return {"error": f"unreadable certificate: {error}"}
    return {name: value for name, value in told.items() if value}


def _is_user_channel(facts: EnrollmentFacts) -> bool:
    return facts.id != facts.device_id
