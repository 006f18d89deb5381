"""
Making commands, from what an operator says to the property list that a device gets.
"""

from __future__ import annotations

import base64
import binascii
import plistlib
from collections.abc import Mapping
from typing import Any, Final
from uuid import uuid4
from xml.parsers.expat import ExpatError

from asn1crypto import cms
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from nanomdm.crypto.certificates import UNUSABLE
from nanomdm.errors import MessageError
from nanomdm.mdm.command import Command, parse_command

#: What C{plistlib} raises for something that is none of what it can read or write.
_MALFORMED: Final = (ValueError, TypeError, LookupError, OverflowError, ExpatError, RecursionError)

#: The kinds of CMS that a profile can be in: signed, encrypted.
_ENVELOPES: Final = frozenset({"signed_data", "enveloped_data"})


def nested(members: Mapping[str, Any]) -> dict[str, Any]:
    """
    @param members: values by their paths, see L{nanomdm.mdm.catalogue.Key}; the places
        in an array are in their order and none is left out.
    @return: dictionaries and arrays with these values.
    """
    root: dict[str, Any] = {}
    for path, value in members.items():
        *outer, last = path.split(".")
        inner: Any = root
        for name, following in zip(outer, path.split(".")[1:], strict=True):
            inner = _inside(inner, name, [] if following.isdecimal() else {})
        inner[last] = value
    return root


def _inside(outer: Any, name: str, empty: Any) -> Any:
    """
    @return: what is in a dictionary or an array; C{empty} is put there if nothing was.
    """
    if isinstance(outer, dict):
        return outer.setdefault(name, empty)
    if int(name) == len(outer):
        outer.append(empty)
    return outer[int(name)]


def new_command(content: Mapping[str, Any], uuid: str | None = None) -> Command:
    """
    @param content: the C{Command} dictionary, with its C{RequestType}.
    @param uuid: its C{CommandUUID}; a new one if L{None}.
    @raise MessageError: it can not be a command.
    """
    message = {"Command": dict(content), "CommandUUID": uuid or str(uuid4()).upper()}
    try:
        raw = plistlib.dumps(message, sort_keys=False)
    except _MALFORMED as error:
        raise MessageError(f"no property list can hold that: {error}") from None
    return parse_command(raw)


def read_command(file: bytes, uuid: str | None = None) -> Command:
    """
    Read a command from a file: a whole one, which stays byte for byte as it is where
    that is possible, or its C{Command} dictionary alone.

    @param uuid: its C{CommandUUID} in place of the one that it has; L{None} gives it a
        new one only if it has none.
    @raise MessageError: it is no command.
    """
    content = _dictionary(file, "the file")
    if "Command" not in content:
        if "RequestType" not in content:
            raise MessageError("the file has neither Command nor RequestType")
        return new_command(content, uuid)
    command, own = content["Command"], content.get("CommandUUID")
    if not isinstance(command, dict):
        raise MessageError("Command is not a dictionary")
    if own and uuid in (None, own) and file.startswith(b"<?xml"):
        return parse_command(file)
    return new_command(command, uuid or own)


def checked_profile(file: bytes) -> bytes:
    """
    @return: a configuration profile, as it is.
    @raise MessageError: it is neither the property list of one nor CMS, signed or
        encrypted.
    """
    try:
        kind = cms.ContentInfo.load(file, strict=True)["content_type"].native
    except _MALFORMED:
        kind = None
    if kind in _ENVELOPES:
        return file
    profile = _dictionary(file, "the profile")
    for name in ("PayloadType", "PayloadIdentifier", "PayloadUUID"):
        if not isinstance(profile.get(name), str):
            raise MessageError(f"is no configuration profile: {name} is missing")
    if profile["PayloadType"] != "Configuration":
        raise MessageError("is no configuration profile: PayloadType is not Configuration")
    return file


def unlock_token(file: bytes) -> bytes:
    """
    @return: an unlock token; base64, with line breaks or without, is decoded.
    @raise MessageError: there is none.
    """
    if not file.strip():
        raise MessageError("is empty")
    try:
        return base64.b64decode(b"".join(file.split()), validate=True)
    except binascii.Error:
        return file


def certificate_der(file: bytes) -> bytes:
    """
    @return: the DER of a certificate that is PEM or DER.
    @raise MessageError: it is neither.
    """
    try:
        if b"-----BEGIN CERTIFICATE-----" in file:
            return x509.load_pem_x509_certificate(file).public_bytes(Encoding.DER)
        return x509.load_der_x509_certificate(file).public_bytes(Encoding.DER)
    except UNUSABLE:
        raise MessageError("is no certificate, neither PEM nor DER") from None


def dictionary(file: bytes) -> dict[str, Any]:
    """
    @return: the dictionary that a property list is.
    @raise MessageError: it is something else.
    """
    return _dictionary(file, "the file")


def dictionaries(file: bytes) -> list[dict[str, Any]]:
    """
    @return: the dictionaries in the array that a property list is; or the one that it
        is.
    @raise MessageError: it is something else.
    """
    value = _property_list(file, "the file")
    several = value if isinstance(value, list) else [value]
    if not several or not all(isinstance(one, dict) for one in several):
        raise MessageError("is neither a dictionary nor an array of them")
    return several


def _dictionary(file: bytes, what: str) -> dict[str, Any]:
    value = _property_list(file, what)
    if not isinstance(value, dict):
        raise MessageError(f"{what} is a property list, but not a dictionary")
    return value


def _property_list(file: bytes, what: str) -> Any:
    try:
        return plistlib.loads(file)
    except _MALFORMED:
        raise MessageError(f"{what} is not a property list") from None
