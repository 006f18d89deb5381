"""
What APNs demands of a request, and says otherwise (Apple, "Sending notification
requests to APNs" and "Handling notification responses from APNs").
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

from nanomdm.sim.apns_script import Respond

#: Bytes of the largest payload.
LARGEST_PAYLOAD: Final = 4096

DEVICE_PATH: Final = "/3/device/"

_TOKEN: Final = re.compile("(?:[0-9a-f]{2}){1,100}")
_UUID: Final = re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_EXPIRATION: Final = re.compile("[0-9]{1,10}")
_PRIORITIES: Final = ("10", "5", "1")


def device_token(path: str) -> str:
    """
    @return: the token that a path names; empty when it names none.
    """
    return path[len(DEVICE_PATH) :] if path.startswith(DEVICE_PATH) else ""


def check(headers: Mapping[str, str], payload: bytes, topic: str | None) -> Respond | None:
    """
    Check a request for an MDM push.

    @param headers: all of the request's, and its pseudo-headers.
    @param payload: its body, or the beginning of one that is too large.
    @param topic: the topic of the client's certificate; L{None} when it is not a
        push certificate.
    @return: why it is refused, or L{None}.
    """
    if topic is None:
        return Respond(403, "BadCertificate")
    return _check_target(headers) or _check_headers(headers, topic) or _check_payload(payload)


def _check_target(headers: Mapping[str, str]) -> Respond | None:
    path = headers.get(":path", "")
    if headers[":method"] != "POST":
        return Respond(405, "MethodNotAllowed")
    if not path.startswith(DEVICE_PATH):
        return Respond(404, "BadPath")
    token = device_token(path)
    if not token:
        return Respond(400, "MissingDeviceToken")
    if not _TOKEN.fullmatch(token):
        return Respond(400, "BadDeviceToken")
    return None


def _check_headers(headers: Mapping[str, str], topic: str) -> Respond | None:
    reason = None
    if not headers.get("apns-topic"):
        reason = "MissingTopic"
    elif headers["apns-topic"] != topic:
        reason = "TopicDisallowed"
    elif headers.get("apns-push-type") != "mdm":
        reason = "InvalidPushType"
    elif headers.get("apns-priority", "10") not in _PRIORITIES:
        reason = "BadPriority"
    elif not _EXPIRATION.fullmatch(headers.get("apns-expiration", "0")):
        reason = "BadExpirationDate"
    elif "apns-id" in headers and not _UUID.fullmatch(headers["apns-id"]):
        reason = "BadMessageId"
    return Respond(400, reason) if reason else None


def _check_payload(payload: bytes) -> Respond | None:
    if len(payload) > LARGEST_PAYLOAD:
        return Respond(413, "PayloadTooLarge")
    if _push_magic(payload):
        return None
    return Respond(400, "PayloadEmpty")


def _push_magic(payload: bytes) -> str:
    try:
        content = json.loads(payload)
    except ValueError:
        return ""
    match content:
        case {"mdm": str(push_magic)} if len(content) == 1:
            return push_magic
    return ""
