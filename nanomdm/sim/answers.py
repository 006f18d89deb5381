"""
What a simulated device answers to commands.

Names and shapes of the answers follow the command pages of Apple's Device
Management documentation; the error codes are those of its protocol reference.
"""

from __future__ import annotations

import plistlib
from collections.abc import Callable, Mapping
from typing import Any, Final
from xml.parsers.expat import ExpatError

from asn1crypto import cms
from attrs import Factory, define, frozen

from nanomdm.errors import MessageError, NanoMDMError

Dictionary = dict[str, Any]

#: As many applications as make an answer of about 80 KB.
DEFAULT_APP_COUNT: Final = 240

MDM_PAYLOAD_TYPE: Final = "com.apple.mdm"

_MDM_DOMAIN: Final = "MCMDMErrorDomain"
_MALFORMED_REQUEST: Final = 12008
_PROFILE_NOT_MANAGED: Final = 12013
_INVALID_REQUEST_TYPE: Final = 12021

_PROFILE_DOMAIN: Final = "MCProfileErrorDomain"
_MALFORMED_PROFILE: Final = 1000

_APP_NAMES: Final = ("Atlas", "Notes & Tasks", "Übersicht", "Ledger", "Paint <Studio>", "写真")


@frozen
class Command:
    """
    A command as the server sent it.

    @ivar uuid: C{CommandUUID}.
    @ivar request_type: C{Command.RequestType}.
    @ivar content: the whole C{Command} dictionary.
    """

    uuid: str
    request_type: str
    content: Mapping[str, Any]


class Refusal(NanoMDMError):
    """
    A command that the device does not carry out.

    @ivar code: C{ErrorCode}.
    @ivar domain: C{ErrorDomain}.
    @ivar status: C{Error}, or C{CommandFormatError} for a command that lacks
        what its type demands.
    """

    def __init__(self, text: str, code: int, domain: str, status: str = "Error") -> None:
        super().__init__(text)
        self.code = code
        self.domain = domain
        self.status = status


@define(kw_only=True, eq=False)
class Inventory:
    """
    What there is on a device, or for one of its users, and what it tells.

    @ivar information: every C{QueryResponses} value the device knows.
    @ivar security: the content of C{SecurityInfo}.
    @ivar certificates: DER of the certificates in the keychain; the first is
        the device's identity.
    @ivar app_count: number of installed applications.
    @ivar profiles: installed profiles by C{PayloadIdentifier}, as
        C{ProfileList} shows them, in the order of their installation.
    @ivar renewal_due: a profile with a C{com.apple.mdm} payload was installed:
        the device must send C{Authenticate} and C{TokenUpdate} again.
    """

    information: Dictionary
    security: Dictionary
    certificates: list[bytes]
    app_count: int = DEFAULT_APP_COUNT
    profiles: dict[str, Dictionary] = Factory(dict)
    renewal_due: bool = False


def parse_command(body: bytes) -> Command:
    """
    Read what the server sent in reply to a report.

    @param body: a raw command, not empty.
    @raise MessageError: it is not a property list with a C{CommandUUID} and a
        C{Command.RequestType}, so a device could not even answer it.
    """
    message = _property_list(body)
    match message:
        case {"CommandUUID": str(uuid), "Command": {"RequestType": str(request_type)}}:
            return Command(uuid, request_type, message["Command"])
    raise MessageError("the server sent something that is not a command")


def answer(inventory: Inventory, command: Command) -> Dictionary:
    """
    Carry a command out.

    @param inventory: what the answer is taken from; C{InstallProfile} and
        C{RemoveProfile} change it.
    @return: C{Status} and the keys that belong to this type of command, or
        C{ErrorChain}; without the keys every report has.
    """
    try:
        handler = _HANDLERS.get(command.request_type)
        if handler is None:
            text = f"unknown request type {command.request_type}"
            raise Refusal(text, _INVALID_REQUEST_TYPE, _MDM_DOMAIN)
        return {"Status": "Acknowledged", **handler(inventory, command.content)}
    except Refusal as refusal:
        return {"Status": refusal.status, "ErrorChain": [_chain_link(refusal)]}


def _chain_link(refusal: Refusal) -> Dictionary:
    return {
        "ErrorCode": refusal.code,
        "ErrorDomain": refusal.domain,
        "LocalizedDescription": str(refusal),
        "USEnglishDescription": str(refusal),
    }


def _property_list(body: bytes) -> Dictionary:
    try:
        value = plistlib.loads(body)
    except (ValueError, ExpatError, plistlib.InvalidFileException) as error:
        raise MessageError("not a property list") from error
    if not isinstance(value, dict):
        raise MessageError("a property list, but not a dictionary")
    return value


