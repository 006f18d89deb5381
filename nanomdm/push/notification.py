"""
What goes to APNs, what comes back, and how that can fail.
"""

from __future__ import annotations

import json
from typing import Final

from attrs import field, frozen

from nanomdm.errors import NanoMDMError

#: Reasons of status 403, and of a GOAWAY, that are about the certificate (Apple,
#: "Handling notification responses from APNs").
CERTIFICATE_REASONS: Final = frozenset({"BadCertificate", "BadCertificateEnvironment", "Forbidden"})

_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


class ConnectionFailed(NanoMDMError):
    """
    No connection to APNs could be opened; the text says why.

    @ivar refused: APNs (or its TLS) does not accept the certificate.
    """

    def __init__(self, message: str, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class ConnectionLost(NanoMDMError):
    """
    The connection ended before the answer came.

    @ivar resend: the peer asked to go elsewhere (GOAWAY, or REFUSED_STREAM), so
        that sending once more is no retry.
    @ivar refused: the peer ended it because of the certificate.
    """

    def __init__(self, message: str, resend: bool = False, refused: bool = False) -> None:
        super().__init__(message)
        self.resend = resend
        self.refused = refused


class StreamReset(NanoMDMError):
    """
    The peer reset the one stream, or answered with something that is not
    HTTP; the connection goes on.
    """


@frozen
class Notification:
    """
    One push, ready to be sent.

    @ivar token: the device token, hex, lower case.
    @ivar topic: C{apns-topic}.
    @ivar payload: the body.
    @ivar expiration: C{apns-expiration}, seconds since 1970.
    """

    token: str = field(repr=False)
    topic: str
    payload: bytes = field(repr=False)
    expiration: int


@frozen
class Answer:
    """
    What APNs answered.

    @ivar status: the HTTP status.
    @ivar id: C{apns-id}.
    @ivar reason: the body's C{reason}, of an answer that is not 200.
    @ivar timestamp: since when the token is dead, seconds since 1970; with
        status 410.
    @ivar retry_after: the header's text.
    """

    status: int
    id: str | None = None
    reason: str | None = None
    timestamp: float | None = None
    retry_after: str | None = None


def mdm_payload(push_magic: str) -> bytes:
    """
    @param push_magic: from the C{TokenUpdate}.
    @return: the body that wakes a device (Apple, "Sending MDM commands to a
        device"): pure ASCII.
    """
    return _encode({"mdm": push_magic}).encode()
