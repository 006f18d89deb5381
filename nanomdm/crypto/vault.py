"""
Encrypts secrets for the database and decrypts them: AES-256-GCM.

What is encrypted is text: a marker with the version of the format, the id of the key,
and in base64 the nonce (96 random bits), the ciphertext and its tag.  It is bound to
its place: it can not be decrypted anywhere else.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Callable
from typing import Final

from attrs import frozen
from cryptography.exceptions import InvalidTag

from nanomdm.crypto.secretkeys import Keyring
from nanomdm.errors import SecretUnreadable

#: How everything begins that is encrypted, whichever version.  No property list, no PEM
#: and no base64 does.
MARKER: Final = "nanomdm-secret:"

# With so many letters and digits in it, and no padding at the end, what is encrypted has
# a number of them with which it is no base64 either for those who pass over the rest.
_VERSION: Final = f"{MARKER}v1:"
_FORM: Final = re.compile(rf"{re.escape(_VERSION)}([0-9a-f]{{16}}):([A-Za-z0-9+/]*)")
_KEY_ID: Final = re.compile(rf"{re.escape(_VERSION)}([0-9a-f]{{16}}):")
_NONCE: Final = 12
_OPTIONS: Final = "--secret-key-file (or NANOMDM_SECRET_KEYS)"


@frozen
class Place:
    """
    Where a secret is kept.

    @ivar name: what it is, for errors.
    @ivar row: what tells its row from others, and never changes.
    """

    name: str
    table: str
    column: str
    row: tuple[str, ...]

    @property
    def bound(self) -> bytes:
        """
        What is authenticated with the secret.
        """
        return json.dumps([_VERSION, self.table, self.column, *self.row]).encode()


class Vault:
    """
    The keys in use.

    @param keyring: at first.
    """

    def __init__(self, keyring: Keyring | None = None) -> None:
        self._keyring = keyring or Keyring()
        self._changed: Callable[[], object] | None = None

    def use(self, keyring: Keyring) -> None:
        """
        Use other keys from now on, in all threads.
        """
        before, self._keyring = self._keyring, keyring
        if keyring != before and self._changed is not None:
            self._changed()

    def when_changed(self, call: Callable[[], object]) -> None:
        """
        @param call: told from now on whenever there are other keys than before.
        """
        self._changed = call

    @property
    def current(self) -> str | None:
        """
        The id of the key that encrypts; L{None} if nothing is encrypted.
        """
        current = self._keyring.current
        return None if current is None else current.id

    @property
    def is_empty(self) -> bool:
        """
        Whether there are no keys at all.
        """
        return not self._keyring.keys

    def has(self, key_id: str) -> bool:
        """
        @return: whether there is a key by this id.
        """
        return key_id in self._keyring.keys

    def seal(self, secret: bytes, place: Place) -> str | None:
        """
        @return: the secret, encrypted; L{None} if nothing is encrypted.
        """
        key = self._keyring.current
        if key is None:
            return None
        nonce = os.urandom(_NONCE)
        sealed = nonce + key.cipher.encrypt(nonce, secret, place.bound)
        return f"{_VERSION}{key.id}:{base64.b64encode(sealed).decode().rstrip('=')}"

    def open(self, sealed: str, place: Place) -> bytes:
        """
        @param sealed: begins with L{MARKER}.
        @raise SecretUnreadable: there is no such key, or it is not as it was encrypted.
        """
        match = _FORM.fullmatch(sealed)
        if match is None:
            raise SecretUnreadable(f"the {place.name} is encrypted in a form that is not known")
        id, encoded = match.groups()
        key = self._keyring.keys.get(id)
        if key is None:
            raise SecretUnreadable(
                f"the {place.name} is encrypted with key {id}, which is not in {_OPTIONS}"
            )
        try:
            data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
            return key.cipher.decrypt(data[:_NONCE], data[_NONCE:], place.bound)
        except (InvalidTag, binascii.Error, ValueError):
            raise SecretUnreadable(
                f"the {place.name}, encrypted with key {id}, was changed or belongs elsewhere"
            ) from None


def key_id(sealed: str) -> str:
    """
    @param sealed: begins with L{MARKER}; the rest may be cut off behind the key's id.
    @return: the id, or that it can not be told.
    """
    match = _KEY_ID.match(sealed)
    return "unknown" if match is None else match[1]