def _required(content: Mapping[str, Any], key: str, type_: type) -> Any:
    value = content.get(key)
    if not isinstance(value, type_):
        text = f"the command lacks {key}"
        raise Refusal(text, _MALFORMED_REQUEST, _MDM_DOMAIN, "CommandFormatError")
    return value


def _device_information(inventory: Inventory, content: Mapping[str, Any]) -> Dictionary:
    queries = _required(content, "Queries", list)
    known = inventory.information
    return {"QueryResponses": {query: known[query] for query in queries if query in known}}


def _security_info(inventory: Inventory, content: Mapping[str, Any]) -> Dictionary:
    return {"SecurityInfo": inventory.security}


def _certificate_list(inventory: Inventory, content: Mapping[str, Any]) -> Dictionary:
    certificates = [
        {"CommonName": f"Certificate {number}", "Data": der, "IsIdentity": number == 0}
        for number, der in enumerate(inventory.certificates)
    ]
    return {"CertificateList": certificates}


def _installed_application_list(inventory: Inventory, content: Mapping[str, Any]) -> Dictionary:
    return {"InstalledApplicationList": [_app(number) for number in range(inventory.app_count)]}


def _app(number: int) -> Dictionary:
    version = f"{number % 17 + 1}.{number % 7}.{number % 5}"
    return {
        "BundleSize": 1_048_576 + number * 7_340_033 % 900_000_000,
        "Identifier": f"com.example.catalogue.app{number:04}",
        "IsValidated": number % 9 != 0,
        "Name": f"{_APP_NAMES[number % len(_APP_NAMES)]} {number}",
        "ShortVersion": version,
        "Version": f"{version}.{number * 31 % 1000}",
    }


def _profile_list(inventory: Inventory, content: Mapping[str, Any]) -> Dictionary:
    return {"ProfileList": list(inventory.profiles.values())}


def _install_profile(inventory: Inventory, content: Mapping[str, Any]) -> Dictionary:
    profile = _profile(_required(content, "Payload", bytes))
    inventory.profiles[profile["PayloadIdentifier"]] = _listed(profile)
    if any(payload.get("PayloadType") == MDM_PAYLOAD_TYPE for payload in profile["PayloadContent"]):
        inventory.renewal_due = True
    return {}


def _remove_profile(inventory: Inventory, content: Mapping[str, Any]) -> Dictionary:
    identifier = _required(content, "Identifier", str)
    if inventory.profiles.pop(identifier, None) is None:
        text = f"the profile {identifier} is not installed"
        raise Refusal(text, _PROFILE_NOT_MANAGED, _MDM_DOMAIN)
    return {}


def _profile(payload: bytes) -> Dictionary:
    """
    Read a profile, plain or signed (a CMS SignedData around the XML).

    @return: a profile that has an identifier and a list of payloads.
    @raise Refusal: it is anything else.
    """
    try:
        if not payload.lstrip().startswith(b"<"):
            content_info = cms.ContentInfo.load(payload)
            payload = content_info["content"]["encap_content_info"]["content"].native
        profile = _property_list(payload)
    except (MessageError, ValueError, TypeError, KeyError, AttributeError) as error:
        text = "the profile can not be read"
        raise Refusal(text, _MALFORMED_PROFILE, _PROFILE_DOMAIN) from error
    match profile:
        case {"PayloadIdentifier": str(), "PayloadContent": [*payloads]} if all(
            isinstance(payload, dict) for payload in payloads
        ):
            return profile
    raise Refusal("the profile is malformed", _MALFORMED_PROFILE, _PROFILE_DOMAIN)


def _listed(profile: Dictionary) -> Dictionary:
    """
    @return: the profile's entry in C{ProfileList}, which shows the payloads'
        names but never their settings.
    """
    return {
        "HasRemovalPasscode": False,
        "IsEncrypted": False,
        "IsManaged": True,
        "PayloadContent": [_names(payload) for payload in profile["PayloadContent"]],
        "PayloadRemovalDisallowed": bool(profile.get("PayloadRemovalDisallowed", False)),
        **_names(profile),
    }


_NAMES: Final = (
    "PayloadDescription",
    "PayloadDisplayName",
    "PayloadIdentifier",
    "PayloadOrganization",
    "PayloadType",
    "PayloadUUID",
    "PayloadVersion",
)


def _names(payload: Dictionary) -> Dictionary:
    return {key: payload[key] for key in _NAMES if key in payload}


_HANDLERS: Final[Mapping[str, Callable[[Inventory, Mapping[str, Any]], Dictionary]]] = {
    "CertificateList": _certificate_list,
    "DeviceInformation": _device_information,
    "InstallProfile": _install_profile,
    "InstalledApplicationList": _installed_application_list,
    "ProfileList": _profile_list,
    "RemoveProfile": _remove_profile,
    "SecurityInfo": _security_info,
}
