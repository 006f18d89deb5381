"""
What the tables hold that may be encrypted, and how it looks then.

Each column takes what is encrypted as it takes what is not: NanoMDM's tables demand PEM of
a push key.  Whatever is not encrypted is read as it is, so that both can stand side by side.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from attrs import frozen

from nanomdm.crypto.vault import MARKER, Place, Vault, key_id
from nanomdm.mdm.checkin import TokenUpdate
from nanomdm.mdm.cutting import without_member

V = TypeVar("V", str, bytes)

_BEGIN: Final = "-----BEGIN NANOMDM SECRET-----\n"
_END: Final = "\n-----END NANOMDM SECRET-----\n"
_PEM_LINE: Final = 64

#: The member of a C{TokenUpdate} that is a secret.
UNLOCK: Final = "UnlockToken"

#: Events whose messages hold a secret.
EVENT_TOPICS: Final = ("mdm.TokenUpdate", "mdm.SetBootstrapToken")

#: So much of a value tells which key it is encrypted with.
HEAD: Final = 80


@frozen
class SecretColumn(Generic[V]):
    """
    A column with secrets.

    @ivar name: what they are; C{name of row} in errors.
    @ivar table: the table, or what stands for several with the same rows.
    @ivar encode: makes the bytes of a value.
    @ivar decode: makes a value of bytes.
    @ivar wrap: makes of what is encrypted what the column takes.
    @ivar unwrap: the reverse; C{""} for what is not encrypted.
    """

    name: str
    table: str
    column: str
    encode: Callable[[V], bytes]
    decode: Callable[[bytes], V]
    wrap: Callable[[str], V]
    unwrap: Callable[[V], str]

    def seal(self, vault: Vault, value: V, *row: str) -> V:
        """
        @param row: see L{Place}.
        @return: the value as it is to be stored.
        """
        sealed = vault.seal(self.encode(value), self._place(row))
        return value if sealed is None else self.wrap(sealed)

    def open(self, vault: Vault, stored: V, *row: str) -> V:
        """
        @return: the value.
        @raise SecretUnreadable: it is encrypted and can not be decrypted.
        """
        sealed = self.unwrap(stored)
        return self.decode(vault.open(sealed, self._place(row))) if sealed else stored

    def key_id(self, stored: V) -> str | None:
        """
        @param stored: a value, or its first L{HEAD} characters.
        @return: what it is encrypted with; L{None} if it is not.
        """
        sealed = self.unwrap(stored)
        return key_id(sealed) if sealed else None

    def _place(self, row: tuple[str, ...]) -> Place:
        return Place(f"{self.name} of {row[0]}", self.table, self.column, row)


def _same(value: bytes) -> bytes:
    return value


def _bare(stored: str) -> str:
    return stored if stored.startswith(MARKER) else ""


def _bare_bytes(stored: bytes) -> str:
    begins = stored.startswith(MARKER.encode())
    return stored.decode("ascii", "replace") if begins else ""


def _armoured(sealed: str) -> str:
    key, colon, data = sealed.rpartition(":")
    return f"{_BEGIN}{key}{colon}\n{chr(10).join(textwrap.wrap(data, _PEM_LINE))}{_END}"


def _disarmed(stored: str) -> str:
    if not stored.startswith(_BEGIN + MARKER):
        return ""
    return re.sub(r"\s", "", stored.removeprefix(_BEGIN).partition("-----")[0])


#: By topic.
PUSH_KEY: Final = SecretColumn[str](
    *("push key", "push_certs", "key_pem"), str.encode, bytes.decode, _armoured, _disarmed
)

#: By device.
BOOTSTRAP_TOKEN: Final = SecretColumn[str](
    *("bootstrap token", "devices", "bootstrap_token_b64"), str.encode, bytes.decode, str, _bare
)

#: By device.
UNLOCK_TOKEN: Final = SecretColumn[bytes](
    *("unlock token", "devices", "unlock_token"), _same, _same, str.encode, _bare_bytes
)

#: By enrollment and event, in whichever table that is.
EVENT: Final = SecretColumn[str](
    *("webhook event", "nanomdm_webhook_events", "raw"), str.encode, bytes.decode, str, _bare
)


def kept_message(vault: Vault, message: TokenUpdate) -> str:
    """
    @return: a message as it is to be stored: without its unlock token where that is
        encrypted, which has a column of its own.
    """
    has_token = message.unlock_token is not None or UNLOCK.encode() in message.raw
    if vault.current is None or not has_token:
        return message.raw.decode()
    return without_member(message.raw, UNLOCK).decode()
