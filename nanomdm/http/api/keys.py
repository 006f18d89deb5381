"""
Who may use the API: its keys and what they are good for.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path
from typing import Final

from attrs import field, frozen

from nanomdm.errors import ConfigError
from nanomdm.http.request import Request
from nanomdm.keyfiles import key_lines

#: The user of C{--api}.
ADMIN_USER: Final = "nanomdm"

#: Bytes of a header with a key that are looked at; more would hold the reactor up.
_LONGEST_HEADER: Final = 1 << 16

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")

#: Compared with what an unknown user gives, so that this takes as long.
_NOBODYS: Final = hashlib.sha256(b"").digest()


class Role(IntEnum):
    """
    What a key is good for; each role includes those before it.
    """

    #: See everything but the stored tokens and keys.
    READ = 1
    #: Queue commands, change queues, and push.
    ENQUEUE = 2
    #: Everything.
    ADMIN = 3

    @property
    def word(self) -> str:
        """
        Its name in files and messages.
        """
        return self.name.lower()


@frozen
class Operator:
    """
    Who asks.

    @ivar name: the user name.
    """

    name: str
    role: Role


@frozen
class Stranger:
    """
    Who asks without a right key.

    @ivar reason: what is wrong, for the log alone.
    @ivar name: whose key it should have been, if there is one by this name.
    """

    reason: str
    name: str | None = None


@frozen
class APIKey:
    """
    A key, as a file of keys has it.

    @ivar digest: the SHA-256 of the key.
    """

    operator: Operator
    digest: bytes = field(repr=False)


_KEYLESS: Final = Stranger("no API key")
_UNKNOWN: Final = Stranger("unknown API user")


class APIKeys:
    """
    HTTP Basic authentication (RFC 7617): the user name says which key is meant.

    @param admin: the key of the user L{ADMIN_USER}, who is an admin; L{None} for none.
    @param others: further keys.
    """

    def __init__(self, admin: str | None, others: Iterable[APIKey] = ()) -> None:
        self._admin = None if admin is None else hashlib.sha256(admin.encode()).digest()
        self.replace(others)

    def replace(self, others: Iterable[APIKey]) -> None:
        """
        Take other keys from now on, but for the admin's.
        """
        self._keys = {key.operator.name: key for key in others}
        if self._admin is not None:
            admin = Operator(ADMIN_USER, Role.ADMIN)
            self._keys[ADMIN_USER] = APIKey(admin, self._admin)

    def identify(self, request: Request) -> Operator | Stranger:
        """
        @return: who the request proves to come from.  A key is compared in constant time.
        """
        given = _credentials(request)
        if given is None:
            return _KEYLESS
        name, password = given
        key = self._keys.get(name.decode("utf-8", "replace"))
        digest = _NOBODYS if key is None else key.digest
        same = hmac.compare_digest(hashlib.sha256(password).digest(), digest)
        if key is None:
            return _UNKNOWN
        return key.operator if same else Stranger("wrong API key", key.operator.name)


def _credentials(request: Request) -> tuple[bytes, bytes] | None:
    """
    @return: the name and the key that a request has, if it has any.
    """
    headers = request.requestHeaders.getRawHeaders(b"Authorization", [])
    if len(headers) != 1 or len(headers[0]) > _LONGEST_HEADER:
        return None
    scheme, _, encoded = headers[0].partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        given = base64.b64decode(encoded.strip(), validate=True)
    except binascii.Error:
        return None
    name, colon, password = given.partition(b":")
    return (name, password) if colon else None


def read_api_keys(path: Path) -> tuple[APIKey, ...]:
    """
    Read a file of keys: a line for each with its name, its role and the SHA-256 of the
    key in hexadecimal, blanks between them; see L{key_lines}.  Blocks.

    @raise ConfigError: it can not be read or used; the text names the option and the
        line, and no part of a key.
    """
    keys: dict[str, APIKey] = {}
    for where, line in key_lines(path, f"--api-key-file: {path}"):
        key = _parse_key(line.split(), where)
        if key.operator.name in keys:
            raise ConfigError(f"{where}: {key.operator.name} is there already")
        keys[key.operator.name] = key
    return tuple(keys.values())


def _parse_key(words: list[str], where: str) -> APIKey:
    if len(words) != 3:
        raise ConfigError(f"{where}: is not a name, a role and a SHA-256")
    name, role, digest = words
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: the name is not 1 to 64 letters, digits, dots, - and _")
    if name == ADMIN_USER:
        raise ConfigError(f"{where}: the name {ADMIN_USER} is that of the key in --api")
    if role not in {one.word for one in Role}:
        choices = ", ".join(one.word for one in Role)
        raise ConfigError(f"{where}: the role is none of {choices}")
    if not _SHA256.fullmatch(digest.lower()):
        raise ConfigError(f"{where}: the SHA-256 is not 64 hexadecimal digits")
    return APIKey(Operator(name, Role[role.upper()]), bytes.fromhex(digest))
