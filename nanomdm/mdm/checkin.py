"""
Check-in messages: what a device tells about its enrollment.

The messages and their keys are those of Apple's "Check-in" reference
(C{AuthenticateRequest}, C{TokenUpdateRequest} and so on).
"""

from __future__ import annotations

import plistlib
from collections.abc import Callable, Mapping
from typing import Final

from attrs import field, frozen

from nanomdm.errors import MessageError
from nanomdm.mdm.enrollment import MAX_ID, Enrollment, enrollment_of
from nanomdm.mdm.fields import optional_data, optional_string, string
from nanomdm.mdm.plist import Dictionary, parse


@frozen
class CheckinMessage:
    """
    What all check-in messages have.

    @ivar enrollment: the channel it came on.
    @ivar raw: the body as it arrived.
    """

    enrollment: Enrollment
    raw: bytes = field(repr=False)

    @property
    def message_type(self) -> str:
        """
        The text of C{MessageType}, which is the class's name.
        """
        return type(self).__name__


@frozen
class Authenticate(CheckinMessage):
    """
    A device starts to enroll.

    @ivar serial_number: absent in user enrollments.
    """

    serial_number: str | None


@frozen
class TokenUpdate(CheckinMessage):
    """
    A channel is enrolled, or its push token changed.

    @ivar topic: the push topic, C{com.apple.mgmt.…}.
    @ivar push_magic: the secret that a push must carry.
    @ivar token_hex: the push token, lower-case hex.
    @ivar unlock_token: only in some device-channel messages.
    @ivar user_short_name: on user channels.
    @ivar user_long_name: on user channels.
    """

    topic: str
    push_magic: str = field(repr=False)
    token_hex: str = field(repr=False)
    unlock_token: bytes | None = field(repr=False)
    user_short_name: str | None
    user_long_name: str | None


@frozen
class CheckOut(CheckinMessage):
    """
    The MDM profile was removed.
    """


@frozen
class UserAuthenticate(CheckinMessage):
    """
    A directory user logs in and wants a channel.

    @ivar digest_response: absent in the first of the two messages.
    """

    digest_response: str | None = field(repr=False)


@frozen
class SetBootstrapToken(CheckinMessage):
    """
    A Mac escrows its bootstrap token.

    @ivar token: L{None} deletes the stored one.
    """

    token: bytes | None = field(repr=False)


@frozen
class GetBootstrapToken(CheckinMessage):
    """
    A Mac wants its bootstrap token back.
    """


@frozen
class DeclarativeManagement(CheckinMessage):
    """
    A declarative management request, tunnelled through the check-in.

    @ivar endpoint: what is asked for, relative to the declaration server.
    @ivar data: JSON, when the device sends something.
    """

    endpoint: str
    data: bytes | None


@frozen
class GetToken(CheckinMessage):
    """
    A device wants a token for another service.

    @ivar service_type: for example C{com.apple.maid}.
    @ivar has_parameters: whether C{TokenParameters} came along.
    """

    service_type: str
    has_parameters: bool


def parse_checkin(body: bytes) -> CheckinMessage:
    """
    Read a check-in message.

    @param body: the request's body.
    @raise MessageError: it is not a complete check-in message.
    """
    message = parse(body, keep=1)
    message_type = string(message, "MessageType")
    build = _BUILDERS.get(message_type)
    if build is None:
        raise MessageError(f"unknown MessageType {message_type[:64]!r}")
    return build(message, enrollment_of(message), body)


def _authenticate(message: Dictionary, enrollment: Enrollment, raw: bytes) -> Authenticate:
    _device_channel_only(enrollment, "Authenticate")
    return Authenticate(enrollment, raw, optional_string(message, "SerialNumber", 127))


def _token_update(message: Dictionary, enrollment: Enrollment, raw: bytes) -> TokenUpdate:
    token = optional_data(message, "Token")
    if token is None:
        raise MessageError("Token is missing or empty")
    if len(token) > 127:
        raise MessageError("Token is longer than 127 bytes")
    return TokenUpdate(
        enrollment,
        raw,
        topic=string(message, "Topic", 255),
        push_magic=string(message, "PushMagic", 127),
        token_hex=token.hex(),
        unlock_token=optional_data(message, "UnlockToken"),
        user_short_name=optional_string(message, "UserShortName", MAX_ID),
        user_long_name=optional_string(message, "UserLongName", MAX_ID),
    )


def _check_out(message: Dictionary, enrollment: Enrollment, raw: bytes) -> CheckOut:
    return CheckOut(enrollment, raw)


def _user_authenticate(message: Dictionary, enrollment: Enrollment, raw: bytes) -> UserAuthenticate:
    if not enrollment.is_user_channel:
        raise MessageError("UserAuthenticate without a user id")
    return UserAuthenticate(enrollment, raw, optional_string(message, "DigestResponse"))


def _set_bootstrap_token(
    message: Dictionary, enrollment: Enrollment, raw: bytes
) -> SetBootstrapToken:
    _device_channel_only(enrollment, "SetBootstrapToken")
    return SetBootstrapToken(enrollment, raw, optional_data(message, "BootstrapToken"))


def _get_bootstrap_token(
    message: Dictionary, enrollment: Enrollment, raw: bytes
) -> GetBootstrapToken:
    _device_channel_only(enrollment, "GetBootstrapToken")
    return GetBootstrapToken(enrollment, raw)


def _declarative_management(
    message: Dictionary, enrollment: Enrollment, raw: bytes
) -> DeclarativeManagement:
    return DeclarativeManagement(
        enrollment, raw, string(message, "Endpoint"), optional_data(message, "Data")
    )


def _get_token(message: Dictionary, enrollment: Enrollment, raw: bytes) -> GetToken:
    service_type = string(message, "TokenServiceType")
    return GetToken(enrollment, raw, service_type, "TokenParameters" in message)


def _device_channel_only(enrollment: Enrollment, message_type: str) -> None:
    if enrollment.is_user_channel:
        raise MessageError(f"{message_type} on a user channel")


_BUILDERS: Final[Mapping[str, Callable[[Dictionary, Enrollment, bytes], CheckinMessage]]] = {
    "Authenticate": _authenticate,
    "TokenUpdate": _token_update,
    "CheckOut": _check_out,
    "UserAuthenticate": _user_authenticate,
    "SetBootstrapToken": _set_bootstrap_token,
    "GetBootstrapToken": _get_bootstrap_token,
    "DeclarativeManagement": _declarative_management,
    "GetToken": _get_token,
}


def digest_challenge_reply() -> bytes:
    """
    The answer that lets a directory user in without a challenge (Apple,
    "UserAuthenticateResponse": a zero-length C{DigestChallenge}).
    """
    return plistlib.dumps({"DigestChallenge": ""})


def bootstrap_token_reply(token: bytes) -> bytes:
    """
    The answer to L{GetBootstrapToken} (Apple, "GetBootstrapTokenResponse").
    """
    return plistlib.dumps({"BootstrapToken": token})


def token_reply(token: bytes) -> bytes:
    """
    The answer to L{GetToken} (Apple, "GetTokenResponse").
    """
    return plistlib.dumps({"TokenData": token})
